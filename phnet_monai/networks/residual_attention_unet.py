"""Residual attention U-Net: the network of RA-UGMT, re-created, since its authors published no code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import ResidualUnit, UpSample
from monai.networks.nets.attentionunet import AttentionBlock
from torch import Tensor, nn

from phnet_monai.networks.decoded import Decoded

DROPOUT = (0.0, 0.0, 0.0, 0.3, 0.5)  # of the five levels, finest first


def _block(in_channels: int, channels: int, dropout: float = 0.0) -> ResidualUnit:
    """Two conv-BN-dropout-ReLU beside a shortcut."""
    return ResidualUnit(2, in_channels, channels, act="relu", norm="batch", dropout=dropout or None, bias=False)


class UpStage(nn.Module):
    """Upsampling, the skip weighed by an additive attention gate, and a residual block."""

    def __init__(self, deep: int, skip: int) -> None:
        super().__init__()
        self.up = UpSample(2, deep, skip, mode="deconv")
        self.gate = AttentionBlock(2, f_int=max(1, skip // 2), f_g=skip, f_l=skip)
        self.block = _block(2 * skip, skip)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """deep (B, C, h, w), skip (B, C', 2h, 2w) -> (B, C', 2h, 2w)."""
        up = self.up(deep)
        return self.block(torch.cat([self.gate(up, skip), up], dim=1))


class ResidualAttentionUNet(nn.Module):
    """U-Net of residual double convolutions with attention gates on its skips; dropout in the two deepest levels.

    Args:
        features: channels of the five levels.
    """

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__()
        if len(features) != 5:
            raise ValueError(f"residual_attention_unet: expected 5 widths in unet_features, found {tuple(features)}")
        inputs = (3, *features[:-1])
        self.levels = nn.ModuleList(_block(*widths) for widths in zip(inputs, features, DROPOUT, strict=True))
        self.pool = nn.MaxPool2d(2)
        self.up_3, self.up_2, self.up_1, self.up_0 = (UpStage(features[i + 1], features[i]) for i in (3, 2, 1, 0))
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
        x0, x1, x2, x3, x4 = features
        stride4 = self.up_2(self.up_3(x4, x3), x2)
        return Decoded(self.up_0(self.up_1(stride4, x1), x0), stride4)
