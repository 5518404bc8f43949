"""ExDD: detector that uses the ratio of the distances to a bank of normal patches and a bank of defect patches."""

from dataclasses import replace
from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from sklearn_exdd._cache import MEMORY
from sklearn_exdd._images import Masks
from sklearn_exdd._params import N_JOBS
from sklearn_exdd._torch import check_device
from sklearn_exdd._training_set import TrainingSet, hold_out
from sklearn_exdd.banks.defect_patches import NORMAL_SHARE, defect_patches
from sklearn_exdd.banks.dual_bank import DualBank
from sklearn_exdd.banks.left_out import LeftOutBanks
from sklearn_exdd.banks.memory_bank import MemoryBank
from sklearn_exdd.banks.normal_patches import normal_patches
from sklearn_exdd.banks.patches import Patches
from sklearn_exdd.banks.pixel_maps import map_maxima
from sklearn_exdd.detectors.base import BaseDefectDetector
from sklearn_exdd.detectors.exdd.corrections import Corrections
from sklearn_exdd.detectors.exdd.kinds import Kinds
from sklearn_exdd.detectors.exdd.predictions import Predictions
from sklearn_exdd.features import make_feature_extractor


class ExDDDetector(Predictions, Corrections, Kinds, BaseDefectDetector):
    """Detect and locate defects by the distances of patches to normal and defect patches.

    One memory bank stores the features of normal patches, and another bank stores the features of defect patches.
    ``d_normal`` and ``d_defect`` are the distances of a patch to these two banks. The score of the patch is ``d_normal
    / (d_defect + epsilon)``. It is high if the patch is far from normal patches and close to defect patches. Without
    defect images, the score is ``d_normal``.

    Parameters
    ----------
    feature_extractor : str or object, default="auto"
        Feature extractor. Ignored if X holds features.

        * "auto": small pretrained network, :class:`EfficientNetLiteFeatureExtractor`.
        * "gabor": filters, without weights, :class:`GaborFeatureExtractor`.
        * "learned": network that `fit` trains, :class:`LearnedFeatureExtractor`.
        * Name of a torchvision model, such as "wide_resnet50_2", or "timm:" followed by the name of a timm model.
        * Any object with the method ``transform(images)``; see :class:`BaseFeatureExtractor`.
    augmenter : object, default=None
        Augmenter that makes synthetic defects for the defect bank; see :class:`BaseDefectAugmenter`. It has the methods
        ``fit(X, y, masks=)`` and ``sample(n_samples, random_state=)``. The result of ``sample`` unpacks into images and
        masks. The result may have the attribute `provenance`, a list with one dict per image. Such a dict contains
        "source" (index of the normal training image) and "prompt".
    n_synthetic : int, default=100
        Number of synthetic defect images that the `augmenter` makes.
    n_neighbors : int or "auto", default="auto"
        Number of nearest rows that are averaged: the distance of a patch to a bank is the mean distance to these rows.
        "auto" is 1 for the normal bank and 9 for the defect bank. If the defect bank has fewer rows, all are averaged.
    epsilon : float or "scale", default="scale"
        Constant that is added to d_defect. "scale" is half the median d_defect of the normal training patches. A float
        > 0 is used directly. With the published value, 1e-6, noise determines the score if d_defect is tiny.
    normal_coreset, defect_coreset : int or float, default=5000 and 5000
        Size of each bank. An int is the maximum number of rows. A float in (0, 1] is a fraction of the patches. The
        published values are 0.01 and 0.1.
    coreset : {"random", "greedy"}, default="random"
        Method that selects the rows of the banks. "greedy" is the k-centre method, as published. It keeps d_normal
        accurate, but it thins out regions where normal patches are dense, which distorts the ratio.
    max_defect_patches : int or None, default=30
        Maximum number of patches that a defect image adds to the bank. They are drawn at random from the patches that
        show the defect. If None, all these patches are added.
    image_score : {"top_mean", "exdd", "exdd_code"}, default="top_mean"
        Score of an image. "top_mean" is the mean of the `n_top_patches` highest patch scores. "exdd" is the published
        score: the score of the patch farthest from the normal bank, with neighbourhood weights (see Notes). "exdd_code"
        follows the authors' code. It uses the largest distance of any patch to the normal bank and the largest distance
        of any patch to the defect bank. The two distances may come from different patches.
    n_top_patches : int, default=10
        Number of patch scores to average for "top_mean". With 1, the image score is the highest patch score.
    n_support : int, default=3
        Number of bank rows that determine the neighbourhood weight for "exdd" and "exdd_code". One of them is the row
        nearest to the patch. The others are the rows nearest to that row.
    border_rings : int, default=4
        Width of the border, in patches. For "top_mean", the scores of patches in the border are divided by
        `border_profile_`. With 0, all patches are treated equally.
    blur : float, default=4.0
        Standard deviation, in pixels, of the Gaussian that smooths the maps.
    algorithm : {"auto", "brute", "pynndescent"}, default="auto"
        Algorithm of the neighbour search; see :class:`MemoryBank`.
    max_false_alarm_rate : float, default=0.01
        Fraction of normal images that may be called defective, in (0, 1).
    pos_label : object, default=None
        Label that means defect. If `pos_label` is None, the defect label is recognised by its name: "bad" or "NG" means
        defect, "good" or "OK" means normal. If no name is recognised, the label that sorts last means defect.
    image_channels : {"grey", "colour"}, default=None
        Channels to which all images are converted, in `fit` and in predictions: one grey channel (ITU-R 601 luma) or
        three colour channels. If None, images are not converted and must be either all grey or all in colour.
    validation_fraction : float, default=0.2
        Fraction of the normal images to hold out of training. The threshold is computed from the held-out images.
        Groups are not split. Only used if the extractor learns from normal images ("learned", or a custom extractor
        with `fit`). With 0, the threshold of such an extractor is too low. Use 0 only for members of a
        :class:`CombinedDefectDetector`, which computes its own threshold.
    memory : str, path-like or joblib.Memory, default=None
        Cache for feature maps, with one entry per image, and for distances to the banks. With a cache, a search over
        parameters extracts the features of each image only once. Distances to a bank are also computed only once if
        several candidates have the same bank. They take about 70 bytes per patch and bank. For each training set, the
        cache also stores the coreset and, if the extractor whitens, the whitened features. If the `memory` of the
        `augmenter` is None, the augmenter uses the cache for its images and trained weights, too. Files are identified
        by path, size and modification time. Entries are not reused after a change to the code of the extractor or to
        the version of a library. ``joblib.Memory.reduce_size`` removes old entries.
    shard_size : int or "auto", default="auto"
        Number of images in a shard. If there are more normal images than this, `fit` does not keep their features in
        memory. Instead, it makes several passes over shards of images and keeps only the banks and a sample of patches.
        `n_jobs` shards are processed in parallel. "auto" keeps the features in memory if they need at most 1 GiB, and
        uses shards of 100 images otherwise.
    batch_size : int, default=16
        Number of images processed together.
    device : str, default=None
        Device that torch runs on, "cpu" or "cuda". None selects CUDA if it is available.
    n_jobs : int, default=None
        Number of threads that process batches in parallel. If `fit` works in shards, `n_jobs` is the number of shards
        that are processed in parallel, by processes or by the backend of ``joblib.parallel_config``.
    random_state : int, RandomState instance or None, default=None
        Seed for the coresets, the neighbour index and the augmenter.
    verbose : int, default=0
        If > 0, show a progress bar.

    Attributes
    ----------
    normal_bank_, defect_bank_ : MemoryBank
        Memory banks. They also store the origin of each row. `defect_bank_` is None without defects.
    feature_extractor_ : BaseFeatureExtractor
        Feature extractor, fitted on the normal images.
    roi_ : ndarray of shape (height, width), dtype bool, or None
        Region of interest for all images, or None if each image has its own. Only set if `fit` received regions.
    classes_ : ndarray of shape (2,)
        The two labels, sorted.
    threshold_ : float
        Threshold on the scores. Samples with a higher score are called defects.
    calibration_scores_ : ndarray of shape (n_samples,)
        Scores of normal samples of X. Each score is computed as if `fit` had not seen the sample. The entries of all
        other samples are NaN. `threshold_` is the conformal quantile of these scores.
    false_alarm_rate_ : float
        False-alarm rate that `threshold_` guarantees. This is `max_false_alarm_rate` if the number n of normal images
        (or groups) is large enough for that rate, and 1 / (n + 1) otherwise.
    pixel_threshold_ : float
        Threshold on the maps. If an image is called defective, :meth:`predict_mask` marks the pixels whose map value
        exceeds this threshold. The images that have a calibration score determine the threshold: it is the conformal
        quantile of the maxima of their maps. Not set if X holds features.
    epsilon_ : float or None
        Constant that is added to d_defect. None without defects.
    border_profile_ : ndarray of shape (border_rings + 1,)
        Scores of normal patches near the border, relative to the interior. Entry i is the 90 % quantile of the scores
        at a distance of i patches from the border, divided by the 90 % quantile in the interior. No entry is below 1.
    synthetic_ : object or None
        Synthetic defects used in `fit`.
    kinds_ : ndarray of shape (n_kinds,), dtype str
        Kinds that :meth:`predict_kind` can predict, sorted. Only set if `fit` received `kinds`.
    defect_kinds_ : ndarray of shape (n_rows,), dtype str
        Kind of each row of `defect_bank_`. Unknown kinds are "". Only set if `fit` received `kinds`.
    n_features_in_ : int
        Number of features. Only set if X holds features.

    See Also
    --------
    GaborFeatureExtractor : Feature extractor for "gabor".
    MemoryBank : Stores the rows of a bank with their origin, and searches for nearest rows.

    Notes
    -----
    The threshold needs no separate images. Groups are divided into up to 20 folds, and each normal training image is
    scored as if `fit` had not seen it: without the bank rows of its group, and with the whitening, epsilon and border
    profile of the other folds. `threshold_` is the conformal quantile of these scores. If the extractor itself learns
    from normal images, this is not enough. A fraction `validation_fraction` of the images is then held out of training,
    and the threshold is computed from the held-out images.

    If `fit` works in shards, `epsilon_` and `border_profile_` are estimated from 20 000 random patches. `fit` computes
    `threshold_` from all images, and `partial_fit` recomputes it from 1000 images. The first rows of a greedy coreset
    are selected from random patches, and the other rows from the patches farthest from the first rows.

    The image score "exdd" is ``(1 - w_n) d_n / (w_d d_d + epsilon)`` at the patch f* with the largest d_n. The weight w
    of a bank is ``exp(s / D) / sum_m exp(||f* - m|| / D)`` (ExDD; PatchCore's equation 7). Here, s is the distance from
    f* to its nearest row, m are the rows around that row, and D is the square root of the number of features.

    To reproduce the authors' code, set ``n_neighbors=1, epsilon=1e-6, coreset="greedy", normal_coreset=0.01,
    defect_coreset=0.1, max_defect_patches=None, image_score="exdd_code"``.

    References
    ----------
    .. [1] "ExDD: Explicit Dual Distribution Learning for Surface Defect Detection via Diffusion Synthesis", arXiv
       2507.15335, ICIAP 2025.
    .. [2] K. Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022.

    Examples
    --------
    >>> from sklearn_exdd import ExDDDetector
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, masks = make_surface_defects(40, image_shape=(64, 64), random_state=0)
    >>> detector = ExDDDetector(random_state=0).fit(X[:30], y[:30], masks=masks[:30])
    >>> detector.decision_function(X[30:]).shape
    (10,)
    >>> detector.predict_map(X[30:]).shape
    (10, 64, 64)
    """

    _parameter_constraints = {
        "feature_extractor": [str, HasMethods("transform")],
        "augmenter": [HasMethods(["fit", "sample"]), None],
        "n_synthetic": [Interval(Integral, 0, None, closed="left")],
        "n_neighbors": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "epsilon": [StrOptions({"scale"}), Interval(Real, 0, None, closed="neither")],
        "normal_coreset": [Interval(Integral, 1, None, closed="left"), Interval(Real, 0, 1, closed="right")],
        "defect_coreset": [Interval(Integral, 1, None, closed="left"), Interval(Real, 0, 1, closed="right")],
        "coreset": [StrOptions({"greedy", "random"})],
        "max_defect_patches": [Interval(Integral, 1, None, closed="left"), None],
        "image_score": [StrOptions({"top_mean", "exdd", "exdd_code"})],
        "n_top_patches": [Interval(Integral, 1, None, closed="left")],
        "n_support": [Interval(Integral, 1, None, closed="left")],
        "border_rings": [Interval(Integral, 0, None, closed="left")],
        "blur": [Interval(Real, 0, None, closed="left")],
        "algorithm": [StrOptions({"auto", "brute", "pynndescent"})],
        "max_false_alarm_rate": [Interval(Real, 0, 1, closed="neither")],
        "pos_label": "no_validation",
        "image_channels": [StrOptions({"grey", "colour"}), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "memory": MEMORY,
        "shard_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str, None],
        "n_jobs": N_JOBS,
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        feature_extractor="auto",
        *,
        augmenter=None,
        n_synthetic=100,
        n_neighbors="auto",
        epsilon="scale",
        normal_coreset=5_000,
        defect_coreset=5_000,
        coreset="random",
        max_defect_patches=30,
        image_score="top_mean",
        n_top_patches=10,
        n_support=3,
        border_rings=4,
        blur=4.0,
        algorithm="auto",
        max_false_alarm_rate=0.01,
        pos_label=None,
        image_channels=None,
        validation_fraction=0.2,
        memory=None,
        shard_size="auto",
        batch_size=16,
        device=None,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.feature_extractor = feature_extractor
        self.augmenter = augmenter
        self.n_synthetic = n_synthetic
        self.n_neighbors = n_neighbors
        self.epsilon = epsilon
        self.normal_coreset = normal_coreset
        self.defect_coreset = defect_coreset
        self.coreset = coreset
        self.max_defect_patches = max_defect_patches
        self.image_score = image_score
        self.n_top_patches = n_top_patches
        self.n_support = n_support
        self.border_rings = border_rings
        self.blur = blur
        self.algorithm = algorithm
        self.max_false_alarm_rate = max_false_alarm_rate
        self.pos_label = pos_label
        self.image_channels = image_channels
        self.validation_fraction = validation_fraction
        self.memory = memory
        self.shard_size = shard_size
        self.batch_size = batch_size
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self):
        super()._check_params()
        check_device(self.device)

    def _fit(self, normal, defect):
        if len(normal) < 2:
            raise ValueError(
                "X: expected at least 2 normal samples, because each sample is scored without its own patches, got "
                "n_samples = 1."
            )
        if len(np.unique(normal.groups)) < 2:
            raise ValueError(
                "groups: expected normal samples of at least 2 groups, because each sample is scored without the "
                "patches of its own group, got 1."
            )
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=3)
        self._seeds = dict(zip(("normal", "defect", "synthetic"), map(int, seeds)))
        parts = [part for part in (normal, defect) if part is not None]
        self._n_images = 1 + int(max(part.indices.max() for part in parts))
        self._n_groups = 1 + int(max(part.groups.max() for part in parts))

        calibrating = None
        if normal.has_images:
            self.feature_extractor_ = self._extractor()
            if self.feature_extractor_.learns_from_normals and self.validation_fraction > 0:
                random_state = np.random.RandomState(self._seeds["normal"])
                is_held_out = hold_out(normal.groups, self.validation_fraction, random_state)
                calibrating = normal.take(np.flatnonzero(is_held_out))
                normal = normal.take(np.flatnonzero(~is_held_out))
        normals = self._normal_patches(normal, defect)
        for part in filter(None, (normal, calibrating)):
            part.check_masks_empty()
        rows, sample, n_patches = normals.coreset(self.normal_coreset, self.coreset, self._seeds["normal"])
        banks = self._dual_bank(self._bank(rows, "normal", n_patches))
        extractor = self.feature_extractor_ if normal.has_images else None
        left_out = LeftOutBanks.from_patches(banks, normals, extractor, self._n_groups, self._seeds["normal"])
        distances = left_out.distances_of(sample, "normal", self.verbose)
        self._normal_cutoff = float(np.quantile(distances[0], NORMAL_SHARE))

        self.synthetic_ = self._synthesize(normal, defect, self._seeds["synthetic"])
        defects = [] if defect is None else [self._defect_patches(defect, banks)]
        if self.synthetic_ is not None:
            defects.append(self._defect_patches(self._synthetic_set(normal), banks, synthetic=True))
        if defects:
            left_out = left_out.with_defects(self._defect_bank(Patches.concatenate(defects)))
        left_out, scores = left_out.scaled(sample, distances, epsilon=self.epsilon, verbose=self.verbose)
        if calibrating is None:
            indices, found = normal.indices, normals.scored(left_out, scores, normal.samples, extractor, self.blur)
        else:
            indices, found = calibrating.indices, self._scored(calibrating, left_out)
        image_scores, top_patches, maxima = found
        self._keep(left_out.banks, image_scores, indices, top_patches, left_out.inflation(top_patches), maxima)
        self._name_rows(normal, defect)

    def _extractor(self):
        return make_feature_extractor(
            self.feature_extractor,
            batch_size=self.batch_size,
            device=self.device,
            memory=self.memory,
            n_jobs=self.n_jobs,
            verbose=self.verbose,
        )

    def _scored(self, calibrating, left_out):
        """Score unseen images and keep only one in memory at a time; see :meth:`LeftOutBanks.score_images`."""
        calibrating, scores, top_patches, maxima = calibrating.with_channels(self.n_channels_), [], [], []
        extractor = self.feature_extractor_
        maps = extractor.iter_transform(calibrating.samples)
        for i, patches in enumerate(Patches.from_maps(maps, calibrating, extractor)):
            patch_scores = left_out.patch_scores(patches)
            (score,), top = left_out.score_images(patches, patch_scores)
            scores.append(score)
            top_patches.append(top)
            one, shape = calibrating.samples.take([i]), calibrating.samples.shape(i)
            maxima += map_maxima(patches, patch_scores, one, [shape], extractor, self.blur)
        return scores, Patches.concatenate(top_patches), maxima

    def _normal_patches(self, normal, defect):
        """Fit the extractor and return the patches of the normal samples."""
        if not normal.has_images:
            return Patches.from_rows(normal)
        patches = normal_patches(
            normal,
            defect,
            self.feature_extractor_,
            memory=self.memory,
            shard_size=self.shard_size,
            n_jobs=self.n_jobs,
            seed=self._seeds["normal"],
            verbose=self.verbose,
        )
        self.n_channels_ = normal.samples.n_channels
        return patches

    def _patches(self, training_set):
        if not training_set.has_images:
            return Patches.from_rows(training_set)
        training_set = training_set.with_channels(self.n_channels_)
        maps = self.feature_extractor_.iter_transform(training_set.samples)
        return Patches.concatenate(Patches.from_maps(maps, training_set, self.feature_extractor_))

    def _defect_patches(self, defect, banks, synthetic=False):
        if not defect.has_images:
            return Patches.from_rows(defect)
        return defect_patches(
            defect.with_channels(self.n_channels_),
            self.feature_extractor_,
            banks,
            self._normal_cutoff,
            max_patches=self.max_defect_patches,
            seed=self._seeds["defect"],
            synthetic=synthetic,
        )

    def _synthetic_set(self, normal):
        """Return the synthetic defects as a training set, in the groups of their source images."""
        images, (_, masks) = self._synthetic_images(normal), self.synthetic_
        groups = self._synthetic_groups(normal, self._n_groups)
        self._n_groups += len(images)
        return TrainingSet(images, np.arange(len(images)), groups, Masks(masks, len(images)))

    def _bank(self, patches, kind, n_patches):
        size = getattr(self, f"{kind}_coreset")
        if self.n_neighbors != "auto" and len(patches) < self.n_neighbors:
            raise ValueError(
                f"n_neighbors: expected at most {len(patches)}, the number of rows in the {kind} bank (with "
                f"{kind}_coreset={size!r} of {n_patches} patches), got {self.n_neighbors}. Lower it, or use more rows."
            )
        return MemoryBank(
            patches.features, patches.provenance, algorithm=self.algorithm, random_state=self._seeds[kind]
        )

    def _defect_bank(self, patches):
        rows, _, n_patches = patches.coreset(self.defect_coreset, self.coreset, self._seeds["defect"])
        return self._bank(rows, "defect", n_patches)

    def _dual_bank(self, normal, *fitted):
        params = ("n_neighbors", "image_score", "n_top_patches", "n_support", "border_rings", "memory")
        return DualBank(normal, *fitted, **{name: getattr(self, name) for name in params})

    def _banks(self):
        """Return the fitted dual bank."""
        return self._dual_bank(self.normal_bank_, self.defect_bank_, self.epsilon_, self.border_profile_)

    def _keep(self, banks, image_scores, indices, top_patches, inflation, maxima):
        """Set the fitted attributes and the private ones with which a correction recomputes the thresholds.

        `_heights` contains the maximum of each map divided by the score of the image. A correction knows only the
        patches with the highest scores, so it estimates the maximum of a map from the new score.
        """
        self.normal_bank_, self.defect_bank_ = banks.normal, banks.defect
        self.epsilon_, self.border_profile_ = banks.epsilon, banks.border_profile
        self._set_threshold(image_scores, indices, maxima)
        self._calibration, self._inflation, self._heights = replace(top_patches, grids=None), inflation, None
        if maxima is not None:
            heights = np.divide(maxima, np.maximum(image_scores, np.finfo(np.float32).tiny))
            height_of = dict(zip(indices.tolist(), heights.tolist()))
            numbers = top_patches.provenance["image"][top_patches.starts[:-1]]
            self._heights = np.array([height_of[number] for number in numbers.tolist()])
