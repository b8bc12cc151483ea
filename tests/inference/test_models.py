"""`load_model`: every kind of file gives the network of the checkpoint, and hostile files are refused with a reason."""

from __future__ import annotations

import io
import json
import os
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from phnet_monai.extras import MissingExtraError
from phnet_monai.files import sha256_of
from phnet_monai.inference.backends import BackendError
from phnet_monai.inference.exports import export_model
from phnet_monai.inference.models import default_model, load_model, model_kind
from phnet_monai.networks import CheckpointError, PHNet, load_checkpoint

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "model_files.py")))

ENDING = {"torchscript": "ts", "onnx": "onnx", "safetensors": "safetensors"}
RUNTIME = {"onnx": "onnxruntime", "openvino": "openvino"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same teacher as checkpoint, bundle and every export."""
    folder = tmp_path_factory.mktemp("kinds")
    paths = {"checkpoint": made.write_checkpoint(folder / "a.pt"), "bundle": made.write_bundle(folder / "bundle")}
    paths["weights"] = paths["bundle"] / "models" / "model.pt"
    for kind, ending in ENDING.items():
        if kind != "onnx" or all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
            paths[kind] = export_model(paths["checkpoint"], folder / f"a.{ending}", kind).path
    return paths


def onnx_file(files: dict[str, Path]) -> Path:
    if "onnx" not in files:
        pytest.skip("the extra onnx is not installed")
    return files["onnx"]


# --- every kind


@pytest.mark.parametrize(
    ("kind", "backend", "expected"),
    [
        ("checkpoint", "auto", "torch"),
        ("bundle", "torch", "torch"),
        ("weights", "auto", "torch"),
        ("safetensors", "auto", "torch"),
        ("torchscript", "auto", "torchscript"),
        ("torchscript", "torch", "torchscript"),
        ("onnx", "auto", "onnx"),
        ("onnx", "onnx", "onnx"),
        ("onnx", "openvino", "openvino"),
    ],
)
def test_every_kind_answers_alike(files: dict[str, Path], kind: str, backend: str, expected: str) -> None:
    if kind == "onnx":
        onnx_file(files)
    if expected in RUNTIME:
        pytest.importorskip(RUNTIME[expected])
    model = load_model(files[kind], device="cpu", backend=backend)
    assert (model.backend, model.size, model.pad_value) == (expected, made.SIZE, made.PAD_VALUE)
    assert model.device == torch.device("cpu")
    assert model.name == files[kind].name
    file = files["weights"] if kind == "bundle" else files[kind]
    assert model.sha256 == sha256_of(file)
    assert model.details["which"] == "teacher"
    assert model.details["network"]["decoder"] == "plain_unet"
    teacher = made.network(1, embedding_size=None)
    for count in (3, 1, 8):  # any batch
        expected_probs = made.probs(teacher, made.images(count))
        assert expected_probs.std() > 0.05  # otherwise agreement would say little
        assert (made.probs(model.network, made.images(count)) - expected_probs).abs().max() < 1e-5


def test_the_answer_of_a_batch_is_kept_by_the_caller(files: dict[str, Path]) -> None:
    """Runtimes use their buffers again."""
    onnx_file(files)
    for backend in ("onnx", "openvino"):
        pytest.importorskip(RUNTIME[backend])
        network = load_model(files["onnx"], device="cpu", backend=backend).network
        first = network(made.images(2, seed=1))
        kept = first.clone()
        network(made.images(2, seed=2))
        assert torch.equal(first, kept)


@pytest.mark.parametrize("kind", ["checkpoint", "weights", "safetensors", "torchscript", "onnx"])
def test_content_decides_about_the_kind(files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    file = tmp_path / "other name.bin"
    file.write_bytes((onnx_file(files) if kind == "onnx" else files[kind]).read_bytes())
    assert model_kind(file) == (kind if kind in ("torchscript", "onnx") else "weights")


def test_the_student(files: dict[str, Path]) -> None:
    model = load_model(files["checkpoint"], device="cpu", which="student")
    assert torch.equal(made.probs(model.network, made.images()), made.probs(made.network(0), made.images()))
    assert model.details["which"] == "student"
    for kind in ("safetensors", "torchscript"):
        with pytest.raises(ValueError, match="holds the teacher, not the student"):
            load_model(files[kind], device="cpu", which="student")


def test_several_checkpoints_are_an_ensemble(files: dict[str, Path], tmp_path: Path) -> None:
    other = made.write_checkpoint(tmp_path / "b.pt", seed=7)
    model = load_model([files["checkpoint"], other, files["bundle"]], device="cpu")
    assert model.name == ["a.pt", "b.pt", "bundle"]
    assert model.sha256 == [sha256_of(files["checkpoint"]), sha256_of(other), sha256_of(files["weights"])]
    batch = made.images()
    first, second = (made.probs(made.network(seed, embedding_size=None), batch) for seed in (1, 8))
    assert torch.allclose(made.probs(model.network, batch), (2 * first + second) / 3, atol=1e-5)
    sized = load_model([files["checkpoint"], made.write_checkpoint(tmp_path / "c.pt", size=48)], device="cpu")
    assert (sized.size, sized.pad_value) == (None, None)


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    bundle = made.write_bundle(tmp_path / "half", half=True)
    model = load_model(bundle, device="cpu")
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}  # type: ignore[attr-defined]
    expected = made.probs(made.network(1, embedding_size=None), made.images())
    assert 0 < (made.probs(model.network, made.images()) - expected).abs().max() < 0.02


def test_plain_weights_with_their_description_beside_them(files: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "my.pt"
    file.write_bytes(files["weights"].read_bytes())
    with pytest.raises(CheckpointError, match=r"has no 'info' .* neither my\.json nor a bundle's"):
        load_model(file)
    entry = {"network": {**made.TINY, "embedding_size": None}, "input": {"size": 40, "pad_value": 0.5}}
    (tmp_path / "my.json").write_text(json.dumps(entry))
    model = load_model(file, device="cpu")
    assert (model.size, model.pad_value) == (40, 0.5)
    (tmp_path / "my.json").write_text(json.dumps({**entry, "input": {"size": "40", "pad_value": 0.5}}))
    with pytest.raises(CheckpointError, match="size '40'"):
        load_model(file)


def test_a_bundle_tells_its_name(files: dict[str, Path]) -> None:
    assert load_model(files["bundle"], device="cpu").details["bundle"] == {"name": "tiny", "version": "0.2.0"}


def test_the_shipped_configs_can_be_read_as_data() -> None:
    from phnet_monai.networks.description import bundle_info
    from phnet_monai.shipped import bundle_folder

    info = bundle_info(bundle_folder())
    assert info["input"] == {"size": 160, "pad_value": 0.33}
    assert info["network"]["encoder"] == "tu-tf_efficientnet_lite0"
    assert info["network"]["atrous_rates"] == [6, 12, 18]


def test_the_default_model_is_the_bundles(monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> None:
    monkeypatch.setattr("phnet_monai.shipped.bundle_folder", lambda: files["bundle"])
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: this installation .* without its default model"):
        default_model()
    path = files["weights"].with_name("model.safetensors")
    path.write_bytes(b"")
    assert default_model() == path
    path.unlink()
    monkeypatch.setattr("phnet_monai.shipped.bundle_folder", lambda: files["bundle"].parent)
    with pytest.raises(FileNotFoundError, match="without its default model. Give --model"):
        default_model()


# --- MONAI's own export of a bundle


@pytest.fixture
def monai_export(tmp_path: Path) -> Path:
    """What `python -m monai.bundle ckpt_export` writes: scripted, config and metadata as extra files."""
    from monai.data.torchscript_utils import save_net_with_metadata

    bundle = made.write_bundle(tmp_path / "bundle")
    network = PHNet(**{**made.TINY, "embedding_size": None}, fit_size=made.SIZE, pad_value=made.PAD_VALUE).eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    extra = {"inference.json": (bundle / "configs" / "inference.json").read_bytes()}
    path = tmp_path / "model.ts"
    save_net_with_metadata(torch.jit.script(network), str(path), meta_values={"name": "x"}, more_extra_files=extra)
    return path


def test_the_export_of_monai_takes_any_size(monai_export: Path, files: dict[str, Path]) -> None:
    from phnet_monai.inference import Predictor

    model = load_model(monai_export, device="cpu")
    assert (model.backend, model.size, model.pad_value) == ("torchscript", None, None)
    pictures = [(made.images(1, size)[0, 0] * 255).byte().numpy() for size in (40, 71)]
    arguments: dict[str, Any] = {"size": model.size, "pad_value": model.pad_value}
    found = Predictor(model.network, **arguments).predict(pictures)
    expected = Predictor(load_checkpoint(files["checkpoint"])[0], size=32, pad_value=0.25).predict(pictures)
    for one, other in zip(found, expected, strict=True):
        assert abs(one - other).max() < 1e-5


# --- configs are data


@pytest.mark.parametrize("place", ["argument", "reference", "target", "size"])
def test_no_expression_of_a_bundle_is_evaluated(tmp_path: Path, place: str) -> None:
    mark = tmp_path / "was-run"
    evil = f"$__import__('os').mkdir({str(mark)!r})"
    tiny = {**made.TINY, "_target_": "phnet_monai.networks.PHNet", "embedding_size": None}
    changes: dict[str, Any] = {
        "argument": {"network_def": {**tiny, "dropout": evil}},
        "reference": {"network_def": {**tiny, "dropout": "@p"}, "p": "@q#0", "q": [evil]},
        "target": {"network_def": evil},
        "size": {"size": evil},
    }[place]
    bundle = made.write_bundle(tmp_path / "b", imports=[evil], **changes)
    with pytest.raises(CheckpointError, match=r"inference\.json: .*(is not evaluated|expected phnet_monai)"):
        load_model(bundle, device="cpu")
    assert not mark.exists()


def test_expressions_that_are_not_needed_do_no_harm(tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    bundle = made.write_bundle(tmp_path / "b", initialize=[f"$__import__('os').mkdir({str(mark)!r})"])
    load_model(bundle, device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network_def": {"_target_": "os.mkdir", "path": "x"}}, "_target_ 'os.mkdir', expected phnet_monai"),
        ({"network_def": "@a", "a": "@b", "b": "@a"}, "goes in a circle"),
        ({"network_def": "@gone#x"}, "has no entry 'gone#x'"),
        ({"network_def": "%other.json::x"}, "is not evaluated"),
        ({"size": "@sizes::7"}, "has no entry"),
        ({"size": -3}, "size -3"),
        ({"pad_value": 84}, "pad_value 84"),
        ({"network_def": {**made.TINY, "_target_": "phnet_monai.networks.PHNet", "colour": 1}}, "cannot be built"),
        ({"network_def": {**made.TINY, "_target_": "phnet_monai.networks.PHNet", "decoder": "x"}}, "cannot be built"),
        (
            {"network_def": {**made.TINY, "_target_": "phnet_monai.networks.PHNet", "head_channels": 9}},
            "weights are of another network",
        ),
    ],
)
def test_other_bundles_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_model(made.write_bundle(tmp_path / "b", **change), device="cpu")


def test_incomplete_bundles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: no such checkpoint file, and no bundle"):
        load_model(tmp_path / "empty")
    bundle = made.write_bundle(tmp_path / "b")
    (bundle / "configs" / "inference.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"inference\.json: cannot be read as JSON"):
        load_model(bundle)
    (bundle / "configs" / "inference.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_model(bundle)
    (bundle / "configs" / "inference.json").unlink()
    with pytest.raises(CheckpointError, match="has no 'info'"):
        load_model(bundle)


def test_no_server_is_asked_for_an_encoder(tmp_path: Path) -> None:
    for encoder in ("tu-hf-hub:someone/something", "tu-local-dir:/tmp", "smp-hub:x", 3):
        content = torch.load(made.write_checkpoint(tmp_path / "a.pt"), weights_only=True)
        content["info"]["network"] |= {"encoder": encoder, "decoder": "unet", "weights": "imagenet"}
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=r"a\.pt: its network cannot be built"):
            load_model(tmp_path / "a.pt")


# --- hostile files


class _Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_pickled_program_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    for content in (_Evil(mark), {"student": {"w": _Evil(mark)}}):
        torch.save(content, tmp_path / "evil.pt")
        with pytest.raises(CheckpointError, match=r"evil\.pt: not a readable checkpoint"):
            load_model(tmp_path / "evil.pt")
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["checkpoint", "weights", "safetensors", "torchscript", "onnx", "openvino"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_truncated_files_are_refused(
    files: dict[str, Path], tmp_path: Path, kind: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    backend = "auto"
    if kind in RUNTIME:
        pytest.importorskip(RUNTIME[kind])
        kind, backend = "onnx", kind
    source = onnx_file(files) if kind == "onnx" else files[kind]
    content = source.read_bytes()
    file = tmp_path / f"cut{source.suffix}"
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"cut\.\w+: not a readable"):
        load_model(file, device="cpu", backend=backend)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["checkpoint", "weights", "safetensors"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, kind: str) -> None:
    bundle = made.write_bundle(tmp_path / "b")
    checkpoint = made.write_checkpoint(tmp_path / "a.pt")
    path = {"checkpoint": checkpoint, "weights": bundle / "models" / "model.pt"}.get(kind, tmp_path / "a.safetensors")
    if kind == "safetensors":
        export_model(checkpoint, path, "safetensors")
        from phnet_monai.networks import read_checkpoint
        from phnet_monai.networks.tensor_file import safetensors_bytes

        content = read_checkpoint(path)
        content["student"]["classifier.0.weight"][0] = float("nan")
        path.write_bytes(safetensors_bytes(content["student"], content["info"]))
    else:
        content = torch.load(path, weights_only=True)
        content.get("teacher", content)["classifier.0.weight"][0] = float("nan")
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"1 tensors hold NaN or infinite values, e\.g\. classifier\.0\.weight"):
        load_model(path)


def save_script(module: nn.Module, path: Path, info: Any = None) -> Path:
    from monai.data.torchscript_utils import save_net_with_metadata

    values = {} if info is None else {"phnet": info}
    save_net_with_metadata(torch.jit.script(module.eval()), str(path), meta_values=values)
    return path


class Answer(nn.Module):
    """One convolution with the given channels."""

    def __init__(self, inputs: int = 1, outputs: int = 2, fill: float = 0.1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(inputs, outputs, 1)
        nn.init.constant_(self.layer.weight, fill)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


INPUT = {"input": {"size": 16, "pad_value": 0.3}}


@pytest.mark.parametrize(
    ("module", "info", "message"),
    [
        (Answer(), None, "tells neither the size nor the padding"),
        (Answer(), {"input": {"size": 16}}, "pad_value None"),
        (Answer(), {"input": [1]}, "has no 'info'"),
        (Answer(inputs=3), INPUT, r"does not take \(1, 1, 16, 16\)"),
        (Answer(outputs=3), INPUT, r"answers \(1, 1, 16, 16\) by \(1, 3, 16, 16\)"),
        (Answer(fill=float("inf")), INPUT, r"1 tensors hold NaN or infinite values, e\.g\. layer\.weight"),
        (Answer(fill=3e38), {"input": {"size": 16, "pad_value": 0.3}}, None),
    ],
)
def test_other_torchscript_is_refused(tmp_path: Path, module: nn.Module, info: Any, message: str | None) -> None:
    path = save_script(module, tmp_path / "x.ts", info)
    if message is None:  # large, but finite
        assert load_model(path, device="cpu").size == 16
        return
    with pytest.raises(CheckpointError, match=rf"x\.ts: .*{message}"):
        load_model(path, device="cpu")


def test_a_frozen_torchscript_file_is_taken(tmp_path: Path) -> None:
    module, stream = Answer().eval(), io.BytesIO()
    frozen = torch.jit.freeze(torch.jit.script(module))
    torch.jit.save(frozen, stream, {"metadata.json": json.dumps({"phnet": INPUT}).encode()})
    (tmp_path / "frozen.ts").write_bytes(stream.getvalue())
    model = load_model(tmp_path / "frozen.ts", device="cpu")
    assert torch.allclose(model.network(made.images(2, 16)), module(made.images(2, 16)), atol=1e-6)


def onnx_model(shape: list[Any], out: list[Any], *, props: dict[str, str], element: int = 1) -> bytes:
    """An ONNX file that doubles its input's channels, whatever its ends claim."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    node = helper.make_node("Concat", ["image", "image"], ["logits"], axis=1)
    ends = [helper.make_tensor_value_info(n, element, s) for n, s in (("image", shape), ("logits", out))]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, props)
    return model.SerializeToString()


GOOD = {"phnet": json.dumps(INPUT)}
IN, OUT = ["b", 1, 16, 16], ["b", 2, 16, 16]


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((IN, OUT, {}, 1), "expected an ONNX file of `phnet export`"),
        ((IN, OUT, {"phnet": "no json"}, 1), "is no JSON"),
        ((IN, OUT, {"phnet": "{}"}, 1), "has no 'info'"),
        ((["b", 1, 8, 16], ["b", 2, 8, 16], GOOD, 1), r"has the input .*, expected float \(B, 1, 16, 16\)"),
        ((["b", 3, 16, 16], ["b", 6, 16, 16], GOOD, 1), "has the input"),
        ((IN, OUT, GOOD, 11), "has the input .*expected float"),
    ],
)
def test_other_onnx_files_are_refused(tmp_path: Path, backend: str, content: Any, message: str) -> None:
    pytest.importorskip(RUNTIME[backend])
    shape, out, props, element = content
    (tmp_path / "x.onnx").write_bytes(onnx_model(shape, out, props=props, element=element))
    with pytest.raises(CheckpointError, match=rf"x\.onnx: .*{message}"):
        load_model(tmp_path / "x.onnx", device="cpu", backend=backend)
    (tmp_path / "y.onnx").write_bytes(onnx_model(IN, OUT, props=GOOD))
    assert load_model(tmp_path / "y.onnx", device="cpu", backend=backend).size == 16  # the right one is taken


def test_an_onnx_file_that_reads_other_files_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_file(files))
    onnx.save(model, tmp_path / "x.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(CheckpointError, match="not a readable ONNX file"):
        load_model(tmp_path / "x.onnx", device="cpu")


def test_weights_of_other_tasks_are_refused(tmp_path: Path) -> None:
    for name, change in (("colour", {"in_channels": 3}), ("classes", {"num_classes": 3})):
        path = made.write_checkpoint(tmp_path / f"{name}.pt", **change)
        with pytest.raises(CheckpointError, match=rf"{name}\.pt: its network has .* 3, inference needs"):
            load_model(path)


# --- backends and devices


def test_a_backend_that_does_not_run_the_file_tells_what_to_do(files: dict[str, Path]) -> None:
    for backend in ("onnx", "openvino"):
        with pytest.raises(ValueError, match=r"run `phnet export .*a\.pt a\.onnx --to onnx` and use a\.onnx"):
            load_model(files["checkpoint"], backend=backend)
        with pytest.raises(ValueError, match="is a TorchScript file"):
            load_model(files["torchscript"], backend=backend)
    with pytest.raises(ValueError, match=r"--to torchscript` and use a\.ts"):
        load_model(files["checkpoint"], backend="torchscript")
    with pytest.raises(ValueError, match="is an ONNX file.*--backend onnx or openvino"):
        load_model(onnx_file(files), backend="torch")
    with pytest.raises(ValueError, match="backend is 'tensorrt', expected one of auto"):
        load_model(files["checkpoint"], backend="tensorrt")


def test_exports_run_alone(files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"a\.ts: is torchscript, which runs alone"):
        load_model([files["checkpoint"], files["torchscript"]])
    with pytest.raises(CheckpointError, match="at least one checkpoint"):
        load_model([])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx: no such checkpoint file, nor TorchScript"):
        load_model(tmp_path / "gone.onnx")


@pytest.mark.parametrize(
    ("backend", "module", "extra"), [("onnx", "onnxruntime", "onnx"), ("openvino", "openvino", "openvino")]
)
def test_a_missing_runtime_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str, module: str, extra: str
) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x08")
    monkeypatch.setitem(sys.modules, module, None)  # an import of it fails
    message = rf"needs {module}, which is not installed. Run: pip install 'phnet-monai\[{extra}\]'"
    with pytest.raises(MissingExtraError, match=message):
        load_model(tmp_path / "x.onnx", device="cpu", backend=backend)


def test_a_gpu_that_the_runtime_cannot_use(files: dict[str, Path]) -> None:
    from phnet_monai.inference.backends import open_onnx, open_openvino

    runtime, gpu = pytest.importorskip("onnxruntime"), torch.device("cuda:0")
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        with pytest.raises(BackendError, match="cannot use cuda:0; install onnxruntime-gpu"):
            open_onnx(onnx_file(files), gpu)
        assert open_onnx(files["onnx"], gpu, fall_back=True).device == torch.device("cpu")
    pytest.importorskip("openvino")
    with pytest.raises(BackendError, match="on the CPU only"):
        open_openvino(onnx_file(files), gpu)
    assert open_openvino(files["onnx"], gpu, fall_back=True).device == torch.device("cpu")


def test_loading_is_silent(files: dict[str, Path], capfd: pytest.CaptureFixture[str], recwarn: Any) -> None:
    for kind in ("checkpoint", "bundle", "safetensors", "torchscript"):
        load_model(files[kind], device="cpu").network(made.images())
    if "onnx" in files:
        load_model(files["onnx"], device="cpu").network(made.images())
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []
