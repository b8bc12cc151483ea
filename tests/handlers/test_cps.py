"""Cross pseudo supervision: the loss, the second student's start, and whole steps of both variants."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from phnet_monai.engines import SemiSupervisedTrainer, polynomial_schedule
from phnet_monai.handlers import CrossPseudoSupervision, SaveCheckpoints
from phnet_monai.handlers.cps import cross_pseudo_loss, draw_keep_boxes
from phnet_monai.networks import make_second_student, make_teacher
from phnet_monai.networks.phnet import copy_encoder

REFERENCE = Path(__file__).parents[1] / "reference" / "cps_reference.py"


@pytest.fixture(scope="module")
def slow() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(REFERENCE)))


def random_case(seed: int, classes: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = (3 * torch.randn(3, classes, 5, 4, generator=generator) for _ in range(2))
    valid = torch.rand(3, 5, 4, generator=generator) < 0.7
    return first, second, first.argmax(dim=1), second.argmax(dim=1), valid


class Watched:
    """Keeps the second student's training-mode answers: (images, logits)."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.labelled: list[Tensor] = []
        network.register_forward_hook(self)

    def __call__(self, network: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if network.training:
            self.seen.append((inputs[0].detach().clone(), output.detach().clone()))
        else:
            assert not output.requires_grad
            self.labelled.append(output.argmax(dim=1))


def build(tiny, folder: Path | None = None, resume: bool = False, extra: tuple = (), **arguments) -> SimpleNamespace:
    """A tiny training of two students; `arguments` are the handler's."""
    run = tiny.build(apa=False, hpc=False)
    run.second = make_second_student(run.student, 0)
    for module in run.second.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.5
    groups = [{"params": network.parameters()} for network in (run.student, run.second)]
    run.optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    run.handler = CrossPseudoSupervision(run.second, **arguments)
    run.watched = Watched(run.second)
    run.recorder = tiny.Recorder()
    saving = None
    if folder is not None:
        saving = SaveCheckpoints(
            folder,
            run.student,
            run.optimizer,
            scheduler=polynomial_schedule(run.optimizer, run.loader, 3),
            handlers={"method": run.handler},
            input_size=tiny.SIZE,
            pad_value=0.33,
            method="cps",
            resume=resume,
        )
    handlers = [run.handler, run.recorder, *extra, saving]
    run.trainer = SemiSupervisedTrainer(
        "cpu", 3, run.loader, run.student, run.optimizer, pretrain_epochs=1, train_handlers=handlers
    )
    return run


# --- the loss


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 3])
def test_loss_equals_the_transcription(slow, seed, classes):
    case = random_case(seed, classes)
    expected = slow.cross_pseudo(*(tensor.numpy() for tensor in case))
    assert float(cross_pseudo_loss(*case)) == pytest.approx(expected, rel=1e-5)


def test_nothing_valid_is_zero_with_zero_gradient():
    first, second, *labels, valid = random_case(0)
    first.requires_grad_()
    loss = cross_pseudo_loss(first, second, *labels, torch.zeros_like(valid))
    loss.backward()
    assert loss.item() == 0
    assert first.grad.abs().max() == 0


def test_one_class_only_is_an_ordinary_answer(slow):
    first, second, *_, valid = random_case(0)
    first[:, 0] += 100  # the first student sees no lesion at all
    labels = first.argmax(dim=1), second.argmax(dim=1)
    assert labels[0].max() == 0
    expected = slow.cross_pseudo(*(t.numpy() for t in (first, second, *labels, valid)))
    assert float(cross_pseudo_loss(first, second, *labels, valid)) == pytest.approx(expected, rel=1e-4)


def test_each_student_learns_from_the_others_label_only():
    first, second, first_label, second_label, valid = random_case(1)
    first.requires_grad_()
    second.requires_grad_()
    cross_pseudo_loss(first, second, first_label, second_label, valid).backward()
    for logits, label in ((first, second_label), (second, first_label)):
        expected = logits.detach().softmax(dim=1) - torch.nn.functional.one_hot(label, 2).permute(0, 3, 1, 2)
        torch.testing.assert_close(logits.grad, expected * valid.unsqueeze(1) / valid.sum())


# --- boxes


def test_boxes_cover_the_asked_share_together():
    generator = torch.Generator().manual_seed(0)
    keep = draw_keep_boxes(400, 60, boxes=3, cut_ratio=(0.25, 0.5), generator=generator)
    cut = (~keep).float().mean(dim=(1, 2))
    assert 0.05 < cut.min() < cut.max() <= 0.52
    assert 0.25 < cut.mean() < 0.375  # 0.375 but for the overlaps
    many = [rows.unique(dim=0).shape[0] for rows in ~keep]
    assert max(many) > 2  # one box has two kinds of rows
    one = draw_keep_boxes(50, 60, boxes=1, cut_ratio=(0.3, 0.3), generator=generator)
    for hole in ~one:
        assert hole.sum() == hole.any(dim=0).sum() * hole.any(dim=1).sum()
        assert hole.float().mean() == pytest.approx(0.3, abs=0.03)


# --- the second student


def encoder_names(network: torch.nn.Module) -> set[str]:
    return {name for name in network.state_dict() if name.startswith(("backbone.net.conv_0.", "backbone.net.down_"))}


def test_second_student_shares_the_encoders_weights_but_nothing_else(tiny):
    torch.manual_seed(5)
    student = tiny.build().student
    second = make_second_student(student, 3)
    mine, theirs = student.state_dict(), second.state_dict()
    encoder = encoder_names(second)
    assert encoder
    assert all(torch.equal(mine[name], theirs[name]) for name in encoder)
    own = [name for name in theirs if name not in encoder and theirs[name].ndim == 4]
    assert any(name.startswith("classifier.") for name in own)
    assert all(not torch.equal(mine[name], theirs[name]) for name in own)
    assert not {t.data_ptr() for t in student.parameters()} & {t.data_ptr() for t in second.parameters()}
    assert second.projector is None
    assert second.training
    assert all(parameter.requires_grad for parameter in second.parameters())


def test_second_student_has_the_statistics_of_the_first(tiny):
    """Those of all processes, where `sync_bn` is set."""
    from phnet_monai.networks import with_sync_batch_norm

    def kinds(network):
        return {type(layer) for layer in network.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)}

    student = tiny.build().student
    plain = make_second_student(student, 3)
    synchronised = make_second_student(with_sync_batch_norm(student), 3)
    assert kinds(plain) == {torch.nn.BatchNorm2d}
    assert kinds(synchronised) == {torch.nn.SyncBatchNorm}
    assert tiny.equal(plain.state_dict(), synchronised.state_dict())


def test_second_student_is_drawn_from_its_seed_alone(tiny):
    from phnet_monai.networks import PHNet

    torch.manual_seed(3)
    student = PHNet(**{**tiny.NETWORK, "embedding_size": None})
    before = torch.get_rng_state()
    first, again, other = (make_second_student(student, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    name = "classifier.7.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], student.state_dict()[name])  # though the student was drawn by that seed too


def test_copy_encoder_refuses_other_architectures(tiny):
    student = tiny.build().student
    other = tiny.build(network={"unet_features": [8, 8, 8, 16, 16]}).student
    with pytest.raises(ValueError, match="no common encoder"):
        copy_encoder(student, other)
    with pytest.raises(ValueError, match=r"no common encoder \(0 tensors"):
        copy_encoder(torch.nn.Conv2d(1, 1, 1), other)


def test_start_takes_the_encoder_of_a_warm_started_student(tiny):
    run = build(tiny)
    with torch.no_grad():
        for parameter in run.student.parameters():
            parameter += 1
    heads = {name: t.clone() for name, t in run.second.state_dict().items()}
    run.handler.start(run.trainer)
    encoder, mine, theirs = encoder_names(run.second), run.student.state_dict(), run.second.state_dict()
    for name, tensor in theirs.items():
        assert torch.equal(tensor, mine[name] if name in encoder else heads[name]), name


def test_start_from_another_seeds_warm_start(tiny, tmp_path):
    torch.manual_seed(9)
    warm = make_second_student(tiny.build(init_seed=11).student, 1)
    torch.save({"student": warm.state_dict()}, tmp_path / "warm.pt")
    run = build(tiny, init=tmp_path / "warm.pt")
    run.handler.start(run.trainer)
    assert tiny.equal(tiny.weights(run.second), tiny.weights(warm))
    with torch.no_grad():
        run.second.classifier[-1].weight.zero_()
    run.trainer.state.iteration = 5  # resumed
    run.handler.start(run.trainer)
    assert run.second.classifier[-1].weight.abs().max() == 0
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        CrossPseudoSupervision(run.second, init=tmp_path / "gone.pt")


# --- steps


def test_labeled_only_steps_train_both_students_by_their_labels(tiny, reference):
    run = build(tiny)
    run.trainer.run()
    first = [step for step, epoch in zip(run.recorder.steps, run.recorder.epochs, strict=True) if epoch == 1]
    assert first
    for step, (images, logits) in zip(first, run.watched.seen, strict=False):
        assert set(step.losses) == {"labeled", "second_labeled"}
        view = step.views["labeled"]
        assert torch.equal(images, view.image)
        expected = torch.nn.functional.cross_entropy(logits, view.target, reduction="none")[view.valid].mean()
        assert step.losses["second_labeled"].item() == pytest.approx(float(expected), rel=1e-5)
        assert step.loss_weights == {"labeled": 1.0, "second_labeled": 1.0}


def test_plain_steps_follow_the_definition(tiny, slow):
    run = build(tiny, weight=1.5)
    run.trainer.run()
    pairs = list(zip(run.recorder.steps, run.recorder.epochs, run.watched.seen, strict=True))
    semi = [(step, seen) for step, epoch, seen in pairs if epoch > 1]
    assert semi
    for step, (images, logits) in semi:
        assert set(step.losses) == {"labeled", "second_labeled", "cross_pseudo"}
        assert step.loss_weights["cross_pseudo"] == 1.5
        views = [step.views["labeled"], step.views["unlabeled"]]
        assert torch.equal(images, torch.cat([view.image for view in views]))
        assert torch.equal(views[1].image, step.weak["unlabeled"].image)
        first = torch.cat([step.outputs[name].logits.detach() for name in ("labeled", "unlabeled")])
        valid = torch.cat([view.valid for view in views])
        labels = first.argmax(dim=1), logits.argmax(dim=1)
        expected = slow.cross_pseudo(*(t.numpy() for t in (first, logits, *labels, valid)))
        assert step.losses["cross_pseudo"].item() == pytest.approx(expected, rel=1e-4)
        agreement = (labels[0] == labels[1])[valid].float().mean()
        assert step.scalars["students_agreement"].item() == pytest.approx(float(agreement), rel=1e-5)


def test_mixed_steps_follow_the_definition(tiny, slow):
    run = build(tiny, weight=1.0, cutmix=True)
    run.trainer.run()
    pairs = list(zip(run.recorder.steps, run.recorder.epochs, run.watched.seen, strict=True))
    semi = [(step, seen) for step, epoch, seen in pairs if epoch > 1]
    assert len(semi) == len(run.watched.labelled)
    for (step, (images, logits)), second_label in zip(semi, run.watched.labelled, strict=True):
        weak, view = step.weak["unlabeled"], step.views["unlabeled"]
        assert torch.equal(images[len(step.views["labeled"].image) :], view.image)
        logits = logits[len(step.views["labeled"].image) :]
        kept = view.image == weak.image
        assert 0 < (~kept).float().mean() < 0.6
        assert (kept | (view.image == weak.image.roll(-1, 0))).all()
        keep = kept[:, 0]  # grey values are real numbers: equal by chance only in the padding
        inside = weak.valid & weak.valid.roll(-1, 0)
        for mixed, own in ((view.target, second_label), (view.valid, weak.valid)):
            assert torch.equal(mixed[inside], torch.where(keep, own, own.roll(-1, 0))[inside])
        first_label = torch.where(keep, weak.target, weak.target.roll(-1, 0))
        first = step.outputs["unlabeled"].logits.detach()
        arguments = (first, logits, first_label, view.target, view.valid & inside)
        expected = slow.cross_pseudo(*(t.numpy() for t in arguments))
        found = cross_pseudo_loss(*arguments)
        assert float(found) == pytest.approx(expected, rel=1e-4)
        whole = cross_pseudo_loss(first, logits, run.handler.first_label, view.target, view.valid)
        if step is semi[-1][0]:  # the handler keeps the last step's labels
            assert step.losses["cross_pseudo"].item() == pytest.approx(float(whole), rel=1e-5)
            assert torch.equal(run.handler.first_label[inside], first_label[inside])


@pytest.mark.parametrize("cutmix", [False, True])
def test_both_students_learn_apart(tiny, cutmix):
    run = build(tiny, cutmix=cutmix)
    before = [tiny.weights(network) for network in (run.student, run.second)]
    run.trainer.run()
    for network, old in zip((run.student, run.second), before, strict=True):
        moved = [name for name, t in network.named_parameters() if not torch.equal(t, old[name])]
        assert any(name.startswith("classifier.") for name in moved)
        assert any("down_" in name for name in moved)
        assert any(not torch.equal(t, old[name]) for name, t in network.named_buffers() if "running_mean" in name)
    name = "backbone.net.down_4.convs.conv_0.conv.weight"
    assert not torch.equal(run.student.state_dict()[name], run.second.state_dict()[name])


def test_a_resumed_run_equals_an_unbroken_one(tiny, tmp_path):
    class Killed(Exception):
        pass

    class Kill:
        def attach(self, engine):
            from ignite.engine import Events

            engine.add_event_handler(Events.ITERATION_COMPLETED(once=9), self)

        def __call__(self, engine):
            raise Killed

    whole = build(tiny, tmp_path / "whole")
    whole.trainer.run()
    assert whole.trainer.state.iteration == 12
    cut = build(tiny, tmp_path / "cut", extra=(Kill(),))
    with pytest.raises(Killed):
        cut.trainer.run()
    resumed = build(tiny, tmp_path / "cut", resume=True)
    resumed.trainer.run()
    assert resumed.trainer.state.iteration == 12
    assert len(resumed.recorder.steps) == 4  # the third epoch only
    for network in ("student", "second"):
        first, second = (tiny.weights(getattr(run, network)) for run in (whole, resumed))
        assert tiny.equal(first, second), network


# --- mistakes


def test_an_optimizer_without_the_second_student_is_refused(tiny):
    run = tiny.build()
    second = make_second_student(run.student, 0)
    with pytest.raises(ValueError, match="the optimizer lacks parameters of one of the two students"):
        tiny.build(handlers=(CrossPseudoSupervision(second),))


def test_labels_of_a_teacher_are_refused(tiny):
    run = build(tiny, cutmix=True)
    run.trainer.teacher = make_teacher(run.student)
    with pytest.raises(ValueError, match="set teacher to null"):
        run.handler.attach(run.trainer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1}, "weight is -1, expected >= 0"),
        ({"boxes": 0}, "boxes 0"),
        ({"cut_ratio": (0.5, 0.25)}, r"cut_ratio \(0.5, 0.25\)"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"CrossPseudoSupervision: .*{message}"):
        CrossPseudoSupervision(torch.nn.Conv2d(1, 2, 1), **arguments)
