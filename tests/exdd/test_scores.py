"""Scores and maps, compared with plain loops that compute the published formula."""

from itertools import pairwise

import numpy as np
import pytest
from naive_exdd import EVERYTHING, distances_to, naive_distances, naive_threshold, patch_rows

from sklearn_exdd import ExDDDetector, TorchvisionFeatureExtractor


def published_scores(normal_bank, defect_bank, patches, *, epsilon, n_support, same_place):
    """Compute ExDD's image score and patch scores in plain loops, as in the paper and in the authors' code."""

    def distance(one, other):
        return sum((float(a) - float(b)) ** 2 for a, b in zip(one, other)) ** 0.5

    def nearest(patch, bank):
        distances = [distance(patch, row) for row in bank]
        return min(distances), distances.index(min(distances))

    def softmax_share(patch, bank):
        s, m = nearest(patch, bank)
        around = sorted(range(len(bank)), key=lambda j: distance(bank[m], bank[j]))[:n_support]
        around.remove(m)
        scale = len(patch) ** 0.5
        return np.exp(s / scale) / sum(np.exp(distance(patch, bank[j]) / scale) for j in around)

    from_normal = [nearest(patch, normal_bank)[0] for patch in patches]
    farthest = from_normal.index(max(from_normal))
    normal_weight = 1 - softmax_share(patches[farthest], normal_bank)
    if defect_bank is None:
        return normal_weight * max(from_normal), from_normal
    from_defect = [nearest(patch, defect_bank)[0] for patch in patches]
    place = farthest if same_place else from_defect.index(max(from_defect))
    defect_weight = softmax_share(patches[place], defect_bank)
    score = normal_weight * max(from_normal) / (defect_weight * from_defect[place] + epsilon)
    return score, [a / (b + epsilon) for a, b in zip(from_normal, from_defect)]


def naive_upsample(values, row_centers, column_centers, shape):
    def neighbours(position, centers):
        position = min(max(position, centers[0]), centers[-1])
        for i, (low, high) in enumerate(pairwise(centers)):
            if low <= position <= high:
                return [(i, (high - position) / (high - low)), (i + 1, (position - low) / (high - low))]
        return [(0, 1.0)]

    pixels = np.zeros(shape)
    for row in range(shape[0]):
        for column in range(shape[1]):
            for i, row_weight in neighbours(row, row_centers):
                for j, column_weight in neighbours(column, column_centers):
                    pixels[row, column] += row_weight * column_weight * values[i][j]
    return pixels


@pytest.mark.parametrize("image_score", ["exdd_code", "exdd"])
@pytest.mark.parametrize("dual", [False, True], ids=["one class", "dual"])
@pytest.mark.parametrize("n_support", [2, 3, 5])
def test_scores_and_maps_are_the_published_formula(image_score, dual, n_support, squares, unseen_squares, cells):
    X, y, _ = squares
    detector = ExDDDetector(
        cells, n_neighbors=1, epsilon=1e-6, image_score=image_score, n_support=n_support, blur=0, **EVERYTHING
    )
    if dual:
        # The mask covers the whole image, as in the authors' code, which crops defects.
        detector.fit(X[y == 0][:4], X[y == 1][:2], masks=np.ones((2, 64, 64), dtype=bool))
        assert len(detector.defect_bank_) == 2 * 64
    else:
        detector.fit(X[y == 0][:4])
    normal_bank = np.concatenate([patch_rows(detector, image)[0] for image in X[y == 0][:4]])
    defect_bank = np.concatenate([patch_rows(detector, image)[0] for image in X[y == 1][:2]]) if dual else None
    images = [unseen_squares[0][1], unseen_squares[0][4, :57, :49]]
    scores, maps = detector.score_samples(images), detector.predict_map(images)
    for image, score, pixel_map in zip(images, scores, maps):
        patches, _ = patch_rows(detector, image)
        expected, patch_scores = published_scores(
            normal_bank, defect_bank, patches, epsilon=1e-6, n_support=n_support, same_place=image_score == "exdd"
        )
        assert score == pytest.approx(expected, rel=1e-3)
        shape = cells.transform([image])[0].shape[:2]
        centers = cells.patch_centers(shape, image.shape)
        expected_map = naive_upsample(np.reshape(patch_scores, shape), *centers, image.shape)
        np.testing.assert_allclose(pixel_map, expected_map, rtol=1e-3)


@pytest.mark.slow
def test_scores_are_the_published_formula_on_features_of_a_backbone(squares, unseen_squares):
    X, y, _ = squares
    extractor = TorchvisionFeatureExtractor("resnet18", weights=None)
    detector = ExDDDetector(
        extractor, n_neighbors=1, epsilon=1e-6, image_score="exdd_code", n_support=3, blur=0, **EVERYTHING
    ).fit(X[y == 0][:2], X[y == 1][:1], masks=np.ones((1, 64, 64), dtype=bool))
    normal_bank = np.concatenate(extractor.transform(X[y == 0][:2])).reshape(-1, 384)
    defect_bank = extractor.transform(X[y == 1][:1])[0].reshape(-1, 384)
    image = unseen_squares[0][:1, :32, :40]
    patches = extractor.transform(image)[0].reshape(-1, 384)
    expected, patch_scores = published_scores(
        normal_bank, defect_bank, patches, epsilon=1e-6, n_support=3, same_place=False
    )
    assert detector.score_samples(image)[0] == pytest.approx(expected, rel=1e-3)
    centers = extractor.patch_centers((4, 5), (32, 40))
    expected_map = naive_upsample(np.reshape(patch_scores, (4, 5)), *centers, (32, 40))
    np.testing.assert_allclose(detector.predict_map(image)[0], expected_map, rtol=1e-3)


def test_the_weighted_score_takes_both_distances_at_one_place(squares, unseen_squares, cells):
    X, y, masks = squares
    params = {"n_neighbors": 1, "epsilon": 0.1, **EVERYTHING}
    published, as_in_code = (
        ExDDDetector(cells, image_score=name, **params).fit(X, y, masks=masks) for name in ("exdd", "exdd_code")
    )
    image = unseen_squares[0][unseen_squares[1] == 1][:1]
    np.testing.assert_array_equal(published.predict_map(image), as_in_code.predict_map(image))
    # The authors' code divides by the largest distance to the defect bank, which belongs to a normal patch here.
    assert published.score_samples(image)[0] > 2 * as_in_code.score_samples(image)[0]


@pytest.mark.parametrize("n_top_patches", [1, 4, 1000])
@pytest.mark.parametrize("n_neighbors", [1, 3])
def test_the_default_score_is_the_mean_of_the_highest_ratios(
    n_top_patches, n_neighbors, squares, unseen_squares, cells
):
    X, y, masks = squares
    detector = ExDDDetector(
        cells, n_top_patches=n_top_patches, n_neighbors=n_neighbors, epsilon=0.01, image_score="top_mean", **EVERYTHING
    ).fit(X, y, masks=masks)
    for image, score in zip(unseen_squares[0], detector.score_samples(unseen_squares[0])):
        patches, _ = patch_rows(detector, image)
        normal = naive_distances(detector.normal_bank_, patches, n_neighbors)
        defect = naive_distances(detector.defect_bank_, patches, n_neighbors)
        assert score == pytest.approx(np.sort(normal / (defect + 0.01))[-n_top_patches:].mean(), rel=1e-4)


@pytest.mark.parametrize("n_defect_rows", [4, 40])
def test_by_default_the_normal_bank_is_asked_for_one_neighbour_and_the_defect_bank_for_several(
    n_defect_rows, squares, unseen_squares, cells
):
    X, y, masks = squares
    detector = ExDDDetector(cells, n_neighbors="auto", blur=0, random_state=0)
    detector.set_params(**EVERYTHING).set_params(defect_coreset=n_defect_rows).fit(X, y, masks=masks)
    assert len(detector.defect_bank_) >= min(n_defect_rows, 20)
    for image, explanation in zip(unseen_squares[0], detector.explain(unseen_squares[0])):
        patches, centers = patch_rows(detector, image)
        (worst,) = patches[(centers == explanation["patch"]).all(axis=1)]
        assert explanation["normal_distance"] == pytest.approx(
            distances_to(detector.normal_bank_.features, worst).min()
        )
        distances = np.sort(distances_to(detector.defect_bank_.features, worst))
        # In a small bank, the mean is over all rows. In a larger bank, it is over the nearest rows.
        means = np.cumsum(distances) / np.arange(1, len(distances) + 1)
        counts = 1 + np.flatnonzero(np.isclose(means, explanation["defect_distance"], rtol=1e-5))
        assert len(counts) == 1
        assert counts[0] == 4 if n_defect_rows == 4 else 1 < counts[0] < len(distances)


def test_by_default_a_bank_of_one_row_will_do(squares, cells):
    X, y, _ = squares
    detector = ExDDDetector(cells, n_neighbors="auto", max_defect_patches=1).fit(X[y == 0], X[y == 1][:1])
    assert len(detector.defect_bank_) == 1
    assert np.isfinite(detector.decision_function(X)).all()


@pytest.mark.slow
@pytest.mark.parametrize("border_rings", [0, 2, 9])
def test_scores_are_in_units_of_what_is_normal_at_their_distance_from_the_border(border_rings, surfaces, cells):
    X, y, masks = surfaces
    params = {"n_neighbors": 1, "epsilon": 0.1, "n_top_patches": 3, "image_score": "top_mean", **EVERYTHING}
    plain = ExDDDetector(cells, **params).fit(X, y, masks=masks)
    detector = ExDDDetector(cells, **params).set_params(border_rings=border_rings).fit(X, y, masks=masks)
    ring = [min(row, column, 7 - row, 7 - column, border_rings) for row in range(8) for column in range(8)]

    def patch_scores(image, kept):
        patches, _ = patch_rows(detector, image)
        normal = naive_distances(detector.normal_bank_, patches, 1, kept)
        return normal / (naive_distances(detector.defect_bank_, patches, 1) + 0.1)

    scores = np.array(
        [patch_scores(X[i], detector.normal_bank_.provenance["image"] != i) for i in np.flatnonzero(y == 0)]
    )
    every = slice(None)

    def factors_of(scores):
        levels = [np.quantile(scores[:, np.equal(ring, i)], 0.9) for i in range(max(ring) + 1)]
        return np.maximum(np.divide(levels, levels[-1]), 1)[ring]

    factors = factors_of(scores)
    for image, score in zip(X[:4], detector.score_samples(X[:4])):
        assert score == pytest.approx(np.sort(patch_scores(image, every) / factors)[-3:].mean(), rel=1e-4)
    # The calibration score of an image uses the border profile of the other images.
    image_scores = [np.sort(own / factors_of(np.delete(scores, i, axis=0)))[-3:].mean() for i, own in enumerate(scores)]
    assert detector.threshold_ == pytest.approx(naive_threshold(image_scores, 0.01), rel=1e-4)
    np.testing.assert_array_equal(detector.predict_map(X), plain.predict_map(X))


def test_the_blur_is_a_gaussian_of_the_map_without_it(squares, unseen_squares, cells):
    from scipy.ndimage import gaussian_filter

    X, y, _ = squares
    sharp, blurred = (ExDDDetector(cells, blur=blur, random_state=0).fit(X, y) for blur in (0, 3.0))
    for one, other in zip(sharp.predict_map(unseen_squares[0]), blurred.predict_map(unseen_squares[0])):
        np.testing.assert_allclose(other, gaussian_filter(one, 3.0), rtol=1e-4)
    np.testing.assert_array_equal(sharp.score_samples(unseen_squares[0]), blurred.score_samples(unseen_squares[0]))


def test_epsilon_scale_is_a_share_of_the_median_distance_of_normal_patches_to_the_defect_bank(squares, cells):
    X, y, masks = squares
    rng = np.random.RandomState(0)
    shares = []
    for n_normal, n_defect, n_neighbors in [(12, 6, 1), (12, 6, 3), (5, 2, 1)]:
        rows = np.concatenate([np.flatnonzero(y == 0)[:n_normal], np.flatnonzero(y == 1)[:n_defect]])
        detector = ExDDDetector(cells, epsilon="scale", n_neighbors=n_neighbors, **EVERYTHING)
        detector.fit(X[rows], y[rows], masks=masks[rows])
        patches = np.concatenate([patch_rows(detector, image)[0] for image in X[rows[:n_normal]]])
        shares.append(detector.epsilon_ / np.median(naive_distances(detector.defect_bank_, patches, n_neighbors)))
    X_rows, X_defect = rng.normal(size=(50, 3)), rng.normal(3, 1, size=(20, 3))
    detector = ExDDDetector(epsilon="scale", n_neighbors=2, **EVERYTHING).fit(X_rows, X_defect=X_defect)
    shares.append(detector.epsilon_ / np.median(naive_distances(detector.defect_bank_, X_rows, 2)))
    np.testing.assert_allclose(shares, shares[0], rtol=1e-4)
    assert 0.01 < shares[0] < 1.01
    assert ExDDDetector(cells, epsilon=0.25).fit(X, y).epsilon_ == 0.25


def test_epsilon_scale_makes_the_ratio_free_of_the_unit_of_the_features():
    rng = np.random.RandomState(0)
    X, X_defect = rng.normal(size=(50, 3)), rng.normal(3, 1, size=(20, 3))
    small = ExDDDetector(epsilon="scale", random_state=0).fit(X, X_defect=X_defect)
    large = ExDDDetector(epsilon="scale", random_state=0).fit(1e4 * X, X_defect=1e4 * X_defect)
    np.testing.assert_allclose(large.score_samples(1e4 * X), small.score_samples(X), rtol=1e-6)
