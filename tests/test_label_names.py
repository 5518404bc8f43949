"""Which of two labels means defect."""

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
        UserWarning, match=r"^y: 'bad', a defect, sorts before the label of normal samples\. scikit-learn"
    ):
        ExDDDetector(cells).fit(X, np.where(y == 1, "bad", "good"))


@pytest.mark.parametrize("names", [("left", "right"), ("crack", "stain"), ("bad", "ng"), ("A", "B"), ("no", "yes")])
def test_unknown_names_are_warned_of_once(names, squares, cells):
    X, y, _ = squares
    labels = np.where(y == 1, names[1], names[0])
    match = rf"^y: took '{names[1]}' of the labels \['{names[0]}', '{names[1]}'\] for the defect, .* Set pos_label"
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
