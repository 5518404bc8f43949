"""Parameter checks that scikit-learn's constraints do not cover."""

from numbers import Real

import numpy as np


def check_interval(name, interval, low):
    """Refuse anything but two numbers in ascending order, the first at least `low`."""
    valid = np.shape(interval) == (2,) and all(isinstance(end, Real) for end in interval)
    if not valid or not low <= interval[0] <= interval[1]:
        raise ValueError(f"{name}: expected two numbers in ascending order, at least {low}, got {interval!r}.")
