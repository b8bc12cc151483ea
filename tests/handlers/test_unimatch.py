"""UniMatch: its views on a step made by hand, dropped channels, and the loss of whole trainings."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phnet_monai.engines import SemiSupervisedTrainer, Step, View
from phnet_monai.handlers import UniMatch
from phnet_monai.handlers.unimatch import STRONG_VIEWS, channel_dropout
from phnet_monai.losses import masked_cross_entropy

BATCH, SIZE = 3, 12
UNLABELED_VIEWS = (*STRONG_VIEWS, "feature")


@pytest.fixture(scope="module")
def slow() -> SimpleNamespace:
    path = Path(__file__).parents[1] / "reference" / "unimatch_reference.py"
    return SimpleNamespace(**runpy.run_path(str(path)))


def scaled(image: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
    """A strong view with one number drawn, so that two of them differ."""
    return torch.where(valid.unsqueeze(1), image * torch.rand(1, generator=generator), image)


def make_engine(seed: int = 0, sharpness: float = 3.0, padded: bool = True) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(BATCH, 1, SIZE, SIZE, generator=generator)
    valid = torch.ones(BATCH, SIZE, SIZE, dtype=torch.bool)
    if padded:
        valid[0, :, :4] = False
        valid[2, 7:] = False
    probs = (sharpness * torch.randn(BATCH, 2, SIZE, SIZE, generator=generator)).softmax(dim=1)
    weak = View(image, probs.argmax(dim=1), torch.ones(BATCH, SIZE, SIZE), valid)
    views = {"labeled": View(image.flip(0), probs.argmin(dim=1), weak.weight, valid), "unlabeled": weak}
    return SimpleNamespace(
        state=SimpleNamespace(step=Step(views=dict(views), weak=dict(views), teacher_probs=probs)),
        generator=torch.Generator().manual_seed(seed),
        format=torch.contiguous_format,
    )


def test_the_step_follows_the_specification(slow):
    engine = make_engine()
    step, threshold = engine.state.step, 0.8
    weak, probs = step.weak["unlabeled"], step.teacher_probs
    keeps = [torch.rand(BATCH, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) > 0.4 for seed in (5, 6)]
    factors, left = [], list(keeps)

    def strong_view(image: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
        factors.append(float(torch.rand(1, generator=generator)))
        return torch.where(valid.unsqueeze(1), image * factors[-1], image)

    method = UniMatch(strong_view, threshold=threshold)
    method.draw_box = lambda batch, size, generator: left.pop(0)
    method(engine)
    assert list(step.views) == ["labeled", *UNLABELED_VIEWS]
    assert factors[0] != factors[1]

    confidence, label = (tensor.numpy() for tensor in probs.max(dim=1))
    valid = weak.valid.numpy()
    logits = torch.randn(BATCH, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name, factor, keep in zip(STRONG_VIEWS, factors, keeps, strict=True):
        view, keep = step.views[name], keep.numpy()
        strong = np.where(valid[:, None], weak.image.numpy() * np.float32(factor), weak.image.numpy())
        np.testing.assert_array_equal(view.image.numpy(), slow.mixed_with_next(strong, keep))
        target, sure, inside = (slow.mixed_with_next(values, keep) for values in (label, confidence, valid))
        np.testing.assert_array_equal(view.target.numpy(), target)
        np.testing.assert_array_equal(view.weight.numpy(), sure >= np.float32(threshold))
        np.testing.assert_array_equal(view.valid.numpy(), inside)
        expected = slow.masked_loss(logits.numpy(), target, sure, inside, np.float32(threshold))
        loss = masked_cross_entropy(logits, view.target, view.weight, view.valid)  # what the trainer computes
        assert float(loss) == pytest.approx(expected, rel=1e-5)
        assert expected > 0
    feature = step.views["feature"]
    assert torch.equal(feature.image, weak.image)
    np.testing.assert_array_equal(feature.target.numpy(), label)
    np.testing.assert_array_equal(feature.weight.numpy(), confidence >= np.float32(threshold))
    assert torch.equal(feature.valid, weak.valid)
    assert [step.views[name].loss_weight for name in step.views] == [0.5, 0.125, 0.125, 0.25]
    assert [name for name, view in step.views.items() if view.perturb] == ["feature"]


def test_padding_of_the_partner_gets_no_loss():
    """The loss does not move when logits change where a strong view shows padding, its own or the pasted one."""
    engine = make_engine()
    UniMatch(scaled, threshold=0.0, box_probability=1.0, box_area=(0.4, 0.4))(engine)
    view, weak = engine.state.step.views["strong_1"], engine.state.step.weak["unlabeled"]
    assert not torch.equal(view.valid, weak.valid)  # the mask moved with the image
    logits = torch.randn(BATCH, 2, SIZE, SIZE, requires_grad=True)
    masked_cross_entropy(logits, view.target, view.weight, view.valid).backward()
    moved = logits.grad.abs().sum(dim=1) > 0
    assert torch.equal(moved, view.valid)


def test_without_boxes_the_pixels_stay():
    engine = make_engine()
    UniMatch(scaled, box_probability=0.0)(engine)
    step = engine.state.step
    for name in STRONG_VIEWS:
        assert torch.equal(step.views[name].target, step.weak["unlabeled"].target)
        assert torch.equal(step.views[name].valid, step.weak["unlabeled"].valid)


def test_nothing_confident_and_nothing_valid():
    engine = make_engine(sharpness=0.0)
    engine.state.step.weak["unlabeled"].valid[:] = False
    UniMatch(scaled)(engine)
    step = engine.state.step
    logits = torch.randn(BATCH, 2, SIZE, SIZE)
    for name in UNLABELED_VIEWS:
        view = step.views[name]
        assert view.weight.sum() == 0
        assert float(masked_cross_entropy(logits, view.target, view.weight, view.valid)) == 0
    assert all(np.isfinite(float(value)) for value in step.scalars.values())


def test_a_pixel_exactly_at_the_threshold_is_kept():
    engine = make_engine(sharpness=0.0)
    UniMatch(scaled, threshold=0.5)(engine)
    assert all(engine.state.step.views[name].weight.min() == 1 for name in UNLABELED_VIEWS)


def test_what_is_logged():
    engine = make_engine()
    UniMatch(scaled, threshold=0.8)(engine)
    step = engine.state.step
    view = step.views["feature"]
    assert {name: float(value) for name, value in step.scalars.items()} == pytest.approx(
        {
            "confident_pixels": float(view.weight[view.valid].mean()),
            "pseudo_label_lesion": float(view.target[view.valid].float().mean()),
        }
    )


def test_labeled_only_steps_keep_their_full_weight():
    engine = make_engine()
    step = engine.state.step
    del step.views["unlabeled"]
    UniMatch(scaled)(engine)
    assert list(step.views) == ["labeled"]
    assert step.views["labeled"].loss_weight is None


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5])
def test_dropped_channels(rate):
    features = [torch.ones(4, 500, 3, 3), torch.full((4, 300, 2, 2), 2.0)]
    dropped = channel_dropout(features, rate, torch.Generator().manual_seed(0))
    for before, after in zip(features, dropped, strict=True):
        assert after.shape == before.shape
        channels = after.flatten(2)
        assert torch.equal(channels, channels[:, :, :1].expand_as(channels))  # whole channels
        values = channels[:, :, 0] / before[:, :, 0, 0]
        kept = values > 0
        torch.testing.assert_close(values[kept], torch.full_like(values[kept], 1 / (1 - rate)))
        assert (~kept).float().mean() == pytest.approx(rate, abs=0.05)
        assert rate == 0 or not torch.equal(kept[0], kept[1])  # images lose channels of their own
    again = channel_dropout(features, rate, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(dropped, again, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": -0.1}, "UniMatch: threshold -0.1"),
        ({"feature_dropout": 1.0}, "feature_dropout 1.0"),
        ({"strong_weight": -1.0}, "'strong_weight': -1.0"),
        ({"box_area": (0.5, 0.1)}, r"UniMatch: .*area is \(0.5, 0.1\)"),
        ({"box_aspect": (0.0, 1.0)}, r"UniMatch: .*aspect \(0.0, 1.0\)"),
        ({"box_probability": 2.0}, "UniMatch: .*probability 2.0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UniMatch(**arguments)


def test_in_a_training(tiny, slow):
    """The network labels itself; the total is the specified sum; labeled-only epochs are plain."""
    run = tiny.build(
        apa=False,
        hpc=False,
        teacher=None,
        rate=0.01,
        handlers=(UniMatch(threshold=0.5, box_probability=1.0),),
    )
    run.trainer.run()
    assert run.trainer.teacher is None
    names = ("labeled", *UNLABELED_VIEWS)
    for epoch, step, output in zip(run.recorder.epochs, run.recorder.steps, run.recorder.outputs, strict=True):
        if epoch == 1:
            assert set(step.losses) == {"labeled"}
            assert output["loss"] == output["loss_labeled"]
            continue
        assert tuple(step.losses) == names
        terms = [output[f"loss_{name}"] for name in names]
        assert output["loss"] == pytest.approx(slow.total(*terms), rel=1e-5)
        for name in UNLABELED_VIEWS:
            view, logits = step.views[name], step.outputs[name].logits.detach().double()
            expected = slow.masked_loss(
                logits.numpy(), view.target.numpy(), view.weight.numpy(), view.valid.numpy(), 0.5
            )
            assert output[f"loss_{name}"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


class OneWeight(nn.Module):
    """Logits (0, w * first feature channel); the feature map is the image, in 64 channels."""

    projector = None

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def encode(self, image: Tensor) -> list[Tensor]:
        return [image.expand(-1, 64, -1, -1)]

    def decode(self, features: list[Tensor]) -> Tensor:
        return features[0].mean(dim=1, keepdim=True)

    def classify(self, decoded: Tensor, height: int, width: int) -> Tensor:
        return torch.cat([torch.zeros_like(decoded), self.weight * decoded], dim=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.classify(self.decode(self.encode(image)), *image.shape[-2:])


def test_one_weight_and_its_exact_numbers():
    """Two grey images, one of them half padded: the loss and the step that follows can be written down."""
    network = OneWeight()
    grey = torch.full((2, 1, 4, 4), 0.5)
    valid = torch.ones(2, 4, 4, dtype=torch.bool)
    valid[1, :, 2:] = False
    label = torch.zeros(2, 4, 4, dtype=torch.int64)
    batch = {"labeled": {"image": grey, "label": label, "valid": valid}, "unlabeled": {"image": grey, "valid": valid}}
    trainer = SemiSupervisedTrainer(
        "cpu",
        1,
        [batch],
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        train_handlers=[UniMatch(lambda image, valid, generator: image, threshold=0.7, feature_dropout=0.0)],
    )
    trainer.run()
    p = 1 / (1 + np.exp(-1))  # of lesion, 0.73: confident
    labeled, own = -np.log(1 - p), -np.log(p)
    assert trainer.state.output[0]["loss"] == pytest.approx((labeled + (0.25 + 0.25 + 0.5) * own) / 2, rel=1e-6)
    gradient = 0.5 * (p * 0.5 + (p - 1) * 0.5)  # d logit / d weight = 0.5
    assert network.weight.item() == pytest.approx(2 - 0.1 * gradient, rel=1e-6)
