"""CombinedDefectDetector: corrections by partial_fit, and reasons given by its members."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from test_combined import Brightness, BrightnessMap, exdds

from sklearn_exdd import CombinedDefectDetector, ExDDDetector, persistence
from sklearn_exdd.augment import OffsetDefectAugmenter, RectangleRegions


def stripes(seed, n_images=1):
    """Return noise images with a dark stripe, which no other image has."""
    X = np.random.RandomState(seed).randint(90, 111, size=(n_images, 64, 64))
    X[:, :, 20:28] -= 60
    return X.astype(np.uint8)


class Learner(BrightnessMap):
    """Brightness detector whose scores are scaled by the corrections it has received."""

    def partial_fit(self, X, y):
        self.shift_ = getattr(self, "shift_", 0) + sum(y) - 1
        if self.power == 3:
            raise MemoryError("too many")
        return self

    def score_samples(self, X):
        return super().score_samples(X) * (1 + getattr(self, "shift_", 0))


def both(cells, **params):
    detectors = [("banks", ExDDDetector(cells, random_state=0)), ("bright", BrightnessMap())]
    return CombinedDefectDetector(detectors, **{"random_state": 0, **params})


def assert_same(one, other, X):
    np.testing.assert_array_equal(one.predict_map(X), other.predict_map(X))
    np.testing.assert_array_equal(one.score_samples(X), other.score_samples(X))
    np.testing.assert_array_equal(one.calibration_scores_, other.calibration_scores_)
    assert (one.threshold_, one.pixel_threshold_) == (other.threshold_, other.pixel_threshold_)


# Corrections


def test_a_corrected_false_alarm_is_no_alarm_and_a_corrected_miss_is_found(squares, unseen_squares, cells):
    X, y, masks = squares
    detector = exdds(cells).fit(X[y == 0])
    alarm = stripes(0)
    assert detector.predict(alarm) == [1]
    similar = detector.decision_function(stripes(1))
    assert detector.partial_fit(alarm, [0]) is detector
    assert detector.predict(alarm) == [0]
    assert detector.decision_function(stripes(1)) < 0.05 * similar
    detector.partial_fit(X[y == 1][:2], [1, 1], masks=masks[y == 1][:2])
    assert detector.predict(unseen_squares[0][unseen_squares[1] == 1]).all()
    assert detector.is_training_image(np.concatenate([alarm, X[y == 1][:3]])).tolist() == [True, True, True, False]


def test_scales_and_threshold_are_found_again_on_the_held_out_images(squares, unseen_squares, cells):
    X, y, masks = squares
    detector = both(cells, validation_fraction=0.4).fit(X[y == 0])
    before = copy.copy(detector)
    detector.partial_fit(X[y == 1][:2], [1, 1], masks=masks[y == 1][:2])
    member = copy.deepcopy(before.detectors_[0]).partial_fit(X[y == 1][:2], [1, 1], masks=masks[y == 1][:2])
    assert detector.detectors_[1] is before.detectors_[1]
    held_out = X[y == 0][np.isfinite(detector.calibration_scores_)]
    own = np.stack([member.score_samples(held_out), detector.detectors_[1].score_samples(held_out)])
    np.testing.assert_array_equal(detector.score_centers_, np.median(own, axis=1))
    low, high = np.percentile(own, [25, 75], axis=1)
    np.testing.assert_array_equal(detector.score_scales_, high - low)
    assert detector.score_scales_[0] != before.score_scales_[0]  # ratios instead of distances
    maps = member.predict_map(held_out)
    np.testing.assert_allclose([detector.map_centers_[0], detector.map_scales_[0]], [maps.mean(), maps.std()])
    assert detector.map_centers_[1] == before.map_centers_[1]
    assert detector.threshold_ == np.nanmax(detector.calibration_scores_)
    assert len(detector.calibration_scores_) == len(before.calibration_scores_)
    new = np.stack([member.score_samples(unseen_squares[0]), before.detectors_[1].score_samples(unseen_squares[0])])
    expected = np.mean((new - np.median(own, axis=1)[:, None]) / (high - low)[:, None], axis=0)
    np.testing.assert_allclose(detector.score_samples(unseen_squares[0]), expected)


def test_masks_are_empty_where_images_are_normal_after_a_correction_too(squares, unseen_squares, cells):
    X, y, _ = squares
    detector = both(cells, validation_fraction=0.4).fit(X[y == 0])
    before = detector.pixel_threshold_
    detector.partial_fit(np.concatenate([X[y == 1][:2], stripes(0)]), [1, 1, 0])
    held_out = X[y == 0][np.isfinite(detector.calibration_scores_)]
    own, maxima = [member.predict_map(held_out) for member in detector.detectors_], []
    for i in range(len(held_out)):  # each is standardised by the others
        others = [np.delete(np.stack(maps), i, axis=0) for maps in own]
        maxima.append(np.mean([(maps[i] - o.mean()) / o.std() for maps, o in zip(own, others)], axis=0).max())
    assert detector.pixel_threshold_ == pytest.approx(max(maxima), rel=1e-4) != before
    for images in (X, unseen_squares[0]):
        labels, found = detector.predict(images), detector.predict_mask(images)
        np.testing.assert_array_equal(found.any(axis=(1, 2)), labels == 1)
        results = detector.inspect(images)
        np.testing.assert_array_equal([result.mask for result in results], found)
        assert [result.explanation for result in results] == detector.explain(images)
        np.testing.assert_array_equal([result.p_value <= detector.false_alarm_rate_ for result in results], labels == 1)


def test_kinds_are_passed_on_to_the_members_that_learn_them(squares, cells):
    X, y, _ = squares
    members = [("banks", ExDDDetector(cells, random_state=0)), ("learner", Learner())]
    detector = CombinedDefectDetector(members, weights=[9, 1], random_state=0)
    detector.fit(X, y, kinds=np.where(y == 1, "square", None))
    detector.partial_fit(stripes(0, 2), [1, 0], kinds=["stripe", None])
    assert detector.kinds_.tolist() == ["square", "stripe"]
    assert detector.predict_kind(stripes(0))[0] == ["stripe"]
    with pytest.raises(ValueError, match=r"^kinds\[1\]: expected None or a word for normal"):
        detector.partial_fit(stripes(1, 2), [1, 0], kinds=["stripe", "stripe"])
    learner = CombinedDefectDetector([("learner", Learner())], random_state=0).fit(X, y)
    with pytest.raises(
        ValueError, match=r"^kinds: expected a detector whose partial_fit accepts .* \['learner'\], got"
    ):
        learner.partial_fit(stripes(0), [1], kinds=["stripe"])


@pytest.mark.parametrize("as_files", [False, True])
def test_a_held_out_image_that_is_corrected_counts_with_its_old_scores_or_no_longer(
    as_files, squares, cells, write_images
):
    X = squares[0][squares[1] == 0]
    detector = both(cells, validation_fraction=0.4).fit(X)
    held_out, old = np.flatnonzero(np.isfinite(detector.calibration_scores_)), detector._held_out
    corrected = write_images(X[held_out[:2]]) if as_files else X[held_out[:2]]
    detector.partial_fit(corrected, [0, 1])
    calibrating = np.flatnonzero(np.isfinite(detector.calibration_scores_))
    np.testing.assert_array_equal(calibrating, np.delete(held_out, 1))
    new = detector._held_out
    # The standardised score is kept, because the first defect replaced distances by ratios.
    assert (new.scores[0], new.maxima[0]) == (old.scores[0], old.maxima[0])
    assert (new.scores[1:] != old.scores[2:]).all()
    own = np.stack([member.score_samples(X[held_out[2:]]) for member in detector.detectors_])
    np.testing.assert_array_equal(detector.score_centers_, np.median(own, axis=1))
    assert detector.false_alarm_rate_ == 1 / len(held_out)
    again = pickle.loads(pickle.dumps(detector))
    with pytest.warns(UserWarning, match=r"^partial_fit: of the 4 normal images held out .*, only 0 remain unknown"):
        again.partial_fit(X[held_out[2:]], [0] * (len(held_out) - 2))
    assert not again._held_out.is_unseen.any()
    np.testing.assert_array_equal(again._held_out.scores, new.scores)
    assert again.pixel_threshold_ == detector.pixel_threshold_
    with pytest.raises(
        ValueError, match=r"^y: expected at least one of the 4 normal images held out .* to stay normal"
    ):
        detector.partial_fit(X[np.delete(held_out, 1)], [1] * (len(held_out) - 1))


@pytest.mark.parametrize(
    ("members", "has"),
    [
        ([("a", Brightness()), ("b", "drop")], False),
        ([("a", Brightness()), ("b", ExDDDetector())], True),
        ([("a", make_pipeline(OffsetDefectAugmenter(), ExDDDetector()))], True),
        ([("a", FrozenEstimator(ExDDDetector()))], False),
        ([("a", CombinedDefectDetector([("b", Brightness())]))], False),
        ([("a", CombinedDefectDetector([("b", Learner())]))], True),
        (None, False),
        ([Brightness()], False),
    ],
)
def test_it_can_be_corrected_if_one_of_its_members_can(members, has):
    assert hasattr(CombinedDefectDetector(members), "partial_fit") == has


def test_members_of_all_kinds_are_corrected(squares, unseen_squares, cells):
    X, y, _ = squares
    augmenter = OffsetDefectAugmenter(regions=RectangleRegions(), n_synthetic=4, random_state=0)
    members = [
        ("pipeline", make_pipeline(augmenter, ExDDDetector(cells, random_state=0))),
        ("nested", CombinedDefectDetector([("inner", Learner(random_state=0))], random_state=0)),
        ("frozen", FrozenEstimator(ExDDDetector(cells, random_state=0).fit(unseen_squares[0]))),
    ]
    detector = CombinedDefectDetector(members, random_state=0).fit(X, y)
    before = detector.detectors_
    detector.partial_fit(stripes(0, 2), [0, 0], masks=[None, None])
    assert len(detector.detectors_[0][-1].normal_bank_) > len(before[0][-1].normal_bank_)
    assert detector.detectors_[1].detectors_[0].shift_ == -1
    assert not hasattr(before[1].detectors_[0], "shift_")
    assert detector.detectors_[2] is before[2]


def test_a_correction_that_fails_in_one_member_changes_none(squares, cells):
    X, y, _ = squares
    members = [("banks", ExDDDetector(cells)), ("learner", Learner(power=3))]
    detector = CombinedDefectDetector(members, random_state=0).fit(X, y)
    before = pickle.loads(pickle.dumps(detector))
    with pytest.raises(MemoryError, match="too many") as raised:
        detector.partial_fit(stripes(0), [0])
    assert raised.value.__notes__ == ["This is the detector 'learner' of a CombinedDefectDetector."]
    assert not hasattr(detector.detectors_[1], "shift_")
    assert_same(detector, before, X)


def test_the_first_call_is_fit_and_rows_are_corrected_too(cells):
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((30, 3)), np.repeat([0, 1], [24, 6])
    X[y == 1] += 6
    first, fitted = (exdds(cells) for _ in range(2))
    first.partial_fit(X, y, classes=[0, 1])
    np.testing.assert_array_equal(first.score_samples(X), fitted.fit(X, y).score_samples(X))
    alarm = np.array([[-8.0, 0, 0]])
    before = first.score_samples(alarm)
    held_out = np.flatnonzero(np.isfinite(first.calibration_scores_))
    assert first.partial_fit(np.concatenate([alarm, X[held_out[:1]]]), [0, 0]).score_samples(alarm) < before
    assert first._held_out.is_unseen.tolist() == [False] + [True] * (len(held_out) - 1)
    with pytest.raises(ValueError, match=r"^masks: expected None for feature rows"):
        first.partial_fit(alarm, [0], masks=[None])
    with pytest.raises(ValueError, match=r"^y: expected 1 labels among \[0, 1\], got 1 with \[2\]"):
        first.partial_fit(alarm, [2])


def test_it_is_corrected_alike_after_it_comes_back_from_a_file(squares, unseen_squares, tmp_path):
    X, y, _ = squares
    members = [("one", ExDDDetector("gabor"))]
    detector = CombinedDefectDetector(members, random_state=0, image_channels="grey").fit(np.stack([X] * 3, axis=3), y)
    persistence.dump(detector, tmp_path / "detector.safetensors")
    back = persistence.load(tmp_path / "detector.safetensors")
    for one in (detector, back):
        one.partial_fit(stripes(0), [0])
    assert_same(back, detector, unseen_squares[0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"got an image that cannot be read: .*No such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:99]), r"got an image that cannot be read: "),
        (lambda path: path.write_bytes(path.with_name("new.png").read_bytes()), r"got a file that has changed"),
    ],
)
def test_held_out_files_have_to_be_as_they_were(damage, message, squares, cells, write_images):
    from PIL import Image

    X, y, _ = squares
    paths = write_images(X)
    detector = exdds(cells).fit(paths, y)
    path = paths[np.flatnonzero(np.isfinite(detector.calibration_scores_))[0]]
    Image.fromarray(stripes(3)[0]).save(type(paths[0])(path).with_name("new.png"))
    before = detector.threshold_
    damage(type(paths[0])(path))
    with pytest.raises(ValueError, match=f"^partial_fit: expected the 2 normal images that fit held out, .*{message}"):
        detector.partial_fit(stripes(0), [0])
    assert detector.threshold_ == before


def test_held_out_images_are_kept_only_for_corrections_and_older_files_say_that_they_lack_them(squares, cells):
    X, y, _ = squares
    fixed = CombinedDefectDetector([("one", BrightnessMap())]).fit(X, y)
    assert fixed._held_out is None
    assert not hasattr(fixed, "explain")
    detector = both(cells).fit(X, y)
    assert all(image.base is None for image in detector._held_out.samples)
    del detector._held_out
    with pytest.raises(ValueError, match=r"^partial_fit: expected .* stores its held-out images.* Fit it again"):
        detector.partial_fit(stripes(0), [0])
    del detector._numbers
    assert detector.inspect(X[:1])[0].explanation is None
    with pytest.raises(ValueError, match=r"^explain: expected a combination that stores the indices .* Fit it again"):
        detector.explain(X)


def test_a_correction_in_the_middle_of_a_prediction_is_seen_whole_or_not_at_all(squares, unseen_squares, cells):
    detector = both(cells).fit(squares[0], squares[1])
    before = pickle.loads(pickle.dumps(detector)).score_samples(unseen_squares[0])
    member, corrections = detector.detectors_[1], iter([None])
    score = member.score_samples

    def score_and_be_corrected(X):
        for _ in corrections:  # once, as another thread could at the worst moment
            detector.partial_fit(stripes(0), [1])
        return score(X)

    member.score_samples = score_and_be_corrected
    np.testing.assert_array_equal(detector.score_samples(unseen_squares[0]), before)
    assert not np.array_equal(detector.score_samples(unseen_squares[0]), before)


# Reasons


def test_reasons_add_up_to_the_score_and_number_the_images_as_the_user_does(squares, cells):
    X, y, masks = squares
    detector = both(cells, weights=[1, 3]).fit(X, y, masks=masks)
    kept = np.setdiff1d(np.arange(len(X)), np.flatnonzero(np.isfinite(detector.calibration_scores_)))
    detector.partial_fit(stripes(0, 2), [0, 1], masks=[None, np.ones((64, 64), dtype=bool)])
    X_test = np.concatenate([X[kept], stripes(0, 2)])
    reasons = detector.explain(X_test)
    np.testing.assert_array_equal([reason["score"] for reason in reasons], detector.score_samples(X_test))
    np.testing.assert_allclose([sum(reason["shares"].values()) for reason in reasons], detector.score_samples(X_test))
    assert {tuple(reason["shares"]) for reason in reasons} == {("banks", "bright")}
    assert {tuple(reason["detectors"]) for reason in reasons} == {("banks",)}
    numbers = np.append(kept, [len(X), len(X) + 1])
    for number, label, reason in zip(numbers, [*y[kept], 0, 1], reasons):
        own = reason["detectors"]["banks"]
        if own["normal_distance"] == 0 and not label:  # the nearest row is its own, unless the coreset left it out
            assert own["normal_image"] == number
        if own["defect_distance"] == 0 and label:
            assert own["defect_image"] == number
        assert y[own["normal_image"]] == 0 if own["normal_image"] < len(X) else own["normal_image"] == len(X)


def test_numbers_of_synthetic_defects_and_of_frozen_members_are_their_own(squares, unseen_squares, cells):
    X, y, _ = squares
    painted = ExDDDetector(cells, augmenter=OffsetDefectAugmenter(regions=RectangleRegions()), n_synthetic=5)
    frozen = ExDDDetector(cells, random_state=0).fit(unseen_squares[0], unseen_squares[1])
    members = [("painted", painted), ("frozen", make_pipeline(FrozenEstimator(frozen)))]
    detector = CombinedDefectDetector(members, random_state=0).fit(X[y == 0])
    for reason, own in zip(detector.explain(X[:3]), frozen.explain(X[:3])):
        assert reason["detectors"]["frozen"] == own
        assert reason["detectors"]["painted"]["synthetic"]
        assert reason["detectors"]["painted"]["defect_image"] < 5
