"""k-means on the unit sphere, and several positives per class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from phnet_monai.losses import HardPatchContrastiveLoss, MemoryBank, class_contrast
from phnet_monai.losses.kmeans import kmeans, nearest_center


def rows(count: int, depth: int = 5, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, depth, generator=torch.Generator().manual_seed(seed)), dim=1)


def literal_kmeans(features: np.ndarray, count: int, iterations: int) -> np.ndarray:
    """Lloyd's iterations, row by row."""
    centers = [features[k * len(features) // count] for k in range(count)]
    for _ in range(iterations):
        members: list[list[np.ndarray]] = [[] for _ in centers]
        for row in features:
            members[int(np.argmax([row @ center for center in centers]))].append(row)
        for k, own in enumerate(members):
            if own:
                total = np.sum(own, axis=0)
                centers[k] = total / np.linalg.norm(total)
    return np.array(centers)


@pytest.mark.parametrize(("count", "iterations"), [(1, 1), (3, 1), (4, 10), (12, 5)])
def test_equals_the_loop(count, iterations):
    features = rows(12).double()
    np.testing.assert_allclose(
        kmeans(features, count, iterations).numpy(), literal_kmeans(features.numpy(), count, iterations), atol=1e-9
    )


def test_finds_well_separated_groups():
    axes = torch.eye(5)[torch.arange(60) % 3]
    features = F.normalize(axes + 0.05 * torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    centers = kmeans(features, 3)
    assert (centers @ torch.eye(5)[:3].T).amax(dim=0).min() > 0.99


def test_equal_features_and_too_few_of_them():
    assert kmeans(rows(1).expand(6, 5), 3).isfinite().all()
    assert kmeans(rows(2), 5).shape == (2, 5)
    for bad in ((rows(0), 3), (rows(3), 0)):
        with pytest.raises(ValueError, match="expected at least one of both"):
            kmeans(*bad)


def test_every_feature_gets_its_nearest_centre():
    features, centers = 3 * rows(20), rows(4, seed=1)
    for feature, center in zip(features, nearest_center(features, centers), strict=True):
        best = max(centers, key=lambda c: float(c @ feature))
        assert torch.equal(center, best)


def test_a_positive_for_each_anchor_is_the_mean_over_single_anchors():
    anchors, positives, negatives = rows(6), rows(6, seed=1), rows(9, seed=2)
    each = [class_contrast(a[None], p, negatives, 0.5) for a, p in zip(anchors, positives, strict=True)]
    torch.testing.assert_close(class_contrast(anchors, positives, negatives, 0.5), torch.stack(each).mean())
    same = positives[:1].expand(6, -1)
    torch.testing.assert_close(
        class_contrast(anchors, same, negatives, 0.5), class_contrast(anchors, positives[0], negatives, 0.5)
    )


@pytest.mark.parametrize("with_bank", [True, False])
def test_the_loss_with_several_centres(with_bank):
    embedding = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.randint(2, (2, 16, 16), generator=torch.Generator().manual_seed(1))
    everywhere = torch.ones_like(labels, dtype=torch.bool)
    values = []
    for centers in (1, 4):
        bank = MemoryBank(2, 6, 4096) if with_bank else None
        loss = HardPatchContrastiveLoss(anchors_per_class=10**6, negatives_per_class=10**6, bank=bank, centers=centers)
        values.append(loss(embedding, labels, everywhere)[0])
    assert values[1] < values[0]  # the nearest of several centres is closer than the mean
    values[1].backward()
    assert embedding.grad.isfinite().all()
    with pytest.raises(ValueError, match="centers is 0"):
        HardPatchContrastiveLoss(centers=0)
