"""Kinds of defects: predictions of detectors that learn the kinds from the defects passed to `fit`."""

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._images import Images


class KindPredictions:
    """Part of a detector that predicts the kinds of defects.

    A detector that has learned kinds sets `kinds_`. Its ``_inspected(images)`` then yields the votes of each image as a
    fourth value, a dict from kinds to shares that starts with the winner, and ``_row_votes(rows)`` yields the score and
    the votes of each feature row.
    """

    __metadata_request__fit = {"kinds": True}

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, *, X_defect=None, masks=None, groups=None, kinds=None, roi=None):
        """Fit on normal images, with or without defect images.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            Images are an array (n, height, width) or (n, height, width, channels) of uint8, uint16, bool or float in
            [0, 1], a list of such images or of Pillow images, which may differ in size, or a list of file paths, which
            are read when needed. A two-dimensional array holds features, one patch per sample.
        y : array-like of shape (n_samples,) or images, default=None
            Labels of X. `pos_label` means defect. If it is None, a known name tells which label means defect ("bad",
            "NG") or normal ("good", "OK"). If neither label is known, ``classes_[1]`` means defect. y may also be the
            defect images, as in ``fit(X_normal, X_defect)``. If y is None, all samples of X are normal.
        X_defect : images or array-like of shape (n_defects, n_features), default=None
            Defect images, if y is None.
        masks : array or list, default=None
            Masks of the defect images, True on the defect: arrays, Pillow images or paths, or None for an image without
            a mask. If y holds labels, masks are aligned with X, and those of normal images are None or empty.
            Otherwise, masks are aligned with the defect images. None uses those of an augmenter before the detector.
        groups : array-like of shape (n_samples,), default=None
            Groups of the samples of X. Images of one group, such as several photographs of one part, are not
            independent, so they are left out together to find the threshold. A sample without a group (None, NaN or "")
            is a group of its own.
        kinds : array-like of shape (n_samples,), default=None
            Kinds of the defects for :meth:`predict_kind`, as text or whole numbers, aligned like `masks`. The kind of a
            normal image is None, NaN, "" or a word such as "normal" or "good". The kind of a defect may be unknown:
            None, NaN, "" or "defect". The `kinds` from the loaders can be passed unchanged.
        roi : array of shape (height, width), Pillow image or path, or list of these, default=None
            Region of interest: a mask that is True on the pixels to inspect; see
            :func:`~sklearn_exdd.datasets.with_roi`. A single mask applies to all images passed to `fit`, is stored as
            `roi_`, and also applies to predictions. A list has one mask for each image of X; images to predict must
            then carry their own masks, which ``with_roi`` attaches.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If X has no normal samples, if an image, mask, region or kind is invalid (the message names it), or if y
            has more than two classes.
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
            Values of `kinds_`. The kind is None for an image that `predict` calls normal, and for all images if no
            defect passed to `fit` had a kind.
        votes : ndarray of shape (n_samples,), dtype float64
            Share of the votes for the predicted kind, in [0, 1]; 0 if the kind is None.

        Raises
        ------
        ValueError
            If `fit` received no kinds.

        Notes
        -----
        The `n_top_patches` patches with the highest scores take part. For each of them, the `n_neighbors` nearest rows
        of the defect bank vote, each for its own kind. Rows without a kind are ignored. The kind with the most votes
        wins; in a tie, the kind of the nearest row wins.
        All patches but the top one must also lie farther from the normal bank than 99 % of the normal patches. If a
        defect is small, most of the other patches only show its surroundings.

        The predicted kind is always a known one: a defect of a new kind is assigned the kind nearest to it. The share
        of the votes is not a probability.

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
        """Return the kind of an image and its share of the votes; None and 0 if the image is called normal."""
        if not votes or score <= self.threshold_:
            return None, 0.0
        kind = next(iter(votes))
        return kind, votes[kind]
