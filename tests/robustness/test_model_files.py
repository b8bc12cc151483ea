"""Hostile, damaged and foreign models through `phnet infer --model`: refused in one line, nothing run or written."""

from __future__ import annotations

import json
import os
import pickle
import stat
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from phnet_monai.inference import export_model
from phnet_monai.inference import zipped as zipped_module
from phnet_monai.inference.zipped import ArchiveError, unzip

KINDS = ("checkpoint", "weights", "safetensors", "torchscript", "onnx", "bundle", "zip")


class Program:
    """What a pickle can be: a call of anything."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def zip_folder(folder: Path, path: Path, *, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{inside}{file.relative_to(folder).as_posix()}")
    return path


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory, model_files: SimpleNamespace) -> dict[str, bytes]:
    """Content of a good file of each kind; of the bundle: its weights."""
    folder = tmp_path_factory.mktemp("originals")
    checkpoint = model_files.write_checkpoint(folder / "a.pt")
    bundle = model_files.write_bundle(folder / "bundle")
    files = {"checkpoint": checkpoint, "weights": bundle / "models" / "model.pt"}
    for kind, name in (("safetensors", "a.safetensors"), ("torchscript", "a.ts"), ("onnx", "a.onnx")):
        if kind != "onnx" or all(find_spec(one) for one in ("onnx", "onnxscript", "onnxruntime")):
            files[kind] = export_model(checkpoint, folder / name, kind).path
    return {kind: path.read_bytes() for kind, path in files.items()}


@pytest.fixture
def write(originals: dict[str, bytes], model_files: SimpleNamespace, tmp_path: Path) -> Callable[..., Path]:
    """`write(kind, change)`: a model of that kind whose file, or for bundles whose weights, went through `change`."""

    def make(kind: str, change: Callable[[bytes], bytes] = bytes) -> Path:
        if kind in ("bundle", "zip"):
            folder = model_files.write_bundle(tmp_path / "bundle")
            weights = folder / "models" / "model.pt"
            weights.write_bytes(change(weights.read_bytes()))
            return folder if kind == "bundle" else zip_folder(folder, tmp_path / "bundle.zip", inside="tiny/")
        if kind not in originals:
            pytest.skip("the extra onnx is not installed")
        path = tmp_path / {"safetensors": "x.safetensors", "torchscript": "x.ts", "onnx": "x.onnx"}.get(kind, "x.pt")
        path.write_bytes(change(originals[kind]))
        if kind == "weights":
            entry = {"network": {**model_files.TINY, "embedding_size": None}, "input": {"size": 32, "pad_value": 0.25}}
            path.with_suffix(".json").write_text(json.dumps(entry))
        return path

    return make


@pytest.fixture
def refused(phnet: Callable[..., Any], pictures: Path, tmp_path: Path) -> Callable[[Path], str]:
    """`refused(model)`: the line by which `phnet infer` refuses it, before anything is written."""

    def call(model: Path) -> str:
        outcome = phnet("infer", pictures, tmp_path / "out", "--model", model, "--device", "cpu")
        assert outcome.code == 2
        assert not (tmp_path / "out").exists()
        return outcome.line

    return call


@pytest.mark.parametrize("kind", KINDS)
def test_the_good_one_is_taken(kind: str, write: Any, phnet: Any, pictures: Path, tmp_path: Path) -> None:
    words = ("--model", write(kind), "--device", "cpu", "--quiet")
    assert phnet("infer", pictures, tmp_path / "out", *words).code == 0
    assert len(list((tmp_path / "out" / "masks").rglob("*.png"))) == 4


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("onnx", ["--backend", "torch"], "is an ONNX file, which torch does not run"),
        ("checkpoint", ["--backend", "openvino"], "openvino runs exported models only"),
        ("torchscript", ["--model", "default"], "is torchscript, which runs alone"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(
    kind: str, words: list[str], message: str, write: Any, phnet: Any, pictures: Path, tmp_path: Path
) -> None:
    line = ["infer", pictures, tmp_path / "out", "--model", write(kind), *words]
    refused, told = phnet(*line), phnet(*line, "--dry-run")
    assert message in told.line
    assert (told.code, told.line) == (refused.code, refused.line) == (2, told.line)


def test_evaluate_wants_a_bundle_unpacked(write: Any, phnet: Any, labeled_folder: Any, tmp_path: Path) -> None:
    assert phnet("prepare", "folder", labeled_folder(12), tmp_path / "data", "--labeled", 2).code == 0
    told = phnet("evaluate", write("zip"), tmp_path / "data", tmp_path / "scores")
    assert f"{tmp_path / 'bundle.zip'}: is a bundle in a zip file. Unpack it and give its folder" in told.line
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
@pytest.mark.parametrize("kind", KINDS)
def test_cut_short(kind: str, share: float, write: Any, refused: Any) -> None:
    assert "not a readable" in refused(write(kind, lambda content: content[: int(share * len(content))]))


@pytest.mark.parametrize("kind", ["checkpoint", "weights", "bundle", "zip"])
@pytest.mark.parametrize("place", ["whole", "entry"])
def test_a_pickled_program_is_not_run(kind: str, place: str, write: Any, refused: Any, tmp_path: Path) -> None:
    mark = tmp_path / "was-run"

    def evil(_: bytes) -> bytes:
        torch.save(Program(mark) if place == "whole" else {"student": {"w": Program(mark)}}, tmp_path / "evil")
        return (tmp_path / "evil").read_bytes()

    assert "not a readable checkpoint" in refused(write(kind, evil))
    assert not mark.exists()
    # it would have run elsewhere
    with pytest.raises(Exception, match=r"."):
        torch.load(tmp_path / "evil", weights_only=True)
    torch.load(tmp_path / "evil", weights_only=False)
    assert mark.exists()


def test_a_bare_pickle_is_not_run(refused: Any, tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Program(mark)))
    assert "not a readable checkpoint" in refused(tmp_path / "x.pt")
    assert not mark.exists()


def test_a_pickled_program_in_torchscript_is_not_run(originals: dict[str, bytes], refused: Any, tmp_path: Path) -> None:
    mark, path = tmp_path / "was-run", tmp_path / "x.ts"
    (tmp_path / "good.ts").write_bytes(originals["torchscript"])
    with zipfile.ZipFile(tmp_path / "good.ts") as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            evil = name.endswith(("data.pkl", "constants.pkl"))
            bad.writestr(name, pickle.dumps(Program(mark), protocol=2) if evil else good.read(name))
    assert "not a readable TorchScript file" in refused(path)
    assert not mark.exists()


def with_other_weight(content: bytes, change: Callable[[torch.Tensor], torch.Tensor], folder: Path) -> bytes:
    """The same checkpoint or state dict with `change` of one tensor of its teacher."""
    (folder / "before").write_bytes(content)
    state = torch.load(folder / "before", weights_only=True)
    weights = state.get("teacher", state)
    weights["classifier.0.weight"] = change(weights["classifier.0.weight"])
    torch.save(state, folder / "after")
    return (folder / "after").read_bytes()


def poison(content: bytes, folder: Path) -> bytes:
    """With one NaN."""

    def change(weight: torch.Tensor) -> torch.Tensor:
        weight.view(-1)[0] = float("nan")
        return weight

    return with_other_weight(content, change, folder)


@pytest.mark.parametrize("kind", ["checkpoint", "weights", "bundle", "zip"])
def test_weights_that_are_not_numbers(kind: str, write: Any, refused: Any, tmp_path: Path) -> None:
    line = refused(write(kind, lambda content: poison(content, tmp_path)))
    assert "1 tensors hold NaN or infinite values, e.g. classifier.0.weight" in line


def test_weights_that_are_not_numbers_in_safetensors(write: Any, refused: Any) -> None:
    from safetensors.torch import load, save

    def spoil(content: bytes) -> bytes:
        weights = load(content)
        weights["classifier.0.weight"].view(-1)[0] = float("inf")
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return save(weights, metadata=header["__metadata__"])

    assert "1 tensors hold NaN or infinite values" in refused(write("safetensors", spoil))


def test_weights_that_are_not_numbers_in_onnx(write: Any, refused: Any) -> None:
    onnx = pytest.importorskip("onnx")

    def spoil(content: bytes) -> bytes:
        model = onnx.load_model_from_string(content)
        last = [tensor for tensor in model.graph.initializer if tensor.name.endswith("bias")][-1]
        values = onnx.numpy_helper.to_array(last).copy()
        values[:] = float("nan")
        last.CopyFrom(onnx.numpy_helper.from_array(values, last.name))
        return model.SerializeToString()

    assert "answers by NaN or infinite values" in refused(write("onnx", spoil))


def test_weights_that_are_not_numbers_in_torchscript(refused: Any, tmp_path: Path) -> None:
    from monai.data.torchscript_utils import save_net_with_metadata

    layer = torch.nn.Conv2d(1, 2, 1)
    torch.nn.init.constant_(layer.weight, float("nan"))
    values = {"phnet": {"input": {"size": 16, "pad_value": 0.3}}}
    save_net_with_metadata(torch.jit.script(layer), str(tmp_path / "x.ts"), meta_values=values)
    assert "tensors hold NaN or infinite values" in refused(tmp_path / "x.ts")


def test_weights_of_another_network(model_files: SimpleNamespace, refused: Any, tmp_path: Path) -> None:
    path = model_files.write_checkpoint(tmp_path / "x.pt")
    content = torch.load(path, weights_only=True)
    content["info"]["network"]["unet_features"] = [8, 8, 8, 8, 16]
    torch.save(content, path)
    assert "the weights are of another network" in refused(path)
    content["info"]["network"] = {"decoder": "pyramid"}
    torch.save(content, path)
    assert "its network cannot be built by this version" in refused(path)


def test_models_of_other_ends(model_files: SimpleNamespace, refused: Any, tmp_path: Path) -> None:
    assert "has in_channels 3, inference needs 1" in refused(
        model_files.write_checkpoint(tmp_path / "x.pt", in_channels=3)
    )
    module = torch.nn.Conv2d(1, 3, 1)
    torch.jit.save(torch.jit.script(module), tmp_path / "x.ts")
    assert "x.ts" in refused(tmp_path / "x.ts")


@pytest.mark.parametrize("content", [b"no model at all\n" * 50, b"PK\3\4" + bytes(300), b"\x08\x07" + bytes(300)])
def test_other_files(content: bytes, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    assert "x.pt: not a readable" in refused(tmp_path / "x.pt")


def test_a_small_checkpoint_of_large_content(refused: Any, tmp_path: Path) -> None:
    torch.save({"student": {"weight": torch.zeros(1_000_000)}}, tmp_path / "large.pt")
    with (
        zipfile.ZipFile(tmp_path / "large.pt") as source,
        zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    torch.load(tmp_path / "x.pt", weights_only=True)  # torch would unpack it
    assert "MB unpack to 4 MB, more than 10 times as much" in refused(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"input": {"size": 1_000_000, "pad_value": 0.3}}, "size 1000000 and pad_value 0.3; expected a whole number"),
        ({"network": {"decoder": "plain_unet", "unet_features": [4, 8, 8, 10**6, 8]}}, "found 1000000 among its"),
        ({"network": {"decoder": "plain_unet", "head_channels": 10**9}}, "found 1000000000 among its"),
        ({"network": {"decoder": "plain_unet", "unet_features": [8192] * 5}}, "it asks for a network of 1"),
    ],
)
def test_a_description_that_asks_for_all_memory(
    change: dict[str, Any], reason: str, model_files: SimpleNamespace, refused: Any, tmp_path: Path
) -> None:
    path = model_files.write_checkpoint(tmp_path / "x.pt")
    content = torch.load(path, weights_only=True)
    content["info"] |= change
    torch.save(content, path)
    assert reason in refused(path)


def test_a_zip_file_with_a_broken_index(refused: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("a/constants.pkl", b"x" * 100)
    content = bytearray((tmp_path / "x.pt").read_bytes())
    content[content.index(b"PK\1\2") + 1] = 0
    (tmp_path / "x.pt").write_bytes(content)
    assert "x.pt: not a readable" in refused(tmp_path / "x.pt")


def test_a_folder_that_is_no_bundle(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert "no bundle: models/ has none of" in refused(tmp_path / "x")


@pytest.mark.parametrize("name", ["atrous_rates", "weights", "output_stride", "decoder_channels"])
@pytest.mark.parametrize("command", ["infer", "evaluate", "export"])
def test_an_expression_among_a_checkpoint_s_arguments_is_not_evaluated(
    command: str, name: str, model_files: SimpleNamespace, phnet: Any, pictures: Path, tmp_path: Path
) -> None:
    mark, path = tmp_path / "was-run", model_files.write_checkpoint(tmp_path / "x.pt")
    content = torch.load(path, weights_only=True)
    content["info"]["network"][name] = [f"$__import__('os').mkdir({str(mark)!r})"]
    torch.save(content, path)
    entries = [{"image": str(image), "label": str(image)} for image in sorted(pictures.rglob("*.png"))[:1]]
    parts: dict[str, list[Any]] = {"labeled": [], "unlabeled": [], "validation": []}
    (tmp_path / "datalist.json").write_text(json.dumps({**parts, "test": entries}))
    words = {
        "infer": ("infer", pictures, tmp_path / "out", "--model", path),
        "evaluate": ("evaluate", path, tmp_path / "datalist.json", tmp_path / "out"),
        "export": ("export", path, tmp_path / "out.ts"),
    }[command]
    outcome = phnet(*words)
    assert (outcome.code, "would be code" in outcome.line) == (2, True), outcome
    assert not mark.exists()


# --- a bundle's config is code, and is read as data


@pytest.mark.parametrize("kind", ["bundle", "zip"])
@pytest.mark.parametrize("place", ["network_def", "argument", "size", "reference"])
def test_an_expression_in_a_config_is_not_evaluated(
    place: str, kind: str, model_files: SimpleNamespace, refused: Any, tmp_path: Path
) -> None:
    mark = tmp_path / "was-run"
    evil = f"$__import__('os').mkdir({str(mark)!r})"
    tiny = {**model_files.TINY, "_target_": "phnet_monai.networks.PHNet", "embedding_size": None}
    changes: dict[str, Any] = {
        "network_def": {"network_def": evil},
        "argument": {"network_def": {**tiny, "dropout": evil}},
        "size": {"size": evil},
        "reference": {"network_def": {**tiny, "dropout": "@p#0"}, "p": [evil]},
    }[place]
    bundle = model_files.write_bundle(tmp_path / "bundle", imports=[evil], initialize=[evil], **changes)
    line = refused(bundle if kind == "bundle" else zip_folder(bundle, tmp_path / "bundle.zip"))
    assert "inference.json: " in line
    assert str(tmp_path / ("bundle" if kind == "bundle" else "bundle.zip")) in line
    assert not mark.exists()
    exec(evil[1:])  # it would have done something
    assert mark.exists()


def test_expressions_elsewhere_in_a_bundle_are_text(
    model_files: SimpleNamespace, phnet: Any, pictures: Path, tmp_path: Path, run_file: Any
) -> None:
    """In parts that inference does not need, and in the metadata, whose words reach run.json."""
    mark = tmp_path / "was-run"
    evil = f"$__import__('os').mkdir({str(mark)!r})"
    everywhere = dict.fromkeys(("imports", "initialize", "run", "preprocessing", "evaluator", "_requires_"), evil)
    bundle = model_files.write_bundle(tmp_path / "bundle", **everywhere)
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"name": evil, "version": evil, "changelog": [evil]}))
    (bundle / "configs" / "logging.conf").write_text(f"[handler_x]\nargs=({evil[1:]},)\n")
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "__init__.py").write_text(evil[1:])
    outcome = phnet("infer", pictures, tmp_path / "out", "--model", bundle, "--device", "cpu", "--quiet")
    assert outcome.code == 0
    assert run_file(tmp_path / "out")["settings"]["model"] == "bundle"
    assert not mark.exists()


# --- zip files


def archive_with(path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("configs/inference.json", b"{}")
        for entry, content in entries:
            archive.writestr(entry, content)
    return path


def entry(name: str, mode: int = stat.S_IFREG) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("placeholder")
    info.filename = info.orig_filename = name  # past what zipfile would make of it
    info.external_attr = (mode | 0o644) << 16
    return info


@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        ("../outside.txt", stat.S_IFREG, "would leave the folder"),
        ("models/../../outside.txt", stat.S_IFREG, "would leave the folder"),
        ("/outside.txt", stat.S_IFREG, "would leave the folder"),
        ("..\\outside.txt", stat.S_IFREG, "a name of another system"),
        ("C:/outside.txt", stat.S_IFREG, "a name of another system"),
        ("models/model.pt", stat.S_IFLNK, "is a link or a device"),
        ("models/model.pt", stat.S_IFIFO, "is a link or a device"),
        ("configs/INFERENCE.json", stat.S_IFREG, "twice"),
    ],
)
def test_a_zip_file_that_would_do_harm(name: str, mode: int, reason: str, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    archive = archive_with(tmp_path / "sub" / "x.zip", (entry(name, mode), b"/etc/passwd"))
    line = refused(archive)
    assert str(archive) in line
    assert reason in line
    assert not list(tmp_path.rglob("outside.txt"))
    assert not Path("/outside.txt").exists()


def test_a_zip_file_that_grows(refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipped_module, "MAX_UNPACKED_BYTES", 1_000_000)
    archive = archive_with(tmp_path / "x.zip", ("models/model.pt", bytes(1_500_000)))
    assert archive.stat().st_size < 10_000
    assert "2 entries of 2 MB unpacked, more than the 2000 of 1 MB that are taken" in refused(archive)


def test_a_zip_file_of_many_entries(refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipped_module, "MAX_ENTRIES", 10)
    assert "has 12 entries" in refused(archive_with(tmp_path / "x.zip", *((f"{n}", b"") for n in range(11))))


def test_a_zip_file_whose_content_is_damaged(write: Any, refused: Any) -> None:
    archive = write("zip")
    content = bytearray(archive.read_bytes())
    content[content.index(b"tiny/models/model.pt") + 200] ^= 0xFF
    archive.write_bytes(content)
    assert "bundle.zip: cannot be unpacked" in refused(archive)


def test_nothing_is_unpacked_before_all_was_looked_at(tmp_path: Path) -> None:
    archive = archive_with(tmp_path / "x.zip", ("good.txt", b"1"), (entry("../bad.txt"), b"2"))
    with pytest.raises(ArchiveError):
        unzip(archive, tmp_path / "place")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.zip"]


def test_a_zipped_bundle_counts_as_the_bundle(
    write: Any, phnet: Any, pictures: Path, tmp_path: Path, run_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results may be gone on with; nothing of it is left behind."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    archive = write("zip")
    assert phnet("infer", pictures, tmp_path / "out", "--model", archive, "--device", "cpu", "--quiet").code == 0
    assert run_file(tmp_path / "out")["settings"]["model"] == "bundle.zip"
    outcome = phnet("infer", pictures, tmp_path / "out", "--model", tmp_path / "bundle", "--device", "cpu")
    assert "4 finished earlier" in outcome.out
    assert not list((tmp_path / "temporary").iterdir())
    exported = phnet("export", archive, tmp_path / "x.safetensors")
    assert exported.code == 0
    assert phnet("export", tmp_path / "bundle", tmp_path / "y.safetensors").code == 0


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "weights.pt", "bundle/models/model.ts", "bundle/models/model.pt"]
)
def test_a_program_that_is_not_called_one_is_not_run(
    name: str, refused: Any, model_files: SimpleNamespace, tmp_path: Path
) -> None:
    """TorchScript can write files: it is run where it is named `.ts` and given itself, or asked for."""

    class Writes(torch.nn.Module):
        def __init__(self, place: str) -> None:
            super().__init__()
            self.place = place

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.from_file(self.place, True, 16).fill_(7)
            return torch.cat([x, x], 1)

    mark, path = tmp_path / "was-run", tmp_path / name
    if name.startswith("bundle"):
        (model_files.write_bundle(tmp_path / "bundle") / "models" / "model.pt").unlink()
    torch.jit.save(torch.jit.script(Writes(str(mark))), path)
    given = tmp_path / "bundle" if name.startswith("bundle") else path
    assert "is TorchScript, a program that can read and write files" in refused(given)
    if given.is_dir():
        assert "it is not run" in refused(zip_folder(given, tmp_path / "bundle.zip", inside="tiny/"))
    assert not mark.exists()


def test_weights_that_are_too_large_for_the_network(write: Any, refused: Any, tmp_path: Path) -> None:
    def large(weight: torch.Tensor) -> torch.Tensor:
        return torch.full_like(weight, 1e300, dtype=torch.float64)

    line = refused(write("checkpoint", lambda content: with_other_weight(content, large, tmp_path)))
    assert "1 tensors hold NaN or infinite values" in line


@pytest.mark.parametrize("change", [lambda t: t.to_sparse(), lambda t: t.to("meta"), lambda t: t.to(torch.complex64)])
def test_weights_of_a_kind_that_no_network_has(change: Any, write: Any, refused: Any, tmp_path: Path) -> None:
    line = refused(write("checkpoint", lambda content: with_other_weight(content, change, tmp_path)))
    assert "classifier.0.weight is" in line
