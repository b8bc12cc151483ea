"""The soft Dice loss against its literal transcription."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from phnet_monai.losses import masked_ce_dice_loss, masked_cross_entropy, masked_dice_loss

REFERENCE = Path(__file__).parents[1] / "reference" / "bcp_reference.py"


@pytest.fixture(scope="module")
def dice_loss():
    return runpy.run_path(str(REFERENCE))["dice_loss"]


def case(shape: tuple[int, int, int, int] = (2, 2, 4, 5), seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch, classes, height, width = shape
    logits = 3 * torch.randn(shape, generator=generator)
    target = torch.randint(classes, (batch, height, width), generator=generator)
    weight = torch.rand(batch, height, width, generator=generator)
    valid = torch.rand(batch, height, width, generator=generator) < 0.7
    return logits, target, weight, valid


@pytest.mark.parametrize("shape", [(2, 2, 4, 5), (3, 4, 6, 2), (1, 3, 1, 1)])
@pytest.mark.parametrize("smooth", [1.0, 0.01])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_the_transcription(dice_loss, shape, smooth, weighted):
    logits, target, weight, valid = case(shape)
    arrays = [logits.double().numpy(), target.numpy()]
    factor = (weight * valid if weighted else torch.ones_like(weight)).double().numpy()
    loss = masked_dice_loss(logits, target, *((weight, valid) if weighted else ()), smooth=smooth)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(dice_loss(*arrays, factor, smooth), rel=1e-5)


def test_by_hand():
    """Two pixels of each class, all probabilities one half: 1 - (2 * 1 + 1) / (4 * 0.25 + 2 + 1) = 1/4."""
    target = torch.tensor([[[0, 1], [1, 0]]])
    assert masked_dice_loss(torch.zeros(1, 2, 2, 2), target).item() == pytest.approx(0.25)


def test_right_and_wrong_answers():
    target = torch.randint(2, (2, 20, 20), generator=torch.Generator().manual_seed(0))
    right = 60 * (torch.nn.functional.one_hot(target, 2).permute(0, 3, 1, 2) - 0.5)
    assert masked_dice_loss(right, target).item() == pytest.approx(0, abs=1e-6)
    wrong = masked_dice_loss(-right, target).item()
    assert 0.99 < wrong < 1


def test_the_batch_is_pooled():
    """Not the mean of the images' losses: an image without lesion weighs as many pixels as it has."""
    logits, target, _, _ = case((2, 2, 6, 6))
    target[1] = 0
    apart = torch.stack([masked_dice_loss(logits[i : i + 1], target[i : i + 1]) for i in range(2)]).mean()
    assert abs(masked_dice_loss(logits, target) - apart) > 1e-3


def test_what_is_not_valid_does_not_count():
    logits, target, weight, valid = case()
    other = torch.where(valid.unsqueeze(1), logits, torch.randn(logits.shape)).requires_grad_()
    loss = masked_dice_loss(other, torch.where(valid, target, 1 - target), weight, valid)
    assert loss.item() == pytest.approx(masked_dice_loss(logits, target, weight, valid).item(), rel=1e-5)
    loss.backward()
    assert not other.grad[~valid.unsqueeze(1).expand_as(other)].any()
    assert other.grad[valid.unsqueeze(1).expand_as(other)].any()


def test_nothing_counts():
    logits, target, weight, valid = case()
    logits.requires_grad_()
    for factors in ((weight, torch.zeros_like(valid)), (torch.zeros_like(weight), valid)):
        loss = masked_dice_loss(logits, target, *factors)
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()


def test_an_absent_class_is_defined():
    logits = torch.full((1, 2, 3, 3), -40.0)
    logits[:, 0] = 40
    assert masked_dice_loss(logits, torch.zeros(1, 3, 3, dtype=torch.long)).item() == pytest.approx(0, abs=1e-6)


def test_half_precision_is_summed_in_full(dice_loss):
    logits, target, weight, valid = case((1, 2, 40, 40))
    half = logits.bfloat16()
    expected = dice_loss(half.double().numpy(), target.numpy(), (weight * valid).double().numpy())
    np.testing.assert_allclose(masked_dice_loss(half, target, weight, valid).item(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["target", "weight", "valid"])
def test_shapes_that_do_not_fit_are_refused(name):
    logits, target, weight, valid = case()
    arguments = {"target": target, "weight": weight, "valid": valid}
    arguments[name] = arguments[name][:1]
    with pytest.raises(ValueError, match=rf"{name} has shape \(1, 4, 5\), expected \(2, 4, 5\)"):
        masked_dice_loss(logits, **arguments)


def test_with_cross_entropy():
    logits, target, weight, valid = case()
    both = masked_cross_entropy(logits, target, weight, valid, "kept"), masked_dice_loss(logits, target, weight, valid)
    loss = masked_ce_dice_loss(logits, target, weight, valid, reduction="kept")
    assert loss.item() == pytest.approx((both[0].item() + both[1].item()) / 2)
    twice = masked_ce_dice_loss(logits, target, weight, valid, over_processes=lambda count: 2 * count)
    half = masked_cross_entropy(logits, target, weight, valid).item() / 2
    assert twice.item() == pytest.approx((half + both[1].item()) / 2)


def test_with_cross_entropy_where_nothing_is_valid():
    logits, target, _, valid = case()
    logits.requires_grad_()
    loss = masked_ce_dice_loss(logits, target, valid=torch.zeros_like(valid))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
