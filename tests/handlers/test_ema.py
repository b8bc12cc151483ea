"""The EMA teacher with models of one weight, whose numbers can be written down."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from phnet_monai.handlers import EMATeacher, ema_update
from phnet_monai.networks import PHNet, make_teacher


class OneWeight(nn.Module):
    """One parameter, one float buffer, one integer buffer."""

    def __init__(self, weight: float, buffer: float = 0.0, count: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.register_buffer("statistic", torch.tensor(buffer))
        self.register_buffer("batches", torch.tensor(count))

    def values(self) -> tuple[float, float, int]:
        return self.weight.item(), self.statistic.item(), self.batches.item()


def engine(*, pretraining: bool = False, iteration: int = 5) -> SimpleNamespace:
    return SimpleNamespace(pretraining=pretraining, state=SimpleNamespace(iteration=iteration))


def train(handler: EMATeacher, *weights: float, pretraining: bool = False) -> list[float]:
    """The student takes these weights one after the other; the teacher's after each."""
    seen = []
    for weight in weights:
        with torch.no_grad():
            handler.student.weight.fill_(weight)
        handler.update(engine(pretraining=pretraining))
        seen.append(handler.teacher.weight.item())
    return seen


# Eq. 1


def test_one_update_by_hand():
    teacher, student = OneWeight(1.0), OneWeight(3.0)
    ema_update(teacher, student, 0.75)
    assert teacher.weight.item() == 0.75 * 1 + 0.25 * 3
    assert student.weight.item() == 3


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_one_update_equals_the_loop(reference, decay):
    torch.manual_seed(0)
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    before = [p.detach().double().numpy().copy() for p in teacher.parameters()]
    ema_update(teacher, student, decay)
    for old, new, source in zip(before, teacher.parameters(), student.parameters(), strict=True):
        expected = reference.ema(old.ravel(), source.detach().double().numpy().ravel(), decay)
        np.testing.assert_allclose(new.detach().numpy().ravel(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("buffers", "statistic"), [("average", 0.9 * 10 + 0.1 * 20), ("copy", 20.0), ("keep", 10.0)])
def test_buffers(buffers, statistic):
    teacher, student = OneWeight(1.0, 10.0, 3), OneWeight(2.0, 20.0, 7)
    ema_update(teacher, student, 0.9, buffers)
    assert teacher.values() == (pytest.approx(1.1), pytest.approx(statistic), 7)  # counts are always copied


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_storage_is_never_shared(decay):
    teacher, student = OneWeight(1.0, 10.0, 3), OneWeight(2.0, 20.0, 7)
    own = [t.data_ptr() for t in (*teacher.parameters(), *teacher.buffers())]
    ema_update(teacher, student, decay, "copy")
    assert [t.data_ptr() for t in (*teacher.parameters(), *teacher.buffers())] == own
    expected = teacher.values()
    with torch.no_grad():
        student.weight.fill_(-5)
        student.statistic.fill_(-5)
        student.batches.fill_(-5)
    assert teacher.values() == expected


def test_the_students_projector_is_passed_over():
    torch.manual_seed(0)
    student = PHNet(decoder="plain_unet", unet_features=[4, 8, 8, 16, 16], head_channels=8, embedding_size=8)
    teacher = make_teacher(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    before = {name: p.clone() for name, p in teacher.named_parameters()}
    ema_update(teacher, student, 0.75)
    for name, parameter in teacher.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.25)


# the handler


def test_warm_up_of_the_decay():
    """Decays 1/2, 2/3, 3/4: the teacher is the mean of its start and all students so far."""
    handler = EMATeacher(OneWeight(0.0), OneWeight(0.0), decay=0.999)
    assert train(handler, 4.0, 8.0, 12.0, 6.0) == pytest.approx([2, 4, 6, 6])


def test_the_decay_is_capped():
    handler = EMATeacher(OneWeight(0.0), OneWeight(0.0), decay=0.6)
    decays = []
    for _ in range(5):
        handler.update(engine())
        decays.append(handler.current_decay())
    assert decays == pytest.approx([1 / 2, 0.6, 0.6, 0.6, 0.6])
    handler = EMATeacher(OneWeight(0.0), OneWeight(0.0), decay=0.6)
    # 0.5*10; 0.6*5 + 0.4*10; 0.6*7 + 0.4*20
    assert train(handler, 10.0, 10.0, 20.0) == pytest.approx([5.0, 7.0, 12.2])


def test_the_cap_of_the_paper_is_reached_after_999_updates():
    handler = EMATeacher(OneWeight(0.0), OneWeight(0.0))
    handler.updates = 998
    assert handler.current_decay() == pytest.approx(998 / 999)
    assert handler.current_decay() < 0.999
    for handler.updates in (999, 1000, 10**6):
        assert handler.current_decay() == pytest.approx(0.999, abs=1e-12)


def test_during_pretraining_the_teacher_is_the_student():
    handler = EMATeacher(OneWeight(1.0, 5.0, 1), OneWeight(0.0), decay=0.9)
    assert train(handler, 3.0, 7.0, pretraining=True) == [3, 7]
    assert handler.teacher.values() == handler.student.values()  # buffers too
    assert handler.updates == 0  # steps are counted from the end of the pretraining
    assert train(handler, 9.0) == [8]


def test_a_fresh_run_starts_from_the_students_weights():
    handler = EMATeacher(OneWeight(3.0, 4.0, 5), OneWeight(0.0))
    handler.start(engine(iteration=0))
    assert handler.teacher.values() == (3, 4, 5)
    handler = EMATeacher(OneWeight(3.0, 4.0, 5), OneWeight(0.0))
    handler.start(engine(iteration=12))  # resumed
    assert handler.teacher.values() == (0, 0, 0)


def test_the_teacher_gets_no_gradient_and_is_in_eval_mode():
    teacher = OneWeight(0.0).train()
    handler = EMATeacher(OneWeight(1.0), teacher)
    handler.start(engine())
    assert not teacher.weight.requires_grad
    assert not teacher.training
    assert handler.student.weight.requires_grad


def test_state_is_saved_and_restored():
    first = EMATeacher(OneWeight(0.0), OneWeight(0.0))
    train(first, 4.0, 8.0)
    second = EMATeacher(OneWeight(0.0), OneWeight(first.teacher.weight.item()))
    second.load_state_dict(first.state_dict())
    assert train(second, 12.0) == train(first, 12.0) == pytest.approx([6])


def test_shared_storage_is_refused():
    student = OneWeight(1.0)
    with pytest.raises(ValueError, match="teacher and student share the storage of weight"):
        EMATeacher(student, student)
    teacher = OneWeight(1.0)
    teacher.statistic = student.statistic
    with pytest.raises(ValueError, match="share the storage of statistic"):
        EMATeacher(student, teacher)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (nn.Linear(2, 2), nn.Linear(2, 3)),
        (nn.Linear(2, 2, bias=False), nn.Linear(2, 2)),
        (OneWeight(1.0), nn.Linear(2, 2)),
    ],
)
def test_another_architecture_is_refused(student, teacher):
    with pytest.raises(ValueError, match="the teacher is no copy of the student"):
        EMATeacher(student, teacher)


@pytest.mark.parametrize("arguments", [{"decay": 1.0}, {"decay": -0.1}, {"buffers": "reference"}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="expected 0 <= decay < 1|expected 'average', 'copy' or 'keep'"):
        EMATeacher(OneWeight(1.0), OneWeight(1.0), **arguments)


def test_in_a_training(tiny):
    """The teacher's weights follow from the student's, recorded step by step."""
    students: list[torch.Tensor] = []

    class Record:
        def attach(self, trainer):
            from ignite.engine import Events

            trainer.add_event_handler(
                Events.ITERATION_COMPLETED, lambda e: students.append(e.network.classifier[-1].weight.detach().clone())
            )

    run = tiny.build(handlers=(Record(),))
    run.trainer.run()
    expected = students[3]  # the end of the labeled-only epoch of four steps
    for number, weight in enumerate(students[4:], start=1):
        decay = min(number / (number + 1), 0.9)
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(run.teacher.classifier[-1].weight, expected)
    assert run.ema.updates == 8
