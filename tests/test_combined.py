"""CombinedDefectDetector: its sum of scores, its promised false alarm rate, and its behaviour as a meta-estimator."""

import pickle

import joblib
import numpy as np
import pytest
from assertions import each_way_to_store
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_exdd import ExDDDetector
from sklearn_exdd._images import Images
from sklearn_exdd.augment import OffsetDefectAugmenter, RectangleRegions
from sklearn_exdd.detectors.combined import CombinedDefectDetector
from sklearn_exdd.detectors.defect_classifier import DefectClassifier


class Brightness(BaseEstimator):
    """Detector that scores images or rows by a power of their mean, and training samples by 0 as if memorised."""

    def __init__(self, power=1, column=None, random_state=None, pos_label=None):
        self.power = power
        self.column = column
        self.random_state = random_state
        self.pos_label = pos_label

    def fit(self, X, y=None, *, masks=None, groups=None):
        self.fit_params_ = {"X": X, "y": y, "masks": masks, "groups": groups}
        self.known_ = {np.asarray(x).tobytes() for x in X}
        return self

    def score_samples(self, X):
        values = [np.mean(x if self.column is None else x[self.column]) for x in X]
        return np.array([0 if np.asarray(x).tobytes() in self.known_ else v**self.power for x, v in zip(X, values)])


class BrightnessMap(Brightness):
    """Detector like Brightness that also has a map."""

    def predict_map(self, X):
        return [(np.asarray(x) / 255.0) ** self.power for x in X]


def combined(**params):
    return CombinedDefectDetector(
        [("one", BrightnessMap()), ("two", BrightnessMap(power=2))], **{"random_state": 0, **params}
    )


def exdds(cells, **params):
    detectors = [("nearest", ExDDDetector(cells)), ("sharp", ExDDDetector(cells, blur=0, n_top_patches=1))]
    return CombinedDefectDetector(detectors, **{"random_state": 0, **params})


def held_out_rows(detector, X, y):
    """Return the indices of the normal images that the detectors were not fitted on."""
    known = {np.asarray(x).tobytes() for x in detector.detectors_[0].fit_params_["X"]}
    return np.array([i for i in np.flatnonzero(y == 0) if X[i].tobytes() not in known])


# Sum of scores


def test_it_ranks_unseen_defects_first_and_locates_them(squares, unseen_squares, cells):
    X, y, masks = squares
    detector = exdds(cells).fit(X, y, masks=masks)
    X, y, masks = unseen_squares
    assert roc_auc_score(y, detector.decision_function(X)) == 1
    assert roc_auc_score(masks.ravel(), detector.predict_map(X).ravel()) > 0.9
    np.testing.assert_array_equal(detector.predict(X), (detector.decision_function(X) > 0).astype(int))


@pytest.mark.parametrize("weights", [None, (3, 1)])
def test_scores_are_standardised_on_normal_images_held_out_and_averaged(weights, squares, unseen_squares):
    X, y, _ = squares
    detector = combined(weights=weights, validation_fraction=0.4).fit(X, y)
    rows = held_out_rows(detector, X, y)
    assert len(rows) == 5
    expected, shares = 0, np.array(weights or (1, 1)) / np.sum(weights or (1, 1))
    for member, share in zip(detector.detectors_, shares):
        own = member.score_samples(X[rows])
        low, middle, high = np.percentile(own, [25, 50, 75])
        expected += share * (member.score_samples(unseen_squares[0]) - middle) / (high - low)
    np.testing.assert_allclose(detector.score_samples(unseen_squares[0]), expected)
    # A calibration score is standardised by the scores of the other images.
    calibration = np.zeros(len(rows))
    for member, share in zip(detector.detectors_, shares):
        own = member.score_samples(X[rows])
        for i in range(len(rows)):
            low, middle, high = np.percentile(np.delete(own, i), [25, 50, 75])
            calibration[i] += share * (own[i] - middle) / (high - low)
    np.testing.assert_allclose(detector.calibration_scores_[rows], calibration)
    assert detector.threshold_ == pytest.approx(calibration.max())
    assert detector.false_alarm_rate_ == 1 / 6


def test_maps_are_standardised_by_the_pixels_of_these_images(squares, unseen_squares):
    X, y, _ = squares
    detectors = [("one", BrightnessMap()), ("none", Brightness()), ("two", BrightnessMap(power=2))]
    detector = CombinedDefectDetector(detectors, weights=[1, 7, 3], random_state=0).fit(X, y)
    pixels = X[held_out_rows(detector, X, y)] / 255
    unseen = unseen_squares[0] / 255
    expected = 0.25 * (unseen - pixels.mean()) / pixels.std()
    expected += 0.75 * (unseen**2 - (pixels**2).mean()) / (pixels**2).std()
    maps = detector.predict_map(unseen_squares[0])
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5)


def test_without_any_map_there_is_none_to_predict(squares):
    detector = CombinedDefectDetector([("one", Brightness())]).fit(squares[0], squares[1])
    with pytest.raises(ValueError, match=r"^predict_map: expected a detector with maps, got none. Use score_sampl"):
        detector.predict_map(squares[0])


def test_detectors_that_say_always_the_same_do_no_harm(squares):
    X, y, _ = squares
    scores = CombinedDefectDetector([("flat", BrightnessMap(power=0)), ("one", Brightness())], random_state=0)
    maps = scores.fit(X, y).predict_map(X)
    assert np.isfinite(scores.score_samples(X)).all()
    np.testing.assert_array_equal(maps, 0)


def test_feature_rows_are_combined_too(cells):
    rng = np.random.RandomState(0)
    X = np.concatenate([rng.standard_normal((30, 3)), 6 + rng.standard_normal((10, 3))])
    y = np.repeat([0, 1], [30, 10])
    detector = exdds(cells).fit(X, y)
    assert roc_auc_score(y, detector.decision_function(X)) == 1
    assert detector.n_features_in_ == 3
    assert len(detector.score_centers_) == 2


# Promised false alarm rate


@pytest.mark.slow
def test_new_normals_raise_no_more_alarms_than_promised():
    # The scores are skewed, and the detectors have memorised their training samples.
    detectors = [(f"of{column}", Brightness(column=column)) for column in range(3)]
    rng, rates = np.random.RandomState(0), []
    for seed in range(150):
        X, X_new = np.exp(rng.standard_normal((40, 3))), np.exp(rng.standard_normal((100, 3)))
        detector = CombinedDefectDetector(
            detectors, validation_fraction=0.5, max_false_alarm_rate=0.1, random_state=seed
        ).fit(X)
        assert detector.false_alarm_rate_ == 0.1
        rates.append((detector.decision_function(X_new) > 0).mean())
    assert 0.05 < np.mean(rates) < 0.1 + 3 * np.std(rates) / np.sqrt(len(rates))


def test_images_of_a_group_are_held_out_together(squares):
    X, y, _ = squares
    groups = np.arange(len(y)) // 2
    detector = combined(validation_fraction=0.3).fit(X, y, groups=groups)
    rows = held_out_rows(detector, X, y)
    assert set(groups[rows]).isdisjoint(set(groups[y == 0]) - set(groups[rows]))
    kept = np.setdiff1d(np.flatnonzero(y == 0), rows)
    np.testing.assert_array_equal(groups[kept], groups[np.isin(groups, groups[kept]) & (y == 0)])


# Input of the detectors


def test_detectors_get_the_normals_kept_all_defects_and_their_masks_and_groups(squares):
    X, y, masks = squares
    labels, groups = np.where(y == 1, "broken", "fine"), np.arange(100, 100 + len(y))
    with pytest.warns(UserWarning, match="pos_label='broken' sorts before"):
        detector = combined(pos_label="broken").fit(X, labels, masks=masks, groups=groups)
    got = detector.detectors_[1].fit_params_
    rows = [*np.setdiff1d(np.flatnonzero(y == 0), held_out_rows(detector, X, y)), *np.flatnonzero(y == 1)]
    np.testing.assert_array_equal(got["X"], X[rows])
    np.testing.assert_array_equal(got["y"], y[rows])
    np.testing.assert_array_equal(got["groups"], rows)
    for mask, row in zip(got["masks"], rows):
        assert mask is None or mask is masks[row] or np.array_equal(mask, masks[row])
    assert detector.predict(X).dtype == labels.dtype


def test_defects_may_come_apart_and_need_not_come_at_all(squares):
    X, y, masks = squares
    apart = combined().fit(X[y == 0], X[y == 1], masks=masks[y == 1])
    assert apart.detectors_[0].fit_params_["y"].sum() == 6
    assert len(apart.detectors_[0].fit_params_["masks"]) == len(apart.detectors_[0].fit_params_["X"])
    alone = combined().fit(X[y == 0]).detectors_[0].fit_params_
    assert alone["masks"] is None
    assert not alone["y"].any()


def test_attached_defects_follow_their_sources(squares):
    X, y, _ = squares
    augmenter = OffsetDefectAugmenter(regions=RectangleRegions(), n_synthetic=30, random_state=0)
    detector = make_pipeline(augmenter, combined()).fit(X, y)[-1]
    images = detector.detectors_[0].fit_params_["X"]
    assert 0 < len(images.synthetic.images) < 30
    for image, mask, provenance in zip(*images.synthetic, images.synthetic.provenance):
        np.testing.assert_array_equal(image[~mask], images[provenance["source"]][~mask])
        assert provenance["source"] < 12
    assert len(pickle.loads(pickle.dumps(images)).synthetic.images) == len(images.synthetic.images)
    augmenter.set_params(n_synthetic=1)
    fitted = [make_pipeline(augmenter, combined(random_state=seed)).fit(X, y)[-1] for seed in range(8)]
    attached = [detector.detectors_[0].fit_params_["X"].synthetic for detector in fitted]
    assert {None if synthetic is None else len(synthetic.images) for synthetic in attached} == {None, 1}


def test_detectors_without_a_seed_get_one_and_others_keep_theirs(squares):
    X, y, _ = squares
    detectors = [("free", Brightness(pos_label="x")), ("fixed", Brightness(random_state=5))]
    seeds = []
    for dropped in ("none", "free"):
        detector = CombinedDefectDetector(detectors, random_state=0)
        if dropped == "free":
            detector.set_params(fixed="drop")
        members = detector.fit(X, y).detectors_
        seeds.append(members[0].random_state)
        assert members[0].pos_label is None
        assert dropped == "free" or members[1].random_state == 5
    assert seeds[0] == seeds[1] is not None
    assert detectors[0][1].random_state is None


def test_a_classifier_and_a_memory_bank_can_be_combined(squares, unseen_squares, cells):
    X, y, _ = squares
    network = DefectClassifier("resnet18", weights=None, layer="layer1", image_size=None, max_steps=1)
    detector = CombinedDefectDetector([("bank", ExDDDetector(cells)), ("network", network)], random_state=0).fit(X, y)
    assert detector.predict_map(unseen_squares[0]).shape == unseen_squares[0].shape
    assert not get_tags(detector).input_tags.two_d_array


# Behaviour as an estimator


@parametrize_with_checks([CombinedDefectDetector([("one", ExDDDetector()), ("two", ExDDDetector(n_neighbors=1))])])
def test_scikit_learn_finds_nothing_wrong(estimator, check):
    check(estimator)


def test_nested_parameters_are_got_set_and_cloned(cells):
    detector = exdds(cells)
    assert detector.get_params()["sharp__blur"] == 0
    detector.set_params(sharp__blur=2.5, nearest="drop", weights=(1, 2))
    assert clone(detector).get_params()["sharp__blur"] == 2.5
    assert repr(clone(detector)) == repr(detector)
    with pytest.raises(ValueError, match="Invalid parameter 'soft'"):
        detector.set_params(soft__blur=1)


@pytest.mark.slow
def test_detectors_and_their_parameters_can_be_searched(squares, cells):
    X, y, _ = squares
    grid = {"sharp__n_top_patches": [1, 5], "nearest": ["drop", ExDDDetector(cells)], "weights": [None, (1, 2)]}
    search = GridSearchCV(exdds(cells), grid, scoring="roc_auc", cv=2, error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == 8
    assert search.best_score_ > 0.9


def test_several_jobs_give_the_same(squares, unseen_squares, cells):
    X, y, masks = squares
    with joblib.parallel_config(backend="threading"):  # processes would take seconds to start
        one, two = (exdds(cells, n_jobs=n_jobs).fit(X, y, masks=masks) for n_jobs in (1, 2))
    np.testing.assert_array_equal(one.score_samples(unseen_squares[0]), two.score_samples(unseen_squares[0]))


def test_the_seed_decides(squares, unseen_squares, cells):
    X, y, _ = squares
    scores = [exdds(cells, random_state=seed).fit(X, y).score_samples(unseen_squares[0]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


@each_way_to_store
def test_it_comes_back_from_a_file(through, squares, unseen_squares):
    detector = CombinedDefectDetector([("one", ExDDDetector()), ("two", ExDDDetector(blur=0))], random_state=0)
    detector.fit(squares[0], squares[1])
    back = through(detector)
    np.testing.assert_array_equal(back.predict_map(unseen_squares[0]), detector.predict_map(unseen_squares[0]))
    assert back.threshold_ == detector.threshold_


def test_images_of_other_sizes_and_paths_are_taken(squares, unseen_squares, write_images, cells):
    X, y, _ = squares
    detector = exdds(cells).fit(X, y)
    np.testing.assert_array_equal(
        exdds(cells).fit(write_images(X), y).score_samples(unseen_squares[0]), detector.score_samples(unseen_squares[0])
    )
    maps = detector.predict_map([unseen_squares[0][0], unseen_squares[0][1][:40, :50]])
    assert [pixel_map.shape for pixel_map in maps] == [(64, 64), (40, 50)]


# Bad input


@pytest.mark.parametrize(
    ("detectors", "params", "message"),
    [
        ([], {}, r"^detectors: expected a list of \(name, detector\), got \[\]"),
        ([Brightness()], {}, r"^detectors: expected a list of \(name, detector\), got \[Brightness"),
        ([(1, Brightness())], {}, r"^detectors: expected a list of \(name, detector\), got \[\(1, Bright"),
        ([("a", "drop")], {}, "^detectors: expected at least one detector other than 'drop', got none"),
        ([("a", Brightness()), ("a", Brightness())], {}, r"Names provided are not unique: \['a', 'a'\]"),
        ([("a__b", Brightness())], {}, "Estimator names must not contain __"),
        ([("weights", Brightness())], {}, "Estimator names conflict with constructor arguments"),
        ([("a", None)], {}, "^detectors: expected 'a' to have fit and score_samples, got None"),
        ([("a", Brightness())], {"weights": [1, 2]}, "^weights: expected 1 numbers > 0, one for each detector, got"),
        ([("a", Brightness())], {"weights": [0]}, "^weights: expected 1 numbers > 0"),
        ([("a", Brightness())], {"weights": [np.nan]}, "^weights: expected 1 numbers > 0"),
        ([("a", Brightness())], {"validation_fraction": 0}, "The 'validation_fraction' parameter of Combined"),
        ([("a", ExDDDetector(blur=-1))], {}, "The 'blur' parameter of ExDDDetector must be"),
    ],
)
def test_what_makes_no_sense_is_refused_in_fit(detectors, params, message, squares):
    with pytest.raises(ValueError, match=message):
        CombinedDefectDetector(detectors, **params).fit(squares[0], squares[1])


def test_too_few_normals_to_hold_one_out_are_refused(squares):
    X, y, _ = squares
    with pytest.raises(
        ValueError, match=r"^X: expected normal samples of at least 3 groups, .* got 2 groups and n_samples = 12"
    ):
        combined().fit(X[y == 0], groups=np.arange(12) // 6)


def test_an_error_names_the_detector_and_the_image_as_the_user_knows_them(squares, cells):
    X, y, _ = squares
    detectors = [("good", ExDDDetector(cells)), ("bad", ExDDDetector(cells, n_neighbors=1, epsilon=0.0))]
    with pytest.raises(ValueError, match="The 'epsilon' parameter of ExDDDetector") as raised:
        CombinedDefectDetector(detectors).fit(X, y)
    assert raised.value.__notes__ == ["This is the detector 'bad' of a CombinedDefectDetector."]
    images = [*X[:7], X[7] / 2, *X[8:]]
    with pytest.raises(ValueError, match=r"^X\[7\]: expected floats in \[0, 1\]"):
        combined().fit(images, y)


def test_only_the_images_it_needs_are_decoded_to_predict(squares, unseen_squares, monkeypatch):
    detector = combined().fit(squares[0], squares[1])
    monkeypatch.setattr(Images, "__getitem__", lambda images, index: pytest.fail("an image was decoded"))
    assert detector.score_samples(unseen_squares[0]).shape == (8,)
