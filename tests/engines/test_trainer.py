"""The semi-supervised trainer on small pictures: phases, order, safety and repeatability."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents

from phnet_monai.engines import NonFiniteLossError, SemiSupervisedEvents, SemiSupervisedTrainer, View
from phnet_monai.losses import masked_cross_entropy, masked_dice_loss

STEPS = 4  # an epoch of `tiny.build`: 8 unlabeled images, 2 a step


class On:
    """Calls a function at an event."""

    def __init__(self, event, function) -> None:
        self.event, self.function = event, function

    def attach(self, engine) -> None:
        engine.add_event_handler(self.event, self.function)


# the course of a training


def test_every_term_is_finite_and_the_weights_move(tiny):
    run = tiny.build()
    before = tiny.weights(run.student)
    run.trainer.run()
    assert len(run.recorder.outputs) == 3 * STEPS
    for output in run.recorder.outputs:
        assert all(math.isfinite(value) for value in output.values())
    still = [name for name, t in run.student.named_parameters() if torch.equal(t, before[name])]
    assert still == []
    assert not tiny.equal(tiny.weights(run.teacher), {k: before[k] for k in run.teacher.state_dict()})


def test_labeled_loss_falls(tiny):
    run = tiny.build(max_epochs=6, pretrain_epochs=6)
    run.trainer.run()
    losses = [output["loss_labeled"] for output in run.recorder.outputs]
    assert sum(losses[-STEPS:]) < 0.7 * sum(losses[:STEPS])


def test_labeled_only_epochs_come_first(tiny):
    run = tiny.build(max_epochs=4, pretrain_epochs=2)
    run.trainer.run()
    for epoch, step, output in zip(run.recorder.epochs, run.recorder.steps, run.recorder.outputs, strict=True):
        names = ["labeled"] if epoch <= 2 else ["labeled", "unlabeled"]
        assert list(step.views) == list(step.outputs) == names
        assert (step.teacher_probs is None) is (epoch <= 2)
        assert ("loss_unlabeled" in output) is (epoch > 2)
        assert ("loss_contrast" in output) is (epoch > 2)


def test_the_loss_is_the_weighted_sum_of_its_terms(tiny):
    run = tiny.build(unlabeled_weight=0.3, hpc={"weight": 0.2})
    run.trainer.run()
    for output in run.recorder.outputs[STEPS:]:
        total = output["loss_labeled"] + 0.3 * output["loss_unlabeled"] + 0.2 * output["loss_contrast"]
        assert output["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("norm", ["valid", "kept", "mean"])
def test_the_terms_are_those_of_the_views(tiny, norm):
    run = tiny.build(unlabeled_norm=norm, apa={"threshold": 0.7})
    run.trainer.run()
    for step, output in zip(run.recorder.steps, run.recorder.outputs, strict=True):
        for name, view in step.views.items():
            reduction = norm if name == "unlabeled" else "valid"
            logits = step.outputs[name].logits
            expected = masked_cross_entropy(logits, view.target, view.weight, view.valid, reduction)
            assert output[f"loss_{name}"] == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)


def test_without_handlers_the_teachers_labels_are_taken_as_they_are(tiny):
    run = tiny.build(apa=False, hpc=False)
    run.trainer.run()
    for step in run.recorder.steps[STEPS:]:
        view = step.views["unlabeled"]
        assert torch.equal(view.target, step.teacher_probs.argmax(dim=1))
        assert view.weight.min() == 1
        assert view is step.weak["unlabeled"]


def test_without_a_teacher_the_student_labels_in_eval_mode(tiny):
    run = tiny.build(hpc=False, apa=False, teacher=None, train_handlers=[])
    modes = []
    run.student.register_forward_pre_hook(lambda module, _: modes.append((module.training, torch.is_grad_enabled())))
    run.trainer.run()
    # forward is for labels only; the training pass calls forward_features
    assert modes == [(False, False)] * (2 * STEPS)
    assert run.student.training


def test_batches_without_unlabeled_images_train_on_the_labeled_ones(tiny):
    run = tiny.build(loader={"use_unlabeled": False})
    run.trainer.run()
    assert len(run.recorder.outputs) == 3 * STEPS  # the same number of steps
    assert all("loss_unlabeled" not in output for output in run.recorder.outputs)


def test_the_teacher_looks_without_gradient_in_eval_mode(tiny):
    run = tiny.build()
    run.teacher.train()  # as someone may have left it
    calls = []
    run.teacher.register_forward_pre_hook(lambda module, _: calls.append((module.training, torch.is_grad_enabled())))
    run.trainer.run()
    assert calls == [(False, False)] * (2 * 2 * STEPS)  # twice a step: weak and mixed images
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in run.teacher.parameters())
    for step in run.recorder.steps[STEPS:]:
        assert not step.teacher_probs.requires_grad
        torch.testing.assert_close(step.teacher_probs.sum(dim=1), torch.ones(2, tiny.SIZE, tiny.SIZE))


def test_batch_statistics_are_shared_by_labeled_and_unlabeled_views(tiny):
    run = tiny.build()
    batches = []
    original = run.student.encode
    run.student.encode = lambda x: batches.append(len(x)) or original(x)
    run.trainer.run()
    assert batches == [2] * STEPS + [4] * 2 * STEPS


def test_events_come_in_order(tiny):
    order = []
    events = {
        "started": Events.ITERATION_STARTED,
        "views": SemiSupervisedEvents.VIEWS_PREPARED,
        "forward": IterationEvents.FORWARD_COMPLETED,
        "loss": IterationEvents.LOSS_COMPLETED,
        "backward": IterationEvents.BACKWARD_COMPLETED,
        "model": IterationEvents.MODEL_COMPLETED,
        "completed": Events.ITERATION_COMPLETED,
    }

    def note(name):
        def handler(engine):
            step = getattr(engine.state, "step", None) if name != "started" else None
            grads = [p.grad is not None for p in engine.network.classifier.parameters()]
            order.append((name, len(step.views), len(step.outputs), len(step.losses), all(grads)) if step else (name,))

        return handler

    run = tiny.build(
        max_epochs=2, handlers=tuple(On(event, note(name)) for name, event in events.items()), hpc=False, apa=False
    )
    run.trainer.run()
    length = len(events)
    assert len(order) == 2 * STEPS * length
    assert [entry[0] for entry in order[:length]] == list(events)
    assert order[-length:] == [
        ("started",),
        ("views", 2, 0, 0, True),  # gradients of the step before
        ("forward", 2, 2, 2, False),
        ("loss", 2, 2, 2, False),
        ("backward", 2, 2, 2, True),
        ("model", 2, 2, 2, True),
        ("completed", 2, 2, 2, True),
    ]


def test_the_optimiser_moves_between_backward_and_model_completed(tiny):
    seen = []

    def look(engine):
        seen.append(engine.network.classifier[-1].weight.detach().clone())

    run = tiny.build(
        max_epochs=1,
        handlers=(
            On(SemiSupervisedEvents.VIEWS_PREPARED, look),
            On(IterationEvents.BACKWARD_COMPLETED, look),
            On(IterationEvents.MODEL_COMPLETED, look),
        ),
    )
    run.trainer.run()
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert torch.equal(seen[2], seen[3])


def test_handlers_may_replace_add_and_weigh_views(tiny):
    def change(engine):
        views = engine.state.step.views
        labeled = views["labeled"]
        views["extra"] = View(labeled.image.flip(-1), labeled.target.flip(-1), labeled.weight, labeled.valid.flip(-1))

    run = tiny.build(max_epochs=1, handlers=(On(SemiSupervisedEvents.VIEWS_PREPARED, change),), unlabeled_weight=0.5)
    run.trainer.run()
    for step, output in zip(run.recorder.steps, run.recorder.outputs, strict=True):
        assert list(step.outputs) == ["labeled", "extra"]
        assert list(step.weak) == ["labeled"]
        assert output["loss"] == pytest.approx(output["loss_labeled"] + 0.5 * output["loss_extra"], rel=1e-5)


def test_a_term_cannot_be_added_twice(tiny):
    def add(engine):
        engine.state.step.add_loss("labeled", torch.zeros(()))

    run = tiny.build(handlers=(On(IterationEvents.FORWARD_COMPLETED, add),))
    with pytest.raises(ValueError, match="loss term 'labeled' was added twice"):
        run.trainer.run()


def test_every_epoch_has_images_and_views_of_its_own(tiny):
    run = tiny.build()
    run.trainer.run()
    epochs = [
        torch.cat([s.weak["unlabeled"].image for s in run.recorder.steps[first : first + STEPS]]) for first in (4, 8)
    ]
    assert not torch.equal(*epochs)
    for number, batches in ((2, epochs[0]), (3, epochs[1])):  # those that the loader gives for this epoch
        run.loader.set_epoch(number)
        assert torch.equal(torch.cat([batch["unlabeled"]["image"] for batch in run.loader]), batches)


def test_disabled_handlers_are_dropped(tiny):
    run = tiny.build(max_epochs=1, handlers=(None, None))  # an overlay leaves None
    run.trainer.run()
    assert len(run.recorder.outputs) == STEPS


def test_the_logged_rate_follows_the_schedule(tiny):
    run = tiny.build()
    run.trainer.run()
    rates = [output["rate"] for output in run.recorder.outputs]
    total = 3 * STEPS
    assert rates == pytest.approx([0.1 * (1 - step / total) ** 0.9 for step in range(total)], rel=1e-6)


# what compared methods ask for


def set_view(name, **changes):
    """A handler that changes fields of a view."""

    def change(engine):
        views = engine.state.step.views
        if name in views:
            views[name] = View(**{**vars(views[name]), **changes})

    return On(SemiSupervisedEvents.VIEWS_PREPARED, change)


@pytest.mark.parametrize(("own", "expected"), [(None, 0.5), (0.25, 0.25), (2.0, 2.0)])
def test_a_view_may_have_a_loss_weight_of_its_own(tiny, own, expected):
    run = tiny.build(apa=False, hpc=False, unlabeled_weight=0.5, handlers=(set_view("unlabeled", loss_weight=own),))
    run.trainer.run()
    for output in run.recorder.outputs[STEPS:]:
        total = output["loss_labeled"] + expected * output["loss_unlabeled"]
        assert output["loss"] == pytest.approx(total, rel=1e-5)


def test_a_view_of_weight_zero_has_no_term_but_an_answer(tiny):
    run = tiny.build(apa=False, hpc=False, handlers=(set_view("unlabeled", loss_weight=0.0),))
    run.trainer.run()
    for step in run.recorder.steps[STEPS:]:
        assert set(step.losses) == {"labeled"}
        assert set(step.outputs) == {"labeled", "unlabeled"}


def test_handlers_may_bring_all_terms(tiny):
    def add(engine):
        step = engine.state.step
        step.add_loss("own", step.outputs["labeled"].logits.square().mean(), 0.5)

    handlers = (set_view("labeled", loss_weight=0.0), On(IterationEvents.FORWARD_COMPLETED, add))
    run = tiny.build(max_epochs=1, handlers=handlers)
    run.trainer.run()
    for output in run.recorder.outputs:
        assert set(output) - {"rate"} == {"loss", "loss_own"}
        assert output["loss"] == pytest.approx(0.5 * output["loss_own"])


@pytest.mark.parametrize("name", ["labeled", "unlabeled"])
def test_perturbed_features_are_those_of_their_view_alone(tiny, name):
    """Against the same pass written out, with the network as it was before the step."""
    seen, before = [], []

    def perturb(levels):
        seen.append([level.detach().clone() for level in levels])
        return [*levels[:-1], levels[-1] + 3]

    def keep(engine):
        before.append(copy.deepcopy(engine.network).train())

    handlers = (set_view(name, perturb=perturb), On(SemiSupervisedEvents.VIEWS_PREPARED, keep))
    run = tiny.build(apa=False, hpc=False, handlers=handlers, max_epochs=2, network={"dropout": 0.0})
    run.trainer.run()
    for step, network in zip(run.recorder.steps[STEPS:], before[STEPS:], strict=True):
        levels = network.encode(torch.cat([step.views[key].image for key in ("labeled", "unlabeled")]))
        rows = slice(0, 2) if name == "labeled" else slice(2, 4)
        found = seen.pop(STEPS if name == "labeled" else 0)
        for level, part in zip(levels, found, strict=True):
            torch.testing.assert_close(part, level[rows])
        levels[-1] = levels[-1].clone()
        levels[-1][rows] += 3
        decoded = network.decode(levels)
        logits = network.classify(decoded, tiny.SIZE, tiny.SIZE)
        torch.testing.assert_close(torch.cat([output.logits for output in step.outputs.values()]), logits)
        embedding = torch.cat([output.embedding for output in step.outputs.values()])
        torch.testing.assert_close(embedding, network.project(decoded))


def test_features_that_are_not_changed_change_nothing(tiny):
    plain = final(tiny)
    assert same(tiny, plain, final(tiny, handlers=(set_view("unlabeled", perturb=lambda levels: levels),)))
    assert not same(tiny, plain, final(tiny, handlers=(set_view("unlabeled", perturb=lambda x: [2 * y for y in x]),)))


def test_perturbed_features_without_projector(tiny):
    run = tiny.build(
        hpc=False, network={"embedding_size": None}, handlers=(set_view("unlabeled", perturb=lambda levels: levels),)
    )
    run.trainer.run()
    assert all(step.outputs["unlabeled"].embedding is None for step in run.recorder.steps[STEPS:])


@pytest.mark.parametrize(("argument", "has_dice"), [("supervised_loss", "labeled"), ("unlabeled_loss", "unlabeled")])
def test_losses_with_dice(tiny, argument, has_dice):
    run = tiny.build(hpc=False, **{argument: "ce_dice"})
    run.trainer.run()
    for step, output in zip(run.recorder.steps, run.recorder.outputs, strict=True):
        for name, view in step.views.items():
            logits = step.outputs[name].logits
            expected = masked_cross_entropy(logits, view.target, view.weight, view.valid)
            if name == has_dice:
                expected = (expected + masked_dice_loss(logits, view.target, view.weight, view.valid)) / 2
            assert output[f"loss_{name}"] == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)


def test_the_teacher_alone_sees_noise(tiny):
    run = tiny.build(apa=False, hpc=False, teacher_noise=0.1)
    seen = []
    run.teacher.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    run.trainer.run()
    assert len(seen) == 2 * STEPS
    noise = torch.stack([x - s.views["unlabeled"].image for x, s in zip(seen, run.recorder.steps[STEPS:], strict=True)])
    assert noise.abs().max() == pytest.approx(0.2, abs=1e-6)  # cut there
    assert noise.std() == pytest.approx(0.0959, abs=0.001)  # a normal of 0.1 with its tails at the edge
    assert noise.mean() == pytest.approx(0, abs=0.002)
    assert not torch.equal(noise[0], noise[1])
    images = [batch["unlabeled"]["image"] for batch in run.loader]  # of the last epoch
    assert torch.equal(images[-1], run.recorder.steps[-1].views["unlabeled"].image)


def test_without_noise_the_image_itself_is_taken(tiny):
    image = torch.rand(2, 1, 4, 4)
    assert tiny.build().trainer.noisy(image) is image


def test_noise_repeats_from_the_seed(tiny):
    def run(**arguments):
        return final(tiny, teacher_noise=0.1, **arguments)

    assert same(tiny, run(), run())
    assert not same(tiny, run(), final(tiny))


@pytest.mark.parametrize(("pretrain_epochs", "max_epochs"), [(1, 3), (0, 2), (2, 2)])
def test_progress_is_that_of_the_semi_supervised_steps(tiny, pretrain_epochs, max_epochs):
    seen = []
    note = On(SemiSupervisedEvents.VIEWS_PREPARED, lambda engine: seen.append((engine.pretraining, engine.progress)))
    tiny.build(pretrain_epochs=pretrain_epochs, max_epochs=max_epochs, handlers=(note,)).trainer.run()
    total = (max_epochs - pretrain_epochs) * STEPS
    expected = [(True, 0.0)] * (pretrain_epochs * STEPS) + [(False, step / total) for step in range(total)]
    assert seen == expected


def test_progress_of_a_resumed_run(tiny, tmp_path):
    final(tiny, folder=tmp_path, handlers=(On(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate()),))
    seen = []
    note = On(SemiSupervisedEvents.VIEWS_PREPARED, lambda engine: seen.append(engine.progress))
    final(tiny, folder=tmp_path, resume=True, handlers=(note,))
    assert seen[-1] == (2 * STEPS - 1) / (2 * STEPS)


# what must not happen


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_are_touched(tiny, tmp_path, epoch):
    before = {}

    def spoil(engine):
        if engine.state.iteration == (epoch - 1) * STEPS + 2:
            before.update({name: p.detach().clone() for name, p in engine.network.named_parameters()})
            engine.state.step.add_loss("spoilt", torch.tensor(math.nan, requires_grad=True))

    run = tiny.build(folder=tmp_path, handlers=(On(IterationEvents.FORWARD_COMPLETED, spoil),))
    with pytest.raises(NonFiniteLossError, match=rf"epoch {epoch}, iteration .*labeled = \d.*spoilt = nan"):
        run.trainer.run()
    for name, parameter in run.student.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert (tmp_path / "last.pt").is_file() is (epoch == 2)  # that of epoch 1
    if epoch == 2:
        saved = torch.load(tmp_path / "last.pt", weights_only=True)
        assert saved["info"]["epoch"] == 1
        assert all(t.isfinite().all() for t in saved["student"].values())


@pytest.mark.parametrize("epoch", [1, 2])
def test_broken_images_stop_the_run(tiny, tmp_path, epoch):
    def spoil(engine):
        if engine.state.epoch == epoch:
            engine.state.step.views["labeled"].image[0, 0, 0, 0] = math.nan

    run = tiny.build(folder=tmp_path, handlers=(On(SemiSupervisedEvents.VIEWS_PREPARED, spoil),))
    with pytest.raises(NonFiniteLossError, match="labeled = nan"):
        run.trainer.run()
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"] * (epoch - 1)
    assert all(parameter.isfinite().all() for parameter in run.student.parameters())


def infinite_gradient(engine):
    """A finite term, 0, whose gradient is infinite."""
    value = next(engine.network.parameters()).sum()
    engine.state.step.add_loss("root", (value - value.detach()).sqrt())


def test_an_infinite_gradient_of_a_finite_loss_stops_the_run_too(tiny, tmp_path):
    run = tiny.build(folder=tmp_path, handlers=(On(IterationEvents.FORWARD_COMPLETED, infinite_gradient),))
    before = [parameter.detach().clone() for parameter in run.student.parameters()]
    with pytest.raises(NonFiniteLossError, match=r"iteration 1: the gradient of 1 of \d+ tensors is not finite"):
        run.trainer.run()
    assert all(torch.equal(one, other) for one, other in zip(before, run.student.parameters(), strict=True))
    assert not list(tmp_path.iterdir())


def spoil_loss(engine):
    engine.state.step.add_loss("spoilt", torch.tensor(math.nan, requires_grad=True))


def spoil_image(engine):
    engine.state.step.views["labeled"].image[0, 0, 0, 0] = math.nan


@pytest.mark.parametrize(
    ("event", "spoil"),
    [
        (IterationEvents.FORWARD_COMPLETED, spoil_loss),
        (IterationEvents.FORWARD_COMPLETED, infinite_gradient),
        (SemiSupervisedEvents.VIEWS_PREPARED, spoil_image),
    ],
    ids=["loss", "gradient", "image"],
)
def test_a_step_that_is_not_finite_can_be_skipped(tiny, tmp_path, event, spoil):
    """Weights, statistics, teacher are those from before it; the run ends well, and the log tells."""
    bad = STEPS + 2
    kept = []

    def at(engine):
        if engine.state.iteration == bad:
            spoil(engine)

    def keep(engine):
        if engine.state.iteration in (bad - 1, bad):
            kept.append(
                {**tiny.weights(engine.network), **{f"t.{k}": v for k, v in tiny.weights(engine.teacher).items()}}
            )

    handlers = (On(event, at), On(Events.ITERATION_COMPLETED, keep))
    run = tiny.build(folder=tmp_path, on_nonfinite="skip", log={}, handlers=handlers)
    run.trainer.run()
    assert tiny.equal(*kept)
    assert [output.get("skipped") for output in run.recorder.outputs] == [float(n == bad - 1) for n in range(3 * STEPS)]
    assert math.isnan(run.recorder.outputs[bad - 1]["loss"])
    rows = [json.loads(line)["train"] for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in rows] == [0, 1 / STEPS, 0]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert all(t.isfinite().all() for t in run.student.state_dict().values() if t.is_floating_point())


def test_a_skipped_step_leaves_the_teachers_own_statistics(tiny):
    """U2PL's teacher collects batch statistics in a pass of its own, before the loss is known."""

    def spoil(engine):
        if engine.state.iteration == STEPS + 2:
            engine.state.batch["labeled"]["image"][0, 0, 0, 0] = math.nan

    run = tiny.build(
        apa={"teacher_bn": "batch_update"}, on_nonfinite="skip", handlers=(On(Events.ITERATION_STARTED, spoil),)
    )
    run.trainer.run()
    assert [output.get("skipped") for output in run.recorder.outputs].count(1.0) == 1
    assert all(t.isfinite().all() for t in run.teacher.state_dict().values() if t.is_floating_point())


def test_a_second_run_of_a_finished_trainer_is_refused(tiny):
    run = tiny.build()
    run.trainer.run()
    before = tiny.weights(run.teacher)
    with pytest.raises(ValueError, match="this trainer has done its 3 epochs"):
        run.trainer.run()
    assert tiny.equal(before, tiny.weights(run.teacher))
    run.trainer.state.max_epochs = 4
    run.trainer.run()
    assert run.recorder.epochs[-1] == 4


def test_a_second_run_of_a_trainer_that_was_cut_short_is_refused(tiny):
    def spoil(engine):
        if engine.state.iteration == 3 * STEPS - 1:
            raise RuntimeError("cut")

    run = tiny.build(handlers=(On(Events.ITERATION_COMPLETED, spoil),))
    with pytest.raises(RuntimeError, match="cut"):
        run.trainer.run()
    with pytest.raises(ValueError, match=f"ended early, at iteration {3 * STEPS - 1}; .* resume from its checkpoint"):
        run.trainer.run()


def test_too_many_skipped_steps_end_the_run(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("phnet_monai.engines.trainer.SKIPS_IN_A_ROW", 3)
    run = tiny.build(
        folder=tmp_path, on_nonfinite="skip", handlers=(On(IterationEvents.FORWARD_COMPLETED, spoil_loss),)
    )
    with pytest.raises(
        NonFiniteLossError, match=r"3 steps in a row were skipped; the last: epoch 1, iteration 3: .*nan"
    ):
        run.trainer.run()
    assert not list(tmp_path.iterdir())


def test_skipping_changes_nothing_where_all_is_finite(tiny):
    assert same(tiny, final(tiny), final(tiny, on_nonfinite="skip"))


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_terms_are_named(tiny, value):
    def spoil(engine):
        engine.state.step.add_loss("huge", torch.tensor(value, requires_grad=True), 0.0)  # even with weight 0

    run = tiny.build(handlers=(On(IterationEvents.FORWARD_COMPLETED, spoil),))
    with pytest.raises(NonFiniteLossError, match=f"huge = {value}"):
        run.trainer.run()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"amp": "fp8"}, "amp is 'fp8', expected null, 'bf16' or 'fp16'"),
        ({"amp": "fp16"}, "amp 'fp16' needs a CUDA device, found cpu"),
        ({"pretrain_epochs": 4}, "pretrain_epochs is 4, expected 0 ... max_epochs = 3"),
        ({"pretrain_epochs": -1}, "pretrain_epochs is -1"),
        ({"supervised_loss": "dice"}, "supervised_loss is 'dice', expected 'ce' or 'ce_dice'"),
        ({"unlabeled_loss": "dice"}, "unlabeled_loss is 'dice', expected 'ce' or 'ce_dice'"),
        ({"teacher_noise": -0.1}, "teacher_noise is -0.1, expected >= 0"),
    ],
)
def test_bad_arguments_are_refused(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny.build(**arguments)


# repeatability


def final(tiny, **arguments):
    run = tiny.build(**arguments)
    run.trainer.run()
    return run


def same(tiny, first, second) -> bool:
    return all(
        tiny.equal(getattr(first, part).state_dict(), getattr(second, part).state_dict())
        for part in ("student", "teacher", "bank")
    )


def test_one_seed_gives_one_result_bit_for_bit(tiny):
    first = final(tiny)
    torch.rand(17)  # whatever else was drawn in the process
    second = final(tiny)
    assert same(tiny, first, second)
    assert first.recorder.outputs == second.recorder.outputs
    assert not same(tiny, first, final(tiny, seed=1))


def test_the_loop_of_an_epoch_does_not_depend_on_what_was_drawn_before(tiny):
    """Dropout and sampling start anew every epoch, so validation in between changes nothing."""
    noise = On(Events.EPOCH_COMPLETED, lambda engine: torch.rand(5))
    assert same(tiny, final(tiny), final(tiny, handlers=(noise,)))
    assert same(tiny, final(tiny), final(tiny, validate=True))


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_ends_as_an_uninterrupted_one_bit_for_bit(tiny, tmp_path, stop):
    """Stopped at the end of the labeled-only epoch, and in the middle of the semi-supervised ones."""
    whole = final(tiny, folder=tmp_path / "whole", validate=True)
    first = tiny.build(folder=tmp_path / "parts", validate=True)
    # after the checkpoints' own handler, so that the epoch is saved first
    first.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=stop), lambda engine: engine.terminate())
    first.trainer.run()
    assert first.trainer.state.epoch == stop
    assert not same(tiny, whole, first)
    second = final(tiny, folder=tmp_path / "parts", validate=True, resume=True, init_seed=99)
    assert second.recorder.epochs[0] == stop + 1
    assert same(tiny, whole, second)
    assert whole.recorder.outputs[stop * STEPS :] == second.recorder.outputs
    assert (whole.ema.updates, whole.scheduler.get_last_lr()) == (second.ema.updates, second.scheduler.get_last_lr())
    for name in ("best_score", "best_epoch", "last_score"):
        assert getattr(whole.checkpoints, name) == getattr(second.checkpoints, name)
    saved = [torch.load(tmp_path / part / "last.pt", weights_only=True) for part in ("whole", "parts")]
    assert tiny.equal(saved[0]["student"], saved[1]["student"])
    momentum = [[s["momentum_buffer"] for s in one["training"]["optimizer"]["state"].values()] for one in saved]
    assert all(torch.equal(a, b) for a, b in zip(*momentum, strict=True))


def test_a_run_killed_within_an_epoch_repeats_it(tiny, tmp_path):
    whole = final(tiny, folder=tmp_path / "whole")

    def kill(engine):
        raise KeyboardInterrupt

    killed = tiny.build(folder=tmp_path / "parts", handlers=(On(Events.ITERATION_COMPLETED(once=STEPS + 3), kill),))
    with pytest.raises(KeyboardInterrupt):
        killed.trainer.run()
    second = final(tiny, folder=tmp_path / "parts", resume=True)
    assert second.recorder.epochs == [2] * STEPS + [3] * STEPS
    assert same(tiny, whole, second)


def test_a_finished_run_that_is_resumed_does_nothing(tiny, tmp_path):
    first = final(tiny, folder=tmp_path)
    again = final(tiny, folder=tmp_path, resume=True)
    assert again.recorder.outputs == []
    assert same(tiny, first, again)


# precision and memory format


def test_bfloat16(tiny):
    run = tiny.build(amp="bf16")
    run.trainer.run()
    for output in run.recorder.outputs:
        assert all(math.isfinite(value) for value in output.values())
    for step in run.recorder.steps:
        assert step.outputs["labeled"].logits.dtype == torch.bfloat16
        assert all(loss.dtype == torch.float32 for loss in step.losses.values())
    assert all(p.dtype == torch.float32 for p in run.student.parameters())
    full = final(tiny)
    first, second = run.recorder.outputs[0]["loss"], full.recorder.outputs[0]["loss"]
    assert first == pytest.approx(second, rel=0.03)


def test_memory_format_changes_the_speed_only(tiny):
    plain, last = (tiny.build(channels_last=flag, max_epochs=1) for flag in (False, True))
    for run in (plain, last):
        run.trainer.run()
    first, second = plain.recorder.outputs[0]["loss"], last.recorder.outputs[0]["loss"]
    assert first == pytest.approx(second, rel=1e-4)


def test_any_network_without_forward_features_can_be_trained(tiny):
    items = tiny.build().loader
    network = torch.nn.Conv2d(1, 2, 3, padding=1)
    trainer = SemiSupervisedTrainer("cpu", 1, items, network, torch.optim.SGD(network.parameters(), lr=0.1))
    before = network.weight.detach().clone()
    trainer.run()
    assert trainer.state.step.outputs["unlabeled"].embedding is None
    assert not torch.equal(network.weight, before)
