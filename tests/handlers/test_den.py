"""PDF-UNet's image generator: its losses and training, what it learns from, and the pairs that it adds."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn

from phnet_monai.engines import NonFiniteLossError, SemiSupervisedTrainer, polynomial_schedule
from phnet_monai.handlers import DataExpansion, PseudoMaskGenerator, SaveCheckpoints
from phnet_monai.handlers.den import LOGGED_STEPS, discriminator_loss, generator_loss, train_gan
from phnet_monai.networks import make_teacher
from phnet_monai.shipped import bundle_folder
from phnet_monai.transforms import WeakView

REFERENCE = Path(__file__).parents[1] / "reference" / "den_reference.py"
FEATURES, SIDE = (8, 4), 16
STEPS = 4  # an epoch of `tiny.build`


@pytest.fixture(scope="module")
def literal() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(REFERENCE)))


class WatchingView(WeakView):
    """Keeps which images it was asked for, and that no mask came with them."""

    def __init__(self, size: int = SIDE, **arguments: Any) -> None:
        super().__init__(size, **{"scale_range": (1.0, 1.0), **arguments})
        self.seen: list[int] = []

    def __call__(self, image, mask, generator):
        assert mask is None
        self.seen.append(id(image))
        return super().__call__(image, mask, generator)


def discs(count: int = 12) -> list[dict[str, Any]]:
    """Bright discs (grey 0.9) on dark ground (0.1) at different places."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    centres = generator.uniform(6, 10, (count, 2))
    return [{"image": np.where((y - cy) ** 2 + (x - cx) ** 2 <= 25, 230, 26).astype(np.uint8)} for cy, cx in centres]


def make(dataset: Any = None, view: WeakView | None = None, **arguments: Any) -> DataExpansion:
    settings = {"gan_steps": 3, "features": FEATURES, "latent_size": 6, "gan_batch_size": 4, **arguments}
    return DataExpansion(discs() if dataset is None else dataset, view or WatchingView(), **settings)


def make_engine(seed: int = 0) -> SimpleNamespace:
    """What `DataExpansion.train` reads of a trainer."""
    state = SimpleNamespace(device=torch.device("cpu"))
    return SimpleNamespace(seed=seed, state=state, format=torch.contiguous_format)


def weights(handler: DataExpansion) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in handler.generator.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


# --- losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_the_losses_equal_their_transcription(literal, smoothing):
    generator = torch.Generator().manual_seed(0)
    real, fake = (3 * torch.randn(count, generator=generator) for count in (7, 5))
    expected = literal.discriminator_loss(real.tolist(), fake.tolist(), smoothing)
    assert discriminator_loss(real, fake, smoothing).item() == pytest.approx(expected, rel=1e-5)
    assert generator_loss(fake).item() == pytest.approx(literal.generator_loss(fake.tolist()), rel=1e-5)


def test_losses_by_hand():
    zero, sure = torch.zeros(3), torch.full((3,), math.log(9))  # probabilities 0.5 and 0.9
    assert discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert generator_loss(zero).item() == pytest.approx(math.log(2))
    smoothed = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert discriminator_loss(sure, -sure).item() == pytest.approx(smoothed - math.log(0.9))
    assert discriminator_loss(sure, -sure, 0.0).item() == pytest.approx(-2 * math.log(0.9))
    assert generator_loss(sure).item() == pytest.approx(-math.log(0.9))


def test_only_the_real_label_is_smoothed():
    """Real images pull to probability 0.9 and no further, generated ones without limit."""
    real, fake = torch.tensor([math.log(9.0)], requires_grad=True), torch.tensor([-20.0], requires_grad=True)
    discriminator_loss(real, fake, 0.1).backward()
    assert real.grad.item() == pytest.approx(0, abs=1e-6)
    assert 0 < fake.grad.item() < 1e-8


def test_sure_answers_do_not_overflow():
    real, fake = torch.tensor([-1e4, 1e4]), torch.tensor([1e4, -1e4])
    assert discriminator_loss(real, fake, 0.1).item() == pytest.approx(0.9e4 / 2 + 0.1e4 / 2 + 1e4 / 2)
    assert generator_loss(fake.to(torch.bfloat16)).dtype == torch.float32


# --- training


class OneWeight(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


@pytest.mark.parametrize(("steps", "updates"), [(3, 2), (LOGGED_STEPS + 7, 2), (4, 1), (2, 5)])
def test_training_equals_its_transcription(literal, steps, updates):
    """Order and number of updates, Adam's numbers, smoothing, and which losses are averaged."""
    draws = np.random.default_rng(0)
    real, latents = draws.uniform(0.5, 1, (steps * updates, 4)), draws.normal(size=(steps * (updates + 1), 4))
    settings = {"rate": 0.05, "beta1": 0.5, "smoothing": 0.1}
    a, w, *losses = literal.train(0.3, -0.2, real, latents, steps=steps, updates=updates, **settings)
    generator, discriminator = OneWeight(0.3), OneWeight(-0.2)
    batches, left = iter(torch.from_numpy(real)), iter(torch.from_numpy(latents))
    means = train_gan(
        generator, discriminator, batches, lambda _: next(left), steps=steps, discriminator_updates=updates, **settings
    )
    assert (generator.weight.item(), discriminator.weight.item()) == pytest.approx((a, w), rel=1e-5)
    assert next(batches, None) is None
    assert next(left, None) is None
    assert means["den_discriminator"] == pytest.approx(np.mean(losses[0][-LOGGED_STEPS * updates :]), rel=1e-5)
    assert means["den_generator"] == pytest.approx(np.mean(losses[1][-LOGGED_STEPS:]), rel=1e-5)


def test_generated_discs_look_like_discs():
    handler = make(discs(40), features=(16, 8), gan_steps=80, gan_batch_size=8, gan_rate=2e-3)
    real = torch.stack([torch.from_numpy(item["image"]) for item in handler.dataset]) / 255

    def generated() -> Tensor:
        return handler.synthesise(32, (SIDE, SIDE), torch.Generator().manual_seed(1))[:, 0]

    def distance(images: Tensor) -> float:
        return abs(images.mean() - real.mean()).item()

    handler.train(make_engine())
    trained = generated()
    fresh = make(gan_steps=1, gan_rate=1e-9, features=(16, 8))
    fresh.train(make_engine())
    untrained = fresh.synthesise(32, (SIDE, SIDE), torch.Generator().manual_seed(1))
    assert distance(untrained) > 0.1
    assert distance(trained) < 0.06
    centre, corner = trained[:, 6:10, 6:10].mean(), trained[:, :2, :2].mean()
    assert centre > corner + 0.4  # 0.8 in the data
    assert (trained[1:] - trained[0]).abs().mean() > 1e-3  # not one picture for all


def test_images_that_are_not_finite_stop_the_training_before_the_weights_are_touched():
    broken = discs()
    broken[0]["image"] = np.full((SIDE, SIDE), np.nan, dtype=np.float32)
    handler = make(broken, gan_batch_size=12)
    with pytest.raises(NonFiniteLossError, match=r"not finite \(discriminator's, step 1: nan\).*Lower gan_rate"):
        handler.train(make_engine())
    assert all(torch.isfinite(parameter).all() for parameter in handler.discriminator.parameters())
    assert handler.losses == {}  # not taken for trained


def test_a_generator_that_breaks_down_is_named():
    handler = make(gan_rate=1e30)
    with pytest.raises(
        NonFiniteLossError, match=r"DataExpansion: .* is not finite \((discriminator|generator)'s, step"
    ):
        handler.train(make_engine())


def test_the_seed_decides():
    def trained(seed: int = 0, **arguments: Any) -> dict[str, Tensor]:
        handler = make(**arguments)
        handler.train(make_engine(seed))
        return weights(handler)

    first = trained()
    torch.rand(3)
    assert same(first, trained())
    assert same(first, trained(num_workers=2))
    assert not same(first, trained(1))


def test_training_leaves_all_other_randomness_alone():
    engine = make_engine()
    before = torch.get_rng_state()
    make().train(engine)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("count", "batch", "epochs", "steps"), [(12, 4, 5, 15), (12, 5, 3, 6), (3, 4, 2, 2)])
def test_an_epoch_is_one_pass_over_the_dataset(count, batch, epochs, steps):
    view = WatchingView()
    handler = make(discs(count), view, gan_steps=None, gan_epochs=epochs, gan_batch_size=batch)
    assert handler.gan_steps == steps
    handler.train(make_engine())
    assert len(view.seen) == steps * 2 * batch  # two discriminator updates, images of their own


def test_images_are_resized_and_independent_of_their_batch():
    handler = make()
    handler.train(make_engine())
    latents = torch.randn(5, 6)
    handler._latents = lambda count, _: latents[:count]
    several, alone = (handler.synthesise(count, (24, 32), torch.Generator()) for count in (5, 1))
    assert several.shape == (5, 1, 24, 32)
    assert several.min() >= 0
    assert several.max() <= 1
    assert not several.requires_grad
    torch.testing.assert_close(several[:1], alone)


# --- in a training


def build(tiny, folder: Path | None = None, resume: bool = False, max_epochs: int = 3, **arguments) -> SimpleNamespace:
    """A tiny training with a labeler of its own; the labeled images are the first four."""
    run = tiny.build(apa=False, hpc=False, max_epochs=max_epochs)
    labeler = make_teacher(tiny.build(init_seed=8).student)
    labeler.classifier[-1].bias.data[1] += 0.1
    run.view = WatchingView()
    run.handler = make(run.items[4:], run.view, **arguments)
    run.recorder = tiny.Recorder()
    saving = None
    if folder is not None:
        saving = SaveCheckpoints(
            folder,
            run.student,
            run.optimizer,
            scheduler=polynomial_schedule(run.optimizer, run.loader, max_epochs),
            handlers={"method": run.handler},
            input_size=tiny.SIZE,
            pad_value=0.33,
            method="pdf_unet",
            resume=resume,
        )
    run.trainer = SemiSupervisedTrainer(
        "cpu",
        max_epochs,
        run.loader,
        run.student,
        run.optimizer,
        teacher=labeler,
        pretrain_epochs=1,
        train_handlers=[run.handler, run.recorder, saving],
    )
    return run


def test_generated_pairs_take_the_place_of_the_unlabeled_images(tiny):
    run = build(tiny, weight=0.6)
    labeler = tiny.weights(run.trainer.teacher)
    run.trainer.run()
    assert all(set(step.views) == set(step.losses) == {"labeled"} for step in run.recorder.steps[:STEPS])
    images = []
    for step in run.recorder.steps[STEPS:]:
        view, weak = step.views["unlabeled"], step.weak["unlabeled"]
        assert view.image.shape == weak.image.shape
        assert view.valid.all()
        assert not torch.equal(view.image, weak.image)
        assert (view.weight == 1).all()
        with torch.no_grad():
            assert torch.equal(view.target, run.trainer.teacher(view.image).argmax(dim=1))
        assert set(step.losses) == {"labeled", "pseudo_masks"}
        assert step.loss_weights["pseudo_masks"] == 0.6
        assert view.image.min() >= 0
        assert view.image.max() <= 1
        images += list(view.image)
    assert len({image.sum().item() for image in images}) == len(images)  # new ones every time
    assert not all(step.weak["unlabeled"].valid.all() for step in run.recorder.steps[STEPS:])  # real ones have padding
    assert tiny.equal(tiny.weights(run.trainer.teacher), labeler)
    for step, output in zip(run.recorder.steps, run.recorder.outputs, strict=True):
        assert {name for name in output if name.startswith("den_")} == (
            set(run.handler.losses) if "unlabeled" in step.views else set()
        )
        assert all(output[name] == value for name, value in run.handler.losses.items() if name in output)


def test_the_term_is_that_of_the_pseudo_masks(tiny):
    run = build(tiny)
    run.trainer.run()
    step = run.recorder.steps[-1]
    found = step.losses.pop("pseudo_masks")
    PseudoMaskGenerator().add_loss(SimpleNamespace(state=SimpleNamespace(step=step)))
    assert torch.equal(found, step.losses["pseudo_masks"])
    assert found > 0


def test_the_generator_sees_unlabeled_images_only(tiny):
    run = build(tiny, gan_steps=4)
    run.trainer.run()
    labeled, unlabeled = ({id(item["image"]) for item in part} for part in (run.items[:4], run.items[4:]))
    assert set(run.view.seen) == unlabeled
    assert not set(run.view.seen) & labeled
    overlay = json.loads((bundle_folder() / "configs" / "methods" / "pdf_unet.json").read_text(encoding="utf-8"))
    assert overlay["method_handler"]["dataset"] == "@train#unlabeled_dataset"


def test_students_get_no_gradient_into_the_generator(tiny):
    run = build(tiny, max_epochs=1)
    run.trainer.run()
    trained = weights(run.handler)
    longer = build(tiny)
    longer.trainer.run()
    assert same(trained, weights(longer.handler))  # further epochs change nothing, statistics included


def test_the_generator_is_trained_once(tiny):
    run = build(tiny)
    run.trainer.run()
    assert len(run.view.seen) == 3 * 2 * 4  # in three epochs


def test_a_resumed_run_goes_on_with_its_generator(tiny, tmp_path):
    whole = build(tiny, tmp_path / "whole")
    whole.trainer.run()
    cut = build(tiny, tmp_path / "cut")

    @cut.trainer.on(Events.ITERATION_COMPLETED(once=2 * STEPS + 1))
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.trainer.run()
    saved = torch.load(tmp_path / "cut" / "last.pt", weights_only=True)["training"]["handlers"]["method"]
    assert set(saved) == {"labeler", "generator", "losses"}
    resumed = build(tiny, tmp_path / "cut", resume=True)
    resumed.trainer.run()
    assert resumed.view.seen == []  # not trained again
    assert len(resumed.recorder.steps) == STEPS
    assert resumed.handler.losses == whole.handler.losses
    assert same(weights(resumed.handler), weights(whole.handler))
    assert tiny.equal(tiny.weights(whole.student), tiny.weights(resumed.student))
    assert whole.recorder.outputs[-1] == resumed.recorder.outputs[-1]


def test_whole_runs_repeat_from_the_seed(tiny):
    runs = [build(tiny), build(tiny)]
    for run in runs:
        torch.rand(2)
        run.trainer.run()
    assert runs[0].recorder.outputs == runs[1].recorder.outputs
    assert tiny.equal(*(tiny.weights(run.student) for run in runs))


# --- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": []}, "there is no unlabeled image to learn from"),
        ({"gan_steps": None}, "gan_steps None, gan_epochs None; expected one of them"),
        ({"gan_steps": 0}, "gan_steps 0, gan_epochs None; expected one of them, at least 1"),
        ({"gan_epochs": 3}, "gan_steps 3, gan_epochs 3; expected one of them"),
        ({"gan_batch_size": 1}, "gan_batch_size 1, discriminator_updates 2"),
        ({"discriminator_updates": 0}, "gan_batch_size 4, discriminator_updates 0"),
        ({"gan_rate": 0.0}, "gan_rate 0.0, beta1 0.5, smoothing 0.1"),
        ({"beta1": 1.0}, "beta1 1.0"),
        ({"smoothing": 1.0}, "smoothing 1.0"),
        ({"weight": -1}, "weight is -1, expected >= 0"),
        ({"features": (8, 4, 2)}, "the views have 16 pixels a side, but 3 features generate 32"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"DataExpansion: .*{message}"):
        make(**arguments)


def test_a_trainer_without_labeler_is_refused(tiny):
    with pytest.raises(ValueError, match="DataExpansion: the trainer has no teacher"):
        tiny.build(teacher=None, train_handlers=[make()])
