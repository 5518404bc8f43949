"""Corrections by partial_fit."""

import copy

import joblib
import numpy as np
import pytest
from naive_exdd import (
    EVERYTHING,
    assert_finds,
    assert_same_detector,
    assert_same_rows,
    lie_on,
    naive_distances,
    naive_threshold,
    patch_rows,
    places,
)

from sklearn_exdd import ExDDDetector
from sklearn_exdd.datasets import make_surface_defects


def new_kind_of_image(seed, n_images=1):
    """Return noise images with a dark stripe, and the masks of the stripe. Other images have no stripe."""
    X = np.random.RandomState(seed).randint(90, 111, size=(n_images, 64, 64))
    X[:, :, 20:28] -= 60
    mask = np.zeros((n_images, 64, 64), dtype=bool)
    mask[:, :, 20:28] = True
    return X.astype(np.uint8), mask


@pytest.mark.parametrize("dual", [False, True], ids=["one class", "dual"])
def test_a_corrected_false_alarm_is_no_alarm_any_more(dual, squares, unseen_squares, cells):
    X, y, masks = squares
    alarm, _ = new_kind_of_image(0)
    detector = ExDDDetector(cells, n_neighbors=1, epsilon="scale", random_state=0)
    detector.fit(X, y, masks=masks) if dual else detector.fit(X[y == 0])
    if not dual:
        assert detector.predict(alarm) == [1]
    score, n_rows = detector.score_samples(alarm)[0], len(detector.normal_bank_)
    assert detector.partial_fit(alarm, [0]) is detector
    assert detector.score_samples(alarm)[0] < score
    assert detector.decision_function(alarm)[0] < 0
    assert len(detector.normal_bank_) > n_rows
    # The same stripe in other noise is now normal. The squares are still defects.
    again, _ = new_kind_of_image(1, 3)
    np.testing.assert_array_equal(detector.predict(again), [0, 0, 0])
    if dual:
        assert_finds(detector, unseen_squares[0], unseen_squares[1] == 1)


def test_a_false_alarm_that_lies_among_the_normals_but_on_a_defect_is_corrected():
    X = np.random.RandomState(0).normal(size=(200, 2))
    alarm = np.array([[0.4, 0.4]])
    detector = ExDDDetector(n_neighbors=1, epsilon=1e-6, max_false_alarm_rate=0.05, normal_coreset=1.0)
    detector.fit(X, X_defect=alarm)
    assert detector.predict(alarm) == [1]
    assert detector.score_samples(alarm) > 1000
    detector.partial_fit(alarm, [0])
    assert detector.score_samples(alarm) == 0
    assert detector.predict(alarm) == [0]


def test_what_is_new_among_normals_is_added_even_where_it_raised_no_alarm():
    X = np.random.RandomState(0).normal(size=(200, 2))
    detector = ExDDDetector(n_neighbors=1, epsilon=1e-6, normal_coreset=1.0).fit(X, X_defect=[[4.5, 0]])
    new = np.array([[-4.5, 0.0]])
    assert detector.predict(new) == [0]
    assert detector.explain(new)[0]["normal_distance"] > 1
    detector.partial_fit(new, [0])
    assert len(detector.normal_bank_) == 201
    assert detector.score_samples(new) == 0


def test_what_is_known_already_is_not_added_to_the_normal_bank(squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, n_neighbors=1, max_false_alarm_rate=0.2, **EVERYTHING).fit(X, y, masks=masks)
    n_rows = len(detector.normal_bank_)
    detector.partial_fit(X[y == 0][:2], [0, 0])
    assert len(detector.normal_bank_) == n_rows


@pytest.mark.parametrize("n_neighbors", [1, 3])
@pytest.mark.parametrize("with_masks", [False, True], ids=["without masks", "with masks"])
def test_a_corrected_miss_is_found_the_next_time(n_neighbors, with_masks, squares, unseen_squares, cells):
    X, y, masks = squares
    miss, mask = new_kind_of_image(0)
    # In brightness, a dark stripe is as far as possible from a bright square, so the detector misses it.
    detector = ExDDDetector(cells, n_neighbors=n_neighbors, epsilon="scale", random_state=0).fit(X, y, masks=masks)
    scores = detector.score_samples(new_kind_of_image(1, 3)[0])
    n_rows = len(detector.defect_bank_)
    detector.partial_fit(miss, [1], masks=mask if with_masks else None)
    again = detector.score_samples(new_kind_of_image(1, 3)[0])
    assert (again > 2 * scores).all()
    np.testing.assert_array_equal(detector.predict(new_kind_of_image(1, 3)[0]), [1, 1, 1])
    assert_finds(detector, unseen_squares[0], unseen_squares[1] == 1)
    added = places(detector.defect_bank_)[n_rows:]
    assert len(added) > 0
    assert lie_on(mask[0], added).mean() > (0.999 if with_masks else 0.8)


def test_the_first_defect_turns_one_class_into_the_ratio(squares, unseen_squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, epsilon=0.1, random_state=0, **EVERYTHING).fit(X[y == 0])
    detector.partial_fit(X[y == 1], y[y == 1], masks=masks[y == 1])
    dual = ExDDDetector(cells, epsilon=0.1, random_state=0, **EVERYTHING).fit(X[y == 0], X[y == 1], masks=masks[y == 1])
    assert_same_rows(detector.defect_bank_, dual.defect_bank_)
    np.testing.assert_array_equal(detector.score_samples(unseen_squares[0]), dual.score_samples(unseen_squares[0]))
    assert detector.explain(X[:1])[0]["defect_distance"] is not None
    assert_finds(detector, unseen_squares[0], unseen_squares[1] == 1)


def test_the_first_call_of_partial_fit_is_fit(squares, unseen_squares, cells):
    X, y, masks = squares
    first = ExDDDetector(cells, random_state=0).partial_fit(X, y, masks=masks, classes=[0, 1])
    assert_same_detector(first, ExDDDetector(cells, random_state=0).fit(X, y, masks=masks), unseen_squares[0])


def test_corrections_of_both_kinds_can_come_in_one_call(squares, cells):
    X, y, masks = squares
    images = np.concatenate([new_kind_of_image(0)[0], X[y == 1][:1], new_kind_of_image(1)[0]])
    labels, corrected = [0, 1, 0], [None, masks[y == 1][0], None]
    together = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks)
    n_normal, n_defect = len(together.normal_bank_), len(together.defect_bank_)
    together.partial_fit(images, labels, masks=corrected)
    assert len(together.normal_bank_) > n_normal
    assert len(together.defect_bank_) > n_defect
    # The new images continue the numbering, in the order of the call.
    assert set(together.normal_bank_.provenance["image"][n_normal:]) == {len(X), len(X) + 2}
    assert set(together.defect_bank_.provenance["image"][n_defect:]) == {len(X) + 1}
    together.partial_fit(new_kind_of_image(2, 2)[0], [0, 1])
    assert together.normal_bank_.provenance["image"][-1] == len(X) + 3
    assert together.defect_bank_.provenance["image"][-1] == len(X) + 4
    # Each image is its own group. Scoring one image therefore leaves out no other image.
    for bank in (together.normal_bank_, together.defect_bank_):
        pairs = set(zip(bank.provenance["image"].tolist(), bank.provenance["group"].tolist()))
        assert len(pairs) == len({image for image, _ in pairs}) == len({group for _, group in pairs})


@pytest.mark.parametrize("n_top_patches", [1, 3])
@pytest.mark.parametrize("dual", [False, True], ids=["one class", "dual"])
@pytest.mark.parametrize("rate", [0.05, 0.3])
@pytest.mark.parametrize(("side", "tolerance"), [(24, 1e-4), (64, 0.05)], ids=["9 patches", "64 patches"])
def test_the_threshold_follows_the_banks(n_top_patches, dual, rate, side, tolerance, squares, cells):
    # To update the threshold, all patches are kept if there are few, and otherwise only patches that can affect it.
    middle = slice(32 - side // 2, 32 + side // 2)
    X, y, masks = squares[0][:, middle, middle], squares[1], squares[2][:, middle, middle]
    kept = (y == 0) | masks.any(axis=(1, 2))
    X, y, masks = X[kept], y[kept], masks[kept]
    detector = ExDDDetector(
        cells, n_neighbors=1, n_top_patches=n_top_patches, epsilon=0.1, max_false_alarm_rate=rate, **EVERYTHING
    )
    detector.fit(X, y, masks=masks) if dual else detector.fit(X[y == 0])
    alarms = new_kind_of_image(0, 2)[0][:, :side, :side]
    stripe, miss_masks = (one[:, :side, :side] for one in new_kind_of_image(1))
    misses = 200 - stripe  # a bright stripe
    before = detector.threshold_
    detector.partial_fit(np.concatenate([alarms, misses]), [0, 0, 1], masks=[None, None, miss_masks[0]])
    # Score each normal image with the current banks without the image's own rows.
    normal_bank, defect_bank = detector.normal_bank_, detector.defect_bank_
    n_known = len(X) if dual else 12
    indices = [*(np.flatnonzero(y == 0) if dual else range(12)), n_known, n_known + 1]
    scores = []
    for index, image in zip(indices, [*X[y == 0], *alarms]):
        patches, _ = patch_rows(detector, image)
        normal = naive_distances(normal_bank, patches, 1, normal_bank.provenance["image"] != index)
        defect = naive_distances(defect_bank, patches, 1)
        epsilon = detector.epsilon_
        scores.append(np.sort(normal / (defect + epsilon))[-n_top_patches:].mean())
    assert epsilon == 0.1
    assert detector.threshold_ != before
    assert detector.threshold_ == pytest.approx(naive_threshold(scores, rate), rel=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", ["scale", 1e-6])
def test_a_correction_without_news_leaves_the_threshold_as_it_was(epsilon):
    X, y, masks = make_surface_defects(30, image_shape=(160, 160), random_state=0)
    params = {"max_defect_patches": None, "max_false_alarm_rate": 0.2, "epsilon": epsilon, "random_state": 0}
    detector = ExDDDetector("gabor", n_neighbors=1, **params).fit(X, y, masks=masks)
    before, n_rows = detector.threshold_, len(detector.defect_bank_)
    detector.partial_fit(X[y == 1][:1], [1], masks=masks[y == 1][:1])
    # Rows equal to existing rows were added, so no distance has changed.
    assert len(detector.defect_bank_) > n_rows
    assert detector.threshold_ == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda X, y: (X, [0, 2, 1]), ValueError, r"expected 3 labels among \[0, 1\], got 3 with \[2\]"),
        (lambda X, y: (X, y[:2]), ValueError, r"expected 3 labels, one for each sample of X, got 2"),
        (lambda X, y: (X[..., None].repeat(3, axis=3), y), ValueError, r"expected 1 channel \(grey\).*got 3 channels"),
        (lambda X, y: ([X[0] / 255, X[1] / 255, np.full((64, 64), np.nan)], y), ValueError, r"X\[2\].*finite"),
        (lambda X, y: (["missing.png"] * 3, y), FileNotFoundError, "missing.png"),
    ],
    ids=["unknown label", "too few labels", "channels", "NaN", "missing file"],
)
def test_a_partial_fit_that_fails_leaves_the_detector_as_it_was(change, error, match, squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks)
    before = joblib.hash(detector)
    with pytest.raises(error, match=match):
        detector.partial_fit(*change(X[:3], y[:3]))
    assert joblib.hash(detector) == before


def test_a_partial_fit_interrupted_between_the_banks_leaves_the_detector_as_it_was(squares, cells, monkeypatch):
    X, y, masks = squares
    detector = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks)
    before = joblib.hash(detector)

    def interrupt(self, defect, synthetic=False):
        raise KeyboardInterrupt

    monkeypatch.setattr(ExDDDetector, "_defect_patches", interrupt)
    with pytest.raises(KeyboardInterrupt):
        detector.partial_fit(np.concatenate([new_kind_of_image(0)[0], X[y == 1]]), [0] + [1] * 6)
    assert joblib.hash(detector) == before


def test_a_corrected_detector_can_be_stored_and_fitted_anew(squares, unseen_squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks)
    detector.partial_fit(new_kind_of_image(0)[0], [0])
    assert_same_detector(copy.deepcopy(detector), detector, unseen_squares[0])
    fresh = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks)
    assert_same_detector(detector.fit(X, y, masks=masks), fresh, unseen_squares[0])
