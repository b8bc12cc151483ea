"""Checkpoints are data: they rebuild the network, and bad files are refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from phnet_monai.networks import CheckpointError, export_state_dict, load_checkpoint, read_checkpoint
from phnet_monai.networks.checkpoint import load_weights, network_weights
from phnet_monai.networks.tensor_file import is_safetensors, safetensors_bytes


class Malicious:
    """Creates a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def image(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 1, 32, 40, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize(("which", "seed"), [("teacher", 2), ("student", 1)])
def test_a_checkpoint_rebuilds_the_network(checkpoint, tiny, which, seed):
    network, info = load_checkpoint(checkpoint, which=which)
    assert not network.training
    assert network.projector is None
    assert info["input"] == {"size": 32, "pad_value": 0.25}
    assert torch.equal(network(image()), tiny(seed, **({"embedding_size": None} if seed == 2 else {})).eval()(image()))


@torch.no_grad()
@pytest.mark.parametrize(("evaluated", "seed"), [("student", 1), ("teacher", 2)])
def test_the_network_that_the_training_evaluated_is_taken(checkpoint, tiny, evaluated, seed):
    """Native BCP chooses by its student's scores, and has a teacher."""
    content = read_checkpoint(checkpoint)
    content["info"]["evaluated"] = evaluated
    torch.save(content, checkpoint)
    expected = tiny(seed, **({"embedding_size": None} if seed == 2 else {})).eval()(image())
    assert torch.equal(load_checkpoint(checkpoint)[0](image()), expected)


@torch.no_grad()
def test_without_a_teacher_the_student_is_taken(checkpoint, tiny):
    content = read_checkpoint(checkpoint)
    del content["teacher"]
    torch.save(content, checkpoint)
    assert torch.equal(load_checkpoint(checkpoint)[0](image()), tiny(1).eval()(image()))


@pytest.mark.parametrize("nested", [False, True])
def test_a_pickled_program_is_refused_and_not_run(tmp_path, nested):
    file, mark = tmp_path / "evil.pt", tmp_path / "was-run"
    torch.save({"student": {"weight": Malicious(mark)}} if nested else Malicious(mark), file)
    with pytest.raises(CheckpointError, match=r"evil\.pt: not a readable checkpoint"):
        read_checkpoint(file)
    with pytest.raises(CheckpointError):
        load_checkpoint(file)
    assert not mark.exists()
    torch.load(file, weights_only=False)  # it is a real one
    assert mark.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_is_refused(tmp_path):
    file, mark = tmp_path / "evil.pkl", tmp_path / "was-run"
    file.write_bytes(pickle.dumps(Malicious(mark)))
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        read_checkpoint(file)
    assert not mark.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(checkpoint, share):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"last\.pt: not a readable checkpoint .* must be replaced"):
        read_checkpoint(checkpoint)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pt: no such checkpoint file"):
        load_checkpoint(tmp_path / "gone.pt")
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path)  # a folder


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2]])
def test_other_content_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=f"holds a {type(content).__name__}, expected a dictionary"):
        read_checkpoint(tmp_path / "x.pt")


def test_without_info_or_weights(tmp_path, checkpoint, tiny):
    torch.save(tiny().state_dict(), tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match=r"plain\.pt: has no 'info'"):
        load_checkpoint(tmp_path / "plain.pt")
    info = read_checkpoint(checkpoint)["info"]
    torch.save({"info": info}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match=r"found the entries \['info'\], expected 'student' or 'teacher'"):
        load_checkpoint(tmp_path / "empty.pt")


@pytest.mark.parametrize("weights", [torch.zeros(3), {}, {"w": 1}, {1: torch.zeros(1)}, "x"])
def test_weights_that_are_none(checkpoint, weights):
    content = read_checkpoint(checkpoint)
    torch.save({**content, "teacher": weights}, checkpoint)
    with pytest.raises(CheckpointError, match="with tensors by name"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": None}, "has no 'info'"),
        ({"network": [1]}, "has no 'info'"),
        ({"input": {"size": "32", "pad_value": 0.1}}, "size '32'"),
        ({"input": {"size": True, "pad_value": 0.1}}, "size True"),
        ({"input": {"size": 32, "pad_value": 1.5}}, "pad_value 1.5"),
        ({"network": {"decoder": "cubes"}}, "cannot be built by this version .*unknown decoder 'cubes'"),
        ({"network": {"colour": 3}}, "cannot be built by this version"),
        ({"network": {"encoder": "tu-hf-hub:a/b", "decoder": "unet"}}, "is no name of"),
    ],
)
def test_descriptions_of_another_form(checkpoint, change, message):
    content = read_checkpoint(checkpoint)
    torch.save({**content, "info": {**content["info"], **change}}, checkpoint)
    with pytest.raises(CheckpointError, match=rf"last\.pt: .*{message}"):
        load_checkpoint(checkpoint)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rebuilt_in_single(checkpoint, dtype):
    content, whole = read_checkpoint(checkpoint), load_checkpoint(checkpoint)[0]
    content["teacher"] = {n: t.to(dtype) if t.is_floating_point() else t for n, t in content["teacher"].items()}
    torch.save(content, checkpoint)
    network, _ = load_checkpoint(checkpoint)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert torch.allclose(network(image()), whole(image()), atol=0.02)


def test_safetensors_are_read_as_a_checkpoint(checkpoint, tmp_path):
    content = read_checkpoint(checkpoint)
    file = tmp_path / "any.name"
    file.write_bytes(safetensors_bytes(content["teacher"], content["info"]))
    assert is_safetensors(file)
    assert not is_safetensors(checkpoint)
    found = read_checkpoint(file)
    assert found["info"] == content["info"]
    assert all(torch.equal(tensor, content["teacher"][name]) for name, tensor in found["student"].items())
    assert torch.equal(load_checkpoint(file)[0](image()), load_checkpoint(checkpoint)[0](image()))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(checkpoint, bad):
    content = read_checkpoint(checkpoint)
    name = next(name for name in content["teacher"] if name.endswith("weight"))
    content["teacher"][name].flatten()[0] = bad
    torch.save(content, checkpoint)
    with pytest.raises(CheckpointError, match=rf"1 tensors hold NaN or infinite values, e.g. {name}"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "changes", [{"unet_features": [4, 8, 8, 16, 32]}, {"decoder": "unet"}, {"num_classes": 3}, {"head_channels": 4}]
)
def test_weights_of_another_network_are_refused(checkpoint, tiny, changes):
    other = tiny(**changes)
    before = {name: t.clone() for name, t in other.state_dict().items()}
    weights = network_weights(read_checkpoint(checkpoint), checkpoint)
    with pytest.raises(CheckpointError, match="the weights are of another network"):
        load_weights(other, weights, checkpoint)
    assert all(torch.equal(t, before[name]) for name, t in other.state_dict().items())  # nothing was half-loaded


def test_a_missing_projector_keeps_its_start(checkpoint, tiny):
    student = tiny(7)
    projector = {name: t.clone() for name, t in student.projector.state_dict().items()}
    content = read_checkpoint(checkpoint)
    load_weights(student, network_weights(content, checkpoint, "teacher"), checkpoint)
    assert all(torch.equal(t, projector[name]) for name, t in student.projector.state_dict().items())
    assert all(torch.equal(t, student.state_dict()[name]) for name, t in content["teacher"].items())


def test_which_must_be_known(checkpoint):
    with pytest.raises(ValueError, match="which is 'ema', expected 'teacher' or 'student'"):
        load_checkpoint(checkpoint, which="ema")


@torch.no_grad()
def test_export_is_a_plain_state_dict_without_projector(checkpoint, tiny, tmp_path):
    out = export_state_dict(checkpoint, tmp_path / "models" / "model.pt")
    state = torch.load(out, weights_only=True)
    assert not [name for name in state if name.startswith("projector.")]
    network = tiny(9, embedding_size=None).eval()
    network.load_state_dict(state)  # all names match
    assert torch.equal(network(image()), load_checkpoint(checkpoint)[0](image()))
    assert network_weights(read_checkpoint(out), out).keys() == state.keys()  # and it can be a warm start
    assert [path.name for path in out.parent.iterdir()] == ["model.pt"]


def test_a_failed_export_leaves_the_old_file(checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "model.pt"
    out.write_bytes(b"old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        export_state_dict(checkpoint, out)
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "model.pt"]


@pytest.mark.parametrize("levels", [30, 5000])
def test_a_bundle_s_references_come_to_an_end(levels: int, tmp_path: Path) -> None:
    """Each level refers twice to the next: two to the thirtieth entries; or a chain deeper than Python's stack."""
    from phnet_monai.networks.description import config_info

    entries = {f"a{n}": [f"@a{n + 1}"] * (2 if levels == 30 else 1) for n in range(levels)}
    config = {"network_def": {"decoder": "@a0"}, **entries, f"a{levels}": 1}
    with pytest.raises(CheckpointError, match="refers to more than 1000 entries|nested deeper"):
        config_info(config, tmp_path / "inference.json")
    deep: object = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(CheckpointError, match="nested deeper than any network's is"):
        config_info({"network_def": {"decoder": deep}}, tmp_path / "inference.json")
