"""The weak view: image, mask and valid area stay together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter

from phnet_monai.transforms import WeakView
from phnet_monai.transforms.fit import fitted_size

SHAPES = [(60, 90), (90, 60), (64, 64), (200, 31), (17, 45)]


def blobs(shape: tuple[int, int], seed: int) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 4)
    return field > np.quantile(field, 0.7)


def view_of(mask: np.ndarray, seed: int, **arguments) -> dict[str, torch.Tensor]:
    """The view of an image that IS the mask (255 = lesion), so that image and label can be compared."""
    view = WeakView(48, **{"pad_value": 0.25, **arguments})
    return view((mask * 255).astype(np.uint8), mask, np.random.default_rng(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_kinds_and_shapes(shape):
    view = view_of(blobs(shape, 0), 0)
    assert {name: (tuple(t.shape), t.dtype) for name, t in view.items()} == {
        "image": ((1, 48, 48), torch.float32),
        "label": ((48, 48), torch.int64),
        "valid": ((48, 48), torch.bool),
    }
    assert set(view["label"].unique().tolist()) <= {0, 1}
    assert all(t.is_contiguous() for t in view.values())
    assert (view["image"] >= 0).all()
    assert (view["image"] <= 1 + 1e-6).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(6))
def test_image_and_mask_move_alike(shape, seed):
    view = view_of(blobs(shape, seed), seed)
    image, label, valid = view["image"][0].numpy(), view["label"].numpy() > 0, view["valid"].numpy()
    bright = (image >= 0.5) & valid
    near_border = binary_dilation(label) & ~binary_erosion(label, border_value=1)  # one pixel on either side
    assert not (bright != label)[~near_border].any()
    assert (bright == label).mean() > 0.97


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(6))
def test_valid_is_false_exactly_on_the_padding(shape, seed):
    image = np.full(shape, 255, dtype=np.uint8)  # all white, padding is 0.25
    view = WeakView(48, pad_value=0.25)(image, np.ones(shape, dtype=bool), np.random.default_rng(seed))
    torch.testing.assert_close(view["image"][0], torch.where(view["valid"], 1.0, 0.25))
    assert torch.equal(view["label"], view["valid"].long())  # the padding is background
    assert view["valid"].any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.5, 0.77, 1.0])
def test_a_small_scale_pads(shape, scale):
    view = view_of(blobs(shape, 0), 0, scale_range=(scale, scale))
    rows, columns = fitted_size(*shape, round(48 * scale))
    valid = view["valid"]
    assert valid.any(dim=1).sum() == rows
    assert valid.any(dim=0).sum() == columns
    assert valid.sum() == rows * columns  # one full rectangle


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.3, 2.0])
def test_a_large_scale_crops(shape, scale):
    view = view_of(blobs(shape, 0), 0, scale_range=(scale, scale))
    rows, columns = fitted_size(*shape, round(48 * scale))
    assert view["valid"].sum() == min(48, rows) * min(48, columns)


def test_the_place_is_drawn_over_the_whole_range():
    small = np.full((40, 40), 255, dtype=np.uint8)
    view, generator = WeakView(16, scale_range=(0.5, 0.5), flip_probability=0), np.random.default_rng(0)
    tops = {int(view(small, None, generator)["valid"].any(dim=1).int().argmax()) for _ in range(150)}
    assert tops == set(range(9))  # 8 rows in 16: nine places
    ramp = np.repeat(np.arange(32, dtype=np.uint8)[:, None] * 8, 32, axis=1)  # a crop tells where it was taken
    crop = WeakView(32, scale_range=(2.0, 2.0), flip_probability=0)
    firsts = [float(crop(ramp, None, generator)["image"][0, 0, 0]) * 255 / 8 for _ in range(150)]
    assert min(firsts) < 1
    assert max(firsts) > 15


@pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
def test_flip_probability(shape):
    image = np.zeros(shape, dtype=np.uint8)
    image[:, : shape[1] // 2] = 255
    plain, mirrored = (
        WeakView(40, scale_range=(1, 1), flip_probability=p)(image, image > 0, np.random.default_rng(0)) for p in (0, 1)
    )
    assert not torch.equal(plain["image"], mirrored["image"])

    def left_half_is_bright(view):
        columns = view["valid"].any(dim=0).nonzero().flatten()
        left, right = columns[: len(columns) // 2 - 1], columns[len(columns) // 2 + 1 :]
        rows = view["valid"].any(dim=1)
        return bool((view["label"][rows][:, left] == 1).all() and (view["label"][rows][:, right] == 0).all())

    assert left_half_is_bright(plain)
    mirrored["label"] = (1 - mirrored["label"]) * mirrored["valid"]
    assert left_half_is_bright(mirrored)
    generator, view = np.random.default_rng(1), WeakView(40, scale_range=(1, 1), flip_probability=0.3)
    flips = sum(bool(view(image, None, generator)["image"][0, 20, 20 + shape[1] // 6] > 0.9) for _ in range(300))
    assert 60 < flips < 120  # 90 +- 8


def test_scale_one_is_the_fitted_image():
    from phnet_monai.transforms import fit_image

    image = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    view = WeakView(48, scale_range=(1, 1), flip_probability=0)(image, None, np.random.default_rng(0))
    torch.testing.assert_close(view["image"], fit_image(image, 48))
    assert view["valid"].all()
    assert "label" not in view


def test_the_seed_decides_alone():
    mask = blobs((70, 50), 3)
    first, again, other = view_of(mask, 7), view_of(mask, 7), view_of(mask, 8)
    for name in first:
        assert torch.equal(first[name], again[name])
    assert not torch.equal(first["image"], other["image"])


def test_the_image_is_left_as_it_was():
    image = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    before = image.copy()
    WeakView(32, flip_probability=1)(image, image > 9, np.random.default_rng(0))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 0},
        {"scale_range": (0, 1)},
        {"scale_range": (2, 1)},
        {"flip_probability": 1.5},
        {"flip_probability": -0.1},
    ],
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="expected size >= 1, 0 < low <= high"):
        WeakView(**{"size": 32, **arguments})


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"image \(4, 5\) and mask \(5, 4\) differ in size"):
        WeakView(8)(np.zeros((4, 5), dtype=np.uint8), np.zeros((5, 4), dtype=bool), np.random.default_rng(0))
