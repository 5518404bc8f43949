"""Synthetic defects in the defect bank, made by a simple augmenter for tests."""

import numpy as np
import pytest
from naive_exdd import (
    EVERYTHING,
    assert_finds,
    assert_same_detector,
    lie_on,
    naive_distances,
    naive_threshold,
    patch_rows,
    places,
)
from sklearn.base import BaseEstimator

from sklearn_exdd import ExDDDetector, LinearProbeDetector, PatchClassifierDetector


class Synthetic:
    def __init__(self, images, masks, provenance):
        self.images, self.masks, self.provenance = images, masks, provenance

    def __iter__(self):
        return iter((self.images, self.masks))


class SquareAugmenter(BaseEstimator):
    """Simple augmenter that pastes bright squares. It takes the normal images in turn."""

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
    # The pasted squares are invisible, so patches of a synthetic image equal the patches of its normal image.
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


class PairAugmenter(BaseEstimator):
    """Augmenter that is not from this library. Its samples are a pair of images and masks."""

    def fit(self, X, y=None, *, masks=None):
        self.images_ = np.stack([np.asarray(image) for image, label in zip(X, y) if label == 0])
        return self

    def sample(self, n_samples, random_state=None):
        masks = np.zeros((n_samples, *self.images_.shape[1:3]), dtype=bool)
        masks[:, 20:30, 20:30] = True
        return np.where(masks, 255, self.images_[:n_samples]).astype(np.uint8), masks


@pytest.mark.parametrize("kind", [ExDDDetector, PatchClassifierDetector, LinearProbeDetector])
def test_samples_may_be_a_pair_of_images_and_masks(kind, surfaces):
    X, y, _ = surfaces
    detector = kind("gabor", augmenter=PairAugmenter(), n_synthetic=4, random_state=0).fit(X[y == 0])
    images, masks = detector.synthetic_
    assert len(images) == len(masks) == 4
    assert np.isfinite(detector.score_samples(X)).all()
