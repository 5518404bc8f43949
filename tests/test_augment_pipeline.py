"""Augmenters before a detector, inside a detector, in searches and in mixtures."""

import pickle

import joblib
import numpy as np
import pytest
import sklearn
from assertions import assert_same_samples, naive_p_value
from conftest import name_of
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline

from sklearn_exdd import ExDDDetector
from sklearn_exdd.augment import (
    AugmentedImages,
    CutPasteDefectAugmenter,
    DefectPasteAugmenter,
    MixedDefectAugmenter,
    OffsetDefectAugmenter,
    PerlinDefectAugmenter,
)

EVERYTHING = {"normal_coreset": 1.0, "defect_coreset": 1.0, "max_defect_patches": None, "border_rings": 0}
AUGMENTERS = [
    CutPasteDefectAugmenter(min_contrast=0.3, random_state=3),
    DefectPasteAugmenter(min_contrast=0.3, random_state=3),
    MixedDefectAugmenter([("a", OffsetDefectAugmenter()), ("b", PerlinDefectAugmenter())], random_state=3),
    OffsetDefectAugmenter(random_state=3),
    PerlinDefectAugmenter(random_state=3),
]
WITH_A_GENERATOR = OffsetDefectAugmenter(random_state=np.random.RandomState(3))
each_with_a_number_as_seed = pytest.mark.parametrize("augmenter", AUGMENTERS, ids=name_of)


class Counting(OffsetDefectAugmenter):
    """Augmenter that counts its fits and its painted images."""

    n_fits = 0
    n_paints = 0

    def _learn(self, images, defects, masks, random_state):
        type(self).n_fits += 1

    def _paint(self, image, region, random_state):
        type(self).n_paints += 1
        return super()._paint(image, region, random_state)


@pytest.fixture
def counts(monkeypatch):
    monkeypatch.setattr(Counting, "n_fits", 0)
    monkeypatch.setattr(Counting, "n_paints", 0)
    return Counting


class Recorder(ClassifierMixin, BaseEstimator):
    """Last step that records the input of fit and score."""

    seen = []

    def __init__(self, parameter=0):
        self.parameter = parameter

    def fit(self, X, y=None):
        self.classes_ = np.array([0, 1])
        self.seen.append(("fit", X, y))
        return self

    def predict(self, X):
        return np.zeros(len(X), dtype=int)

    def score(self, X, y=None):
        self.seen.append(("score", X, y))
        return 0.0


@pytest.fixture
def seen(monkeypatch):
    monkeypatch.setattr(Recorder, "seen", [])
    return Recorder.seen


def detector(cells, **params):
    return ExDDDetector(cells, **{"random_state": 0, "n_neighbors": 1, **EVERYTHING, **params})


def assert_same_banks(first, second):
    for name in ("normal_bank_", "defect_bank_"):
        one, other = getattr(first, name), getattr(second, name)
        np.testing.assert_array_equal(one.features, other.features)
        assert one.provenance.keys() == other.provenance.keys()
        for key in one.provenance:
            np.testing.assert_array_equal(one.provenance[key], other.provenance[key])
    assert first.threshold_ == second.threshold_
    assert first.epsilon_ == second.epsilon_


# Two ways to fill a defect bank


@pytest.mark.parametrize(
    ("augmenter", "with_masks"),
    [
        (augmenter, with_masks)
        for augmenter in [*AUGMENTERS, WITH_A_GENERATOR]
        for with_masks in (True, False)
        if with_masks or not isinstance(augmenter, DefectPasteAugmenter)  # which pastes the defects that the masks mark
    ],
    ids=lambda value: f"with masks {value}" if isinstance(value, bool) else name_of(value),
)
def test_before_the_detector_and_within_it_the_banks_are_the_same(augmenter, with_masks, squares, cells):
    X, y, masks = squares  # normal and defect images in random order
    masks = masks if with_masks else None
    within = detector(cells, augmenter=clone(augmenter), n_synthetic=6).fit(X, y, masks=masks)
    with sklearn.config_context(enable_metadata_routing=True):
        before = make_pipeline(clone(augmenter).set_params(n_synthetic=6), detector(cells))
        before = before.fit(X, y, masks=masks)[-1] if with_masks else before.fit(X, y)[-1]
    assert_same_banks(within, before)
    assert within.defect_bank_.provenance["synthetic"].any()
    assert not within.defect_bank_.provenance["synthetic"].all()
    np.testing.assert_array_equal(within.synthetic_.images, before.synthetic_.images)
    # A source is an index into the images given to the augmenter; the detector passes the normal images first.
    sources = [[one["source"] for one in way.synthetic_.provenance] for way in (within, before)]
    np.testing.assert_array_equal(np.flatnonzero(y == 0)[sources[0]], sources[1])


def test_masks_reach_both_steps_without_routing_too(squares, cells):
    X, y, masks = squares
    pipeline = Pipeline(
        [("augmenter", OffsetDefectAugmenter(n_synthetic=6, random_state=3)), ("detector", detector(cells))]
    )
    pipeline.fit(X, y, augmenter__masks=masks, detector__masks=masks)
    within = detector(cells, augmenter=OffsetDefectAugmenter(random_state=3), n_synthetic=6).fit(X, y, masks=masks)
    assert_same_banks(pipeline[-1], within)


def test_normals_alone_need_no_labels(squares, cells):
    X, y, _ = squares
    before = make_pipeline(OffsetDefectAugmenter(n_synthetic=6, random_state=3), detector(cells)).fit(X[y == 0])
    within = detector(cells, augmenter=OffsetDefectAugmenter(random_state=3), n_synthetic=6).fit(X[y == 0])
    assert_same_banks(before[-1], within)
    assert before[-1].defect_bank_.provenance["synthetic"].all()


@pytest.mark.parametrize("names", [("good", "scratched"), ("ok", "bad")])
@pytest.mark.filterwarnings("ignore:pos_label='bad' sorts before:UserWarning")
def test_names_of_classes_are_the_same_both_ways(names, squares, cells):
    X, y, masks = squares
    labels, pos_label = np.array(names)[y], names[1]
    augmenter = OffsetDefectAugmenter(pos_label=pos_label, random_state=3)
    mixed = MixedDefectAugmenter([("offset", clone(augmenter))], random_state=3)
    for one in (augmenter, mixed):
        within = detector(cells, augmenter=clone(one), n_synthetic=4, pos_label=pos_label).fit(X, labels, masks=masks)
        before = make_pipeline(clone(one).set_params(n_synthetic=4), detector(cells, pos_label=pos_label))
        step = before.steps[0][0]
        before.fit(X, labels, **{f"{step}__masks": masks, "exdddetector__masks": masks})
        assert_same_banks(within, before[-1])
        by_numbers = detector(cells, augmenter=clone(one), n_synthetic=4).fit(X, y, masks=masks)
        np.testing.assert_array_equal(by_numbers.synthetic_.images, within.synthetic_.images)


def test_both_at_once_are_refused(squares, cells):
    X, y, _ = squares
    pipeline = make_pipeline(OffsetDefectAugmenter(n_synthetic=2), detector(cells, augmenter=OffsetDefectAugmenter()))
    with pytest.raises(ValueError, match=r"^augmenter: expected None, because X already carries synthetic defects"):
        pipeline.fit(X, y)


def test_without_any_synthetic_images_a_step_changes_nothing(squares, unseen_squares, cells):
    X, y, _ = squares
    without = detector(cells).fit(X, y)
    pipeline = make_pipeline(OffsetDefectAugmenter(n_synthetic=0), detector(cells)).fit(X, y)
    assert_same_banks(pipeline[-1], without)
    assert pipeline[-1].synthetic_ is None
    within = detector(cells, augmenter=OffsetDefectAugmenter(), n_synthetic=0)
    kept = make_pipeline(OffsetDefectAugmenter(n_synthetic=3, random_state=3), within).fit(X, y)
    assert len(kept[-1].synthetic_.images) == 3


def test_two_steps_fill_one_bank(squares, cells):
    X, y, _ = squares
    steps = [
        OffsetDefectAugmenter(n_synthetic=3, random_state=3),
        PerlinDefectAugmenter(n_synthetic=2, min_contrast=0.3, random_state=4),
    ]
    fitted = make_pipeline(*steps, detector(cells)).fit(X, y)
    assert [one["augmenter"] for one in fitted[-1].synthetic_.provenance] == [
        *["OffsetDefectAugmenter"] * 3,
        *["PerlinDefectAugmenter"] * 2,
    ]
    bank = fitted[-1].defect_bank_
    assert set(bank.provenance["image"][bank.provenance["synthetic"]]) == set(range(5))


def test_synthetic_defects_find_real_ones(squares, unseen_squares, cells):
    X, y, _ = squares
    augmenter = OffsetDefectAugmenter(sign="bright", offset=(0.4, 0.7), regions="rectangle", n_synthetic=10)
    pipeline = make_pipeline(augmenter.set_params(random_state=0), ExDDDetector(cells, random_state=0)).fit(X[y == 0])
    scores = pipeline.score_samples(unseen_squares[0])
    assert scores[unseen_squares[1] == 1].min() > scores[unseen_squares[1] == 0].max()


class Mirrored(OffsetDefectAugmenter):
    """Augmenter that mirrors each cell, so synthetic patches equal the patches of their normal image."""

    def _paint(self, image, region, random_state):
        return image.reshape(8, 8, 8, 8, -1)[:, ::-1, :, ::-1].reshape(image.shape), {}


def naive_threshold(patches, groups_of_normal, normal_bank, defect_bank, rate):
    scores = []
    for features, group in zip(patches, groups_of_normal):
        distances = []
        for bank in (normal_bank, defect_bank):
            left = bank.features[bank.provenance["group"] != group]
            distances.append(np.linalg.norm(features[:, None] - left[None], axis=2).min(axis=1))
        scores.append(np.sort(distances[0] / (distances[1] + 0.01))[-2:].mean())
    scores = np.array(scores)
    return max(score for score in scores if naive_p_value(score, scores, groups_of_normal) > rate + 1e-9)


@pytest.mark.parametrize("way", ["before", "within"])
@pytest.mark.parametrize("grouped", [False, True], ids=["each alone", "groups"])
def test_the_threshold_leaves_out_what_was_made_on_the_image_itself(way, grouped, squares, cells):
    X, y, masks = squares
    groups = np.arange(len(y)) // 2 if grouped else np.arange(len(y))
    augmenter = Mirrored(n_synthetic=20, regions="rectangle", min_contrast=0, random_state=0)
    params = {"epsilon": 0.01, "n_top_patches": 2, "max_false_alarm_rate": 0.2}
    if way == "within":
        fitted = detector(cells, augmenter=augmenter, n_synthetic=20, **params)
        fitted.fit(X, y, masks=masks, groups=groups)
    else:
        fitted = make_pipeline(augmenter, detector(cells, **params))
        fitted.fit(X, y, exdddetector__masks=masks, exdddetector__groups=groups, mirrored__masks=masks)
        fitted = fitted[-1]
    normals = np.flatnonzero(y == 0)
    sources = np.array([one["source"] for one in fitted.synthetic_.provenance])
    bank = fitted.defect_bank_
    synthetic = bank.provenance["synthetic"]
    made_on = sources[bank.provenance["image"][synthetic]]
    made_on = normals[made_on] if way == "within" else made_on
    np.testing.assert_array_equal(bank.provenance["group"][synthetic], groups[made_on])
    patches = [features.reshape(-1, features.shape[2]) for features in cells.transform(X[normals])]
    expected = naive_threshold(patches, groups[normals], fitted.normal_bank_, bank, 0.2)
    assert fitted.threshold_ == pytest.approx(expected, rel=1e-4)


# Prediction


def test_what_is_predicted_is_never_augmented(squares, unseen_squares, cells, counts):
    X, y, _ = squares
    pipeline = make_pipeline(Counting(n_synthetic=4, random_state=0), detector(cells)).fit(X, y)
    n_paints = counts.n_paints
    X_test = unseen_squares[0]
    alone = pipeline[-1]
    for method in ("score_samples", "decision_function", "predict"):
        np.testing.assert_array_equal(getattr(pipeline, method)(X_test), getattr(alone, method)(X_test))
    assert pipeline.score(X_test, unseen_squares[1]) == alone.score(X_test, unseen_squares[1])
    assert pipeline[:-1].transform(X_test) is X_test
    assert counts.n_paints == n_paints


def test_an_unfitted_pipeline_says_so(squares, cells):
    pipeline = make_pipeline(OffsetDefectAugmenter(), detector(cells))
    # scikit-learn 1.8 raises an error, earlier versions issue a FutureWarning.
    with pytest.raises((NotFittedError, FutureWarning)):
        pipeline.predict(squares[0])


# Search


def test_held_out_folds_hold_no_synthetic_image(surfaces, seen):
    X, y, _ = surfaces
    pipeline = make_pipeline(OffsetDefectAugmenter(n_synthetic=3, random_state=0), Recorder())
    search = GridSearchCV(pipeline, {"offsetdefectaugmenter__n_synthetic": [0, 2, 5]}, cv=3, error_score="raise")
    search.fit(X, y)
    assert [kind for kind, *_ in seen] == ["fit", "score"] * 9 + ["fit"]
    splits = list(StratifiedKFold(3).split(X, y))
    for number in range(9):
        train, test = splits[number % 3]
        (_, images, labels), (_, held_out, held_out_labels) = seen[2 * number : 2 * number + 2]
        np.testing.assert_array_equal(images, X[train])
        np.testing.assert_array_equal(labels, y[train])
        n_synthetic = (0, 2, 5)[number // 3]
        assert isinstance(images, AugmentedImages)
        assert (0 if images.synthetic is None else len(images.synthetic.images)) == n_synthetic
        if n_synthetic:
            for image, mask, provenance in zip(*images.synthetic, images.synthetic.provenance):
                np.testing.assert_array_equal(image[~mask], X[train][provenance["source"]][~mask])
                assert labels[provenance["source"]] == 0
        assert getattr(held_out, "synthetic", None) is None
        assert not isinstance(held_out, AugmentedImages)
        np.testing.assert_array_equal(held_out, X[test])
        np.testing.assert_array_equal(held_out_labels, y[test])
    _, images, labels = seen[-1]
    np.testing.assert_array_equal(images, X)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["array", "list", "paths"])
def test_parameters_of_all_steps_can_be_searched_on_images_of_any_form(form, squares, cells, write_images):
    X, y, _ = squares
    images = {"array": X, "list": list(X), "paths": write_images(X)}[form]
    pipeline = Pipeline(
        [("augment", OffsetDefectAugmenter(random_state=0)), ("detect", ExDDDetector(cells, random_state=0))]
    )
    grid = [
        {"augment__n_synthetic": [4], "augment__sign": ["bright", "dark"]},
        {"augment__n_synthetic": [0], "detect__n_neighbors": [1, 3]},
    ]
    search = GridSearchCV(pipeline, grid, scoring="roc_auc", cv=2, error_score="raise").fit(images, y)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_score_ > 0.9
    assert search.predict(images).shape == (len(y),)
    if form == "array":
        return
    by_array = GridSearchCV(pipeline, grid, scoring="roc_auc", cv=2, error_score="raise").fit(X, y)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], by_array.cv_results_["mean_test_score"])


def test_masks_are_cut_with_the_folds_when_routed(surfaces, cells, monkeypatch):
    X, y, masks = surfaces
    seen = []
    fit = OffsetDefectAugmenter.fit

    def recording(self, X, y=None, *, masks=None):
        seen.append((np.array(X), np.array(masks)))
        return fit(self, X, y, masks=masks)

    monkeypatch.setattr(OffsetDefectAugmenter, "fit", recording)
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(OffsetDefectAugmenter(n_synthetic=2, random_state=0), ExDDDetector(cells))
        scores = cross_val_score(pipeline, X, y, cv=3, params={"masks": masks}, error_score="raise")
    assert np.isfinite(scores).all()
    for (images, own_masks), (train, _) in zip(seen, StratifiedKFold(3).split(X, y), strict=True):
        np.testing.assert_array_equal(images, X[train])
        np.testing.assert_array_equal(own_masks, masks[train])


@pytest.mark.slow
def test_a_search_over_the_number_paints_each_image_once_with_a_cache(squares, cells, counts, tmp_path):
    X, y, _ = squares
    augmenter = Counting(memory=tmp_path, min_contrast=0, random_state=0)
    pipeline = Pipeline([("augment", augmenter), ("detect", ExDDDetector(cells, random_state=0))])
    grid = {"augment__n_synthetic": [2, 5, 8], "detect__n_neighbors": [1, 2]}
    GridSearchCV(pipeline, grid, cv=2, refit=False, error_score="raise").fit(X, y)
    assert counts.n_paints == 2 * 8
    assert len(list(tmp_path.iterdir())) == 2


def test_a_pipelines_memory_keeps_what_was_attached(squares, unseen_squares, cells, counts, tmp_path):
    X, y, _ = squares
    steps = [Counting(n_synthetic=5, random_state=0), detector(cells)]
    without = make_pipeline(*[clone(step) for step in steps]).fit(X, y)
    for n_fits in (2, 2):  # the second time from the memory
        kept = make_pipeline(*[clone(step) for step in steps], memory=str(tmp_path)).fit(X, y)
        assert counts.n_fits == n_fits
        assert_same_banks(kept[-1], without[-1])
        np.testing.assert_array_equal(kept.predict(unseen_squares[0]), without.predict(unseen_squares[0]))
    other = make_pipeline(steps[0].set_params(n_synthetic=6), steps[1], memory=str(tmp_path)).fit(X, y)
    assert counts.n_fits == 3
    assert len(other[-1].synthetic_.images) == 6


def test_several_jobs_give_the_same(squares, cells):
    X, y, _ = squares
    pipeline = make_pipeline(OffsetDefectAugmenter(n_synthetic=3, random_state=0), ExDDDetector(cells, random_state=0))
    with joblib.parallel_backend("threading"):
        scores = [cross_val_score(pipeline, X, y, cv=2, n_jobs=n_jobs, error_score="raise") for n_jobs in (1, 2)]
    np.testing.assert_array_equal(*scores)


# Copies


@each_with_a_number_as_seed
def test_a_pipeline_can_be_cloned_with_all_its_parameters(augmenter, squares, cells):
    pipeline = make_pipeline(clone(augmenter), detector(cells))
    copy = clone(pipeline)
    assert repr(copy) == repr(pipeline)
    assert copy[0] is not pipeline[0]
    fitted = clone(pipeline.set_params(**{f"{pipeline.steps[0][0]}__n_synthetic": 2}))
    X, y, masks = squares
    fitted.fit(X, y, **{f"{pipeline.steps[0][0]}__masks": masks})
    assert not hasattr(clone(fitted)[0], "sources_")


@each_with_a_number_as_seed
def test_a_fitted_pipeline_comes_back_from_a_pickle(augmenter, squares, unseen_squares, cells):
    X, y, masks = squares
    pipeline = make_pipeline(clone(augmenter).set_params(n_synthetic=3), detector(cells))
    pipeline.fit(X, y, **{f"{pipeline.steps[0][0]}__masks": masks})
    back = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(back.score_samples(unseen_squares[0]), pipeline.score_samples(unseen_squares[0]))
    assert_same_banks(back[-1], pipeline[-1])
    assert_same_samples(back[-1].synthetic_, pipeline[-1].synthetic_)
    assert_same_samples(back[0].sample(4), pipeline[0].sample(4))
    assert_same_samples(back[0].sample(2, random_state=5), pipeline[0].sample(2, random_state=5))


def test_an_explanation_finds_the_prompt_of_an_attached_defect(squares, cells):
    class Prompted(OffsetDefectAugmenter):
        def _paint(self, image, region, random_state):
            painted, more = super()._paint(image, region, random_state)
            return painted, {**more, "prompt": f"offset of {more['offset']:.2f}"}

    X, y, _ = squares
    pipeline = make_pipeline(Prompted(n_synthetic=4, random_state=0), detector(cells)).fit(X[y == 0])
    synthetic = pipeline[-1].synthetic_
    explanations = pipeline[-1].explain(synthetic.images)
    for explanation in explanations:
        assert explanation["synthetic"] is True
        assert explanation["prompt"] == synthetic.provenance[explanation["defect_image"]]["prompt"]


# Mixtures


def mixture(*shares, **params):
    augmenters = [
        ("offset", OffsetDefectAugmenter(min_contrast=0.1)),
        ("perlin", PerlinDefectAugmenter(min_contrast=0.1)),
        ("cutpaste", CutPasteDefectAugmenter(min_contrast=0)),
    ]
    return MixedDefectAugmenter(augmenters[: len(shares)], **{"shares": shares, "random_state": 0, **params})


def names_of(synthetic):
    return [one["augmenter"].removesuffix("DefectAugmenter") for one in synthetic.provenance]


@pytest.mark.parametrize(
    ("shares", "first"),
    [
        ((0.5, 0.5), ["Offset", "Perlin"] * 5),
        ((3, 1), None),
        ((0.2, 0.3, 0.5), None),
        ((1, 1, 1), ["Offset", "Perlin", "CutPaste"] * 3),
        ((1, 99), None),
    ],
)
def test_any_beginning_of_a_mixture_has_its_shares(shares, first, surfaces):
    X, y, _ = surfaces
    names = names_of(mixture(*shares).fit(X[y == 0][:, :32, :32]).sample(30))
    for n in range(1, 31):
        for name, share in zip(("Offset", "Perlin", "CutPaste"), np.array(shares) / sum(shares)):
            assert abs(names[:n].count(name) - share * n) <= 1
    if first is not None:
        assert names[: len(first)] == first


def test_without_shares_all_have_the_same(surfaces):
    X, y, _ = surfaces
    names = names_of(mixture(1, 1, 1, shares=None).fit(X[y == 0]).sample(9))
    assert sorted(names) == sorted(["Offset", "Perlin", "CutPaste"] * 3)


def test_a_mixtures_samples_are_those_of_its_members_in_turn(surfaces):
    X, y, masks = surfaces
    mixed = mixture(2, 1).fit(X, y, masks=masks)
    synthetic = mixed.sample(9)
    parts = [augmenter.sample(n) for augmenter, n in zip(mixed.augmenters_, (6, 3))]
    for name, part in zip(("Offset", "Perlin"), parts):
        own = [i for i, one in enumerate(names_of(synthetic)) if one == name]
        np.testing.assert_array_equal(synthetic.images[own], part.images)
        np.testing.assert_array_equal(synthetic.masks[own], part.masks)
        assert [synthetic.provenance[i] for i in own] == part.provenance
    assert len({augmenter.seed_ for augmenter in mixed.augmenters_}) == 2


def test_a_members_own_seed_stays_its_own(surfaces):
    X, _, _ = surfaces
    alone = OffsetDefectAugmenter(random_state=8).fit(X)
    for random_state in (0, 1):
        mixed = MixedDefectAugmenter(
            [("own", OffsetDefectAugmenter(random_state=8)), ("given", OffsetDefectAugmenter())],
            random_state=random_state,
        ).fit(X)
        assert_same_samples(mixed.augmenters_[0].sample(2), alone.sample(2))
        assert mixed.augmenters[0][1].random_state == 8
        assert mixed.augmenters[1][1].random_state is None
        assert not hasattr(mixed.augmenters[0][1], "sources_")


@pytest.mark.slow
def test_members_and_their_parameters_can_be_searched(squares, cells):
    X, y, _ = squares
    pipeline = Pipeline([("augment", mixture(1, 1)), ("detect", ExDDDetector(cells, random_state=0))])
    grid = {
        "augment__n_synthetic": [4],
        "augment__shares": [None, (3, 1)],
        "augment__offset__offset": [(0.5, 0.6)],
        "augment__perlin": [PerlinDefectAugmenter(min_contrast=0.1), CutPasteDefectAugmenter(min_contrast=0)],
    }
    search = GridSearchCV(pipeline, grid, cv=2, scoring="roc_auc", error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == 4
    best = search.best_params_
    members = dict(search.best_estimator_["augment"].augmenters)
    assert members["offset"].offset == best["augment__offset__offset"]
    assert type(members["perlin"]) is type(best["augment__perlin"])
    assert len(search.best_estimator_["detect"].synthetic_.images) == 4


def test_nested_parameters_are_got_and_set():
    mixed = mixture(1, 1)
    assert mixed.get_params()["offset__sign"] == "both"
    mixed.set_params(offset__sign="dark", perlin__opacity=(0.5, 0.6), n_synthetic=7)
    assert dict(mixed.augmenters)["offset"].sign == "dark"
    assert dict(mixed.augmenters)["perlin"].opacity == (0.5, 0.6)
    assert mixed.n_synthetic == 7
    assert clone(mixed).get_params()["offset__sign"] == "dark"


def test_a_mixture_may_hold_a_mixture(surfaces):
    X, _, _ = surfaces
    inner = MixedDefectAugmenter(
        [("offset", OffsetDefectAugmenter()), ("perlin", PerlinDefectAugmenter(min_contrast=0.3))]
    )
    outer = MixedDefectAugmenter(
        [("inner", inner), ("cutpaste", CutPasteDefectAugmenter(min_contrast=0.1))], random_state=0
    )
    names = names_of(outer.fit(X).sample(8))
    assert [names.count(name) for name in ("Offset", "Perlin", "CutPaste")] == [2, 2, 4]
    assert_same_samples(clone(outer).fit(X).sample(8), outer.sample(8))


@pytest.mark.parametrize(
    ("augmenters", "params", "message"),
    [
        ([], {}, r"^augmenters: expected a list of \(name, augmenter\), got \[\]"),
        ([OffsetDefectAugmenter()], {}, r"^augmenters: expected a list of \(name, augmenter\), got"),
        ([(1, OffsetDefectAugmenter())], {}, r"^augmenters: expected a list of \(name, augmenter\), got"),
        ("offset", {}, "The 'augmenters' parameter of MixedDefectAugmenter must be an instance of 'list'"),
        (
            [("a", OffsetDefectAugmenter()), ("a", PerlinDefectAugmenter())],
            {},
            r"Names provided are not unique: \['a', 'a'\]",
        ),
        ([("a__b", OffsetDefectAugmenter())], {}, "Estimator names must not contain __"),
        ([("shares", OffsetDefectAugmenter())], {}, "Estimator names conflict with constructor arguments"),
        ([("a", Recorder())], {}, r"^augmenters: expected 'a' to have fit and sample, got Recorder\(\)"),
        ([("a", None)], {}, "^augmenters: expected 'a' to have fit and sample, got None"),
        ([("a", OffsetDefectAugmenter())], {"shares": [1, 2]}, "^shares: expected 1 numbers > 0, one for each augment"),
        ([("a", OffsetDefectAugmenter())], {"shares": [0]}, "^shares: expected 1 numbers > 0"),
        ([("a", OffsetDefectAugmenter())], {"shares": [-1]}, "^shares: expected 1 numbers > 0"),
        ([("a", OffsetDefectAugmenter())], {"shares": [np.nan]}, "^shares: expected 1 numbers > 0"),
        ([("a", OffsetDefectAugmenter())], {"n_synthetic": -1}, "The 'n_synthetic' parameter of MixedDefectAugmenter"),
        ([("a", OffsetDefectAugmenter(sign="down"))], {}, "The 'sign' parameter of OffsetDefectAugmenter must be"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused_in_fit(augmenters, params, message, surfaces):
    with pytest.raises(ValueError, match=message):
        MixedDefectAugmenter(augmenters, **params).fit(surfaces[0])
