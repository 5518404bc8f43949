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

    :func:`sklearn.metrics.make_scorer` only supports labels. This scorer calls `predict_map`, and receives the masks as
    metadata. With this scorer, a search selects the candidates that locate defects best.

    Parameters
    ----------
    score_func : callable
        Function called as `score_func(masks, maps, **kwargs)`. It returns a float, where higher is better.
    **kwargs : dict
        Further arguments of `score_func`.

    Notes
    -----
    Masks reach the scorer by metadata routing. First call `sklearn.set_config(enable_metadata_routing=True)`. Then call
    `search.fit(X, y, masks=masks)` or `cross_validate(..., params={"masks": masks})`. Pass one mask for each image of
    X, so that each fold gets its own masks. The mask of an image without a defect is `None`. If the mask of a defect
    image is missing, all of its pixels count as normal. In a Pipeline, the steps before the detector transform the
    images. If the detector was fitted with a region of interest, `score_func` receives it as `roi`.

    Examples
    --------
    >>> from sklearn_exdd.metrics import PixelScorer, per_region_overlap_score
    >>> PixelScorer(per_region_overlap_score, max_fpr=0.05)
    PixelScorer(per_region_overlap_score, max_fpr=0.05)
    """

    # UNUSED tells scikit-learn that the argument "estimator" of `score` is not metadata.
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

    # To find the metadata that a scorer requests, metadata routing looks for a method with the name `score`.
    def score(self, estimator, X, y=None, *, masks=None):
        """Score the maps that a fitted detector predicts. Calling the scorer does the same.

        Parameters
        ----------
        estimator : object
            Fitted detector with the method `predict_map`, or a fitted Pipeline or search that holds such a detector.
        X : images
            Images for which maps are predicted.
        y : Ignored
            Not used; scikit-learn passes it to every scorer.
        masks : array-like of shape (n_images, height, width) or list of (array-like of shape (height, width) or None)
            True masks, one for each image of X.
        """
        if masks is None:
            raise TypeError(
                f"masks: expected the true masks for {self!r}, got None. Enable metadata routing with "
                "sklearn.set_config(enable_metadata_routing=True) and pass masks= to the fit of the search, or "
                'params={"masks": masks} to cross_validate.'
            )
        detector, X = follow_to_detector(estimator, X)
        regions = {}
        if hasattr(detector, "roi_"):  # the metric counts the same pixels as the detector
            images = Images(X)
            own = [images.region(i) for i in range(len(images))]
            regions = {"roi": own if images.have_regions else detector.roi_}
        return self._score_func(masks, detector.predict_map(X), **{**regions, **self._kwargs})


pixel_roc_auc_scorer = PixelScorer(pixel_roc_auc_score)
pixel_average_precision_scorer = PixelScorer(pixel_average_precision_score)
per_region_overlap_scorer = PixelScorer(per_region_overlap_score)
