"""PDF-UNet: a U-Net of gated blocks (those of COPLE-Net, which MONAI has), built from the authors' description."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution, MaxAvgPool, ResidualSELayer, SimpleASPP, UpSample
from torch import Tensor, nn

from phnet_monai.networks.decoded import Decoded

DROPOUT = (0.0, 0.0, 0.3, 0.4, 0.5)  # of the five levels, finest first


def _convolution(in_channels: int, channels: int, kernel_size: int = 3) -> Convolution:
    return Convolution(2, in_channels, channels, kernel_size=kernel_size, act="leakyrelu", norm="batch", bias=False)


class GatedBlock(nn.Sequential):
    """Conv-BN-LeakyReLU twice with dropout between them, then a squeeze-and-excitation gate beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, dropout: float) -> None:
        super().__init__(
            _convolution(in_channels, channels),
            nn.Dropout(dropout),
            _convolution(channels, channels),
            ResidualSELayer(2, channels, r=2, acti_type_1="leakyrelu", acti_type_2="sigmoid"),
        )


class UpStage(nn.Module):
    """Bilinear upsampling to the width of the bridged skip, concatenation, and a block without dropout."""

    def __init__(self, deep: int, skip: int, channels: int) -> None:
        super().__init__()
        self.up = UpSample(2, deep, skip, mode="nontrainable", align_corners=False)
        self.block = GatedBlock(2 * skip, channels, 0.0)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """deep (B, C, h, w), skip (B, C', 2h, 2w) -> (B, channels, 2h, 2w)."""
        return self.block(torch.cat([skip, self.up(deep)], dim=1))


class PDFUNet(nn.Module):
    """Five levels; max- and average-pooled maps go down side by side, 1x1 bridges halve the skips.

    The deepest level ends in four parallel convolutions (kernels 1, 3, 3, 3; dilations 1, 2, 4, 6).

    Args:
        features: channels of the five levels, even; (32, ..., 512) in the source.
    """

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__()
        if len(features) != 5 or any(width % 2 for width in features) or features[4] % 4:
            raise ValueError(
                f"pdf_unet: unet_features are {tuple(features)}, expected 5 even widths, the last a multiple of 4"
            )
        inputs = (3, *(2 * width for width in features[:-1]))
        self.levels = nn.ModuleList(GatedBlock(*widths) for widths in zip(inputs, features, DROPOUT, strict=True))
        self.pool = MaxAvgPool(2, kernel_size=2)
        self.bridges = nn.ModuleList(_convolution(width, width // 2, 1) for width in features[:-1])
        self.bottleneck = SimpleASPP(2, features[4], features[4] // 4)
        stages = (UpStage(features[i + 1], features[i] // 2, features[i]) for i in (3, 2, 1, 0))
        self.up_3, self.up_2, self.up_1, self.up_0 = stages
        self.divisor = 16
        self.channels, self.embedding_channels = features[0], features[2]
        self.single_image_statistics = False

    def encode(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        for index, level in enumerate(self.levels):
            x = level(x if index == 0 else self.pool(x))
            features.append(x)
        return features

    def decode(self, features: list[Tensor]) -> Decoded:
        skips: list[Tensor] = []
        for index, bridge in enumerate(self.bridges):
            skips.append(bridge(features[index]))
        stride4 = self.up_2(self.up_3(self.bottleneck(features[4]), skips[3]), skips[2])
        return Decoded(self.up_0(self.up_1(stride4, skips[1]), skips[0]), stride4)
