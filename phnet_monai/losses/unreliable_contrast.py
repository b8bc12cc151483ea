"""Contrast with unreliable pixels as negatives (U2PL, Wang et al., CVPR 2022; arXiv:2203.03884)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phnet_monai.losses.memory_bank import MemoryBank


@dataclass
class ContrastPixels:
    """The pixels of one step, labeled images first, then mixed unlabeled ones; at the stride of the embedding.

    Attributes:
        teacher: features (B, D, h, w).
        probs: (B, C, h, w), the teacher's second answer.
        labels: int64 (B, h, w), labels and pseudo-labels (of the first answer).
        labeled: number of labeled images, the first of B.
        reliable: bool (B, h, w), labeled: valid; unlabeled: valid and of low entropy.
        unreliable: bool (B, h, w), labeled: valid; unlabeled: valid and of high entropy.
    """

    teacher: Tensor
    probs: Tensor
    labels: Tensor
    labeled: int
    reliable: Tensor
    unreliable: Tensor


def negative_mask(
    pixels: ContrastPixels, class_index: int, low_rank: int, high_rank: int, code_mask: bool = False
) -> Tensor:
    """Pixels whose features are negatives of a class: bool (B, h, w).

    The rank of a class at a pixel is its place, from 0, among the classes by falling probability. Unlabeled: unreliable
    and rank in [low_rank, high_rank). Labeled: of another class, and rank below low_rank.

    With `code_mask` pixels must also be labeled or pseudo-labeled as the class, as in U2PL's published code: nothing is
    left of the labeled ones then.
    """
    order = pixels.probs.argsort(dim=1, descending=True, stable=True)
    rank = (order == class_index).int().argmax(dim=1)
    own = pixels.labels == class_index
    labeled = torch.arange(len(own), device=own.device).view(-1, 1, 1) < pixels.labeled
    mask = torch.where(labeled, (rank < low_rank) & ~own, (rank >= low_rank) & (rank < high_rank)) & pixels.unreliable
    return mask & own if code_mask else mask


class UnreliableContrastiveLoss(nn.Module):
    """InfoNCE with reliable pixels as anchors, class means as positives and queues of unreliable pixels as negatives.

    Per class: anchors are student features of reliable pixels of the class with probability above `min_prob`; the
    positive is the mean of the teacher's features over all its reliable pixels; negatives come from the class's queue,
    which the step's negatives (`negative_mask`) enter first. Anchors and negatives are drawn with replacement. A class
    without anchors or with an empty queue contributes 0; the sum is divided by the number of classes with reliable
    pixels. With fewer than two of these the loss is 0.

    Args:
        num_classes: C. feature_size: D.
        low_rank, high_rank: see `negative_mask`; the source has 3 and 20 for 21 classes, two classes need 1 and 2.
        capacity: features in the queue of the background and of every other class.
        anchors_per_class, negatives_per_anchor: numbers drawn per step.
        temperature: tau > 0.
        min_prob: of anchors.
        code_mask: see `negative_mask`.

    Raises:
        ValueError: ranks that leave no pixel of unlabeled images as negative, or other values out of range.
    """

    def __init__(
        self,
        num_classes: int = 2,
        feature_size: int = 256,
        *,
        low_rank: int = 1,
        high_rank: int = 2,
        capacity: Sequence[int] = (50000, 30000),
        anchors_per_class: int = 256,
        negatives_per_anchor: int = 50,
        temperature: float = 0.5,
        min_prob: float = 0.3,
        code_mask: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= low_rank < high_rank <= num_classes:
            raise ValueError(
                f"UnreliableContrastiveLoss: low_rank {low_rank}, high_rank {high_rank} with {num_classes} classes; "
                f"expected 1 <= low_rank < high_rank <= {num_classes} (two classes: 1 and 2). Otherwise no class is "
                "ever ranked there, no unlabeled pixel becomes a negative, and the loss stays 0"
            )
        if temperature <= 0 or anchors_per_class < 1 or negatives_per_anchor < 1 or not 0 <= min_prob <= 1:
            raise ValueError(
                f"UnreliableContrastiveLoss: temperature {temperature}, anchors_per_class {anchors_per_class}, "
                f"negatives_per_anchor {negatives_per_anchor}, min_prob {min_prob}; expected > 0, >= 1, >= 1, 0 ... 1"
            )
        if len(capacity) != 2:
            raise ValueError(
                f"UnreliableContrastiveLoss: capacity is {list(capacity)}, expected that of the background and that of "
                "every other class"
            )
        background, other = capacity
        self.low_rank, self.high_rank, self.code_mask = low_rank, high_rank, code_mask
        self.anchors_per_class, self.negatives_per_anchor = anchors_per_class, negatives_per_anchor
        self.temperature, self.min_prob = temperature, min_prob
        self.queues = nn.ModuleList(MemoryBank(1, feature_size, other if c else background) for c in range(num_classes))

    def forward(
        self, student: Tensor, pixels: ContrastPixels, generator: torch.Generator | None = None
    ) -> tuple[Tensor, int]:
        """Loss of one step.

        Args:
            student: its features at the same pixels, (B, D, h, w); none need be normalised.

        Returns:
            (scalar loss, number of classes that took part). Memory is O(anchors * negatives * D) above the inputs.
        """
        teacher = F.normalize(pixels.teacher.detach().float(), dim=1).permute(0, 2, 3, 1)
        terms: list[Tensor] = []
        present = 0
        for c in range(len(self.queues)):
            own = pixels.reliable & (pixels.labels == c)
            bank = self._banks()[c]
            bank.push(0, teacher[self._negatives(pixels, c)])
            candidates = (own & (pixels.probs[:, c] > self.min_prob)).flatten().nonzero().squeeze(1)
            present += int(own.any())
            if len(candidates) and len(bank):
                anchors = self._features(student, candidates, generator)
                terms.append(self._term(anchors, teacher[own].mean(dim=0), bank.stored(0), generator))
        if present < 2 or not terms:
            # a sum over nothing is 0 in every precision and keeps the graph alive
            return student[:0].float().sum(), 0
        return torch.stack(terms).sum() / present, len(terms)

    def _negatives(self, pixels: ContrastPixels, class_index: int) -> Tensor:
        return negative_mask(pixels, class_index, self.low_rank, self.high_rank, self.code_mask)

    def _features(self, student: Tensor, candidates: Tensor, generator: torch.Generator | None) -> Tensor:
        """Student features at `anchors_per_class` of the candidates (flat indices of (B, h, w)): (A, D)."""
        chosen = candidates[draw(len(candidates), self.anchors_per_class, generator).to(candidates.device)]
        return student.permute(0, 2, 3, 1).reshape(-1, student.shape[1]).index_select(0, chosen).float()

    def _term(self, anchors: Tensor, positive: Tensor, stored: Tensor, generator: torch.Generator | None) -> Tensor:
        """InfoNCE of one class, mean over the anchors (A, D); every anchor has negatives of its own."""
        number = len(anchors) * self.negatives_per_anchor
        negatives = stored[draw(len(stored), number, generator).to(stored.device)].unflatten(0, (len(anchors), -1))
        anchors = F.normalize(anchors, dim=1)
        similar = anchors @ F.normalize(positive, dim=0)
        others = torch.einsum("ad,and->an", anchors, negatives)
        logits = torch.cat([similar.unsqueeze(1), others], dim=1) / self.temperature
        return F.cross_entropy(logits, torch.zeros(len(anchors), dtype=torch.long, device=logits.device))

    @property
    def stored(self) -> int:
        """Features in all queues."""
        return sum(len(bank) for bank in self._banks())

    def queue_state(self) -> list[dict[str, Any]]:
        """Content of the queues without their empty rows, tens of megabytes at most, for checkpoints."""
        return [{"features": bank.stored(0).cpu().clone(), "position": int(bank.position[0])} for bank in self._banks()]

    def load_queue_state(self, state: list[dict[str, Any]]) -> None:
        for bank, saved in zip(self._banks(), state, strict=True):
            count = len(saved["features"])
            bank.features[0, :count] = saved["features"].to(bank.features)
            bank.filled[0], bank.position[0] = count, saved["position"]

    def _banks(self) -> list[MemoryBank]:
        return list(self.queues)  # type: ignore[arg-type]


def draw(length: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """`count` indices below `length`, with replacement, on the generator's device."""
    where = generator.device if generator is not None else torch.device("cpu")
    return torch.randint(length, (count,), generator=generator, device=where)
