import copy
from itertools import pairwise

import joblib
import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import make_blobs

from sklearn_exdd import ExDDDetector, GaborFeatureExtractor, TorchvisionFeatureExtractor
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.features import make_feature_extractor

# All patches are kept, and those at the border count as the others do.
EVERYTHING = {"normal_coreset": 1.0, "defect_coreset": 1.0, "max_defect_patches": None, "border_rings": 0}


def assert_same_detector(first, second, X):
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))
    np.testing.assert_array_equal(first.predict_map(X), second.predict_map(X))
    assert first.threshold_ == second.threshold_
    assert first.false_alarm_rate_ == second.false_alarm_rate_
    assert first.epsilon_ == second.epsilon_
    for bank in ("normal_bank_", "defect_bank_"):
        assert_same_rows(getattr(first, bank), getattr(second, bank))


def assert_same_rows(first, second):
    assert (first is None) == (second is None)
    if first is not None:
        np.testing.assert_array_equal(first.features, second.features)


def patch_rows(detector, image):
    """Features of the patches of one image, and where they are centred."""
    (feature_map,) = detector.feature_extractor_.transform([image])
    centers = detector.feature_extractor_.patch_centers(feature_map.shape, image.shape)
    rows, columns = np.meshgrid(*centers, indexing="ij")
    return feature_map.reshape(-1, feature_map.shape[2]), np.column_stack([rows.ravel(), columns.ravel()])


def places(bank):
    return np.column_stack([bank.provenance["row"], bank.provenance["column"]])


def lie_on(mask, centers, reach=4):
    """Whether patches of 2 * reach pixels show some of the mask."""
    return np.array(
        [
            mask[max(0, int(row) - reach + 1) : int(row) + reach + 1, max(0, int(column) - reach + 1) :][
                :, : 2 * reach
            ].any()
            for row, column in centers
        ]
    )


def distances_to(rows, patch):
    return np.sqrt(((np.asarray(rows, dtype=np.float64) - patch) ** 2).sum(axis=1))


def naive_distances(bank, features, n_neighbors, kept=slice(None)):
    """Mean distance to the nearest of the kept rows of a bank."""
    return np.array([np.sort(distances_to(bank.features[kept], patch))[:n_neighbors].mean() for patch in features])


def naive_threshold(scores, rate):
    scores = sorted(scores)
    rank = int(np.ceil((len(scores) + 1) * (1 - rate)))
    return scores[min(rank, len(scores)) - 1]


def assert_finds(detector, images, is_defect):
    """Every defect is found, and scores higher than every normal image (one of which may still be an alarm)."""
    scores = detector.score_samples(images)
    assert (detector.decision_function(images)[is_defect] > 0).all()
    assert scores[is_defect].min() > 1.2 * scores[~is_defect].max()


# The ways to call fit


@pytest.fixture
def apart(surfaces):
    """Normal images, defect images and the masks of these."""
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


@pytest.mark.parametrize(("normal", "defect"), [("good", "scratched"), (False, True), (3, 7), (-1.0, 1.0)], ids=str)
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


# The published formula


def published_scores(normal_bank, defect_bank, patches, *, epsilon, n_support, same_place):
    """ExDD's image score and patch scores in plain loops, straight from the paper and its release."""

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


@pytest.mark.parametrize("image_score", ["released", "weighted"])
@pytest.mark.parametrize("dual", [False, True], ids=["one class", "dual"])
@pytest.mark.parametrize("n_support", [2, 3, 5])
def test_scores_and_maps_are_the_published_formula(image_score, dual, n_support, squares, unseen_squares, cells):
    X, y, _ = squares
    detector = ExDDDetector(
        cells, n_neighbors=1, epsilon=1e-6, image_score=image_score, n_support=n_support, blur=0, **EVERYTHING
    )
    if dual:
        # All of a mask is defect: the whole crop, as in the release.
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
            normal_bank, defect_bank, patches, epsilon=1e-6, n_support=n_support, same_place=image_score == "weighted"
        )
        assert score == pytest.approx(expected, rel=1e-3)
        shape = cells.transform([image])[0].shape[:2]
        centers = cells.patch_centers(shape, image.shape)
        expected_map = naive_upsample(np.reshape(patch_scores, shape), *centers, image.shape)
        np.testing.assert_allclose(pixel_map, expected_map, rtol=1e-3)


def test_scores_are_the_published_formula_on_features_of_a_backbone(squares, unseen_squares):
    X, y, _ = squares
    extractor = TorchvisionFeatureExtractor("resnet18", weights=None)
    detector = ExDDDetector(
        extractor, n_neighbors=1, epsilon=1e-6, image_score="released", n_support=3, blur=0, **EVERYTHING
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
    weighted, released = (
        ExDDDetector(cells, image_score=name, **params).fit(X, y, masks=masks) for name in ("weighted", "released")
    )
    image = unseen_squares[0][unseen_squares[1] == 1][:1]
    np.testing.assert_array_equal(weighted.predict_map(image), released.predict_map(image))
    # The patch farthest from the defect bank is a normal one, so the released score divides by more.
    assert weighted.score_samples(image)[0] > 2 * released.score_samples(image)[0]


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
        # All the rows of a small bank, some of a larger one.
        means = np.cumsum(distances) / np.arange(1, len(distances) + 1)
        counts = 1 + np.flatnonzero(np.isclose(means, explanation["defect_distance"], rtol=1e-5))
        assert len(counts) == 1
        assert counts[0] == 4 if n_defect_rows == 4 else 1 < counts[0] < len(distances)


def test_by_default_a_bank_of_one_row_will_do(squares, cells):
    X, y, _ = squares
    detector = ExDDDetector(cells, n_neighbors="auto", max_defect_patches=1).fit(X[y == 0], X[y == 1][:1])
    assert len(detector.defect_bank_) == 1
    assert np.isfinite(detector.decision_function(X)).all()


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
    medians = [np.median(scores[:, np.equal(ring, i)]) for i in range(max(ring) + 1)]
    factors = np.maximum(np.divide(medians, medians[-1]), 1)
    every = slice(None)
    for image, score in zip(X[:4], detector.score_samples(X[:4])):
        assert score == pytest.approx(np.sort(patch_scores(image, every) / factors[ring])[-3:].mean(), rel=1e-4)
    image_scores = np.sort(scores / factors[ring], axis=1)[:, -3:].mean(axis=1)
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


# What the banks hold


def test_without_masks_the_defect_bank_holds_the_defect_and_not_the_whole_image(squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, **EVERYTHING).fit(X, y)
    bank = detector.defect_bank_
    on_defect = []
    for image in np.flatnonzero(y):
        own = places(bank)[bank.provenance["image"] == image]
        # A patch of the middle of a square of 16 pixels differs from noise without a doubt.
        _, centers = patch_rows(detector, X[image])
        inside = centers[lie_on(masks[image], centers, reach=1)]
        assert set(map(tuple, inside)) <= set(map(tuple, own))
        on_defect.append(lie_on(masks[image], own))
    # 1 % of normal patches lie farther than 99 % of them do: about one for each ten patches of a square.
    assert np.concatenate(on_defect).mean() > 0.8


def test_without_masks_most_chosen_patches_of_real_looking_defects_show_them():
    X, y, masks = make_surface_defects(30, image_shape=(128, 128), random_state=0)
    detector = ExDDDetector(**EVERYTHING).fit(X, y)
    bank = detector.defect_bank_
    chosen, by_chance, n_patches = [], [], 0
    for image in np.flatnonzero(y):
        own = places(bank)[bank.provenance["image"] == image]
        assert len(own) >= 1
        _, centers = patch_rows(detector, X[image])
        chosen.append(lie_on(masks[image], own, reach=8).mean())
        by_chance.append(lie_on(masks[image], centers, reach=8).mean())
        n_patches += len(centers)
    assert len(bank) < 0.4 * n_patches
    assert np.mean(chosen) > 0.6
    assert np.mean(chosen) > 3 * np.mean(by_chance)


def test_with_masks_every_defect_row_lies_on_the_mask(squares, cells):
    X, y, masks = squares
    bank = ExDDDetector(cells, **EVERYTHING).fit(X, y, masks=masks).defect_bank_
    assert set(bank.provenance["image"]) == set(np.flatnonzero(y))
    for image, place in zip(bank.provenance["image"], places(bank)):
        assert lie_on(masks[image], [place]).all()


def test_a_mask_of_one_pixel_gives_the_patch_around_it(squares, cells):
    X, y, _ = squares
    mask = np.zeros((64, 64), dtype=bool)
    mask[37, 20] = True
    detector = ExDDDetector(cells, n_neighbors=1).fit(X[y == 0], X[y == 1][:1], masks=[mask])
    np.testing.assert_array_equal(places(detector.defect_bank_), [[35.5, 19.5]])


@pytest.mark.parametrize("cap", [1, 2, 5])
@pytest.mark.parametrize("with_masks", [False, True], ids=["without masks", "with masks"])
def test_of_a_defect_image_at_most_so_many_patches_are_kept(cap, with_masks, squares, cells):
    X, y, masks = squares
    masks = masks if with_masks else None
    params = {"normal_coreset": 1.0, "defect_coreset": 1.0, "n_neighbors": 1}
    every = ExDDDetector(cells, max_defect_patches=None, **params).fit(X, y, masks=masks).defect_bank_
    capped = [
        ExDDDetector(cells, max_defect_patches=cap, random_state=0, **params).fit(X, y, masks=masks).defect_bank_
        for _ in range(2)
    ]
    for image in np.flatnonzero(y):
        candidates = set(map(tuple, places(every)[every.provenance["image"] == image]))
        kept = [set(map(tuple, places(bank)[bank.provenance["image"] == image])) for bank in capped]
        assert len(kept[0]) == min(cap, len(candidates))
        assert kept[0] <= candidates
        assert kept[0] == kept[1]


@pytest.mark.parametrize("coreset", ["greedy", "random"])
@pytest.mark.parametrize(
    ("size", "expected"), [(1.0, 768), (0.1, 77), (1e-3, 1), (10, 10), (1, 1), (768, 768), (10**6, 768)], ids=str
)
def test_a_coreset_has_the_size_asked_for(coreset, size, expected, squares, cells):
    X, y, _ = squares
    masks = np.ones((4, 64, 64), dtype=bool)
    detector = ExDDDetector(
        cells, coreset=coreset, n_neighbors=1, normal_coreset=size, defect_coreset=10, max_defect_patches=None
    )
    detector.fit(X[y == 0], X[y == 1][:4], masks=masks)
    assert (len(detector.normal_bank_), len(detector.defect_bank_)) == (expected, 10)
    detector.set_params(normal_coreset=10, defect_coreset=min(size, 256))
    detector.fit(X[y == 0], X[y == 1][:4], masks=masks)
    share = int(np.ceil(size * 256)) if isinstance(size, float) else min(size, 256)
    assert (len(detector.normal_bank_), len(detector.defect_bank_)) == (10, share)


@pytest.mark.parametrize("coreset", ["greedy", "random"])
def test_a_coreset_holds_rows_of_the_images_none_twice(coreset, squares, cells):
    X, y, _ = squares
    small = ExDDDetector(cells, coreset=coreset, normal_coreset=100, random_state=0).fit(X[y == 0]).normal_bank_
    full = ExDDDetector(cells, coreset=coreset, normal_coreset=1.0, random_state=0).fit(X[y == 0]).normal_bank_
    keys = [tuple(map(float, row)) for row in np.column_stack([small.provenance["image"], places(small)])]
    assert len(set(keys)) == 100
    rows = {
        tuple(map(float, key)): i for i, key in enumerate(np.column_stack([full.provenance["image"], places(full)]))
    }
    np.testing.assert_array_equal(small.features, full.features[[rows[key] for key in keys]])


def test_a_greedy_coreset_covers_better_than_a_random_one(squares, cells):
    X, y, _ = squares
    radius = {}
    for coreset in ("greedy", "random"):
        detector = ExDDDetector(cells, coreset=coreset, normal_coreset=50, random_state=0).fit(X[y == 0])
        patches = np.concatenate([patch_rows(detector, image)[0] for image in X[y == 0]])
        radius[coreset] = naive_distances(detector.normal_bank_, patches, 1).max()
    assert radius["greedy"] < 0.8 * radius["random"]


def test_another_seed_draws_another_random_coreset(squares, cells):
    X, y, _ = squares
    drawn = [
        ExDDDetector(cells, coreset="random", normal_coreset=50, random_state=seed).fit(X[y == 0]).normal_bank_.features
        for seed in (0, 0, 1, np.random.RandomState(0))
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[3])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize("labelled", [False, True], ids=["images apart", "labels"])
def test_every_row_remembers_its_image_and_place(labelled, squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, normal_coreset=200, random_state=0)
    if labelled:
        X_normal = X_defect = X
        detector.fit(X, y, masks=masks)
    else:
        X_normal, X_defect = X[y == 0], X[y == 1]
        detector.fit(X_normal, X_defect, masks=masks[y == 1])
    for bank, images in [(detector.normal_bank_, X_normal), (detector.defect_bank_, X_defect)]:
        assert not bank.provenance["synthetic"].any()
        for features, image, place in zip(bank.features, bank.provenance["image"], places(bank)):
            patches, centers = patch_rows(detector, images[image])
            (row,) = np.flatnonzero((centers == place).all(axis=1))
            np.testing.assert_array_equal(features, patches[row])


# The threshold


@pytest.mark.parametrize("image_score", ["top_mean", "weighted", "released"])
@pytest.mark.parametrize("dual", [False, True], ids=["one class", "dual"])
@pytest.mark.parametrize("grouped", [False, True], ids=["images", "groups"])
def test_the_threshold_is_that_of_refits_without_each_image_or_its_group(image_score, dual, grouped, squares, cells):
    X, y, masks = squares
    groups = np.arange(len(X)) % 7 if grouped else np.arange(len(X))
    if not dual:
        X, masks, groups, y = X[y == 0], None, groups[y == 0], None
    detector = ExDDDetector(
        cells, n_neighbors=2, epsilon=0.1, image_score=image_score, max_false_alarm_rate=0.2, **EVERYTHING
    )
    scores = []
    for image in range(len(X)) if y is None else np.flatnonzero(y == 0):
        rest = groups != groups[image]
        refitted = clone(detector).fit(X[rest], None if y is None else y[rest], masks=masks[rest] if dual else None)
        scores.append(refitted.score_samples(X[[image]])[0])
    detector.fit(X, y, masks=masks, groups=[f"part {group}" for group in groups])
    assert detector.threshold_ == pytest.approx(naive_threshold(scores, 0.2), rel=1e-4)
    assert detector.false_alarm_rate_ == 0.2


def test_the_threshold_leaves_an_image_its_own_coreset_rows_only(surfaces):
    X, y, masks = surfaces
    detector = ExDDDetector(
        normal_coreset=300, n_neighbors=3, n_top_patches=3, border_rings=0, max_false_alarm_rate=0.25, random_state=0
    ).fit(X, y, masks=masks)
    scores = []
    for image in np.flatnonzero(y == 0):
        patches, _ = patch_rows(detector, X[image])
        kept = detector.normal_bank_.provenance["image"] != image
        assert 0 < (~kept).sum() < 64
        normal = naive_distances(detector.normal_bank_, patches, 3, kept)
        defect = naive_distances(detector.defect_bank_, patches, 3)
        scores.append(np.sort(normal / (defect + detector.epsilon_))[-3:].mean())
    assert detector.threshold_ == pytest.approx(naive_threshold(scores, 0.25), rel=1e-4)


def test_with_few_normal_images_the_attainable_rate_is_told(squares, cells):
    X, y, _ = squares
    few = ExDDDetector(cells, max_false_alarm_rate=0.01).fit(X[y == 0])
    assert few.false_alarm_rate_ == pytest.approx(1 / 13)
    assert few.threshold_ == ExDDDetector(cells, max_false_alarm_rate=1 / 13).fit(X[y == 0]).threshold_
    looser = ExDDDetector(cells, max_false_alarm_rate=0.5).fit(X[y == 0])
    assert looser.false_alarm_rate_ == 0.5
    assert looser.threshold_ < few.threshold_


@pytest.mark.parametrize("dual", [False, True], ids=["one class", "dual"])
@pytest.mark.parametrize("params", [{"n_neighbors": 1}, {"n_neighbors": 3, "normal_coreset": 0.5}], ids=str)
def test_new_normal_samples_raise_no_more_false_alarms_than_promised(dual, params):
    rates = []
    for seed in range(30):
        rng = np.random.RandomState(seed)
        X, X_test = rng.normal(size=(199, 3)), rng.normal(size=(1000, 3))
        X_defect = rng.normal(2, 1, size=(30, 3)) if dual else None
        detector = ExDDDetector(max_false_alarm_rate=0.05, random_state=seed, defect_coreset=1.0, **params)
        rates.append(detector.fit(X, X_defect=X_defect).predict(X_test).mean())
    # The rate of one fit has standard deviation .015, the mean of 30 fits .003: four of them.
    assert np.mean(rates) < 0.05 + 4 * 0.003
    assert np.mean(rates) > 0.02


def test_groups_keep_the_promise_where_samples_of_a_group_are_alike():
    with_groups, without = [], []
    for seed in range(20):
        rng = np.random.RandomState(seed)
        groups = np.repeat(np.arange(40), 5)
        X = rng.normal(size=(40, 3))[groups] + 0.05 * rng.normal(size=(200, 3))
        X_test = rng.normal(size=(500, 3))
        detector = ExDDDetector(n_neighbors=1, normal_coreset=1.0, max_false_alarm_rate=0.1)
        with_groups.append(clone(detector).fit(X, groups=groups).predict(X_test).mean())
        without.append(clone(detector).fit(X).predict(X_test).mean())
    # About 40 independent values: standard deviation .047 a fit, .011 of the mean.
    assert np.mean(with_groups) < 0.1 + 4 * 0.011
    assert np.mean(without) > 0.5


def test_a_defect_image_of_the_same_group_does_not_help_the_threshold(squares, cells):
    X, y, masks = squares
    X_twice = np.concatenate([X, X[y == 0]])
    labels = np.concatenate([y, np.ones((y == 0).sum(), dtype=int)])
    everywhere = np.concatenate([masks, np.ones(((y == 0).sum(), 64, 64), dtype=bool)])
    groups = np.concatenate([np.arange(len(X)), np.flatnonzero(y == 0)])
    detector = ExDDDetector(cells, n_neighbors=1, epsilon=1e-6, max_false_alarm_rate=0.2, **EVERYTHING)
    left_out = clone(detector).fit(X_twice, labels, masks=everywhere, groups=groups).threshold_
    # Otherwise each normal image is its own nearest defect, at no distance.
    assert left_out < 0.01 * clone(detector).fit(X_twice, labels, masks=everywhere).threshold_


# Explanations


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


# Synthetic defects


class Synthetic:
    def __init__(self, images, masks, provenance):
        self.images, self.masks, self.provenance = images, masks, provenance

    def __iter__(self):
        return iter((self.images, self.masks))


class SquareAugmenter(BaseEstimator):
    """Stand-in: pastes bright squares onto the normal images, one after the other."""

    def __init__(self, brightness=60, tells_origin=True):
        self.brightness = brightness
        self.tells_origin = tells_origin

    def fit(self, X, y=None, *, masks=None):
        assert len(X) == len(y) == len(masks)
        self.sources_ = [(i, image) for i, (image, label) in enumerate(zip(X, y)) if label == 0]
        return self

    def sample(self, n_samples, random_state=None):
        rng = np.random.RandomState(random_state)
        images, masks, provenance = [], [], []
        for i in range(n_samples):
            source, image = self.sources_[i % len(self.sources_)]
            row, column = rng.randint(0, 49, size=2)
            mask = np.zeros(image.shape[:2], dtype=bool)
            mask[row : row + 16, column : column + 16] = True
            images.append(np.where(mask, image + self.brightness, image).astype(np.uint8))
            masks.append(mask)
            provenance.append({"source": source, "prompt": f"square {i}"})
        return Synthetic(images, masks, provenance if self.tells_origin else None)


@pytest.mark.parametrize("real", [False, True], ids=["synthetic only", "with real defects"])
def test_synthetic_defects_join_the_defect_bank_and_are_marked(real, squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, augmenter=SquareAugmenter(), n_synthetic=5, **EVERYTHING, random_state=0)
    detector.fit(X, y, masks=masks) if real else detector.fit(X[y == 0])
    bank = detector.defect_bank_
    synthetic = bank.provenance["synthetic"]
    assert len(detector.synthetic_.images) == 5
    assert set(bank.provenance["image"][synthetic]) == set(range(5))
    for features, image, place in zip(
        bank.features[synthetic], bank.provenance["image"][synthetic], places(bank)[synthetic]
    ):
        patches, centers = patch_rows(detector, detector.synthetic_.images[image])
        np.testing.assert_array_equal(features, patches[(centers == place).all(axis=1)][0])
        assert lie_on(detector.synthetic_.masks[image], [place]).all()
    without = ExDDDetector(cells, **EVERYTHING, random_state=0)
    if real:
        np.testing.assert_array_equal(bank.features[~synthetic], without.fit(X, y, masks=masks).defect_bank_.features)
    else:
        assert synthetic.all()
    assert not detector.normal_bank_.provenance["synthetic"].any()


def test_synthetic_defects_alone_find_real_ones(squares, unseen_squares, cells):
    X, y, _ = squares
    detector = ExDDDetector(cells, augmenter=SquareAugmenter(), n_synthetic=6, random_state=0).fit(X[y == 0])
    assert_finds(detector, unseen_squares[0], unseen_squares[1] == 1)


def test_no_synthetic_images_are_the_same_as_no_augmenter(squares, unseen_squares, cells):
    X, y, masks = squares
    none = ExDDDetector(cells, augmenter=SquareAugmenter(), n_synthetic=0, random_state=0).fit(X, y, masks=masks)
    assert none.synthetic_ is None
    without = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks)
    assert_same_detector(none, without, unseen_squares[0])


@pytest.mark.parametrize("labelled", [False, True], ids=["images apart", "labels"])
@pytest.mark.parametrize("with_masks", [False, True], ids=["without masks", "with masks"])
def test_the_augmenter_is_cloned_and_sees_the_normals_then_the_defects_with_masks(
    labelled, with_masks, squares, cells, monkeypatch
):
    X, y, masks = squares
    seen = []
    fit = SquareAugmenter.fit

    def recording(self, X, y=None, *, masks=None):
        seen.append((X, y, masks))
        return fit(self, X, y, masks=masks)

    monkeypatch.setattr(SquareAugmenter, "fit", recording)
    augmenter = SquareAugmenter()
    detector = ExDDDetector(cells, augmenter=augmenter, n_synthetic=2, random_state=0)
    if labelled:
        detector.fit(X, y, masks=masks if with_masks else None)
    else:
        detector.fit(X[y == 0], X[y == 1], masks=masks[y == 1] if with_masks else None)
    assert not hasattr(augmenter, "sources_")
    ((images, labels, seen_masks),) = seen
    np.testing.assert_array_equal(images, np.concatenate([X[y == 0], X[y == 1]]))
    assert list(labels) == [0] * 12 + [1] * 6
    assert list(seen_masks[:12]) == [None] * 12
    if with_masks:
        np.testing.assert_array_equal(seen_masks[12:], masks[y == 1])
    else:
        assert list(seen_masks[12:]) == [None] * 6


def test_synthetic_defects_of_unknown_origin_are_groups_of_their_own(squares, cells):
    X, y, masks = squares
    augmenter = SquareAugmenter(tells_origin=False)
    detector = ExDDDetector(cells, augmenter=augmenter, n_synthetic=4, n_neighbors=1, random_state=0, **EVERYTHING)
    detector.fit(X, y, masks=masks).partial_fit(X[y == 1][:2], [1, 1], masks=masks[y == 1][:2])
    groups = [
        set(bank.provenance["group"][bank.provenance["synthetic"] == synthetic])
        for bank, synthetic in [
            (detector.normal_bank_, False),
            (detector.defect_bank_, False),
            (detector.defect_bank_, True),
        ]
    ]
    assert [len(one) for one in groups] == [12, 6 + 2, 4]
    assert len(set.union(*groups)) == 12 + 6 + 2 + 4
    for explanation in detector.explain(detector.synthetic_.images):
        assert explanation["synthetic"] is True
        assert explanation["prompt"] is None


def test_the_same_seed_draws_the_same_synthetic_defects(squares, unseen_squares, cells):
    X, y, _ = squares
    first, again, other = (
        ExDDDetector(cells, augmenter=SquareAugmenter(), n_synthetic=3, random_state=seed).fit(X[y == 0])
        for seed in (0, 0, 1)
    )
    assert_same_detector(first, again, unseen_squares[0])
    assert not np.array_equal(first.synthetic_.masks, other.synthetic_.masks)


@pytest.mark.parametrize("real", [False, True], ids=["synthetic only", "with real defects"])
def test_the_threshold_leaves_out_what_was_made_on_the_image_itself(real, squares, cells):
    X, y, masks = squares
    # What is pasted is invisible: the synthetic patches are those of their normal image.
    detector = ExDDDetector(
        cells,
        augmenter=SquareAugmenter(brightness=0),
        n_synthetic=20,
        n_neighbors=1,
        n_top_patches=2,
        epsilon=0.01,
        max_false_alarm_rate=0.2,
        **EVERYTHING,
        random_state=0,
    )
    detector.fit(X, y, masks=masks) if real else detector.fit(X[y == 0])
    normal_bank, defect_bank = detector.normal_bank_, detector.defect_bank_
    made_on = np.array([one["source"] for one in detector.synthetic_.provenance])
    sources = np.where(defect_bank.provenance["synthetic"], made_on[defect_bank.provenance["image"] % len(made_on)], -1)
    scores = []
    for number, image in enumerate(np.flatnonzero(y == 0)):
        patches, _ = patch_rows(detector, X[image])
        own = normal_bank.provenance["image"] == (image if real else number)
        normal = naive_distances(normal_bank, patches, 1, ~own)
        defect = naive_distances(defect_bank, patches, 1, sources != number)
        scores.append(np.sort(normal / (defect + 0.01))[-2:].mean())
    assert detector.threshold_ == pytest.approx(naive_threshold(scores, 0.2), rel=1e-4)


def test_a_synthetic_explanation_has_its_prompt(squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(
        cells, augmenter=SquareAugmenter(), n_synthetic=4, n_neighbors=1, random_state=0, **EVERYTHING
    ).fit(X, y, masks=masks)
    for index, explanation in enumerate(detector.explain(detector.synthetic_.images)):
        assert explanation["synthetic"] is True
        assert explanation["defect_image"] == index
        assert explanation["defect_patch"] == explanation["patch"]
        assert explanation["prompt"] == f"square {index}"
    for index, explanation in zip(np.flatnonzero(y), detector.explain(X[y == 1])):
        assert explanation["synthetic"] is False
        assert explanation["defect_image"] == index
        assert explanation["prompt"] is None


# Corrections


def new_kind_of_image(seed, n_images=1):
    """Noise with a dark stripe, which no other image has."""
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
    # The same stripe in other noise has become normal, the squares are defects as before.
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
    # By brightness alone a dark stripe is as far from a bright square as can be: a miss.
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
    # New images are numbered on, and remember their place in the call.
    assert set(together.normal_bank_.provenance["image"][n_normal:]) == {len(X), len(X) + 2}
    assert set(together.defect_bank_.provenance["image"][n_defect:]) == {len(X) + 1}
    together.partial_fit(new_kind_of_image(2, 2)[0], [0, 1])
    assert together.normal_bank_.provenance["image"][-1] == len(X) + 3
    assert together.defect_bank_.provenance["image"][-1] == len(X) + 4
    # Each image is a group of its own, so that none is left out for another.
    for bank in (together.normal_bank_, together.defect_bank_):
        pairs = set(zip(bank.provenance["image"].tolist(), bank.provenance["group"].tolist()))
        assert len(pairs) == len({image for image, _ in pairs}) == len({group for _, group in pairs})


@pytest.mark.parametrize("n_top_patches", [1, 3])
@pytest.mark.parametrize("dual", [False, True], ids=["one class", "dual"])
@pytest.mark.parametrize("rate", [0.05, 0.3])
@pytest.mark.parametrize(("side", "tolerance"), [(24, 1e-4), (64, 0.05)], ids=["9 patches", "64 patches"])
def test_the_threshold_follows_the_banks(n_top_patches, dual, rate, side, tolerance, squares, cells):
    # Of few patches all are kept to find the threshold again, of many only those that may decide.
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
    misses = 200 - stripe  # a bright one
    before = detector.threshold_
    detector.partial_fit(np.concatenate([alarms, misses]), [0, 0, 1], masks=[None, None, miss_masks[0]])
    # The banks as they are now, and each normal image without its own rows.
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


@pytest.mark.parametrize("epsilon", ["scale", 1e-6])
def test_a_correction_without_news_leaves_the_threshold_as_it_was(epsilon):
    X, y, masks = make_surface_defects(30, image_shape=(160, 160), random_state=0)
    detector = ExDDDetector(
        n_neighbors=1, max_defect_patches=None, max_false_alarm_rate=0.2, epsilon=epsilon, random_state=0
    ).fit(X, y, masks=masks)
    before, n_rows = detector.threshold_, len(detector.defect_bank_)
    detector.partial_fit(X[y == 1][:1], [1], masks=masks[y == 1][:1])
    # Twice the same rows: no distance has changed.
    assert len(detector.defect_bank_) > n_rows
    assert detector.threshold_ == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda X, y: (X, [0, 2, 1]), ValueError, r"expected 3 labels among \[0, 1\], got 3, \[2\] among them"),
        (lambda X, y: (X, y[:2]), ValueError, r"expected 3 labels among \[0, 1\], got 2"),
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


# Extreme images


@pytest.mark.parametrize("epsilon", ["scale", 1e-6])
@pytest.mark.parametrize("image_score", ["top_mean", "weighted", "released"])
def test_identical_images_in_both_banks_give_finite_scores(epsilon, image_score, squares):
    X = squares[0][:4]
    detector = ExDDDetector(epsilon=epsilon, image_score=image_score, random_state=0).fit(X, X)
    assert np.isfinite(detector.threshold_)
    assert np.isfinite(detector.decision_function(squares[0])).all()
    assert np.isfinite(detector.predict_map(squares[0])).all()


@pytest.mark.parametrize("dual", [False, True], ids=["one class", "dual"])
@pytest.mark.parametrize("image_score", ["top_mean", "weighted", "released"])
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
    for i in range(16):  # twice every position within a patch, in both directions
        row, column = 24 + i, 24 + 5 * i % 16
        dot = rng.randint(118, 123, size=shape).astype(np.uint8)
        dot[row, column] = 255
        (pixel_map,) = detector.predict_map([dot])
        assert pixel_map.shape == shape
        found = np.unravel_index(pixel_map.argmax(), shape)
        offsets.append((found[0] - row, found[1] - column))
    # Patches are 8 pixels apart: one dot may be off by half of that, but none is pushed to one side.
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
        # The filters see the dot's mirror image behind the border, most where logarithms flatten the peak.
        assert np.abs(np.subtract(found, (row, column))).max() <= farthest


# Feature rows


@pytest.fixture
def blobs():
    return make_blobs([150, 50], centers=[[0, 0, 0], [3, 3, 0]], random_state=0)


def test_rows_of_features_make_a_classifier_on_vectors(blobs):
    X, y = blobs
    detector = ExDDDetector(max_false_alarm_rate=0.05, random_state=0).fit(X, y)
    X_test, y_test = make_blobs([150, 50], centers=[[0, 0, 0], [3, 3, 0]], random_state=1)
    assert detector.n_features_in_ == 3
    assert not hasattr(detector, "feature_extractor_")
    assert detector.score(X_test, y_test) > 0.93
    assert detector.score(X_test, y_test) > ExDDDetector(max_false_alarm_rate=0.05).fit(X[y == 0]).score(X_test, y_test)
    apart = ExDDDetector(max_false_alarm_rate=0.05, random_state=0).fit(X[y == 0], X_defect=X[y == 1])
    np.testing.assert_array_equal(apart.decision_function(X_test), detector.decision_function(X_test))


def test_scores_of_rows_are_ratios_of_distances(blobs):
    X, y = blobs
    detector = ExDDDetector(n_neighbors=2, epsilon=0.5, normal_coreset=1.0, defect_coreset=1.0).fit(X, y)
    X_test, _ = make_blobs(20, centers=2, n_features=3, random_state=1)
    expected = [
        np.sort(distances_to(X[y == 0], row))[:2].mean() / (np.sort(distances_to(X[y == 1], row))[:2].mean() + 0.5)
        for row in X_test
    ]
    np.testing.assert_allclose(detector.score_samples(X_test), expected, rtol=1e-9)


def test_rows_are_explained_by_rows(blobs):
    X, y = blobs
    detector = ExDDDetector(n_neighbors=1, normal_coreset=1.0, defect_coreset=1.0).fit(X, y)
    for index, explanation in zip(np.flatnonzero(y)[:5], detector.explain(X[y == 1][:5])):
        assert explanation["defect_image"] == index
        assert explanation["defect_distance"] == 0
        assert explanation["normal_image"] in np.flatnonzero(y == 0)


def test_rows_can_be_corrected(blobs):
    X, y = blobs
    detector = ExDDDetector(n_neighbors=1, max_false_alarm_rate=0.05, random_state=0).fit(X, y)
    alarm = np.array([[-20.0, 0.0, 0.0]])
    one_class = ExDDDetector(n_neighbors=1, max_false_alarm_rate=0.05, random_state=0).fit(X[y == 0])
    assert one_class.predict(alarm) == [1]
    assert one_class.partial_fit(alarm, [0]).predict(alarm) == [0]
    before = detector.score_samples(alarm)
    assert detector.partial_fit(alarm, [1]).score_samples(alarm) > 5 * before
    assert detector.predict(alarm) == [1]


# Feature extractors by name, and of other makes


class Brightness:
    """No estimator: an object with transform(images), which is all that is asked for."""

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


def test_an_extractor_that_learns_from_defects_gets_them_with_masks(squares, cells, monkeypatch):
    X, y, masks = squares
    seen = []

    def fit_transform(self, X, y=None, *, masks=None):
        seen.append((X, y, masks))
        return super(type(cells), self).fit_transform(X)

    monkeypatch.setattr(type(cells), "fit_transform", fit_transform, raising=False)
    detector = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks)
    ((images, labels, seen_masks),) = seen
    np.testing.assert_array_equal(images, np.concatenate([X[y == 0], X[y == 1]]))
    assert labels == [0] * 12 + [1] * 6
    assert seen_masks[:12] == [None] * 12
    np.testing.assert_array_equal(seen_masks[12:], masks[y == 1])
    assert set(detector.normal_bank_.provenance["image"]) == set(np.flatnonzero(y == 0))
    ExDDDetector(cells).fit(X[y == 0])
    assert seen[1][1] is None
