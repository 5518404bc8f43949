"""Labels: which of two means defect."""

import os
from pathlib import PurePath
from warnings import warn

import numpy as np
from sklearn.utils.multiclass import type_of_target

from sklearn_exdd._images import IMAGE_SUFFIXES

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
    *("undamaged", "inlier", "i.o.", "io", "gut", "0", "0.0", "false"),
}
_DEFECT = {
    *("bad", "ng", "nok", "not ok", "ko", "defect", "defects", "defective", "anomaly", "anomalous", "abnormal"),
    *("positive", "pos", "fail", "failed", "fault", "faulty", "reject", "rejected", "not good", "no good", "broken"),
    *("damaged", "flawed", "scrap", "outlier", "n.i.o.", "nio", "schlecht", "1", "1.0", "true"),
}


def are_paths(texts, n_samples):
    """Tell whether texts beside images are paths of defect images rather than labels.

    Parameters
    ----------
    texts : sequence
        The first one is a str.
    n_samples : int
        Number of images.

    Returns
    -------
    bool
        Paths end like pictures, or are files and not one for each image.
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


def find_positive(classes, pos_label):
    """Tell which label means defect.

    Parameters
    ----------
    classes : ndarray of shape (1,) or (2,)
        The labels in y, sorted.
    pos_label : object
        The user's choice; None takes the label that is known to mean defect ("bad", "NG"), or is left over beside one
        that is known to mean normal ("good", "OK"), in any case. Of other labels it is the greater one, with a warning
        unless they are numbers or bool.

    Returns
    -------
    positive : object
        Label that means defect; one that is not in `classes` if their only one means normal.
    """
    labels = classes.tolist()
    if pos_label is not None:
        if len(labels) == 2 and pos_label not in labels:
            raise ValueError(f"pos_label: expected one of the classes {labels}, got {pos_label!r}.")
        return pos_label
    meanings = [_meaning(label) for label in labels]
    if len(labels) == 1:
        if meanings[0] is True and isinstance(labels[0], str):
            return labels[0]
        if meanings[0] is None and labels[0] not in (0, 1):
            raise ValueError(f"y: got one class only, {labels[0]!r}; set pos_label to say which label means defect.")
        return 1
    if meanings in ([True, False], [True, None], [None, False]):
        return labels[0]
    if meanings not in ([False, True], [False, None], [None, True]) and np.asarray(classes).dtype.kind not in "buif":
        warn(
            f"y: took {labels[1]!r} of the labels {labels} for the defect, because it sorts last. Set pos_label to say "
            "which label means defect.",
            UserWarning,
            stacklevel=7,
        )
    return labels[1]


def _meaning(label):
    """Return whether a label is known to mean defect (True) or normal (False), or None if it is not known."""
    if not isinstance(label, str):
        return None
    word = " ".join(label.casefold().replace("_", " ").replace("-", " ").split())
    return True if word in _DEFECT else False if word in _NORMAL else None


def two_classes(y, pos_label):
    """Return the sorted classes of labels, and the one that means defect; if y has normal samples only, add it.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
    pos_label : object or None
        Parameter of the detectors.

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
            f"normal and defect, got {len(classes)}."
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
