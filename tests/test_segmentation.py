"""SegmentationDetector: its training data, its scores, and the training it shares."""

import pickle

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_exdd import (
    CombinedDefectDetector,
    DefectPasteAugmenter,
    ExDDDetector,
    LearnedFeatureExtractor,
    OffsetDefectAugmenter,
    SegmentationDetector,
)
from sklearn_exdd._torch import resize
from sklearn_exdd.features import learned
from sklearn_exdd.metrics import pixel_roc_auc_score

NETWORK = LearnedFeatureExtractor(
    max_steps=3, n_synthetic=4, crop_size=32, train_batch_size=4, precision="float32", random_state=0
)


def tiny(**params):
    return SegmentationDetector(NETWORK, random_state=0, **{"n_networks": 1, **params})


@pytest.fixture
def trainings(monkeypatch):
    """Return a list of (normal images, marked defects, augmenter, number of synthetic defects), one per training."""
    seen, crops = [], learned.training_crops

    def training_crops(normal, marked, augmenter, **params):
        seen.append((normal, marked, augmenter, params["n_synthetic"]))
        return crops(normal, marked, augmenter, **params)

    monkeypatch.setattr(learned, "training_crops", training_crops)
    return seen


def test_scores_are_the_highest_centred_logits_and_maps_those_less_one_number(surfaces):
    X, y, masks = surfaces
    detector = tiny(top_share=0.01, image_weight=0).fit(X, y, masks=masks)
    network = detector.feature_extractors_[0]
    logits = network.defect_logits(X)
    logits = logits - resize(network.position_map_[..., None], logits.shape[1:])[..., 0]
    n_pixels = round(0.01 * logits[0].size)
    expected = np.sort(logits.reshape(len(X), -1), axis=1)[:, -n_pixels:].mean(axis=1)
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-5)
    usual = network.position_map_.mean()
    np.testing.assert_allclose(detector.predict_map(X), network.defect_logits(X) - usual, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_maps_of_several_networks_are_means_of_theirs(surfaces):
    X, y, masks = surfaces
    one = tiny().fit(X, y, masks=masks)
    three = tiny(n_networks=3, image_weight=0).fit(X, y, masks=masks)
    keys = [extractor.weights_key_ for extractor in three.feature_extractors_]
    assert keys[0] == one.feature_extractors_[0].weights_key_
    assert len(set(keys)) == 3
    each = [extractor.defect_logits(X) - extractor.position_map_.mean() for extractor in three.feature_extractors_]
    np.testing.assert_allclose(three.predict_map(X), np.mean(each, axis=0), rtol=1e-5, atol=1e-5)
    again = pickle.loads(pickle.dumps(three))
    np.testing.assert_array_equal(again.decision_function(X), three.decision_function(X))


@pytest.mark.slow
def test_every_second_network_never_sees_the_real_defects_unless_all_do(surfaces, trainings):
    X, y, masks = surfaces
    tiny(n_networks=3).fit(X, y, masks=masks)
    assert [marked is None for _, marked, _, _ in trainings] == [False, True, False]
    trainings.clear()
    tiny(n_networks=2, real_defects="all").fit(X, y, masks=masks)
    assert [marked is None for _, marked, _, _ in trainings] == [False, False]


def test_an_augmenter_that_needs_real_defects_says_which_networks_lack_them(surfaces):
    X, y, masks = surfaces
    detector = tiny(n_networks=2, augmenter=DefectPasteAugmenter(min_contrast=0.3), n_synthetic=4)
    with pytest.raises(ValueError, match=r"^masks: expected at least one defect image") as caught:
        detector.fit(X, y, masks=masks)
    assert "real_defects='all'" in caught.value.__notes__[0]
    detector.set_params(real_defects="all").fit(X, y, masks=masks)


def test_maps_of_images_below_the_threshold_are_lowered_by_what_they_lack(surfaces):
    X, y, masks = surfaces
    detector = tiny(image_weight=0.5, validation_fraction=0.4, max_false_alarm_rate=0.5).fit(X, y, masks=masks)
    maps, missing = detector.predict_map(X), np.minimum(detector.decision_function(X), 0)
    assert (missing < 0).any()
    assert (missing == 0).any()
    plain = detector.set_params(image_weight=0).predict_map(X)
    np.testing.assert_allclose(maps, plain + 0.5 * missing[:, None, None], rtol=1e-5, atol=1e-5)


def test_the_threshold_comes_from_normal_images_that_training_has_not_seen(surfaces, trainings):
    X, y, masks = surfaces
    groups = np.arange(len(X)) // 2
    detector = tiny(validation_fraction=0.3, max_false_alarm_rate=0.3).fit(X, y, masks=masks, groups=groups)
    ((normal, marked, _, _),) = trainings
    seen = {np.asarray(image).tobytes() for image in normal.samples.raw()}
    held_out = [i for i in np.flatnonzero(y == 0) if X[i].tobytes() not in seen]
    assert 0 < len(held_out) < len(normal)
    assert len(normal) + len(held_out) == np.sum(y == 0)
    assert len(marked) == np.sum(y == 1)
    assert not set(groups[held_out]) & {groups[i] for i in np.flatnonzero(y == 0) if i not in held_out}
    assert detector.threshold_ in detector.score_samples(X[held_out])


def test_without_a_validation_share_all_normal_images_train(surfaces, trainings):
    X, y, masks = surfaces
    detector = tiny(validation_fraction=0, max_false_alarm_rate=0.3).fit(X, y, masks=masks)
    ((normal, _, _, _),) = trainings
    assert len(normal) == np.sum(y == 0)
    assert detector.threshold_ in detector.score_samples(X[y == 0])


def test_attached_defects_are_what_it_trains_on_but_for_those_on_held_out_images(surfaces, trainings):
    X, y, masks = surfaces
    augmented = OffsetDefectAugmenter(n_synthetic=30, min_contrast=0.3, random_state=0).fit_transform(X, y, masks=masks)
    tiny(validation_fraction=0.4).fit(augmented, y, masks=masks)
    ((normal, _, given, n_synthetic),) = trainings
    seen = {np.asarray(image).tobytes() for image in normal.samples.raw()}
    sources = [sample["source"] for sample in augmented.synthetic.provenance]
    assert n_synthetic == sum(X[source].tobytes() in seen for source in sources)
    assert 0 < n_synthetic < 30
    assert len(given.sample().images) == n_synthetic


@pytest.mark.slow
def test_a_pipeline_equals_fit_on_what_the_augmenter_attached(surfaces):
    X, y, _ = surfaces
    augmenter = OffsetDefectAugmenter(n_synthetic=6, min_contrast=0.3, random_state=0)
    pipeline = make_pipeline(augmenter, tiny()).fit(X, y)
    alone = tiny().fit(augmenter.fit_transform(X, y), y)
    np.testing.assert_array_equal(pipeline.score_samples(X), alone.score_samples(X))


def test_an_augmenter_replaces_that_of_the_extractor(surfaces, trainings):
    X, y, _ = surfaces
    tiny(augmenter=OffsetDefectAugmenter(min_contrast=0.3), n_synthetic=5).fit(X[y == 0])
    ((_, _, augmenter, n_synthetic),) = trainings
    assert isinstance(augmenter, OffsetDefectAugmenter)
    assert n_synthetic == 5


def test_banks_and_head_of_a_combination_share_one_training(surfaces, trainings, tmp_path):
    X, y, masks = surfaces
    members = [
        ("banks", ExDDDetector(NETWORK, validation_fraction=0, memory=str(tmp_path))),
        ("segmentation", SegmentationDetector(NETWORK, n_networks=1, validation_fraction=0, memory=str(tmp_path))),
    ]
    combined = CombinedDefectDetector(members, random_state=0).fit(X, y, masks=masks)
    assert len(trainings) == 1
    banks, head = combined.detectors_
    assert banks.feature_extractor_.weights_key_ == head.feature_extractors_[0].weights_key_


@pytest.mark.slow
def test_a_search_over_what_training_does_not_depend_on_trains_once_a_fold(surfaces, trainings, tmp_path):
    X, y, _ = surfaces
    search = GridSearchCV(
        tiny(memory=str(tmp_path)), {"top_share": [0.001, 0.01, 0.1]}, cv=2, scoring="roc_auc", refit=False
    )
    search.fit(X, y)
    assert len(trainings) == 2
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.slow
def test_a_seed_reaches_an_extractor_that_has_none(surfaces):
    X, y, _ = surfaces
    free = LearnedFeatureExtractor(**{**NETWORK.get_params(), "random_state": None})
    scores = [SegmentationDetector(free, random_state=seed).fit(X[y == 0]).score_samples(X[:4]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[0] != scores[2]).any()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"feature_extractor": "resnet18"},
            "The 'feature_extractor' parameter of .* must be a str among {'learned'} or",
        ),
        ({"validation_fraction": 1.0}, "The 'validation_fraction' parameter of SegmentationDetector"),
        ({"top_share": 0}, "The 'top_share' parameter of SegmentationDetector"),
    ],
)
def test_wrong_parameters_are_refused(surfaces, params, message):
    X, y, _ = surfaces
    with pytest.raises(ValueError, match=message):
        tiny().set_params(**params).fit(X[y == 0])


def test_feature_rows_are_refused():
    with pytest.raises(ValueError, match=r"^X: expected images to train a network on, got feature rows"):
        tiny().fit(np.zeros((10, 3)))


def test_too_few_groups_to_hold_some_out_are_refused(surfaces):
    X, y, _ = surfaces
    with pytest.raises(ValueError, match=r"^X: expected normal samples of at least 3 groups, because one group is"):
        tiny().fit(X[y == 0], groups=np.arange(np.sum(y == 0)) % 2)


def test_attached_defects_and_an_augmenter_at_once_are_refused(surfaces):
    X, y, _ = surfaces
    augmented = OffsetDefectAugmenter(n_synthetic=4, min_contrast=0.3, random_state=0).fit_transform(X, y)
    with pytest.raises(ValueError, match=r"^augmenter: expected None, because X already carries synthetic defects"):
        tiny(augmenter=OffsetDefectAugmenter()).fit(augmented, y)


@pytest.mark.slow
def test_it_finds_and_locates_defects_that_it_has_not_seen(surfaces, unseen_surfaces):
    X, y, masks = surfaces
    network = LearnedFeatureExtractor(
        max_steps=80, n_synthetic=40, crop_size=48, train_batch_size=8, precision="float32", random_state=0
    )
    detector = SegmentationDetector(network, real_defects="all", random_state=0).fit(X, y, masks=masks)
    X_test, y_test, masks_test = unseen_surfaces
    assert roc_auc_score(y_test, detector.decision_function(X_test)) > 0.85
    assert pixel_roc_auc_score(masks_test, detector.predict_map(X_test)) > 0.85
