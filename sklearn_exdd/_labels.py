"""Checks of labels and of kinds of defects, and the choice of the label that means defect."""

import os
import re
from numbers import Integral
from pathlib import PurePath
from warnings import warn

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import type_of_target

from sklearn_exdd._images import IMAGE_SUFFIXES, check_listed, check_unmasked, is_missing

_NORMAL = {
    *("good", "ok", "okay", "normal", "negative", "neg", "pass", "passed", "accept", "accepted", "clean", "healthy"),
    *(
        "defect free",
        "no defect",
        "no defects",
        "non defective",
        "not defective",
        "without defect",
        "flawless",
        "intact",
    ),
    *("undamaged", "inlier", "faultless", "nondefective", "acceptable", "conforming", "0", "0.0", "false"),
    *("i.o.", "io", "in ordnung", "gut", "gutteil", "fehlerfrei", "mangelfrei", "einwandfrei", "unbeschädigt"),
}
_DEFECT = {
    *("bad", "ng", "nok", "not ok", "ko", "defect", "defects", "defective", "anomaly", "anomalous", "abnormal"),
    *("positive", "pos", "fail", "failed", "fault", "faulty", "reject", "rejected", "not good", "no good", "broken"),
    *("damaged", "flawed", "scrap", "outlier", "unacceptable", "nonconforming", "non conforming", "1", "1.0", "true"),
    *("n.i.o.", "nio", "nicht in ordnung", "schlecht", "schlechtteil", "ausschuss", "ausschuß", "fehler", "fehlerhaft"),
    *("defekt", "mangel", "mangelhaft", "beschädigt", "kaputt"),
}


def are_paths(texts, n_samples):
    """Tell whether texts passed with images are paths of defect images rather than labels.

    Parameters
    ----------
    texts : sequence
        Texts; the first item is a str.
    n_samples : int
        Number of images.

    Returns
    -------
    bool
        True if all texts have image suffixes. Also True if all texts name existing files and the number of texts
        differs from `n_samples`.
    """
    different = {text for text in texts if isinstance(text, str)}
    like_pictures = [PurePath(text).suffix.lower() in IMAGE_SUFFIXES for text in different]
    if any(like_pictures) and not all(like_pictures):
        example = sorted(text for text, is_like in zip(different, like_pictures) if not is_like)[0]
        raise ValueError(
            f"y: expected labels or the paths of defect images, got paths and {example!r}. Pass paths as X_defect=, "
            "and labels as y."
        )
    return all(like_pictures) or (len(texts) != n_samples and all(map(os.path.isfile, different)))


def as_labels(y, n_samples):
    """Return the labels as an array, in their order. A missing label raises an error that names its index.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels as an array, list, Series or tensor. If an object array holds only numbers of one type or only bools, the
        result has the dtype of these values.
    n_samples : int

    Returns
    -------
    labels : ndarray of shape (n_samples,)
    """
    check_listed(y, "y")
    check_unmasked(y, "y")
    if not (hasattr(y, "__iter__") or hasattr(y, "__getitem__")):
        y = np.asarray(y)
    if getattr(y, "ndim", 1) == 1:
        for index, label in enumerate(y):
            if is_missing(label):
                # The message contains the wording of scikit-learn's own message.
                raise ValueError(
                    f"y[{index}]: expected a label, got {label!r}; Input y contains NaN or another missing value. "
                    "Leave the image out, or label it."
                )
    shape = getattr(y, "shape", ())
    if len(shape) == 2 and shape[1] > 1:  # also in scikit-learn's wording
        raise ValueError(
            f"y should be a 1d array, got an array of shape {tuple(shape)} instead. A single defect image? Pass "
            "y[None]."
        )
    labels = column_or_1d(y, warn=True)
    if len(labels) != n_samples:
        raise ValueError(f"y: expected {n_samples} labels, one for each sample of X, got {len(labels)}.")
    if labels.dtype == object and len({type(label) for label in labels}) == 1:
        labels = _of_one_kind(labels)
    return labels


def as_kinds(kinds, is_defect):
    """Return the kinds of defects as texts, in their order. Refuse kinds that contradict the labels.

    Parameters
    ----------
    kinds : array-like of shape (n_samples,)
        Kinds as texts or whole numbers. A missing value (None, NaN or blank text) means an unknown kind. "defect" also
        means an unknown kind, because the loaders use it for defects without a name. The kind of a normal sample must
        be missing or a word that means normal.
    is_defect : ndarray of shape (n_samples,), dtype bool

    Returns
    -------
    kinds : ndarray of shape (n_samples,), dtype str
        Kind of each sample. It is "" for a normal sample and for an unknown kind.
    """
    check_listed(kinds, "kinds")
    check_unmasked(kinds, "kinds")
    if isinstance(kinds, str) or not (hasattr(kinds, "__len__") and hasattr(kinds, "__iter__")):
        raise ValueError(f"kinds: expected a list of {len(is_defect)} kinds of defect, got {kinds!r}.")
    if getattr(kinds, "ndim", 1) != 1:
        raise ValueError(f"kinds: expected one kind for each image, got an array of shape {tuple(kinds.shape)}.")
    if len(kinds) != len(is_defect):
        raise ValueError(
            f"kinds: expected {len(is_defect)} kinds, one for each image (None if it is normal), got {len(kinds)}."
        )
    names = [_kind_name(kind, f"kinds[{index}]") for index, kind in enumerate(kinds)]
    for index, (name, defective) in enumerate(zip(names, is_defect)):
        if name and meaning(name) is False:
            if defective:
                raise ValueError(
                    f"kinds[{index}]: expected a kind of defect, or None, for a defect image, got {name!r}, which "
                    "means normal. Check its label; number kinds from 1, or pass texts."
                )
            names[index] = ""
        elif name and not defective:
            raise ValueError(
                f"kinds[{index}]: expected None or a word for normal, because the image is labelled normal, got "
                f"{name!r}. Check its label."
            )
        elif name.casefold() == "defect":
            names[index] = ""
    return np.array(names, dtype=str)


def _kind_name(kind, where):
    if is_missing(kind):
        return ""
    if isinstance(kind, str):
        return str(kind).strip()
    number = kind.item() if getattr(kind, "shape", None) == () and hasattr(kind, "item") else kind
    # A table stores whole numbers as floats if some values are missing.
    if isinstance(number, (Integral, float)) and not isinstance(number, bool) and float(number).is_integer():
        return str(int(number))
    raise ValueError(f"{where}: expected the kind of defect as a text or a whole number, or None, got {kind!r}.")


def labels_among(y, n_samples, classes):
    """Return the labels of corrections as an array, in their order. Refuse labels that `fit` has not seen.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
    n_samples : int
    classes : ndarray of shape (2,)

    Returns
    -------
    labels : ndarray of shape (n_samples,)
    """
    labels = as_labels(y, n_samples)
    unknown = sorted(set(labels.tolist()) - set(classes.tolist()), key=str)
    if unknown:
        raise ValueError(f"y: expected {n_samples} labels among {classes.tolist()}, got {len(labels)} with {unknown}.")
    return labels


def listed(classes):
    """Return a text that lists the first five classes, for messages."""
    shown = ", ".join(map(repr, classes[:5].tolist()))
    return shown if len(classes) <= 5 else f"{shown}, ..."


def _of_one_kind(labels):
    values = np.array(labels.tolist())
    return values if values.shape == labels.shape and values.dtype.kind in "buif" else labels


def find_positive(classes, pos_label):
    """Tell which label means defect.

    Parameters
    ----------
    classes : ndarray of shape (1,) or (2,)
        Sorted labels in y.
    pos_label : object
        Label chosen by the user. If `pos_label` is None, the defect label is recognised by its name: "bad" or "NG"
        means defect, "good" or "OK" means normal. Case is ignored. If neither label is recognised, the label that sorts
        last is taken to mean defect. In this case, a warning is raised unless the labels are bool or numbers. A warning
        is also raised for the numbers -1 and 1, because scikit-learn's outlier detectors use -1 for outliers.

    Returns
    -------
    positive : object
        Label that means defect. If the only class means normal, the label is not one of `classes`.
    """
    labels = classes.tolist()
    if pos_label is not None:
        if len(labels) == 2 and pos_label not in labels:
            raise ValueError(f"pos_label: expected one of the classes {labels}, got {pos_label!r}.")
        return pos_label
    meanings = [meaning(label) for label in labels]
    if len(labels) == 1:
        if meanings[0] is True and isinstance(labels[0], str):
            return labels[0]
        if meanings[0] is None and labels[0] not in (0, 1):
            raise ValueError(f"y: got one class only, {labels[0]!r}; set pos_label to say which label means defect.")
        return 1
    if meanings in ([True, False], [True, None], [None, False]):
        return labels[0]
    is_reversible = {str(label).strip() for label in labels} in ({"-1", "1"}, {"-1.0", "1.0"})
    is_known = meanings in ([False, True], [False, None], [None, True]) or np.asarray(classes).dtype.kind in "buif"
    if is_reversible or not is_known:
        reverse = " scikit-learn's outlier detectors call outliers -1." if is_reversible else ""
        warn(
            f"y: took {labels[1]!r} of the labels {labels} to mean defect, because it sorts last.{reverse} Set "
            "pos_label to say which label means defect.",
            UserWarning,
            stacklevel=7,
        )
    return labels[1]


def meaning(label):
    """Return True for a text that means defect, False for a text that means normal, and None for any other label."""
    if not isinstance(label, str):
        return None
    # Replace a hyphen within a word, but not the sign of a number.
    word = " ".join(re.sub(r"(?<=\w)-(?=\w)", " ", label.casefold().replace("_", " ")).split())
    return True if word in _DEFECT else False if word in _NORMAL else None


def two_classes(y, pos_label):
    """Return the sorted classes of y, and the class that means defect.

    If all samples are normal, the class that means defect is added to the classes.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
    pos_label : object or None
        Value of the parameter `pos_label` of a detector.

    Returns
    -------
    classes : ndarray of shape (2,)
    positive : object
    """
    kind = type_of_target(y, input_name="y", raise_unknown=True)
    if kind not in ("binary", "multiclass"):
        raise ValueError(f"Unknown label type: expected two classes, normal and defect, got {kind} y.")
    classes = np.unique(y)
    if len(classes) > 2:
        raise ValueError(
            f"Only binary classification is supported. The type of the target is {kind}: expected two classes, "
            f"normal and defect, got {len(classes)}: {listed(classes)}."
        )
    positive = find_positive(classes, pos_label)
    if len(classes) == 1:
        (only,) = classes.tolist()
        if only == positive:
            raise ValueError(f"y: expected normal samples, got one class only, {only!r}, which means defect.")
        if pos_label is None and only != 0:
            raise ValueError(f"y: got one class only, {only!r}; set pos_label to say which label means defect.")
        classes = np.unique(np.array([only, positive], dtype=classes.dtype if pos_label is None else None))
    return classes, positive
