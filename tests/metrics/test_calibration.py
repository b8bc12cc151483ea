"""Expected calibration error: known cases, additivity, slow reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from phnet_monai.metrics import calibration_bins, ece_from_bins


def constant(p: float, lesion_pixels: int, *, pixels: int = 100) -> float:
    target = (np.arange(pixels) < lesion_pixels).reshape(10, -1)
    return ece_from_bins(calibration_bins(np.full(target.shape, p), target))


def test_constant_probability():
    assert constant(0.75, 75) == pytest.approx(0, abs=1e-12)  # right as often as it says
    assert constant(0.25, 25) == pytest.approx(0, abs=1e-12)  # the same, said of the background
    assert constant(0.75, 100) == pytest.approx(0.25)  # too shy
    assert constant(1.0, 60) == pytest.approx(0.4)  # too sure
    assert constant(0.0, 100) == pytest.approx(1.0)


def test_undecided_pixels_count_as_background():
    # one bin of two background pixels: .5 is right, .52 wrong, so |1/2 - .51|
    bins = calibration_bins(np.array([[0.5, 0.52]]), np.zeros((1, 2), dtype=bool))
    assert ece_from_bins(bins) == pytest.approx(0.01)


def test_errors_of_opposite_sign_cancel_within_a_bin_only():
    target = np.zeros((1, 2), dtype=bool)
    target[0, 0] = True
    # one bin: confidence .96 twice, once right: |.5 - .96|; two bins: .96 right, .7 wrong: (.04 + .7) / 2
    assert ece_from_bins(calibration_bins(np.array([[0.96, 0.96]]), target)) == pytest.approx(0.46)
    assert ece_from_bins(calibration_bins(np.array([[0.96, 0.7]]), target)) == pytest.approx(0.37)


@pytest.mark.parametrize("bins", [10, 15])
def test_against_pixel_by_pixel(reference, bins):
    rng = np.random.default_rng(bins)
    probs, target = rng.random((37, 21)), rng.random((37, 21)) < 0.3
    expected = reference.expected_calibration_error(probs, target, bins)
    assert ece_from_bins(calibration_bins(probs, target, bins=bins)) == pytest.approx(expected, abs=1e-12)


def test_bins_of_images_add_up():
    rng = np.random.default_rng(0)
    probs, target = rng.random((40, 30)).astype(np.float32), rng.random((40, 30)) < 0.5
    parts = sum(calibration_bins(probs[rows], target[rows]) for rows in (slice(0, 13), slice(13, 40)))
    whole = calibration_bins(probs, target)
    assert parts == pytest.approx(whole)
    assert whole[0].sum() == probs.size
    assert not whole[0, :7].any()  # a predicted class is never less likely than one half


def test_a_bin_includes_its_upper_bound():
    for confidence, index in ((0.8, 11), (0.81, 12), (1.0, 14)):  # 0.8 = 12 / 15
        counts = calibration_bins(np.full((1, 1), confidence, np.float32), np.ones((1, 1), bool))[0]
        assert counts.tolist() == [float(m == index) for m in range(15)]


def test_no_pixels_is_nan():
    assert math.isnan(ece_from_bins(np.zeros((3, 15))))
