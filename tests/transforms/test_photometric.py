"""Photometric operations against Pillow and scipy, and their blindness to padding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy.ndimage import gaussian_filter
from torch import Tensor

from phnet_monai.transforms import OPERATIONS, photometric

SIDE = 37
AMOUNTS = {"posterise": 5.0, "solarise": 0.4, "blur": 1.3}


def levels(seed: int = 0, low: int = 20, high: int = 200) -> np.ndarray:
    """uint8 noise, smooth enough that neighbours are alike, in [low, high]."""
    field = gaussian_filter(np.random.default_rng(seed).standard_normal((SIDE, SIDE)), 1.0)
    field = (field - field.min()) / np.ptp(field)
    return (low + (high - low) * field).round().astype(np.uint8)


def apply(name: str, image: np.ndarray | Tensor, amount: float = 0.3, valid: Tensor | None = None) -> Tensor:
    """One operation on one image (H, W)."""
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image).float() / 255
    valid = torch.ones_like(image, dtype=torch.bool) if valid is None else valid
    size = (1, 1, *image.shape)
    return getattr(photometric, name)(image.view(size), valid.view(size), torch.tensor(amount).view(1, 1, 1, 1))[0, 0]


PILLOW: dict[str, tuple[Callable[[Image.Image], Image.Image], float]] = {
    "identity": (lambda image: image, 0.0),
    "autocontrast": (ImageOps.autocontrast, 0.0),
    "equalise": (ImageOps.equalize, 0.0),
    "contrast": (lambda image: ImageEnhance.Contrast(image).enhance(0.3), 0.3),
    "brightness": (lambda image: ImageEnhance.Brightness(image).enhance(1.5), 1.5),
    "sharpness": (lambda image: ImageEnhance.Sharpness(image).enhance(0.3), 0.3),
    "posterise": (lambda image: ImageOps.posterize(image, 5), 5.9),
    "solarise": (lambda image: ImageOps.solarize(image, 128), 127.5 / 255),
}


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("seed", range(3))
def test_operations_are_pillows(name: str, seed: int) -> None:
    image = levels(seed)
    operation, amount = PILLOW[name]
    expected = np.asarray(operation(Image.fromarray(image))).astype(float)
    assert name == "identity" or np.abs(expected - image).max() > 5
    found = apply(name, image, amount).numpy() * 255
    if name == "sharpness":  # Pillow leaves the outermost pixels alone
        expected, found = expected[1:-1, 1:-1], found[1:-1, 1:-1]
    # exact where Pillow works by a table; else it rounds the mean or the smoothed image, and cuts off the blend
    tolerance = 1e-3 if name in ("identity", "equalise", "posterise", "solarise") else 1.6
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_gaussian(sigma: float) -> None:
    image = levels()
    inside = (slice(12, -12), slice(12, -12))
    expected = gaussian_filter(image.astype(float), sigma, radius=12)
    np.testing.assert_allclose(apply("blur", image, sigma).numpy()[inside] * 255, expected[inside], atol=1e-3)


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_lies_in_the_padding_has_no_part_in_it(name: str) -> None:
    image = torch.from_numpy(levels()).float() / 255
    valid = torch.ones(SIDE, SIDE, dtype=torch.bool)
    valid[:, :9], valid[30:] = False, False
    results = []
    for grey in (0.0, 0.33, 1.0):
        padded = image.masked_fill(~valid, grey)
        results.append(apply(name, padded, AMOUNTS.get(name, 0.3), valid)[valid])
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", ["autocontrast", "equalise", "contrast"])
def test_statistics_are_those_of_the_valid_part(name: str) -> None:
    image = torch.from_numpy(levels()).float() / 255
    valid = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    valid[5:25, 8:30] = True
    cropped = apply(name, image[5:25, 8:30].contiguous())
    torch.testing.assert_close(apply(name, image, 0.3, valid)[5:25, 8:30], cropped)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_image_has_an_amount_of_its_own(name: str) -> None:
    image = torch.stack([torch.from_numpy(levels(seed)).float() / 255 for seed in range(3)]).unsqueeze(1)
    valid = torch.ones_like(image, dtype=torch.bool)
    valid[1, :, :, :11] = False
    amounts = [4.0, 6.0, 8.0] if name == "posterise" else [0.2, 0.9, 1.6]
    together = getattr(photometric, name)(image, valid, torch.tensor(amounts).view(-1, 1, 1, 1))
    for index, amount in enumerate(amounts):
        alone = apply(name, image[index, 0], amount, valid[index, 0])
        torch.testing.assert_close(together[index, 0], alone)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("grey", [0.0, 0.4, 1.0])
def test_one_grey_and_nothing_valid_are_no_trouble(name: str, grey: float) -> None:
    image = torch.full((8, 8), grey)
    for valid in (torch.ones(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)):
        found = apply(name, image, AMOUNTS.get(name, 0.3), valid)
        assert torch.isfinite(found).all()
        assert found.min() >= 0
        assert found.max() <= 1
    if name in ("autocontrast", "equalise", "contrast", "sharpness", "blur"):
        torch.testing.assert_close(apply(name, image), image)
