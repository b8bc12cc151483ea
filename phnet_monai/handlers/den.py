"""PDF-UNet's first step (Iqbal and Sharif 2023): a DCGAN learns the unlabeled images, and its images are trained on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Events
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from phnet_monai.data.loader_processes import end_with_parent, process_count
from phnet_monai.data.loaders import EpochSampler, WeakViewDataset
from phnet_monai.engines.step import UNLABELED, Step, View
from phnet_monai.engines.trainer import NonFiniteLossError, SemiSupervisedTrainer
from phnet_monai.handlers.pdf_unet import PseudoMaskGenerator, check_labeler
from phnet_monai.networks.dcgan import DCGANDiscriminator, DCGANGenerator, initialise_dcgan
from phnet_monai.transforms import WeakView

LOGGED_STEPS = 100  # the last ones, whose mean losses are logged


def discriminator_loss(real: Tensor, fake: Tensor, smoothing: float = 0.1) -> Tensor:
    """Binary cross-entropy of real images to 1 - `smoothing`, plus that of generated ones to 0.

    Args:
        real, fake: logits of the discriminator, (B,) each.
        smoothing: one-sided, in [0, 1).

    Returns:
        Scalar, the sum of two means.
    """
    real, fake = real.float(), fake.float()
    wanted = torch.full_like(real, 1 - smoothing)
    of_real = F.binary_cross_entropy_with_logits(real, wanted)
    return of_real + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))


def generator_loss(fake: Tensor) -> Tensor:
    """Binary cross-entropy of generated images to 1 (not smoothed), the non-saturating form.

    Args:
        fake: logits of the discriminator, (B,).

    Returns:
        Scalar mean.
    """
    fake = fake.float()
    return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


def train_gan(
    generator: nn.Module,
    discriminator: nn.Module,
    batches: Iterator[Tensor],
    draw: Callable[[int], Tensor],
    *,
    steps: int,
    discriminator_updates: int = 2,
    rate: float = 2e-4,
    beta1: float = 0.5,
    smoothing: float = 0.1,
) -> dict[str, float]:
    """Train both networks by Adam; a step is `discriminator_updates` updates of the one, then one of the other.

    Args:
        generator: latents (B, Z) -> images; discriminator: images -> logits (B,).
        batches: real images (B, 1, H, W), a new batch for every update of the discriminator.
        draw: count -> that many latents.

    Returns:
        `den_discriminator`, `den_generator`: losses, averaged over the last 100 steps.

    Raises:
        NonFiniteLossError: before the update that would have spread it.
    """
    generator.train()
    discriminator.train()
    of_generator, of_discriminator = (
        torch.optim.Adam(network.parameters(), lr=rate, betas=(beta1, 0.999)) for network in (generator, discriminator)
    )
    losses: dict[str, list[float]] = {"den_discriminator": [], "den_generator": []}
    for number in tqdm(range(steps), desc="images", unit="step", file=sys.stderr, disable=None, leave=False):
        for _ in range(discriminator_updates):
            real = next(batches)
            with torch.no_grad():
                fake = generator(draw(len(real)))
            loss = discriminator_loss(discriminator(real), discriminator(fake), smoothing)
            losses["den_discriminator"].append(_update(of_discriminator, loss, f"discriminator's, step {number + 1}"))
        loss = generator_loss(discriminator(generator(draw(len(real)))))
        losses["den_generator"].append(_update(of_generator, loss, f"generator's, step {number + 1}"))
    last = {"den_discriminator": LOGGED_STEPS * discriminator_updates, "den_generator": LOGGED_STEPS}
    return {name: fmean(values[-last[name] :]) for name, values in losses.items()}


def _update(optimizer: torch.optim.Optimizer, loss: Tensor, whose: str) -> float:
    if not torch.isfinite(loss):
        raise NonFiniteLossError(
            f"DataExpansion: a loss of the image generator's training is not finite ({whose}: {loss.item()}). Lower "
            "gan_rate, and check the images for constant or broken files."
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


class DataExpansion(PseudoMaskGenerator):
    """Replaces the unlabeled view by generated images with the labeler's masks; adds `pseudo_masks` on them.

    Before the first epoch a DCGAN is trained on views of the unlabeled images, in float32. Every step then draws as
    many new images as the unlabeled batch has, resized to its size; the labeler (`load_labeler`) marks them, and all
    their pixels count. The generator is saved with the handler's state, so that a resumed run goes on with it.

    Args:
        dataset: decoded unlabeled images (`training_dataset`); masks, if it has any, are not read.
        view: what is learnt of them; its size must be the generator's.
        gan_steps: updates of the generator; or gan_epochs: passes over the dataset with one batch for each of them.
            One of the two is None.
        latent_size, features: of `DCGANGenerator`; five widths give the source's 128 pixels.
        gan_batch_size, gan_rate, beta1: of its training by Adam.
        smoothing: of the real images' label, see `discriminator_loss`.
        discriminator_updates: for every update of the generator, each with images of its own.
        weight: of the term; 1 counts generated pairs like annotated ones.
        num_workers: processes that make the views; they do not depend on it.
    """

    def __init__(
        self,
        dataset: Dataset,
        view: WeakView,
        *,
        gan_steps: int | None = 1500,
        gan_epochs: int | None = None,
        latent_size: int = 128,
        features: Sequence[int] = (256, 128, 64, 32, 16),
        gan_batch_size: int = 16,
        gan_rate: float = 2e-4,
        beta1: float = 0.5,
        smoothing: float = 0.1,
        discriminator_updates: int = 2,
        weight: float = 1.0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(weight=weight)
        count = len(dataset)  # type: ignore[arg-type]
        _check_lengths(count, gan_steps, gan_epochs)
        if gan_batch_size < 2 or discriminator_updates < 1:
            raise ValueError(
                f"DataExpansion: gan_batch_size {gan_batch_size}, discriminator_updates {discriminator_updates}; "
                "expected at least 2 images (batch statistics) and at least 1 update"
            )
        if gan_rate <= 0 or not 0 <= beta1 < 1 or not 0 <= smoothing < 1:
            raise ValueError(
                f"DataExpansion: gan_rate {gan_rate}, beta1 {beta1}, smoothing {smoothing}; expected a rate above 0 "
                "and both others in [0, 1)"
            )
        with torch.random.fork_rng(devices=[]):  # the real start is drawn from the run's seed, in `train`
            self.generator = DCGANGenerator(latent_size, features)
            self.discriminator = DCGANDiscriminator(features)
        if view.size != self.generator.size:
            raise ValueError(
                f"DataExpansion: the views have {view.size} pixels a side, but {len(features)} features generate "
                f"{self.generator.size}; set the view's size to that, or change the number of features"
            )
        self.dataset, self.view, self.num_workers = dataset, view, num_workers
        self.gan_steps = gan_steps or (gan_epochs or 0) * max(1, count // gan_batch_size)
        self.gan_batch_size, self.gan_rate, self.beta1 = gan_batch_size, gan_rate, beta1
        self.smoothing, self.discriminator_updates = smoothing, discriminator_updates
        self.losses: dict[str, float] = {}  # empty until the generator is trained

    def attach(self, engine: SemiSupervisedTrainer) -> None:  # type: ignore[override]
        super().attach(engine)
        for network in (self.generator, self.discriminator):
            network.to(device=engine.state.device, memory_format=engine.format)  # type: ignore[call-overload]
        # not at STARTED: a resumed run gets its state there, after this handler's turn
        engine.add_event_handler(Events.EPOCH_STARTED, self.train)

    def train(self, engine: SemiSupervisedTrainer) -> None:
        """Train the generator, unless it is trained. Leaves the randomness of the epoch as it was."""
        if self.losses:
            return
        draws = torch.Generator().manual_seed(engine.seed * 1_000_003)  # the trainer's epochs count from 1
        for network in (self.generator, self.discriminator):
            initialise_dcgan(network, draws)
        self.losses = train_gan(
            self.generator,
            self.discriminator,
            self._batches(engine),
            lambda count: self._latents(count, draws),
            steps=self.gan_steps,
            discriminator_updates=self.discriminator_updates,
            rate=self.gan_rate,
            beta1=self.beta1,
            smoothing=self.smoothing,
        )

    def _batches(self, engine: SemiSupervisedTrainer) -> Iterator[Tensor]:
        """Views of the unlabeled images, as many as the training takes; other ones than those of its epochs."""
        images = WeakViewDataset(self.dataset, self.view, labeled=False)
        steps = self.gan_steps * self.discriminator_updates
        sampler = EpochSampler(len(images), steps, self.gan_batch_size, 2 * engine.seed + 1)
        sampler.set_epoch(0)
        loader = DataLoader(
            images,
            batch_size=self.gan_batch_size,
            sampler=sampler,
            num_workers=process_count(self.num_workers),
            worker_init_fn=end_with_parent,
            generator=torch.Generator(),  # else the iterator draws from torch's own
        )
        for batch in loader:
            yield batch["image"].to(engine.state.device).contiguous(memory_format=engine.format)

    def _latents(self, count: int, draws: torch.Generator) -> Tensor:
        latent = torch.randn(count, self.generator.latent_size, generator=draws)
        return latent.to(next(self.generator.parameters()).device)

    @torch.no_grad()
    def synthesise(self, count: int, size: Sequence[int], draws: torch.Generator) -> Tensor:
        """Generated images (count, 1, H, W) in [0, 1]; each depends on its own latent vector only.

        Args:
            size: (H, W); the generator's images are resized to it.
            draws: CPU generator of the latent vectors.
        """
        self.generator.eval()
        images = self.generator(self._latents(count, draws))
        return F.interpolate(images, size=list(size), mode="bilinear", align_corners=False, antialias=True)

    def prepare(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if UNLABELED not in step.views:
            return
        weak = step.views[UNLABELED]
        check_labeler(engine.teacher, weak.image)
        image = self.synthesise(len(weak.image), weak.image.shape[-2:], engine.generator)
        image = image.contiguous(memory_format=engine.format)
        target = engine.teacher_probabilities(image).argmax(dim=1)
        everywhere = torch.ones_like(weak.valid)
        step.views[UNLABELED] = View(image, target, torch.ones_like(weak.weight), everywhere, loss_weight=0.0)
        step.scalars.update(self.losses)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "generator": self.generator.state_dict(), "losses": dict(self.losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.load_state_dict(state["generator"])
        self.losses = dict(state["losses"])


def _check_lengths(count: int, gan_steps: int | None, gan_epochs: int | None) -> None:
    if count == 0:
        raise ValueError(
            "DataExpansion: there is no unlabeled image to learn from; use a datalist with unlabeled images, or a "
            "method without image generator"
        )
    given = [value for value in (gan_steps, gan_epochs) if value is not None]
    if len(given) != 1 or given[0] < 1:
        raise ValueError(
            f"DataExpansion: gan_steps {gan_steps}, gan_epochs {gan_epochs}; expected one of them, at least 1, and "
            "null for the other"
        )
