"""Thumbnails and outlines: what is drawn is what was found, and it stays small."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon2mask

from phnet_monai.data.phantom import make_phantom
from phnet_monai.inference.thumbnail import (
    MAX_POINTS,
    Contours,
    frame_picture,
    mask_contours,
    thumbnail_size,
)

GRID = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)


def filled(contours: Contours, shape: tuple[int, int]) -> np.ndarray:
    """The mask that even-odd filling of the outlines gives."""
    mask = np.zeros(shape, dtype=bool)
    for contour in contours:
        points = np.array(contour)[:, ::-1] * shape - 0.5
        mask ^= polygon2mask(shape, points)
    return mask


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def disc(shape: tuple[int, int], row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - row, columns - column) < radius


def jpeg(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize("shape", [(100, 140), (256, 256), (480, 640), (900, 1300)])
def test_outlines_filled_give_the_mask_back(shape: tuple[int, int]) -> None:
    unit = min(shape) / 100
    mask = disc(shape, 50 * unit, 60 * unit, 25 * unit)
    contours = mask_contours(mask)
    assert len(contours) == 1
    assert overlap(filled(contours, shape), mask) > 0.96


def test_holes_are_outlined_too() -> None:
    shape = (400, 500)
    ring = disc(shape, 200, 250, 120) & ~disc(shape, 200, 250, 60)
    contours = mask_contours(ring)
    assert len(contours) == 2
    back = filled(contours, shape)
    assert not back[200, 250]
    assert overlap(back, ring) > 0.96


def test_several_lesions_come_largest_first() -> None:
    shape = (300, 300)
    mask = disc(shape, 60, 60, 15) | disc(shape, 200, 200, 60) | disc(shape, 60, 220, 30)
    contours = mask_contours(mask)
    areas = [filled([contour], shape).sum() for contour in contours]
    assert areas == sorted(areas, reverse=True)
    assert len(areas) == 3
    assert overlap(filled(contours, shape), mask) > 0.96


def test_a_lesion_at_the_border_is_closed_along_it() -> None:
    mask = np.zeros((200, 300), dtype=bool)
    mask[:80, 200:] = True
    (contour,) = mask_contours(mask)
    xs, ys = np.array(contour).T
    assert xs.max() == 1
    assert ys.min() == 0
    assert overlap(filled([contour], mask.shape), mask) > 0.98
    (whole,) = mask_contours(np.ones((200, 300), dtype=bool))
    assert overlap(filled([whole], (200, 300)), np.ones((200, 300), dtype=bool)) > 0.99


def test_no_lesion_no_outline() -> None:
    assert mask_contours(np.zeros((50, 70), dtype=bool)) == []


@pytest.mark.parametrize(
    ("shape", "where"), [((60, 80), (10, 20)), ((1024, 768), (1023, 0)), ((3000, 4000), (7, 3999))]
)
def test_a_single_pixel_shows_at_its_place(shape: tuple[int, int], where: tuple[int, int]) -> None:
    mask = np.zeros(shape, dtype=bool)
    mask[where] = True
    (contour,) = mask_contours(mask)
    place = np.array(contour).mean(axis=0)
    pixel = 1 / np.array(thumbnail_size(*shape))[::-1]
    wanted = (np.array(where[::-1]) + 0.5) / shape[::-1]
    assert np.all(np.abs(place - wanted) <= pixel)
    assert np.ptp(contour, axis=0).min() > 0


def test_diagonal_neighbours_are_one_lesion() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:15, 10:15] = mask[15:20, 15:20] = True
    assert len(mask_contours(mask)) == 1


def test_outlines_of_real_shapes_run_within_a_pixel_of_the_mask_and_have_few_points() -> None:
    for seed in range(3):
        _, mask = make_phantom((384, 512), seed=seed)
        contours = mask_contours(mask)
        assert sum(map(len, contours)) < 200
        edge = ndimage.distance_transform_edt(~(mask ^ ndimage.binary_erosion(mask)))
        for x, y in contours[0]:
            row, column = min(int(y * 384), 383), min(int(x * 512), 511)
            assert edge[row, column] <= 2.0  # a thumbnail pixel is two pixels here


def test_masks_of_specks_stay_bounded() -> None:
    mask = np.random.default_rng(0).random((300, 400)) < 0.2
    mask[100:200, 100:200] = True
    contours = mask_contours(mask)
    assert sum(map(len, contours)) <= MAX_POINTS
    assert filled(contours[:1], mask.shape)[150, 150]


@pytest.mark.parametrize(
    ("shape", "small"),
    [
        ((480, 640), (192, 256)),
        ((640, 480), (256, 192)),
        ((100, 60), (100, 60)),
        ((5, 4000), (1, 256)),
        ((1, 1), (1, 1)),
    ],
)
def test_thumbnails_keep_proportions_and_never_grow(shape: tuple[int, int], small: tuple[int, int]) -> None:
    assert thumbnail_size(*shape) == small
    image = np.full(shape, 90, dtype=np.uint8)
    drawn = jpeg(frame_picture(image, np.zeros(shape, dtype=bool), GRID)["thumbnail"])
    assert drawn.size == small[::-1]
    assert drawn.mode == "L"


def test_the_thumbnail_shows_the_image() -> None:
    image, mask = make_phantom((384, 512), seed=3)
    drawn = np.asarray(jpeg(frame_picture(image, mask, GRID)["thumbnail"]), dtype=float)
    halved = image.reshape(192, 2, 256, 2).mean(axis=(1, 3))
    assert np.abs(ndimage.uniform_filter(drawn - halved, 5)).mean() < 1.5  # JPEG changes the speckle, not its mean


def test_bytes_are_bounded_and_plain() -> None:
    rng = np.random.default_rng(0)
    worst = frame_picture(rng.integers(0, 256, (800, 800), dtype=np.uint8), rng.random((800, 800)) < 0.5, GRID)
    assert len(json.dumps(worst)) < 90_000
    image, mask = make_phantom((384, 512), seed=1)
    assert len(json.dumps(frame_picture(image, mask, GRID))) < 16_000


def test_hardness_survives() -> None:
    image, mask = make_phantom((64, 96), seed=1)
    found = frame_picture(image, mask, GRID)
    back = np.frombuffer(base64.b64decode(found["hardness"]), dtype=np.uint8).reshape(found["grid"], found["grid"])
    np.testing.assert_allclose(back / 255, GRID, atol=0.5 / 255 + 1e-6)


def test_frames_of_a_stack_need_not_be_contiguous() -> None:
    stack = np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8)
    view = stack[:, :, 1]
    same = frame_picture(np.ascontiguousarray(view), view > 200, GRID)
    assert frame_picture(view, view > 200, GRID) == same


@pytest.mark.parametrize("name", ["image", "mask", "grid"])
def test_wrong_arrays_are_named(name: str) -> None:
    image, mask = make_phantom((64, 96), seed=1)
    arrays = {"image": image, "mask": mask, "grid": GRID}
    arrays[name] = arrays[name][1:]
    with pytest.raises(ValueError, match="^mask: " if name == "image" else f"^{name}: "):
        frame_picture(**arrays)
    with pytest.raises(ValueError, match="^image: "):
        frame_picture(image.astype(np.float32), mask, GRID)
    with pytest.raises(ValueError, match="^mask: "):
        frame_picture(image, mask.astype(np.uint8), GRID)
    with pytest.raises(ValueError, match="^grid: "):
        frame_picture(image, mask, GRID + 1)
