"""The search for likely pairs: it finds what comparing all with all finds, with far fewer comparisons of pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from phnet_monai.data import duplicate_candidates, make_phantom, near_duplicate_pairs
from phnet_monai.data.duplicate_candidates import LIKELY, likely_pairs, neighbour_count, shifted_similarity
from phnet_monai.data.near_duplicates import fingerprint


def _thumbnails(count: int) -> np.ndarray:
    return np.stack([fingerprint(make_phantom((96, 128), seed=seed)[0]).thumbnail for seed in range(count)])


def _all_with_all(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Slow reference: every pair, every shift, from the definition."""
    coarse = duplicate_candidates._coarse(thumbnails)
    found = []
    for i in range(len(coarse)):
        for j in range(i + 1, len(coarse)):
            shifts = [(dy, dx) for dy in (-4, -2, 0, 2, 4) for dx in (-4, -2, 0, 2, 4)]
            best = max(float((np.roll(coarse[i], shift, (0, 1)) * coarse[j]).sum()) for shift in shifts)
            if best >= LIKELY:
                found.append((i, j))
    return found


def test_nothing_is_missed_among_changed_copies() -> None:
    originals = _thumbnails(30)
    copies = [np.roll(originals, 8, axis=2), (originals * 0.6).astype(np.uint8)]
    thumbnails = np.concatenate([originals, *copies])
    found = set(likely_pairs(thumbnails))
    assert found <= set(_all_with_all(thumbnails))
    assert {(i, 30 + i) for i in range(30)} | {(i, 60 + i) for i in range(30)} <= found


def test_few_images_are_compared_all_with_all() -> None:
    thumbnails = np.concatenate([_thumbnails(12), np.roll(_thumbnails(12), 4, axis=1)])
    assert likely_pairs(thumbnails) == _all_with_all(thumbnails)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_to_compare(count: int) -> None:
    assert likely_pairs(np.zeros((count, 128, 128), np.uint8)) == []


def test_comparisons_of_pixels_grow_with_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def counted(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
        compared.append(others.shape[0] * others.shape[1])
        return shifted_similarity(ones, others)

    monkeypatch.setattr(duplicate_candidates, "shifted_similarity", counted)
    rng = np.random.default_rng(0)
    totals = []
    for count in (100, 400, 800):
        compared.clear()
        noise = rng.integers(0, 256, (count, 16, 16)).astype(np.uint8)
        close = likely_pairs(noise.repeat(8, 1).repeat(8, 2))
        assert len(close) <= count  # these are compared at 128 x 128
        totals.append(sum(compared))
    # a comparison of all with all would take 16 and 64 times as many
    assert totals == [32 * 100, 32 * 400, 32 * 800]


@given(st.integers(2, 10**6))
@settings(max_examples=50)
def test_neighbours_stay_few(count: int) -> None:
    assert 1 <= neighbour_count(count) < count
    assert neighbour_count(count) <= max(32, count**0.5)


def test_copies_do_not_crowd_out_other_pairs(tmp_path: Path) -> None:
    """Sixty equal files fill all neighbours of each other; the darker copy of another scan is found all the same."""
    scan, other = (make_phantom((96, 128), seed=seed)[0] for seed in (1, 2))
    pictures = [scan] * 60 + [(scan * 0.7).astype(np.uint8), other, (other * 0.7).astype(np.uint8)]
    paths = [tmp_path / f"{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    pairs = {(pair.one, pair.other) for pair in near_duplicate_pairs(paths, progress=False)}
    assert pairs == {*((0, copy) for copy in range(1, 60)), (0, 60), (61, 62)}


def test_near_misses_only_where_asked_for(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for seed, path in enumerate(paths):
        Image.fromarray(make_phantom((96, 128), seed=seed)[0]).save(path)
    assert near_duplicate_pairs(paths, same=0.9, progress=False) == []
    missed = near_duplicate_pairs(paths, same=0.9, margin=0.9, progress=False)
    assert all(not pair.same and 0 <= pair.similarity < pair.threshold and pair.one < pair.other for pair in missed)
