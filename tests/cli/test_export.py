"""`phnet export` from the command line to the file."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from phnet_monai.cli.arguments import bind, signature_of
from phnet_monai.cli.export import export, kind_of
from phnet_monai.cli.main import main
from phnet_monai.data import write_phantoms
from phnet_monai.inference.models import load_model

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "model_files.py")))


def call(*words: str | Path) -> int:
    """As `phnet export WORDS` calls it."""
    return export(**bind(signature_of(export, "phnet export"), [str(word) for word in words]))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return made.write_checkpoint(tmp_path / "1e3,#.pt")


def test_what_is_printed(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new folder" / "Übung.ts"
    assert call(model, out) == 0
    captured = capfd.readouterr()
    first, second = captured.out.splitlines()
    loaded = load_model(out, device="cpu")
    assert first.startswith(f"{out}: torchscript, input 32 x 32, 0.")
    assert first.endswith(f" MB, sha256 {loaded.sha256}")
    assert second.startswith("largest difference of a probability on 4 phantoms: ")
    assert second.endswith(" (allowed 1e-04)")
    assert captured.err == ""
    assert loaded.backend == "torchscript"


def test_several_models_and_the_student(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = made.write_checkpoint(tmp_path / "b.pt", seed=4)
    assert call(model, other, tmp_path / "both.pt", "--to", "torchscript", "--which=student", "--size", "40") == 0
    assert "both.pt: phnet infer takes a program under this name with --backend torchscript" in capsys.readouterr().out
    pictures = write_phantoms(tmp_path / "made", 2, size_range=(40, 50)) / "images"
    words = ["infer", str(pictures), str(tmp_path / "out"), "--model", str(tmp_path / "both.pt"), "--device", "cpu"]
    assert main([*words, "--quiet"]) == 2
    assert main([*words, "--quiet", "--backend", "torchscript"]) == 0  # as both messages say
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 2
    loaded = load_model(tmp_path / "both.pt", device="cpu", backend="torchscript")
    assert loaded.details["source"] == ["1e3,#.pt", "b.pt"]
    assert (loaded.size, loaded.details["which"]) == (40, "student")


def test_an_existing_file_is_kept(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    out.write_bytes(b"old")
    with pytest.raises(FileExistsError, match="--overwrite"):
        call(model, out)
    assert out.read_bytes() == b"old"
    assert call(model, out, "--overwrite") == 0
    assert load_model(out, device="cpu").size == 32


def test_the_ending_tells_the_kind() -> None:
    found = [kind_of(name) for name in ("a.TS", "b.onnx", "c.safetensors")]
    assert found == ["torchscript", "onnx", "safetensors"]
    with pytest.raises(ValueError, match=r"a\.pt: its ending does not tell the kind of export; give --to"):
        kind_of("a.pt")


@pytest.mark.slow
def test_onnx_is_silent(model: Path, tmp_path: Path) -> None:
    """In a process of its own, as a user sees it: no warnings, no progress of the exporter."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    code = f"from phnet_monai.cli.export import export; export([{str(model)!r}], {str(tmp_path / 'a.onnx')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2
