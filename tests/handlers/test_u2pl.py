"""U2PL against its transcription, on steps made by hand and in trainings."""

from __future__ import annotations

import copy
import io
import math
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Events
from torch import Tensor, nn

from phnet_monai.engines import Step, View
from phnet_monai.engines.step import Output
from phnet_monai.handlers import U2PL
from phnet_monai.handlers.teacher_pass import batch_statistics_pass
from phnet_monai.handlers.u2pl import at_cells, cells_of
from phnet_monai.losses import UnreliableContrastiveLoss, masked_cross_entropy, unreliable_contrast
from phnet_monai.losses.entropy_filter import percentiles, unreliable_percent
from phnet_monai.losses.unreliable_contrast import ContrastPixels, negative_mask
from phnet_monai.networks import load_checkpoint, make_teacher
from phnet_monai.transforms import mix_patches
from phnet_monai.transforms.patches import pixel_entropy

DEPTH, CELLS, LABELED, BATCH = 6, 5, 2, 4


@pytest.fixture(scope="session")
def literal() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "u2pl_reference.py")))


@pytest.fixture
def cyclic(monkeypatch):
    """The n-th draw out of k is n modulo k, as in the transcription."""
    monkeypatch.setattr(unreliable_contrast, "draw", lambda length, count, generator=None: torch.arange(count) % length)


def make_pixels(classes: int = 2, seed: int = 0) -> tuple[Tensor, ContrastPixels]:
    """Features of the student, and the rest."""
    generator = torch.Generator().manual_seed(seed)
    shape = (BATCH, CELLS, CELLS)
    features = torch.randn(2, BATCH, DEPTH, CELLS, CELLS, generator=generator)
    return features[0], ContrastPixels(
        teacher=features[1],
        probs=(2 * torch.randn(BATCH, classes, CELLS, CELLS, generator=generator)).softmax(dim=1),
        labels=torch.randint(classes, shape, generator=generator),
        labeled=LABELED,
        reliable=torch.rand(shape, generator=generator) < 0.6,
        unreliable=torch.rand(shape, generator=generator) < 0.6,
    )


def arrays(student: Tensor, pixels: ContrastPixels) -> tuple[Any, ...]:
    masks = (pixels.reliable.numpy(), pixels.unreliable.numpy())
    double = [x.double().numpy() for x in (student, pixels.teacher, pixels.probs)]
    return (*double, pixels.labels.numpy(), pixels.labeled, *masks)


# percentiles


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_percentiles_are_numpys(count):
    generator = torch.Generator().manual_seed(count)
    values = torch.rand(3, count, generator=generator)
    valid = torch.rand(3, count, generator=generator) < 0.7
    valid[0, 0] = True
    percents = [0, 13.7, 50, 80, 100]
    expected = np.percentile(values[valid].double().numpy(), percents)
    np.testing.assert_allclose(percentiles(values, valid, percents).numpy(), expected, rtol=1e-5)


def test_percentiles_of_nothing_and_bad_ones():
    nothing = torch.zeros(4, dtype=torch.bool)
    assert percentiles(torch.rand(4), nothing, [20, 80]).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"percents are \[101\]"):
        percentiles(torch.rand(4), ~nothing, [101])


def test_the_unreliable_share_falls_to_nothing():
    assert [unreliable_percent(t) for t in (0, 0.25, 1)] == [20, 15, 0]


# the contrast


@pytest.mark.parametrize(("classes", "low", "high"), [(2, 1, 2), (3, 1, 2), (3, 1, 3), (5, 3, 5)])
@pytest.mark.parametrize("as_coded", [False, True])
def test_negatives_are_those_of_the_transcription(literal, classes, low, high, as_coded):
    _, pixels = make_pixels(classes)
    for c in range(classes):
        mask = negative_mask(pixels, c, low, high, as_coded)
        for i, y, x in np.ndindex(tuple(mask.shape)):
            at = (i, y, x)
            probs, label = pixels.probs[i, :, y, x].numpy(), int(pixels.labels[at])
            unreliable = bool(pixels.unreliable[at])
            expected = literal.is_negative(probs, label, i < LABELED, unreliable, c, low, high, as_coded)
            assert bool(mask[at]) == expected
        assert mask[LABELED:].any()
        assert bool(mask[:LABELED].any()) is not as_coded  # the code leaves no labeled negatives


@pytest.mark.parametrize(("classes", "low", "high"), [(2, 1, 2), (3, 1, 3)])
@pytest.mark.parametrize("as_coded", [False, True])
def test_the_loss_equals_the_transcription_over_steps(literal, cyclic, classes, low, high, as_coded):
    """Three steps, so that the queues hold older features and, being short, forget some."""
    sizes = [40] + [25] * (classes - 1)
    loss = UnreliableContrastiveLoss(
        classes,
        DEPTH,
        low_rank=low,
        high_rank=high,
        capacity=(40, 25),
        anchors_per_class=7,
        negatives_per_anchor=5,
        temperature=0.4,
        code_mask=as_coded,
    )
    queues: list[list[np.ndarray]] = [[] for _ in range(classes)]
    for seed in range(3):
        student, pixels = make_pixels(classes, seed)
        expected = literal.contrast(
            *arrays(student, pixels),
            queues,
            sizes,
            low=low,
            high=high,
            anchors=7,
            negatives=5,
            tau=0.4,
            min_prob=0.3,
            as_coded=as_coded,
        )
        value, took_part = loss(student, pixels)
        for c, bank in enumerate(loss.queues):
            rows = bank.stored(0).double().numpy()
            assert len(rows) == len(queues[c])
            order = np.lexsort(rows.T), np.lexsort(np.array(queues[c]).T)
            np.testing.assert_allclose(rows[order[0]], np.array(queues[c])[order[1]], atol=1e-6)
        full = [len(queue) == size for queue, size in zip(queues, sizes, strict=True)]
        if not any(full):  # else the fast queue, a ring, has another order, and the n-th draw is another row
            assert value.item() == pytest.approx(expected, rel=1e-5)
        assert took_part == classes
        assert value > 0
    assert any(full) or as_coded  # the code's queues fill slowly


def test_the_loss_of_one_step_equals_the_transcription(literal, cyclic):
    for seed in range(5):
        student, pixels = make_pixels(seed=seed)
        loss = UnreliableContrastiveLoss(2, DEPTH, capacity=(500, 300), anchors_per_class=9, negatives_per_anchor=4)
        expected = literal.contrast(
            *arrays(student, pixels),
            [[], []],
            [500, 300],
            low=1,
            high=2,
            anchors=9,
            negatives=4,
            tau=0.5,
            min_prob=0.3,
        )
        assert loss(student, pixels)[0].item() == pytest.approx(expected, rel=1e-5)


def test_by_hand():
    """Student and positive agree, all negatives are orthogonal: -log of e^2 / (e^2 + 50)."""
    axes = torch.eye(DEPTH)
    labels = torch.tensor([[[0, 1]], [[0, 1]]])  # one labeled and one unlabeled image of two cells
    features = axes[labels].permute(0, 3, 1, 2)
    probs = torch.tensor([0.4, 0.6]).view(1, 2, 1, 1).repeat(2, 1, 1, 2)
    probs[:, :, :, 0] = torch.tensor([0.6, 0.4]).view(2, 1)
    everywhere = torch.ones(2, 1, 2, dtype=torch.bool)
    pixels = ContrastPixels(features, probs, labels, 1, everywhere, everywhere)
    value, took_part = UnreliableContrastiveLoss(2, DEPTH)(features, pixels)
    assert took_part == 2
    assert value.item() == pytest.approx(-math.log(math.e**2 / (math.e**2 + 50)), rel=1e-6)


@pytest.mark.parametrize(("low", "high"), [(3, 20), (2, 3), (1, 1), (0, 2), (2, 1)])
def test_ranks_that_leave_no_negatives_are_refused(low, high):
    """The source's 3 and 20 make its loss silently 0 on two classes."""
    with pytest.raises(ValueError, match=r"low_rank .* with 2 classes; expected 1 <= low_rank < high_rank <= 2"):
        UnreliableContrastiveLoss(2, DEPTH, low_rank=low, high_rank=high)


def test_the_sources_ranks_would_leave_no_unlabeled_negative(literal):
    student, pixels = make_pixels()
    queues: list[list[np.ndarray]] = [[], []]
    pixels.labeled = 0  # unlabeled images only
    value = literal.contrast(
        *arrays(student, pixels), queues, [99, 99], low=3, high=20, anchors=3, negatives=3, tau=0.5, min_prob=0.3
    )
    assert (value, queues) == (0, [[], []])


@pytest.mark.parametrize("case", ["nothing reliable", "one class", "no negatives", "no anchor is probable"])
def test_steps_without_contrast_are_zero_with_a_gradient(case):
    student, pixels = make_pixels()
    student.requires_grad_()
    loss = UnreliableContrastiveLoss(2, DEPTH, min_prob=1.0 if case == "no anchor is probable" else 0.3)
    if case == "nothing reliable":
        pixels.reliable &= False
    elif case == "one class":
        pixels.labels &= 0
    elif case == "no negatives":
        pixels.unreliable &= False
    value, took_part = loss(student, pixels)
    assert (value.item(), took_part) == (0, 0)
    value.backward()
    assert (student.grad == 0).all()


def test_the_gradient_goes_to_anchors_alone():
    student, pixels = make_pixels()
    student.requires_grad_()
    pixels.teacher.requires_grad_()
    UnreliableContrastiveLoss(2, DEPTH, anchors_per_class=10**4)(student, pixels)[0].backward()
    own = torch.gather(pixels.probs, 1, pixels.labels.unsqueeze(1)).squeeze(1)
    assert torch.equal((student.grad != 0).any(dim=1), pixels.reliable & (own > 0.3))
    assert pixels.teacher.grad is None


def test_the_generator_decides_the_sample():
    values = []
    for seed in (1, 1, 2):
        student, pixels = make_pixels()
        loss = UnreliableContrastiveLoss(2, DEPTH, anchors_per_class=5, negatives_per_anchor=3)
        values.append(loss(student, pixels, torch.Generator().manual_seed(seed))[0])
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_queues_are_saved_without_their_empty_rows_and_restored_bit_for_bit():
    def make() -> UnreliableContrastiveLoss:
        return UnreliableContrastiveLoss(2, DEPTH, capacity=(60, 30), anchors_per_class=5, negatives_per_anchor=3)

    loss, other = make(), make()
    for seed in range(2):
        loss(*make_pixels(seed=seed))
    buffer = io.BytesIO()
    torch.save(U2PL(loss).state_dict(), buffer)
    assert buffer.tell() < 20_000
    buffer.seek(0)
    U2PL(other).load_state_dict(torch.load(buffer, weights_only=True))
    assert 0 < loss.stored == other.stored
    for seed in (7, 8):
        student, pixels = make_pixels(seed=seed)
        values = [one(student, pixels, torch.Generator().manual_seed(3))[0] for one in (loss, other)]
        assert torch.equal(*values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "temperature 0"),
        ({"anchors_per_class": 0}, "anchors_per_class 0"),
        ({"negatives_per_anchor": 0}, "negatives_per_anchor 0"),
        ({"min_prob": 2}, "min_prob 2"),
        ({"capacity": (5,)}, r"capacity is \[5\]"),
    ],
)
def test_bad_arguments_of_the_loss(arguments, message):
    with pytest.raises(ValueError, match=message):
        UnreliableContrastiveLoss(2, DEPTH, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1}, "weight -1"),
        ({"percent": 0}, "percent 0"),
        ({"percent": 60}, "percent 60"),
        ({"cutmix_probability": 1.5}, "cutmix_probability 1.5"),
        ({"teacher_bn": "eval"}, "teacher_bn is 'eval'"),
    ],
)
def test_bad_arguments_of_the_handler(arguments, message):
    with pytest.raises(ValueError, match=message):
        U2PL(UnreliableContrastiveLoss(2, DEPTH), **arguments)


# the cells


@pytest.mark.parametrize("size", [32, 33, 34, 35, 36])
def test_cells_are_seen_at_their_centres(size):
    """The pixel that stands for a cell lies in it, and every cell with its centre inside the image has one."""
    rows = torch.arange(size).view(1, 1, size, 1).expand(1, 1, size, size)
    small = at_cells(rows)[0, 0, :, 0]
    assert (small // 4).tolist() == list(range(len(small)))
    padded = torch.zeros(1, DEPTH, -(-size // 16) * 4, -(-size // 16) * 4)
    assert cells_of(padded, (size, size)).shape[2:] == at_cells(rows).shape[2:]


# the second teacher pass


class Net(nn.Module):
    """One batch-normalised layer, without dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
        self.projector = nn.Identity()
        with torch.no_grad():  # of the same sign, both normalised channels would be the same
            self.layer.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.norm(self.layer(x))
        return logits, logits[..., ::4, ::4]


def engine_with(teacher: nn.Module | None, student: nn.Module | None = None) -> SimpleNamespace:
    return SimpleNamespace(teacher=teacher, network=student, autocast=lambda: torch.autocast("cpu", enabled=False))


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("own_teacher", [False, True])
def test_the_second_pass_uses_the_statistics_of_the_batch(update, own_teacher):
    torch.manual_seed(0)
    net = Net().eval()
    before, trained = copy.deepcopy(net.state_dict()), copy.deepcopy(net).train()
    engine = engine_with(net) if own_teacher else engine_with(None, net)
    image = torch.rand(4, 1, 8, 8)
    logits, embedding = batch_statistics_pass(engine, image, update=update)
    expected, _ = trained.forward_features(image)
    assert torch.equal(logits, expected.detach())
    assert embedding is not None
    assert not logits.requires_grad
    assert not net.training
    wanted = trained.state_dict() if update else before
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in net.state_dict().items())
    assert net.norm.track_running_stats


def test_the_teacher_is_itself_again_after_an_error():
    net = Net().eval()
    with pytest.raises(RuntimeError):
        batch_statistics_pass(engine_with(net), torch.rand(2, 3, 4, 4), update=False)
    assert not net.training
    assert net.norm.track_running_stats


# the step

SIZE = 16


def make_engine(progress: float = 0.25, seed: int = 0) -> SimpleNamespace:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, 1, SIZE, SIZE, generator=generator)
    valid = torch.ones(2, 3, SIZE, SIZE, dtype=torch.bool)
    valid[1, 0, :, :6] = False
    valid[0, 1, 9:] = False
    probs = torch.randn(3, 2, SIZE, SIZE, generator=generator).softmax(dim=1)
    ones = torch.ones(3, SIZE, SIZE)
    labeled = View(image[0], (image[0, :, 0] > 0.5).long(), ones, valid[0])
    weak = View(image[1], probs.argmax(dim=1), ones, valid[1])
    views = {"labeled": labeled, "unlabeled": weak}
    step = Step(views=dict(views), weak=views, teacher_probs=probs)
    engine = engine_with(Net().eval(), Net())
    engine.state = SimpleNamespace(step=step, device="cpu")
    engine.generator, engine.progress, engine.format = generator, progress, torch.contiguous_format
    return engine


def make_handler(**arguments: Any) -> U2PL:
    return U2PL(UnreliableContrastiveLoss(2, 2, anchors_per_class=8, negatives_per_anchor=4), **arguments)


@pytest.mark.parametrize("seed", range(6))
def test_the_view_is_mixed_and_filtered(literal, seed):
    engine = make_engine(seed=seed)
    handler = make_handler(cutmix_probability=1.0)
    handler.prepare(engine)
    step = engine.state.step
    view, weak, labeled = step.views["unlabeled"], step.weak["unlabeled"], step.views["labeled"]
    taken = torch.where(view.image == weak.image, 0, 1)[:, 0].bool()
    assert torch.equal(view.image, mix_patches(weak.image, ~taken))
    assert torch.equal(view.target, mix_patches(weak.target, ~taken))
    assert torch.equal(view.valid, mix_patches(weak.valid, ~taken))
    for box in taken:
        assert box.sum() == box.any(dim=0).sum() * box.any(dim=1).sum()  # a rectangle
        assert 0.35 < box.float().mean() < 0.65  # half of the image, up to whole pixels
    teacher = copy.deepcopy(engine.teacher).train()
    probs = teacher.forward_features(torch.cat([labeled.image, view.image]))[0].detach().softmax(dim=1)[3:]
    uncertainty = pixel_entropy(probs).double().numpy()  # in float32, for the same ties
    np.testing.assert_allclose(uncertainty, literal.entropy(probs.double().numpy()), atol=1e-5)

    logits = torch.randn(3, 2, SIZE, SIZE)
    loss = masked_cross_entropy(logits, view.target, view.weight, view.valid, "u2pl")
    answers = (logits.double().numpy(), view.target.numpy(), uncertainty, view.valid.numpy())
    assert loss.item() == pytest.approx(literal.unsupervised_loss(*answers, t=0.25), rel=1e-4)
    kept = view.weight[view.valid].mean().item()
    assert kept == pytest.approx(0.85, abs=0.01)
    assert float(step.scalars["kept_pixels"]) == pytest.approx(kept)


def test_without_cutmix_the_images_stay():
    engine = make_engine()
    make_handler(cutmix_probability=0.0).prepare(engine)
    step = engine.state.step
    assert torch.equal(step.views["unlabeled"].image, step.weak["unlabeled"].image)
    assert torch.equal(step.views["unlabeled"].target, step.weak["unlabeled"].target)


def test_an_equally_unsure_teacher_keeps_all_pixels():
    engine = make_engine()
    with torch.no_grad():
        engine.teacher.norm.weight.zero_()
    make_handler().prepare(engine)
    assert engine.state.step.views["unlabeled"].weight.min() == 1


def test_padding_is_in_no_part_of_the_contrast():
    engine = make_engine()
    handler = make_handler()
    handler.prepare(engine)
    pixels, step = handler._pixels, engine.state.step
    assert pixels is not None
    valid = at_cells(torch.cat([step.views["labeled"].valid, step.views["unlabeled"].valid]))
    assert not valid.all()
    assert not (pixels.reliable & ~valid).any()
    assert not (pixels.unreliable & ~valid).any()
    assert torch.equal(pixels.reliable[:3], valid[:3])  # all labeled pixels are
    assert pixels.labeled == 3


def test_nothing_valid_trains_nothing():
    engine = make_engine()
    for view in engine.state.step.views.values():
        view.valid &= False
    handler = make_handler()
    handler.prepare(engine)
    step = engine.state.step
    view = step.views["unlabeled"]
    logits = torch.zeros(3, 2, SIZE, SIZE)
    assert masked_cross_entropy(logits, view.target, view.weight, view.valid, "u2pl") == 0
    embedding = torch.randn(3, 2, 4, 4, requires_grad=True)
    step.outputs = {name: Output(logits, embedding) for name in ("labeled", "unlabeled")}
    handler.add_loss(engine)
    assert step.losses["contrast"] == 0


def test_labeled_only_steps_are_left_alone():
    engine = make_engine()
    handler = make_handler()
    handler.prepare(engine)  # something from an earlier step must not stay
    del engine.state.step.views["unlabeled"]
    engine.state.step.scalars.clear()
    handler.prepare(engine)
    handler.add_loss(engine)
    assert engine.state.step.losses == engine.state.step.scalars == {}


# trainings


def build(tiny: SimpleNamespace, **more: Any) -> SimpleNamespace:
    loss = UnreliableContrastiveLoss(
        2, tiny.NETWORK["embedding_size"], capacity=(300, 200), anchors_per_class=16, negatives_per_anchor=8
    )
    handler = more.pop("kind", U2PL)(loss, weight=0.5, **more.pop("handler", {}))
    return SimpleNamespace(
        handler=handler,
        run=tiny.build(
            apa=False, hpc=False, handlers=(handler,), teacher_projector=True, unlabeled_norm="u2pl", **more
        ),
    )


def test_in_a_training(tiny):
    setup = build(tiny)
    setup.run.trainer.run()
    outputs, steps = setup.run.recorder.outputs, setup.run.recorder.steps
    assert all(set(step.losses) == {"labeled"} for step in steps[:4])
    for output, step in zip(outputs[4:], steps[4:], strict=True):
        assert set(step.losses) == {"labeled", "unlabeled", "contrast"}
        expected = output["loss_labeled"] + output["loss_unlabeled"] + 0.5 * output["loss_contrast"]
        assert output["loss"] == pytest.approx(expected, rel=1e-5)
    assert [round(output["unreliable_percent"], 3) for output in outputs[4:]] == [20 - 2.5 * n for n in range(8)]
    assert any(output["contrast_classes"] == 2 and output["loss_contrast"] > 0 for output in outputs[4:])
    assert setup.handler.loss.stored > 0


def test_the_teachers_projector_follows_the_students(tiny):
    setup = build(tiny)
    start = setup.run.teacher.projector[-1].weight.clone()
    setup.run.trainer.run()
    end, student = setup.run.teacher.projector[-1].weight, setup.run.student.projector[-1].weight
    assert not torch.equal(end, start)
    assert not torch.equal(end, student)
    assert not end.requires_grad
    assert (end - student).norm() < (start - student).norm()


class Watched(U2PL):
    """Notes whether the second pass changed the teacher's buffers."""

    changed: bool | None = None

    def prepare(self, engine: Any) -> None:
        before = {name: buffer.clone() for name, buffer in engine.teacher.named_buffers()}
        super().prepare(engine)
        self.changed = any(not torch.equal(buffer, before[name]) for name, buffer in engine.teacher.named_buffers())


@pytest.mark.parametrize(("teacher_bn", "changed"), [("batch", False), ("batch_update", True)])
def test_running_statistics_of_the_teacher(tiny, teacher_bn, changed):
    setup = build(tiny, kind=Watched, handler={"teacher_bn": teacher_bn}, max_epochs=1, pretrain_epochs=0)
    setup.run.trainer.run()
    assert setup.handler.changed is changed


@pytest.mark.parametrize(("min_prob", "moves"), [(0.3, True), (1.0, False)])
def test_the_contrast_alone_trains_the_projector(tiny, min_prob, moves):
    setup = build(tiny)
    setup.handler.loss.min_prob = min_prob  # at 1 there are no anchors
    before = setup.run.student.projector[-1].weight.detach().clone()
    setup.run.trainer.run()
    after = setup.run.student.projector[-1].weight.detach()
    assert bool((after / before).std() > 1e-3) is moves  # weight decay scales all alike


def test_networks_without_projector_are_refused(tiny):
    handler = make_handler()
    with pytest.raises(ValueError, match="the teacher has no projector; set .* `teacher#projector` to true"):
        tiny.build(apa=False, hpc=False, handlers=(handler,))
    with pytest.raises(ValueError, match="the network has no projector"):
        tiny.build(apa=False, hpc=False, handlers=(handler,), network={"embedding_size": None})


def test_a_checkpoint_with_a_teachers_projector_is_read_without_it(tiny, tmp_path):
    setup = build(tiny, folder=tmp_path)
    setup.run.checkpoints.handlers = {"ema": setup.run.ema, "method": setup.handler}
    setup.run.trainer.run()
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert any(name.startswith("projector.") for name in content["teacher"])
    assert len(content["training"]["handlers"]["method"]["queues"]) == 2
    network, _ = load_checkpoint(tmp_path / "last.pt")
    assert network.projector is None
    image = torch.rand(2, 1, tiny.SIZE, tiny.SIZE)
    torch.testing.assert_close(network(image), setup.run.teacher.eval()(image))


def test_a_resumed_run_repeats_the_uninterrupted_one(tiny, tmp_path):
    whole = build(tiny)
    whole.run.trainer.run()
    for resume in (False, True):
        part = build(tiny, folder=tmp_path, resume=resume)
        part.run.checkpoints.handlers = {"ema": part.run.ema, "method": part.handler}
        if not resume:
            part.run.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), part.run.trainer.terminate)
        part.run.trainer.run()
    assert tiny.equal(tiny.weights(whole.run.student), tiny.weights(part.run.student))
    assert tiny.equal(tiny.weights(whole.run.teacher), tiny.weights(part.run.teacher))
    for first, second in zip(whole.handler.state_dict()["queues"], part.handler.state_dict()["queues"], strict=True):
        assert torch.equal(first["features"], second["features"])
        assert first["position"] == second["position"]


def test_a_teacher_with_projector_is_a_copy_of_its_own(tiny):
    run = tiny.build(apa=False, hpc=False)
    teacher = make_teacher(run.student, projector=True)
    assert teacher.projector is not run.student.projector
    assert tiny.equal(tiny.weights(teacher), tiny.weights(run.student))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher.arguments["embedding_size"] == tiny.NETWORK["embedding_size"]
    assert F.mse_loss(teacher.projector[-1].weight, run.student.projector[-1].weight) == 0
