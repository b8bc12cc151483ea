"""Mean teacher: the consistency cost, its ramp, and what it leaves of the step."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from phnet_monai.handlers import MeanTeacher
from phnet_monai.handlers.mean_teacher import softmax_mse

STEPS = 4  # an epoch of `tiny.build`


@pytest.fixture(scope="module")
def literal() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "ua_mt_reference.py")))


def case(classes: int = 2, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 4, 5, generator=generator)
    probs = (2 * torch.randn(2, classes, 4, 5, generator=generator)).softmax(dim=1)
    return logits, probs, torch.rand(2, 4, 5, generator=generator) < 0.6


@pytest.mark.parametrize("classes", [2, 3])
def test_the_cost_equals_its_transcription(literal, classes):
    logits, probs, valid = case(classes)
    expected = literal.mean_teacher(logits.double().numpy(), probs.double().numpy(), valid.numpy())
    assert softmax_mse(logits, probs, valid).item() == pytest.approx(expected, rel=1e-5)


def test_by_hand():
    """Student 1/4, 3/4 and teacher 1, 0: ((3/4)^2 + (3/4)^2) / 2 at every pixel."""
    logits = torch.tensor([1.0, 3.0]).log().view(1, 2, 1, 1).repeat(1, 1, 2, 2)
    probs = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).repeat(1, 1, 2, 2)
    assert softmax_mse(logits, probs, torch.ones(1, 2, 2, dtype=torch.bool)).item() == pytest.approx(0.5625)


def test_padding_has_no_part():
    logits, probs, valid = case()
    logits.requires_grad_()
    softmax_mse(logits, probs, valid).backward()
    outside = ~valid.unsqueeze(1).expand_as(logits)
    assert not logits.grad[outside].any()
    assert logits.grad[~outside].all()
    logits.grad = None
    loss = softmax_mse(logits, probs, torch.zeros_like(valid))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_half_precision_is_computed_in_full():
    logits, probs, valid = case()
    loss = softmax_mse(logits.bfloat16(), probs, valid)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(softmax_mse(logits.bfloat16().float(), probs, valid).item())


@pytest.mark.parametrize("ramp", [1.0, 0.5])
def test_the_term_in_a_training(tiny, literal, ramp):
    run = tiny.build(apa=False, hpc=False, handlers=(MeanTeacher(weight=0.2, ramp=ramp),))
    run.trainer.run()
    assert all("loss_consistency" not in output for output in run.recorder.outputs[:STEPS])
    steps, outputs = run.recorder.steps[STEPS:], run.recorder.outputs[STEPS:]
    for number, (step, output) in enumerate(zip(steps, outputs, strict=True)):
        assert set(step.losses) == {"labeled", "consistency"}  # no cross-entropy to the pseudo-label
        logits = step.outputs["unlabeled"].logits.detach().double().numpy()
        valid = step.views["unlabeled"].valid.numpy()
        expected = literal.mean_teacher(logits, step.teacher_probs.double().numpy(), valid)
        assert output["loss_consistency"] == pytest.approx(expected, rel=1e-4)
        weight = 0.2 * literal.ramp(number / (2 * STEPS) / ramp)
        assert output["consistency_weight"] == pytest.approx(weight)
        assert output["loss"] == pytest.approx(output["loss_labeled"] + weight * expected, rel=1e-4)
    assert steps[0].weak["unlabeled"].loss_weight is None  # the weak view is kept as it was


def test_without_unlabeled_images_nothing_happens(tiny):
    run = tiny.build(apa=False, hpc=False, handlers=(MeanTeacher(),), loader={"use_unlabeled": False})
    run.trainer.run()
    assert all(set(step.losses) == {"labeled"} for step in run.recorder.steps)


@pytest.mark.parametrize("arguments", [{"weight": -0.1}, {"ramp": 0}, {"ramp": 1.5}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="MeanTeacher: weight .* expected weight >= 0 and 0 < ramp <= 1"):
        MeanTeacher(**arguments)
