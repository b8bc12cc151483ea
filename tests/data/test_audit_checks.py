"""Each check on masks and images small enough to see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy import ndimage

from phnet_monai.data.audit_checks import adds_nothing, is_blank, mask_kind, odd_sizes, specks
from phnet_monai.data.borders import border_widths, without_borders


def _disc(size: int = 64) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return ((y - 30) ** 2 + (x - 33) ** 2 < 200).astype(np.uint8) * 255


def test_kinds_of_masks() -> None:
    disc = _disc()
    assert mask_kind(disc) == "two values"
    assert mask_kind(disc // 255) == "two values"
    assert mask_kind(np.zeros((4, 5), np.uint8)) == "empty"
    assert mask_kind(np.full((4, 5), 7, np.uint8)) == "full"
    smooth = np.asarray(Image.fromarray(disc).resize((100, 90), Image.Resampling.BILINEAR))
    assert len(np.unique(smooth)) > 10
    assert mask_kind(smooth) == "anti-aliased"
    numbered = disc // 255
    numbered[40:60, 5:15] = 2
    assert mask_kind(numbered) == "many values"
    soft = ndimage.gaussian_filter(disc.astype(float), 8).astype(np.uint8)
    assert mask_kind(soft) == "many values"
    sixteen = disc.astype(np.int32) * 257
    assert mask_kind(sixteen) == "two values"


def test_specks_are_small_regions_smallest_first() -> None:
    mask = np.zeros((200, 200), bool)  # a speck has fewer than 20 pixels
    mask[50:90, 50:90] = True
    assert specks(mask) == []
    mask[10, 20:23] = True
    mask[150, 150] = True
    mask[151, 151] = True  # diagonal neighbours are one region
    mask[100:105, 100:104] = True  # 20 pixels: no speck
    assert [tuple(speck) for speck in specks(mask)] == [(2, 150, 150, 152, 152), (3, 10, 20, 11, 23)]


@given(arrays.arrays(bool, (30, 40), elements=st.booleans()))
def test_specks_have_the_pixels_of_their_boxes(mask: np.ndarray) -> None:
    big = np.zeros((300, 400), bool)
    big[:30, :40] = mask
    found = specks(big)
    regions, _ = ndimage.label(big, np.ones((3, 3)))
    sizes = np.bincount(regions.ravel())[1:]
    assert sorted(speck.area for speck in found) == sorted(size for size in sizes if size < 60)
    for speck in found:
        assert 0 < speck.area <= (speck.bottom - speck.top) * (speck.right - speck.left)


def test_a_further_mask_that_adds_nothing() -> None:
    first = np.array([[True, True, False]])
    assert adds_nothing(np.array([[False, True, False]]), first)
    assert not adds_nothing(np.array([[False, True, True]]), first)


def test_extreme_sizes() -> None:
    usual = [(400, 500)] * 9
    sizes = [*usual, (100, 500), (400, 2100), (150, 600), (190, 200), (900, 1000)]
    found = odd_sizes(sizes)
    assert sorted(found) == [9, 10, 11, 12, 13]
    assert found[9] == "500 x 100: shorter side below 128, 5.0 times as long as wide"
    assert "longer side above 2048" in found[10]
    assert "4.0 times as long as wide" in found[11]
    assert found[12] == "200 x 190: 0.19 times the area of the median image"
    assert found[13] == "1000 x 900: 4.5 times the area of the median image"
    assert odd_sizes([]) == {}


def test_borders_are_one_coloured_bars() -> None:
    image = np.random.default_rng(0).integers(20, 200, (100, 200)).astype(np.uint8)
    assert border_widths(image) == {}
    image[:5] = 0
    image[:, -30:] = 2
    image[-1] = 0  # one row of a hundred is no border
    assert border_widths(image) == {"top": 5, "right": 30}
    assert without_borders(image).shape == (image.shape[0] - 5, image.shape[1] - 30)
    assert border_widths(np.zeros((5, 6), np.uint8)) == {}
    for flat in (np.zeros((5, 6), np.uint8), np.arange(6, dtype=np.uint8)[None] * np.ones((5, 1), np.uint8)):
        assert without_borders(flat).shape == flat.shape  # a ramp, whose columns are flat
        assert border_widths(flat) == {}


@pytest.mark.parametrize(("values", "blank"), [([0, 0, 0], True), ([50, 51, 50], True), ([50, 60, 50], False)])
def test_blank(values: list[int], blank: bool) -> None:
    assert is_blank(np.array([values], np.uint8)) is blank
