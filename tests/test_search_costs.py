"""Costs of a search: each training run and each painted image is paid for once per fold."""

import functools

import numpy as np
import pytest
from assertions import assert_same_samples
from conftest import CellStatistics
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from tiny_pipelines import save_tiny_pipeline

from sklearn_exdd import (
    DDPMDefectAugmenter,
    DefectClassifier,
    DefectPasteAugmenter,
    DiffusionDefectAugmenter,
    ExDDDetector,
    LearnedFeatureExtractor,
    MixedDefectAugmenter,
    OffsetDefectAugmenter,
    persistence,
)
from sklearn_exdd._composition import clone_with_seed
from sklearn_exdd.augment import BoxRegions
from sklearn_exdd.datasets import make_surface_defects

BOX = BoxRegions([(8, 8, 24, 24)])
DDPM = {"crop_size": 16, "block_out_channels": (8,), "max_steps": 2, "train_batch_size": 2, "n_inference_steps": 5}
FOLDS = StratifiedKFold(3)


@pytest.fixture
def data():
    """Return X and y of 12 images of 32 x 32 pixels, 6 of them with a defect."""
    X, y, _ = make_surface_defects(12, defect_fraction=0.5, image_shape=(64, 64), random_state=0)
    return X[:, :32, :32].copy(), y


@pytest.fixture
def counted(monkeypatch):
    """Return a function that starts counting the calls of a method or function."""

    def start(owner, name):
        calls = []
        original = getattr(owner, name)

        @functools.wraps(original)
        def counting(*args, **kwargs):
            calls.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)
        return calls

    return start


def search(estimator, grid, X, y):
    """Run a search that refits its last candidate, which has the most defects, on all images."""
    last = GridSearchCV(
        estimator,
        grid,
        cv=FOLDS,
        scoring="roc_auc",
        error_score="raise",
        refit=lambda results: len(results["params"]) - 1,
    )
    return last.fit(X, y)


def ddpm(**params):
    return DDPMDefectAugmenter(**DDPM, regions=BOX, min_contrast=0, random_state=0, **params)


def as_a_step(augmenter, memory):
    """Return a pipeline whose augmenter has the cache, and the prefixes of the parameters of augmenter and detector."""
    augmenter = clone(augmenter).set_params(memory=memory)
    name = type(augmenter).__name__.lower()
    return make_pipeline(augmenter, ExDDDetector(CellStatistics(), random_state=0)), f"{name}__", "exdddetector__"


def within(augmenter, memory):
    """Return a detector that has the cache and whose augmenter has none, and two empty prefixes."""
    return ExDDDetector(CellStatistics(), augmenter=augmenter, memory=memory, random_state=0), "", ""


each_way = pytest.mark.parametrize("way", [as_a_step, within])


@pytest.mark.slow
@each_way
def test_a_search_trains_a_ddpm_once_for_each_fold(way, data, counted, tmp_path):
    trainings = counted(DDPMDefectAugmenter, "_train")
    estimator, to_augmenter, to_detector = way(ddpm(), tmp_path / "cache")
    grid = {f"{to_detector}n_neighbors": [1, 3], f"{to_augmenter}n_synthetic": [0, 5, 10]}
    paintings = counted(DDPMDefectAugmenter, "_paint")
    search(estimator, grid, *data)
    assert len(trainings) == 4  # one per fold and one for the refit
    assert len(paintings) == 4 * 10


@pytest.mark.slow
def test_a_mixture_gets_the_cache_of_the_detector(data, counted, tmp_path):
    trainings, paintings = counted(DDPMDefectAugmenter, "_train"), counted(OffsetDefectAugmenter, "_paint")
    offset = OffsetDefectAugmenter(regions=BOX, min_contrast=0)
    mixed = MixedDefectAugmenter([("ddpm", ddpm()), ("offset", offset)])
    estimator, *_ = within(mixed, tmp_path)
    search(estimator, {"n_neighbors": [1, 3], "n_synthetic": [0, 2, 4]}, *data)
    assert len(trainings) == 4
    assert len(paintings) == 4 * 2


@pytest.mark.slow
@each_way
@pytest.mark.filterwarnings("ignore:.*made a blank image:RuntimeWarning")
def test_a_search_paints_an_image_once_for_each_fold(way, data, counted, tmp_path):
    pytest.importorskip("diffusers")
    paintings = counted(DiffusionDefectAugmenter, "_paint")
    augmenter = DiffusionDefectAugmenter(
        save_tiny_pipeline(tmp_path / "model", "sd"),
        prompts="scratch",
        working_size=64,
        n_inference_steps=2,
        device="cpu",
        regions=BOX,
        min_contrast=0,
        random_state=0,
    )
    estimator, to_augmenter, to_detector = way(augmenter, tmp_path / "cache")
    grid = {f"{to_detector}n_neighbors": [1, 3], f"{to_augmenter}n_synthetic": [0, 2, 3]}
    search(estimator, grid, *data)
    assert len(paintings) == 12  # three for each of four training sets


@pytest.mark.slow
def test_a_search_trains_a_classifier_once_for_each_fold(data, counted, tmp_path):
    from sklearn_exdd.detectors.defect_classifier import detector

    trainings = counted(detector, "train")
    paintings = counted(OffsetDefectAugmenter, "_paint")
    classifier = DefectClassifier(
        "resnet18",
        weights=None,
        image_size=None,
        augmenter=OffsetDefectAugmenter(regions=BOX, min_contrast=0),
        n_synthetic=4,
        max_steps=1,
        patience=None,
        train_batch_size=4,
        memory=tmp_path,
        random_state=0,
    )
    found = search(classifier, {"max_false_alarm_rate": [0.1, 0.4]}, *data)
    assert len(trainings) == 4
    assert len(paintings) == 4 * 4
    plain = clone(found.best_estimator_).set_params(memory=None).fit(*data)
    np.testing.assert_array_equal(found.decision_function(data[0]), plain.decision_function(data[0]))
    np.testing.assert_array_equal(found.best_estimator_.losses_, plain.losses_)
    found.best_estimator_.set_params(learning_rate=1e-3).fit(*data)
    assert len(trainings) == 4 + 1 + 1, "once without a cache, once with another learning rate"


def test_an_extractor_hands_its_cache_to_its_augmenter(data, counted, tmp_path):
    X, y = data
    paintings = counted(OffsetDefectAugmenter, "_paint")
    for max_steps in (1, 2):
        LearnedFeatureExtractor(
            augmenter=OffsetDefectAugmenter(regions=BOX, min_contrast=0),
            n_synthetic=3,
            crop_size=32,
            max_steps=max_steps,
            train_batch_size=2,
            memory=tmp_path,
            random_state=0,
        ).fit(X[y == 0])
    assert len(paintings) == 3


def test_a_cache_of_its_own_stays():
    mixed = MixedDefectAugmenter([("own", OffsetDefectAugmenter(memory="own")), ("none", OffsetDefectAugmenter())])
    params = clone_with_seed(mixed, 0, memory="given").get_params()
    assert [params[name] for name in ("memory", "own__memory", "none__memory")] == ["given", "own", "given"]
    assert mixed.get_params()["none__memory"] is None
    assert clone_with_seed(mixed, 0).get_params()["none__memory"] is None


@pytest.mark.parametrize("augmenter", [ddpm(), MixedDefectAugmenter([("ddpm", ddpm())], random_state=0)])
def test_without_synthetic_defects_nothing_is_learned_until_some_are_asked_for(augmenter, data, counted):
    X, y = data
    trainings = counted(DDPMDefectAugmenter, "_train")
    postponed = clone(augmenter).set_params(n_synthetic=0)
    assert postponed.fit_transform(X, y).synthetic is None
    assert postponed.transform(X) is X
    assert len(trainings) == 0
    found = postponed.sample(2).images
    assert len(trainings) == 1
    postponed.sample(1)
    assert len(trainings) == 1
    np.testing.assert_array_equal(found, clone(augmenter).fit(X, y).sample(2).images)
    postponed.fit(X, y)
    assert len(trainings) == 3


def test_what_is_learned_later_can_be_dumped_before(tmp_path):
    X, y, masks = make_surface_defects(8, image_shape=(64, 64), random_state=0)
    augmenter = DefectPasteAugmenter(n_synthetic=0, random_state=0)
    augmenter.fit_transform(X, y, masks=masks)
    persistence.dump(augmenter, tmp_path / "augmenter.safetensors")
    loaded = persistence.load(tmp_path / "augmenter.safetensors")
    expected = DefectPasteAugmenter(random_state=0).fit(X, y, masks=masks).sample(2)
    for one in (augmenter, loaded):
        assert_same_samples(one.sample(2), expected)


def test_an_augmenter_that_lacks_defects_is_no_error_where_it_makes_none(data):
    X, y = data
    images = DefectPasteAugmenter(n_synthetic=0).fit_transform(X, y)
    assert (len(images), images.synthetic) == (len(X), None)


def test_the_parameters_of_others_do_not_paint_anew(data, counted, tmp_path):
    X, y = data
    paintings = counted(OffsetDefectAugmenter, "_paint")
    detector, *_ = within(OffsetDefectAugmenter(regions=BOX, min_contrast=0), tmp_path)
    for params in ({"n_synthetic": 4}, {"n_synthetic": 2, "blur": 1.0}, {"normal_coreset": 50, "n_neighbors": 2}):
        detector.set_params(**{"n_synthetic": 4, **params}).fit(X, y)
        assert len(paintings) == 4
    detector.fit(X[:-1], y[:-1])
    assert len(paintings) == 8, "other images are painted anew"
