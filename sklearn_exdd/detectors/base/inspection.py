"""Inspection: maps, masks and regions of images, and a method that computes all results in one pass."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._images import Images, lowest_outside
from sklearn_exdd.detectors.base.regions import check_region_params, connected_regions, marked_pixels

_BATCH_SIZE = 16  # number of images taken from an iterator at a time if the detector has no batch_size


class Inspection:
    """Mixin for detectors that locate defects.

    The detector defines ``_maps(images)``, which returns a list of maps. It may also define ``_inspected(images)``,
    which yields the score, the map and the explanation of each image in a single pass. The explanation may be None. A
    detector with the attribute `kinds_` also yields the votes for kinds.
    """

    def predict_map(self, X):
        """Compute anomaly maps, which contain a score for each pixel.

        Parameters
        ----------
        X : images

        Returns
        -------
        maps : ndarray of shape (n_samples, height, width), or list of such arrays
            Maps of dtype float32, each with the size of its image. A list is returned if the sizes differ.
        """
        check_is_fitted(self)
        images = self._located(X, "predict_map", "score_samples")
        maps = enumerate(self._maps(images))
        return _stacked([lowest_outside(pixel_map, images.region(i)) for i, pixel_map in maps])

    def predict_mask(self, X):
        """Predict masks, which are True on defective pixels.

        Parameters
        ----------
        X : images

        Returns
        -------
        masks : ndarray of shape (n_samples, height, width), or list of such arrays
            Masks of dtype bool, each with the size of its image. A list is returned if the sizes differ.

        Raises
        ------
        ValueError
            If the detector has no `pixel_threshold_`, or if X holds feature rows.

        Notes
        -----
        A mask never contradicts the decision of `predict`. If `predict` calls an image normal, no pixel is marked. If
        `predict` calls an image a defect, all pixels whose map value is above `pixel_threshold_` are marked. A large,
        faint defect may have no such pixel. In this case, a region around the pixel with the highest map value is
        marked. It consists of the connected pixels whose map value is at least halfway from the median of the map to
        the maximum.

        `pixel_threshold_` is the conformal quantile of the maxima of normal maps. Each map is computed as if `fit` had
        not seen the image. The fraction of new normal images with any map value above `pixel_threshold_` is therefore
        at most `false_alarm_rate_`. The fraction of new normal images with marked pixels has the same limit, because
        only images called defects have marked pixels.

        Examples
        --------
        >>> from sklearn_exdd import ExDDDetector
        >>> from sklearn_exdd.datasets import make_surface_defects
        >>> X, y, _ = make_surface_defects(40, image_shape=(64, 64), random_state=0)
        >>> detector = ExDDDetector("gabor", random_state=0).fit(X[:30], y[:30])
        >>> masks = detector.predict_mask(X[30:])
        >>> bool((masks.any(axis=(1, 2)) == (detector.predict(X[30:]) == 1)).all())
        True
        """
        check_is_fitted(self)
        detector = self._snapshot()
        images = detector._located(X, "predict_mask", "predict")
        detector._check_marks("predict_mask")
        return _stacked([detector._mask(score, *found) for score, *found in detector._marked(images)])

    def predict_regions(self, X, *, min_area=0, pixel_size=None):
        """Find the connected regions of the masks, with the positions and sizes of the regions.

        Parameters
        ----------
        X : images
        min_area : float, default=0
            Minimum area of a region. The unit is pixels, or square millimetres if `pixel_size` is given. Smaller
            regions are left out of the result. Masks and decisions do not depend on `min_area`.
        pixel_size : float or tuple of float (height, width), default=None
            Side length of a pixel, in millimetres on the part.

        Returns
        -------
        regions : list of list of Bunch
            Regions of each image. The region with the highest map value comes first. The list of an image is empty if
            its mask is empty. Pixels that touch only at a corner are connected, too. Each region has

            * `box`: (top, left, bottom, right); the region lies in ``image[top:bottom, left:right]``;
            * `area`: number of pixels;
            * `centroid`: (row, column) of its centre of mass;
            * `peak`: (row, column) of its pixel with the highest map value;
            * `peak_score`, `mean_score`: highest and mean map value in the region;
            * `equivalent_diameter`: diameter of a circle with the same area.

            With `pixel_size`, lengths are in millimetres, areas are in square millimetres, and positions are in
            millimetres from the upper left corner of the image. Without `pixel_size`, the unit is pixels, and the
            centre of the upper left pixel has the position (0, 0).

        Raises
        ------
        ValueError
            If a parameter is out of range, if the detector has no `pixel_threshold_`, or if X holds feature rows.

        Examples
        --------
        >>> from sklearn_exdd import ExDDDetector
        >>> from sklearn_exdd.datasets import make_surface_defects
        >>> X, y, _ = make_surface_defects(40, image_shape=(64, 64), random_state=0)
        >>> detector = ExDDDetector("gabor", random_state=0).fit(X[:30], y[:30])
        >>> regions = detector.predict_regions(X[30:][y[30:] == 1], pixel_size=0.05)
        >>> sorted(regions[0][0])
        ['area', 'box', 'centroid', 'equivalent_diameter', 'mean_score', 'peak', 'peak_score']
        """
        check_is_fitted(self)
        sides = check_region_params(min_area, pixel_size)
        detector = self._snapshot()
        images = detector._located(X, "predict_regions", "predict")
        detector._check_marks("predict_regions")
        return [
            connected_regions(detector._mask(score, pixel_map, region), pixel_map, min_area, sides)
            for score, pixel_map, region in detector._marked(images)
        ]

    def inspect(self, X, *, min_area=0, pixel_size=None):
        """Compute all results for each image in a single pass.

        Parameters
        ----------
        X : images
        min_area, pixel_size : default=0 and None
            As in :meth:`predict_regions`.

        Returns
        -------
        results : list of Bunch
            Results for each image:

            * `score`, `decision`, `label` and `p_value`, as from :meth:`score_samples`, :meth:`decision_function`,
              :meth:`predict` and :meth:`p_values`;
            * `map`, `mask` and `regions`, as from :meth:`predict_map`, :meth:`predict_mask` and
              :meth:`predict_regions`;
            * `explanation`, as from ``explain``, or None if the detector has no such method;
            * `kind` and `kind_vote`, as from ``predict_kind``; both are None if `fit` received no kinds.

            Detectors that were fitted by earlier versions may lack some attributes. Without `calibration_scores_`,
            `p_value` is None. Without `pixel_threshold_`, `mask` and `regions` are None.

        Raises
        ------
        ValueError
            If a parameter is out of range, or if X holds feature rows.

        See Also
        --------
        iter_inspect : Yields one result after the other and keeps only one batch of images in memory.

        Examples
        --------
        >>> from sklearn_exdd import ExDDDetector
        >>> from sklearn_exdd.datasets import make_surface_defects
        >>> X, y, _ = make_surface_defects(40, image_shape=(64, 64), random_state=0)
        >>> detector = ExDDDetector("gabor", random_state=0).fit(X[:30], y[:30])
        >>> results = detector.inspect(X[30:])
        >>> [bool(result.label) for result in results] == [result.mask.any() for result in results]
        True
        """
        return list(self.iter_inspect(X, min_area=min_area, pixel_size=pixel_size))

    def iter_inspect(self, X, *, min_area=0, pixel_size=None):
        """Yield all results for one image after the other, with at most one batch of images in memory.

        Parameters
        ----------
        X : images or iterator of images
            Images, or an iterator over images, such as a generator of arrays or paths. Images are taken from an
            iterator in batches of `batch_size`. Files in a list of paths are read only when they are needed.
        min_area, pixel_size : default=0 and None
            As in :meth:`predict_regions`.

        Yields
        ------
        result : Bunch
            As in :meth:`inspect`.

        Raises
        ------
        ValueError
            As in :meth:`inspect`. The message gives the position of the image in X.

        Examples
        --------
        >>> from sklearn_exdd import ExDDDetector
        >>> from sklearn_exdd.datasets import make_surface_defects
        >>> X, y, _ = make_surface_defects(40, image_shape=(64, 64), random_state=0)
        >>> detector = ExDDDetector("gabor", random_state=0).fit(X[:30], y[:30])
        >>> sum(len(result.regions) > 0 for result in detector.iter_inspect(image for image in X[30:]))
        2
        """
        check_is_fitted(self)
        sides = check_region_params(min_area, pixel_size)
        detector = self._snapshot()
        if isinstance(X, Iterator):
            batches = detector._batches_of(X)
        else:
            batches = [detector._located(X, "inspect", "predict and p_values")]
        return detector._results(batches, min_area, sides)

    def _results(self, batches, min_area, pixel_size):
        is_marking = hasattr(self, "pixel_threshold_")
        is_calibrated = hasattr(self, "calibration_scores_")
        for images in batches:
            for i, (score, pixel_map, explanation, *votes) in enumerate(self._inspected(images)):
                score, region = float(score), images.region(i)
                pixel_map = lowest_outside(pixel_map, region)
                kind, vote = self._kind_at(score, *votes) if hasattr(self, "kinds_") else (None, None)
                mask = self._mask(score, pixel_map, region) if is_marking else None
                yield Bunch(
                    score=score,
                    decision=score - self.threshold_,
                    label=self._label(score > self.threshold_),
                    p_value=float(self._p_values_at([score])[0]) if is_calibrated else None,
                    map=pixel_map,
                    mask=mask,
                    regions=connected_regions(mask, pixel_map, min_area, pixel_size) if is_marking else None,
                    explanation=explanation,
                    kind=kind,
                    kind_vote=vote,
                )

    def _batches_of(self, iterator):
        """Yield the images of an iterator in batches."""
        n_taken, size = 0, getattr(self, "batch_size", _BATCH_SIZE)
        while items := list(islice(iterator, size)):
            yield self._located(items, "inspect", "predict and p_values", first=n_taken)
            n_taken += len(items)

    def _located(self, X, method, instead, first=0):
        """Return validated Images. Refuse feature rows, because they have no pixels."""
        samples = self._samples(X, first)
        if not isinstance(samples, Images):
            raise ValueError(f"{method}: expected images, got feature rows, which have no map. Use {instead}.")
        return samples

    def _check_marks(self, method):
        if not hasattr(self, "pixel_threshold_"):
            raise ValueError(
                f"{method}: expected a detector with pixel_threshold_, got a {type(self).__name__} without it. If it "
                "was fitted by an earlier version, fit it again. In the _fit of a custom detector, pass map_maxima to "
                "_set_threshold."
            )

    def _marked(self, images):
        """Yield the score, the map and the region of interest of each image. The region may be None."""
        for i, (score, pixel_map, *_) in enumerate(self._inspected(images)):
            region = images.region(i)
            yield score, lowest_outside(pixel_map, region), region

    def _mask(self, score, pixel_map, region):
        """Return the mask of an image. It is empty if and only if the image is called normal."""
        if score > self.threshold_:
            mask = marked_pixels(pixel_map, self.pixel_threshold_)
            return mask if region is None else mask & region
        return np.zeros(pixel_map.shape, dtype=bool)

    def _inspected(self, images):
        """Yield the score, the map and the explanation of each image. The explanation may be None."""
        for i in range(len(images)):
            one = images.take([i])
            yield self._score(one)[0], self._maps(one)[0], None


def _stacked(arrays):
    return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else arrays
