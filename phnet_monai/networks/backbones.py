"""Encoder-decoder pairs under `PHNet`: DeepLabv3+ or U-Net under any smp encoder, and U-Nets from scratch.

Every backbone is a module with `encode(x) -> [features]`, `decode([features]) -> Decoded` and the attributes
`divisor` (height and width of the input must be multiples of it), `channels` and `embedding_channels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from phnet_monai.networks.decoded import Decoded
from phnet_monai.networks.weights import load_encoder_weights

if TYPE_CHECKING:
    from phnet_monai.networks.pdf_unet import PDFUNet
    from phnet_monai.networks.plain_unet import PlainUNet
    from phnet_monai.networks.residual_attention_unet import ResidualAttentionUNet


class DeepLabV3Plus(nn.Module):
    """smp encoder, dilated to `output_stride`, and DeepLabv3+; both heads read its fused stride-4 feature."""

    def __init__(self, encoder: nn.Module, output_stride: int, atrous_rates: Sequence[int], channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = DeepLabV3PlusDecoder(
            encoder_channels=encoder.out_channels,
            encoder_depth=5,
            out_channels=channels,
            atrous_rates=tuple(atrous_rates),
            output_stride=output_stride,  # type: ignore[arg-type]
            aspp_separable=True,
            aspp_dropout=0.5,
        )
        self.divisor = output_stride
        self.channels = self.embedding_channels = channels
        self.single_image_statistics = True  # ASPP pools to 1x1, where batch statistics of one image do not exist

    def encode(self, x: Tensor) -> list[Tensor]:
        return self.encoder(x)

    def decode(self, features: list[Tensor]) -> Decoded:
        fused = self.decoder(features)
        return Decoded(fused, fused)


class EncoderUNet(nn.Module):
    """smp encoder (stride 32) and smp's U-Net decoder; the projector reads the decoder stage at stride 4."""

    CHANNELS = (256, 128, 64, 32, 16)

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = UnetDecoder(encoder.out_channels, self.CHANNELS, n_blocks=5, interpolation_mode="bilinear")
        self.divisor = 32
        self.channels, self.embedding_channels = self.CHANNELS[-1], self.CHANNELS[2]
        self.single_image_statistics = False

    def encode(self, x: Tensor) -> list[Tensor]:
        return self.encoder(x)

    def decode(self, features: list[Tensor]) -> Decoded:
        skips = features[:0:-1]  # deepest first, without the input itself
        x = self.decoder.center(skips[0])
        stages = []
        for index, block in enumerate(self.decoder.blocks):
            height, width = features[-2 - index].shape[-2:]
            x = block(x, height, width, skip_connection=skips[index + 1] if index + 1 < len(skips) else None)
            stages.append(x)
        return Decoded(x, stages[2])


FROM_SCRATCH = ("plain_unet", "residual_attention_unet", "pdf_unet")
"""Decoders without an smp encoder, trained from scratch; built from their widths alone."""
DECODERS = ("deeplabv3plus", "unet", *FROM_SCRATCH)
Backbone: TypeAlias = "DeepLabV3Plus | EncoderUNet | PlainUNet | ResidualAttentionUNet | PDFUNet"


def make_backbone(
    decoder: str,
    encoder: str,
    *,
    weights: str | None,
    output_stride: int = 16,
    atrous_rates: Sequence[int] = (6, 12, 18),
    decoder_channels: int = 256,
    unet_features: Sequence[int] = (64, 128, 256, 512, 1024),
) -> Backbone:
    """Build one of `DECODERS`.

    Raises:
        ValueError: unknown decoder or encoder, output stride other than 8 or 16, weights that cannot be had.
    """
    if decoder not in DECODERS:
        raise ValueError(f"PHNet: unknown decoder {decoder!r}; expected one of {', '.join(DECODERS)}")
    if decoder in FROM_SCRATCH:
        if weights is not None:
            raise ValueError(f"PHNet: {decoder} is trained from scratch, but weights={weights!r}; set weights to null")
        return _from_scratch(decoder, unet_features)
    if decoder == "deeplabv3plus" and output_stride not in (8, 16):
        raise ValueError(f"PHNet: output_stride is {output_stride}, expected 8 or 16")
    try:
        network = get_encoder(
            encoder,
            in_channels=3,
            depth=5,
            weights=None,
            output_stride=32 if decoder == "unet" else output_stride,
        )
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"PHNet: encoder {encoder!r} cannot be built ({error}). Expected a name of segmentation-models-pytorch, "
            "e.g. 'resnet50', or 'tu-<timm name>'"
        ) from error
    load_encoder_weights(network, encoder, weights)
    if decoder == "unet":
        return EncoderUNet(network)
    return DeepLabV3Plus(network, output_stride, atrous_rates, decoder_channels)


def _from_scratch(decoder: str, features: Sequence[int]) -> PlainUNet | ResidualAttentionUNet | PDFUNet:
    """Made of MONAI's blocks, which are loaded here only: they take seconds, and segmenting needs none of MONAI."""
    from phnet_monai.networks.pdf_unet import PDFUNet
    from phnet_monai.networks.plain_unet import PlainUNet
    from phnet_monai.networks.residual_attention_unet import ResidualAttentionUNet

    if decoder == "plain_unet":
        return PlainUNet(features)
    return PDFUNet(features) if decoder == "pdf_unet" else ResidualAttentionUNet(features)


def normalisation(encoder: str, decoder: str) -> tuple[list[float], list[float]]:
    """Mean and std of the encoder's training images, for inputs in [0, 1]; timm's own where the encoder is timm's."""
    if decoder not in FROM_SCRATCH and encoder.startswith("tu-"):
        import timm

        name = encoder.removeprefix("tu-")
        if timm.models.is_model_pretrained(name):
            config = timm.models.get_pretrained_cfg(name)
            assert config is not None  # is_model_pretrained said so
            return list(config.mean), list(config.std)
    return [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def pad_to_multiple(x: Tensor, divisor: int) -> Tensor:
    """Repeat the last row and column until `divisor` divides height and width; pixel (y, x) keeps its place."""
    bottom, right = -x.shape[-2] % divisor, -x.shape[-1] % divisor
    if bottom == 0 and right == 0:
        return x
    return torch.nn.functional.pad(x, (0, right, 0, bottom), mode="replicate")
