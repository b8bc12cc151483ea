"""Uncertainty-aware mean teacher: the stochastic passes, the threshold and the masked cost."""

from __future__ import annotations

import math
import runpy
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from phnet_monai.handlers import UncertaintyAwareMeanTeacher
from phnet_monai.handlers.mean_teacher import softmax_mse
from phnet_monai.handlers.ua_mt import entropy, entropy_threshold, stochastic_probabilities

STEPS = 4  # an epoch of `tiny.build`


@pytest.fixture(scope="module")
def literal() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "ua_mt_reference.py")))


def case(classes: int = 2, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 4, 5, generator=generator)
    passes = [(4 * torch.randn(2, classes, 4, 5, generator=generator)).softmax(dim=1) for _ in range(3)]
    return logits, passes, torch.rand(2, 4, 5, generator=generator) < 0.7


# the formulas


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("progress", [0.0, 0.4, 0.99])
def test_the_cost_equals_its_transcription(literal, classes, progress):
    logits, passes, valid = case(classes)
    arrays = [probs.double().numpy() for probs in passes]
    uncertainty = entropy(torch.stack(passes).mean(dim=0))
    torch.testing.assert_close(uncertainty.double(), torch.from_numpy(literal.entropy(arrays)), rtol=1e-5, atol=1e-6)
    certain = (uncertainty < entropy_threshold(progress, classes)) & valid
    found = softmax_mse(logits, passes[0], certain)
    numbers = logits.double().numpy(), arrays[0], literal.entropy(arrays), valid.numpy(), progress
    assert found.item() == pytest.approx(literal.consistency(*numbers), rel=1e-5)
    assert found > 0


def test_the_threshold_is_in_units_of_log_c():
    """The source's log 2 would drop certain pixels of three classes for ever: their entropies reach log 3."""
    assert entropy_threshold(0, 2) == pytest.approx((0.75 + 0.25 * math.exp(-5)) * math.log(2))
    for classes in (2, 3, 7):
        assert entropy_threshold(1, classes) == pytest.approx(math.log(classes))
        share = entropy_threshold(0.3, classes) / math.log(classes)
        assert share == pytest.approx(0.75 + 0.25 * math.exp(-5 * 0.49))
    probs = torch.tensor([0.4, 0.3, 0.3]).view(1, 3, 1, 1)
    assert math.log(2) < entropy(probs).item() < entropy_threshold(1, 3)


def test_entropies_at_the_edges():
    sure = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    assert entropy(sure).item() == 0
    assert entropy(torch.full((1, 2, 1, 1), 0.5)).item() == pytest.approx(math.log(2))


def test_uncertain_pixels_get_no_gradient():
    logits, passes, valid = case()
    logits.requires_grad_()
    softmax_mse(logits, passes[0], valid).backward()
    outside = ~valid.unsqueeze(1).expand_as(logits)
    assert not logits.grad[outside].any()
    assert logits.grad[~outside].all()


def test_nothing_certain():
    logits, passes, valid = case()
    logits.requires_grad_()
    loss = softmax_mse(logits, passes[0], torch.zeros_like(valid))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


# the passes


class Noisy(nn.Module):
    """Notes the mode of its parts at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.drop2 = nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Dropout2d(0.5)
        self.seen: list[tuple[bool, ...]] = []

    def forward(self, x):
        self.seen.append((self.norm.training, self.drop.training, self.drop2.training, torch.is_grad_enabled()))
        x = self.drop(self.norm(x))
        return torch.cat([x, -x], dim=1)


def engine_of(teacher: nn.Module | None, network: nn.Module | None = None, noise: float = 0.0) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(0)
    return SimpleNamespace(
        teacher=teacher,
        network=network,
        autocast=nullcontext,
        noisy=lambda image: image + noise * torch.randn(image.shape, generator=generator),
    )


def test_only_dropout_is_on():
    network = Noisy().eval()
    mean = network.norm.running_mean.clone()
    stochastic_probabilities(engine_of(network), torch.rand(2, 1, 8, 8), 3)
    assert network.seen == [(False, True, True, False)] * 3
    assert torch.equal(network.norm.running_mean, mean)
    assert not any(module.training for module in network.modules())  # as it was


def test_a_student_without_teacher_is_left_in_training_mode():
    network = Noisy().train()
    stochastic_probabilities(engine_of(None, network), torch.rand(2, 1, 8, 8), 2)
    assert all(module.training for module in network.modules())


def test_the_mean_of_different_passes():
    torch.manual_seed(0)
    image = torch.rand(2, 1, 8, 8) + 1
    network = Noisy().eval()
    state = torch.get_rng_state()
    mean = stochastic_probabilities(engine_of(network), image, 4)
    torch.set_rng_state(state)
    single = [stochastic_probabilities(engine_of(network), image, 1) for _ in range(4)]
    assert not torch.equal(single[0], single[1])
    torch.testing.assert_close(mean, torch.stack(single).mean(dim=0))
    torch.testing.assert_close(mean.sum(dim=1), torch.ones(2, 8, 8))


def test_every_pass_has_noise_of_its_own():
    network = Noisy().eval()
    network.drop.p = 0.0
    image = torch.rand(1, 1, 8, 8)
    still = stochastic_probabilities(engine_of(network), image, 2)
    torch.testing.assert_close(still, stochastic_probabilities(engine_of(network), image, 1))
    engine = engine_of(network, noise=0.5)
    first, second = (stochastic_probabilities(engine, image, 1) for _ in range(2))
    assert not torch.equal(first, second)


# in a training


def test_the_term_in_a_training(tiny, literal, monkeypatch):
    """The whole step against the transcription; the passes are recorded where they are made."""
    from phnet_monai.handlers import ua_mt

    made = []
    original = ua_mt.stochastic_probabilities
    monkeypatch.setattr(
        ua_mt, "stochastic_probabilities", lambda *arguments: made.append(original(*arguments)) or made[-1]
    )
    handler = UncertaintyAwareMeanTeacher(passes=2, weight=0.3, ramp=1.0)
    run = tiny.build(apa=False, hpc=False, handlers=(handler,), teacher_noise=0.1, network={"dropout": 0.5})
    run.trainer.run()
    assert len(made) == 2 * STEPS
    assert all("loss_consistency" not in output for output in run.recorder.outputs[:STEPS])
    steps, outputs = run.recorder.steps[STEPS:], run.recorder.outputs[STEPS:]
    for number, (step, output, mean) in enumerate(zip(steps, outputs, made, strict=True)):
        assert set(step.losses) == {"labeled", "consistency"}
        progress = number / (2 * STEPS)
        valid = step.views["unlabeled"].valid.numpy()
        uncertainty = literal.entropy([mean.double().numpy()])
        expected = literal.consistency(
            step.outputs["unlabeled"].logits.detach().double().numpy(),
            step.teacher_probs.double().numpy(),
            uncertainty,
            valid,
            progress,
        )
        weight = 0.3 * literal.ramp(progress)
        assert output["loss_consistency"] == pytest.approx(expected, rel=1e-4)
        assert output["consistency_weight"] == pytest.approx(weight)
        assert output["loss"] == pytest.approx(output["loss_labeled"] + weight * expected, rel=1e-4)
        assert output["uncertainty"] == pytest.approx(uncertainty[valid].mean(), rel=1e-4)
        share = (uncertainty[valid] < (0.75 + 0.25 * literal.ramp(progress)) * math.log(2)).mean()
        assert output["certain_pixels"] == pytest.approx(share, abs=1e-6)


def test_the_seed_decides(tiny):
    def final(**arguments):
        handler = UncertaintyAwareMeanTeacher(passes=2, weight=1.0)
        more = {"teacher_noise": 0.1, "network": {"dropout": 0.5}, "max_epochs": 2, **arguments}
        run = tiny.build(apa=False, hpc=False, handlers=(handler,), **more)
        run.trainer.run()
        return tiny.weights(run.student)

    first = final()
    torch.rand(3)
    assert tiny.equal(first, final())
    assert not tiny.equal(first, final(seed=1))


def test_without_unlabeled_images_nothing_happens(tiny):
    run = tiny.build(
        apa=False, hpc=False, handlers=(UncertaintyAwareMeanTeacher(),), loader={"use_unlabeled": False}, max_epochs=1
    )
    run.trainer.run()
    assert all(set(step.losses) == {"labeled"} for step in run.recorder.steps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"passes": 0}, "passes is 0, expected at least 1"),
        ({"threshold": 1.1}, "threshold is 1.1, expected a share of log C"),
        ({"weight": -1}, "weight -1"),
        ({"ramp": 0}, "ramp 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"UncertaintyAwareMeanTeacher: .*{message}"):
        UncertaintyAwareMeanTeacher(**arguments)
