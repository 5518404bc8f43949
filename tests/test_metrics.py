import pickle
from itertools import pairwise

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline

from sklearn_exdd.metrics import (
    PixelScorer,
    per_region_overlap_score,
    per_region_overlap_scorer,
    pixel_average_precision_score,
    pixel_average_precision_scorer,
    pixel_roc_auc_score,
    pixel_roc_auc_scorer,
)

SCORES = [pixel_roc_auc_score, pixel_average_precision_score, per_region_overlap_score]
SCORERS = [pixel_roc_auc_scorer, pixel_average_precision_scorer, per_region_overlap_scorer]


def random_masks_and_maps(seed, n_levels=None, shape=(9, 11), n_images=5):
    rng = np.random.RandomState(seed)
    masks = rng.uniform(size=(n_images, *shape)) < 0.15
    masks[-1] = False
    maps = rng.normal(size=masks.shape) + masks
    if n_levels is not None:
        maps = np.digitize(maps, np.linspace(-2, 3, n_levels)).astype(float)
    return masks, maps


def naive_regions(mask):
    """Return the 8-connected regions of a mask as lists of pixels, found by flood fill."""
    left, regions = {tuple(pixel) for pixel in np.argwhere(mask)}, []
    while left:
        region, front = [], [left.pop()]
        while front:
            row, column = front.pop()
            region.append((row, column))
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            front.extend(around)
        regions.append(region)
    return regions


def naive_per_region_overlap(masks, maps, max_fpr):
    """Compute the curve one threshold, image and region at a time, and sum its trapezoids one by one."""
    regions = [(image, region) for image, mask in enumerate(masks) for region in naive_regions(mask)]
    n_normal = sum((~mask).sum() for mask in masks)
    curve = [(0.0, 0.0)]
    for threshold in sorted({value for one in maps for value in one.ravel()}, reverse=True):
        false = sum(((one >= threshold) & ~mask).sum() for mask, one in zip(masks, maps))
        overlaps = [np.mean([maps[image][pixel] >= threshold for pixel in region]) for image, region in regions]
        curve.append((false / n_normal, np.mean(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 >= max_fpr or x1 == x0:
            continue
        x_end = min(x1, max_fpr)
        y_end = y0 + (y1 - y0) * (x_end - x0) / (x1 - x0)
        area += (x_end - x0) * (y0 + y_end) / 2
    return area / max_fpr


@pytest.mark.parametrize("n_levels", [None, 12, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("score", "reference"),
    [(pixel_roc_auc_score, roc_auc_score), (pixel_average_precision_score, average_precision_score)],
)
def test_pixel_scores_equal_those_of_scikit_learn_on_the_concatenated_pixels(score, reference, dtype, n_levels):
    for seed in range(5):
        masks, maps = random_masks_and_maps(seed, n_levels)
        maps = maps.astype(dtype)
        assert score(masks, maps) == pytest.approx(reference(masks.ravel(), maps.ravel()), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("max_fpr", [0.01, 0.05, 0.3, 0.77, 1.0])
@pytest.mark.parametrize("n_levels", [None, 12, 3, 2])
def test_per_region_overlap_equals_its_naive_twin(n_levels, max_fpr):
    for seed in range(4):
        masks, maps = random_masks_and_maps(seed, n_levels)
        expected = naive_per_region_overlap(masks, maps, max_fpr)
        assert per_region_overlap_score(masks, maps, max_fpr=max_fpr) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_maps_equal_to_the_masks_score_one_and_reversed_maps_the_least(score):
    masks, _ = random_masks_and_maps(0)
    assert score(masks, masks.astype(float)) == pytest.approx(1.0)
    lowest = masks.mean() if score is pixel_average_precision_score else 0.0
    assert score(masks, -masks.astype(float)) == pytest.approx(lowest)


@pytest.mark.parametrize("max_fpr", [0.1, 0.3, 1.0])
def test_a_constant_map_gives_the_area_under_the_diagonal(max_fpr):
    masks, maps = random_masks_and_maps(0)
    assert per_region_overlap_score(masks, np.zeros_like(maps), max_fpr=max_fpr) == pytest.approx(max_fpr / 2)
    assert pixel_roc_auc_score(masks, np.zeros_like(maps)) == 0.5


def test_each_region_counts_the_same_whatever_its_size():
    mask = np.zeros((20, 20), dtype=bool)
    mask[:10, :10] = True
    mask[15, 15] = True
    small_found, large_found = np.zeros((2, 20, 20))
    small_found[15, 15] = 1
    large_found[:10, :10] = 1
    # Half of the regions are found from the start, the other half tie with the normal pixels: 0.5 + 0.5 * fpr.
    for found in (small_found, large_found):
        assert per_region_overlap_score([mask], [found], max_fpr=0.3) == pytest.approx(0.5 + 0.5 * 0.15)


def test_pixels_that_touch_at_a_corner_are_one_region():
    diagonal = np.eye(6, dtype=bool)
    one_pixel = np.zeros((6, 6))
    one_pixel[0, 0] = 1
    assert per_region_overlap_score([diagonal], [one_pixel], max_fpr=1.0) == pytest.approx(1 / 6 + 5 / 6 / 2)


@pytest.mark.parametrize("score", SCORES)
def test_lists_none_and_0_255_masks_give_the_score_of_the_array(score):
    masks, maps = random_masks_and_maps(1)
    expected = score(masks, maps)
    assert score([*masks[:-1], None], list(maps)) == expected
    assert score(masks.astype(np.uint8) * 255, maps) == expected


@pytest.mark.parametrize("score", SCORES)
def test_images_may_differ_in_size_and_their_order_does_not_matter(score):
    large, small = random_masks_and_maps(2), random_masks_and_maps(3, shape=(4, 17))
    masks, maps = [*large[0], *small[0]], [*large[1], *small[1]]
    assert score(masks, maps) == pytest.approx(score(masks[::-1], maps[::-1]), abs=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_inputs_are_left_as_they_were_and_the_score_is_a_python_float(score):
    masks, maps = random_masks_and_maps(2)
    masks_before, maps_before = masks.copy(), maps.copy()
    assert type(score(masks, maps)) is float
    np.testing.assert_array_equal(masks, masks_before)
    np.testing.assert_array_equal(maps, maps_before)


@pytest.mark.parametrize("score", SCORES)
def test_input_that_cannot_be_scored_is_refused_with_what_came(score):
    masks, maps = random_masks_and_maps(0)
    with pytest.raises(ValueError, match=r"^masks, maps: expected one of each for every image, got 4 masks and 5 maps"):
        score(masks[:4], maps)
    with pytest.raises(ValueError, match=r"^masks\[3\]: expected the shape of its map, \(9, 10\), got \(9, 11\)"):
        score(list(masks), [*maps[:3], maps[3][:, :10], maps[4]])
    with pytest.raises(ValueError, match=r"^maps\[0\]: expected a 2-D array .*, got shape \(9, 11, 1\)"):
        score(masks, maps[..., None])
    with pytest.raises(
        ValueError, match=r"^masks: expected at least one defect pixel and one normal pixel, got no defect pixel"
    ):
        score([None] * 5, maps)
    with pytest.raises(
        ValueError, match=r"^masks: expected at least one defect pixel and one normal pixel, got no normal pixel"
    ):
        score(np.ones_like(masks), maps)
    with pytest.raises(TypeError, match=r"^masks: expected an array .* got NoneType"):
        score(None, maps)
    for bad in (np.nan, np.inf):
        maps[2, 0, 0] = bad
        with pytest.raises(ValueError, match=r"^maps\[2\]: expected finite values, got NaN or infinity"):
            score(masks, maps)


@pytest.mark.parametrize("max_fpr", [0, -0.1, 1.5, float("nan"), "0.3", None])
def test_max_fpr_outside_its_range_is_refused(max_fpr):
    with pytest.raises(ValueError, match=rf"^max_fpr: expected a number in \(0, 1\], got {max_fpr!r}"):
        per_region_overlap_score(*random_masks_and_maps(0), max_fpr=max_fpr)


class Detector(ClassifierMixin, BaseEstimator):
    """Stand-in detector whose map is the distance to the mean normal image, negated if `sign` is -1."""

    __metadata_request__fit = {"masks": True}

    def __init__(self, sign=1):
        self.sign = sign

    def fit(self, X, y, masks=None):
        self.classes_ = np.unique(y)
        self.mean_ = X[y == 0].mean(axis=0)
        self.n_masks_ = None if masks is None else len(masks)
        return self

    def predict_map(self, X):
        return self.sign * np.abs(X - self.mean_)

    def decision_function(self, X):
        return self.predict_map(X).max(axis=(1, 2)) - 3

    def predict(self, X):
        return self.classes_[(self.decision_function(X) > 0).astype(int)]


class Halve(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        return X / 2


def make_images(n_images=30):
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(n_images, 8, 8)), np.arange(n_images) % 2
    masks = np.zeros(X.shape, dtype=bool)
    masks[y == 1, 2:4, 3:6] = True
    return X + 4 * masks, y, masks


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("in_pipeline", [False, True])
def test_a_grid_search_chooses_by_the_masks(routing, scorer, in_pipeline, as_list):
    X, y, masks = make_images()
    if as_list:
        masks = [mask if label else None for mask, label in zip(masks, y)]
    estimator = make_pipeline(Halve(), Detector()) if in_pipeline else Detector()
    grid = {"detector__sign" if in_pipeline else "sign": [-1, 1]}
    search = GridSearchCV(estimator, grid, scoring=scorer, cv=3, error_score="raise").fit(X, y, masks=masks)
    assert list(search.best_params_.values()) == [1]
    assert search.best_score_ > 0.8
    assert search.score(X, y, masks=masks) == scorer(search, X, y, masks=masks)
    assert (search.best_estimator_[-1] if in_pipeline else search.best_estimator_).n_masks_ == len(X)


@pytest.mark.slow
def test_several_metrics_mix_labels_and_masks(routing):
    X, y, masks = make_images()
    scoring = {"image": "roc_auc", "pixel": pixel_roc_auc_scorer, "pro": PixelScorer(per_region_overlap_score)}
    estimator = make_pipeline(Halve(), Detector())
    results = cross_validate(estimator, X, y, scoring=scoring, cv=3, params={"masks": masks}, error_score="raise")
    assert min(results[f"test_{name}"].min() for name in scoring) > 0.8
    search = GridSearchCV(Detector(), {"sign": [-1, 1]}, scoring=scoring, refit="pro", cv=3, n_jobs=2)
    assert clone(search).fit(X, y, masks=masks).best_params_ == {"sign": 1}


def test_a_pipeline_scores_as_its_detector_on_the_transformed_images():
    X, y, masks = make_images()
    halve = Halve().fit(X)
    pipeline = make_pipeline(halve, Detector()).fit(X, y)
    detector = Detector().fit(halve.transform(X), y)
    assert pixel_roc_auc_scorer(pipeline, X, masks=masks) == pixel_roc_auc_scorer(detector, X / 2, masks=masks)
    assert pixel_roc_auc_scorer(make_pipeline(Detector()).fit(X, y), X, masks=masks) > 0.8


def test_a_copy_or_a_pickle_of_a_scorer_scores_the_same(routing):
    X, y, masks = make_images()
    scorer = PixelScorer(per_region_overlap_score, max_fpr=0.05).set_score_request(masks="outlines")
    assert repr(scorer) == "PixelScorer(per_region_overlap_score, max_fpr=0.05)"
    detector = Detector().fit(X, y)
    expected = per_region_overlap_score(masks, detector.predict_map(X), max_fpr=0.05)
    for copy in (pickle.loads(pickle.dumps(scorer)), clone(scorer, safe=False)):
        assert repr(copy) == repr(scorer)
        assert copy(detector, X, y, masks=masks) == expected
        assert copy.get_metadata_routing().score.requests == {"masks": "outlines"}


def test_a_scorer_that_gets_no_masks_says_how_to_pass_them():
    X, y, _ = make_images()
    with pytest.raises(
        TypeError, match=r"^masks: expected .* got None. .*enable_metadata_routing=True\) and pass masks= to"
    ):
        cross_validate(Detector(), X, y, scoring=pixel_roc_auc_scorer, error_score="raise")


def test_masks_that_are_not_aligned_with_the_images_are_refused(routing):
    X, y, masks = make_images()
    with pytest.raises(ValueError, match=r"^masks, maps: expected one of each .*, got 15 masks and 10 maps"):
        cross_validate(
            Detector(), X, y, scoring=pixel_roc_auc_scorer, cv=3, params={"masks": masks[y == 1]}, error_score="raise"
        )


def test_an_estimator_without_maps_is_refused():
    X, _, masks = make_images()
    with pytest.raises(
        TypeError, match=r"^estimator: expected a fitted detector with .*predict_map, .* got Pipeline around Halve"
    ):
        pixel_roc_auc_scorer(make_pipeline(Halve().fit(X)), X, masks=masks)
