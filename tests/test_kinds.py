"""Kinds of defect: the kind that the nearest rows of the defect bank vote for, and the ways kinds are passed on."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from conftest import CellStatistics
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline

from sklearn_exdd import (
    CombinedDefectDetector,
    CutPasteDefectAugmenter,
    ExDDDetector,
    LinearProbeDetector,
    fitted_detector,
    inspect,
    partial_fit,
    persistence,
)
from sklearn_exdd._labels import as_kinds
from sklearn_exdd.augment import SyntheticDefects
from sklearn_exdd.banks.kinds import KindVoters
from sklearn_exdd.banks.memory_bank import MemoryBank

KINDS = np.array(["bright", "dark"])


def draw(n_normal, n_each, seed):
    """Draw images of grey noise, then images with a bright square, then images with a dark one."""
    random_state = np.random.RandomState(seed)
    X = random_state.randint(110, 146, (n_normal + 2 * n_each, 48, 48)).astype(np.uint8)
    masks = np.zeros(X.shape, dtype=bool)
    for i in range(n_normal, len(X)):
        row, column = 8 * random_state.randint(0, 4, size=2)
        masks[i, row : row + 16, column : column + 16] = True
        X[i][masks[i]] = random_state.randint(200, 221) if i < n_normal + n_each else random_state.randint(30, 51)
    kinds = np.array(["normal"] * n_normal + ["bright"] * n_each + ["dark"] * n_each)
    return X, (kinds != "normal").astype(int), list(masks), kinds


@pytest.fixture(scope="module")
def data():
    return draw(30, 5, seed=0)


@pytest.fixture(scope="module")
def unseen():
    return draw(6, 4, seed=1)


@pytest.fixture(scope="module")
def fitted(data):
    X, y, masks, kinds = data
    return make_detector().fit(X, y, masks=masks, kinds=kinds)


def make_detector(**params):
    return ExDDDetector(CellStatistics(), max_false_alarm_rate=0.1, random_state=0, **params)


def assert_named(detector, unseen):
    X, y, _, kinds = unseen
    names, votes = detector.predict_kind(X)
    is_called = detector.predict(X) == 1
    assert is_called[y == 1].all()
    assert names.dtype == object
    assert names[y == 1].tolist() == kinds[y == 1].tolist()
    assert [name is None for name in names] == (~is_called).tolist()
    assert ((votes > 0.5) == is_called).all()
    assert (votes <= 1).all()


def test_each_image_called_a_defect_gets_the_kind_of_its_like(fitted, unseen):
    assert fitted.kinds_.tolist() == KINDS.tolist()
    assert len(fitted.defect_kinds_) == len(fitted.defect_bank_)
    assert_named(fitted, unseen)


def test_every_row_of_the_bank_has_the_kind_of_its_image(fitted, data):
    np.testing.assert_array_equal(fitted.defect_kinds_, data[3][fitted.defect_bank_.provenance["image"]])


@pytest.mark.parametrize("image_score", ["top_mean", "exdd"])
@pytest.mark.parametrize("n_neighbors", ["auto", 4])
def test_the_vote_equals_a_naive_count(data, unseen, n_neighbors, image_score):
    X, y, masks, kinds = data
    detector = make_detector(n_neighbors=n_neighbors, image_score=image_score, border_rings=0, n_top_patches=7)
    detector.fit(X, y, masks=masks, kinds=kinds)
    detector.threshold_ = -1.0  # so that all images are called defects
    names, votes = detector.predict_kind(unseen[0])
    rows = detector.defect_bank_.features.astype(float)
    k = 9 if n_neighbors == "auto" else n_neighbors
    for i, feature_map in enumerate(detector.feature_extractor_.transform(unseen[0])):
        patches = feature_map.reshape(-1, feature_map.shape[2])
        scores = detector._banks().patch_scores(patches)
        worst = np.argsort(-(scores.scores if image_score == "top_mean" else scores.normal_distances))[:7]
        worst = [worst[0], *(patch for patch in worst[1:] if scores.normal_distances[patch] > detector._normal_cutoff)]
        nearest = [np.argsort(np.linalg.norm(rows - patches[patch], axis=1))[:k] for patch in worst]
        found, counts = np.unique(detector.defect_kinds_[np.concatenate(nearest)], return_counts=True)
        assert votes[i] == pytest.approx(counts.max() / counts.sum())
        assert names[i] in found[counts == counts.max()]


def test_of_equal_votes_the_kind_with_the_nearest_row_wins_and_rows_without_are_not_asked():
    bank = MemoryBank(np.array([[0.0], [1.0], [2.0], [10.0]]))
    voters = KindVoters(bank, np.array(["", "b", "a", "a"]), 2)
    assert list(voters.votes(np.array([[0.0]])).items()) == [("b", 0.5), ("a", 0.5)]
    assert voters.votes(np.array([[9.0]])) == {"a": 1.0}
    assert KindVoters(bank, np.array([""] * 4), 2).votes(np.array([[0.0]])) == {}


def test_kinds_change_neither_scores_nor_threshold(fitted, data, unseen):
    X, y, masks, _ = data
    without = make_detector().fit(X, y, masks=masks)
    np.testing.assert_array_equal(without.score_samples(unseen[0]), fitted.score_samples(unseen[0]))
    assert without.threshold_ == fitted.threshold_


def test_inspection_tells_the_kind_and_the_vote(fitted, data, unseen):
    names, votes = fitted.predict_kind(unseen[0])
    results = fitted.inspect(unseen[0])
    assert [result.kind for result in results] == names.tolist()
    assert [result.kind_vote for result in results] == votes.tolist()
    X, y, masks, _ = data
    (result,) = make_detector().fit(X, y, masks=masks).inspect(unseen[0][-1:])
    assert result.kind is None
    assert result.kind_vote is None


def test_without_kinds_in_fit_the_error_names_the_remedy(data):
    X, y, masks, _ = data
    with pytest.raises(ValueError, match=r"predict_kind: .* Pass kinds= to fit"):
        make_detector().fit(X, y, masks=masks).predict_kind(X)


def test_a_new_fit_forgets_the_kinds(data):
    X, y, masks, kinds = data
    detector = make_detector().fit(X, y, masks=masks, kinds=kinds).fit(X, y, masks=masks)
    assert not hasattr(detector, "kinds_")
    assert not hasattr(detector, "defect_kinds_")


def test_kinds_of_defect_images_handed_in_apart_are_aligned_with_these(data, unseen):
    X, y, masks, kinds = data
    masks = [mask for mask, label in zip(masks, y) if label]
    detector = make_detector().fit(X[y == 0], X[y == 1], masks=masks, kinds=kinds[y == 1])
    assert_named(detector, unseen)
    with pytest.raises(ValueError, match=r"kinds: expected 10 kinds, one for each image .*, got 40"):
        make_detector().fit(X[y == 0], X_defect=X[y == 1], kinds=kinds)
    with pytest.raises(ValueError, match="kinds: expected None without labels y or X_defect"):
        make_detector().fit(X[y == 0], kinds=kinds[y == 0])


def test_feature_rows_have_kinds_too():
    random_state = np.random.RandomState(0)
    X = np.concatenate([random_state.normal(size=(40, 2)), [[9, 0]] * 3, [[0, 9]] * 3])
    y = np.repeat([0, 1], [40, 6])
    kinds = [None] * 40 + ["right"] * 3 + ["up"] * 3
    detector = ExDDDetector(n_neighbors=1, random_state=0).fit(X, y, kinds=kinds)
    names, votes = detector.predict_kind([[8, 0], [0, 0], [0, 8]])
    assert names.tolist() == ["right", None, "up"]
    assert votes.tolist() == [1, 0, 1]
    combined = CombinedDefectDetector([("rows", ExDDDetector(n_neighbors=1))], random_state=0)
    names, votes = combined.fit(X, y, kinds=kinds).predict_kind([[8, 0], [0, 0], [0, 8]])
    assert names.tolist() == ["right", None, "up"]
    assert votes.tolist() == [1, 0, 1]


def test_defects_without_a_kind_vote_as_nothing(data, unseen):
    X, y, masks, kinds = data
    some = [None if kind == "dark" else kind for kind in kinds]
    detector = make_detector().fit(X, y, masks=masks, kinds=some)
    assert detector.kinds_.tolist() == ["bright"]
    names, votes = detector.predict_kind(unseen[0][-1:])  # a dark one
    assert (names.tolist(), votes.tolist()) == (["bright"], [1.0])
    detector = make_detector().fit(X, y, masks=masks, kinds=["defect" if label else "good" for label in y])
    names, votes = detector.predict_kind(unseen[0][-1:])
    assert (names.tolist(), votes.tolist()) == ([None], [0.0])


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        (["normal", "dent"], ["", "dent"]),
        ([None, " dent "], ["", "dent"]),
        ([np.nan, 3.0], ["", "3"]),
        (np.array([0, 7]), ["", "7"]),
        (pd.Series(["good", pd.NA], index=[5, 9]), ["", ""]),
        (pd.Categorical(["OK", "dent"]), ["", "dent"]),
        (["", "Defect"], ["", ""]),
        (["", "defective weld"], ["", "defective weld"]),
    ],
)
def test_kinds_are_read_from_what_tables_and_loaders_hold(kinds, names):
    assert as_kinds(kinds, np.array([False, True])).tolist() == names


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["dent", "dent"], r"kinds\[0\]: expected None or a word for normal, because .* got 'dent'. Check its label"),
        (["", "good"], r"kinds\[1\]: expected a kind of defect, or None, .* got 'good', which means normal"),
        (["", 1.5], r"kinds\[1\]: expected the kind of defect as a text or a whole number, or None, got 1.5"),
        (["", True], r"kinds\[1\]: expected the kind of defect as a text"),
        (["", float("inf")], r"kinds\[1\]: expected the kind of defect as a text"),
        (["dent"], r"kinds: expected 2 kinds, one for each image \(None if it is normal\), got 1"),
        ("ab", r"kinds: expected a list of 2 kinds of defect, got 'ab'"),
        (7, r"kinds: expected a list of 2 kinds of defect, got 7"),
        (np.array([["a"], ["b"]]), r"kinds: expected one kind for each image, got an array of shape \(2, 1\)"),
        (iter(["", "dent"]), r"list\(kinds\)"),
    ],
)
def test_kinds_that_contradict_labels_or_cannot_be_read_are_refused(kinds, message):
    with pytest.raises((TypeError, ValueError), match=message):
        as_kinds(kinds, np.array([False, True]))


class Painter(CutPasteDefectAugmenter):
    """Augmenter that paints bright and dark squares, with or without prompts."""

    prompts = True

    def sample(self, n_samples, random_state=None):
        X, _, masks, kinds = draw(1, n_samples // 2, seed=5)
        origin = [{"source": 0, "prompt": f"a {kind} square" if self.prompts else None} for kind in kinds[1:]]
        return SyntheticDefects(X[1:], masks[1:], origin)


class SilentPainter(Painter):
    prompts = False


def test_a_synthetic_defect_has_the_kind_of_its_prompt(data, unseen):
    X, y, _, _ = data
    X, y = X[y == 0], y[y == 0]
    detector = make_detector(augmenter=Painter(), n_synthetic=10).fit(X, y, kinds=[None] * len(X))
    assert detector.kinds_.tolist() == ["a bright square", "a dark square"]
    names, _ = detector.predict_kind(unseen[0][[-1]])
    assert names.tolist() == ["a dark square"]
    silent = make_detector(augmenter=SilentPainter(), n_synthetic=10).fit(X, y, kinds=[None] * len(X))
    assert silent.kinds_.tolist() == []
    assert silent.predict_kind(unseen[0][[-1]])[0].tolist() == [None]


def test_a_correction_brings_kinds_and_new_ones(data, fitted, unseen):
    X, y, masks, kinds = data
    detector = make_detector().fit(X[:35], y[:35], masks=masks[:35], kinds=kinds[:35])
    assert detector.kinds_.tolist() == ["bright"]
    detector.partial_fit(X[35:], y[35:], masks=masks[35:], kinds=kinds[35:])
    assert detector.kinds_.tolist() == KINDS.tolist()
    assert_named(detector, unseen)
    n_rows = len(detector.defect_bank_)
    detector.partial_fit(X[35:37], y[35:37], masks=masks[35:37])
    assert len(detector.defect_kinds_) == len(detector.defect_bank_) > n_rows
    assert set(detector.defect_kinds_[n_rows:]) == {""}
    with pytest.raises(ValueError, match=r"kinds\[0\]: expected None or a word for normal"):
        detector.partial_fit(X[:1], y[:1], kinds=["dent"])
    late = make_detector().fit(X[:35], y[:35], masks=masks[:35])
    late.partial_fit(X[35:], y[35:], masks=masks[35:], kinds=kinds[35:])
    assert late.kinds_.tolist() == ["dark"]
    first = make_detector().fit(X[y == 0])
    first.partial_fit(X[30:], y[30:], masks=masks[30:], kinds=kinds[30:])
    assert first.kinds_.tolist() == KINDS.tolist()
    once = make_detector().partial_fit(X, y, masks, kinds=kinds)
    np.testing.assert_array_equal(once.defect_kinds_, fitted.defect_kinds_)


def test_a_file_keeps_the_kinds_and_one_without_loads(data, unseen, tmp_path):
    X, y, masks, kinds = data
    detector = ExDDDetector("gabor", random_state=0).fit(X[20:], y[20:], masks=masks[20:], kinds=kinds[20:])
    persistence.dump(detector, tmp_path / "kinds.exdd")
    again = persistence.load(tmp_path / "kinds.exdd")
    for found, expected in zip(again.predict_kind(unseen[0]), detector.predict_kind(unseen[0])):
        np.testing.assert_array_equal(found, expected)
    del detector.kinds_, detector.defect_kinds_  # as in a file of an earlier version
    persistence.dump(detector, tmp_path / "earlier.exdd")
    earlier = persistence.load(tmp_path / "earlier.exdd")
    with pytest.raises(ValueError, match="predict_kind"):
        earlier.predict_kind(unseen[0])
    earlier.partial_fit(X[-1:], y[-1:], masks=masks[-1:], kinds=kinds[-1:])
    assert earlier.kinds_.tolist() == ["dark"]


@pytest.mark.parametrize("is_routing", [False, True])
def test_searches_and_pipelines_pass_kinds_on(data, unseen, is_routing):
    X, y, masks, kinds = data
    with sklearn.config_context(enable_metadata_routing=is_routing):
        search = GridSearchCV(make_detector(), {"blur": [0]}, cv=2, scoring="roc_auc", error_score="raise")
        search.fit(X, y, masks=masks, kinds=kinds)
        assert_named(fitted_detector(search), unseen)
        pipeline = make_pipeline(CutPasteDefectAugmenter(n_synthetic=0, random_state=0), make_detector())
        params = {"masks": masks, "kinds": kinds}
        if not is_routing:
            params = {f"exdddetector__{name}": value for name, value in params.items()}
        pipeline.fit(X, y, **params)
        assert inspect(pipeline, unseen[0])[-1].kind == "dark"
        partial_fit(pipeline, X[-1:], y[-1:], kinds=["black"])
        assert fitted_detector(pipeline).kinds_.tolist() == ["black", "bright", "dark"]


@pytest.mark.parametrize("is_routing", [False, True])
def test_a_combination_passes_kinds_to_the_members_that_take_them(data, unseen, is_routing):
    X, y, masks, kinds = data
    members = [
        ("named", make_detector()),
        ("plain", LinearProbeDetector(CellStatistics(), validation_fraction=0)),
        ("steps", Pipeline([("paint", CutPasteDefectAugmenter(n_synthetic=0)), ("detect", make_detector(blur=0))])),
    ]
    combined = CombinedDefectDetector(members, max_false_alarm_rate=0.2, random_state=0)
    with sklearn.config_context(enable_metadata_routing=is_routing):
        combined.fit(X, y, masks=masks, kinds=kinds)
    assert combined.kinds_.tolist() == KINDS.tolist()
    assert_named(combined, unseen)
    names, votes = combined.predict_kind(unseen[0])
    results = combined.inspect(unseen[0])
    assert [(result.kind, result.kind_vote) for result in results] == list(zip(names, votes))
    own = [fitted_detector(member).predict_kind(unseen[0][-1:])[1] for member in (combined.detectors_[0::2])]
    assert votes[-1] == pytest.approx(np.mean(own))


def test_a_combination_that_knows_no_kinds_says_so(data, fitted, unseen):
    X, y, masks, kinds = data
    probe = ("probe", LinearProbeDetector(CellStatistics(), validation_fraction=0))
    with pytest.raises(ValueError, match=r"kinds: expected a detector whose fit accepts kinds.*\['probe'\], got none"):
        CombinedDefectDetector([probe], random_state=0).fit(X, y, kinds=kinds)
    combined = CombinedDefectDetector([("one", make_detector())], random_state=0).fit(X, y, masks=masks)
    with pytest.raises(ValueError, match="predict_kind: expected a CombinedDefectDetector that knows kinds"):
        combined.predict_kind(X)
    frozen = CombinedDefectDetector([("one", FrozenEstimator(fitted))], max_false_alarm_rate=0.2, random_state=0)
    X, y, _, _ = draw(30, 3, seed=7)
    assert frozen.fit(X, y).predict_kind(unseen[0])[0][-1] == "dark"


def test_detectors_that_name_no_kinds_do_not_take_them(data):
    X, y, _, kinds = data
    with pytest.raises(TypeError, match="kinds"):
        LinearProbeDetector(CellStatistics()).fit(X, y, kinds=kinds)
