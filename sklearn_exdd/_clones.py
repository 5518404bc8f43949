"""Clones of estimators that another estimator holds."""

from sklearn.base import clone


def clone_with_seed(estimator, seed, *, keep_pos_label=False, memory=None):
    """Clone an estimator, seed the clone and give it a cache if it has none of its own, and unset its `pos_label`.

    An estimator that holds others makes their labels itself: 1 means defect, whatever the labels in the user's y are.

    Parameters
    ----------
    estimator : object
        Follows scikit-learn's conventions on parameters.
    seed : int
        Value of `random_state` if the estimator has that parameter and it is None.
    keep_pos_label : bool, default=False
        True for an estimator that receives the user's labels.
    memory : str, path-like, joblib.Memory or None, default=None
        Value of each parameter `memory` that is None, those of nested estimators among them.

    Returns
    -------
    estimator : object
    """
    twin = clone(estimator)
    params = {}
    if not keep_pos_label:
        params = {name: None for name in twin.get_params() if name.split("__")[-1] == "pos_label"}
    if memory is not None:
        without = [name for name, value in twin.get_params().items() if value is None]
        params |= {name: memory for name in without if name.split("__")[-1] == "memory"}
    if twin.get_params(deep=False).get("random_state", seed) is None:
        params["random_state"] = seed
    return twin.set_params(**params)
