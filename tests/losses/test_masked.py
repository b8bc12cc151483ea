"""Masked cross-entropy against Eqs. 2 and 8."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from phnet_monai.losses import masked_cross_entropy


def case(shape: tuple[int, int, int, int] = (2, 2, 4, 5), seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch, classes, height, width = shape
    logits = 3 * torch.randn(shape, generator=generator)
    target = torch.randint(classes, (batch, height, width), generator=generator)
    weight = (torch.rand(batch, height, width, generator=generator) < 0.6).float()
    valid = torch.rand(batch, height, width, generator=generator) < 0.7
    return logits, target, weight, valid


def arrays(*tensors: Tensor):
    return [tensor.double().numpy() if tensor.is_floating_point() else tensor.numpy() for tensor in tensors]


@pytest.mark.parametrize("shape", [(2, 2, 4, 5), (3, 4, 6, 2), (1, 3, 1, 1)])
def test_plain_is_eq_2(reference, shape):
    logits, target, _, _ = case(shape)
    loss = masked_cross_entropy(logits, target)
    assert loss.item() == pytest.approx(reference.supervised_loss(*arrays(logits, target)), rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 2, 4, 5), (3, 4, 6, 2)])
def test_weighted_is_eq_8_divided_by_the_pixels_of_an_image(reference, shape):
    logits, target, weight, _ = case(shape, 1)
    printed = reference.unsupervised_loss(*arrays(logits, target, weight))
    for reduction in ("valid", "mean"):  # the same where all pixels are valid
        loss = masked_cross_entropy(logits, target, weight, reduction=reduction)
        assert loss.item() * shape[2] * shape[3] == pytest.approx(printed, rel=1e-5)


@pytest.mark.parametrize("fractional", [False, True])
def test_the_reductions(reference, fractional):
    logits, target, weight, valid = case(seed=2)
    if fractional:
        weight = weight * torch.rand(weight.shape, generator=torch.Generator().manual_seed(3))
    batch, _, height, width = logits.shape
    total = batch * reference.unsupervised_loss(*arrays(logits, target, weight * valid))
    divisors = {"valid": int(valid.sum()), "kept": float((weight * valid).sum()), "mean": batch * height * width}
    divisors["u2pl"] = divisors["kept"] ** 2 / divisors["valid"]
    assert len(set(divisors.values())) == 4
    for reduction, divisor in divisors.items():
        loss = masked_cross_entropy(logits, target, weight, valid, reduction)
        assert loss.item() == pytest.approx(total / divisor, rel=1e-5)


def test_by_hand():
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1).repeat(1, 1, 1, 4)  # probabilities 1/4, 3/4
    target = torch.tensor([[[0, 1, 1, 0]]])
    weight = torch.tensor([[[1.0, 0.5, 0.0, 1.0]]])
    valid = torch.tensor([[[True, True, True, False]]])
    total = math.log(4) + 0.5 * math.log(4 / 3)
    for reduction, divisor in (("valid", 3), ("kept", 1.5), ("mean", 4), ("u2pl", 1.5 * 1.5 / 3)):
        assert masked_cross_entropy(logits, target, weight, valid, reduction).item() == pytest.approx(total / divisor)


def test_a_bool_weight_counts_as_zero_and_one():
    logits, target, weight, valid = case()
    torch.testing.assert_close(
        masked_cross_entropy(logits, target, weight.bool(), valid), masked_cross_entropy(logits, target, weight, valid)
    )


@pytest.mark.parametrize("reduction", ["valid", "kept", "mean", "u2pl"])
def test_gradient_is_zero_on_pixels_that_do_not_count(reduction):
    logits, target, weight, valid = case(seed=4)
    logits.requires_grad_()
    masked_cross_entropy(logits, target, weight, valid, reduction).backward()
    assert logits.grad is not None
    size = logits.grad.abs().sum(dim=1)
    counts = (weight > 0) & valid
    assert (size[~counts] == 0).all()
    assert (size[counts] > 0).all()


def test_what_stands_on_padding_does_not_matter():
    logits, target, weight, valid = case(seed=5)
    changed = torch.where(valid.unsqueeze(1), logits, 50.0)
    assert torch.equal(
        masked_cross_entropy(logits, target, weight, valid),
        masked_cross_entropy(changed, torch.where(valid, target, 0), torch.where(valid, weight, 9.0), valid),
    )


@pytest.mark.parametrize("reduction", ["valid", "kept", "mean", "u2pl"])
@pytest.mark.parametrize("nothing", ["valid", "weight"])
def test_where_nothing_counts_the_loss_and_its_gradient_are_zero(reduction, nothing):
    logits, target, weight, valid = case()
    logits.requires_grad_()
    if nothing == "valid":
        valid = torch.zeros_like(valid)
    else:
        weight = torch.zeros_like(weight)
    loss = masked_cross_entropy(logits, target, weight, valid, reduction)
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_half_precision_logits_give_a_float32_loss():
    logits, target, weight, valid = case()
    loss = masked_cross_entropy(logits.bfloat16(), target, weight, valid)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, masked_cross_entropy(logits.bfloat16().float(), target, weight, valid))


def test_unknown_reduction_and_wrong_shapes_are_refused():
    logits, target, weight, valid = case()
    with pytest.raises(ValueError, match="reduction is 'sum', expected one of valid, kept, mean"):
        masked_cross_entropy(logits, target, reduction="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"target has shape \(2, 4\), expected \(2, 4, 5\)"):
        masked_cross_entropy(logits, target[..., 0])
    with pytest.raises(ValueError, match="weight has shape"):
        masked_cross_entropy(logits, target, weight[:1])
    with pytest.raises(ValueError, match="valid has shape"):
        masked_cross_entropy(logits, target, weight, valid.unsqueeze(1))
