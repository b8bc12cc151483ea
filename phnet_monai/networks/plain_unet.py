"""The plain U-Net, from scratch."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from phnet_monai.networks.decoded import Decoded


class PlainUNet(nn.Module):
    """U-Net of Ronneberger et al. with batch normalisation (MONAI's BasicUNet), from scratch: the paper's second row.

    `features` are the channels of the five levels; (64, ..., 1024) as in the original, (16, ..., 256) for a small one.
    """

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__()
        if len(features) != 5:
            raise ValueError(f"plain_unet: expected 5 widths in unet_features, found {tuple(features)}")
        self.net = BasicUNet(
            spatial_dims=2,
            in_channels=3,
            out_channels=1,
            features=(*features, features[0]),
            act="relu",
            norm="batch",
        )
        self.net.final_conv = nn.Identity()  # the classifier takes its place; the name stays, or TorchScript fails
        self.divisor = 16
        self.channels, self.embedding_channels = features[0], features[2]
        self.single_image_statistics = False

    def encode(self, x: Tensor) -> list[Tensor]:
        # written out: TorchScript takes no loop over modules
        x0 = self.net.conv_0(x)
        x1 = self.net.down_1(x0)
        x2 = self.net.down_2(x1)
        x3 = self.net.down_3(x2)
        return [x0, x1, x2, x3, self.net.down_4(x3)]

    def decode(self, features: list[Tensor]) -> Decoded:
        x0, x1, x2, x3, x4 = features
        stride4 = self.net.upcat_3(self.net.upcat_4(x4, x3), x2)
        return Decoded(self.net.upcat_1(self.net.upcat_2(stride4, x1), x0), stride4)
