"""Parameter checks that scikit-learn's constraints do not cover."""

import sys
from numbers import Integral, Real

import numpy as np
from sklearn import get_config
from sklearn.utils._param_validation import Interval

#: Constraint on `n_jobs`: joblib accepts any integer but 0.
N_JOBS = [Interval(Integral, None, -1, closed="right"), Interval(Integral, 1, None, closed="left"), None]


class CheckedParams:
    """Mixin for estimators whose parameters need further checks after those of `_parameter_constraints`."""

    def _validate_params(self):
        super()._validate_params()
        self._check_params()

    def _check_params(self):
        """Refuse values that satisfy the constraints but are invalid for another reason."""


def validate(estimator):
    """Check the parameters of an estimator, unless scikit-learn is configured to skip the check."""
    if not get_config()["skip_parameter_validation"]:
        estimator._validate_params()


def validate_parts(parts):
    """Check the parameters of all parts of an estimator that have checks, before anything is computed."""
    for part in parts:
        if isinstance(part, CheckedParams):
            part._validate_params()


def is_finite(value):
    """Tell whether a value is a finite number that fits into a float."""
    return isinstance(value, Real) and abs(value) <= sys.float_info.max


def finite_numbers(values):
    """Convert a one-dimensional array-like of finite numbers to a float array. Return None for anything else."""
    values = np.asarray(values, dtype=object)
    if values.ndim != 1 or not all(map(is_finite, values)):
        return None
    return values.astype(float)


def check_interval(name, interval, low=None):
    """Refuse any value that is not a pair of finite numbers in ascending order, or that starts below `low`."""
    valid = isinstance(interval, (tuple, list)) and len(interval) == 2 and all(map(is_finite, interval))
    if not valid or interval[0] > interval[1] or (low is not None and interval[0] < low):
        at_least = "" if low is None else f" at least {low},"
        raise ValueError(f"{name}: expected two numbers in ascending order,{at_least} got {interval!r}.")


def check_layers(layers):
    """Refuse a tuple or list of layers that is empty or has an item that is not a name."""
    if not layers or not all(isinstance(name, str) for name in layers):
        raise ValueError(f"layers: expected one or more names of layers, such as ('layer2', 'layer3'), got {layers!r}.")


def check_image_size(image_size):
    """Refuse any value except None, an integer of at least 1, or a pair of such integers."""
    sides = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    is_valid = [isinstance(side, Integral) and not isinstance(side, bool) and side >= 1 for side in sides]
    if image_size is not None and is_valid != [True, True]:
        raise ValueError(
            "image_size: expected an integer of at least 1 (the shorter side), a pair of integers (height, width) or "
            f"None, got {image_size!r}."
        )
