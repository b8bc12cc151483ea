"""PS-MT: teachers in turn, the confident loss, the adversarial direction, and whole steps."""

from __future__ import annotations

import copy
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn

from phnet_monai.engines import SemiSupervisedTrainer, Step, View, polynomial_schedule
from phnet_monai.engines.schedule import cosine_ramp
from phnet_monai.handlers import PSMT, AlternatingTeachers, SaveCheckpoints
from phnet_monai.handlers.ps_mt import adversarial_direction, confident_cross_entropy, unit
from phnet_monai.networks import Ensemble, PHNet, load_checkpoint, make_teacher
from phnet_monai.transforms import draw_beta_box, mix_patches
from phnet_monai.transforms.strong_view import StrongView

REFERENCE = Path(__file__).parents[1] / "reference" / "ps_mt_reference.py"
LABELED, UNLABELED = "labeled", "unlabeled"


@pytest.fixture(scope="module")
def slow() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(REFERENCE)))


class Killed(Exception):
    pass


class Kill:
    """Ends a run after step `at`."""

    def __init__(self, at: int) -> None:
        self.at = at

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.at), self)

    def __call__(self, engine):
        raise Killed


def build(
    tiny, folder: Path | None = None, resume: bool = False, extra: tuple = (), max_epochs: int = 3, **arguments
) -> SimpleNamespace:
    """A tiny training with two teachers; `arguments` are those of `PSMT`."""
    run = tiny.build(apa=False, hpc=False, network={"embedding_size": None})
    run.teacher = Ensemble([make_teacher(run.student) for _ in range(2)], average="logits")
    run.ema = AlternatingTeachers(run.student, run.teacher, decay=0.9)
    run.handler = PSMT(**{"threshold": 0.5, **arguments})
    run.recorder = tiny.Recorder()
    saving = None
    if folder is not None:
        saving = SaveCheckpoints(
            folder,
            run.student,
            run.optimizer,
            teacher=run.teacher,
            scheduler=polynomial_schedule(run.optimizer, run.loader, max_epochs),
            handlers={"ema": run.ema, "method": run.handler},
            input_size=tiny.SIZE,
            pad_value=0.33,
            method="ps_mt",
            resume=resume,
        )
    run.trainer = SemiSupervisedTrainer(
        "cpu",
        max_epochs,
        run.loader,
        run.student,
        run.optimizer,
        teacher=run.teacher,
        pretrain_epochs=1,
        train_handlers=[run.ema, run.handler, run.recorder, *extra, saving],
    )
    return run


# --- the two teachers


def one_weight(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def test_teachers_follow_in_turn_by_epochs():
    """Two steps an epoch, the first epoch labeled-only; decays 1/2, 2/3, 3/4 of each teacher's own count."""
    student, teachers = one_weight(0.0), Ensemble([one_weight(0.0), one_weight(0.0)], average="logits")
    handler = AlternatingTeachers(student, teachers, decay=0.7)
    engine = SimpleNamespace(state=SimpleNamespace(epoch=1, iteration=0), pretrain_epochs=1, pretraining=True)
    found = []
    for step in range(10):
        engine.state.epoch = 1 + step // 2
        engine.pretraining = engine.state.epoch == 1
        nn.init.constant_(student.weight, float(step))
        handler.update(engine)
        found.append(tuple(float(member.weight.detach()) for member in teachers.members))
    first = [0, 1, (1 + 2) / 2, (1 + 2 + 3) / 3]
    second = [1.0, 1.0, 1.0, 1.0, (1 + 4) / 2, (1 + 4 + 5) / 3]
    first += [first[3], first[3], 0.7 * first[3] + 0.3 * 6]
    first += [0.7 * first[6] + 0.3 * 7]
    second = [0.0, *second[1:], second[5], second[5], 0.7 * second[5] + 0.3 * 8]
    second.append(0.7 * second[8] + 0.3 * 9)
    assert [pair[0] for pair in found] == pytest.approx(first + [first[7]] * 2)
    assert [pair[1] for pair in found] == pytest.approx(second)
    assert handler.state_dict() == {"updates": [4, 4]}


def test_the_count_of_each_teacher_is_kept():
    student = one_weight(0.0)
    first, second = (
        AlternatingTeachers(student, Ensemble([one_weight(0.0), one_weight(0.0)]), decay=0.9) for _ in range(2)
    )
    first.averages[0].updates, first.averages[1].updates = 7, 3
    second.load_state_dict(first.state_dict())
    assert [average.updates for average in second.averages] == [7, 3]


def test_teachers_of_one_warm_start_differ_and_both_learn(tiny):
    run = build(tiny, max_epochs=4)
    seen: dict[int, list[dict[str, Tensor]]] = {}

    class Watch:
        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

        def __call__(self, engine):
            seen[engine.state.epoch] = [tiny.weights(n) for n in (*run.teacher.members, run.student)]

    Watch().attach(run.trainer)
    run.trainer.run()
    assert tiny.equal(seen[1][0], seen[1][2])  # copies of the student
    assert tiny.equal(seen[1][1], seen[1][2])
    assert tiny.equal(seen[2][1], seen[1][1])  # the second rests in epoch 2, the first in epoch 3
    assert tiny.equal(seen[3][0], seen[2][0])
    name = "classifier.7.weight"
    for earlier, later, moving in ((1, 2, 0), (2, 3, 1), (3, 4, 0)):
        assert not torch.equal(seen[earlier][moving][name], seen[later][moving][name])
        assert not torch.equal(seen[later][0][name], seen[later][1][name])
    assert not any(module.training for module in run.teacher.modules())
    assert all(parameter.grad is None for parameter in run.teacher.parameters())


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (one_weight(0.0), "teacher is Linear, expected an Ensemble of two"),
        (Ensemble([one_weight(0.0)]), "expected an Ensemble of two"),
        (Ensemble([one_weight(0.0)] * 2), "share their storage"),
    ],
)
def test_other_teachers_are_refused(teacher, message):
    with pytest.raises(ValueError, match=f"AlternatingTeachers: .*{message}"):
        AlternatingTeachers(one_weight(0.0), teacher)


def test_a_student_among_the_teachers_is_refused():
    student = one_weight(0.0)
    with pytest.raises(ValueError, match="share the storage"):
        AlternatingTeachers(student, Ensemble([one_weight(0.0), student]))


# --- the loss


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("classes", [2, 3])
def test_loss_equals_the_transcription(slow, threshold, classes):
    generator = torch.Generator().manual_seed(0)
    logits, target = (2 * torch.randn(3, classes, 5, 4, generator=generator) for _ in range(2))
    probs, valid = target.softmax(dim=1), torch.rand(3, 5, 4, generator=generator) < 0.7
    confidence, label = probs.max(dim=1)
    kept = (confidence >= threshold) & valid
    found = confident_cross_entropy(logits, label, confidence, kept)
    expected = slow.confident_cross_entropy(logits.numpy(), probs.numpy(), valid.numpy(), threshold)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_nothing_kept_is_zero_with_zero_gradient():
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = confident_cross_entropy(
        logits, torch.zeros(1, 3, 3, dtype=torch.long), torch.ones(1, 3, 3), torch.zeros(1, 3, 3, dtype=torch.bool)
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_ramp(slow):
    assert [cosine_ramp(t) for t in (-1, 0, 0.5, 1, 2)] == pytest.approx([0, 0, 0.5, 1, 1])
    for epoch in range(15):
        assert cosine_ramp(epoch / 12) == pytest.approx(slow.ramp(epoch, 12))


class Constant(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


@pytest.mark.parametrize("classes", [2, 3, 9])
def test_all_classes_compete_in_the_target(slow, classes):
    """The source merges the seven likeliest classes: with two classes that cannot be, and must be all of them."""
    generator = torch.Generator().manual_seed(classes)
    first, second = (3 * torch.randn(2, classes, 4, 4, generator=generator) for _ in range(2))
    found = Ensemble([Constant(first), Constant(second)], average="logits")(torch.zeros(2, 1, 4, 4)).softmax(dim=1)
    torch.testing.assert_close(found, slow.merged_target(first, second, classes))
    if classes < 7:
        with pytest.raises(RuntimeError, match="out of range"):
            slow.merged_target(first, second, 7)
    else:
        assert not torch.allclose(found, slow.merged_target(first, second, 7))


# --- the adversarial direction


def trained_teachers(tiny, precision: torch.dtype = torch.float32) -> list[PHNet]:
    teachers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = PHNet(**{**tiny.NETWORK, "embedding_size": None}).train()
        with torch.no_grad():  # statistics of real values
            for _ in range(4):
                network(torch.rand(4, 1, 32, 32))
        teachers.append(network.eval().requires_grad_(False).to(precision))
    return teachers


def features_of(network: PHNet, batch: int = 3) -> list[Tensor]:
    images = torch.rand(batch, 1, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return network.encode(images.to(next(network.parameters()).dtype))


def start_like(features: list[Tensor]) -> Tensor:
    return torch.rand(features[-1].shape, generator=torch.Generator().manual_seed(6)).to(features[-1]) - 0.5


@pytest.mark.parametrize("times", [1, 3])
def test_direction_equals_the_transcription_in_double_precision(tiny, slow, times):
    features, valid = features_of(trained_teachers(tiny)[0]), torch.ones(3, 32, 32, dtype=torch.bool)
    valid[0, :9], valid[1, :, 20:] = False, False
    start = start_like(features)
    found = adversarial_direction(trained_teachers(tiny), features, valid, start, iterations=times)
    precise = trained_teachers(tiny, torch.double)
    for i in range(3):
        finer = [level[i : i + 1].double() for level in features[:-1]]
        decoders = [
            lambda x, network=network, finer=finer: network.classify(network.decode([*finer, x]), 32, 32)
            for network in precise
        ]
        deepest, first = (tensor[i : i + 1].double() for tensor in (features[-1], start))
        expected = slow.adversarial_direction(decoders, deepest, valid[i], first, 1e-6, times)
        cosine = (found[i].double() * expected[0]).sum()
        assert cosine.item() > 0.99
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(3))


def test_direction_hurts_more_than_chance(tiny):
    teachers, valid = trained_teachers(tiny), torch.ones(3, 32, 32, dtype=torch.bool)
    features = features_of(teachers[0])
    precise = trained_teachers(tiny, torch.double)

    def divergence(direction: Tensor) -> Tensor:
        def answer(deepest: Tensor) -> Tensor:
            levels = [*(level.double() for level in features[:-1]), deepest]
            return torch.stack([t.classify(t.decode(levels), 32, 32) for t in precise]).mean(0).log_softmax(dim=1)

        before, after = (answer(features[-1].double() + length * direction.double()) for length in (0, 0.5))
        return (before.exp() * (before - after)).sum(dim=(1, 2, 3))

    start = start_like(features)
    once, often = (adversarial_direction(teachers, features, valid, start, iterations=n) for n in (1, 20))
    assert (divergence(once) > divergence(unit(start))).all()
    assert (divergence(often) > divergence(once)).all()


def test_images_and_padding_do_not_meet(tiny):
    teachers = trained_teachers(tiny)
    features, valid = features_of(teachers[0]), torch.ones(3, 32, 32, dtype=torch.bool)
    start = start_like(features)
    valid[1] = False
    together = adversarial_direction(teachers, features, valid, start)
    assert together[1].abs().max() == 0  # nothing valid, nothing to hurt
    alone = adversarial_direction(teachers, [level[2:] for level in features], valid[2:], start[2:])
    torch.testing.assert_close(together[2:], alone, atol=1e-3, rtol=1e-2)


def test_direction_has_no_graph_and_leaves_no_gradient(tiny):
    teachers = trained_teachers(tiny)
    features = [level.requires_grad_() for level in features_of(teachers[0])]
    valid = torch.ones(3, 32, 32, dtype=torch.bool)
    with torch.no_grad():  # whatever the caller's mode is
        found = adversarial_direction(teachers, features, valid, start_like(features))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = adversarial_direction(teachers, [level.bfloat16() for level in features], valid, start_like(features))
    assert not found.requires_grad
    assert found.dtype == mixed.dtype == torch.float32
    assert ((found * mixed).sum(dim=(1, 2, 3)) > 0.9).all()
    assert all(level.grad is None for level in features)
    assert all(parameter.grad is None for teacher in teachers for parameter in teacher.parameters())


def test_unit_survives_tiny_and_zero_gradients():
    direction = torch.tensor([[3.0, 4.0], [3e-30, 4e-30], [0.0, 0.0]]).view(3, 2, 1, 1)
    expected = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]).view(3, 2, 1, 1)
    torch.testing.assert_close(unit(direction), expected)


# --- the step


def make_engine(tiny, seed: int = 0) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(3, 32, 32, dtype=torch.bool)
    valid[0, :, :7] = False
    image = torch.rand(3, 1, 32, 32, generator=generator)
    probs = torch.randn(3, 2, 32, 32, generator=generator).softmax(dim=1)
    weak = View(image, probs.argmax(dim=1), torch.ones(3, 32, 32), valid)
    step = Step(views={LABELED: weak, UNLABELED: weak}, weak={UNLABELED: weak}, teacher_probs=probs)
    return SimpleNamespace(
        state=SimpleNamespace(step=step),
        generator=torch.Generator().manual_seed(seed + 1),
        format=torch.contiguous_format,
        teacher=Ensemble(trained_teachers(tiny), average="logits"),
        progress=0.0,
    )


def test_view_is_strong_and_mixed_with_its_target(tiny):
    engine = make_engine(tiny)
    step, generator = engine.state.step, copy.deepcopy(engine.generator.get_state())
    weak, probs = step.views[UNLABELED], step.teacher_probs
    strong_view = StrongView("jitter")
    PSMT(strong_view, threshold=0.7).prepare(engine)
    view = step.views[UNLABELED]

    again = torch.Generator()
    again.set_state(generator)
    labeled = strong_view(weak.image, weak.valid, again)  # the student's images are strong, labeled ones too
    assert torch.equal(step.views[LABELED].image, labeled)
    assert not torch.equal(labeled, weak.image)
    assert step.views[LABELED].target is weak.target
    strong = strong_view(weak.image, weak.valid, again)
    keep = draw_beta_box(3, 32, (4, 4), again)
    assert not keep.all()
    assert torch.equal(view.image, mix_patches(strong, keep))
    mixed = mix_patches(probs, keep)
    assert torch.equal(view.target, mixed.argmax(dim=1))
    assert torch.equal(view.valid, mix_patches(weak.valid, keep))
    confidence = mixed.amax(dim=1)
    assert torch.equal(view.weight, confidence * ((confidence >= 0.7) & view.valid))
    assert 0 < (view.weight > 0).float().mean() < 1
    assert view.loss_weight == 0
    assert step.scalars["confident_pixels"].item() == pytest.approx(
        ((confidence >= 0.7)[view.valid]).float().mean().item(), rel=1e-5
    )


def test_features_of_both_views_are_moved_by_eps(tiny):
    engine = make_engine(tiny)
    PSMT(eps=2.0).prepare(engine)
    features = [level.requires_grad_() for level in features_of(engine.teacher.members[0])]
    for name in (LABELED, UNLABELED):
        moved = engine.state.step.views[name].perturb(features)
        assert all(new is old for new, old in zip(moved[:-1], features[:-1], strict=True))
        shift = (moved[-1] - features[-1]).detach().flatten(1).norm(dim=1)
        torch.testing.assert_close(shift, torch.full((3,), 2.0), atol=1e-4, rtol=1e-4)
        (gradient,) = torch.autograd.grad(moved[-1].sum(), features[-1])
        assert (gradient == 1).all()  # the direction is a constant
    still = make_engine(tiny)
    PSMT(eps=0.0).prepare(still)
    assert all(view.perturb is None for view in still.state.step.views.values())


@pytest.mark.parametrize("missing", ["view", "probs"])
def test_labeled_only_steps_have_strong_views_and_no_term(tiny, missing):
    engine = make_engine(tiny)
    step = engine.state.step
    weak = step.views[LABELED]
    if missing == "view":
        step.views = {LABELED: step.views[LABELED]}
    else:
        step.teacher_probs = None
    others, handler = {name: view for name, view in step.views.items() if name != LABELED}, PSMT()
    handler.prepare(engine)
    handler.add_loss(engine)
    assert {name: view for name, view in step.views.items() if name != LABELED} == others
    strong = step.views[LABELED]
    assert not torch.equal(strong.image, weak.image)
    assert (strong.target is weak.target, strong.perturb) == (True, None)
    assert step.losses == {}
    assert step.scalars == {}


def test_in_a_training(tiny, slow):
    """Terms, their weights and values, seen from the trainer; the perturbation changes what the student answers."""
    run, plain = build(tiny, threshold=0.6, ramp=0.5), build(tiny, threshold=0.6, ramp=0.5, eps=0.0)
    run.trainer.run()
    plain.trainer.run()
    semi = 0
    for epoch, step in zip(run.recorder.epochs, run.recorder.steps, strict=True):
        if epoch == 1:
            assert set(step.losses) == {LABELED}
            assert step.views[LABELED].perturb is None
            continue
        assert set(step.losses) == {LABELED, UNLABELED}
        expected = 1.5 * slow.ramp(semi / 8, 0.5)
        assert step.loss_weights[UNLABELED] == pytest.approx(expected)
        assert step.scalars["unlabeled_weight"] == pytest.approx(expected)
        view = step.views[UNLABELED]
        kept = view.weight > 0
        terms = torch.nn.functional.cross_entropy(
            step.outputs[UNLABELED].logits.detach(), view.target, reduction="none"
        )
        value = (terms * view.weight)[kept].mean().item() if kept.any() else 0.0
        assert step.losses[UNLABELED].item() == pytest.approx(value, rel=1e-5)
        semi += 1
    assert semi == 8
    pairs = zip(run.recorder.steps, plain.recorder.steps, strict=True)
    first = next((a, b) for (a, b), epoch in zip(pairs, run.recorder.epochs, strict=True) if epoch == 2)
    assert torch.equal(first[0].views[UNLABELED].image, first[1].views[UNLABELED].image)  # the same draws so far
    for name in (LABELED, UNLABELED):
        assert not torch.equal(first[0].outputs[name].logits, first[1].outputs[name].logits)


def test_a_resumed_run_equals_an_unbroken_one(tiny, tmp_path):
    whole = build(tiny, tmp_path / "whole", max_epochs=4)
    whole.trainer.run()
    cut = build(tiny, tmp_path / "cut", max_epochs=4, extra=(Kill(14),))
    with pytest.raises(Killed):
        cut.trainer.run()
    resumed = build(tiny, tmp_path / "cut", resume=True, max_epochs=4)
    resumed.trainer.run()
    assert len(resumed.recorder.steps) == 4
    for network in ("student", "teacher"):
        first, second = (tiny.weights(getattr(run, network)) for run in (whole, resumed))
        assert tiny.equal(first, second), network
    assert resumed.ema.state_dict() == whole.ema.state_dict() == {"updates": [8, 4]}
    loaded, info = load_checkpoint(tmp_path / "cut" / "last.pt")
    assert info["ensemble"] == {"members": 2, "average": "logits"}
    assert isinstance(loaded, Ensemble)
    assert loaded.average == "logits"
    images = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), whole.teacher(images))


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, "threshold is 1.5, expected a value in"),
        ({"weight": -1}, "weight -1, ramp 0.16"),
        ({"ramp": 0}, "weight 1.5, ramp 0"),
        ({"eps": -2}, "eps -2"),
        ({"iterations": 0}, "eps 2.0, iterations 0"),
        ({"box": (0.5, 4)}, r"box is \(0.5, 4\), expected two whole numbers"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"PSMT: {message}"):
        PSMT(**arguments)


def test_a_single_teacher_is_refused(tiny):
    with pytest.raises(ValueError, match="PSMT: the trainer's teacher is PHNet, expected an Ensemble of two"):
        tiny.build(apa=False, hpc=False, handlers=(PSMT(),))


def test_ramp_ends_at_the_asked_share():
    assert math.isclose(1.5 * cosine_ramp(0.16 / 0.16), 1.5)
