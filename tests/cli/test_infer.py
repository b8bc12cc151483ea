"""`phnet infer` from the command line to the files, with a checkpoint as `phnet train` writes it."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phnet_monai.cli.main import main
from phnet_monai.networks import PHNet


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    network = PHNet("resnet18", "plain_unet", embedding_size=None, head_channels=4, unet_features=(4, 4, 4, 4, 4))
    info = {"network": network.arguments, "input": {"size": 32, "pad_value": 0.33}}
    path = tmp_path_factory.mktemp("model") / "1e3,#.pt"
    torch.save({"student": network.state_dict(), "info": info}, path)
    return str(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "ma#sk 2024,None"
    (folder / "Übung").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, size in [("1e3.png", (50, 70)), ("Übung/it's.jpg", (71, 33))]:
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(folder / name)
    return folder


def test_awkward_names_from_end_to_end(model: str, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "1e3"
    options = ["--device", "cpu", "--batch-size=1", "--probabilities", "--no-overlays", "--quiet"]
    assert main(["infer", str(images), str(out), "--model", model, *options]) == 0
    for kind in ("masks", "probabilities"):
        with Image.open(out / kind / "1e3.png") as first, Image.open(out / kind / "Übung" / "it's.png") as second:
            assert (first.size, second.size) == ((70, 50), (33, 71))
    assert not (out / "overlays").exists()
    content = json.loads((out / "run.json").read_text())
    assert content["settings"]["model"] == "1e3,#.pt"
    assert content["settings"]["threshold"] == 0.5


def test_the_masks_are_those_of_the_library(model: str, images: Path, tmp_path: Path) -> None:
    from phnet_monai.data import read_image
    from phnet_monai.inference import Predictor

    image = images / "1e3.png"
    [probs] = Predictor.from_model(model, "cpu").predict([read_image(image)])
    threshold = round(float(np.median(probs)), 4)
    words = ["infer", str(image), str(tmp_path / "o"), "--model", model, "--device=cpu"]
    assert main([*words, f"--threshold={threshold}", "--quiet"]) == 0
    with Image.open(tmp_path / "o" / "masks" / "1e3.png") as mask:
        found = np.asarray(mask)
    assert 0 < (found > 0).mean() < 1
    np.testing.assert_array_equal(found > 0, probs >= threshold)


@pytest.mark.parametrize("joined", [False, True])
def test_several_models_are_an_ensemble(model: str, images: Path, tmp_path: Path, joined: bool) -> None:
    from phnet_monai.data import read_image
    from phnet_monai.inference import Predictor

    content = torch.load(model, weights_only=True)
    content["student"] = {name: t * 2 if t.is_floating_point() else t for name, t in content["student"].items()}
    content["info"]["input"]["size"] = 48
    other, plain = tmp_path / "other.pt", tmp_path / "plain.pt"  # a comma in the first one's name would be no joint
    torch.save(content, other)
    plain.write_bytes(Path(model).read_bytes())
    models = ["--model", f"{plain},{other}"] if joined else ["--model", model, "--model", str(other)]
    image = images / "1e3.png"
    probs = [Predictor.from_model(file, "cpu").predict([read_image(image)])[0] for file in (model, other)]
    threshold = round(float(np.median((probs[0] + probs[1]) / 2)), 4)
    words = ["infer", str(image), str(tmp_path / "o"), *models, "--device=cpu", f"--threshold={threshold}", "--quiet"]
    assert main(words) == 0
    with Image.open(tmp_path / "o" / "masks" / "1e3.png") as mask:
        found = np.asarray(mask) > 0
    expected = (probs[0] + probs[1]) / 2 > threshold
    assert 0 < expected.mean() < 1
    assert (found != expected).mean() < 1e-3  # rounding at the threshold
    settings = json.loads((tmp_path / "o" / "run.json").read_text())["settings"]
    assert settings["model"] == [Path(plain).name if joined else Path(model).name, "other.pt"]
    assert main(words) == 0  # the same ensemble goes on in its folder
    assert main([*words[:3], "--model", model, *words[3 + len(models) :]]) == 2  # one of them alone does not


def test_exit_codes(model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "bad.png").write_bytes(b"no image")
    line = ["infer", str(images), str(tmp_path / "o"), "--model", model, "--device", "cpu"]
    assert main(line) == 3
    captured = capsys.readouterr()
    assert "failed: bad.png: " in captured.err
    assert "2 segmented" in captured.out
    (images / "bad.png").unlink()
    assert main(line) == 0
    assert "0 segmented (0 without lesion), 2 finished earlier" in capsys.readouterr().out
    assert main([*line, "--threshold", "0.6"]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_nothing_to_do(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "readme.txt").write_text("x")
    assert main(["infer", str(tmp_path / "none"), str(tmp_path / "o"), "--model", model]) == 4
    assert "nothing to do" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_folder_of_earlier_results_holds_no_image(
    images: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "in" / "first"
    assert main(["infer", str(images), str(first), "--model", model, "--device", "cpu", "--quiet"]) == 0
    assert main(["infer", str(tmp_path / "in"), str(tmp_path / "o"), "--model", model]) == 4
    assert "holds no image but in folders of earlier results, which are passed over" in capsys.readouterr().err


def test_an_empty_model_is_refused_by_its_flag(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", str(images), str(tmp_path / "o"), "--model", ""]) == 2
    assert "--model is empty (a variable that is not set?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{in}/nope", "{out}", "--model", "{model}"], "no such file or folder"),
        (["{in}", "{out}", "--model", "{model}", "--limit", "0"], "--limit must be at least 1"),
        (["{in}", "{out}", "--model", "{in}/nope.pt"], "no such model"),
        (["{in}", "{out}", "--model", "{in}"], "no bundle"),
        (["{in}", "{out}", "--model", "{model}", "--min-area-px", "-1"], "--min-area-px must be at least 0"),
        (["{in}", "{out}", "--model", "{model}", "--spacing-mm", "0"], "--spacing-mm must be above 0"),
        (["{in}", "{out}", "--model", "{model}", "--backend", "onnx"], "phnet export"),
        (["{in}", "{out}", "--model", "{model}", "--backend", "tensorrt"], "--backend"),
        (["{in}", "{in}/out", "--model", "{model}"], "lies in the input folder"),
        (["{in}", "{model}", "--model", "{model}"], "is a file"),
        (["{in}", "{out}", "--model", "{model}", "--threshold", "50"], "--threshold"),
        (["{in}", "{out}", "--model", "{model}", "--threshold", "half"], "--threshold"),
        (["{in}", "{out}", "--model", "{model}", "--batch-size", "0"], "--batch-size"),
        (["{in}", "{out}", "--model", "{model}", "--device", "gpu"], "'gpu' cannot be used"),
        (["{in}", "{out}", "--model", "{in}/1e3.png"], "not a readable checkpoint"),
        (["{in}", "{out}", "--model", "{model}", "--overlay"], "--overlays"),
    ],
)
def test_mistakes(
    words: list[str], message: str, model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"{in}": str(images), "{out}": str(tmp_path / "o"), "{model}": model}
    for mark, name in names.items():
        words = [word.replace(mark, name) for word in words]
    assert main(["infer", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_dry_run_writes_nothing_and_needs_no_model(
    images: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["infer", str(images), str(tmp_path / "o"), "--model", model]
    assert main([*line, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "to do: 1e3.png -> masks/1e3",
        "to do: Übung/it's.jpg -> masks/Übung/it's",
    ]
    assert not (tmp_path / "o").exists()
    assert main([*line, "--limit", "1", "--quiet"]) == 0
    assert main([*line, "--dry-run"]) == 0
    assert [entry.split(":")[0] for entry in capsys.readouterr().out.splitlines()] == ["finished", "to do"]


def test_a_pattern(images: Path, tmp_path: Path, model: str) -> None:
    out = tmp_path / "o"
    assert main(["infer", str(images / "*" / "*.jpg"), str(out), "--model", model, "--quiet"]) == 0
    assert [path.relative_to(out).as_posix() for path in (out / "masks").rglob("*.png")] == ["masks/Übung/it's.png"]


def test_settings_reach_run_json(images: Path, tmp_path: Path, model: str) -> None:
    words = [
        "--flip",
        "--fill-holes",
        "--largest-only",
        "--min-area-px=5",
        "--spacing-mm=0.1",
        "--hardness",
        "--no-report",
    ]
    assert main(["infer", str(images), str(tmp_path / "o"), "--model", model, "--quiet", *words]) == 0
    settings = json.loads((tmp_path / "o" / "run.json").read_text())["settings"]
    asked = {"flip": True, "fill_holes": True, "largest_only": True, "min_area_px": 5, "spacing_mm": 0.1}
    assert {name: settings[name] for name in asked} == asked
    assert (tmp_path / "o" / "hardness" / "1e3.jpg").is_file()
    assert not (tmp_path / "o" / "report.html").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_leave_complete_files_and_the_rest_goes_on(
    images: Path,
    tmp_path: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    number: int,
    code: int,
) -> None:
    from phnet_monai.inference import Predictor

    out, real, calls = tmp_path / "o", Predictor.predict, []
    # a shell that starts the tests in the background has Ctrl-C ignored, and Python leaves it so
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, interrupt))

    def ended(self: Predictor, batch: list[np.ndarray]) -> list[np.ndarray]:
        calls.append(len(batch))
        if len(calls) == 2:
            signal.raise_signal(number)
        return real(self, batch)

    monkeypatch.setattr(Predictor, "predict", ended)
    line = ["infer", str(images), str(out), "--model", model, "--batch-size", "1"]
    before = signal.getsignal(signal.SIGTERM)
    assert main(line) == code
    assert signal.getsignal(signal.SIGTERM) is before
    assert not list(out.rglob("*.part"))
    assert json.loads((out / "run.json").read_text())["finished"] is False
    for path in out.rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    monkeypatch.setattr(Predictor, "predict", real)
    assert main(line) == 0
    assert json.loads((out / "run.json").read_text())["finished"] is True
    assert len(list((out / "masks").rglob("*.png"))) == 2


def test_the_model_that_comes_with_the_package(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert main(["infer", str(images), str(out), "--device", "cpu", "--quiet"]) == 0
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert (settings["model"], settings["size"]) == ("model.safetensors", 160)


def test_wrong_paths_are_answered_before_torch_is_loaded(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; from phnet_monai.cli.main import main\n"
        "code = main(['infer', 'nope', 'o', '--model', 'm'])\n"
        "sys.exit(code if 'torch' not in sys.modules else 99)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_segmenting_does_not_load_monai_which_takes_seconds(images: Path, tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; from phnet_monai.cli.main import main\n"
        f"code = main(['infer', {str(images)!r}, 'o', '--device', 'cpu', '--quiet'])\n"
        "loaded = [name for name in ('monai', 'ignite', 'tensorboard', 'mlflow') if name in sys.modules]\n"
        "sys.exit(f'code {code}, loaded {loaded}' if code or loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
