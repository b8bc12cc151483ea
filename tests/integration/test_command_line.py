"""The command line from end to end on phantoms, called in this process."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phnet_monai import demo
from phnet_monai.cli.inputs import model_files
from phnet_monai.cli.main import main
from phnet_monai.data import load_datalist, read_image, write_phantoms
from phnet_monai.engines.run import compose, overlay
from phnet_monai.inference.models import default_model
from phnet_monai.shipped import bundle_folder

Output = pytest.CaptureFixture[str]

TINY_NETWORK = {
    "network_def#decoder": "plain_unet",
    "network_def#weights": None,
    "network_def#unet_features": [4, 8, 8, 16, 16],
    "network_def#head_channels": 8,
}


def phnet(*words: object) -> int:
    return main([str(word) for word in words])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_from_a_folder_of_pictures_to_masks(phantoms: Path, tmp_path: Path, capsys: Output) -> None:
    data, run, scores, masks = (tmp_path / name for name in ("data", "run", "scores", "masks"))

    assert phnet("prepare", "folder", phantoms, data, "--labeled", 6, "--quiet") == 0
    listed = load_datalist(data)
    assert len(listed["labeled"]) == 6
    assert re.search(r"^labeled +6\b", capsys.readouterr().out, re.MULTILINE)

    few = ["--max_epochs", 3, "--apa#threshold", 0.8, "--train#loader#batch_size", 3]
    assert phnet("train", data, run, "--profile", "smoke", "--seed", 7, "--device", "cpu", *few) == 0
    out = capsys.readouterr().out
    report = json.loads((run / "run.json").read_text(encoding="utf-8"))
    for name in ("best", "last"):
        score, epoch = report[name]["score"], report[name]["epoch"]
        assert f"{name}.pt (epoch {epoch}): pooled_dice {score:.4f} on the validation part" in out
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert (config["max_epochs"], config["seed"], config["apa"]["threshold"]) == (3, 7, 0.8)
    assert (config["size"], config["train"]["loader"]["batch_size"]) == (64, 3)

    assert phnet("evaluate", run / "last.pt", data, scores, "--part", "validation", "--device", "cpu") == 0
    out = capsys.readouterr().out
    summary = json.loads((scores / "summary.json").read_text(encoding="utf-8"))
    assert f"{100 * summary['pooled_dice']:.1f}" in out or f"{summary['pooled_dice']:.3f}" in out
    # the same network on the same images as at the end of the training
    assert summary["pooled_dice"] == pytest.approx(report["last"]["score"], abs=1e-6)
    with open(scores / "per_image.csv", encoding="utf-8", newline="") as file:
        assert {row["case_id"] for row in csv.DictReader(file)} == {item["case_id"] for item in listed["validation"]}

    assert phnet("infer", phantoms / "images", masks, "--model", run / "last.pt", "--probabilities", "--quiet") == 0
    for picture in sorted((phantoms / "images").iterdir()):
        with Image.open(masks / "masks" / picture.name) as mask:
            assert set(np.unique(np.asarray(mask))) <= {0, 255}
            assert mask.size == read_image(picture).shape[::-1]
        assert (masks / "overlays" / f"{picture.stem}.jpg").is_file()
        assert (masks / "probabilities" / picture.name).is_file()
    assert json.loads((masks / "run.json").read_text(encoding="utf-8"))["finished"] is True


def test_the_shipped_model_is_scored_by_name(
    datalist: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = tmp_path / "scores"
    assert phnet("evaluate", "default", datalist, scores, "--device", "cpu", "--report") == 0
    named = files(scores)
    assert phnet("evaluate", default_model(), datalist, tmp_path / "again", "--device", "cpu") == 0
    assert files(tmp_path / "again")["per_image.csv"] == named["per_image.csv"]
    assert phnet("evaluate", bundle_folder(), datalist, tmp_path / "bundle", "--device", "cpu") == 0
    groups = {item["group_id"] for item in load_datalist(datalist)["test"]}
    with open(scores / "per_image.csv", encoding="utf-8", newline="") as file:
        assert {row["group"] for row in csv.DictReader(file)} == groups
    assert (scores / "report.html").is_file()
    # a file of that name is meant where there is one
    monkeypatch.chdir(tmp_path)
    Path("default").write_bytes(b"no checkpoint")
    capsys.readouterr()
    assert phnet("evaluate", "default", datalist, tmp_path / "own") == 2
    assert "default: not a readable checkpoint" in capsys.readouterr().err
    assert model_files(None) == [str(default_model())]  # but never without being asked for
    assert phnet("evaluate", "defualt", datalist, tmp_path / "own") == 2
    assert "`default` for the model that comes with phnet" in capsys.readouterr().err


def test_resume_goes_on_where_a_run_was_cut(trained: Path, datalist: Path, tmp_path: Path, capsys: Output) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("last.pt", "best.pt"):
        (run / name).write_bytes((trained / name).read_bytes())
    assert phnet("train", datalist, run, "--profile", "smoke", "--resume") == 0
    assert "last.pt (epoch 2)" in capsys.readouterr().out
    assert phnet("train", datalist, run, "--profile", "smoke", "--resume", "--max_epochs", 5) == 2
    error = capsys.readouterr().err
    assert "began with another configuration: max_epochs was 2, is 5" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--max_epoch", "3"], "did you mean 'max_epochs'?"),
        (["--apa#treshold", "0.8"], "did you mean 'apa#threshold'?"),
        (["--train#trainer#amp_", "bf16"], "did you mean 'train#trainer#amp'?"),
        (["--sead", "3"], "did you mean --seed?"),
        (["--method", "phnets"], "choose one of: augseg, "),
        (["--profile", "smoky"], "did you mean smoke?"),
        (["--init", "no_such.pt"], "no_such.pt: no such file"),
        (["--config", "no_such.json"], "no_such.json: no such file"),
        (["--resume", "--init", __file__], "exclude each other"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_refused_before_any_work(
    words: list[str], hint: str, datalist: Path, tmp_path: Path, capsys: Output
) -> None:
    profile = [] if "--profile" in words else ["--profile", "smoke"]
    assert phnet("train", datalist, tmp_path / "run", *profile, *words) == 2
    captured = capsys.readouterr()
    assert hint in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--apa#threshold", "1.5"], "threshold is 1.5, expected a value in [0, 1]"),
        (["--pretrain_epochs", "9"], "pretrain_epochs is 9"),
        (["--network_def#decoder", "vnet"], "unknown decoder 'vnet'"),
        (["--rate", "1e30"], "the loss is not finite"),
        (["--size", "10000000000"], "not enough memory (Storage size calculation overflowed"),
        # one step an epoch and no validation: the checkpoint is the first to look
        (
            ["--epoch_length", "1", "--val_interval", "2", "--rate", "3e38", "--optimizer#weight_decay", "1e4"],
            "weights are not finite",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_impossible_values_are_one_line_too(
    words: list[str], reason: str, datalist: Path, tmp_path: Path, capsys: Output
) -> None:
    """Errors of components reach the user as themselves, not as MONAI's report of a failed expression."""
    assert phnet("train", datalist, tmp_path / "run", "--profile", "smoke", *words) == 2
    error = capsys.readouterr().err
    assert reason in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not list((tmp_path / "run").glob("*.pt"))


def test_folder_that_holds_a_run_is_refused(trained: Path, datalist: Path, capsys: Output) -> None:
    before = files(trained)
    assert phnet("train", datalist, trained, "--profile", "smoke") == 2
    error = capsys.readouterr().err
    assert str(trained / "last.pt") in error
    assert "--resume" in error
    assert files(trained) == before


def test_checkpoint_of_another_kind_is_refused(datalist: Path, tmp_path: Path, capsys: Output) -> None:
    weights = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(3)}, weights)
    assert phnet("evaluate", weights, datalist, tmp_path / "out") == 2
    assert "weights.pt" in capsys.readouterr().err
    assert phnet("train", datalist, tmp_path / "run", "--profile", "smoke", "--init", weights) == 2
    error = capsys.readouterr().err
    assert "weights.pt: the weights are of another network" in error.splitlines()[-1]
    assert not list((tmp_path / "run").glob("*.pt"))


@pytest.mark.parametrize("values", ["WARM_START", "SAME_STEPS"])
def test_demo_sets_what_the_configs_have(values: str) -> None:
    overrides = getattr(demo, values)
    configs = bundle_folder() / "configs"
    parser = compose(configs / "train.json", [overlay("profiles", "cpu"), overlay("methods", "sup_only")], overrides)
    assert parser["pretrain_epochs"] <= parser["max_epochs"]
    assert parser["progress#always"] is True
    assert parser["size"] % parser["grid_size"] == 0


def test_demo_is_the_whole_way(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """`phnet demo` as it is shipped, with fewer and smaller images, fewer steps and the smallest network."""
    small = {"size": 64, "grid_size": 8, "epoch_length": 2, "batch_size": 2, **TINY_NETWORK}
    monkeypatch.setattr(demo, "IMAGES", 20)
    monkeypatch.setattr(demo, "LABELED", 4)
    monkeypatch.setattr(demo, "SMALL", small)
    monkeypatch.setattr(demo, "WARM_START", {**small, "max_epochs": 1, "pretrain_epochs": 1})
    monkeypatch.setattr(demo, "SAME_STEPS", {**small, "max_epochs": 2})
    monkeypatch.setattr(demo, "write_phantoms", lambda *args, **kw: write_phantoms(*args, **kw, size_range=(40, 72)))
    out = tmp_path / "demo"
    assert phnet("demo", out, "--seed", 3) == 0
    printed = capsys.readouterr().out
    result = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    assert (result["images"], result["labeled"], result["seed"]) == (20, 4, 3)
    tested = sorted(Path(item["image"]).name for item in load_datalist(out / "data")["test"])
    for name in ("supervised_only", "phnet"):
        row = result[name]
        assert row["images"] == len(tested)
        summary = json.loads((out / name / "test" / "summary.json").read_text(encoding="utf-8"))
        assert row["pooled_dice"] == summary["pooled_dice"]
        shown = rf"^{name} +{100 * row['pooled_dice']:.1f} +{100 * row['dice_mean']:.1f}$"
        assert re.search(shown, printed, re.MULTILINE), printed
    assert "4 of 20 images" in printed
    for kind, ending in (("masks", "png"), ("overlays", "jpg")):
        written = sorted(path.name for path in (out / "segmented" / kind).iterdir())
        assert written == [f"{Path(name).stem}.{ending}" for name in tested]
    methods = [json.loads((out / name / "config.json").read_text())["method"] for name in ("supervised_only", "phnet")]
    assert methods == ["sup_only_ema", "phnet"]

    assert phnet("demo", out) == 2  # an earlier demo is not overwritten
    assert "holds an earlier demo" in capsys.readouterr().err
