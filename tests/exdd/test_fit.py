"""Arguments of fit, interruptions of fit, and feature extractors that fit accepts."""

import joblib
import numpy as np
import pytest
from naive_exdd import assert_finds, assert_same_detector, assert_same_rows, naive_distances, patch_rows, places
from sklearn.base import clone

from sklearn_exdd import ExDDDetector
from sklearn_exdd.features import make_feature_extractor

# Ways to call fit


@pytest.fixture
def apart(surfaces):
    """Return the normal images, the defect images and the masks of the defect images."""
    X, y, masks = surfaces
    return X[y == 0], X[y == 1], masks[y == 1]


@pytest.mark.parametrize("with_masks", [False, True], ids=["without masks", "with masks"])
def test_the_ways_to_pass_defect_images_are_the_same(with_masks, apart, unseen_surfaces, write_images):
    X_normal, X_defect, defect_masks = apart
    detector = ExDDDetector(random_state=0)
    masks = defect_masks if with_masks else None
    expected = clone(detector).fit(X_normal, X_defect=X_defect, masks=masks)
    paths = write_images(X_defect)
    for as_y in (X_defect, list(X_defect), tuple(X_defect), paths, X_defect[..., None]):
        other = clone(detector).fit(X_normal, as_y, masks=masks)
        assert_same_detector(other, expected, unseen_surfaces[0])
    labels = np.repeat([0, 1], [len(X_normal), len(X_defect)])
    aligned = [None] * len(X_normal) + list(defect_masks) if with_masks else None
    labelled = clone(detector).fit(np.concatenate([X_normal, X_defect]), labels, masks=aligned)
    assert_same_detector(labelled, expected, unseen_surfaces[0])


def test_the_order_of_the_labels_does_not_matter(apart, surfaces, unseen_surfaces):
    X, y, masks = surfaces
    X_normal, X_defect, defect_masks = apart
    mixed = ExDDDetector(random_state=0).fit(X, y, masks=masks)
    assert_same_detector(
        mixed, ExDDDetector(random_state=0).fit(X_normal, X_defect, masks=defect_masks), unseen_surfaces[0]
    )


def test_masks_change_the_defect_bank_only(apart):
    X_normal, X_defect, masks = apart
    with_masks = ExDDDetector(random_state=0).fit(X_normal, X_defect, masks=masks)
    without = ExDDDetector(random_state=0).fit(X_normal, X_defect)
    assert_same_rows(with_masks.normal_bank_, without.normal_bank_)
    assert with_masks.defect_bank_.features.shape != without.defect_bank_.features.shape


def test_a_mask_of_none_leaves_that_image_to_the_rule_without_masks(apart, unseen_surfaces):
    X_normal, X_defect, masks = apart
    without = ExDDDetector(random_state=0, defect_coreset=1.0).fit(X_normal, X_defect)
    all_none = ExDDDetector(random_state=0, defect_coreset=1.0).fit(X_normal, X_defect, masks=[None] * len(masks))
    assert_same_detector(all_none, without, unseen_surfaces[0])
    with_masks = ExDDDetector(random_state=0, defect_coreset=1.0).fit(X_normal, X_defect, masks=masks)
    some = ExDDDetector(random_state=0, defect_coreset=1.0).fit(X_normal, X_defect, masks=[None, *masks[1:]])
    for image, expected in [(0, without), (1, with_masks)]:
        own, expected_own = (bank.provenance["image"] == image for bank in (some.defect_bank_, expected.defect_bank_))
        np.testing.assert_array_equal(places(some.defect_bank_)[own], places(expected.defect_bank_)[expected_own])


def test_one_class_scores_are_distances_to_the_normal_bank(apart, unseen_surfaces):
    detector = ExDDDetector(n_neighbors=3, n_top_patches=2, border_rings=0, random_state=0).fit(apart[0])
    assert detector.defect_bank_ is None
    np.testing.assert_array_equal(detector.classes_, [0, 1])
    for image, score in zip(unseen_surfaces[0], detector.score_samples(unseen_surfaces[0])):
        distances = naive_distances(detector.normal_bank_, patch_rows(detector, image)[0], 3)
        assert score == pytest.approx(np.sort(distances)[-2:].mean(), rel=1e-4)


def test_labels_that_are_all_normal_are_one_class(apart, unseen_surfaces):
    X_normal = apart[0]
    expected = ExDDDetector(random_state=0).fit(X_normal)
    for labels in (np.zeros(len(X_normal), dtype=int), np.zeros(len(X_normal), dtype=bool)):
        assert_same_detector(ExDDDetector(random_state=0).fit(X_normal, labels), expected, unseen_surfaces[0])
    named = ExDDDetector(pos_label="scratched", random_state=0).fit(X_normal, ["fine"] * len(X_normal))
    np.testing.assert_array_equal(named.classes_, ["fine", "scratched"])
    assert_same_detector(named, expected, unseen_surfaces[0])


@pytest.mark.parametrize(("normal", "defect"), [("good", "scratched"), (False, True), (3, 7), (-1.0, 0.0)], ids=str)
def test_the_class_that_sorts_last_means_defect(normal, defect, squares, unseen_squares, cells):
    X, y, _ = squares
    detector = ExDDDetector(cells, random_state=0).fit(X, np.where(y == 1, defect, normal))
    np.testing.assert_array_equal(detector.classes_, [normal, defect])
    labels = detector.predict(unseen_squares[0])
    assert labels.dtype == detector.classes_.dtype
    assert set(labels.tolist()) == {normal, defect}
    expected = np.where(detector.decision_function(unseen_squares[0]) > 0, defect, normal)
    np.testing.assert_array_equal(labels, expected)
    assert_finds(detector, unseen_squares[0], unseen_squares[1] == 1)


def test_pos_label_names_the_defect_and_warns_where_it_sorts_first(squares, unseen_squares, cells):
    X, y, _ = squares
    labels = np.where(y == 1, "bad", "good")
    detector = ExDDDetector(cells, pos_label="bad", random_state=0)
    with pytest.warns(UserWarning, match="pos_label='bad' sorts before the label of normal samples"):
        detector.fit(X, labels)
    expected = ExDDDetector(cells, random_state=0).fit(X, y)
    np.testing.assert_array_equal(
        detector.decision_function(unseen_squares[0]), expected.decision_function(unseen_squares[0])
    )
    np.testing.assert_array_equal(
        detector.predict(unseen_squares[0]), np.where(expected.predict(unseen_squares[0]) == 1, "bad", "good")
    )
    last = ExDDDetector(cells, pos_label="scratched", random_state=0).fit(X, np.where(y == 1, "scratched", "good"))
    np.testing.assert_array_equal(last.score_samples(unseen_squares[0]), expected.score_samples(unseen_squares[0]))


# Interruptions and progress


@pytest.mark.parametrize("fitted_before", [False, True])
def test_an_interrupted_fit_leaves_the_detector_as_it_was(fitted_before, squares, unseen_squares, monkeypatch):
    X, y, masks = squares
    detector = ExDDDetector(random_state=0)
    if fitted_before:
        detector.fit(X, y, masks=masks)
        scores = detector.score_samples(unseen_squares[0])
    before = joblib.hash(detector)

    def interrupt(self, images):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(make_feature_extractor("auto")), "_extract", interrupt)
        with pytest.raises(KeyboardInterrupt):
            detector.fit(X[y == 0])
    assert joblib.hash(detector) == before
    if fitted_before:
        np.testing.assert_array_equal(detector.score_samples(unseen_squares[0]), scores)


def test_a_fit_that_fails_after_the_banks_leaves_the_detector_as_it_was(squares, cells, monkeypatch):
    X, y, masks = squares
    detector = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks)
    before = joblib.hash(detector)
    with pytest.raises(ValueError, match=r"masks\[\d+\]: expected a mask of the defect, got an empty one"):
        detector.fit(X, y, masks=np.zeros_like(masks))
    assert joblib.hash(detector) == before


def test_verbose_shows_progress_on_the_error_stream_and_silence_is_the_default(squares, cells, capsys):
    X, y, _ = squares
    ExDDDetector(cells).fit(X, y).predict(X)
    assert capsys.readouterr() == ("", "")
    ExDDDetector("gabor", verbose=1).fit(X, y)
    out, err = capsys.readouterr()
    assert out == ""
    assert "features" in err
    assert "100%" in err


# Feature extractors given by name or as objects


class Brightness:
    """Extractor that is not an estimator. It only has transform(images), the only method that an extractor needs."""

    def transform(self, images):
        n, height, width, _ = images.shape
        cells = images.reshape(n, height // 16, 16, width // 16, 16)
        return cells.mean(axis=(2, 4))[..., None]


def test_any_object_with_transform_extracts_features(squares, unseen_squares):
    X, y, _ = squares
    detector = ExDDDetector(Brightness(), random_state=0).fit(X, y)
    assert_finds(detector, unseen_squares[0], unseen_squares[1] == 1)
    assert detector.predict_map(unseen_squares[0]).shape == (8, 64, 64)


def test_an_extractor_object_is_cloned_and_a_name_is_the_object_it_names(squares, unseen_squares, cells):
    X, y, _ = squares
    ExDDDetector(cells).fit(X, y)
    assert not hasattr(cells, "n_features_out_")
    named = ExDDDetector("auto", random_state=0).fit(X, y)
    given = ExDDDetector(make_feature_extractor("auto"), random_state=0).fit(X, y)
    assert_same_detector(named, given, unseen_squares[0])


def test_an_extractor_that_learns_from_defects_gets_them_with_masks(squares, cells):
    X, y, masks = squares
    seen = []

    class LearningCells(type(cells)):
        learns_from_defects, learns_from_normals = True, False

        def fit_transform(self, X, y=None, *, masks=None):
            seen.append((X, y, masks))
            return super().fit_transform(X)

    detector = ExDDDetector(LearningCells(), random_state=0).fit(X, y, masks=masks)
    ((images, labels, seen_masks),) = seen
    np.testing.assert_array_equal(images, np.concatenate([X[y == 0], X[y == 1]]))
    assert labels == [0] * 12 + [1] * 6
    assert seen_masks[:12] == [None] * 12
    np.testing.assert_array_equal(seen_masks[12:], masks[y == 1])
    assert set(detector.normal_bank_.provenance["image"]) == set(np.flatnonzero(y == 0))
    ExDDDetector(LearningCells()).fit(X[y == 0])
    assert seen[1][1] is None
