"""iMAS: easiness and losses against the transcription, the two-class trap, and whole trainings."""

from __future__ import annotations

import contextlib
import runpy
from pathlib import Path
from types import MethodType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phnet_monai.engines import SemiSupervisedTrainer, Step, View
from phnet_monai.engines.step import Output
from phnet_monai.handlers import IMAS
from phnet_monai.handlers import imas as module
from phnet_monai.handlers.imas import image_easiness, opposite_rank, per_image_cross_entropy, weighted_iou

BATCH, SIZE = 4, 10


@pytest.fixture(scope="module")
def slow() -> SimpleNamespace:
    path = Path(__file__).parents[1] / "reference" / "imas_reference.py"
    return SimpleNamespace(**runpy.run_path(str(path)))


class Answer(nn.Module):
    """Answers by given logits, and remembers in which mode it was asked."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.asked_in_training = logits, None

    def forward(self, image: Tensor) -> Tensor:
        self.asked_in_training = self.training
        assert not torch.is_grad_enabled()
        return self.logits


def black(image: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
    return torch.where(valid.unsqueeze(1), 0.0, image)


def make_engine(seed: int = 0, sharpness: float = 3.0, lesion: float = 0.0) -> SimpleNamespace:
    """Student and teacher agree on most pixels; `lesion` moves both towards it (or away)."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(BATCH, 1, SIZE, SIZE, generator=generator)
    valid = torch.ones(BATCH, SIZE, SIZE, dtype=torch.bool)
    valid[0, :, :3], valid[3, 6:] = False, False
    logits = torch.randn(BATCH, 2, SIZE, SIZE, generator=generator)
    logits[:, 1] += lesion
    others = logits + 0.5 * torch.randn(logits.shape, generator=generator)
    probs = (sharpness * logits).softmax(dim=1)
    weak = View(image, probs.argmax(dim=1), torch.ones(BATCH, SIZE, SIZE), valid)
    views = {"labeled": weak, "unlabeled": weak}
    engine = SimpleNamespace(
        state=SimpleNamespace(step=Step(views=dict(views), weak=dict(views), teacher_probs=probs)),
        generator=torch.Generator().manual_seed(seed),
        network=Answer(sharpness * others).train(),
        autocast=contextlib.nullcontext,
        format=torch.contiguous_format,
    )
    engine.probabilities = MethodType(SemiSupervisedTrainer.probabilities, engine)
    return engine


def random_probs(seed: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, classes, 6, 7)
    student, teacher = (2 * torch.randn(2, *shape, generator=generator, dtype=torch.float64)).softmax(dim=2)
    return student, teacher, torch.rand(3, 6, 7, generator=generator) > 0.3


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("ignore_background", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_easiness(slow, seed, ignore_background, classes):
    student, teacher, valid = random_probs(seed, classes)
    found = image_easiness(student, teacher, valid, threshold=0.7, ignore_background=ignore_background)
    expected = slow.easiness(student.numpy(), teacher.numpy(), valid.numpy(), 0.7, ignore_background)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert min(expected) > 0


def test_easiness_by_hand():
    """4 pixels: teacher says lesion on two, student on one of them; the teacher is sure of 3, the student of 2."""
    teacher = torch.tensor([0.99, 0.9, 0.01, 0.01]).view(1, 1, 1, 4)
    student = torch.tensor([0.99, 0.4, 0.3, 0.01]).view(1, 1, 1, 4)
    teacher, student = (torch.cat([1 - p, p], dim=1) for p in (teacher, student))
    valid = torch.ones(1, 1, 4, dtype=torch.bool)
    assert image_easiness(student, teacher, valid, threshold=0.95).item() == pytest.approx(
        0.5 * (0.5 * 3 / 4 + 0.5 * 2 / 4)
    )
    assert image_easiness(teacher, teacher, valid, threshold=0.5).item() == 1
    # background counted: its IoU is 2/3; weights are the reference's pixels
    expected = 0.5 * ((2 * 0.5 + 2 * 2 / 3) / 4 * 3 / 4 + (1 * 0.5 + 3 * 2 / 3) / 4 * 2 / 4)
    found = image_easiness(student, teacher, valid, threshold=0.95, ignore_background=False)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("silent", ["student", "teacher", "both"])
def test_the_two_class_trap(silent):
    """No lesion predicted by either: easiness 0 and no loss at all. The floor, or counting background, keeps it up."""
    plain = torch.tensor([0.99, 0.01]).view(1, 2, 1, 1).expand(2, 2, 4, 4)
    some = plain.clone()
    some[:, :, :2] = plain[:, :, :2].flip(1)
    student = plain if silent in ("student", "both") else some
    teacher = plain if silent in ("teacher", "both") else some
    valid = torch.ones(2, 4, 4, dtype=torch.bool)
    assert image_easiness(student, teacher, valid, threshold=0.95).tolist() == [0, 0]
    assert image_easiness(student, teacher, valid, threshold=0.95, floor=0.1).tolist() == pytest.approx([0.1, 0.1])
    assert image_easiness(student, teacher, valid, threshold=0.95, ignore_background=False).min() > 0.2


@pytest.mark.parametrize(
    ("arguments", "moves"), [({"floor": 0.0}, False), ({"floor": 0.1}, True), ({"ignore_background": False}, True)]
)
def test_the_trap_in_a_step(arguments, moves):
    """All background, and sure of it: does anything reach the student?"""
    engine = make_engine(lesion=-50.0)
    step = engine.state.step
    IMAS(black, **{"floor": 0.0, **arguments}).prepare(engine)
    view = step.views["strong"]
    logits = torch.zeros(BATCH, 2, SIZE, SIZE, requires_grad=True)
    loss = per_image_cross_entropy(logits, view.target, view.weight, view.valid)
    loss.backward()
    assert (float(loss.detach()) > 0) == moves
    assert bool((logits.grad != 0).any()) == moves
    assert ("cutmix" in step.views) <= moves  # never drawn at easiness 0


def test_nothing_valid_is_not_easy():
    student, teacher, valid = random_probs(0, 2)
    for ignore in (True, False):
        found = image_easiness(student, teacher, valid & False, threshold=0.5, ignore_background=ignore)
        assert found.tolist() == [0, 0, 0]
    label = torch.zeros(1, 2, 2, dtype=torch.int64)
    assert weighted_iou(label, label, torch.ones(1, 2, 2, dtype=torch.bool)).tolist() == [0]  # one class absent


@pytest.mark.parametrize("batch", [1, 2, 5, 6])
def test_partners_are_of_opposite_rank(slow, batch):
    values = torch.rand(batch, generator=torch.Generator().manual_seed(batch))
    found = opposite_rank(values)
    assert found.tolist() == slow.partners(values.tolist())
    assert torch.equal(found[found], torch.arange(batch))  # mutual
    assert found[values.argmax()] == values.argmin()
    assert opposite_rank(torch.ones(4)).tolist() == [3, 2, 1, 0]  # ties by place


@pytest.mark.parametrize("seed", range(3))
def test_loss_per_image(slow, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 2, 5, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 2, (3, 5, 6), generator=generator)
    confidence, valid = torch.rand(3, 5, 6, generator=generator), torch.rand(3, 5, 6, generator=generator) > 0.3
    valid[2] = False  # all padding
    values = torch.tensor([0.2, 0.7, 0.9])
    weight = (confidence >= 0.4).float() * values.view(-1, 1, 1)
    expected = slow.branch_loss(
        logits.numpy(), target.numpy(), confidence.numpy(), valid.numpy(), values.tolist(), np.float32(0.4)
    )
    assert float(per_image_cross_entropy(logits, target, weight, valid)) == pytest.approx(expected, rel=1e-5)
    assert expected > 0
    assert float(per_image_cross_entropy(logits, target, weight, valid & False)) == 0


@pytest.mark.parametrize("drawn", [True, False])
def test_the_step_follows_the_specification(slow, monkeypatch, drawn):
    engine = make_engine()
    step, threshold = engine.state.step, 0.8
    weak, probs = step.weak["unlabeled"], step.teacher_probs
    keep = torch.rand(BATCH, SIZE, SIZE, generator=torch.Generator().manual_seed(5)) > 0.4
    monkeypatch.setattr(module, "draw_side_box", lambda batch, size, side, generator=None: keep)
    monkeypatch.setattr(module, "uniform", lambda shape, device, generator: torch.tensor(0.0 if drawn else 1.0))
    method = IMAS(black, threshold=threshold, floor=0.0)
    method.prepare(engine)
    assert engine.network.asked_in_training is False
    assert engine.network.training

    student = engine.network.logits.softmax(dim=1).numpy()
    s = slow.easiness(student, probs.numpy(), weak.valid.numpy(), np.float32(threshold))
    assert len({round(value, 6) for value in s}) == BATCH
    assert 0 < min(s) < max(s) < 1
    confidence, label = (tensor.numpy() for tensor in probs.max(dim=1))
    valid, image = weak.valid.numpy(), weak.image.numpy()
    blended = np.stack([np.where(valid[i], (1 - s[i]) * image[i], image[i]) for i in range(BATCH)])
    views = {"strong": (blended, label, confidence, valid)}
    if drawn:
        partner = slow.partners(s)
        views["cutmix"] = tuple(
            np.where(keep.numpy()[:, None] if values.ndim == 4 else keep.numpy(), values, values[partner])
            for values in (image, label, confidence, valid)
        )
    assert set(step.views) == {"labeled", "unlabeled", *views}

    generator = torch.Generator().manual_seed(3)
    losses = {}
    for name, (image, target, sure, inside) in views.items():
        view = step.views[name]
        np.testing.assert_allclose(view.image.numpy(), image, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(view.target.numpy(), target)
        np.testing.assert_array_equal(view.valid.numpy(), inside)
        assert view.loss_weight == 0
        logits = torch.randn(BATCH, 2, SIZE, SIZE, generator=generator)
        step.outputs[name] = Output(logits, None)
        losses[name] = slow.branch_loss(logits.double().numpy(), target, sure, inside, s, np.float32(threshold))
    method.add_loss(engine)
    assert {name: float(value) for name, value in step.losses.items()} == pytest.approx(losses, rel=1e-4)
    total = slow.total(0.0, losses["strong"], losses.get("cutmix"))
    assert float(step.total_loss()) == pytest.approx(total, rel=1e-4)
    assert torch.equal(step.views["unlabeled"].image, weak.image)  # for its batch statistics only
    assert step.views["unlabeled"].loss_weight == 0
    assert step.scalars["cutmix_drawn"] == drawn
    assert float(step.scalars["easiness"]) == pytest.approx(np.mean(s), rel=1e-5)


@pytest.mark.parametrize(("floor", "expected"), [(0.3, 0.3), (0.8, 0.8), (1.0, 1.0)])
def test_cutmix_is_drawn_with_the_chance_of_the_mean_easiness(floor, expected):
    engine, drawn = make_engine(lesion=-50.0), 0
    weak = dict(engine.state.step.views)
    for _ in range(400):
        step = engine.state.step = Step(views=dict(weak), teacher_probs=engine.state.step.teacher_probs)
        IMAS(black, floor=floor).prepare(engine)
        drawn += "cutmix" in step.views
    assert drawn / 400 == pytest.approx(expected, abs=0.07)


def test_the_numbers_drawn_do_not_depend_on_the_networks():
    states = []
    for lesion in (-50.0, 0.0):
        engine = make_engine(lesion=lesion)
        IMAS(floor=0.0).prepare(engine)
        states.append(engine.generator.get_state())
    assert torch.equal(*states)


def test_padding_keeps_its_grey_and_gets_no_loss():
    engine = make_engine()
    IMAS(threshold=0.5).prepare(engine)
    view, weak = engine.state.step.views["strong"], engine.state.step.weak["unlabeled"]
    outside = ~weak.valid.unsqueeze(1)
    assert torch.equal(view.image[outside], weak.image[outside])
    logits = torch.randn(BATCH, 2, SIZE, SIZE, requires_grad=True)
    per_image_cross_entropy(logits, view.target, view.weight, view.valid).backward()
    assert torch.equal(logits.grad.abs().sum(dim=1) > 0, view.valid)


def test_labeled_only_steps_are_left_alone():
    engine = make_engine()
    step = engine.state.step
    del step.views["unlabeled"]
    before = dict(step.views)
    method = IMAS()
    method.prepare(engine)
    method.add_loss(engine)
    assert step.views == before
    assert step.losses == step.scalars == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 2}, "IMAS: threshold 2"),
        ({"floor": -0.1}, "floor -0.1"),
        ({"weight": -1}, "IMAS: weight is -1"),
        ({"box_side": (0.9, 0.1)}, r"IMAS: box_side is \(0.9, 0.1\)"),
        ({"box_side": 0.5}, "IMAS: box_side is 0.5"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        IMAS(**arguments)


def test_in_a_training(tiny, slow):
    run = tiny.build(apa=False, hpc=False, rate=0.01, handlers=(IMAS(threshold=0.7, floor=0.2),))
    run.trainer.run()
    drawn = set()
    for epoch, step, output in zip(run.recorder.epochs, run.recorder.steps, run.recorder.outputs, strict=True):
        if epoch == 1:
            assert set(step.losses) == {"labeled"}
            continue
        drawn.add("cutmix" in step.losses)
        assert set(step.losses) - {"cutmix"} == {"labeled", "strong"}
        total = slow.total(output["loss_labeled"], output["loss_strong"], output.get("loss_cutmix"))
        assert output["loss"] == pytest.approx(total, rel=1e-5)
        assert "unlabeled" in step.outputs
        assert output["loss_strong"] > 0
    assert drawn == {True, False}


class OneWeight(nn.Module):
    """Logits (0, w * image)."""

    projector = None

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(4.0))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(image), self.weight * image], dim=1)


def test_one_weight_and_its_exact_numbers():
    """One image of 1 (lesion, p = sigmoid(4)), one of -1 (background): easiness r and 0; floor 0.2; strong halves."""
    network = OneWeight()
    image = torch.stack([torch.ones(1, 2, 2), -torch.ones(1, 2, 2)])
    valid = torch.ones(2, 2, 2, dtype=torch.bool)
    label = torch.ones(2, 2, 2, dtype=torch.int64)
    batch = {"labeled": {"image": image, "label": label, "valid": valid}, "unlabeled": {"image": image, "valid": valid}}
    trainer = SemiSupervisedTrainer(
        "cpu",
        1,
        [batch],
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        train_handlers=[IMAS(lambda image, valid, generator: image / 2, threshold=0.9, floor=0.2, box_side=(0.0, 0.0))],
    )
    trainer.run()
    (output,) = trainer.state.output

    def cross_entropy(logit: float) -> float:
        return float(np.log1p(np.exp(-logit)))

    s = (1.0, 0.2)
    assert output["easiness"] == pytest.approx(0.6)
    blend = [1 - 0.5 * value for value in s]  # s / 2 + (1 - s)
    strong = sum(value * cross_entropy(4 * b) for value, b in zip(s, blend, strict=True)) / 2
    labeled = (cross_entropy(4) + cross_entropy(-4)) / 2
    assert output["loss_strong"] == pytest.approx(strong, rel=1e-5)
    unlabeled = strong
    if "loss_cutmix" in output:  # an empty box: the weak view itself
        cutmix = sum(value * cross_entropy(4) for value in s) / 2
        assert output["loss_cutmix"] == pytest.approx(cutmix, rel=1e-5)
        unlabeled = (strong + cutmix) / 2
    assert output["loss"] == pytest.approx(labeled + 3 * unlabeled, rel=1e-5)
