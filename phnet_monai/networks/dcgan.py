"""DCGAN (Radford et al. 2016) for grey images: a generator and a discriminator that mirror each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

START = 4  # side of the coarsest map
STD = 0.02


def _checked(name: str, features: Sequence[int]) -> tuple[int, ...]:
    if len(features) == 0 or any(width < 1 for width in features):
        raise ValueError(
            f"{name}: features are {tuple(features)}, expected one or more positive widths, coarsest first"
        )
    return tuple(features)


class DCGANGenerator(nn.Module):
    """Latent vectors -> square grey images of side 4 * 2**len(features): 128 for five widths.

    A projection to 4x4, then transposed convolutions that double the side, with batch normalisation and ReLU.

    Args:
        latent_size: of the latent vectors.
        features: widths from the coarsest map (4x4) to the finest before the image.

    Shapes:
        `forward`: (B, latent_size) -> (B, 1, size, size) in [0, 1].
    """

    def __init__(self, latent_size: int = 128, features: Sequence[int] = (256, 128, 64, 32, 16)) -> None:
        super().__init__()
        if latent_size < 1:
            raise ValueError(f"DCGANGenerator: latent_size is {latent_size}, expected >= 1")
        widths = _checked("DCGANGenerator", features)
        self.latent_size, self.size = latent_size, START * 2 ** len(widths)
        blocks: list[nn.Module] = []
        for index, width in enumerate(widths):
            source, geometry = (widths[index - 1], (4, 2, 1)) if index else (latent_size, (START, 1, 0))
            blocks += [nn.ConvTranspose2d(source, width, *geometry, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.ConvTranspose2d(widths[-1], 1, 4, 2, 1)

    def forward(self, latent: Tensor) -> Tensor:
        # the usual tanh in [-1, 1], moved to the range of all images here
        return (self.last(self.blocks(latent[:, :, None, None])).tanh() + 1) / 2


class DCGANDiscriminator(nn.Module):
    """Square grey images -> one logit each, high for real ones: strided convolutions with LeakyReLU.

    Args:
        features: those of the generator, coarsest first; they decide the size of the images.

    Shapes:
        `forward`: (B, 1, size, size) in [0, 1] -> (B,).

    Raises:
        ValueError: from `forward`, for images of another size.
    """

    def __init__(self, features: Sequence[int] = (256, 128, 64, 32, 16)) -> None:
        super().__init__()
        widths = _checked("DCGANDiscriminator", features)[::-1]
        self.size = START * 2 ** len(widths)
        blocks: list[nn.Module] = []
        for source, width in zip((1, *widths), widths, strict=False):
            first = not blocks  # statistics of the raw images are left alone
            blocks.append(nn.Conv2d(source, width, 4, 2, 1, bias=first))
            blocks += [*([] if first else [nn.BatchNorm2d(width)]), nn.LeakyReLU(0.2, True)]
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(widths[-1], 1, START))

    def forward(self, image: Tensor) -> Tensor:
        if tuple(image.shape[1:]) != (1, self.size, self.size):
            raise ValueError(
                f"DCGANDiscriminator: images have shape {tuple(image.shape)}, expected (B, 1, {self.size}, {self.size})"
            )
        return self.blocks(2 * image - 1).flatten()


@torch.no_grad()
def initialise_dcgan(network: nn.Module, generator: torch.Generator) -> None:
    """DCGAN's first weights: N(0, 0.02) in convolutions, N(1, 0.02) in batch normalisation, biases 0.

    Drawn on the CPU, so that a seed gives the same weights on every device; running statistics start anew.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
        elif not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            continue
        mean = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
        drawn = torch.empty(module.weight.shape).normal_(mean, STD, generator=generator)
        module.weight.copy_(drawn)
        if module.bias is not None:
            module.bias.zero_()
