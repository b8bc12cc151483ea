"""Evaluation at the images' original size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn

from phnet_monai.data.loaders import evaluation_loader
from phnet_monai.engines import LesionEvaluator
from phnet_monai.inference import Predictor

ODD = ((37, 53), (64, 41), (29, 29), (91, 40), (20, 87))


class BrightIsLesion(nn.Module):
    """Probability of lesion = grey value, so that resampling is all that happens."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return torch.cat([torch.zeros_like(x), torch.logit(x.clamp(1e-4, 1 - 1e-4)) * self.scale], dim=1)


def lesion_pictures(sizes=ODD) -> list[dict]:
    """White ellipse on black; the mask is the picture."""
    items = []
    for number, (height, width) in enumerate(sizes):
        y, x = np.mgrid[0:height, 0:width]
        mask = ((y - height * 0.45) / (height * 0.3)) ** 2 + ((x - width * 0.55) / (width * 0.25)) ** 2 <= 1
        items.append({"image": mask.astype(np.uint8) * 255, "label": mask, "case_id": f"{number}", "class": "benign"})
    return items


def evaluate(items, size=192, batch_size=2, **arguments) -> LesionEvaluator:
    network = arguments.pop("network", None) or BrightIsLesion()
    evaluator = LesionEvaluator("cpu", evaluation_loader(items, batch_size=batch_size), network, size=size, **arguments)
    evaluator.run()
    return evaluator


def test_a_perfect_network_has_dice_one_at_odd_sizes():
    evaluator = evaluate(lesion_pictures())
    rows = evaluator.scores.rows()
    assert [row["dice"] for row in rows] == [1.0] * 5
    assert evaluator.state.metrics == pytest.approx({"pooled_dice": 1, "pooled_iou": 1, "dice_mean": 1, "iou_mean": 1})


def test_scores_are_taken_at_the_original_size():
    items = lesion_pictures()
    evaluator = evaluate(items, size=64)
    for row, item in zip(evaluator.scores.rows(), items, strict=True):
        assert (row["height"], row["width"]) == item["label"].shape
        assert row["tp"] + row["fn"] == item["label"].sum()
        assert row["dice"] > 0.9  # shrunk and enlarged
    assert evaluator.network.shapes == [(2, 1, 64, 64), (2, 1, 64, 64), (1, 1, 64, 64)]


def test_the_padding_is_the_given_grey_and_does_not_count():
    items = lesion_pictures()
    assert evaluate(items, pad_value=1.0).state.metrics["pooled_dice"] == pytest.approx(1)  # padding would be lesion


def test_a_wrong_network_is_told():
    inverted = lesion_pictures()
    for item in inverted:
        item["image"] = 255 - item["image"]
    assert evaluate(inverted).state.metrics["pooled_dice"] == 0


@pytest.mark.parametrize("batch_size", [1, 3, 5, 8])
def test_the_batch_size_does_not_matter(batch_size):
    items, expected = lesion_pictures(), evaluate(lesion_pictures(), size=50, batch_size=2)
    found = evaluate(items, size=50, batch_size=batch_size)
    assert found.state.metrics == pytest.approx(expected.state.metrics)
    assert [row["case_id"] for row in found.scores.rows()] == [item["case_id"] for item in items]


def test_the_predictor_gives_the_same_scores(tiny):
    """Training's validation and inference are one definition."""
    items = tiny.pictures(4)
    network = tiny.build().teacher
    rows = evaluate(items, size=tiny.SIZE, network=network).scores.rows()
    predictor = Predictor(network, size=tiny.SIZE, pad_value=0.33)
    for item, row, lesion in zip(items, rows, predictor.predict([item["image"] for item in items]), strict=True):
        assert abs(((lesion > 0.5) & item["label"]).sum() - row["tp"]) <= 1  # another memory format
        assert abs(((lesion > 0.5) & ~item["label"]).sum() - row["fp"]) <= 1


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_network_is_put_back(training):
    network = BrightIsLesion().train(training)
    modes = []
    network.register_forward_pre_hook(lambda module, _: modes.append((module.training, torch.is_grad_enabled())))
    evaluate(lesion_pictures(), network=network)
    assert set(modes) == {(False, False)}
    assert network.training is training


def test_a_second_run_starts_anew():
    evaluator = evaluate(lesion_pictures())
    with torch.no_grad():
        evaluator.network.scale.fill_(-1)
    evaluator.run()
    assert len(evaluator.scores) == 5
    assert evaluator.state.metrics["pooled_dice"] < 0.5


def test_several_classes_are_lesion_together():
    class ThreeClasses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            lesion = torch.logit(x.clamp(1e-4, 1 - 1e-4))
            half = lesion - torch.log(torch.tensor(2.0))  # two classes that share the probability
            return torch.cat([torch.zeros_like(x), half, half], dim=1)

    assert evaluate(lesion_pictures(), network=ThreeClasses()).state.metrics["pooled_dice"] == pytest.approx(1)


def test_full_summary_and_classes():
    evaluator = evaluate(lesion_pictures(), full_summary=True, distances=True)
    assert {row["class"] for row in evaluator.scores.rows()} == {"benign"}
    metrics = evaluator.state.metrics
    assert metrics["images"] == 5
    assert metrics["hd95_mean"] == 0
    assert all(isinstance(value, (int, float)) for value in metrics.values())


def test_images_without_lesion_are_scored_apart():
    items = lesion_pictures()
    items.append({"image": np.zeros((30, 40), np.uint8), "label": np.zeros((30, 40), bool), "case_id": "normal"})
    evaluator = evaluate(items)
    assert len(evaluator.scores) == 6
    assert evaluator.state.metrics["dice_mean"] == pytest.approx(1)


def test_disabled_handlers_are_dropped():
    seen = []

    class Count:
        def attach(self, engine):
            engine.add_event_handler(Events.COMPLETED, lambda e: seen.append(e.state.metrics["pooled_dice"]))

    evaluate(lesion_pictures(), val_handlers=[None, Count(), None])
    assert seen == [pytest.approx(1)]  # the metrics are there when handlers are called
