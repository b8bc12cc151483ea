"""Whole trainings through the configs, on phantoms and the smallest network: what is learned, logged and saved."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from phnet_monai.data import load_part
from phnet_monai.engines import NonFiniteLossError
from phnet_monai.engines.run import ConfigError, train_run
from phnet_monai.files import locked
from phnet_monai.handlers import Progress, SaveCheckpoints
from phnet_monai.networks import CheckpointError
from phnet_monai.transforms import WeakView

History = Callable[[Path], list[dict[str, Any]]]

EPOCHS, STEPS = 4, 5
# threshold 0.5 keeps every pixel, so that the unlabeled term works from the first semi-supervised step on
# at the profile's rate, so short a run may end in plain background, without anything to contrast
FEW = {"max_epochs": EPOCHS, "epoch_length": STEPS, "pretrain_epochs": 1, "rate": 0.001}


class Killed(Exception):
    """Stands for whatever ends a run from outside."""


def train(datalist: Path, out: Path, **options: Any) -> dict[str, Any]:
    semi = {"apa#threshold": 0.5} if options.get("method", "phnet") == "phnet" else {}
    overrides = {**FEW, **semi, **options.pop("overrides", {})}
    # sums on a GPU depend on the order of its threads: bits are compared on the CPU
    return train_run(datalist, out, profile="smoke", device="cpu", overrides=overrides, **options)


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Places in which two nested structures of tensors and plain values are not the same, to the bit."""
    if type(first) is not type(second):
        return [f"{where}: {type(first).__name__} and {type(second).__name__}"]
    if isinstance(first, torch.Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [where]
    if isinstance(first, dict):
        if list(first) != list(second):
            return [f"{where}: keys {list(first)} and {list(second)}"]
        return [place for key in first for place in differences(first[key], second[key], f"{where}/{key}")]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [f"{where}: {len(first)} and {len(second)} entries"]
        pairs = zip(first, second, strict=True)
        return [place for index, (a, b) in enumerate(pairs) for place in differences(a, b, f"{where}/{index}")]
    return [] if first == second else [f"{where}: {first} and {second}"]


@pytest.fixture(scope="module")
def whole(datalist: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PH-Net, four epochs without a break, from weights that see both classes (so the memory bank fills)."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(datalist, out, init=checkpoint)
    return out


# --- terms, logs, files


def test_every_term_is_finite_and_moves(whole: Path, history: History) -> None:
    rows = history(whole)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["iteration"] for row in rows] == [5, 10, 15, 20]
    assert not {"loss_unlabeled", "loss_contrast", "hardness"} & set(rows[0]["train"])  # labeled images only
    for row in rows:
        assert all(math.isfinite(value) for value in row["train"].values()), row
        assert all(0 <= value <= 1 for value in row["validation"].values()), row
    for term, since in (("loss_labeled", 0), ("loss_unlabeled", 1), ("loss_contrast", 1), ("loss", 0)):
        values = [row["train"][term] for row in rows[since:]]
        assert min(values) > 0, term
        assert len(set(values)) == len(values), term
    assert [row["train"]["rate"] for row in rows] == sorted((row["train"]["rate"] for row in rows), reverse=True)
    # Eq. 5: more patches are shielded the longer the training goes on; fewer where too few lie within the image
    for row in rows[1:]:
        most = math.floor(0.3 * row["epoch"] / EPOCHS * 64) / 64
        assert 0.8 * most < row["train"]["shielded_share"] <= most
    assert rows[-1]["train"]["contrast_classes"] == 2


def test_the_total_is_the_weighted_sum(datalist: Path, checkpoint: Path, tmp_path: Path, history: History) -> None:
    weights = {"hpc#weight": 0.25, "train#trainer#unlabeled_weight": 3.0}
    train(datalist, tmp_path / "run", init=checkpoint, overrides=weights)
    last = history(tmp_path / "run")[-1]["train"]
    expected = last["loss_labeled"] + 3.0 * last["loss_unlabeled"] + 0.25 * last["loss_contrast"]
    assert last["loss"] == pytest.approx(expected, rel=1e-6)


def test_tensorboard_has_terms_scores_and_panels(whole: Path, datalist: Path) -> None:
    events = EventAccumulator(str(whole / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    terms = {"loss", "loss_labeled", "loss_unlabeled", "loss_contrast", "rate", "hardness", "confident_pixels"}
    assert {f"train/{name}" for name in terms} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [10, 20]
    assert [event.step for event in events.Scalars("validation/pooled_dice")] == [5, 10, 15, 20]
    assert tags["images"] == ["panels"]
    panels = events.Images("panels")
    assert [event.step for event in panels] == [10, 15, 20]  # the first epoch has no unlabeled view
    assert (panels[-1].width, panels[-1].height) == (6 * 64, 2 * 64)


def test_best_and_last_are_written_and_reported(whole: Path, datalist: Path, history: History) -> None:
    report = json.loads((whole / "run.json").read_text(encoding="utf-8"))
    scores = [row["validation"]["pooled_dice"] for row in history(whole)]
    best, last = read(whole / "best.pt"), read(whole / "last.pt")
    assert report["best"] == {"score": max(scores), "epoch": scores.index(max(scores)) + 1}
    assert report["last"] == {"score": scores[-1], "epoch": EPOCHS}
    assert report["score"] == "pooled_dice"
    assert report["evaluated"] == "teacher"
    assert best["info"]["epoch"] == report["best"]["epoch"]
    assert best["info"]["score"] == {"name": "pooled_dice", "value": report["best"]["score"]}
    assert last["info"]["epoch"] == EPOCHS
    assert last["info"]["input"] == {"size": 64, "pad_value": 0.33}
    assert "training" not in best
    assert sorted(last["training"]["handlers"]) == ["ema", "hpc", "log"]
    config = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    assert config["apa"]["threshold"] == 0.5
    assert config["network_def"]["decoder"] == "plain_unet"
    assert not list(whole.glob(".*.part"))  # no half-written file


def test_student_teacher_and_memory_have_learned(whole: Path, checkpoint: Path) -> None:
    before, after = read(checkpoint), read(whole / "last.pt")
    student, teacher = after["student"], after["teacher"]
    assert all(torch.isfinite(tensor).all() for tensor in [*student.values(), *teacher.values()])
    weights = [name for name in teacher if name.endswith("weight")]
    assert weights
    assert all(not torch.equal(student[name], before["student"][name]) for name in weights)
    assert all(not torch.equal(student[name], teacher[name]) for name in weights)
    assert not any(name.startswith("projector.") for name in teacher)
    # the teacher follows: it lies nearer to the student than to where the student began
    name = weights[0]
    assert (teacher[name] - student[name]).norm() < (teacher[name] - before["student"][name]).norm()
    bank = after["training"]["handlers"]["hpc"]
    filled = next(value for key, value in bank.items() if key.endswith("filled"))
    assert (filled > 0).all()
    assert after["training"]["handlers"]["ema"] == {"updates": (EPOCHS - 1) * STEPS}


# --- repeating


def test_same_seed_same_run_another_seed_another(
    whole: Path, datalist: Path, checkpoint: Path, tmp_path: Path, history: History
) -> None:
    np.random.seed(3)  # what happened before in the process must not matter
    torch.manual_seed(3)
    train(datalist, tmp_path / "same", init=checkpoint)
    assert differences(read(whole / "last.pt"), read(tmp_path / "same" / "last.pt")) == []
    assert history(whole) == history(tmp_path / "same")
    train(datalist, tmp_path / "other", init=checkpoint, seed=1)
    assert differences(read(whole / "last.pt")["student"], read(tmp_path / "other" / "last.pt")["student"])


def test_seed_also_draws_the_first_weights(datalist: Path, tmp_path: Path) -> None:
    still = {"rate": 0.0, "max_epochs": 1, "epoch_length": 1}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        train(datalist, tmp_path / name, seed=seed, overrides=still)
    first, again, other = (read(tmp_path / name / "last.pt")["student"] for name in ("first", "again", "other"))
    assert differences(first, again) == []
    weight = next(name for name in first if name.endswith("conv.weight"))
    assert not torch.equal(first[weight], other[weight])


@pytest.mark.parametrize("killed_at", [2 * STEPS + 1, 3 * STEPS - 1], ids=["early", "late"])
def test_resumed_run_equals_an_uninterrupted_one(
    killed_at: int, whole: Path, datalist: Path, checkpoint: Path, tmp_path: Path, history: History
) -> None:
    """Killed in the third epoch and resumed: networks, memory bank, optimiser, schedule and best score are equal."""

    def kill(progress: Progress, engine: Engine) -> None:
        if engine.state.iteration == killed_at:
            raise Killed

    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "step", kill)
        with pytest.raises(Killed):
            train(datalist, out, init=checkpoint)
    half = read(out / "last.pt")
    assert half["training"]["epoch"] == 2
    assert not (out / "run.json").exists()
    assert not list(out.glob(".*.part"))

    result = train(datalist, out, resume=True)
    resumed, unbroken = read(out / "last.pt"), read(whole / "last.pt")
    assert resumed["training"]["optimizer"]["state"]
    assert differences(resumed, unbroken) == []
    assert differences(read(out / "best.pt"), read(whole / "best.pt")) == []
    assert result["best"] == json.loads((whole / "run.json").read_text(encoding="utf-8"))["best"]
    assert history(out) == history(whole)  # nothing of the broken epoch is counted


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"overrides": {"max_epochs": 3}}, "max_epochs was 2, is 3"),
        ({"method": "sup_only"}, 'method was "phnet", is "sup_only"'),
        ({"seed": 5}, "seed was 0, is 5"),
        ({"overrides": {"apa#threshold": 0.1}}, r"apa#threshold was 0\.\d+, is 0\.1"),
        ({"overrides": {"optimizer#lr": 0.5}}, 'optimizer#lr was "@rate", is 0.5'),
        ({"overrides": {"network_def#dropout": 0.2}}, r"network_def#dropout was null, is 0\.2"),
    ],
)
def test_resume_refuses_another_configuration(
    trained: Path, datalist: Path, changes: dict[str, Any], named: str
) -> None:
    before = {name: (trained / name).read_bytes() for name in ("last.pt", "config.json")}
    with pytest.raises(ConfigError, match=rf"config\.json: the run began with another configuration: .*{named}"):
        train_run(datalist, trained, profile="smoke", resume=True, **changes)
    assert {name: (trained / name).read_bytes() for name in before} == before


def test_a_run_of_a_version_that_lacked_an_option_goes_on(trained: Path, datalist: Path, tmp_path: Path) -> None:
    for name in ("last.pt", "best.pt", "config.json"):
        shutil.copy(trained / name, tmp_path)
    kept = tmp_path / "config.json"
    config = json.loads(kept.read_text(encoding="utf-8"))
    del config["train"]["trainer"]["unlabeled_loss"]
    kept.write_text(json.dumps(config), encoding="utf-8")
    other = {"train#trainer#unlabeled_loss": "ce_dice"}
    with pytest.raises(ConfigError, match='train#trainer#unlabeled_loss was null, is "ce_dice"'):
        train_run(datalist, tmp_path, profile="smoke", resume=True, overrides=other)
    assert train_run(datalist, tmp_path, profile="smoke", resume=True)["last"]["epoch"] == 2


def test_a_checkpoint_beside_which_no_config_lies_is_looked_at_itself(
    trained: Path, datalist: Path, tmp_path: Path
) -> None:
    shutil.copy(trained / "last.pt", tmp_path)
    with pytest.raises(CheckpointError, match="max_epochs = 2, now it is 3"):
        train_run(datalist, tmp_path, profile="smoke", resume=True, overrides={"max_epochs": 3})
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="belongs to the method 'phnet'"):
        train_run(datalist, tmp_path, profile="smoke", method="sup_only", resume=True)


def test_two_trainings_in_one_folder_are_refused(trained: Path, datalist: Path) -> None:
    with locked(trained, "test"), pytest.raises(BlockingIOError, match="another `phnet train` is at work"):
        train_run(datalist, trained, profile="smoke", resume=True)


def test_finished_run_resumes_to_itself(datalist: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = train(datalist, out, overrides={"max_epochs": 2})
    before = read(out / "last.pt")
    again = train(datalist, out, resume=True, overrides={"max_epochs": 2})
    assert differences(before, read(out / "last.pt")) == []
    assert again["best"] == first["best"]


def test_folder_with_a_run_is_refused_before_any_work(trained: Path, datalist: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in trained.iterdir()}
    with pytest.raises(FileExistsError, match="last.pt"):
        train_run(datalist, trained, profile="smoke", method="sup_only")
    assert {path.name: path.stat().st_mtime_ns for path in trained.iterdir()} == before


def test_warm_start_takes_the_weights_of_a_supervised_run(datalist: Path, tmp_path: Path) -> None:
    train(datalist, tmp_path / "start", method="sup_only")
    start = read(tmp_path / "start" / "last.pt")
    assert "teacher" not in start
    # at rate 0 the weights stay where the warm start put them (statistics of batch normalisation move on)
    init = tmp_path / "start" / "last.pt"
    train(datalist, tmp_path / "phnet", method="phnet", init=init, overrides={"rate": 0.0})
    after = read(tmp_path / "phnet" / "last.pt")
    moving = ("running_mean", "running_var", "num_batches_tracked")
    fixed = [name for name in start["student"] if not name.endswith(moving)]
    assert fixed
    for name in fixed:
        assert torch.equal(after["student"][name], start["student"][name]), name
        torch.testing.assert_close(after["teacher"][name], start["student"][name])
    assert any(name.startswith("projector.") for name in after["student"])


# --- what may go wrong


@pytest.mark.parametrize("rate", [1e30])
def test_diverging_training_writes_no_checkpoint(rate: float, datalist: Path, tmp_path: Path) -> None:
    with pytest.raises((NonFiniteLossError, FloatingPointError), match="not finite"):
        train(datalist, tmp_path / "run", overrides={"rate": rate})
    assert not list((tmp_path / "run").glob("**/*.pt*"))


def test_broken_image_stops_the_run_and_spares_the_checkpoints(
    datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN in an image of the second epoch: last.pt is still that of the first, and the run goes on from there."""
    out, broken = tmp_path / "run", []
    make, save = WeakView.__call__, SaveCheckpoints.save

    def make_broken(self: WeakView, *args: Any) -> dict[str, torch.Tensor]:
        view = make(self, *args)
        if broken:
            view["image"][..., 20:30, 20:30] = math.nan
        return view

    def save_then_break(self: SaveCheckpoints, engine: Engine) -> None:
        save(self, engine)
        broken.append(engine.state.epoch)

    with monkeypatch.context() as patch:
        patch.setattr(WeakView, "__call__", make_broken)
        patch.setattr(SaveCheckpoints, "save", save_then_break)
        with pytest.raises(NonFiniteLossError, match=rf"epoch 2, iteration {STEPS + 1}.*labeled = nan"):
            train(datalist, out)
    assert broken == [1]
    for name in ("last.pt", "best.pt"):
        content = read(out / name)
        assert content["info"]["epoch"] == 1
        assert all(
            torch.isfinite(tensor).all() for which in ("student", "teacher") for tensor in content[which].values()
        )
    train(datalist, out, resume=True)
    assert read(out / "last.pt")["info"]["epoch"] == EPOCHS


def test_hidden_masks_are_never_read_in_training(datalist: Path, checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    """Masks of unlabeled images may be anything: a run without them gives the same network."""
    content = json.loads(datalist.read_text(encoding="utf-8"))
    for part in ("labeled", "unlabeled", "validation", "test"):
        absolute = load_part(datalist, part)
        content[part] = [{key: value for key, value in item.items() if key != "hidden_label"} for item in absolute]
    bare = tmp_path / "datalist.json"
    bare.write_text(json.dumps(content))
    train(bare, tmp_path / "run", init=checkpoint)
    assert differences(read(whole / "last.pt"), read(tmp_path / "run" / "last.pt")) == []
