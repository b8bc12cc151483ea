"""Contrast in patches that hold background and lesion: the form in the PH-Net authors' partial release.

It differs from Sec. 3.4 of the paper in every part: labeled patches give the prototypes, there is no memory bank,
hardness only pairs patches and chooses none, and an anchor has one negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phnet_monai.losses.contrast import sample_index
from phnet_monai.networks.phnet import embedding_at
from phnet_monai.transforms.patches import expand_patches, patch_all


@dataclass
class PatchFeatures:
    """One batch as the loss sees it.

    Attributes:
        embedding: (B, D, h, w) at stride 4.
        labels: int64 (B, H, W), 0 background, above lesion.
        valid: bool (B, H, W).
        hardness: (B, G, G).
    """

    embedding: Tensor
    labels: Tensor
    valid: Tensor
    hardness: Tensor


def mixed_patches(labels: Tensor, valid: Tensor, grid_size: int) -> Tensor:
    """Patches without padding that hold both background and lesion: bool (B, G, G)."""
    lesion = labels > 0
    pure = patch_all(lesion, grid_size) | patch_all(~lesion, grid_size)
    return ~pure & patch_all(valid, grid_size)


def sample_patches(batch: PatchFeatures, max_pixels: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """At most `max_pixels` pixels of mixed patches: flat index in (B, H, W), and that of their patch in (B, G, G)."""
    size, grid = batch.labels.shape[-2:], batch.hardness.shape[-1]
    mixed = mixed_patches(batch.labels, batch.valid, grid)
    pixels = sample_index(expand_patches(mixed, size), max_pixels, generator)
    numbers = torch.arange(mixed.numel(), device=mixed.device).view(mixed.shape)
    return pixels, expand_patches(numbers, size).flatten()[pixels]


def patch_prototypes(features: Tensor, lesion: Tensor, patch: Tensor) -> tuple[Tensor, Tensor]:
    """Mean feature of background and of lesion in every patch that has pixels of both.

    Args:
        features: (A, D). lesion: bool (A,). patch: int64 (A,), number of the pixel's patch.

    Returns:
        Prototypes (Q, 2, D), of length 1, and the numbers of their patches (Q,).
    """
    numbers, place = patch.unique(return_inverse=True)
    row = 2 * place + lesion.long()
    sums = features.new_zeros(2 * len(numbers), features.shape[1]).index_add_(0, row, F.normalize(features, dim=1))
    counts = torch.bincount(row, minlength=2 * len(numbers)).view(-1, 2)
    complete = (counts > 0).all(dim=1)
    prototypes = sums.view(len(numbers), 2, features.shape[1])[complete]
    return F.normalize(prototypes, dim=2), numbers[complete]


class MixedPatchContrastiveLoss(nn.Module):
    """Pulls pixels of mixed unlabeled patches to the prototype of their class, away from that of the other.

    The prototypes of an unlabeled patch are the mean teacher features of background and lesion in the mixed labeled
    patch of the closest hardness. Anchors are the pixels whose nearest prototype, by cosine, is that of their
    pseudo-label (the release takes the larger product with the mean feature, whose length then has a say). The loss of
    an anchor is -log(e^(s+/tau) / (e^(s+/tau) + e^(s-/tau))); it is averaged over the anchors of each class in each
    patch, and these means over classes and patches, as in the release: the small class of a patch counts as much as
    the large one. 0 without anchor.

    Args:
        temperature: tau > 0.
        max_pixels: at most this many pixels of labeled and of unlabeled patches are sampled, so that memory is bounded.
    """

    def __init__(self, temperature: float = 0.5, *, max_pixels: int = 8192) -> None:
        super().__init__()
        if temperature <= 0 or max_pixels < 1:
            raise ValueError(
                f"MixedPatchContrastiveLoss: temperature {temperature}, max_pixels {max_pixels}; expected > 0, >= 1"
            )
        self.temperature, self.max_pixels = temperature, max_pixels

    def forward(
        self, unlabeled: PatchFeatures, labeled: PatchFeatures, generator: torch.Generator | None = None
    ) -> tuple[Tensor, int]:
        """Loss of one step.

        Args:
            unlabeled: the student's embedding of the unlabeled images, with pseudo-labels.
            labeled: the teacher's embedding of the labeled images, with labels.

        Returns:
            (scalar loss, number of anchors).
        """
        pixels, patch = sample_patches(labeled, self.max_pixels, generator)
        features = embedding_at(labeled.embedding.detach(), pixels, labeled.labels.shape[-2:]).float()
        prototypes, numbers = patch_prototypes(features, labeled.labels.flatten()[pixels] > 0, patch)
        pixels, patch = sample_patches(unlabeled, self.max_pixels, generator)
        if len(prototypes) == 0 or len(pixels) == 0:
            return _zero(unlabeled.embedding)
        distance = unlabeled.hardness.flatten()[patch].unsqueeze(1) - labeled.hardness.flatten()[numbers]
        own = prototypes[distance.abs().argmin(dim=1)]
        features = embedding_at(unlabeled.embedding, pixels, unlabeled.labels.shape[-2:]).float()
        similar = torch.einsum("ad,acd->ac", F.normalize(features, dim=1), own)
        lesion = (unlabeled.labels.flatten()[pixels] > 0).long()
        anchors = similar.argmax(dim=1) == lesion
        if not anchors.any():
            return _zero(unlabeled.embedding)
        loss = F.cross_entropy(similar[anchors] / self.temperature, lesion[anchors], reduction="none")
        return mean_of_means(loss, 2 * patch[anchors] + lesion[anchors]), int(anchors.sum())


def mean_of_means(values: Tensor, kind: Tensor) -> Tensor:
    """Mean over kinds of the mean over the values of a kind: (A,) and int64 (A,) -> scalar; A > 0."""
    kinds, place = kind.unique(return_inverse=True)
    sums = values.new_zeros(len(kinds)).index_add(0, place, values)
    return (sums / torch.bincount(place, minlength=len(kinds))).mean()


def _zero(embedding: Tensor) -> tuple[Tensor, int]:
    """A sum over nothing: 0 in every precision, with a gradient of 0."""
    return embedding[:0].float().sum(), 0
