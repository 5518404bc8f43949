"""Mixin for detectors that predict the kind of a defect. The kinds are learned from the defects passed to `fit`."""

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._images import Images


class KindPredictions:
    """Mixin for detectors that predict the kinds of defects.

    A detector that has learned kinds has the attribute `kinds_` and provides the votes in two methods:

    * ``_inspected(images)`` yields the votes of each image as a fourth value.
    * ``_row_votes(rows)`` yields the score and the votes of each feature row.

    The votes of an image are a dict from kinds to fractions of the votes. The winner comes first.
    """

    __metadata_request__fit = {"kinds": True}

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, *, X_defect=None, masks=None, groups=None, kinds=None, roi=None):
        """Fit on normal images, with or without defect images.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            Images in one of three forms: an array (n, height, width) or (n, height, width, channels) of uint8, uint16,
            bool, or float in [0, 1]; a list of such images or of Pillow images; or a list of file paths. The images of
            a list may differ in size. Files are read when they are needed. Instead of images, X may be a
            two-dimensional array of features, with one patch per sample.
        y : array-like of shape (n_samples,) or images, default=None
            Labels of X, or the defect images as in ``fit(X_normal, X_defect)``. If y is None, all samples of X are
            normal. If `pos_label` is None, the defect label is recognised by its name: "bad" or "NG" means defect,
            "good" or "OK" means normal. If no name is recognised, ``classes_[1]`` means defect.
        X_defect : images or array-like of shape (n_defects, n_features), default=None
            Defect images. Only allowed if y is None.
        masks : array or list, default=None
            Masks of the defect images, which are True on the defect. A mask is an array, a Pillow image or a path, or
            None if the image has no mask. If y holds labels, `masks` has one entry per sample of X, and the entry of a
            normal image is None or an empty mask. Otherwise, `masks` has one entry per defect image. None means the
            masks passed to an augmenter in an earlier Pipeline step.
        groups : array-like of shape (n_samples,), default=None
            Group of each sample of X. Several photographs of one part form a group, because they are not independent.
            Calibration leaves out whole groups when it computes the scores that set the threshold. A sample whose group
            is None, NaN or "" forms a group by itself.
        kinds : array-like of shape (n_samples,), default=None
            Kinds of the defects, as text or whole numbers, from which :meth:`predict_kind` learns. There is one entry
            per sample of X or per defect image, as in `masks`. The entry of a normal image is None, NaN, "" or a word
            such as "normal" or "good". The entry of a defect whose kind is unknown is None, NaN, "" or "defect". The
            `kinds` that a loader returns can be passed unchanged.
        roi : array of shape (height, width), Pillow image or path, or list of these, default=None
            Region of interest: a mask that is True on the pixels to inspect. A single mask applies to all images, in
            `fit` and in predictions, and is stored as `roi_`. A list contains one mask for each image of X. With a
            list, images for predictions also need their own masks; see :func:`~sklearn_exdd.datasets.with_roi`.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If X has no normal samples, if y has more than two classes, or if an image, mask, region or kind is invalid.
            The message names the invalid item.
        """
        fitted = self._unfitted()
        return self._become(fitted._fitted_on(X, *fitted._training_sets(X, y, X_defect, masks, groups, kinds, roi)))

    def predict_kind(self, X):
        """Predict the kind of defect of each image that is called a defect.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)

        Returns
        -------
        kinds : ndarray of shape (n_samples,), dtype object
            Kind of each image, from `kinds_`. The kind is None if `predict` calls the image normal. All kinds are None
            if no defect passed to `fit` had a kind.
        votes : ndarray of shape (n_samples,), dtype float64
            Fraction of the votes that the predicted kind received, in [0, 1]. It is 0 if the kind is None.

        Raises
        ------
        ValueError
            If `fit` received no kinds.

        Notes
        -----
        The kind is chosen by votes. For each of the `n_top_patches` patches with the highest scores, the `n_neighbors`
        nearest rows of the defect bank vote for their kinds. Rows without a kind are ignored. The kind with the most
        votes wins. In a tie, the kind of the nearest row wins.

        If a defect is small, most of these patches only show its surroundings. Therefore, every patch except the one
        with the highest score takes part only if it lies farther from the normal bank than 99 % of the normal patches.

        The predicted kind is always one of `kinds_`: a defect of a new kind is assigned the most similar known kind.
        The fraction of the votes is not a probability.

        The kind of a synthetic defect is its prompt. A synthetic defect without a prompt has no kind, because the name
        of an augmenter is not the kind of a real defect.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_exdd import ExDDDetector
        >>> from sklearn_exdd.datasets import make_surface_defects
        >>> X, y, _ = make_surface_defects(40, image_shape=(64, 64), defects="scratch", random_state=0)
        >>> kinds = np.where(y == 1, "scratch", "normal")
        >>> detector = ExDDDetector("gabor", random_state=0).fit(X[:30], y[:30], kinds=kinds[:30])
        >>> names, votes = detector.predict_kind(X[30:])
        >>> bool(((names == "scratch") == (detector.predict(X[30:]) == 1)).all())
        True
        """
        check_is_fitted(self)
        detector = self._snapshot()
        if not hasattr(detector, "kinds_"):
            raise ValueError(
                f"predict_kind: expected a {type(self).__name__} that knows kinds of defects, got one that was fitted "
                "without kinds. Pass kinds= to fit, with the kind of each defect image."
            )
        samples = detector._samples(X)
        if isinstance(samples, Images):
            found = ((score, votes) for score, _, _, votes in detector._inspected(samples))
        else:
            found = detector._row_votes(samples)
        named = [detector._kind_at(score, votes) for score, votes in found]
        kinds = np.empty(len(named), dtype=object)
        kinds[:] = [kind for kind, _ in named]
        return kinds, np.array([vote for _, vote in named], dtype=np.float64)

    def _kind_at(self, score, votes):
        """Return the kind of an image and its fraction of the votes, or None and 0 if the image is called normal."""
        if not votes or score <= self.threshold_:
            return None, 0.0
        kind = next(iter(votes))
        return kind, votes[kind]
