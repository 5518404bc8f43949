"""Functions for estimators that hold a detector: cloning, and access to the detector in a Pipeline or a search."""

from collections.abc import Iterator

from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline


def clone_with_seed(estimator, seed, *, keep_pos_label=False, memory=None):
    """Clone an estimator, and set the seed, the cache and `pos_label` of the clone.

    An estimator that holds other estimators passes them its own labels, where 1 means defect. The `pos_label` of the
    clone is therefore set to None, unless `keep_pos_label` is True.

    Parameters
    ----------
    estimator : object
        Estimator that follows scikit-learn's conventions on parameters. A FrozenEstimator is returned as it is. In a
        Pipeline, each step gets the seed.
    seed : int
        Value for `random_state`, if the estimator has this parameter and its value is None.
    keep_pos_label : bool, default=False
        Whether to keep `pos_label`. Choose True for an estimator that receives the user's labels.
    memory : str, path-like, joblib.Memory or None, default=None
        Value for each `memory` parameter that is None, including those of nested estimators.

    Returns
    -------
    estimator : object
    """
    twin = clone(estimator)
    if isinstance(twin, FrozenEstimator):
        return twin
    params = {}
    if not keep_pos_label:
        params = {name: None for name in twin.get_params() if name.split("__")[-1] == "pos_label"}
    if memory is not None:
        without = [name for name, value in twin.get_params().items() if value is None]
        params |= {name: memory for name in without if name.split("__")[-1] == "memory"}
    names = [f"{step}__random_state" for step, _ in twin.steps] if isinstance(twin, Pipeline) else ["random_state"]
    own = twin.get_params()
    params |= {name: seed for name in names if own.get(name, seed) is None}
    return twin.set_params(**params)


def follow_to_detector(estimator, X=None, *, method="predict_map", allow_frozen=True, allow_threshold=True):
    """Return the fitted detector inside pipelines and searches, and X transformed by the steps before the detector."""
    from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV

    outer = estimator
    while not _is_detector(estimator, method):
        if isinstance(estimator, Pipeline):
            if X is not None and len(estimator) > 1:
                X = estimator[:-1].transform(X)
            estimator = estimator[-1]
        elif isinstance(estimator, FrozenEstimator):
            if not allow_frozen:
                raise TypeError(f"{method}: a FrozenEstimator does not learn. Pass the estimator inside it.")
            estimator = estimator.estimator
        elif isinstance(estimator, (FixedThresholdClassifier, TunedThresholdClassifierCV)) and not allow_threshold:
            raise TypeError(
                f"{method}: expected an estimator that decides at the threshold of its detector, got a "
                f"{type(estimator).__name__}, which has its own threshold. Pass fitted_detector(estimator). If "
                "best_threshold_ (or threshold) refers to decision_function, first add it to threshold_ of the "
                "detector."
            )
        elif hasattr(estimator, "best_estimator_") or hasattr(estimator, "estimator_"):
            estimator = estimator.best_estimator_ if hasattr(estimator, "best_estimator_") else estimator.estimator_
        else:
            raise TypeError(
                "estimator: expected a fitted detector with the method predict_map, or a Pipeline or a search around "
                f"such a detector, got {type(outer).__name__}"
                + (f" around {type(estimator).__name__}. " if estimator is not outer else ". ")
                + "Fit the estimator first, or make a detector its last step."
            )
    if not hasattr(estimator, method):
        raise TypeError(f"estimator: expected a detector with the method {method}, got {type(estimator).__name__}.")
    return estimator, X


def _is_detector(estimator, method):
    """Tell whether an estimator is itself a detector.

    A Pipeline or a search that holds a detector does not count, even if scikit-learn gives it the same method.
    """
    if isinstance(estimator, FrozenEstimator):
        return False
    is_holding = isinstance(estimator, Pipeline) or hasattr(estimator, "estimator")
    return hasattr(estimator, "predict_map") or (hasattr(estimator, method) and not is_holding)


def reaches(estimator, method, *, allow_frozen=True):
    """Tell whether an estimator has a method, itself or in the detector that :func:`follow_to_detector` finds in it."""
    try:
        follow_to_detector(estimator, method=method, allow_frozen=allow_frozen)
    except TypeError:
        return False
    return True


def fitted_detector(estimator):
    """Return the fitted detector inside a Pipeline, a search or another estimator that holds a detector.

    A Pipeline or a search delegates only the methods that scikit-learn defines. This function, :func:`predict_map`,
    :func:`inspect`, :func:`iter_inspect`, :func:`explain` and :func:`partial_fit` give access to the other methods of a
    detector.

    Parameters
    ----------
    estimator : object
        Detector, or a fitted estimator around a detector. It may be a Pipeline, a GridSearchCV or another search with
        ``refit=True``, a FrozenEstimator, a TunedThresholdClassifierCV or a FixedThresholdClassifier, nested to any
        depth.

    Returns
    -------
    detector : object
        The detector itself, not a copy. If it is the last step of a Pipeline, it expects images that the earlier steps
        have transformed.

    Raises
    ------
    TypeError
        If the estimator does not hold a detector with maps, or the search is not fitted.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_exdd import CutPasteDefectAugmenter, ExDDDetector, fitted_detector
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, _ = make_surface_defects(20, image_shape=(64, 64), random_state=0)
    >>> pipeline = make_pipeline(CutPasteDefectAugmenter(random_state=0), ExDDDetector(random_state=0)).fit(X, y)
    >>> fitted_detector(pipeline).threshold_ > 0
    True
    """
    detector, _ = follow_to_detector(estimator)
    return detector


def predict_map(estimator, X):
    """Predict the anomaly maps of the detector inside a Pipeline or a search.

    Parameters
    ----------
    estimator : object
        Estimator, as in :func:`fitted_detector`.
    X : images
        Images, as passed to the `predict` method of the estimator. The steps before the detector transform the images.

    Returns
    -------
    maps : ndarray of shape (n_images, height, width), or list of such arrays
        Anomaly maps of dtype float32. Each map has the size of the image that reaches the detector. If these sizes
        differ, the maps are returned as a list.

    Raises
    ------
    TypeError
        If the estimator does not hold a detector with maps, or the search is not fitted.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn_exdd import ExDDDetector, predict_map
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, _ = make_surface_defects(20, image_shape=(64, 64), random_state=0)
    >>> search = GridSearchCV(ExDDDetector(random_state=0), {"blur": [0, 4]}, cv=2, scoring="roc_auc").fit(X, y)
    >>> predict_map(search, X[:2]).shape
    (2, 64, 64)
    """
    detector, X = follow_to_detector(estimator, X)
    return detector.predict_map(X)


def inspect(estimator, X, *, min_area=0, pixel_size=None):
    """Return all results for each image. The detector inside a Pipeline or a search computes them in a single pass.

    Parameters
    ----------
    estimator : object
        Estimator, as in :func:`fitted_detector`. A TunedThresholdClassifierCV or a FixedThresholdClassifier is refused,
        because its decisions differ from the decisions of the detector.
    X : images
        Images, as passed to the `predict` method of the estimator. The steps before the detector transform the images.
    min_area, pixel_size : default=0 and None
        As in :meth:`ExDDDetector.predict_regions`.

    Returns
    -------
    results : list of Bunch
        One Bunch for each image. It holds the score, decision, label, p-value, map, mask, regions, explanation and
        kind, as described in :meth:`ExDDDetector.inspect`. Maps have the size of the images that reach the detector.

    Raises
    ------
    TypeError
        If the estimator does not hold a detector with maps, the search is not fitted, or an estimator around the
        detector sets its own threshold.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_exdd import CutPasteDefectAugmenter, ExDDDetector, inspect
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, _ = make_surface_defects(20, image_shape=(64, 64), random_state=0)
    >>> pipeline = make_pipeline(CutPasteDefectAugmenter(random_state=0), ExDDDetector(random_state=0)).fit(X, y)
    >>> inspect(pipeline, X[:2])[0].map.shape
    (64, 64)
    """
    return list(iter_inspect(estimator, X, min_area=min_area, pixel_size=pixel_size))


def iter_inspect(estimator, X, *, min_area=0, pixel_size=None):
    """Yield all results for one image after another. At most one batch of images is in memory at a time.

    Parameters
    ----------
    estimator : object
        Estimator, as in :func:`inspect`.
    X : images or iterator of images
        Images. The steps before the detector transform the images of an iterator one by one. They transform a list or
        an array in a single call.
    min_area, pixel_size : default=0 and None
        As in :meth:`ExDDDetector.predict_regions`.

    Yields
    ------
    result : Bunch
        Results for one image, as in :func:`inspect`.

    Raises
    ------
    TypeError
        As in :func:`inspect`.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_exdd import CutPasteDefectAugmenter, ExDDDetector, iter_inspect
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, _ = make_surface_defects(20, image_shape=(64, 64), random_state=0)
    >>> pipeline = make_pipeline(CutPasteDefectAugmenter(random_state=0), ExDDDetector(random_state=0)).fit(X, y)
    >>> next(iter_inspect(pipeline, (image for image in X))).mask.shape
    (64, 64)
    """
    options = {"method": "iter_inspect", "allow_threshold": False}
    if isinstance(X, Iterator):
        detector, _ = follow_to_detector(estimator, **options)
        X = (follow_to_detector(estimator, [image])[1][0] for image in X)
    else:
        detector, X = follow_to_detector(estimator, X, **options)
    return detector.iter_inspect(X, min_area=min_area, pixel_size=pixel_size)


def explain(estimator, X):
    """Explain the decisions of the detector inside a Pipeline or a search.

    Parameters
    ----------
    estimator : object
        Estimator, as in :func:`fitted_detector`. Its detector must be an ExDDDetector, or a CombinedDefectDetector with
        an ExDDDetector among its members, because other detectors do not have the method `explain`.
    X : images
        Images, as passed to the `predict` method of the estimator. The steps before the detector transform the images.

    Returns
    -------
    explanations : list of dict
        One explanation for each image, as described in :meth:`ExDDDetector.explain`. The image numbers in it refer to
        the images that were passed to `fit`.

    Raises
    ------
    TypeError
        If the estimator does not hold a detector that can explain its decisions, or the search is not fitted.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_exdd import CutPasteDefectAugmenter, ExDDDetector, explain
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, _ = make_surface_defects(20, image_shape=(64, 64), random_state=0)
    >>> pipeline = make_pipeline(CutPasteDefectAugmenter(random_state=0), ExDDDetector(random_state=0)).fit(X, y)
    >>> sorted(explain(pipeline, X[:1])[0])[:3]
    ['defect_distance', 'defect_image', 'defect_patch']
    """
    detector, X = follow_to_detector(estimator, X, method="explain")
    return detector.explain(X)


def partial_fit(estimator, X, y, masks=None, *, kinds=None):
    """Correct the detector inside a Pipeline or a search with further labelled images.

    Parameters
    ----------
    estimator : object
        Estimator, as in :func:`fitted_detector`. Its detector must be an ExDDDetector, or a CombinedDefectDetector with
        an ExDDDetector among its members, because other detectors do not have the method `partial_fit`. The steps
        before the detector do not change. A FrozenEstimator is refused, because it does not learn.
    X : images
    y : array-like of shape (n_images,)
        Labels of X. Each label must be one of the classes seen in `fit`.
    masks : array or list, default=None
        Masks of the defect images, aligned with X.
    kinds : array-like of shape (n_images,), default=None
        Kind of the defect in each image of X, for a detector that predicts kinds.

    Returns
    -------
    estimator : object
        Estimator that was passed. It now holds the corrected detector.

    Raises
    ------
    TypeError
        If the estimator does not hold a detector that can be corrected, or the search is not fitted.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_exdd import CutPasteDefectAugmenter, ExDDDetector, partial_fit
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, _ = make_surface_defects(30, image_shape=(64, 64), random_state=0)
    >>> pipeline = make_pipeline(CutPasteDefectAugmenter(random_state=0), ExDDDetector(random_state=0))
    >>> partial_fit(pipeline.fit(X[:20], y[:20]), X[20:], y[20:]) is pipeline
    True
    """
    detector, X = follow_to_detector(estimator, X, method="partial_fit", allow_frozen=False)
    detector.partial_fit(X, y, masks=masks, **({} if kinds is None else {"kinds": kinds}))
    return estimator
