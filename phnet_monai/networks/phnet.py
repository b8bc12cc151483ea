"""PHNet: encoder-decoder with a classifier and, for training, a projector beside it (paper, Sec. 4.1 and Fig. 3)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phnet_monai.networks.backbones import make_backbone, normalisation, pad_to_multiple
from phnet_monai.networks.decoded import Decoded
from phnet_monai.transforms.fit import PAD_VALUE, fit_batch, unfit_batch


def _head(in_channels: int, channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    """Two Conv-BN-ReLU and a 1x1 convolution; dropout drops whole channels, as the authors' projector does."""
    blocks: list[nn.Module] = []
    for width in (in_channels, channels):
        blocks += [
            nn.Conv2d(width, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*blocks, nn.Dropout2d(dropout), nn.Conv2d(channels, out_channels, 1))


class PHNet(nn.Module):
    """Segmentation network of PH-Net.

    Grey images go in, normalisation and padding to the backbone's stride happen inside, so any size works.

    Args:
        encoder: encoder name of segmentation-models-pytorch (`resnet50`, `tu-tf_efficientnet_lite0`, ...).
        decoder: `deeplabv3plus`, `unet` (both under any encoder); `plain_unet`,
            `residual_attention_unet` or `pdf_unet` (no encoder; from scratch).
        weights: encoder weights: `imagenet`, `lite0-pypi` or None; see `load_encoder_weights`.
        num_classes: classes of the softmax; 2 = background, lesion.
        embedding_size: channels of the projector; None builds none (teacher, inference).
        output_stride, atrous_rates, decoder_channels: of DeepLabv3+ (paper profile: 8, 12/24/36, 256).
        head_channels: width of both heads.
        unet_features: widths of the five levels of the networks from scratch.
        dropout: channel dropout before each head's 1x1 convolution.
        in_channels: 1 (grey, repeated to three) or 3.
        fit_size, pad_value: if given, `forward` fits images of any size to fit_size x fit_size first and maps the
            probabilities back (`transforms.fit`), returned as their logarithm: the network as inference and export
            use it. Training fits in the loader instead.

    Shapes:
        `forward`: (B, in_channels, H, W) in [0, 1] -> logits (B, num_classes, H, W).
        `forward_features`: the same -> (logits, embedding (B, embedding_size, H'/4, W'/4)), where H', W' are
        H, W padded at the bottom and right; pixel (y, x) lies at ((y + .5)/4 - .5, (x + .5)/4 - .5) of the feature map.
    """

    stateless = True  # an answer depends on the images alone: several threads may ask in eval mode

    def __init__(
        self,
        encoder: str = "resnet50",
        decoder: str = "deeplabv3plus",
        weights: str | None = None,
        *,
        num_classes: int = 2,
        embedding_size: int | None = 256,
        output_stride: int = 8,
        atrous_rates: Sequence[int] = (12, 24, 36),
        decoder_channels: int = 256,
        head_channels: int = 256,
        unet_features: Sequence[int] = (64, 128, 256, 512, 1024),
        dropout: float = 0.1,
        in_channels: int = 1,
        fit_size: int | None = None,
        pad_value: float = PAD_VALUE,
    ) -> None:
        super().__init__()
        self.fit_size, self.pad_value, self.in_channels = fit_size or 0, pad_value, in_channels  # 0: input as it is
        if in_channels not in (1, 3):
            raise ValueError(f"PHNet: in_channels is {in_channels}, expected 1 (grey) or 3")
        if num_classes < 2:
            raise ValueError(f"PHNet: num_classes is {num_classes}, expected 2 or more (softmax with background)")
        # plain data, saved with checkpoints, so that the network can be rebuilt without a config
        self.arguments: dict[str, Any] = {
            "encoder": encoder,
            "decoder": decoder,
            "num_classes": num_classes,
            "embedding_size": embedding_size,
            "output_stride": output_stride,
            "atrous_rates": list(atrous_rates),
            "decoder_channels": decoder_channels,
            "head_channels": head_channels,
            "unet_features": list(unet_features),
            "dropout": dropout,
            "in_channels": in_channels,
        }
        self.backbone = make_backbone(
            decoder,
            encoder,
            weights=weights,
            output_stride=output_stride,
            atrous_rates=atrous_rates,
            decoder_channels=decoder_channels,
            unet_features=unet_features,
        )
        self.classifier = _head(self.backbone.channels, head_channels, num_classes, dropout)
        self.projector = (
            None
            if embedding_size is None
            else _head(self.backbone.embedding_channels, head_channels, embedding_size, dropout)
        )
        mean, std = normalisation(encoder, decoder)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) in [0, 1] -> feature maps of the backbone, finest first, of the padded input."""
        if not torch.jit.is_scripting():
            self._check_input(x)
        x = pad_to_multiple(x, self.backbone.divisor)
        return self.backbone.encode((x.expand(-1, 3, -1, -1) - self.mean) / self.std)  # type: ignore[operator]

    def decode(self, features: list[Tensor]) -> Decoded:
        """Feature maps (possibly perturbed) -> what the heads read."""
        return self.backbone.decode(features)

    def classify(self, decoded: Decoded, height: int, width: int) -> Tensor:
        """Decoded features -> logits (B, num_classes, height, width), cropped to the unpadded input's size."""
        divisor = self.backbone.divisor
        logits = self.classifier(decoded.segmentation)
        padded = [height + -height % divisor, width + -width % divisor]
        if list(logits.shape[-2:]) != padded:
            logits = F.interpolate(logits, size=padded, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def project(self, decoded: Decoded) -> Tensor:
        """Decoded features -> embedding (B, embedding_size, h, w) at stride 4; not normalised."""
        if self.projector is None:
            raise ValueError("PHNet: this network was built without a projector (embedding_size: null)")
        return self.projector(decoded.embedding)

    def forward(self, x: Tensor) -> Tensor:
        size = self.fit_size
        if size == 0:
            return self.classify(self.decode(self.encode(x)), x.shape[-2], x.shape[-1])
        logits = self.classify(self.decode(self.encode(fit_batch(x, size, self.pad_value))), size, size)
        if not torch.jit.is_scripting():
            self._check_answer(logits)
        # probabilities are what is mapped back everywhere; their logarithm is a logit with the same softmax
        probs = unfit_batch(logits.float().softmax(dim=1), x.shape[-2], x.shape[-1])
        return probs.clamp(min=1e-7).log()

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and embedding (None without a projector) of one pass."""
        decoded = self.decode(self.encode(x))
        logits = self.classify(decoded, x.shape[-2], x.shape[-1])
        return logits, None if self.projector is None else self.project(decoded)

    @torch.jit.unused
    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"PHNet: input has shape {tuple(x.shape)}, expected (B, {self.in_channels}, H, W)")
        if self.training and x.shape[0] < 2 and self.backbone.single_image_statistics:
            raise ValueError(
                "PHNet: a batch of one image cannot train DeepLabv3+ (its image pooling has no batch statistics). "
                "Use at least 2 images per step (labeled and unlabeled together), drop_last, or eval mode."
            )

    @torch.jit.unused
    def _check_answer(self, logits: Tensor) -> None:
        """NaN would pass for background: a bundle of damaged weights would find no lesion anywhere, without a word."""
        if not (torch.jit.is_tracing() or torch.compiler.is_compiling() or bool(torch.isfinite(logits).all())):
            raise ValueError(
                "PHNet: the network gave NaN or infinite values: the training diverged, or the file of its weights is "
                "damaged"
            )


def embedding_at(embedding: Tensor, index: Tensor, size: Sequence[int], *, stride: int = 4) -> Tensor:
    """Embedding of single pixels by bilinear sampling: the values that upsampling the whole map would give there.

    Args:
        embedding: (B, D, h, w) at `stride`, as `PHNet.forward_features` returns it.
        index: (A,) flat pixel indices into (B, H, W) of the unpadded input.
        size: (H, W) of the unpadded input.

    Returns:
        (A, D), of the embedding's dtype. Memory grows with A only.
    """
    height, width = size
    _, depth, rows, columns = embedding.shape
    y = (index // width % height + 0.5) / stride - 0.5
    x = (index % width + 0.5) / stride - 0.5
    y, x = y.clamp(0, rows - 1), x.clamp(0, columns - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=rows - 1), (left + 1).clamp(max=columns - 1)
    # one gather for the four neighbours, so that backward fills one buffer of the map's size
    first = index // (height * width) * (rows * columns)
    places = torch.stack([first + row * columns + column for row in (top, bottom) for column in (left, right)])
    features = embedding.permute(0, 2, 3, 1).reshape(-1, depth).index_select(0, places.flatten()).view(4, -1, depth)
    wy, wx = y - top, x - left
    weights = torch.stack([(1 - wy) * (1 - wx), (1 - wy) * wx, wy * (1 - wx), wy * wx]).to(embedding.dtype)
    return (features * weights.unsqueeze(2)).sum(dim=0)


def make_teacher(student: PHNet, *, projector: bool = False) -> PHNet:
    """An independent copy of the student: same weights, no shared storage, no gradients.

    Args:
        projector: keep the projector, for methods that compare features with the teacher's.
    """
    if projector:
        return copy.deepcopy(student).requires_grad_(False).eval()
    head, student.projector = student.projector, None
    try:
        teacher = copy.deepcopy(student)
    finally:
        student.projector = head
    teacher.arguments["embedding_size"] = None
    return teacher.requires_grad_(False).eval()


def with_sync_batch_norm(network: nn.Module, enabled: bool = True) -> nn.Module:
    """The network with BN statistics over the batches of all processes (GPUs only); parameters stay the same objects.

    Statistics of each process alone, which is the default, are averaged after each step. Synchronised ones cost two
    messages for each BN layer, and are worth it where a process sees very few images.
    """
    return nn.SyncBatchNorm.convert_sync_batchnorm(network) if enabled else network


# where the backbones keep what their `encode` uses
ENCODER_PREFIXES = ("backbone.encoder.", "backbone.net.conv_0.", "backbone.net.down_", "backbone.levels.")


def make_second_student(student: PHNet, seed: int) -> PHNet:
    """A student of the same architecture and encoder weights, with decoder and heads of its own from `seed`.

    No storage is shared, torch's random state is left as it was, and the seed counts apart from the run's own (drawn
    by the same seed, the heads would be the first student's again). It has no projector.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed + 1_000_003)
        second = type(student)(**{**student.arguments, "embedding_size": None})
    copy_encoder(student, second)
    if any(isinstance(layer, nn.SyncBatchNorm) for layer in student.modules()):
        with_sync_batch_norm(second)  # its layers are replaced in place
    return second


@torch.no_grad()
def copy_encoder(source: nn.Module, target: nn.Module) -> None:
    """Copy the encoder's weights and statistics into the target's own storage.

    Raises:
        ValueError: no encoder was found, or that of another architecture.
    """
    weights = {name: t for name, t in source.state_dict().items() if name.startswith(ENCODER_PREFIXES)}
    own = target.state_dict()
    if not weights or any(name not in own or own[name].shape != t.shape for name, t in weights.items()):
        raise ValueError(
            f"copy_encoder: the two networks have no common encoder ({len(weights)} tensors found); build both from "
            "the same arguments"
        )
    for name, tensor in weights.items():
        own[name].copy_(tensor)
