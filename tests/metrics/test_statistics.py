"""Bootstrap, signed ranks and Holm's correction against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from phnet_monai.metrics import bootstrap_interval, holm, weighted_interval, wilcoxon_holm


def test_interval_of_two_values_is_known():
    # resampled means are 0, 1/2, 1 with chances 1/4, 1/2, 1/4
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5)
    assert bootstrap_interval([0.7] * 9) == pytest.approx((0.7, 0.7))


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(11)
    limits = [bootstrap_interval(rng.normal(3.0, 2.0, 40), n_resamples=400, seed=i) for i in range(200)]
    covered = np.mean([low <= 3.0 <= high for low, high in limits])
    assert 0.88 <= covered <= 0.99
    widths = np.array(limits) @ [-1, 1]
    assert widths.mean() == pytest.approx(2 * 1.96 * 2 / math.sqrt(40), rel=0.1)


def test_interval_is_the_same_for_the_same_seed():
    values = np.random.default_rng(0).random(30)
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)


def test_figures_of_one_image_are_drawn_together():
    counts = np.array([[9.0, 1.0, 5.0, 30.0], [18.0, 2.0, 10.0, 60.0]])  # always one to two

    def ratio(first, second, axis=-1):
        return first.sum(axis=axis) / second.sum(axis=axis)

    assert bootstrap_interval(counts, statistic=ratio) == pytest.approx((0.5, 0.5))


def test_interval_of_another_statistic():
    values = np.r_[np.zeros(30), 1000.0]
    assert bootstrap_interval(values, statistic=np.median) == (0.0, 0.0)
    assert bootstrap_interval(values)[1] > 0


def test_interval_needs_two_images_and_no_nan():
    assert all(math.isnan(limit) for limit in bootstrap_interval([0.5]))
    assert all(math.isnan(limit) for limit in bootstrap_interval([]))
    with pytest.raises(ValueError, match="1 of 3 are NaN"):
        bootstrap_interval([0.1, math.nan, 0.3])
    with pytest.raises(ValueError, match="expected shape"):
        bootstrap_interval(np.zeros((2, 2, 2)))


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04; never falling: .02 .03 .06 .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([0.04]) == pytest.approx([0.04])
    assert holm([]).size == 0


def test_signed_ranks_by_hand():
    other = np.full(5, 0.5)
    result = wilcoxon_holm(other + np.arange(1, 6) / 100, {"other": other})["other"]
    assert result["p"] == pytest.approx(2 / 2**5)
    assert result["p_holm"] == result["p"]
    assert (result["effect_size"], result["n"]) == (1.0, 5)
    assert result["median_difference"] == pytest.approx(0.03)
    assert result["mean_difference"] == pytest.approx(0.03)
    # the largest difference the other way: W+ = 15, W- = 6
    mixed = wilcoxon_holm(np.array([1, 2, 3, 4, 5, -6.0]), {"zero": np.zeros(6)})["zero"]
    assert mixed["effect_size"] == pytest.approx(9 / 21)
    # swapped, the sign turns and p stays
    turned = wilcoxon_holm(np.zeros(6), {"x": np.array([1, 2, 3, 4, 5, -6.0])})["x"]
    assert turned["effect_size"] == pytest.approx(-9 / 21)
    assert turned["p"] == pytest.approx(mixed["p"])


def test_signed_ranks_against_all_signs(reference):
    differences = np.random.default_rng(2).normal(0.3, 1.0, 10)
    result = wilcoxon_holm(differences, {"zero": np.zeros(10)})["zero"]
    assert result["p"] == pytest.approx(reference.wilcoxon_exact(differences.tolist()))


def test_equal_images_are_left_out_of_the_ranks():
    reference_scores = np.array([0.8, 0.81, 0.82, 0.83, 0.84, 0.9, 0.1 + 0.2])
    other = reference_scores - [0.01, 0.02, 0.03, 0.04, 0.05, 0, 0]
    other[-1] = 0.3  # equal but for rounding
    result = wilcoxon_holm(reference_scores, {"other": other})["other"]
    assert result["p"] == pytest.approx(2 / 2**5)
    assert result["n"] == 7
    same = wilcoxon_holm(other, {"same": other})["same"]
    assert (same["p"], same["p_holm"], same["effect_size"], same["median_difference"]) == (1, 1, 0, 0)


def test_methods_are_corrected_together():
    rng = np.random.default_rng(7)
    base = rng.random(25)
    others = {"far": base - 0.2 - 0.01 * rng.random(25), "near": base - rng.normal(0, 0.1, 25), "same": base}
    results = wilcoxon_holm(base, others)
    assert list(results) == ["far", "near", "same"]
    assert results["far"]["p_holm"] == pytest.approx(3 * results["far"]["p"])
    assert results["near"]["p_holm"] == pytest.approx(min(1, 2 * results["near"]["p"]))
    assert results["same"]["p_holm"] == 1
    assert wilcoxon_holm(base, {}) == {}


def test_refuses_figures_that_are_no_pairs():
    good = np.zeros(4)
    with pytest.raises(ValueError, match=r"cutmix: expected figures of the same images.*4 .*3"):
        wilcoxon_holm(good, {"cutmix": good[:3]})
    with pytest.raises(ValueError, match="cutmix: 1 of 4 figures are not finite"):
        wilcoxon_holm(good, {"cutmix": np.array([0, 1, np.nan, 2])})
    with pytest.raises(ValueError, match="reference: expected one figure per image"):
        wilcoxon_holm([], {})


def weighted_mean(values):
    return lambda weights: weights @ values / weights.sum(axis=1)


def test_weighted_interval_of_two_values_is_known():
    values = np.array([0.0, 1.0])
    # resampled means are 0, 1/2, 1 with chances 1/4, 1/2, 1/4
    assert weighted_interval(weighted_mean(values), 2) == (0.0, 1.0)
    assert weighted_interval(weighted_mean(values), 2, confidence=0.4) == (0.5, 0.5)


def test_weighted_interval_is_that_of_the_plain_bootstrap():
    values = np.random.default_rng(3).normal(0.5, 0.2, 60)
    weighted = weighted_interval(weighted_mean(values), 60, n_resamples=20_000)
    plain = bootstrap_interval(values, n_resamples=20_000)
    assert weighted == pytest.approx(plain, abs=0.003)
    assert weighted_interval(weighted_mean(values), 60) == weighted_interval(weighted_mean(values), 60)
    assert weighted_interval(weighted_mean(values), 60) != weighted_interval(weighted_mean(values), 60, seed=1)


def test_groups_are_drawn_together():
    values = np.random.default_rng(4).normal(0.5, 0.2, 30)
    single = weighted_interval(weighted_mean(values), 30)
    # every image four times: four times the images, but no more knowledge
    repeated, groups = np.repeat(values, 4), np.repeat(np.arange(30), 4).tolist()
    grouped = weighted_interval(weighted_mean(repeated), 120, groups=groups)
    assert grouped == pytest.approx(single, abs=0.01)
    ungrouped = weighted_interval(weighted_mean(repeated), 120)
    assert np.diff(ungrouped) == pytest.approx(np.diff(grouped) / 2, rel=0.1)


def test_groups_of_unequal_size_weigh_by_their_images():
    # groups {0, 0} and {1}: means are 0, 1/3 and 1 with chances 1/4, 1/2, 1/4
    values, groups = np.array([0.0, 0.0, 1.0]), ["a", "a", "b"]
    assert weighted_interval(weighted_mean(values), 3, groups=groups, confidence=0.4) == pytest.approx((1 / 3, 1 / 3))
    assert all(math.isnan(limit) for limit in weighted_interval(weighted_mean(values), 3, groups=["a"] * 3))
    with pytest.raises(ValueError, match="one for each of 3 images, found 2"):
        weighted_interval(weighted_mean(values), 3, groups=["a", "b"])
