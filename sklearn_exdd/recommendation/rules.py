"""Rules that choose a detector according to the numbers of images, defects and masks and the available time."""

from numbers import Real

import numpy as np
from sklearn.base import clone
from sklearn.utils._param_validation import Interval, validate_params

from sklearn_exdd.detectors.combined import CombinedDefectDetector
from sklearn_exdd.detectors.exdd import ExDDDetector
from sklearn_exdd.detectors.linear_probe import LinearProbeDetector
from sklearn_exdd.detectors.segmentation import SegmentationDetector
from sklearn_exdd.features import EfficientNetLiteFeatureExtractor

# Minimum number of normal images for a combination. A combination holds out a fifth of the normal images to set its
# threshold. A fifth of fewer than 100 images would be too small for a useful limit on false alarms.
_MIN_NORMAL = 100
_MIN_DEFECTS = 10  # minimum number of defect images for a partner that learns from them
_NETWORK_MINUTES = 5  # minimum training time of networks, in minutes of one core
_STRIDES = (8, 16, 32)  # strides of the features, in pixels


@validate_params(
    {
        "masks": "no_validation",
        "minutes": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def recommended(X, y=None, *, X_defect=None, masks=None, groups=None, minutes=15, random_state=None, verbose=1):
    """Choose the detector that performed best with similar numbers of images, and print the reason.

    Parameters
    ----------
    X, y, X_defect, masks, groups
        Arguments of the detector's ``fit``; see :class:`ExDDDetector`. The choice depends only on the numbers of
        images, defects, masks and groups. No image is read.
    minutes : float, default=15
        Time available for ``fit`` (> 0), in minutes of one CPU core.
    random_state : int, RandomState instance or None, default=None
        Random state of the detector.
    verbose : int, default=1
        If > 0, print the reason.

    Returns
    -------
    detector : ExDDDetector or CombinedDefectDetector
        Unfitted detector. Pass the same X, y, X_defect, masks and groups to its ``fit``.

    Notes
    -----
    The table lists the rules. In the table, "banks" means an :class:`ExDDDetector`. Banks and linear probes use
    features of EfficientNet-Lite0 at strides 8, 16 and 32.

    ===================================== =========== ==============================================================
    given                                 minutes     detector
    ===================================== =========== ==============================================================
    fewer than 100 normal images          any         banks
    fewer than 10 defect images           below 5     banks
    fewer than 10 defect images           5 or more   banks, and a :class:`SegmentationDetector` with half the weight,
                                                      trained on synthetic defects
    10 or more, fewer than 10 with masks  any         banks, and a :class:`LinearProbeDetector` with half the weight
    10 or more with masks                 below 5     banks
    10 or more with masks                 5 or more   banks, and a :class:`SegmentationDetector` with equal weight
    ===================================== =========== ==============================================================

    Normal images of one group count as one image.

    The rules were chosen on two data sets, magnetic tiles and solar cells. Of each data set, only the development half
    was used. Afterwards, banks, the linear probe and their combination were measured on the other half of the solar
    cells. Banks, networks and their combinations were measured on all tiles. The page on accuracy in the documentation
    has the figures.

    Examples
    --------
    >>> from sklearn_exdd import recommended
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, masks = make_surface_defects(30, image_shape=(64, 64), random_state=0)
    >>> detector = recommended(X, y, masks=masks, random_state=0).fit(X, y, masks=masks)
    Recommended: ExDDDetector, as a combination needs 100 normal images and there are 21.
    >>> detector.predict_map(X[:2]).shape
    (2, 64, 64)
    """
    normal, defect = ExDDDetector()._training_sets(X, y, X_defect, masks, groups)
    if not normal.has_images:
        raise ValueError("recommended: expected images, got feature rows. Use ExDDDetector for these.")
    n_parts, n_defects, n_marked = len(np.unique(normal.groups)), _n_defects(defect), _n_marked(defect)
    extractor = EfficientNetLiteFeatureExtractor(strides=_STRIDES)
    banks, partner, weight = ExDDDetector(extractor), None, None
    if n_parts < _MIN_NORMAL:
        unit = "normal images" if n_parts == len(normal) else "groups of normal images"
        reason = f"ExDDDetector, as a combination needs {_MIN_NORMAL} {unit} and there are {n_parts}."
    elif n_defects >= _MIN_DEFECTS > n_marked:
        partner, weight = ("probe", LinearProbeDetector(clone(extractor), validation_fraction=0)), 0.5
        reason = f"ExDDDetector and a linear probe, which learns from {n_defects} defect images without masks."
    elif minutes < _NETWORK_MINUTES:
        reason = f"ExDDDetector, as networks need {_NETWORK_MINUTES} minutes of a core and there are {minutes:g}."
    else:
        partner = "networks", SegmentationDetector(validation_fraction=0)
        learns, weight = "synthetic defects", 0.5
        if n_marked >= _MIN_DEFECTS:
            learns, weight = f"{learns} and {n_marked} real ones with masks", 1.0
        reason = f"ExDDDetector and a SegmentationDetector, which learns from {learns}."
    if verbose > 0:
        print(f"Recommended: {reason}")
    if partner is None:
        return banks.set_params(random_state=random_state)
    return CombinedDefectDetector([("banks", banks), partner], weights=[1.0, weight], random_state=random_state)


def _n_defects(defect):
    return 0 if defect is None else len(defect)


def _n_marked(defect):
    """Return the number of defect images with a mask."""
    return 0 if defect is None or defect.masks is None else sum(mask is not None for mask in defect.masks.raw())
