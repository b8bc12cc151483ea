"""Exports: compared with their source before they are kept, complete in themselves, refused with a reason."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from phnet_monai import __version__
from phnet_monai.extras import MissingExtraError
from phnet_monai.files import sha256_of
from phnet_monai.inference import exports
from phnet_monai.inference.exports import ENDINGS, TOLERANCE, export_model
from phnet_monai.inference.models import load_model
from phnet_monai.networks import CheckpointError, read_checkpoint

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "model_files.py")))

DECODERS: dict[str, dict[str, Any]] = {
    "deeplabv3plus": {"encoder": "resnet18", "output_stride": 8, "decoder_channels": 16},
    "lite0": {"decoder": "deeplabv3plus", "encoder": "tu-tf_efficientnet_lite0", "output_stride": 16},
    "unet": {"encoder": "resnet18"},
    "plain_unet": {},
    "residual_attention_unet": {},
    "pdf_unet": {},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return made.write_checkpoint(tmp_path / "a.pt")


def onnx() -> Any:
    for name in ("onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    return pytest.importorskip("onnx")


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", ["torchscript", "safetensors"])
def test_every_network_can_be_exported(tmp_path: Path, name: str, kind: str) -> None:
    check_network(tmp_path, name, kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_every_network_can_be_exported_to_onnx(tmp_path: Path, name: str) -> None:
    onnx()
    check_network(tmp_path, name, "onnx")


def check_network(folder: Path, name: str, kind: str) -> None:
    """Export at a size that no stride divides, and compare at another batch size than that of the tracing."""
    arguments = {"decoder": name, **DECODERS[name]}
    source = made.write_checkpoint(folder / "a.pt", size=50, **arguments)
    done = export_model(source, folder / f"a{ENDINGS[kind][0]}", kind)
    assert (done.kind, done.size, done.images, done.sha256) == (kind, 50, 4, sha256_of(done.path))
    assert done.difference <= 1e-5
    batch, teacher = made.images(3, 50), load_model(source, device="cpu").network
    expected = made.probs(teacher, batch)
    assert expected.std() > 0.05
    for backend in ("auto", "openvino") if kind == "onnx" else ("auto",):
        if backend == "openvino":
            pytest.importorskip("openvino")
        found = load_model(done.path, device="cpu", backend=backend)
        assert (found.size, found.pad_value) == (50, made.PAD_VALUE)
        assert (made.probs(found.network, batch) - expected).abs().max() < 1e-5


def test_metadata_of_torchscript(model: Path, tmp_path: Path) -> None:
    from monai.data.torchscript_utils import load_net_with_metadata

    done = export_model(model, tmp_path / "a.ts", "torchscript")
    _, metadata, _ = load_net_with_metadata(str(done.path))
    check_metadata(metadata["phnet"], model)
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 32]
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 2
    assert metadata["Pytorch"] == torch.__version__


def test_metadata_of_safetensors(model: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    done = export_model(model, tmp_path / "a.safetensors", "safetensors")
    with safe_open(done.path, framework="pt") as file:
        check_metadata(json.loads(file.metadata()["phnet"]), model)
        assert not [name for name in file.keys() if name.startswith("projector.")]  # noqa: SIM118


def check_metadata(found: dict[str, Any], model: Path) -> None:
    assert found["input"] == {"size": 32, "pad_value": 0.25}
    assert (found["source"], found["source_sha256"]) == ("a.pt", sha256_of(model))
    assert found["exported_by"] == f"phnet-monai {__version__}"
    assert (found["which"], found["method"]) == ("teacher", "phnet")
    assert found["network"]["unet_features"] == [4, 8, 8, 8, 8]


def test_onnx_is_checked_dynamic_in_its_batch_and_tells_no_folder(tmp_path: Path) -> None:
    """One export for all that is asked of the file: the exporter takes ten seconds."""
    module = onnx()
    paths = [made.write_checkpoint(tmp_path / name, seed=seed) for name, seed in (("a.pt", 0), ("b.pt", 5))]
    done = export_model(paths, tmp_path / "ensemble.onnx", "onnx", size=48)
    model = module.load(done.path)
    module.checker.check_model(model, full_check=True)
    [image], [logits] = model.graph.input, model.graph.output
    dims = [[d.dim_value or d.dim_param for d in end.type.tensor_type.shape.dim] for end in (image, logits)]
    assert dims == [["batch", 1, 48, 48], ["batch", 2, 48, 48]]
    assert [entry.key for entry in model.metadata_props] == ["phnet"]
    found = json.loads(model.metadata_props[0].value)
    assert found["source"] == ["a.pt", "b.pt"]
    assert [member["method"] for member in found["members"]] == ["phnet", "phnet"]
    content = done.path.read_bytes()
    for folder in (str(Path.home()), str(Path(exports.__file__).parent), "site-packages"):
        assert folder.encode() not in content
    loaded = load_model(done.path, device="cpu")
    assert loaded.size == 48
    reference = load_model(paths, device="cpu").network
    for count in (1, 2, 7):
        batch = made.images(count, 48)
        assert (made.probs(loaded.network, batch) - made.probs(reference, batch)).abs().max() < 1e-5


def test_an_ensemble_as_torchscript(tmp_path: Path) -> None:
    paths = [made.write_checkpoint(tmp_path / name, seed=seed) for name, seed in (("a.pt", 0), ("b.pt", 5))]
    done = export_model(paths, tmp_path / "both.ts", "torchscript")
    batch = made.images()
    expected = made.probs(load_model(paths, device="cpu").network, batch)
    assert (made.probs(load_model(done.path, device="cpu").network, batch) - expected).abs().max() < 1e-5
    with pytest.raises(ValueError, match="weights of one checkpoint"):
        export_model(paths, tmp_path / "both.safetensors", "safetensors")
    paths.append(made.write_checkpoint(tmp_path / "c.pt", size=48))
    with pytest.raises(ValueError, match=r"a\.pt and the others have inputs of different sizes"):
        export_model(paths, tmp_path / "three.ts", "torchscript")


def test_two_teachers_of_one_training(tmp_path: Path) -> None:
    """PS-MT: the teacher of the checkpoint is an ensemble itself."""
    members = [made.network(seed, embedding_size=None) for seed in (1, 2)]
    weights = {f"members.{i}.{name}": t for i, net in enumerate(members) for name, t in net.state_dict().items()}
    info = {**made.info(members[0]), "ensemble": {"members": 2, "average": "logits"}}
    torch.save({"student": members[0].state_dict(), "teacher": weights, "info": info}, tmp_path / "a.pt")
    batch = made.images()
    with torch.no_grad():
        expected = ((members[0](batch) + members[1](batch)) / 2).softmax(dim=1)[:, 1]
    for kind in ("torchscript", "safetensors"):
        done = export_model(tmp_path / "a.pt", tmp_path / f"a{ENDINGS[kind][0]}", kind)
        assert (made.probs(load_model(done.path, device="cpu").network, batch) - expected).abs().max() < 1e-5


def test_student_size_and_bundle(tmp_path: Path, model: Path) -> None:
    done = export_model(model, tmp_path / "s.ts", "torchscript", which="student", size=40)
    loaded = load_model(done.path, device="cpu", which="student")
    batch = made.images(2, 40)
    assert (loaded.size, loaded.details["which"]) == (40, "student")
    assert (made.probs(loaded.network, batch) - made.probs(made.network(0), batch)).abs().max() < 1e-5
    bundle = made.write_bundle(tmp_path / "bundle", half=True)
    done = export_model(bundle, tmp_path / "b.safetensors", "safetensors")
    assert load_model(done.path, device="cpu").details["bundle"]["name"] == "tiny"


def test_safetensors_can_start_a_training(tmp_path: Path, model: Path) -> None:
    from phnet_monai.networks.checkpoint import load_weights, network_weights

    done = export_model(model, tmp_path / "a.safetensors", "safetensors")
    student = made.network(9)
    load_weights(student, network_weights(read_checkpoint(done.path), done.path, "student"), done.path)
    weights = read_checkpoint(model)["teacher"]
    assert all(torch.equal(tensor, student.state_dict()[name]) for name, tensor in weights.items())


# --- the check


@pytest.mark.parametrize("kind", ["torchscript", "safetensors"])
def test_an_export_that_differs_is_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    out = tmp_path / f"x{ENDINGS[kind][0]}"
    out.write_bytes(b"old")
    before = exports._WRITERS[kind]

    def wrong(network: torch.nn.Module, info: dict[str, Any]) -> bytes:
        other = made.network(1, embedding_size=None)
        with torch.no_grad():
            other.classifier[-1].bias[1] += 0.01
        return before(other, info)

    monkeypatch.setitem(exports._WRITERS, kind, wrong)
    with pytest.raises(CheckpointError, match=r"not written, since its probabilities differ .* by up to 2\.5e-03"):
        export_model(model, out, kind, overwrite=True)
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", out.name]
    done = export_model(model, out, kind, overwrite=True, tolerance=0.01)
    assert TOLERANCE < done.difference <= 0.01


def test_of_a_large_folder_some_files_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        Image.new("L", (20, 30), number).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(exports, "CHECK_FILES", 4)
    assert [path.name for path in exports._scans(tmp_path) or ()] == ["0.png", "2.png", "5.png", "7.png"]
    monkeypatch.setattr(exports, "CHECK_FILES", 64)
    assert len(exports._scans(tmp_path) or ()) == 10


def test_the_images_to_compare_on(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images" / "below"
    folder.mkdir(parents=True)
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (30 + number, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("x")
    assert export_model(model, tmp_path / "a.ts", "torchscript", check=tmp_path / "images").images == 6
    assert export_model(model, tmp_path / "b.ts", "torchscript", check=folder / "3.png").images == 1
    (tmp_path / "none").mkdir()
    for missing in (tmp_path / "none", tmp_path / "gone"):
        with pytest.raises(FileNotFoundError, match="no image to compare on"):
            export_model(model, tmp_path / "c.ts", "torchscript", check=missing)
    (folder / "9.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"9\.png"):
        export_model(model, tmp_path / "c.ts", "torchscript", check=folder)
    assert not (tmp_path / "c.ts").exists()


def test_dicom_and_nifti_are_compared_on_by_their_first_frames(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    files = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "scan_files.py")))
    folder = tmp_path / "scans"
    folder.mkdir()
    frames = np.stack([np.roll(files.picture(), shift) for shift in range(exports.CHECK_FRAMES + 2)])
    files.make_dicom(folder / "clip.dcm", frames, frames=True)
    files.make_dicom(folder / "1.2.840", files.picture())
    nibabel.Nifti1Image(frames[:3].T, np.eye(4)).to_filename(folder / "volume.nii.gz")
    Image.fromarray(files.picture()).save(folder / "picture.png")
    report = files.make_dicom(folder / "report.dcm", files.picture(), SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")

    def images(name: str, check: Path) -> int:
        return export_model(model, tmp_path / name, "torchscript", check=check).images

    assert images("clip.ts", folder / "clip.dcm") == exports.CHECK_FRAMES
    assert images("volume.ts", folder / "volume.nii.gz") == 3
    assert images("all.ts", folder) == exports.CHECK_FRAMES + 1 + 3 + 1
    with pytest.raises(ValueError, match=r"report\.dcm is a report in DICOM and holds no image"):
        images("report.ts", report)
    (tmp_path / "reports").mkdir()
    for name in ("a.dcm", "b.dcm"):
        shutil.copy(report, tmp_path / "reports" / name)
    with pytest.raises(FileNotFoundError, match="reports: no image to compare on"):
        images("reports.ts", tmp_path / "reports")
    assert not [path for path in tmp_path.iterdir() if "report" in path.name and path.is_file()]


@pytest.mark.real_data
@pytest.mark.slow
def test_real_images(tmp_path: Path) -> None:
    if not os.environ.get("PHNET_DATA"):
        pytest.skip("PHNET_DATA is not set")
    onnx()
    folder = Path(os.environ["PHNET_DATA"]) / "Dataset_BUSI_with_GT" / "malignant"
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(folder.glob("*).png"))[:5]:
        (few / path.name).write_bytes(path.read_bytes())
    source = made.write_checkpoint(tmp_path / "a.pt", size=96, **DECODERS["lite0"])
    for kind in ENDINGS:
        done = export_model(source, tmp_path / f"a{ENDINGS[kind][0]}", kind, check=few)
        assert done.images == 5
        assert done.difference < 1e-5


# --- refusals


@pytest.mark.parametrize(
    ("out", "kind", "error", "message"),
    [
        ("x.trt", "tensorrt", ValueError, "cannot export to 'tensorrt'; choose one of torchscript, onnx, safetensors"),
        ("x.onnx", "torchscript", ValueError, r"x\.onnx: a torchscript file ends in \.ts or \.pt"),
        ("there.ts", "torchscript", FileExistsError, r"there\.ts: exists; choose another name, or give --overwrite"),
        ("a.pt", "torchscript", FileExistsError, r"a\.pt: is the model itself"),
    ],
)
def test_wrong_requests(model: Path, tmp_path: Path, out: str, kind: str, error: Any, message: str) -> None:
    (tmp_path / "there.ts").write_bytes(b"old")
    for overwrite in (False, out != "there.ts"):
        with pytest.raises(error, match=message):
            export_model(model, tmp_path / out, kind, overwrite=overwrite)
    assert (tmp_path / "there.ts").read_bytes() == b"old"


def test_an_export_is_no_source(model: Path, tmp_path: Path) -> None:
    done = export_model(model, tmp_path / "a.ts", "torchscript")
    with pytest.raises(ValueError, match=r"a\.ts: is torchscript already"):
        export_model(done.path, tmp_path / "b.ts", "torchscript")
    (tmp_path / "x.onnx").write_bytes(b"\x08\x08")
    with pytest.raises(ValueError, match=r"x\.onnx: is onnx already"):
        export_model(tmp_path / "x.onnx", tmp_path / "b.ts", "torchscript")
    with pytest.raises(ValueError, match="size must be at least 1"):
        export_model(model, tmp_path / "b.ts", "torchscript", size=0)
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        export_model(tmp_path / "gone.pt", tmp_path / "b.ts", "torchscript")


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_libraries_are_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    onnx()
    monkeypatch.setitem(sys.modules, name, None)
    message = rf"needs {name}, which is not installed. Run: pip install 'phnet-monai\[onnx\]'"
    with pytest.raises(MissingExtraError, match=message):
        export_model(model, tmp_path / "a.onnx", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
