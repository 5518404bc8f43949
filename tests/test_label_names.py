"""Names of labels: which of the two means defect."""

from collections import deque

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from sklearn_exdd import ExDDDetector, OffsetDefectAugmenter
from sklearn_exdd._training_set import find_defects

KNOWN = [
    *[("good", "bad"), ("OK", "NOK"), ("ok", "ng"), ("Normal", "Anomaly"), ("negative", "positive"), ("pass", "fail")],
    *[
        ("Passed", "FAILED"),
        ("okay", "faulty"),
        ("defect-free", "defect"),
        ("no defect", "defective"),
        ("i.O.", "n.i.O."),
    ],
    *[
        ("normal", "abnormal"),
        ("good", "anomalous"),
        ("good", "crack"),
        ("good", "a crack"),
        ("piece", "bad"),
        ("a", "ng"),
    ],
    *[("no_defect", "with"), ("z", "DEFECT"), ("0", "1")],
]


@pytest.mark.filterwarnings("ignore:.*sorts before the label of normal samples:UserWarning")
@pytest.mark.parametrize("form", [np.array, list, "object", "category"])
@pytest.mark.parametrize(("normal", "defect"), KNOWN)
def test_known_names_say_which_label_means_defect(normal, defect, form, squares, cells):
    X, y, masks = squares
    labels = np.where(y == 1, defect, normal)
    expected = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks)
    if form == "category":
        given = pytest.importorskip("pandas").Series(labels).astype("category")
    else:
        given = labels.astype(object) if form == "object" else form(labels.tolist())
    detector = ExDDDetector(cells, random_state=0).fit(X, given, masks=masks)
    assert detector.classes_.tolist() == sorted([normal, defect])
    assert detector.pos_label_ == defect
    np.testing.assert_array_equal(detector.predict(X) == defect, expected.predict(X) == 1)
    np.testing.assert_array_equal(find_defects(given, len(X), None), y == 1)


def test_a_defect_that_sorts_first_is_warned_of(squares, cells):
    X, y, _ = squares
    with pytest.warns(
        UserWarning, match=r"^y: the defect label 'bad' sorts before the label of normal samples\. scikit-learn"
    ):
        ExDDDetector(cells).fit(X, np.where(y == 1, "bad", "good"))


@pytest.mark.parametrize("names", [("left", "right"), ("crack", "stain"), ("bad", "ng"), ("A", "B"), ("no", "yes")])
def test_unknown_names_are_warned_of_once(names, squares, cells):
    X, y, _ = squares
    labels = np.where(y == 1, names[1], names[0])
    match = rf"^y: took '{names[1]}' of the labels \['{names[0]}', '{names[1]}'\] to mean defect, .* Set pos_label"
    with pytest.warns(UserWarning, match=match) as caught:
        detector = ExDDDetector(cells, random_state=0).fit(X, labels)
    assert len(caught) == 1
    assert detector.pos_label_ == names[1]
    with pytest.warns(UserWarning, match=match):
        OffsetDefectAugmenter().fit(X, labels)


@pytest.mark.parametrize("values", [(0, 1), (False, True), (-1, 0), (1, 2), (0.0, 1.0), ("0", "1")])
def test_numbers_need_no_warning(values, squares, cells):
    X, y, _ = squares
    labels = np.where(y == 1, values[1], values[0])
    detector = ExDDDetector(cells, random_state=0).fit(X, labels)
    assert detector.pos_label_ == values[1]
    np.testing.assert_array_equal(find_defects(labels, len(X), None), y == 1)


def test_pos_label_overrules_every_name(squares, cells):
    X, y, _ = squares
    labels = np.where(y == 1, "good", "bad")
    detector = ExDDDetector(cells, pos_label="good", random_state=0).fit(X, labels)
    assert detector.pos_label_ == "good"
    np.testing.assert_array_equal(find_defects(labels, len(X), "good"), y == 1)


@pytest.mark.filterwarnings("ignore:.*sorts before the label of normal samples:UserWarning")
def test_a_pipeline_and_its_detector_agree(squares, cells):
    X, y, _ = squares
    labels = np.where(y == 1, "NOK", "ok")
    pipeline = make_pipeline(OffsetDefectAugmenter(n_synthetic=2, random_state=0), ExDDDetector(cells, random_state=0))
    expected = make_pipeline(OffsetDefectAugmenter(n_synthetic=2, random_state=0), ExDDDetector(cells, random_state=0))
    np.testing.assert_array_equal(pipeline.fit(X, labels).predict(X) == "NOK", expected.fit(X, y).predict(X) == 1)


@pytest.mark.parametrize(
    ("label", "match"),
    [("bad", "one class only, 'bad', which means defect"), ("good", "one class only, 'good'; set pos_label")],
)
def test_one_class_is_refused(label, match, squares, cells):
    with pytest.raises(ValueError, match=match):
        ExDDDetector(cells).fit(squares[0], [label] * len(squares[0]))
    assert find_defects([label] * 3, 3, None).tolist() == [label == "bad"] * 3


@pytest.mark.filterwarnings("ignore:.*sorts before the label of normal samples:UserWarning")
@pytest.mark.parametrize(
    ("normal", "defect"),
    [
        *[("in Ordnung", "nicht in Ordnung"), ("Gutteil", "Ausschuss"), ("fehlerfrei", "fehlerhaft"), ("OK", "defekt")],
        *[("einwandfrei", "MANGELHAFT"), ("unbeschädigt", "beschädigt"), ("io", "nio"), ("gut", "Fehler")],
        *[("acceptable", "unacceptable"), ("conforming", "non-conforming"), ("0.0", "1.0"), (" good ", "\tBad")],
    ],
)
def test_german_and_english_names_are_known(normal, defect, squares):
    X, y, _ = squares
    np.testing.assert_array_equal(find_defects(np.where(y == 1, defect, normal).tolist(), len(X), None), y == 1)


@pytest.mark.parametrize("dtype", [int, float, str])
def test_the_numbers_of_outlier_detectors_are_warned_of(dtype, squares, cells):
    X, y, _ = squares
    labels = np.where(y == 1, -1, 1).astype(dtype)
    for fit in (ExDDDetector(cells).fit, OffsetDefectAugmenter().fit):
        with pytest.warns(UserWarning, match=r"^y: took '?1.* of the labels .*-1.*outlier detectors call outliers -1"):
            fit(X, labels)
    with pytest.warns(UserWarning, match="pos_label=.*-1.* sorts before"):
        detector = ExDDDetector(cells, pos_label=np.unique(labels)[0], random_state=0).fit(X, labels)
    np.testing.assert_array_equal(detector.predict(X), labels)


@pytest.mark.parametrize(
    "form", ["objects", "tensor", "Series", "category", "Int64", "boolean", "list", "deque", "texts"]
)
def test_labels_in_every_container_mean_the_same(form, squares, cells):
    pd, torch = pytest.importorskip("pandas"), pytest.importorskip("torch")
    X, y, _ = squares
    index = np.random.RandomState(0).permutation(len(y))
    given = {
        "objects": y.astype(object),
        "tensor": torch.tensor(y),
        "Series": pd.Series(y, index=index),
        "category": pd.Series(y, index=index).astype("category"),
        "Int64": pd.Series(y, index=index, dtype="Int64"),
        "boolean": pd.Series(y == 1, index=index, dtype="boolean"),
        "list": y.tolist(),
        "deque": deque(y.tolist()),
        "texts": pd.Series(np.where(y == 1, "1", "0"), index=index),
    }[form]
    expected = ExDDDetector(cells, random_state=0).fit(X, y)
    detector = ExDDDetector(cells, random_state=0).fit(X, given)
    np.testing.assert_array_equal(detector.score_samples(X), expected.score_samples(X))
    np.testing.assert_array_equal(detector.predict(X) == detector.pos_label_, expected.predict(X) == 1)
    np.testing.assert_array_equal(find_defects(given, len(X), None), y == 1)


def test_more_than_two_classes_are_listed(squares, cells):
    X, y, _ = squares
    labels = ["Bad" if label else "good" for label in y]
    labels[0] = "OK"
    for fit in (ExDDDetector(cells).fit, OffsetDefectAugmenter().fit):
        with pytest.raises(ValueError, match="expected two classes, normal and defect, got 3: 'Bad', 'OK', 'good'"):
            fit(X, labels)
    with pytest.raises(ValueError, match=r"got 18: .*, \.\.\.\."):
        OffsetDefectAugmenter().fit(X[:18], np.arange(18))
