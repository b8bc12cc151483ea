"""The contrast over sampled pixels of hard patches against Eqs. 10 to 15."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from phnet_monai.losses import HardPatchContrastiveLoss, MemoryBank, class_contrast, contrast
from phnet_monai.transforms import expand_patches, hardest_patches


def rows(count: int, depth: int, seed: int) -> Tensor:
    return torch.randn(count, depth, generator=torch.Generator().manual_seed(seed))


# one class of Eq. 15


@pytest.mark.parametrize("use_log", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 0.1, 2.0])
@pytest.mark.parametrize(("anchors", "negatives"), [(1, 1), (5, 9), (7, 1)])
def test_one_class_equals_the_loop(reference, anchors, negatives, temperature, use_log):
    a, z, m = 3 * rows(anchors, 6, 0), rows(1, 6, 1)[0], rows(negatives, 6, 2)
    sets = [(a.double().numpy(), m.double().numpy())]
    expected = reference.contrast(sets, [z.double().numpy()], temperature, use_log)
    value = class_contrast(a, z, m, temperature, use_log)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_by_hand():
    """Anchor = positive, three orthogonal negatives, tau 1/2: q = e^2 / (e^2 + 3)."""
    axes = torch.eye(4)
    share = math.e**2 / (math.e**2 + 3)
    assert class_contrast(axes[:1], axes[0], axes[1:], 0.5).item() == pytest.approx(-math.log(share))
    assert class_contrast(axes[:1], axes[0], axes[1:], 0.5, use_log=False).item() == pytest.approx(-share)
    # opposite positive: cosine -1
    far = math.e**-2 / (math.e**-2 + 3)
    assert class_contrast(axes[:1], -axes[0], axes[1:], 0.5).item() == pytest.approx(-math.log(far))


def test_the_length_of_vectors_does_not_matter():
    a, z, m = rows(4, 5, 0), rows(1, 5, 1)[0], rows(3, 5, 2)
    torch.testing.assert_close(class_contrast(a, z, m, 0.5), class_contrast(7 * a, 0.1 * z, 30 * m, 0.5))


def test_small_temperatures_do_not_overflow():
    a, z, m = rows(4, 5, 0), rows(1, 5, 1)[0], rows(3, 5, 2)
    value = class_contrast(a.requires_grad_(), z, m, 1e-3)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(a.grad).all()


def test_descent_pulls_anchors_to_the_positive_and_off_the_negatives():
    a, z, m = rows(6, 8, 0).requires_grad_(), rows(1, 8, 1)[0], rows(10, 8, 2)
    class_contrast(a, z, m, 0.5).backward()
    moved = a.detach() - 0.5 * a.grad
    assert F.cosine_similarity(moved, z[None]).mean() > F.cosine_similarity(a.detach(), z[None]).mean()
    assert class_contrast(moved, z, m, 0.5) < class_contrast(a.detach(), z, m, 0.5)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match=f"temperature is {temperature}, expected > 0"):
        class_contrast(rows(1, 2, 0), rows(1, 2, 1)[0], rows(1, 2, 2), temperature)
    with pytest.raises(ValueError, match="HardPatchContrastiveLoss: temperature"):
        HardPatchContrastiveLoss(temperature)


def test_one_class_needs_anchors_and_negatives():
    with pytest.raises(ValueError, match="0 anchors and 3 negatives; need both"):
        class_contrast(torch.zeros(0, 4), torch.ones(4), torch.ones(3, 4), 0.5)
    with pytest.raises(ValueError, match="2 anchors and 0 negatives; need both"):
        class_contrast(torch.ones(2, 4), torch.ones(4), torch.zeros(0, 4), 0.5)


# the whole loss

SIZE, STRIDE, DEPTH, GRID = 16, 4, 6, 4


def scene(classes: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Embedding at stride 4, pseudo-labels y, probabilities of the second look, hardness; two images of 16 x 16."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "embedding": torch.randn(2, DEPTH, SIZE // STRIDE, SIZE // STRIDE, generator=generator),
        "labels": torch.randint(classes, (2, SIZE, SIZE), generator=generator),
        "second": torch.randn(2, classes, SIZE, SIZE, generator=generator).softmax(dim=1),
        "hardness": torch.rand(2, GRID, GRID, generator=generator),
    }


def reliable_pixels(s: dict[str, Tensor], count: int) -> Tensor:
    shielded = expand_patches(hardest_patches(s["hardness"], count), (SIZE, SIZE))
    return shielded & (s["labels"] == s["second"].argmax(dim=1))


@pytest.mark.parametrize("use_log", [True, False])
@pytest.mark.parametrize("with_bank", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_equals_the_equations_when_nothing_is_sampled_away(reference, classes, with_bank, use_log):
    count, s = 5, scene(classes)
    bank = MemoryBank(classes, DEPTH, 4096) if with_bank else None
    loss = HardPatchContrastiveLoss(0.5, anchors_per_class=10**6, negatives_per_class=10**6, use_log=use_log, bank=bank)
    value, took_part = loss(s["embedding"], s["labels"], reliable_pixels(s, count))

    full = F.interpolate(s["embedding"], scale_factor=STRIDE, mode="bilinear", align_corners=False)
    features = F.normalize(full.double(), dim=1).numpy()
    labels = s["labels"].numpy()
    inter = reference.agreement(labels, s["second"].numpy())
    in_hardest = np.kron(reference.hardest(s["hardness"].numpy(), count), np.ones((STRIDE, STRIDE))) > 0
    sets = [reference.feature_sets(features, labels, inter, in_hardest, c) for c in range(classes)]
    centers = [reference.center(own) for own, _ in sets]
    assert took_part == classes
    assert value.item() == pytest.approx(reference.contrast(sets, centers, 0.5, use_log), rel=1e-5)
    if bank is not None:
        assert bank.filled.tolist() == [len(own) for own, _ in sets]


def test_the_bank_remembers_earlier_steps(reference):
    bank = MemoryBank(2, DEPTH, 4096)
    loss = HardPatchContrastiveLoss(0.5, anchors_per_class=10**6, negatives_per_class=10**6, bank=bank)
    memory: list[list[np.ndarray]] = [[], []]
    for seed in range(3):
        s = scene(seed=seed)
        reliable = reliable_pixels(s, 4)
        value, _ = loss(s["embedding"], s["labels"], reliable)
        full = F.interpolate(s["embedding"], scale_factor=STRIDE, mode="bilinear", align_corners=False)
        features, labels = F.normalize(full.double(), dim=1).numpy(), s["labels"].numpy()
        everywhere = np.ones_like(labels, dtype=bool)
        sets = [reference.feature_sets(features, labels, reliable.numpy(), everywhere, c) for c in range(2)]
        for c in range(2):
            memory[c] += list(sets[c][0])
        centers = [reference.center(np.array(rows)) for rows in memory]
        assert value.item() == pytest.approx(reference.contrast(sets, centers, 0.5, True), rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_embeddings_that_are_not_finite_give_such_a_loss_and_leave_the_bank(bad):
    """The trainer then refuses the step, or passes it over."""
    bank = MemoryBank(2, DEPTH, 64)
    embedding = torch.full((1, DEPTH, 4, 4), bad)
    labels, reliable = torch.arange(256).reshape(1, 16, 16) % 2, torch.ones(1, 16, 16, dtype=torch.bool)
    loss, _ = HardPatchContrastiveLoss(bank=bank)(embedding, labels, reliable)
    assert not torch.isfinite(loss)
    assert len(bank) == 0


@pytest.mark.parametrize("with_bank", [True, False])
def test_a_class_alone_contributes_nothing(with_bank):
    s = scene()
    embedding = s["embedding"].requires_grad_()
    loss = HardPatchContrastiveLoss(bank=MemoryBank(2, DEPTH, 64) if with_bank else None)
    labels = torch.zeros_like(s["labels"])
    value, took_part = loss(embedding, labels, torch.ones_like(labels, dtype=torch.bool))
    assert (value.item(), took_part) == (0, 0)
    value.backward()
    assert (embedding.grad == 0).all()


def test_an_absent_class_of_three_leaves_the_mean_of_the_others(reference):
    s = scene(3)
    labels = s["labels"].clamp(max=1)
    reliable = torch.ones_like(labels, dtype=torch.bool)
    three = HardPatchContrastiveLoss(
        anchors_per_class=10**4, negatives_per_class=10**4, bank=MemoryBank(3, DEPTH, 4096)
    )(s["embedding"], labels, reliable)
    two = HardPatchContrastiveLoss(anchors_per_class=10**4, negatives_per_class=10**4, bank=MemoryBank(2, DEPTH, 4096))(
        s["embedding"], labels, reliable
    )
    assert three[1] == two[1] == 2
    torch.testing.assert_close(three[0], two[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_without_reliable_pixels_the_loss_is_zero_and_backward_works(dtype):
    embedding = torch.full((2, DEPTH, 4, 4), 30000.0, dtype=dtype, requires_grad=True)  # sums overflow in float16
    labels = torch.zeros(2, SIZE, SIZE, dtype=torch.long)
    bank = MemoryBank(2, DEPTH, 64)
    nowhere = torch.zeros_like(labels, dtype=torch.bool)
    value, took_part = HardPatchContrastiveLoss(bank=bank)(embedding, labels, nowhere)
    assert (value.item(), took_part, len(bank)) == (0, 0, 0)
    value.backward()
    assert embedding.grad is not None
    assert (embedding.grad == 0).all()


def dense_scene() -> tuple[Tensor, Tensor, Tensor]:
    """Every pixel of two 32 x 32 images is reliable; class 1 in the right halves; the features tell the image."""
    embedding = torch.zeros(2, 4, 8, 8)
    embedding[0, 0], embedding[1, 1] = 1.0, 1.0
    labels = torch.zeros(2, 32, 32, dtype=torch.long)
    labels[:, :, 16:] = 1
    return embedding, labels, torch.ones_like(labels, dtype=torch.bool)


def test_sampling_is_bounded(monkeypatch):
    embedding, labels, reliable = dense_scene()
    looked_at, shapes = [], []

    def recorded_lookup(embedding, index, size, original=contrast.embedding_at):
        looked_at.append(len(index))
        return original(embedding, index, size)

    def recorded_contrast(anchors, positive, negatives, *rest, original=contrast.class_contrast):
        shapes.append((len(anchors), len(negatives)))
        return original(anchors, positive, negatives, *rest)

    monkeypatch.setattr(contrast, "embedding_at", recorded_lookup)
    monkeypatch.setattr(contrast, "class_contrast", recorded_contrast)
    loss = HardPatchContrastiveLoss(anchors_per_class=20, negatives_per_class=50, bank=MemoryBank(2, 4, 4096))
    loss(embedding, labels, reliable, torch.Generator().manual_seed(0))
    assert sum(looked_at) == 100  # of 1024 pixels a class
    assert shapes == [(20, 50), (20, 50)]
    assert loss.bank.filled.tolist() == [20, 20]


def test_negatives_are_shared_equally_by_the_other_classes(monkeypatch):
    s = scene(4)
    counts = []
    monkeypatch.setattr(
        contrast,
        "class_contrast",
        lambda anchors, positive, negatives, *rest: counts.append(len(negatives)) or anchors.sum() * 0,
    )
    loss = HardPatchContrastiveLoss(anchors_per_class=10, negatives_per_class=30, bank=MemoryBank(4, DEPTH, 99))
    loss(s["embedding"], s["labels"], torch.ones_like(s["labels"], dtype=torch.bool))
    assert counts == [30] * 4  # ten of each of three classes


@pytest.mark.parametrize(("anchors", "negatives"), [(300, 5000), (5000, 300), (40, 40)])
def test_samples_come_from_all_images_alike(monkeypatch, anchors, negatives):
    """Also where the larger of both numbers holds all pixels of the class, and only the smaller one is a sample."""
    embedding, labels, reliable = dense_scene()
    seen = []

    def record(anchors, positive, negatives, *rest):
        seen.append((anchors[:, 1].mean().item(), negatives[:, 1].mean().item()))  # share of the second image
        return anchors.sum() * 0

    monkeypatch.setattr(contrast, "class_contrast", record)
    loss = HardPatchContrastiveLoss(anchors_per_class=anchors, negatives_per_class=negatives)
    loss(embedding, labels, reliable, torch.Generator().manual_seed(0))
    assert len(seen) == 2
    for shares in seen:
        assert shares == (pytest.approx(0.5, abs=0.25), pytest.approx(0.5, abs=0.25))  # 3 sigma of 40


def test_the_generator_decides_the_sample():
    s, all_pixels = scene(), torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    loss = HardPatchContrastiveLoss(anchors_per_class=5, negatives_per_class=7)
    first, again, other = (
        loss(s["embedding"], s["labels"], all_pixels, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("with_bank", [True, False])
def test_gradient_flows_through_anchors_only_when_negatives_are_detached(with_bank, monkeypatch):
    """Class 0 looks at class 1's features as negatives; with class 1's own term taken out, they get no gradient."""
    original = contrast.class_contrast
    calls = []

    def first_class_only(*arguments):
        calls.append(arguments)
        return original(*arguments) if len(calls) == 1 else arguments[0].sum() * 0

    embedding = torch.randn(1, DEPTH, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[:, :, 16:] = 1
    reliable = torch.zeros_like(labels, dtype=torch.bool)
    reliable[:, :, :8] = reliable[:, :, 24:] = True  # apart, so that no feature serves both classes
    monkeypatch.setattr(contrast, "class_contrast", first_class_only)
    for detach in (True, False):
        calls.clear()
        leaf = embedding.clone().requires_grad_()
        bank = MemoryBank(2, DEPTH, 512) if with_bank else None
        HardPatchContrastiveLoss(bank=bank, detach_negatives=detach)(leaf, labels, reliable)[0].backward()
        assert leaf.grad is not None
        assert (leaf.grad[..., :2] != 0).any()
        assert bool((leaf.grad[..., 5:] != 0).any()) is not detach


def test_pixels_that_are_not_reliable_get_no_gradient_and_have_no_influence():
    s = scene()
    reliable = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    reliable[:, :6, :6] = True
    leaf = s["embedding"].clone().requires_grad_()
    loss = HardPatchContrastiveLoss(detach_negatives=False)
    value, _ = loss(leaf, s["labels"], reliable)
    value.backward()
    assert leaf.grad is not None
    assert (leaf.grad[:, :, 2:, :] == 0).all()  # pixel 5 lies at feature row 0.875
    assert (leaf.grad[:, :, :, 2:] == 0).all()
    changed = s["embedding"].clone()
    changed[:, :, 2:] = 99.0
    torch.testing.assert_close(loss(changed, s["labels"], reliable)[0], value.detach())


def test_the_bank_travels_with_the_loss():
    loss = HardPatchContrastiveLoss(bank=MemoryBank(2, DEPTH, 64))
    s = scene()
    loss(s["embedding"], s["labels"], torch.ones_like(s["labels"], dtype=torch.bool))
    copy = HardPatchContrastiveLoss(bank=MemoryBank(2, DEPTH, 64))
    copy.load_state_dict(loss.state_dict())
    assert len(copy.bank) == len(loss.bank) == 128
    assert torch.equal(copy.bank.features, loss.bank.features)
    assert HardPatchContrastiveLoss().state_dict() == {}


@pytest.mark.parametrize("arguments", [{"anchors_per_class": 0}, {"negatives_per_class": 0}])
def test_numbers_below_one_are_refused(arguments):
    with pytest.raises(ValueError, match="expected > 0, >= 1, >= 1"):
        HardPatchContrastiveLoss(**arguments)
