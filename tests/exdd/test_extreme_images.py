"""Fits and maps of identical images, of constant images, and of images with a single dot."""

import numpy as np
import pytest

from sklearn_exdd import ExDDDetector, GaborFeatureExtractor


@pytest.mark.parametrize("epsilon", ["scale", 1e-6])
@pytest.mark.parametrize("image_score", ["top_mean", "exdd", "exdd_code"])
def test_identical_images_in_both_banks_give_finite_scores(epsilon, image_score, squares):
    X = squares[0][:4]
    detector = ExDDDetector(epsilon=epsilon, image_score=image_score, random_state=0).fit(X, X)
    assert np.isfinite(detector.threshold_)
    assert np.isfinite(detector.decision_function(squares[0])).all()
    assert np.isfinite(detector.predict_map(squares[0])).all()


@pytest.mark.slow
@pytest.mark.parametrize("dual", [False, True], ids=["one class", "dual"])
@pytest.mark.parametrize("image_score", ["top_mean", "exdd", "exdd_code"])
@pytest.mark.parametrize("value", [0, 100, 255])
def test_constant_images_give_finite_scores(dual, image_score, value, squares):
    X = np.full((4, 64, 64), value, dtype=np.uint8)
    detector = ExDDDetector(image_score=image_score, random_state=0).fit(X, squares[0][:2] if dual else None)
    assert np.isfinite(detector.threshold_)
    for images in (X, squares[0]):
        assert np.isfinite(detector.decision_function(images)).all()
        assert np.isfinite(detector.predict_map(images)).all()
    assert detector.score_samples(squares[0]).min() > detector.score_samples(X).max()


def test_a_constant_image_among_others_is_finite_and_stands_out(squares):
    X, y, _ = squares
    detector = ExDDDetector(random_state=0).fit(X[y == 0])
    assert detector.decision_function(np.full((1, 64, 64), 100, dtype=np.uint8))[0] > 0


@pytest.mark.parametrize("shape", [(64, 64), (65, 83), (97, 131)])
@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "cells"])
def test_a_dot_is_found_where_it_is(shape, embedded, cells):
    rng = np.random.RandomState(0)
    X = rng.randint(118, 123, size=(8, *shape)).astype(np.uint8)
    detector = ExDDDetector("auto" if embedded else cells, random_state=0).fit(X)
    offsets = []
    for i in range(16):  # covers every row and column position within a patch twice
        row, column = 24 + i, 24 + 5 * i % 16
        dot = rng.randint(118, 123, size=shape).astype(np.uint8)
        dot[row, column] = 255
        (pixel_map,) = detector.predict_map([dot])
        assert pixel_map.shape == shape
        found = np.unravel_index(pixel_map.argmax(), shape)
        offsets.append((found[0] - row, found[1] - column))
    # Patches are 8 pixels apart. A dot may be found half of this distance away, but not always on the same side.
    assert np.abs(offsets).max() <= 5
    assert np.abs(np.mean(offsets, axis=0)).max() <= 1


@pytest.mark.parametrize("blur", [0, 4.0])
@pytest.mark.parametrize(("response", "farthest"), [("log", 13), ("linear", 10), (None, 10)])
def test_a_dot_near_the_border_is_not_pulled_to_it(response, farthest, blur, cells):
    rng = np.random.RandomState(0)
    X = rng.randint(118, 123, size=(8, 97, 131)).astype(np.uint8)
    extractor = GaborFeatureExtractor(response=response) if response else cells
    detector = ExDDDetector(extractor, blur=blur, random_state=0).fit(X)
    for row, column in [(10, 60), (12, 40), (15, 90), (87, 60), (40, 10), (50, 13), (60, 120)]:
        dot = rng.randint(118, 123, size=(97, 131)).astype(np.uint8)
        dot[row, column] = 255
        (pixel_map,) = detector.predict_map([dot])
        found = np.unravel_index(pixel_map.argmax(), (97, 131))
        # The filters also see the mirror image of the dot at the border. The logarithm adds to this effect, because it
        # flattens the peak.
        assert np.abs(np.subtract(found, (row, column))).max() <= farthest
