"""Hard-patch contrastive loss (paper, Sec. 3.4, Eqs. 10 to 15)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phnet_monai.losses.kmeans import kmeans, nearest_center
from phnet_monai.losses.memory_bank import MemoryBank
from phnet_monai.networks.phnet import embedding_at


def class_contrast(
    anchors: Tensor, positive: Tensor, negatives: Tensor, temperature: float, use_log: bool = True
) -> Tensor:
    """One class of Eq. 15, averaged over the anchors.

    With s(a, b) = cosine(a, b) / temperature and q = exp s(a, z+) / (exp s(a, z+) + sum over z- of exp s(a, z-)),
    the value is mean(-log q), or mean(-q) with `use_log=False` (the formula as printed, without its logarithm).

    Args:
        anchors: (A, D), A >= 1. positive: (D,), or (A, D) with one for each anchor. negatives: (M, D), M >= 1. None
            need be normalised.
        temperature: tau > 0.

    Returns:
        Scalar, float32. Memory is O(A * M).

    Raises:
        ValueError: no anchor or no negative, or temperature <= 0.
    """
    if temperature <= 0:
        raise ValueError(f"class_contrast: temperature is {temperature}, expected > 0")
    if anchors.shape[0] == 0 or negatives.shape[0] == 0:
        raise ValueError(f"class_contrast: {anchors.shape[0]} anchors and {negatives.shape[0]} negatives; need both")
    anchors, positive, negatives = (F.normalize(x.float(), dim=-1) for x in (anchors, positive, negatives))
    own = anchors @ positive if positive.ndim == 1 else (anchors * positive).sum(dim=1)
    similar = own.unsqueeze(1) / temperature
    others = anchors @ negatives.T / temperature
    log_share = (similar - torch.logsumexp(torch.cat([similar, others], dim=1), dim=1, keepdim=True)).squeeze(1)
    return -(log_share if use_log else log_share.exp()).mean()


def sample_index(mask: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """At most `count` positions of True in `mask`, without repetition: flat int64 indices, (min(count, True),).

    In random order also where all are taken, so that the first few are a fair sample too.
    """
    index = mask.flatten().nonzero().squeeze(1)
    where = generator.device if generator is not None else torch.device("cpu")
    return index[torch.randperm(len(index), generator=generator, device=where)[:count].to(index.device)]


class HardPatchContrastiveLoss(nn.Module):
    """Samples anchors and negatives among the reliable pixels of hard patches and sums Eq. 15 over the classes.

    Args:
        temperature: tau, 0.5 in the paper.
        anchors_per_class, negatives_per_class: at most this many are sampled per step (memory stays bounded).
        use_log: see `class_contrast`.
        detach_negatives: no gradient through negatives.
        bank: memory bank for the positives; None takes the mean of the step's own anchors (Table 2, row II).
        centers: positives of a class: 1, the mean of Eq. 14; more, that many k-means centres (Fig. 4 speaks of
            clustering), each anchor with the nearest one.

    A class without anchors or without negatives in the step contributes 0; the mean is over the classes that take part.
    """

    def __init__(
        self,
        temperature: float = 0.5,
        *,
        anchors_per_class: int = 256,
        negatives_per_class: int = 512,
        use_log: bool = True,
        detach_negatives: bool = True,
        bank: MemoryBank | None = None,
        centers: int = 1,
    ) -> None:
        super().__init__()
        if centers < 1:
            raise ValueError(f"HardPatchContrastiveLoss: centers is {centers}, expected 1 or more")
        if temperature <= 0 or anchors_per_class < 1 or negatives_per_class < 1:
            raise ValueError(
                f"HardPatchContrastiveLoss: temperature {temperature}, anchors_per_class {anchors_per_class}, "
                f"negatives_per_class {negatives_per_class}; expected > 0, >= 1, >= 1"
            )
        self.temperature, self.use_log = temperature, use_log
        self.anchors_per_class, self.negatives_per_class = anchors_per_class, negatives_per_class
        self.detach_negatives, self.bank, self.centers = detach_negatives, bank, centers

    def forward(
        self, embedding: Tensor, labels: Tensor, reliable: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, int]:
        """Loss of one step.

        Args:
            embedding: (B, D, h, w) of the student at stride 4, not normalised.
            labels: (B, H, W) pseudo-labels y of the mixed images (Eq. 7), int64.
            reliable: bool (B, H, W): in a shielded patch, valid, and y == Y (Eq. 10).
            generator: randomness of the sampling.

        Returns:
            (scalar loss, number of classes that took part).
        """
        num_classes = self.bank.features.shape[0] if self.bank is not None else max(2, int(labels.max()) + 1)
        pools = [
            sample_index(reliable & (labels == c), max(self.anchors_per_class, self.negatives_per_class), generator)
            for c in range(num_classes)
        ]
        features = embedding_at(embedding, torch.cat(pools), labels.shape[-2:]).float()
        if not torch.isfinite(features).all():
            # the trainer refuses the loss and, if asked to, passes the step over; the bank must not keep such features
            return features.sum(), 0
        sampled = list(features.split([len(pool) for pool in pools]))
        anchors = [features[: self.anchors_per_class] for features in sampled]
        terms = []
        for c in range(num_classes):
            if len(anchors[c]) == 0:
                continue
            positive = self._positive(c, anchors[c])
            negatives = self._negatives(sampled, c)
            if len(negatives):
                terms.append(class_contrast(anchors[c], positive, negatives, self.temperature, self.use_log))
        if not terms:
            # a sum over nothing is 0 in every precision and keeps the graph alive, so that every rank and step runs
            # the same backward
            return embedding[:0].float().sum(), 0
        return torch.stack(terms).mean(), len(terms)

    def _positive(self, class_index: int, anchors: Tensor) -> Tensor:
        """(D,), or (A, D) with several centres."""
        if self.bank is not None:
            self.bank.push(class_index, anchors)
        if self.centers > 1:
            rows = F.normalize(anchors.detach(), dim=1) if self.bank is None else self.bank.stored(class_index)
            return nearest_center(anchors.detach(), kmeans(rows, self.centers))
        if self.bank is None:
            return F.normalize(F.normalize(anchors.detach(), dim=1).mean(dim=0), dim=0)
        center = self.bank.center(class_index)
        assert center is not None  # anchors were pushed a line above
        return center

    def _negatives(self, sampled: list[Tensor], class_index: int) -> Tensor:
        """Features of all other classes, an equal share of each."""
        share = max(1, self.negatives_per_class // max(1, len(sampled) - 1))
        others = torch.cat([features[:share] for c, features in enumerate(sampled) if c != class_index])
        return others.detach() if self.detach_negatives else others
