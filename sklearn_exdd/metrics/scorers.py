"""Scorers of anomaly maps for cross-validation and searches."""

from sklearn.utils.metadata_routing import UNUSED, _MetadataRequester

from sklearn_exdd._composition import follow_to_detector
from sklearn_exdd._images import Images
from sklearn_exdd.metrics.pixels import (
    per_region_overlap_score,
    pixel_average_precision_score,
    pixel_roc_auc_score,
)


class PixelScorer(_MetadataRequester):
    """Scorer that compares the anomaly maps of a detector with the true masks.

    :func:`sklearn.metrics.make_scorer` knows labels only. This scorer calls `predict_map` and takes the masks as
    metadata, so that a search can choose by how well defects are located.

    Parameters
    ----------
    score_func : callable
        `score_func(masks, maps, **kwargs)`, which returns a float, higher = better.
    **kwargs : dict
        Further arguments of `score_func`.

    Notes
    -----
    Masks reach the scorer by metadata routing: `sklearn.set_config(enable_metadata_routing=True)`, then
    `search.fit(X, y, masks=masks)` or `cross_validate(..., params={"masks": masks})`. There must be one entry for each
    image of X (`None` for those without a defect): each fold then gets its own. An image shown with a defect, but whose
    mask is missing, counts as normal pixels only. In a Pipeline, the steps before the detector transform the images.
    If the detector was fitted with a region of interest, `score_func` gets it as `roi`.

    Examples
    --------
    >>> from sklearn_exdd.metrics import PixelScorer, per_region_overlap_score
    >>> PixelScorer(per_region_overlap_score, max_fpr=0.05)
    PixelScorer(per_region_overlap_score, max_fpr=0.05)
    """

    # "estimator" is an argument of `score` and not metadata; scikit-learn would list it otherwise.
    __metadata_request__score = {"masks": True, "estimator": UNUSED}

    def __init__(self, score_func, **kwargs):
        self._score_func = score_func
        self._kwargs = kwargs

    def __repr__(self):
        name = getattr(self._score_func, "__name__", repr(self._score_func))
        return f"PixelScorer({', '.join([name] + [f'{key}={value!r}' for key, value in self._kwargs.items()])})"

    def __call__(self, estimator, X, y=None, *, masks=None):
        """Score the maps that a fitted detector predicts; see :meth:`score`."""
        return self.score(estimator, X, y, masks=masks)

    # The routing machinery looks for what a scorer requests under this name.
    def score(self, estimator, X, y=None, *, masks=None):
        """Score the maps that a fitted detector predicts; calling the scorer is the same.

        Parameters
        ----------
        estimator : object
            A fitted detector with `predict_map`, or a Pipeline or a search around one.
        X : images
            What `predict_map` takes.
        y : Ignored
            scikit-learn passes it to every scorer.
        masks : array-like of shape (n_images, height, width) or list of (array-like of shape (height, width) or None)
            The true masks, one for each image of X.
        """
        if masks is None:
            raise TypeError(
                f"masks: expected the true masks for {self!r}, got None. Enable metadata routing with "
                "sklearn.set_config(enable_metadata_routing=True) and pass masks= to the fit of the search, or "
                'params={"masks": masks} to cross_validate.'
            )
        detector, X = follow_to_detector(estimator, X)
        regions = {}
        if hasattr(detector, "roi_"):  # which counts in the metric, too
            images = Images(X)
            own = [images.region(i) for i in range(len(images))]
            regions = {"roi": own if detector.roi_ is None else detector.roi_}
        return self._score_func(masks, detector.predict_map(X), **{**regions, **self._kwargs})


pixel_roc_auc_scorer = PixelScorer(pixel_roc_auc_score)
pixel_average_precision_scorer = PixelScorer(pixel_average_precision_score)
per_region_overlap_scorer = PixelScorer(per_region_overlap_score)
