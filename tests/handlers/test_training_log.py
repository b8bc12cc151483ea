"""history.jsonl, TensorBoard files and image panels."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from phnet_monai.engines import PatchPlan, Step, View
from phnet_monai.handlers import TrainingLog
from phnet_monai.handlers.training_log import panels

STEP_NAMES = {"loss", "loss_labeled", "rate"}
UNLABELED_NAMES = STEP_NAMES | {
    "loss_unlabeled",
    "loss_contrast",
    "contrast_classes",
    "hardness",
    "shielded_share",
    "kept_patches",
    "confident_pixels",
    "pseudo_label_agreement",
    "pseudo_label_lesion",
}
VALIDATION_NAMES = {"pooled_dice", "pooled_iou", "dice_mean", "iou_mean"}


def history(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def events(folder) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def steps(accumulator: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in accumulator.Scalars(tag)]


class StopAfter:
    """Ends the run at the end of this epoch, after everything else."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def attach(self, engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED(once=self.epoch), lambda e: e.terminate())


def test_history_has_a_line_an_epoch_with_means_over_its_steps(tiny, tmp_path):
    run = tiny.build(folder=tmp_path, validate=True, log={})
    run.trainer.run()
    rows = history(tmp_path)
    assert [(row["epoch"], row["iteration"]) for row in rows] == [(1, 4), (2, 8), (3, 12)]
    assert set(rows[0]["train"]) == STEP_NAMES
    assert set(rows[1]["train"]) == set(rows[2]["train"]) == UNLABELED_NAMES
    for number, row in enumerate(rows):
        outputs = run.recorder.outputs[4 * number : 4 * number + 4]
        for name, mean in row["train"].items():
            assert mean == pytest.approx(sum(output[name] for output in outputs) / 4, rel=1e-6, abs=1e-9)
        assert set(row["validation"]) == VALIDATION_NAMES
    assert rows[-1]["validation"]["pooled_dice"] == run.checkpoints.last_score


def test_without_validation_there_is_no_such_entry(tiny, tmp_path):
    run = tiny.build(folder=tmp_path, log={}, max_epochs=1)
    run.trainer.run()
    assert [set(row) for row in history(tmp_path)] == [{"epoch", "iteration", "train"}]


def test_tensorboard_has_the_scalars_and_panels(tiny, tmp_path):
    run = tiny.build(folder=tmp_path, validate=True, log={"interval": 1})
    run.trainer.run()
    found = events(tmp_path)
    assert set(found.Tags()["scalars"]) == {f"train/{name}" for name in UNLABELED_NAMES} | {
        f"validation/{name}" for name in VALIDATION_NAMES
    }
    assert steps(found, "train/loss") == list(range(1, 13))
    assert steps(found, "train/loss_unlabeled") == list(range(5, 13))
    assert steps(found, "validation/pooled_dice") == [4, 8, 12]
    losses = [event.value for event in found.Scalars("train/loss")]
    assert losses == pytest.approx([output["loss"] for output in run.recorder.outputs], rel=1e-6)
    images = found.Images("panels")
    assert [event.step for event in images] == [8, 12]  # none of the labeled-only epoch
    assert (images[0].width, images[0].height) == (6 * tiny.SIZE, 2 * tiny.SIZE)


def test_interval_and_panel_epochs(tiny, tmp_path):
    run = tiny.build(folder=tmp_path, log={"interval": 3, "panel_epochs": 0})
    run.trainer.run()
    found = events(tmp_path)
    assert steps(found, "train/loss") == [3, 6, 9, 12]
    assert found.Tags()["images"] == []
    assert len(history(tmp_path)) == 3


def stop_and_resume(tiny, folder) -> None:
    """One epoch, then the other two by a resumed run."""
    tiny.build(folder=folder, log={"interval": 1}, handlers=(StopAfter(1),)).trainer.run()
    assert [row["epoch"] for row in history(folder)] == [1]
    tiny.build(folder=folder, log={"interval": 1}, resume=True).trainer.run()


def test_history_goes_on_after_resuming(tiny, tmp_path):
    stop_and_resume(tiny, tmp_path)
    assert [row["epoch"] for row in history(tmp_path)] == [1, 2, 3]


def test_tensorboard_keeps_the_first_part_after_resuming(tiny, tmp_path):
    stop_and_resume(tiny, tmp_path)
    assert steps(events(tmp_path), "train/loss") == list(range(1, 13))


def test_a_refused_run_does_not_spoil_the_earlier_ones_curves(tiny, tmp_path):
    tiny.build(folder=tmp_path, log={"interval": 1}).trainer.run()
    with pytest.raises(FileExistsError):
        tiny.build(folder=tmp_path, log={"interval": 1}).trainer.run()
    assert steps(events(tmp_path), "train/loss") == list(range(1, 13))


def test_an_epoch_that_is_repeated_has_one_line(tiny, tmp_path):
    run = tiny.build(folder=tmp_path, log={})
    original = run.checkpoints.save

    def killed_in_epoch_2(engine):
        if engine.state.epoch == 2:
            raise KeyboardInterrupt
        original(engine)

    run.trainer.remove_event_handler(original, Events.EPOCH_COMPLETED)
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, killed_in_epoch_2)
    with pytest.raises(KeyboardInterrupt):
        run.trainer.run()
    tiny.build(folder=tmp_path, log={}, resume=True).trainer.run()
    assert [row["epoch"] for row in history(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("torn", ['{"epoch": 3, "iter', '{"epoch": 3, "train": {"loss": 1}', "", "3"])
def test_half_a_row_of_a_run_that_was_stopped_goes(tiny, tmp_path, torn):
    tiny.build(folder=tmp_path, log={}).trainer.run()
    path = tmp_path / "history.jsonl"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:2], torn]))
    log = TrainingLog(tmp_path)
    log.start(SimpleNamespace(state=SimpleNamespace(epoch=3, iteration=6)))
    log.close(None)
    assert path.read_text().splitlines() == rows[:2]


def test_an_error_in_the_training_comes_through_and_what_was_logged_stays(tiny, tmp_path):
    class Fail:
        def attach(self, engine) -> None:
            engine.add_event_handler(Events.ITERATION_STARTED(once=6), self)

        def __call__(self, engine) -> None:
            raise RuntimeError("broken")

    run = tiny.build(folder=tmp_path, log={"interval": 1}, handlers=(Fail(),))
    with pytest.raises(RuntimeError, match="broken"):
        run.trainer.run()
    assert steps(events(tmp_path), "train/loss") == [1, 2, 3, 4, 5]
    assert [row["epoch"] for row in history(tmp_path)] == [1]


@pytest.mark.parametrize("arguments", [{"interval": 0}, {"panel_epochs": -1}])
def test_bad_arguments_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="expected >= 1 and >= 0"):
        TrainingLog(tmp_path, **arguments)


# panels


def step_of(batch: int, size: int = 8, grid: int = 2) -> Step:
    image = torch.full((batch, 1, size, size), 0.5)
    mixed = torch.full((batch, 1, size, size), 0.25)
    label = torch.zeros(batch, size, size, dtype=torch.long)
    label[:, :4, :4] = 1
    weight = torch.ones(batch, size, size)
    weight[:, 4:] = 0
    valid = torch.ones(batch, size, size, dtype=torch.bool)
    shielded, keep = torch.zeros(batch, grid, grid, dtype=torch.bool), torch.ones(batch, grid, grid, dtype=torch.bool)
    shielded[:, 0, 1], keep[:, 1, 0] = True, False
    hardness = torch.zeros(batch, grid, grid)
    hardness[:, 0, 1] = 1
    plan = PatchPlan(hardness, shielded, keep, label, label, torch.full((batch, size, size), 0.75))
    return Step(
        weak={"unlabeled": View(image, label, weight, valid)},
        views={"unlabeled": View(mixed, label, weight, valid)},
        patches=plan,
    )


@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (3, 3), (9, 4)])
def test_panels_have_six_columns_and_at_most_four_rows(batch, rows):
    picture = panels(step_of(batch))
    assert picture.shape == (3, 8 * rows, 6 * 8)
    assert picture.dtype == torch.uint8
    assert torch.equal(picture[:, :8], picture[:, -8:])  # equal images, equal rows


def test_panels_show_what_they_say():
    picture = panels(step_of(1)).float() / 255
    weak, hardness, patches, mixed, label, confidence = picture.split(8, dim=2)
    grey = torch.testing.assert_close
    grey(weak, torch.full((3, 8, 8), 0.5), atol=1 / 255, rtol=0)
    grey(mixed, torch.full((3, 8, 8), 0.25), atol=1 / 255, rtol=0)
    grey(confidence, torch.full((3, 8, 8), 0.75), atol=1 / 255, rtol=0)
    assert hardness[:, :4, 4:].min() == 1
    assert hardness.sum() == 3 * 16
    red, green, _ = patches
    assert (green[:4, 4:] > red[:4, 4:]).all()  # shielded
    assert (red[4:, :4] > green[4:, :4]).all()  # cut
    assert torch.equal(red[:4, :4], green[:4, :4])  # neither
    assert (label[0, :4, :4] > label[2, :4, :4]).all()  # lesion
    assert (label[:, 4:] < 0.5 * mixed[:, 4:]).all()  # dropped by the threshold
    grey(label[:, :4, 4:], mixed[:, :4, 4:], atol=1 / 255, rtol=0)


def test_panels_of_half_precision_images():
    step = step_of(2)
    for views in (step.views, step.weak):
        views["unlabeled"].image = views["unlabeled"].image.bfloat16()
    assert panels(step).dtype == torch.uint8
