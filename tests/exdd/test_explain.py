"""Explanations, which show the decisive patch of an image and its nearest bank rows."""

import numpy as np
import pytest
from naive_exdd import EVERYTHING, distances_to, lie_on, naive_distances, patch_rows, places

from sklearn_exdd import ExDDDetector


@pytest.mark.parametrize("n_neighbors", [1, 3])
def test_an_explanation_names_the_deciding_patch_and_its_nearest_rows(n_neighbors, squares, unseen_squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, n_neighbors=n_neighbors, random_state=0).fit(X, y, masks=masks)
    explanations = detector.explain(unseen_squares[0])
    np.testing.assert_allclose(
        [one["score"] for one in explanations], detector.score_samples(unseen_squares[0]), rtol=1e-5
    )
    for image, explanation in zip(unseen_squares[0], explanations):
        patches, centers = patch_rows(detector, image)
        normal = naive_distances(detector.normal_bank_, patches, n_neighbors)
        defect = naive_distances(detector.defect_bank_, patches, n_neighbors)
        worst = int(np.argmax(normal / (defect + detector.epsilon_)))
        nearest_normal = np.argmin(distances_to(detector.normal_bank_.features, patches[worst]))
        nearest_defect = np.argmin(distances_to(detector.defect_bank_.features, patches[worst]))
        assert explanation == {
            "score": explanation["score"],
            "patch": tuple(centers[worst]),
            "normal_image": detector.normal_bank_.provenance["image"][nearest_normal],
            "normal_patch": tuple(places(detector.normal_bank_)[nearest_normal]),
            "normal_distance": pytest.approx(normal[worst], rel=1e-4),
            "defect_image": detector.defect_bank_.provenance["image"][nearest_defect],
            "defect_patch": tuple(places(detector.defect_bank_)[nearest_defect]),
            "defect_distance": pytest.approx(defect[worst], rel=1e-4),
            "synthetic": False,
            "prompt": None,
        }


def test_the_deciding_patch_lies_on_the_defect(squares, unseen_squares, cells):
    X, y, masks = squares
    for detector in (ExDDDetector(cells).fit(X, y, masks=masks), ExDDDetector(cells).fit(X[y == 0])):
        shown = unseen_squares[1] == 1
        for mask, explanation in zip(unseen_squares[2][shown], detector.explain(unseen_squares[0][shown])):
            assert lie_on(mask, [explanation["patch"]]).all()


def test_the_deciding_patch_lies_on_most_real_looking_defects(surfaces, unseen_surfaces):
    X, y, masks = surfaces
    detector = ExDDDetector(random_state=0).fit(X, y, masks=masks)
    shown = unseen_surfaces[1] == 1
    found = [
        lie_on(mask, [explanation["patch"]], reach=8).all()
        for mask, explanation in zip(unseen_surfaces[2][shown], detector.explain(unseen_surfaces[0][shown]))
    ]
    assert np.mean(found) > 0.6


@pytest.mark.parametrize("labelled", [False, True], ids=["images apart", "labels"])
def test_a_training_image_is_explained_by_itself(labelled, squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, n_neighbors=1, **EVERYTHING)
    if labelled:
        detector.fit(X, y, masks=masks)
        own_index = np.arange(len(X))
    else:
        detector.fit(X[y == 0], X[y == 1], masks=masks[y == 1])
        own_index = np.where(y == 1, np.cumsum(y == 1), np.cumsum(y == 0)) - 1
    for index, label, explanation in zip(own_index, y, detector.explain(X)):
        kind = "defect" if label else "normal"
        assert explanation[f"{kind}_image"] == index
        assert explanation[f"{kind}_patch"] == explanation["patch"]
        assert explanation[f"{kind}_distance"] == 0


def test_a_one_class_explanation_has_no_defect(squares, cells):
    X, y, _ = squares
    for explanation in ExDDDetector(cells).fit(X[y == 0]).explain(X[:3]):
        assert [explanation[key] for key in ("defect_image", "defect_patch", "defect_distance")] == [None] * 3
        assert explanation["synthetic"] is None
        assert explanation["prompt"] is None
        assert explanation["normal_distance"] >= 0
