"""AugSeg: image confidence and adaptive CutMix against the transcription, the handler on a step, and a training."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from phnet_monai.engines import Step, View
from phnet_monai.handlers import AugSeg
from phnet_monai.handlers import augseg as module
from phnet_monai.handlers.augseg import adaptive_cutmix, image_confidence
from phnet_monai.losses import masked_cross_entropy
from phnet_monai.transforms import StrongView

BATCH, SIZE = 4, 12
MOVED = ("image", "target", "weight", "valid")


@pytest.fixture(scope="module")
def slow() -> SimpleNamespace:
    path = Path(__file__).parents[1] / "reference" / "augseg_reference.py"
    return SimpleNamespace(**runpy.run_path(str(path)))


def negative(image: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
    """A strong view that can be told from the weak one: below 0."""
    return torch.where(valid.unsqueeze(1), -image, image)


def make_view(seed: int, batch: int = BATCH) -> View:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 1, SIZE, SIZE, generator=generator)
    target = torch.randint(0, 2, (batch, SIZE, SIZE), generator=generator)
    valid = torch.ones(batch, SIZE, SIZE, dtype=torch.bool)
    valid[0, :, :3], valid[batch - 1, 9:] = False, False
    return View(image, target, torch.ones(batch, SIZE, SIZE), valid)


def make_engine(seed: int = 0, labeled: int = BATCH, sharpness: float = 3.0) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)
    probs = (sharpness * torch.randn(BATCH, 2, SIZE, SIZE, generator=generator)).softmax(dim=1)
    views = {"labeled": make_view(seed + 10, labeled), "unlabeled": make_view(seed + 20)}
    step = Step(views=dict(views), weak=dict(views), teacher_probs=probs)
    return SimpleNamespace(
        state=SimpleNamespace(step=step),
        generator=torch.Generator().manual_seed(seed),
        format=torch.contiguous_format,
    )


def with_boxes(monkeypatch, inject: Tensor, copy: Tensor) -> None:
    """Fixed boxes: the labeled one is asked for by Beta (8, 2), the other by (4, 4)."""
    monkeypatch.setattr(module, "draw_beta_box", lambda batch, size, ab, source: inject if ab == (8, 2) else copy)


def half(batch: int = BATCH, dim: int = 1) -> Tensor:
    keep = torch.ones(batch, SIZE, SIZE, dtype=torch.bool)
    keep.narrow(dim, 0, SIZE // 2).fill_(False)
    return keep


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_image_confidence(slow, seed, classes):
    generator = torch.Generator().manual_seed(seed)
    probs = (2 * torch.randn(3, classes, 6, 7, generator=generator, dtype=torch.float64)).softmax(dim=1)
    valid = torch.rand(3, 6, 7, generator=generator) > 0.3
    found = image_confidence(probs, valid)
    np.testing.assert_allclose(found.numpy(), slow.image_confidence(probs.numpy(), valid.numpy()), rtol=1e-5)


def test_image_confidence_at_the_ends():
    certain = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    assert image_confidence(certain, valid).tolist() == [1.0]
    assert image_confidence(torch.full((1, 2, 4, 4), 0.5), valid).tolist() == pytest.approx([0.0], abs=1e-6)
    assert image_confidence(certain, ~valid).tolist() == [0.0]  # nothing valid


@pytest.mark.parametrize("seed", range(3))
def test_adaptive_cutmix(slow, seed):
    generator = torch.Generator().manual_seed(seed)
    own, labeled = make_view(seed), make_view(seed + 5)
    own = replace(own, weight=torch.rand(BATCH, SIZE, SIZE, generator=generator))
    inject, copy = (torch.rand(2, BATCH, SIZE, SIZE, generator=generator) > 0.4).unbind()
    partner = torch.randperm(BATCH, generator=generator)
    before = {name: getattr(own, name).clone() for name in MOVED}
    mixed = adaptive_cutmix(own, labeled, inject, copy, partner)
    expected = slow.adaptive_cutmix(
        {name: getattr(own, name).numpy() for name in MOVED},
        {name: getattr(labeled, name).numpy() for name in MOVED},
        inject.numpy(),
        copy.numpy(),
        partner.tolist(),
    )
    for name in MOVED:
        np.testing.assert_array_equal(getattr(mixed, name).numpy(), expected[name])
        assert torch.equal(getattr(own, name), before[name])


def test_the_step_follows_the_specification(slow, monkeypatch):
    engine = make_engine()
    step = engine.state.step
    inject, copy = half(), half(dim=2)
    with_boxes(monkeypatch, inject, copy)
    monkeypatch.setattr(module, "image_confidence", lambda probs, valid: torch.zeros(BATCH))  # all inject
    partner = torch.tensor([2, 0, 3, 1])
    monkeypatch.setattr(torch, "randperm", lambda count, generator: partner)
    AugSeg(negative, threshold=0.8)(engine)

    weak, labeled, probs = step.weak["unlabeled"], step.weak["labeled"], step.teacher_probs
    confidence, label = probs.max(dim=1)
    own = {
        "image": negative(weak.image, weak.valid, engine.generator).numpy(),
        "target": label.numpy(),
        "weight": confidence.numpy(),
        "valid": weak.valid.numpy(),
    }
    given = {name: getattr(labeled, name).numpy() for name in MOVED}
    expected = slow.adaptive_cutmix(own, given, inject.numpy(), copy.numpy(), partner.tolist())
    view = step.views["unlabeled"]
    for name in ("image", "target", "valid"):
        np.testing.assert_array_equal(getattr(view, name).numpy(), expected[name])
    np.testing.assert_array_equal(view.weight.numpy(), expected["weight"] >= np.float32(0.8))
    assert 0 < view.weight.mean() < 1

    logits = torch.randn(BATCH, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    slow_loss = slow.unlabeled_loss(
        logits.numpy(), expected["target"], expected["weight"], expected["valid"], np.float32(0.8)
    )
    loss = masked_cross_entropy(logits, view.target, view.weight, view.valid, "valid")  # what the trainer computes
    assert float(loss) == pytest.approx(slow_loss, rel=1e-5)
    assert step.views["labeled"] is step.weak["labeled"]
    assert view.loss_weight is None


def test_what_is_logged():
    engine = make_engine()
    AugSeg(negative, threshold=0.8)(engine)
    step = engine.state.step
    view = step.views["unlabeled"]
    scalars = {name: float(value) for name, value in step.scalars.items()}
    rho = image_confidence(step.teacher_probs, step.weak["unlabeled"].valid)
    assert scalars == pytest.approx(
        {
            "confident_pixels": float(view.weight[view.valid].mean()),
            "pseudo_label_lesion": float(view.target[view.valid].float().mean()),
            "image_confidence": float(rho.mean()),
        },
        rel=1e-5,
    )


@pytest.mark.parametrize(("rho", "injected"), [(0.0, 1.0), (0.3, 0.7), (1.0, 0.0)])
def test_uncertain_images_inject_labeled_pixels(monkeypatch, rho, injected):
    """With the chance 1 - rho; the helper copies are seen whole where everything is copied."""
    everything = torch.zeros(BATCH, SIZE, SIZE, dtype=torch.bool)
    with_boxes(monkeypatch, everything, everything)
    monkeypatch.setattr(module, "image_confidence", lambda probs, valid: torch.full((BATCH,), rho))
    shares = []
    for seed in range(100):
        engine = make_engine(seed)
        AugSeg(negative)(engine)
        image = engine.state.step.views["unlabeled"].image
        shares += [bool((row > 0).all()) for row in image]  # strong views are negative, labeled ones are not
    assert np.mean(shares) == pytest.approx(injected, abs=0.1)


def test_labeled_pixels_bring_their_truth(monkeypatch):
    """Kept whatever the threshold, with the mask as target; the padding of the labeled image stays invalid."""
    everything = torch.zeros(BATCH, SIZE, SIZE, dtype=torch.bool)
    with_boxes(monkeypatch, everything, everything)
    engine = make_engine(sharpness=0.0)  # rho = 0, nothing of the pseudo-labels is confident
    monkeypatch.setattr(torch, "randperm", lambda count, generator: torch.arange(count))
    AugSeg(negative, threshold=1.0)(engine)
    view, labeled = engine.state.step.views["unlabeled"], engine.state.step.weak["labeled"]
    for name in MOVED:
        assert torch.equal(getattr(view, name), getattr(labeled, name))
    assert not view.valid.all()


def test_fewer_labeled_than_unlabeled_images():
    engine = make_engine(labeled=1)
    AugSeg(negative)(engine)
    assert engine.state.step.views["unlabeled"].image.shape == (BATCH, 1, SIZE, SIZE)


def test_nothing_confident_gives_no_loss():
    engine = make_engine(sharpness=0.0)
    step = engine.state.step
    AugSeg(negative, threshold=0.95, labeled_box=(8, 1))(engine)
    view = step.views["unlabeled"]
    own = view.image <= 0  # not pasted from a labeled image
    assert view.weight[own.squeeze(1)].sum() == 0


def test_the_engines_generator_decides_alone():
    images = []
    for seed in (0, 0, 1):
        engine = make_engine()
        engine.generator.manual_seed(seed)
        AugSeg()(engine)
        images.append(engine.state.step.views["unlabeled"].image)
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_labeled_only_steps_are_left_alone():
    engine = make_engine()
    step = engine.state.step
    del step.views["unlabeled"]
    before = dict(step.views)
    AugSeg()(engine)
    assert step.views == before
    assert step.scalars == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.1}, "AugSeg: threshold is 1.1"),
        ({"labeled_box": (0, 2)}, r"AugSeg: labeled_box is \(0, 2\)"),
        ({"unlabeled_box": (4, 4, 4)}, r"AugSeg: unlabeled_box is \(4, 4, 4\)"),
        ({"unlabeled_box": (0.5, 2)}, "AugSeg: unlabeled_box is"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AugSeg(**arguments)


def test_in_a_training(tiny):
    """The logged loss is that of the mixed view, pixel by pixel; labeled-only epochs are plain."""
    run = tiny.build(apa=False, hpc=False, handlers=(AugSeg(StrongView(max_operations=2), threshold=0.5),))
    run.trainer.run()
    for epoch, step, output in zip(run.recorder.epochs, run.recorder.steps, run.recorder.outputs, strict=True):
        assert set(step.losses) == ({"labeled"} if epoch == 1 else {"labeled", "unlabeled"})
        if epoch == 1:
            continue
        view, logits = step.views["unlabeled"], step.outputs["unlabeled"].logits.detach()
        picked = logits.log_softmax(dim=1).gather(1, view.target.unsqueeze(1)).squeeze(1)
        expected = -(picked * view.weight * view.valid).sum() / view.valid.sum()
        assert output["loss_unlabeled"] == pytest.approx(float(expected), rel=1e-5)
        assert output["loss"] == pytest.approx(output["loss_labeled"] + output["loss_unlabeled"], rel=1e-5)
        assert not torch.equal(view.image, step.weak["unlabeled"].image)
