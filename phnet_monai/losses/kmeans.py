"""A small k-means on the unit sphere, for several positives per class (paper, Fig. 4: "clustering")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def kmeans(features: Tensor, count: int, iterations: int = 10) -> Tensor:
    """Centres of `features` by Lloyd's iterations with cosine similarity.

    Starts from rows at equal distances, not from random ones, so that the same features give the same centres. A centre
    that loses all its features stays where it is.

    Args:
        features: (R, D), R >= 1, rows of length 1.
        count: centres; no more than R are made.
        iterations: how often features are assigned anew.

    Returns:
        (min(count, R), D), rows of length 1. Memory is O(R * count).

    Raises:
        ValueError: no feature, or count < 1.
    """
    if len(features) == 0 or count < 1:
        raise ValueError(f"kmeans: {len(features)} features and count {count}; expected at least one of both")
    count = min(count, len(features))
    start = torch.arange(count, device=features.device) * len(features) // count
    centers = features[start]
    for _ in range(iterations):
        members = F.one_hot((features @ centers.T).argmax(dim=1), count).to(features.dtype)
        sums = members.T @ features
        found = members.any(dim=0).unsqueeze(1)
        centers = torch.where(found, F.normalize(sums, dim=1), centers)
    return centers


def nearest_center(features: Tensor, centers: Tensor) -> Tensor:
    """The centre of highest cosine for each feature: (A, D), (K, D) -> (A, D)."""
    similar = F.normalize(features.float(), dim=1) @ F.normalize(centers.float(), dim=1).T
    return centers[similar.argmax(dim=1)]
