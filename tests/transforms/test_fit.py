"""Fitting to the network's size and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from phnet_monai.transforms import fit_batch, fit_image, unfit_batch, unfit_probs
from phnet_monai.transforms.fit import fitted_size

EXTREME = [(1, 1), (1, 500), (4000, 50), (7, 500), (500, 7), (3, 2)]


def smooth(height: int, width: int) -> np.ndarray:
    """A slow wave in [0, 1], different in every corner."""
    y, x = np.mgrid[0:height, 0:width]
    return (0.5 + 0.25 * np.sin(2 * y / height + 0.3) + 0.24 * np.cos(3 * x / width)).astype(np.float32)


def content(size: int, height: int, width: int) -> tuple[slice, slice]:
    """Where the picture lies in the square."""
    rows, columns = fitted_size(height, width, size)
    top, left = (size - rows) // 2, (size - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (100, 200, 64, (32, 64)),
        (200, 100, 64, (64, 32)),
        (64, 64, 64, (64, 64)),
        (471, 562, 160, (134, 160)),  # 134.09
        (3, 2, 5, (5, 3)),  # 3.33
        (2, 4, 5, (3, 5)),  # 2.5: halves go up
        (4000, 50, 64, (64, 1)),  # 0.8
        (4000, 5, 64, (64, 1)),  # 0.08, but there must be something
        (1, 1, 64, (64, 64)),
    ],
)
def test_the_longest_side_is_fitted_and_the_aspect_ratio_kept(height, width, size, expected):
    assert fitted_size(height, width, size) == expected


@pytest.mark.parametrize("seed", range(3))
def test_the_shorter_side_is_right_to_half_a_pixel(seed):
    for height, width, size in np.random.default_rng(seed).integers(20, 900, size=(200, 3)).tolist():
        rows, columns = fitted_size(height, width, size)
        assert max(rows, columns) == size
        assert abs(rows - height * size / max(height, width)) <= 0.5
        assert abs(columns - width * size / max(height, width)) <= 0.5


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (33, 34), (200, 201)])
def test_the_picture_is_centred_and_the_rest_is_padding(shape):
    size = 64
    fitted = fit_image(np.full(shape, 255, dtype=np.uint8), size, 0.25)
    assert fitted.shape == (1, size, size)
    assert fitted.dtype == torch.float32
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[content(size, *shape)] = True
    torch.testing.assert_close(fitted[0][inside], torch.ones(int(inside.sum())))
    assert (fitted[0][~inside] == 0.25).all()  # exactly
    rows, columns = (inside.any(dim=1).nonzero().flatten(), inside.any(dim=0).nonzero().flatten())
    for extent in (rows, columns):  # as much padding before as after, to the pixel
        assert abs(int(extent[0]) - (size - 1 - int(extent[-1]))) <= 1


@pytest.mark.parametrize("shape", [(64, 64), (61, 47), (300, 170), (33, 128)])
def test_there_and_back_keeps_a_smooth_picture(shape):
    picture = smooth(*shape)
    fitted = fit_image(torch.from_numpy(picture), 96)
    back = unfit_probs(fitted, shape)
    assert back.shape == (1, *shape)
    assert (back[0] - torch.from_numpy(picture)).abs().max() < 0.012  # half an intensity step of a steep border pixel


def test_there_and_back_at_the_network_size_is_exact():
    picture = torch.rand(50, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(unfit_probs(fit_image(picture, 50), (50, 50))[0], picture)


@pytest.mark.parametrize("shape", EXTREME)
def test_extreme_sizes_return(shape):
    fitted = fit_image(np.full(shape, 128, dtype=np.uint8), 64)
    assert fitted.shape == (1, 64, 64)
    back = unfit_probs(fitted, shape)
    assert back.shape == (1, *shape)
    torch.testing.assert_close(back, torch.full((1, *shape), 128 / 255))  # no padding leaks in


def test_classes_come_back_together():
    probs = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0)).softmax(dim=0)
    back = unfit_probs(probs, (71, 33))
    assert back.shape == (3, 71, 33)
    torch.testing.assert_close(back.sum(dim=0), torch.ones(71, 33))


@pytest.mark.parametrize("shape", [(20, 40), (40, 20)])
def test_nothing_is_turned_or_mirrored(shape):
    picture = np.zeros(shape, dtype=np.uint8)
    picture[: shape[0] // 2, : shape[1] // 4] = 255  # upper half, left quarter
    fitted = fit_image(picture, 80, 0.0)
    rows, columns = content(80, *shape)
    inner = fitted[0][rows, columns]
    height, width = inner.shape
    assert inner[: height // 2 - 2, : width // 4 - 2].min() > 0.99
    assert inner[height // 2 + 2 :].max() < 0.01
    assert inner[:, width // 4 + 2 :].max() < 0.01
    assert ((unfit_probs(fitted, shape)[0] > 0.5).numpy() == (picture > 0)).all()


def test_shrinking_averages_rather_than_picks():
    stripes = np.zeros((400, 400), dtype=np.uint8)
    stripes[:, ::2] = 255
    inner = fit_image(stripes, 40)[0, 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), atol=0.01, rtol=0)


@pytest.mark.parametrize("shape", [(97, 1), (300, 2), (1000, 5), (4000, 41)])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_column_of_pixels_is_not_its_first_one(shape: tuple[int, int], batch: int):
    """torch's anti-aliasing takes it so; a row comes out right, and is the same picture lying down."""
    image = torch.from_numpy(np.random.default_rng(0).random((batch, 1, *shape)).astype(np.float32))
    standing, lying = fit_batch(image, 96), fit_batch(image.transpose(2, 3).contiguous(), 96)
    torch.testing.assert_close(standing, lying.transpose(2, 3))
    assert standing[0, 0].std(dim=0).max() > 0.001


def test_the_scale_of_grey_values():
    assert fit_image(np.array([[0, 255]], dtype=np.uint8), 2).unique().tolist() == pytest.approx([0, 0.33, 1])
    values = torch.tensor([[0.2, 0.8], [0.4, 0.6]])
    torch.testing.assert_close(fit_image(values, 2)[0], values)  # floats are taken as they are
    torch.testing.assert_close(fit_image(values.numpy()[:, ::-1], 2)[0], values.flip(1))  # strides do not matter


@pytest.mark.parametrize("shape", [(4, 4, 3), (4,), (1, 4, 4)])
def test_only_grey_images_are_taken(shape):
    with pytest.raises(ValueError, match=r"expected a grey image \(H, W\), found shape"):
        fit_image(np.zeros(shape, dtype=np.uint8), 8)


@pytest.mark.parametrize("shape", [(1, 1), (37, 90), (90, 37), (400, 7)])
def test_the_functions_are_scriptable(shape):
    fit, unfit = torch.jit.script(fit_batch), torch.jit.script(unfit_batch)
    images = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(1))
    fitted = fit(images, 64, 0.4)
    assert torch.equal(fitted, fit_batch(images, 64, 0.4))
    assert torch.equal(unfit(fitted, *shape), unfit_batch(fitted, *shape))


def test_a_batch_equals_its_images():
    images = torch.rand(3, 30, 50, generator=torch.Generator().manual_seed(2))
    together = fit_batch(images.unsqueeze(1), 40)
    for image, fitted in zip(images, together, strict=True):
        torch.testing.assert_close(fit_image(image, 40), fitted)


def test_coordinates_scale_with_the_picture():
    """The centre of mass of a disc, in shares of the picture, is the same before and after."""
    y, x = np.mgrid[0:120, 0:200]
    disc = (np.hypot(y - 30, x - 150) < 20).astype(np.float32)
    fitted = fit_image(torch.from_numpy(disc), 64, 0.0)[0]
    rows, columns = content(64, 120, 200)
    inner = fitted[rows, columns].double()
    height, width = inner.shape
    total = inner.sum()
    at_y = (inner.sum(dim=1) * (torch.arange(height) + 0.5)).sum() / total / height
    at_x = (inner.sum(dim=0) * (torch.arange(width) + 0.5)).sum() / total / width
    assert math.isclose(at_y, 30.5 / 120, abs_tol=0.003)
    assert math.isclose(at_x, 150.5 / 200, abs_tol=0.003)
