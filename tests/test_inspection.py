"""Masks, regions and inspection: pixels marked at a promised rate, and all results on an image in one pass."""

from pathlib import Path

import numpy as np
import pytest
from assertions import assert_same_maps
from conftest import CellStatistics, draw_squares, name_of
from scipy import ndimage
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from sklearn_exdd import (
    BaseDefectDetector,
    CombinedDefectDetector,
    ExDDDetector,
    LearnedFeatureExtractor,
    PatchClassifierDetector,
    SegmentationDetector,
    StudentTeacherDetector,
    persistence,
)
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.detectors.base.regions import connected_regions, marked_pixels

LEARNED = LearnedFeatureExtractor(max_steps=2, n_synthetic=4, crop_size=32, train_batch_size=4)
DETECTORS = [
    ExDDDetector(CellStatistics(), random_state=0),
    ExDDDetector(CellStatistics(), image_score="exdd", blur=0, batch_size=3, max_false_alarm_rate=0.3, random_state=0),
    CombinedDefectDetector(
        [("one", ExDDDetector(CellStatistics())), ("two", ExDDDetector(CellStatistics(), blur=0))], random_state=0
    ),
    PatchClassifierDetector(CellStatistics(), classifier=LogisticRegression(max_iter=1000), random_state=0),
    SegmentationDetector(LEARNED, n_networks=2, validation_fraction=0.4, random_state=0),
    StudentTeacherDetector(
        channels=(8,), n_synthetic=4, max_steps=2, train_batch_size=4, crop_size=64, map_source="both", random_state=0
    ),
]
each_detector = pytest.mark.parametrize(
    "detector", DETECTORS, ids=[f"{name_of(d)} {i}" for i, d in enumerate(DETECTORS)]
)


class Brightness(BaseDefectDetector):
    """Detector that scores the brightest pixel and computes maps and scores in separate passes."""

    def __init__(self, *, with_maxima=True, max_false_alarm_rate=0.1, pos_label=None):
        self.with_maxima = with_maxima
        self.max_false_alarm_rate = max_false_alarm_rate
        self.pos_label = pos_label

    def _fit(self, normal, defect):
        self.n_channels_ = normal.samples.n_channels
        scores = self._score(normal.samples)
        self._set_threshold(scores, normal.indices, scores if self.with_maxima else None)

    def _maps(self, images):
        return [image.mean(axis=2) for image in images]

    def _score(self, images):
        return np.array([one.max() for one in self._maps(images)])


@pytest.fixture(scope="module")
def fit_once(squares):
    """Return a function that fits each detector on `squares` only once; no test may change its result."""
    done = {}

    def fit(detector):
        if repr(detector) not in done:
            X, y, masks = squares
            done[repr(detector)] = clone(detector).fit(X, y, masks=masks)
        return done[repr(detector)]

    return fit


# One pass


@each_detector
def test_inspection_gives_what_the_separate_calls_give_bit_for_bit(detector, fit_once, unseen_squares):
    X = unseen_squares[0]
    detector = fit_once(detector)
    results = detector.inspect(X, min_area=5, pixel_size=(0.5, 0.25))
    for key, method in {
        "score": detector.score_samples,
        "decision": detector.decision_function,
        "label": detector.predict,
        "p_value": detector.p_values,
    }.items():
        np.testing.assert_array_equal([result[key] for result in results], method(X))
    assert_same_maps([result.map for result in results], detector.predict_map(X))
    np.testing.assert_array_equal([result.mask for result in results], detector.predict_mask(X))
    assert [result.regions for result in results] == detector.predict_regions(X, min_area=5, pixel_size=(0.5, 0.25))
    explained = detector.explain(X) if hasattr(detector, "explain") else [None] * len(X)
    assert [result.explanation for result in results] == explained


@each_detector
def test_images_from_an_iterator_are_taken_a_batch_at_a_time(detector, fit_once, unseen_squares):
    X = np.concatenate([unseen_squares[0]] * 4)
    detector, taken = fit_once(detector), []
    expected = detector.inspect(X)
    results = detector.iter_inspect(taken.append(i) or image for i, image in enumerate(X))
    assert taken == []
    for i, (result, other) in enumerate(zip(results, expected, strict=True)):
        assert len(taken) <= min(len(X), i + 16)
        assert result.score == pytest.approx(other.score, rel=1e-4)
        assert_same_maps([result.map], [other.map], rtol=1e-3, atol=1e-5)
        assert result.label == other.label
    assert len(taken) == len(X)


def test_each_image_is_extracted_once(squares, unseen_squares):
    n_extracted = []

    class Counting(CellStatistics):
        def _extract(self, images):
            n_extracted.append(len(images))
            return super()._extract(images)

    detector = ExDDDetector(Counting(), random_state=0).fit(squares[0], squares[1])
    assert sum(n_extracted) == len(squares[0])  # no further pass for the pixel threshold
    for method in ("inspect", "predict_mask", "predict_regions", "p_values"):
        n_extracted.clear()
        getattr(detector, method)(unseen_squares[0])
        assert sum(n_extracted) == len(unseen_squares[0])


def test_paths_are_inspected_as_arrays_are_and_the_bad_one_is_named(fit_once, unseen_squares, write_images):
    detector, paths = fit_once(DETECTORS[0]), write_images(unseen_squares[0])
    expected = [result.score for result in detector.inspect(unseen_squares[0])]
    assert [result.score for result in detector.iter_inspect(paths)] == expected
    paths[5].write_bytes(b"no image")
    for X in (paths, iter(paths)):
        small_batches = fit_once(DETECTORS[1])
        with pytest.raises(ValueError, match=r"^X\[5\] \(.*005\.png\): expected an image"):
            list(small_batches.iter_inspect(X))
    with pytest.raises(ValueError, match=r"^X\[4\]: expected an image, got None"):
        list(fit_once(DETECTORS[1]).iter_inspect([*unseen_squares[0][:4], None].__iter__()))


# Masks


@each_detector
def test_pixels_are_marked_exactly_in_images_called_defective(detector, fit_once, squares, unseen_squares):
    X = np.concatenate([squares[0], unseen_squares[0]])
    detector = fit_once(detector)
    twin = detector._snapshot()
    for threshold in (detector.threshold_, np.median(detector.score_samples(X)), -np.inf, np.inf):
        twin.__dict__ = {**detector.__dict__, "threshold_": float(threshold)}
        masks, called = twin.predict_mask(X), twin.predict(X) == 1
        assert masks.dtype == bool
        np.testing.assert_array_equal(masks.any(axis=(1, 2)), called)
        assert [len(regions) > 0 for regions in twin.predict_regions(X)] == called.tolist()
        for mask, pixel_map in zip(masks[called], np.array(twin.predict_map(X))[called]):
            if pixel_map.max() > twin.pixel_threshold_:
                np.testing.assert_array_equal(mask, pixel_map > twin.pixel_threshold_)
            else:
                assert mask.ravel()[pixel_map.argmax()]


def test_masks_of_images_of_different_sizes_are_a_list(fit_once):
    images = [np.full(shape, 255, dtype=np.uint8) for shape in [(64, 64), (40, 72)]]
    masks = fit_once(DETECTORS[0]).predict_mask(images)
    assert [mask.shape for mask in masks] == [(64, 64), (40, 72)]


def test_a_map_without_a_pixel_above_the_threshold_is_marked_around_its_peak():
    pixel_map = np.zeros((8, 9), dtype=np.float32)
    pixel_map[2:4, 3:6] = [[4, 6, 10], [1, 1, 5]]
    pixel_map[7, 0] = 9  # not connected to the peak
    mask = marked_pixels(pixel_map, 10)
    assert np.argwhere(mask).tolist() == [[2, 4], [2, 5], [3, 5]]
    assert marked_pixels(np.full((3, 4), 2.0), 2).all()
    assert marked_pixels(pixel_map, 9.5).sum() == 1


# False alarm rate


def test_the_pixel_threshold_is_the_conformal_quantile_of_maxima_of_refits_without_each_image(squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, epsilon=0.1, normal_coreset=1.0, border_rings=0, max_false_alarm_rate=0.2)
    maxima = []
    for i in np.flatnonzero(y == 0):
        rest = np.arange(len(X)) != i
        refitted = clone(detector).fit(X[rest], y[rest], masks=masks[rest])
        maxima.append(refitted.predict_map(X[[i]]).max())
    expected = sorted(maxima)[-2]  # 2 of 13 is the largest share within the rate of 0.2
    for size in ("auto", 5):
        fitted = clone(detector).set_params(shard_size=size).fit(X, y, masks=masks)
        assert fitted.pixel_threshold_ == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("detector", DETECTORS[2:], ids=name_of)
def test_other_detectors_take_the_maxima_of_the_images_of_their_threshold(detector, fit_once, squares):
    detector = fit_once(detector)
    calibrating = ~np.isnan(detector.calibration_scores_)
    maxima = detector.predict_map(squares[0][calibrating]).max(axis=(1, 2))
    if isinstance(detector, (PatchClassifierDetector, SegmentationDetector)):
        assert detector.pixel_threshold_ == maxima.max()
    else:  # each image is standardised by the others
        assert detector.pixel_threshold_ >= np.median(maxima)


def test_no_more_normal_images_than_promised_have_a_map_above_the_pixel_threshold():
    rates, marked = [], []
    for seed in range(25):
        X, _, _ = draw_squares(49, 0, seed)
        detector = ExDDDetector(CellStatistics(), max_false_alarm_rate=0.1, random_state=0).fit(X[:19])
        rates.append((detector.predict_map(X[19:]).max(axis=(1, 2)) > detector.pixel_threshold_).mean())
        marked.append(detector.predict_mask(X[19:]).any(axis=(1, 2)).mean())
    for own in (rates, marked):
        assert 0.03 < np.mean(own) <= 0.1 + 2 * np.std(own) / 5


def test_corrections_change_the_pixel_threshold_with_the_threshold(squares, unseen_squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, epsilon=0.1, normal_coreset=1.0, max_false_alarm_rate=0.3).fit(X, y, masks=masks)
    before = detector.threshold_, detector.pixel_threshold_
    detector.partial_fit(X[y == 1][:1], [1], masks=masks[y == 1][:1])  # brings nothing new
    assert (detector.threshold_, detector.pixel_threshold_) == pytest.approx(before, rel=0.01)
    new = (X[y == 0][:6] // 2).astype(np.uint8)  # images under another lamp
    detector.partial_fit(new, np.zeros(6, dtype=int))
    refitted = clone(detector).fit(np.concatenate([X, new]), [*y, *[0] * 6], masks=[*masks, *[None] * 6])
    assert detector.pixel_threshold_ == pytest.approx(refitted.pixel_threshold_, rel=0.2)
    assert detector.pixel_threshold_ != before[1]
    detector.partial_fit(new[:1], [0])  # further corrections still work
    assert np.isfinite(detector.pixel_threshold_)


# Regions


def test_regions_are_the_connected_pixels_with_their_places_and_sizes():
    pixel_map = np.zeros((10, 12), dtype=np.float32)
    pixel_map[1:4, 2:5] = 2
    pixel_map[4, 5] = 8  # touches the square at a corner
    pixel_map[7, 8:12] = [9, 3, 3, 3]
    small, large = connected_regions(pixel_map > 0, pixel_map)
    assert small == {
        "box": (7, 8, 8, 12),
        "area": 4,
        "centroid": (7.0, 9.5),
        "peak": (7, 8),
        "peak_score": 9.0,
        "mean_score": 4.5,
        "equivalent_diameter": pytest.approx(np.sqrt(16 / np.pi)),
    }
    assert (large.area, large.box, large.peak) == (10, (1, 2, 5, 6), (4, 5))
    assert connected_regions(pixel_map > 0, pixel_map, min_area=5) == [large]
    assert connected_regions(pixel_map > 99, pixel_map) == []
    millimetres, _ = connected_regions(pixel_map > 0, pixel_map, pixel_size=(0.5, 0.1))
    assert millimetres.area == pytest.approx(4 * 0.05)
    assert millimetres.box == pytest.approx((3.5, 0.8, 4.0, 1.2))
    assert millimetres.centroid == pytest.approx((3.75, 1.0))
    assert millimetres.peak == pytest.approx((3.75, 0.85))
    assert millimetres.equivalent_diameter == pytest.approx(np.sqrt(4 * 0.2 / np.pi))
    assert len(connected_regions(pixel_map > 0, pixel_map, min_area=0.3, pixel_size=(0.5, 0.1))) == 1


def test_regions_share_out_the_mask_and_lie_in_their_boxes():
    pixel_map = ndimage.gaussian_filter(np.random.RandomState(0).normal(size=(60, 80)), 2).astype(np.float32)
    mask = pixel_map > 0.1
    regions = connected_regions(mask, pixel_map)
    assert len(regions) > 5
    assert sum(region.area for region in regions) == mask.sum()
    assert sum(region.area * region.mean_score for region in regions) == pytest.approx(pixel_map[mask].sum(), rel=1e-5)
    assert [region.peak_score for region in regions] == sorted((r.peak_score for r in regions), reverse=True)
    for region in regions:
        top, left, bottom, right = region.box
        assert top <= region.centroid[0] < bottom
        assert left <= region.centroid[1] < right
        assert pixel_map[region.peak] == region.peak_score


# Refused calls


@pytest.mark.parametrize("method", ["predict_regions", "inspect", "iter_inspect"])
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"min_area": -1}, r"^min_area: expected a number >= 0, got -1\."),
        ({"min_area": "large"}, r"^min_area: expected a number >= 0, got 'large'\."),
        ({"min_area": float("nan")}, r"^min_area: expected a number >= 0, got nan\."),
        ({"pixel_size": 0}, r"^pixel_size: expected .* a number > 0, .*, got 0\."),
        ({"pixel_size": (0.1, -0.1)}, r"^pixel_size: .* got \(0\.1, -0\.1\)\."),
        ({"pixel_size": (1, 1, 1)}, r"^pixel_size: .* two of them \(height, width\), got \(1, 1, 1\)\."),
        ({"pixel_size": "0.1"}, r"^pixel_size: .* got '0\.1'\."),
        ({"pixel_size": float("inf")}, r"^pixel_size: .* got inf\."),
    ],
    ids=str,
)
def test_sizes_that_are_no_sizes_are_refused(method, params, message, fit_once, squares):
    with pytest.raises(ValueError, match=message):
        getattr(fit_once(DETECTORS[0]), method)(squares[0], **params)


@pytest.mark.parametrize("method", ["predict_mask", "predict_regions", "inspect", "iter_inspect"])
def test_feature_rows_and_unfitted_detectors_have_no_masks(method, cells):
    X = np.random.RandomState(0).normal(size=(20, 3))
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(ExDDDetector(cells), method)(X)
    detector = ExDDDetector().fit(X)
    assert not hasattr(detector, "pixel_threshold_")
    with pytest.raises(ValueError, match=rf"^{method.removeprefix('iter_')}: expected images, got feature rows, which"):
        getattr(detector, method)(X)


def test_a_detector_without_a_pixel_threshold_says_to_fit_again(squares):
    X, y, _ = squares
    detector = Brightness(with_maxima=False).fit(X[y == 0])
    for method in ("predict_mask", "predict_regions"):
        with pytest.raises(ValueError, match=rf"^{method}: expected a detector with pixel_threshold_, .* fit it again"):
            getattr(detector, method)(X)
    (result,) = detector.inspect(X[:1])
    assert result.mask is None
    assert result.regions is None
    assert result.score == detector.score_samples(X[:1])[0]
    del detector.calibration_scores_
    assert detector.inspect(X[:1])[0].p_value is None


def test_a_detector_of_ones_own_is_inspected_by_its_scores_and_maps(squares):
    X, y, _ = squares
    detector = Brightness().fit(X[y == 0])
    results = detector.inspect(X)
    np.testing.assert_array_equal([result.label for result in results], detector.predict(X))
    np.testing.assert_array_equal([result.mask for result in results], detector.predict_mask(X))
    np.testing.assert_array_equal([result.mask.sum() for result in results], np.where(y == 1, 256, 0))
    assert results[np.flatnonzero(y)[0]].explanation is None


@pytest.mark.parametrize("name", ["exdd", "student_teacher"])
def test_a_model_of_an_earlier_version_is_inspected_and_says_what_it_lacks(name):
    detector = persistence.load(Path(__file__).parent / "data" / f"{name}_format_1.safetensors")
    X, _, _ = make_surface_defects(2, image_shape=(32, 32), random_state=1)
    with pytest.raises(ValueError, match=r"^predict_mask: .* without it. If it was fitted by an earlier version"):
        detector.predict_mask(X)
    results = detector.inspect(X)
    assert [result.score for result in results] == detector.score_samples(X).tolist()
    assert [result.regions for result in results] == [None, None]
    if hasattr(detector, "partial_fit"):
        detector.partial_fit(X[:1], [detector.classes_[0]])
        assert not hasattr(detector, "pixel_threshold_")
