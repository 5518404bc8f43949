import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_exdd.scoring import (
    border_profile,
    conformal_threshold,
    mask_coverage,
    neighborhood_weight,
    ratio_score,
    smooth,
    top_mean,
    upsample,
)

distances = st.floats(0, 1e3)
positive = st.floats(1e-6, 1e3)
stable = settings(max_examples=80, derandomize=True, deadline=None)


# Ratio


@given(distances, distances, positive, positive)
@stable
def test_the_ratio_rises_with_the_normal_and_falls_with_the_defect_distance(normal, defect, epsilon, step):
    score = ratio_score(normal, defect, epsilon)
    assert score >= 0
    assert ratio_score(normal + step, defect, epsilon) >= score
    assert ratio_score(normal, defect + step, epsilon) <= score
    assert ratio_score(normal, defect, epsilon + step) <= score


def test_the_ratio_is_that_of_the_publication_and_finite_for_an_exact_hit():
    normal, defect = np.array([[2.0, 0.0], [5.0, 0.0]]), np.array([[4.0, 1.0], [0.0, 0.0]])
    np.testing.assert_allclose(ratio_score(normal, defect, 1e-6), [[2 / 4.000001, 0], [5e6, 0]])


# Neighbourhood weights


@pytest.mark.parametrize("seed", range(5))
def test_the_weight_is_the_published_softmax(seed):
    rng = np.random.RandomState(seed)
    n_features = rng.randint(1, 2000)
    support = np.sort(rng.uniform(1, 40, size=rng.randint(1, 9)))
    nearest = support[0] * rng.uniform(0.1, 1)
    scale = math.sqrt(n_features)
    expected = math.exp(nearest / scale) / sum(math.exp(distance / scale) for distance in support)
    assert neighborhood_weight(nearest, support, n_features) == pytest.approx(expected, rel=1e-12)


@given(distances, st.lists(distances, min_size=1, max_size=5), st.integers(1, 2000), positive)
@stable
def test_the_weight_is_a_share_that_falls_as_the_rows_around_lie_farther(nearest, beyond, n_features, step):
    support = nearest + np.array(beyond)
    weight = neighborhood_weight(nearest, support, n_features)
    assert 0 <= weight <= 1
    assert neighborhood_weight(nearest, support + step, n_features) <= weight


def test_without_rows_around_the_weight_favours_neither_bank():
    assert neighborhood_weight(3.0, np.array([]), 4) == 0.5


@pytest.mark.parametrize("distance", [1e4, 1e6, 1e30])
def test_the_weight_of_rows_very_far_off_is_zero_without_overflow(distance):
    assert neighborhood_weight(1.0, np.array([distance, 2 * distance]), 4) == 0
    assert neighborhood_weight(distance, np.array([distance, distance]), 4) == pytest.approx(0.5)


# Image scores


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.integers(1, 40))
@stable
def test_the_image_score_is_the_mean_of_the_highest_patch_scores(scores, n_patches):
    highest = sorted(scores, reverse=True)[:n_patches]
    assert top_mean(np.array(scores), n_patches) == pytest.approx(sum(highest) / len(highest), rel=1e-9, abs=1e-9)


def test_the_patch_scores_stay_in_their_order():
    scores = np.array([3.0, 1.0, 2.0])
    assert top_mean(scores, 1) == 3
    np.testing.assert_array_equal(scores, [3, 1, 2])


# Borders


@pytest.mark.parametrize("seed", range(4))
def test_the_border_profile_finds_how_much_higher_each_ring_scores(seed):
    rng = np.random.RandomState(seed)
    n_rings = rng.randint(1, 4)
    factors = [*rng.uniform(1, 4, size=n_rings), 1, 1, 1]
    rings, scores = np.repeat(np.arange(n_rings + 3), 50), np.concatenate(np.outer(factors, rng.uniform(1, 2, size=50)))
    order = rng.permutation(len(rings))
    profile = border_profile(scores[order], rings[order], n_rings)
    np.testing.assert_allclose(profile, factors[: n_rings + 1], rtol=1e-9)


@pytest.mark.parametrize(
    ("scores", "rings", "expected"),
    [
        ([3.0, 5.0], [0, 0], [1, 1, 1]),
        ([8.0, 2.0], [0, 1], [4, 1, 1]),
        ([0.0, 0.0, 0.0], [0, 1, 2], [1, 1, 1]),
        ([1.0, 1.0, 9.0], [0, 1, 2], [1, 1, 1]),
    ],
    ids=["one ring", "nothing inside", "all zero", "higher inside"],
)
def test_the_border_profile_is_finite_and_at_least_one_whatever_the_maps(scores, rings, expected):
    np.testing.assert_array_equal(border_profile(np.array(scores), np.array(rings), 2), expected)


# Upsampling

GRIDS = [  # image shape, row centres, column centres
    ((40, 56), 3.5 + 8 * np.arange(5), 3.5 + 8 * np.arange(7)),
    ((37, 51), 8.0 * np.arange(5), 8.0 * np.arange(7)),
    ((33, 9), 3.5 + 8 * np.arange(5), 3.5 + 8 * np.arange(2)),
    ((10, 7), np.array([4.5]), np.array([0.3, 5.2])),
    ((5, 5), np.linspace(-0.25, 4.25, 10), np.linspace(-0.25, 4.25, 10)),
]


def naive_upsample(patch_map, row_centers, column_centers, image_shape):
    """Interpolate pixel by pixel between the two centres around it along each axis, weighted by nearness."""

    def around(centers, position):
        position = min(max(position, centers[0]), centers[-1])
        after = min(int(np.searchsorted(centers, position)), len(centers) - 1)
        before = max(after - 1, 0)
        gap = centers[after] - centers[before]
        share = (position - centers[before]) / gap if gap else 0.0
        return [(before, 1 - share), (after, share)]

    pixels = np.zeros(image_shape)
    for row, column in np.ndindex(*image_shape):
        for i, weight in around(row_centers, row):
            for j, other in around(column_centers, column):
                pixels[row, column] += weight * other * patch_map[i, j]
    return pixels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "rows", "columns"), GRIDS)
def test_upsampling_equals_its_naive_twin(shape, rows, columns, dtype):
    patch_map = np.random.RandomState(0).normal(size=(len(rows), len(columns))).astype(dtype)
    pixels = upsample(patch_map, rows, columns, shape)
    assert pixels.shape == shape
    assert pixels.dtype == dtype
    np.testing.assert_allclose(pixels, naive_upsample(patch_map, rows, columns, shape), atol=1e-5)


@pytest.mark.parametrize(("shape", "rows", "columns"), GRIDS)
def test_a_constant_stays_constant(shape, rows, columns):
    pixels = upsample(np.full((len(rows), len(columns)), 7.25), rows, columns, shape)
    np.testing.assert_allclose(pixels, 7.25, rtol=1e-12)


@pytest.mark.parametrize(("shape", "rows", "columns"), GRIDS)
def test_a_ramp_is_exact_between_the_outermost_centres_and_flat_beyond(shape, rows, columns):
    pixels = upsample(2 * rows[:, None] - 3 * columns + 1, rows, columns, shape)
    y = np.clip(np.arange(shape[0]), rows[0], rows[-1])[:, None]
    x = np.clip(np.arange(shape[1]), columns[0], columns[-1])
    np.testing.assert_allclose(pixels, 2 * y - 3 * x + 1, atol=1e-9)


@pytest.mark.parametrize("patch", [(0, 0), (2, 3), (4, 6)])
def test_the_highest_pixel_lies_at_the_centre_of_the_highest_patch(patch):
    rows, columns = 8.0 * np.arange(5), 2.0 + 8 * np.arange(7)
    patch_map = np.zeros((5, 7))
    patch_map[patch] = 1
    pixels = upsample(patch_map, rows, columns, (35, 53))
    assert pixels[int(rows[patch[0]]), int(columns[patch[1]])] == 1
    assert pixels.max() == 1
    assert (pixels > 0).sum() <= 15 * 15


@given(st.integers(0, 1000))
@stable
def test_upsampling_stays_within_the_values_of_the_map(seed):
    rng = np.random.RandomState(seed)
    shape = rng.randint(1, 40, size=2)
    centers = [np.sort(rng.uniform(0, size, rng.randint(1, 9))) for size in shape]
    patch_map = rng.normal(size=[len(c) for c in centers])
    pixels = upsample(patch_map, *centers, tuple(shape))
    assert pixels.min() >= patch_map.min() - 1e-9
    assert pixels.max() <= patch_map.max() + 1e-9


# From pixels to patches


def naive_mask_coverage(mask, row_centers, column_centers):
    """Assign each pixel to its nearest centre, or to the first of two equally near ones, and average each cell."""
    cells = {}
    for row, column in np.ndindex(*mask.shape):
        cell = int(np.argmin(abs(row_centers - row))), int(np.argmin(abs(column_centers - column)))
        cells.setdefault(cell, []).append(mask[row, column])
    shape = len(row_centers), len(column_centers)
    return np.array([[np.mean(cells.get((i, j), [0])) for j in range(shape[1])] for i in range(shape[0])])


@pytest.mark.parametrize(("shape", "rows", "columns"), GRIDS)
def test_the_coverage_of_a_mask_equals_its_naive_twin(shape, rows, columns):
    mask = np.random.RandomState(0).uniform(size=shape) < 0.3
    coverage = mask_coverage(mask, rows, columns)
    assert coverage.dtype == np.float64
    np.testing.assert_allclose(coverage, naive_mask_coverage(mask, rows, columns), atol=1e-12)


@pytest.mark.parametrize(("shape", "rows", "columns"), GRIDS[:4])
def test_the_coverage_runs_from_none_to_all_of_each_cell(shape, rows, columns):
    np.testing.assert_array_equal(mask_coverage(np.zeros(shape, dtype=bool), rows, columns), 0)
    np.testing.assert_allclose(mask_coverage(np.ones(shape, dtype=bool), rows, columns), 1)


def test_a_single_pixel_belongs_to_the_nearest_patch():
    mask = np.zeros((16, 24), dtype=bool)
    mask[9, 7] = True
    coverage = mask_coverage(mask, 3.5 + 8 * np.arange(2), 3.5 + 8 * np.arange(3))
    assert coverage[1, 0] == 1 / 64
    assert np.count_nonzero(coverage) == 1


# Blur


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma", [0, 0.7, 4, 12.5])
def test_a_blur_keeps_the_mean_the_dtype_and_the_range(sigma, dtype):
    pixels = np.random.RandomState(0).uniform(size=(31, 45)).astype(dtype)
    before = pixels.copy()
    blurred = smooth(pixels, sigma)
    assert blurred.dtype == dtype
    assert blurred.shape == pixels.shape
    assert blurred.mean() == pytest.approx(pixels.mean(), rel=1e-5)
    assert pixels.min() <= blurred.min() <= blurred.max() <= pixels.max()
    np.testing.assert_array_equal(pixels, before)


def test_no_blur_changes_nothing_and_more_blur_flattens_more():
    pixels = np.zeros((41, 41))
    pixels[20, 20] = 1
    np.testing.assert_array_equal(smooth(pixels, 0), pixels)
    peaks = [smooth(pixels, sigma).max() for sigma in (0, 1, 2, 4)]
    assert all(later < earlier for earlier, later in pairwise(peaks))
    # A Gaussian with unit sum has the height 1 / (2 pi sigma²).
    assert peaks[-1] == pytest.approx(1 / (2 * math.pi * 16), rel=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("blur", [0.7, 4, 12.5])  # the last one reaches beyond the image twice
@pytest.mark.parametrize(("shape", "rows", "columns"), GRIDS)
def test_to_blur_while_upsampling_equals_to_blur_the_map(shape, rows, columns, blur, dtype):
    patch_map = np.random.RandomState(0).normal(size=(len(rows), len(columns))).astype(dtype)
    expected = smooth(naive_upsample(patch_map, rows, columns, shape), blur)
    pixels = upsample(patch_map, rows, columns, shape, blur)
    assert pixels.dtype == dtype
    np.testing.assert_allclose(pixels, expected, atol=1e-5 if dtype == np.float32 else 1e-12)


# Threshold


@pytest.mark.parametrize(("n_scores", "rate"), [(19, 0.05), (50, 0.1), (99, 0.01), (7, 0.3), (9, 0.05)])
def test_a_new_normal_score_exceeds_the_threshold_at_most_as_often_as_promised(n_scores, rate):
    rng = np.random.RandomState(0)
    n_trials = 20_000
    scores = rng.exponential(size=(n_trials, n_scores + 1))
    thresholds, attained = zip(*[conformal_threshold(row[:-1], rate) for row in scores])
    (promise,) = set(attained)
    assert promise == (rate if n_scores >= 1 / rate - 1 - 1e-9 else 1 / (n_scores + 1))
    alarms = (scores[:, -1] > np.array(thresholds)).mean()
    # For exchangeable scores, the rate is at most the promise and at most one rank below it, up to 4 standard errors.
    error = 4 * math.sqrt(promise * (1 - promise) / n_trials)
    assert promise - 1 / (n_scores + 1) - error <= alarms <= promise + error


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.floats(0.001, 0.999))
@stable
def test_the_threshold_is_the_lowest_score_with_enough_scores_up_to_it(scores, rate):
    threshold, attained = conformal_threshold(scores, rate)
    n_scores = len(scores)
    needed = (n_scores + 1) * (1 - rate) - 1e-6
    fitting = [score for score in sorted(scores) if sum(other <= score for other in scores) >= needed]
    assert threshold == (fitting[0] if fitting else max(scores))
    assert attained == pytest.approx(rate if fitting else 1 / (n_scores + 1))


@pytest.mark.parametrize("n_scores", [1, 5, 98])
def test_with_too_few_scores_the_threshold_is_the_largest_and_says_what_it_attains(n_scores):
    assert conformal_threshold(np.arange(n_scores)[::-1], 0.01) == (n_scores - 1, 1 / (n_scores + 1))


@pytest.mark.parametrize(
    ("n_scores", "rate", "threshold"),
    [(99, 0.01, 98), (99, 0.05, 94), (39, 0.1, 35), (9, 0.1, 8), (9, 0.2, 7), (4, 0.5, 2)],
)
def test_a_rate_that_the_scores_divide_evenly_is_met_exactly(n_scores, rate, threshold):
    assert conformal_threshold(np.arange(n_scores), rate) == (threshold, rate)


def test_the_threshold_falls_as_more_false_alarms_are_allowed():
    scores = np.random.RandomState(0).normal(size=200)
    before = scores.copy()
    thresholds = [conformal_threshold(scores, rate)[0] for rate in (0.005, 0.01, 0.05, 0.2, 0.9)]
    assert all(later < earlier for earlier, later in pairwise(thresholds))
    np.testing.assert_array_equal(scores, before)
