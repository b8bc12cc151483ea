"""What a backbone hands to the heads."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Decoded(NamedTuple):
    """What the two heads read.

    Attributes:
        segmentation: (B, channels, h, w), read by the classifier; stride 4 for DeepLabv3+, 1 for a U-Net.
        embedding: (B, embedding_channels, H/4, W/4), read by the projector. The same tensor for DeepLabv3+.
    """

    segmentation: Tensor
    embedding: Tensor
