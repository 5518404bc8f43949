"""Kinds of defect: detectors that name them, from the kinds of the defects that fit received."""

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._images import Images


class KindPredictions:
    """The part of a detector that names the kind of a defect.

    The detector sets `kinds_` if it knows kinds. Its ``_inspected(images)`` then yields the votes of each image, a dict
    of kinds and shares whose first kind is the winner, as a fourth value; ``_row_votes(rows)`` yields the score and the
    votes of each feature row.
    """

    __metadata_request__fit = {"kinds": True}

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, *, X_defect=None, masks=None, groups=None, kinds=None, roi=None):
        """Fit on normal images, with or without defect images.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            Array (n, height, width) or (n, height, width, channels) of uint8, uint16,
            bool or float in [0, 1]; list of such images, or of Pillow images, of
            different sizes; list of file paths, read when needed. A two-dimensional array holds features, one
            patch a sample.
        y : array-like of shape (n_samples,) or images, default=None
            Labels of X, of which `pos_label`, or else "bad", "NG" and the like beside
            "good" or "OK", or else ``classes_[1]`` means defect. Or the defect images
            themselves: ``fit(X_normal, X_defect)``. None: X is normal.
        X_defect : images or array-like of shape (n_defects, n_features), default=None
            Defect images, where y is None.
        masks : array or list, default=None
            Masks of the defect images, True on the defect: arrays, Pillow images, paths,
            or None for an image without. Aligned with X where y is labels (those of normal images are
            None or empty), with the defect images otherwise.
        groups : array-like of shape (n_samples,), default=None
            Images of one group (several photographs of one part) are not independent:
            they are left out together when the threshold is found. Aligned with X. One
            without a group (None, NaN or "") is a group of its own.
        kinds : array-like of shape (n_samples,), default=None
            Kinds of the defects, for :meth:`predict_kind`: texts or whole numbers. Aligned as `masks` are. A normal
            image has None, NaN, "" or a word for normal, such as "normal" or "good". A defect without a kind has None,
            NaN, "" or "defect". The `kinds` of the loaders fit as they are.
        roi : array of shape (height, width), Pillow image or path, or list of these, default=None
            Region of interest: a mask that is True where images count, see :func:`~sklearn_exdd.datasets.with_roi`.
            One mask serves all images of fit, is kept as `roi_` and applied to those that are predicted. A list has
            one mask for each image of X; images to be predicted then come with their own, by ``with_roi``.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If there is no normal image, an image, mask, region or kind is not valid (the message names
            it), or y has more than two classes.
        """
        fitted = self._unfitted()
        return self._become(fitted._fitted_on(X, *fitted._training_sets(X, y, X_defect, masks, groups, kinds, roi)))

    def predict_kind(self, X):
        """Name the kind of defect of each image that is called a defect.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)

        Returns
        -------
        kinds : ndarray of shape (n_samples,), dtype object
            One of `kinds_`. None for an image that `predict` calls normal, and for all images if no defect in fit had
            a kind.
        votes : ndarray of shape (n_samples,), dtype float64
            Share of the vote that the kind got, in [0, 1]; 0 without a kind.

        Raises
        ------
        ValueError
            If fit received no kinds.

        Notes
        -----
        The patches with the highest scores, at most `n_top_patches`, ask the rows of the defect bank nearest to them,
        `n_neighbors` each, and the majority of the kinds of these rows wins; of equal ones, that of the nearest row.
        Except for the first, only patches farther from the normal bank than 99 % of the normal patches ask: most of the
        others show the surroundings of a small defect.
        Rows without a kind are not asked. So the kind is always one that is known: a defect of a new kind gets the
        name of the kind nearest to it. The vote is not a probability.

        A synthetic defect is of the kind that its prompt names. Without a prompt, it has no kind: the name of an
        augmenter does not tell what a real defect is.

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
                "without. Pass kinds= to fit, the kind of each defect image."
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
        """Return the kind of an image and its share of the votes; None and 0 for one that is called normal."""
        if not votes or score <= self.threshold_:
            return None, 0.0
        kind = next(iter(votes))
        return kind, votes[kind]
