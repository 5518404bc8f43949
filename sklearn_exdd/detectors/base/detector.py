"""Base class of the detectors. It prepares the training data and predicts labels."""

import copy
from abc import abstractmethod
from dataclasses import replace
from warnings import warn

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.utils import metadata_routing
from sklearn.utils.validation import _check_y, _num_samples, check_is_fitted, validate_data

from sklearn_exdd._images import (
    Images,
    Masks,
    are_known,
    as_array,
    check_listed,
    check_unmasked,
    holds_images,
    in_region,
    is_one_region,
    training_digests,
    with_roi,
)
from sklearn_exdd._labels import as_kinds, as_labels, two_classes
from sklearn_exdd._params import CheckedParams, validate_parts
from sklearn_exdd._training_set import TrainingSet, are_defect_images, group_numbers, joined, split_by_class
from sklearn_exdd.augment.synthetic import check_one_augmenter, masks_for, synthesize
from sklearn_exdd.detectors.base.calibration import CalibratedDecisions
from sklearn_exdd.detectors.base.inspection import Inspection
from sklearn_exdd.features import make_feature_extractor


class BaseDefectDetector(CheckedParams, CalibratedDecisions, Inspection, ClassifierMixin, BaseEstimator):
    """Base class of the detectors. It prepares the data for ``fit`` and turns scores into decisions.

    A subclass has the parameters `pos_label` and `max_false_alarm_rate` and defines two methods:

    * ``_fit(normal, defect)`` learns from two training sets. `defect` may be None. The method also calls
      ``_set_threshold(scores, indices)``. The scores passed to it belong to normal samples and must be computed as if
      `fit` had not seen these samples.
    * ``_score(samples)`` returns the scores.

    A subclass that locates defects also defines ``_maps(images)``. It passes the highest map value of each normal
    sample to ``_set_threshold``, as `map_maxima`. If it defines ``_inspected(images)``, which yields (score, map, None)
    for each image, :meth:`inspect` needs one pass over the images instead of two.

    A training set has the attributes `samples` (images or feature rows), `masks`, `groups` and `indices`. Images are
    read one at a time. Each image ``samples[i]`` is a float32 array of shape (height, width, channels), in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd import BaseDefectDetector
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> class DarkestPixelDetector(BaseDefectDetector):
    ...     def __init__(self, *, max_false_alarm_rate=0.1, pos_label=None):
    ...         self.max_false_alarm_rate = max_false_alarm_rate
    ...         self.pos_label = pos_label
    ...
    ...     def _fit(self, normal, defect):
    ...         self.n_channels_ = normal.samples.n_channels
    ...         scores = self._score(normal.samples)
    ...         self._set_threshold(scores, normal.indices, map_maxima=scores)
    ...
    ...     def _maps(self, images):
    ...         return [1 - image.mean(axis=2) for image in images]
    ...
    ...     def _score(self, images):
    ...         return np.array([one.max() for one in self._maps(images)])
    >>> X, y, _ = make_surface_defects(20, image_shape=(64, 64), random_state=0)
    >>> DarkestPixelDetector().fit(X, y).predict_map(X).shape
    (20, 64, 64)
    """

    _parameter_constraints = {}

    # Masks and groups are aligned with X and can be split into folds. X_defect cannot, so it is not routed.
    __metadata_request__fit = {"masks": True, "groups": True, "roi": True, "X_defect": metadata_routing.UNUSED}
    __metadata_request__partial_fit = {"masks": True, "classes": metadata_routing.UNUSED}

    def set_params(self, **params):
        """Set parameters, including those of a feature extractor that is given by name.

        Parameters
        ----------
        **params : dict
            Parameters of the detector and of its parts. If `feature_extractor` is a name such as "auto", then
            ``feature_extractor__image_size=96`` first replaces the name with an extractor object.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter is unknown, or if it belongs to an augmenter or estimator that is None.
        """
        for part in sorted({name.partition("__")[0] for name in params if "__" in name}):
            own = params.get(part, getattr(self, part, self))
            if part == "feature_extractor" and isinstance(own, str):
                params[part] = make_feature_extractor(own)
            elif own is None or isinstance(own, str):
                raise ValueError(
                    f"{part}: expected an estimator whose parameters can be set, got {own!r}. Set {part}= to an "
                    "estimator first."
                )
        return super().set_params(**params)

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, *, X_defect=None, masks=None, groups=None, roi=None):
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
            If X has no normal samples, if y has more than two classes, or if an image, mask or region is invalid. The
            message names the invalid item.
        """
        fitted = self._unfitted()
        return self._become(fitted._fitted_on(X, *fitted._training_sets(X, y, X_defect, masks, groups, roi=roi)))

    def _unfitted(self):
        """Return a copy with the same parameters and without fitted attributes."""
        twin = copy.copy(self)
        for name in [name for name in vars(self) if name.endswith("_") and not name.startswith("_")]:
            delattr(twin, name)
        return twin

    def _fitted_on(self, X, normal, defect):
        normal.synthetic = self._synthetic_of(X)
        self._fit(normal, defect)
        self._remember(normal, defect)
        return self

    def _remember(self, *training_sets):
        """Record the images of training sets, so that :meth:`is_training_image` recognises them."""
        samples = [one.samples for one in training_sets if one is not None and one.has_images]
        own = [getattr(self, "training_digests_", np.empty(0, dtype=np.uint64)), *map(training_digests, samples)]
        self.training_digests_ = np.unique(np.concatenate(own))

    def _check_params(self):
        validate_parts([getattr(self, "augmenter", None)])  # check early, before features are extracted

    def _become(self, updated):
        """Take over all attributes of an updated copy in a single step, and return self.

        An interrupted `fit` therefore changes nothing. Other threads see either all old attributes or all new ones.
        """
        self.__dict__ = updated.__dict__
        return self

    def _snapshot(self):
        """Return an estimator with the current attributes of this one. Later changes do not affect it."""
        twin = object.__new__(type(self))
        twin.__dict__ = self.__dict__
        return twin

    @abstractmethod
    def _fit(self, normal, defect):
        """Fit on the training sets; `defect` may be None."""

    @abstractmethod
    def _score(self, samples):
        """Return the scores of Images or of feature rows."""

    def is_training_image(self, X):
        """Tell which images were used in ``fit`` or ``partial_fit``.

        Training images get lower scores than new images, so metrics that include training images are too optimistic.

        Parameters
        ----------
        X : images

        Returns
        -------
        is_training_image : ndarray of shape (n_samples,), dtype bool

        Notes
        -----
        If `fit` received files, the same files are recognised by their bytes, and arrays are not recognised. If `fit`
        received arrays, both arrays and files are recognised by their pixels, rounded to 8 bits. Images that were
        cropped, resized or compressed again are never recognised.
        """
        check_is_fitted(self)
        samples = self._samples(X)
        if not isinstance(samples, Images):
            raise ValueError("is_training_image: expected images, got feature rows.")
        # Detectors saved by earlier versions have no digests.
        return are_known(samples, getattr(self, "training_digests_", np.empty(0, dtype=np.uint64)))

    def score(self, X, y, sample_weight=None):
        """Return the accuracy of the predicted labels.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        accuracy : float
            Fraction of the samples whose predicted label is correct, in [0, 1].

        Warns
        -----
        UserWarning
            If some images of X were used in `fit`. The accuracy is lower for new images.
        """
        check_is_fitted(self)
        if holds_images(X) and (n_known := int(self.is_training_image(X).sum())):
            warn(
                f"score: {n_known} of {len(X)} images were used in fit. Their scores are lower than those of new "
                "images. Leave them out, or see calibration_scores_.",
                UserWarning,
                stacklevel=2,
            )
        return super().score(X, y, sample_weight)

    def _label(self, is_defect):
        positive = self._positive_index()
        return self.classes_[positive if is_defect else 1 - positive]

    def _positive_index(self):
        # Models of earlier versions have no pos_label_. They used the last class unless pos_label was set.
        positive = getattr(self, "pos_label_", self.pos_label)
        return 0 if positive is not None and positive == self.classes_[0] else 1

    def _samples(self, X, first=0):
        """Validate the Images or feature rows to predict. Error messages number the images from `first`."""
        fitted_on_rows = hasattr(self, "n_features_in_")
        if holds_images(X) and fitted_on_rows:
            raise ValueError(f"X: expected feature rows of shape (n, {self.n_features_in_}) as in fit, got images.")
        if fitted_on_rows:
            return validate_data(self, _rows(X, "X"), reset=False, dtype=[np.float64, np.float32])
        return self._in_region(self._images(X, "X", first))

    def _in_region(self, images):
        """Restrict images to the region of interest passed to `fit`. Images with their own regions keep them."""
        name, n_images, n_with, roi = images.name, len(images), images.n_regions, getattr(self, "roi_", None)
        if roi is not None:
            return images.within(roi)
        if 0 < n_with < n_images or (n_with == 0 and hasattr(self, "roi_")):
            raise ValueError(
                f"{name}: expected a region of interest with each image, got {n_with} images with and "
                f"{n_images - n_with} without a region. Pass with_roi({name}, roi)."
            )
        if n_with and not hasattr(self, "roi_"):
            raise ValueError(
                f"{name}: expected images without regions of interest, as in fit, got {n_with} images with "
                "a region. Pass roi= to fit, or do not apply with_roi to these images."
            )
        return images

    def _images(self, X, name, first=0):
        """Return Images that are read with the same channels and bits as the images passed to `fit`."""
        n_channels, bits = getattr(self, "n_channels_", None), getattr(self, "bits_", None)
        remedy = "Convert it"
        if hasattr(self, "image_channels"):
            remedy += ", or set image_channels={wanted!r} of the detector to convert all images"
        channels = getattr(self, "image_channels", None)
        if getattr(self, "roi_", None) is not None:
            X = in_region(X, self.roi_)
        return Images(X, name, n_channels=n_channels, channels=channels, bits=bits, remedy=remedy, first=first)

    def _synthetic_of(self, X):
        """Return the synthetic defects that an earlier Pipeline step made, converted to `image_channels`."""
        synthetic, channels = getattr(X, "synthetic", None), getattr(self, "image_channels", None)
        if synthetic is None or channels is None:
            return synthetic
        images = Images(synthetic.images, "synthetic images", channels=channels).raw()
        return replace(synthetic, images=images)

    def _training_sets(self, X, y, X_defect, masks, groups, kinds=None, roi=None):
        """Sort the arguments of `fit` into a normal and a defect training set."""
        for name, values in (("y", y), ("X_defect", X_defect)):
            check_listed(values, name)
        images, masks = holds_images(X), masks_for(self, X, masks)
        if are_defect_images(y, X, images):
            if X_defect is not None:
                raise ValueError("fit: got defect images both as y and as X_defect; pass them once.")
            y, X_defect = None, y
        if y is not None and X_defect is not None:
            raise ValueError("fit: expected labels y or images X_defect, got both; put the defect images into X.")
        if images:
            samples = self._images(X, "X") if roi is None else self._images(with_roi(X, roi), "X")
            self.bits_ = samples.bits
            if samples.have_regions:
                self.roi_ = samples.region(0) if is_one_region(roi) else None
            self._in_region(samples)  # raises an error if only some images have regions
            y = None if y is None else _check_y(as_labels(y, len(samples)), estimator=self)
        elif y is None:
            samples = validate_data(self, _rows(X, "X"), dtype=[np.float64, np.float32])
        else:
            rows = _rows(X, "X")
            samples, y = validate_data(self, rows, as_labels(y, _num_samples(rows)), dtype=[np.float64, np.float32])
        for name, pixels in (("masks", masks), ("roi", roi)):
            if not images and pixels is not None:
                raise ValueError(f"{name}: expected None for feature rows, which have no pixels.")
        self._n_samples = n_samples = len(samples)
        self._groups = groups = group_numbers(groups, n_samples)
        if y is None:
            self._set_classes(None)
            normal = TrainingSet(samples, np.arange(n_samples), groups)
            if X_defect is None:
                if masks is not None:
                    raise ValueError("masks: expected None without defect images; normal images have no masks.")
                if kinds is not None:
                    raise ValueError("kinds: expected None without labels y or X_defect. Pass y= or X_defect=, too.")
                return normal, None
            if images:
                defect = self._in_region(self._images(X_defect, "X_defect"))
            else:
                defect = validate_data(self, _rows(X_defect, "X_defect"), reset=False)
            n_defects = len(defect)
            masks = None if masks is None else Masks(masks, n_defects)
            # Groups refer to X. Each image of X_defect forms a group by itself.
            apart = 1 + groups.max() + np.arange(n_defects)
            kinds = None if kinds is None else as_kinds(kinds, np.ones(n_defects, dtype=bool))
            return normal, TrainingSet(defect, np.arange(n_defects), apart, masks, kinds=kinds)
        if len(y) != n_samples:
            raise ValueError(f"y: expected {n_samples} labels, one for each sample of X, got {len(y)}.")
        self._set_classes(y)
        return split_by_class(samples, y == self._label(1), groups, masks, kinds)

    def _fit_extractor(self, normal, defect):
        """Fit the feature extractor on normal images and, if it learns from defects, on defect images."""
        self.feature_extractor_ = make_feature_extractor(
            self.feature_extractor,
            batch_size=self.batch_size,
            device=self.device,
            memory=self.memory,
            n_jobs=self.n_jobs,
            verbose=self.verbose,
        )
        if self.feature_extractor_.learns_from_defects:
            images, labels, masks = joined(normal, defect)
            self.feature_extractor_.fit(images, labels, masks=masks)
        else:
            self.feature_extractor_.fit(normal.samples)
        self.n_channels_ = normal.samples.n_channels

    def _synthesize(self, normal, defect, seed, default=None):
        """Return the synthetic defects that the images carry or that the augmenter makes, or None if there are neither.

        Parameters
        ----------
        normal : TrainingSet
        defect : TrainingSet or None
        seed : int
        default : object, default=None
            Augmenter to use if the parameter `augmenter` is None and the images carry no synthetic defects.
        """
        augmenter = default if self.augmenter is None else self.augmenter
        if augmenter is None or self.n_synthetic == 0:
            return normal.synthetic
        check_one_augmenter(self.augmenter, normal.synthetic)
        if normal.synthetic is not None:
            return normal.synthetic
        if not normal.has_images:
            raise ValueError("augmenter: expected images to make defects on, got feature rows. Set augmenter=None.")
        # Painting with the default mixture is faster than reading from a cache.
        memory = None if self.augmenter is None else getattr(self, "memory", None)
        return synthesize(augmenter, self.n_synthetic, *joined(normal, defect), seed=seed, memory=memory)

    def _synthetic_sources(self, normal):
        """Return, for each synthetic defect, the position of its normal source image, or None if it is unknown."""
        has_indices = self.synthetic_ is normal.synthetic and not normal.is_renumbered
        position_of = {number: i for i, number in enumerate(normal.indices if has_indices else range(len(normal)))}
        images, _ = self.synthetic_
        return [position_of.get(self._provenance(i).get("source")) for i in range(len(images))]

    def _synthetic_groups(self, normal, unknown):
        """Return the group of each synthetic defect's source image. Unknown sources get new groups >= `unknown`."""
        sources = self._synthetic_sources(normal)
        return np.array([unknown + i if one is None else normal.groups[one] for i, one in enumerate(sources)])

    def _synthetic_images(self, normal):
        """Return the synthetic defects as Images, with the regions of interest of their source images."""
        images, _ = self.synthetic_
        return Images(images, "synthetic images").in_regions_of(normal.samples, self._synthetic_sources(normal))

    def _provenance(self, index):
        provenance = getattr(self.synthetic_, "provenance", None)
        return provenance[index] if provenance is not None else {}

    def _set_classes(self, y):
        if y is None:
            self.classes_, self.pos_label_ = np.array([0, 1]), 1
            return
        self.classes_, self.pos_label_ = two_classes(y, self.pos_label)
        if self._positive_index() == 0:
            from_y = self.pos_label is None
            given = f"y: the defect label {self.pos_label_!r}" if from_y else f"pos_label={self.pos_label!r}"
            warn(
                f"{given} sorts before the label of normal samples. scikit-learn's scorers treat the last class as the "
                "positive one. Pass pos_label to the scorers, too, or use labels 0 and 1.",
                UserWarning,
                stacklevel=5,
            )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.target_tags.required = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags


def _rows(X, name):
    """Convert a torch tensor of feature rows to an array. Refuse masked values."""
    check_unmasked(X, name)
    return as_array(X, name) if type(X).__module__.partition(".")[0] == "torch" else X
