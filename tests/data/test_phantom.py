"""Phantoms have the statistics of ultrasound and are the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats

from phnet_monai.data import make_phantom, read_image, read_mask, write_phantoms
from phnet_monai.data.folder import read_folder
from phnet_monai.data.phantom import MAX_AREA, MIN_AREA, speckle


@pytest.mark.parametrize(("axial", "lateral"), [(0.4, 0.6), (0.9, 1.6), (2.0, 3.0)])
def test_speckle_is_rayleigh(axial: float, lateral: float) -> None:
    envelope = speckle(np.full((400, 400), 3.0), np.random.default_rng(0), axial=axial, lateral=lateral)
    inner = envelope[20:-20, 20:-20]
    # mean over standard deviation of a Rayleigh distribution: sqrt(pi / (4 - pi)) = 1.913
    assert inner.mean() / inner.std() == pytest.approx(1.913, rel=0.03)
    assert (inner**2).mean() == pytest.approx(9, rel=0.06)
    apart = inner[:: int(8 * axial) + 2, :: int(8 * lateral) + 2].ravel()  # independent samples
    assert stats.kstest(apart, "rayleigh", args=(0, 3 / np.sqrt(2))).pvalue > 0.01


def test_speckle_is_wider_across_the_beam() -> None:
    envelope = speckle(np.ones((300, 300)), np.random.default_rng(1), axial=1.0, lateral=2.0)
    centred = envelope - envelope.mean()
    down = (centred[2:] * centred[:-2]).mean()
    across = (centred[:, 2:] * centred[:, :-2]).mean()
    assert across > 1.5 * down


def test_equal_seeds_give_equal_images() -> None:
    first, again, other = (make_phantom((90, 120), seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).mean() > 0.5
    assert (first[1] != other[1]).any()


def test_areas_cover_the_range() -> None:
    areas = [make_phantom((96, 128), seed=seed)[1].mean() for seed in range(60)]
    assert min(areas) >= MIN_AREA
    assert max(areas) <= MAX_AREA
    assert min(areas) < 0.03
    assert max(areas) > 0.25


@pytest.mark.parametrize("size", [(32, 32), (64, 200), (211, 97)])
def test_kind_and_size(size: tuple[int, int]) -> None:
    image, mask = make_phantom(size, seed=0)
    assert image.shape == mask.shape == size
    assert (image.dtype, mask.dtype) == (np.uint8, bool)
    assert mask.any()


def test_lesion_is_one_piece() -> None:
    pieces = [ndimage.label(make_phantom((128, 160), seed=seed)[1], np.ones((3, 3)))[1] for seed in range(30)]
    # a thin spicule may be cut by the image border or the pixel grid, but that is rare
    assert np.mean(np.array(pieces) == 1) >= 0.8


def test_lesions_are_darker_than_their_surroundings_but_overlap_in_grey() -> None:
    darker, overlaps = [], []
    for seed in range(30):
        image, mask = make_phantom((128, 160), seed=seed)
        ring = ndimage.binary_dilation(mask, iterations=8) & ~mask
        darker.append(image[mask].mean() < image[ring].mean())
        overlaps.append((image[ring] < np.median(image[mask])).mean())
    assert np.mean(darker) > 0.9
    # no single grey value separates the two: that is what makes speckle hard
    assert np.mean(overlaps) > 0.05


def test_grey_is_that_of_real_images() -> None:
    images = [make_phantom((96, 128), seed=seed)[0] for seed in range(40)]
    assert np.mean([image.mean() / 255 for image in images]) == pytest.approx(0.33, abs=0.06)
    assert np.mean([(image == 255).mean() for image in images]) < 0.05


def test_no_lesion_no_mask() -> None:
    image, mask = make_phantom((64, 80), seed=1, lesion=False)
    assert not mask.any()
    assert image.std() > 10


def test_too_small() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        make_phantom((16, 200), seed=0)


def test_written_folder_is_read_back(tmp_path: Path) -> None:
    out = write_phantoms(tmp_path / "made", 4, seed=2, size_range=(40, 60), without_lesion=1)
    records = read_folder(out)
    assert [record.case_id for record in records] == [f"phantom_{n:04d}" for n in range(1, 5)]
    assert [read_mask(record.masks).any() for record in records] == [True, True, True, False]
    for record in records:
        shape = read_image(record.image).shape
        assert shape == read_mask(record.masks).shape
        assert all(40 <= side <= 60 for side in shape)


def test_a_longer_series_begins_with_the_shorter(tmp_path: Path) -> None:
    short, long = (write_phantoms(tmp_path / str(n), n, seed=1, size_range=(40, 60)) for n in (2, 3))
    for file in sorted((short / "images").iterdir()):
        np.testing.assert_array_equal(read_image(file), read_image(long / "images" / file.name))


def test_impossible_folders(tmp_path: Path) -> None:
    write_phantoms(tmp_path, 1, size_range=(40, 40))
    with pytest.raises(FileExistsError, match="not empty"):
        write_phantoms(tmp_path, 1)
    for options in ({"count": 0}, {"count": 2, "without_lesion": 3}, {"count": 1, "size_range": (60, 40)}):
        with pytest.raises(ValueError, match="expected"):
            write_phantoms(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
