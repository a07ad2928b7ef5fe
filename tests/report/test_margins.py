"""Margins between methods: paired by seed and image, with intervals that hold both samplings."""

import numpy as np
import pytest
from scipy import stats

from st.report.margins import Margin


def pair(seeds=4, images=50, seed=0, one=0.8, other=0.7) -> Margin:
    rng = np.random.default_rng(seed)
    return Margin(rng.random((seeds, images)) < one, rng.random((seeds, images)) < other)


@pytest.mark.parametrize("seeds, images", [(2, 30), (3, 100), (7, 41)])
def test_variances_are_those_of_an_analysis_of_variance(seeds, images):
    """Of a crossed two-way layout with one observation a cell, in plain loops and float64."""
    margin = pair(seeds, images)
    d = [
        [100.0 * (int(a) - int(b)) for a, b in zip(x, y, strict=True)]
        for x, y in zip(margin.one, margin.other, strict=True)
    ]
    mean = sum(map(sum, d)) / (seeds * images)
    rows = [sum(row) / images for row in d]
    columns = [sum(row[i] for row in d) / seeds for i in range(images)]
    ms_rows = images * sum((r - mean) ** 2 for r in rows) / (seeds - 1)
    ms_columns = seeds * sum((c - mean) ** 2 for c in columns) / (images - 1)
    ms_rest = sum(
        (d[s][i] - rows[s] - columns[i] + mean) ** 2 for s in range(seeds) for i in range(images)
    ) / ((seeds - 1) * (images - 1))
    of_seed = max(ms_rows, ms_rest) / images
    of_images = max(ms_columns - ms_rest, 0) / seeds / images
    assert margin.mean == pytest.approx(mean)
    assert margin.by_seed == pytest.approx(rows)
    assert margin.variances == pytest.approx((of_seed, of_images))
    for confidence in (0.95, 0.995):
        t = stats.t.ppf((1 + confidence) / 2, seeds - 1) * np.sqrt(of_seed / seeds)
        z = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(of_images)
        half = np.sqrt(t**2 + z**2)
        assert margin.half_width(confidence) == pytest.approx(half)
        ends = max(mean - half, -100), min(mean + half, 100)
        assert margin.interval(confidence) == pytest.approx(ends)


def test_mcnemars_counts():
    one = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 0, 0]], bool)
    other = np.array([[1, 0, 1, 0, 0], [1, 0, 0, 1, 1]], bool)
    margin = Margin(one, other)
    assert margin.mcnemar == [(2, 1), (0, 2)]
    assert margin.by_seed.tolist() == [20, -40] and margin.mean == -10
    assert (margin.wins, margin.ties) == (1, 0)


def test_one_seed_decides_nothing():
    margin = Margin(np.ones((1, 1000), bool), np.zeros((1, 1000), bool))
    assert margin.interval() is None and margin.sign() == 0
    assert str(margin) == "+100.00 points, better in 1 of 1 seed"
    assert "one seed has no spread" in margin.why_undecided()


def test_networks_that_answer_alike_differ_by_nothing():
    answers = np.random.default_rng(0).random((3, 50)) < 0.7
    margin = Margin(answers, answers.copy())
    assert margin.sign() == 0 and margin.interval() == (0, 0)
    assert margin.why_undecided() == "both classify the same images correctly"
    assert margin.seeds_needed() is None


def test_a_few_images_decide_nothing():
    for images in (1, 5, 6):
        margin = Margin(np.ones((3, images), bool), np.zeros((3, images), bool))
        assert margin.sign() == (images == 6)
        if images < 6:
            assert margin.interval() is None and "too few" in margin.why_undecided()


def test_a_margin_of_zero_is_not_always_no_difference():
    one = np.zeros((2, 100), bool)
    one[0, :20], other = True, np.zeros((2, 100), bool)
    other[1, :20] = True
    margin = Margin(one, other)
    assert margin.mean == 0 and margin.interval() == (-100, 100)  # no margin is larger
    assert margin.why_undecided().startswith("the margin is zero in these seeds")


def test_equal_margins_are_no_certainty():
    """Three seeds with the very same margin, but on few images each: chance alone makes a seed's
    margin vary more than these do."""
    rng = np.random.default_rng(0)
    one, other = np.zeros((3, 100), bool), np.zeros((3, 100), bool)
    for s in range(3):
        order = rng.permutation(100)
        one[s, order[:40]] = True
        other[s, order[20:58]] = True
    margin = Margin(one, other)
    assert margin.by_seed.tolist() == [2, 2, 2]
    low, high = margin.interval()
    assert low < 0 < high and margin.sign() == 0


def test_images_count_as_well_as_seeds():
    """Networks of many seeds that differ on the same few images: more seeds do not help."""
    rng = np.random.default_rng(0)
    hard = rng.random(200) < 0.06
    one = np.tile(~hard, (20, 1))
    other = one.copy()
    other[:, rng.permutation(200)[:6]] = False
    margin = Margin(one, other)
    low, high = margin.interval()
    of_seed, of_images = margin.variances
    assert of_images > of_seed
    expected = stats.norm.ppf(0.975) * np.sqrt(np.var((one ^ other)[0], ddof=1) * 1e4 / 200)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.05)
    assert margin.seeds_needed(0.99999) is None
    assert "too few to decide" in margin.why_undecided(0.99999)


def test_the_p_value_is_where_the_interval_touches_zero():
    margin = pair(5, 200, seed=3)
    p = margin.p_value()
    assert 1e-9 < p < 0.5
    assert margin.sign(1 - 1.001 * p) and not margin.sign(1 - 0.999 * p)
    assert pair(3, 50, one=0.5, other=0.5).p_value() > 0.01


def test_seeds_needed_is_the_smallest_number():
    margin = pair(3, 400, seed=5, one=0.8, other=0.785)
    assert margin.sign() == 0
    needed = margin.seeds_needed()
    assert needed > 3
    assert margin.half_width(seeds=needed) < abs(margin.mean) <= margin.half_width(seeds=needed - 1)
    assert f"about {needed} seeds would decide it" in margin.why_undecided()
    decided = pair(3, 400, seed=5, one=0.9, other=0.5)
    assert decided.sign() == 1 and decided.seeds_needed() is None


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("of_seeds, images", [(0.0, 100), (0.02, 300), (0.15, 300)])
def test_intervals_cover_the_truth(seeds, of_seeds, images):
    """Fresh seeds and fresh images in every repetition, an image being hard for all networks or
    for one: in at least 95 % the interval holds the true margin."""
    rng = np.random.default_rng(seeds)
    covered, repetitions, truth = 0, 400, []
    for _ in range(repetitions):
        hard = rng.standard_normal(images)
        level = 0.8 + of_seeds * rng.standard_normal((2, seeds, 1))
        level[0] += 0.2
        own = rng.standard_normal((2, seeds, images))
        margin = Margin(*(hard + 0.5 * own < level))
        truth.append(margin)
    # the mean over all repetitions is known far better than any of them knows it
    true_margin = np.mean([margin.mean for margin in truth])
    for margin in truth:
        low, high = margin.interval()
        covered += low <= true_margin <= high
    assert covered / repetitions > 0.93
