"""Base class of the augmenters. It draws regions, checks that defects are visible, and caches the samples."""

from abc import abstractmethod
from numbers import Integral, Real
from warnings import warn

import numpy as np
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from sklearn_exdd._cache import MEMORY, fingerprint_of_pixels, folder_of
from sklearn_exdd._code import fingerprint_of_code
from sklearn_exdd._images import Images, Masks
from sklearn_exdd._params import CheckedParams, validate_parts
from sklearn_exdd._training_set import images_by_class
from sklearn_exdd.augment.composite import MIN_AREA, Drawn, check_painted, composite
from sklearn_exdd.augment.regions import NAMED_REGIONS, MaskRegions, otsu_foreground, region_drawers
from sklearn_exdd.augment.sample_cache import SampleCache
from sklearn_exdd.augment.synthetic import AugmentedImages, SyntheticDefects, masks_for

_MAX_DRAWS = 100  # maximum number of draws until a region lies on the foreground
# Parameters left out of the cache key, because they do not change the images of a fitted augmenter.
_NOT_IN_KEY = {"n_synthetic", "memory", "pos_label", "random_state", "verbose"}


class DefectAugmenterMixin(CheckedParams, TransformerMixin):
    """Mixin that makes augmenters transformers. ``fit_transform`` attaches defects; ``transform`` changes nothing."""

    __metadata_request__fit = {"masks": True}
    _postpones = False  # whether fit postpones learning to the first call of sample or paint

    def fit_transform(self, X, y=None, *, masks=None):
        """Fit the augmenter and attach `n_synthetic` synthetic defects to the images.

        If `n_synthetic` is 0, the augmenter learns only when ``sample`` or ``paint`` is called.

        Parameters
        ----------
        X : images
        y : array-like of shape (n_samples,) or images, default=None
        masks : array or list, default=None
            See :meth:`fit` for X, y and masks.

        Returns
        -------
        images : AugmentedImages
            Images of X, with the attributes `synthetic` (defects, those of an earlier augmenter first) and `masks`.
        """
        if self.n_synthetic:
            self.fit(X, y, masks=masks)
        else:
            self._fit_later(X, y, masks)
        synthetic = self.sample(self.n_synthetic) if self.n_synthetic else None
        return AugmentedImages.attach(X, synthetic, masks)

    def _fit_later(self, X, y, masks):
        """Fit the augmenter, but postpone learning."""
        self._postpones = True
        try:
            return self.fit(X, y, masks=masks)
        finally:
            del self._postpones

    def transform(self, X):
        """Return X unchanged. Only training images are augmented, never images to predict on.

        Parameters
        ----------
        X : images

        Returns
        -------
        X : images
        """
        check_is_fitted(self)
        return X

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.target_tags.required = False
        return tags


class BaseDefectAugmenter(DefectAugmenterMixin, BaseEstimator):
    """Base class of the augmenters. An augmenter makes synthetic defects on normal images of the user.

    A subclass implements ``_default_regions()`` and ``_paint(image, region, random_state)``. The first method returns
    the default region drawers. The second method returns the image with a defect and a dict of additional provenance.
    A subclass that learns also implements ``_learn(images, defects, masks, random_state)``. It lists in `_learned_from`
    all parameters that affect learning.

    Parameters
    ----------
    n_synthetic : int, default=100
        Number of synthetic defects that ``fit_transform`` attaches to the images.
    regions : str, region drawer or list of them, default="auto"
        Shapes and positions of the defects. A region drawer is named ("perlin", "ridged", "crack", "rectangle" or
        "masks") or passed as an object, such as :class:`PerlinRegions`. From a list, one drawer is selected at random
        for each image. "masks" draws the masks of the real defects. "auto" means "masks" if ``fit`` received masks, and
        the default of the augmenter otherwise.
    foreground : "otsu", callable or None, default=None
        Area of the image in which defects may lie. "otsu" finds a part in front of a plain background. A function
        receives an image (float32 in [0, 1], of shape (height, width, channels)) and returns a bool mask of shape
        (height, width). None allows the whole image.
    min_contrast : float, default=1.0
        Minimum contrast of a defect. The contrast is the mean change of the pixels, divided by the standard deviation
        of the texture. Fainter defects are drawn again.
    max_redraws : int, default=10
        Maximum number of redraws per defect. If all tries are too faint, the try with the highest contrast is kept, and
        a warning is issued.
    memory : str, path-like or joblib.Memory, default=None
        Cache folder for finished images and trained weights. A later call uses the cache if the images, parameters,
        code, library versions and seed are unchanged. After an interruption, it continues with the missing images. Pass
        an int as `random_state` to keep the seed unchanged.
    pos_label : object, default=None
        Label of defect images in y. If `pos_label` is None, the defect label is recognised by its name: "bad" or "NG"
        means defect, "good" or "OK" means normal. If no name is recognised, the label that sorts last means defect.
    random_state : int, RandomState instance or None, default=None
        Seed of the augmenter. Image i depends only on the seed and on i. The first 50 images of a sample of 100 are
        therefore the same as a sample of 50.
    verbose : int, default=0
        If > 0, show a progress bar.

    Examples
    --------
    A subclass of an existing augmenter only implements ``_paint``. A direct subclass of BaseDefectAugmenter also
    implements ``_default_regions`` and declares its parameters.

    >>> import numpy as np
    >>> from sklearn_exdd import BaseDefectAugmenter, PerlinDefectAugmenter
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> class SpeckDefectAugmenter(PerlinDefectAugmenter):
    ...     def _paint(self, image, region, random_state):
    ...         level = random_state.uniform(0.8, 1)
    ...         return np.where(region[..., None], level, image), {"level": level}
    >>> X, _, _ = make_surface_defects(4, defect_fraction=0, image_shape=(64, 64), random_state=0)
    >>> specks = SpeckDefectAugmenter(random_state=0).fit(X).sample(3)
    >>> isinstance(specks.provenance[0]["level"], float), issubclass(SpeckDefectAugmenter, BaseDefectAugmenter)
    (True, True)
    """

    _learned_from = ()
    _not_in_key = ()
    _packages = ()  # additional packages whose versions the cache key contains, because they affect the images

    _parameter_constraints = {
        "n_synthetic": [Interval(Integral, 0, None, closed="left")],
        "regions": [StrOptions({"auto", *NAMED_REGIONS}), HasMethods("draw"), list, tuple],
        "foreground": [StrOptions({"otsu"}), callable, None],
        "min_contrast": [Interval(Real, 0, None, closed="left")],
        "max_redraws": [Interval(Integral, 0, None, closed="left")],
        "memory": MEMORY,
        "pos_label": "no_validation",
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, *, masks=None):
        """Store the normal images, on which defects are painted later. An augmenter that learns is trained here.

        Parameters
        ----------
        X : images
            Images in one of three forms: an array (n, height, width) or (n, height, width, channels) of uint8, uint16,
            bool, or float in [0, 1]; a list of such images or of Pillow images; or a list of file paths. The images of
            a list may differ in size. Files are read when they are needed. If X has both grey and colour images, all
            defects are made in colour. A detector with `image_channels` converts them together with the images.
        y : array-like of shape (n_samples,) or images, default=None
            Labels of X, or the defect images themselves, as in ``fit(X_normal, X_defect)``. Defects are painted on the
            images with the normal label, such as 0. None means that all images are normal.
        masks : array or list, default=None
            Masks of the defects: one item per image of X if y holds labels, or one item per defect image in y. The item
            of an image without a mask is None. In a Pipeline, later steps that receive no masks use these masks.

        Returns
        -------
        self : object
        """
        given = Images(X)
        # Converting grey images to colour loses nothing. Later steps of a Pipeline can still convert all to grey.
        images = given.of_one_kind()
        self.in_colour_ = images is not given
        normal, defect = images_by_class(images, y, masks_for(self, X, masks), self.pos_label)
        self.sources_, self.images_, self.n_channels_ = normal.indices, normal.samples, normal.samples.n_channels
        defects = defect and defect.samples.with_channels(self.n_channels_)
        own_masks = defect and defect.masks
        self.masks_ = []
        for i in range(len(defects) if own_masks is not None else 0):
            mask = defects.within_region(i, own_masks.get(i, defects.shape(i)))
            if mask is not None and mask.any():
                self.masks_.append(mask)
        random_state = check_random_state(self.random_state)
        self.seed_ = int(random_state.randint(2**31 - 1))
        for drawer in self._drawers():
            if isinstance(drawer, MaskRegions):
                drawer.check_masks(self.masks_)
        self.pixels_hash_ = None
        if folder_of(self.memory) is not None:
            self.pixels_hash_ = fingerprint_of_pixels(self.images_)
            if defects is not None:
                defect_masks = own_masks and [own_masks.get(i, defects.shape(i)) for i in range(len(defects))]
                self.pixels_hash_ += fingerprint_of_pixels(defects, defect_masks)
        vars(self).pop("_postponed", None)  # may be left from an earlier fit
        if self._postpones:
            self._postponed = defects, own_masks and own_masks.raw(), random_state.get_state()
        else:
            self._learn(self.images_, defects, own_masks, random_state)
        return self

    def sample(self, n_samples, random_state=None):
        """Make synthetic defects.

        Parameters
        ----------
        n_samples : int
            Number of defects to make, at least 1.
        random_state : int, RandomState instance or None, default=None
            Seed of the defects. None uses the seed drawn by ``fit``.

        Returns
        -------
        synthetic : SyntheticDefects
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples: expected an integer of at least 1, got {n_samples!r}.")
        self._learn_postponed()
        seed = self.seed_
        if random_state is not None and random_state is not self.random_state:
            seed = int(check_random_state(random_state).randint(2**31 - 1))
        cache = self._sample_cache(seed)
        samples = []
        # fit has already checked the region drawers. Repeating that for every region could take longer than drawing.
        with config_context(skip_parameter_validation=True):
            for number in tqdm(range(n_samples), desc="synthetic defects", unit="image", disable=not self.verbose):
                sample = cache and cache.read(number)
                if sample is None:
                    sample = self._one(number, seed)
                    if cache:
                        cache.write(number, *sample)
                samples.append(sample)
        faint = [number for number, (_, _, provenance) in enumerate(samples) if not provenance["visible"]]
        if faint:
            warn(
                f"{len(faint)} of {n_samples} synthetic defects (the first is number {faint[0]}) stayed below "
                f"min_contrast={self.min_contrast} after {self.max_redraws} redraws. For each of these, the try with "
                f"the highest contrast is kept. Make the defects stronger, or lower min_contrast.",
                RuntimeWarning,
                stacklevel=2,
            )
        return SyntheticDefects.from_samples(samples)

    def paint(self, image, region, random_state=None):
        """Make one defect in a given region of a given image.

        Parameters
        ----------
        image : array of shape (height, width) or (height, width, channels), or path
        region : array of shape (height, width)
            Mask that is True where the defect may be painted.
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        synthetic : SyntheticDefects
            One image with a defect, and its mask and provenance.
        """
        check_is_fitted(self)
        self._learn_postponed()
        channels = "colour" if getattr(self, "in_colour_", False) else None
        images = Images([image], "image", n_channels=self.n_channels_, channels=channels)
        region = Masks([region], 1, "region", first=None).get(0, images.shape(0))
        region = images.within_region(0, region)
        if region is None or not region.any():
            raise ValueError("region: expected a mask that marks where the defect goes, got an empty mask.")
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        random_state = np.random.RandomState(seed)
        image, mask, provenance = self._tries(lambda _: Drawn(images, 0, region, "given"), random_state)
        return SyntheticDefects.from_samples([(image, mask, {**provenance, "source": None, "seed": seed})])

    def _check_params(self):
        regions = getattr(self, "regions", "auto")
        if not (isinstance(regions, str) and regions == "auto"):
            validate_parts(region_drawers(regions))

    def _learn(self, images, defects, masks, random_state):
        """Learn from the normal images and, unless `defects` is None, from the defects."""

    def _learn_postponed(self):
        """Learn now if ``fit_transform`` postponed learning, as it does for ``n_synthetic=0``."""
        if hasattr(self, "_postponed"):
            defects, masks, state = self._postponed
            random_state = np.random.RandomState()
            random_state.set_state(state)
            self._learn(self.images_, defects, masks and Masks(masks, len(defects)), random_state)
            del self._postponed

    @abstractmethod
    def _paint(self, image, region, random_state):
        """Paint a defect in a region. Return the painted image and a dict of additional provenance.

        Parameters
        ----------
        image : ndarray of shape (height, width, channels), dtype float32, in [0, 1]
        region : ndarray of shape (height, width), dtype bool
        random_state : RandomState
        """

    @abstractmethod
    def _default_regions(self):
        """Return the region drawer, or a list of drawers, that "auto" means if ``fit`` received no masks."""

    def _one(self, number, seed):
        random_state = np.random.RandomState(np.random.SeedSequence([seed, number]).generate_state(4))
        image, mask, provenance = self._tries(self._draw, random_state)
        return image, mask, {**provenance, "seed": seed, "number": number}

    def _draw(self, random_state):
        """Select a normal image and draw a region on it."""
        drawers = self._drawers()
        index = random_state.randint(len(self.images_))
        drawer = drawers[random_state.randint(len(drawers))]
        return Drawn(self.images_, index, self._region(drawer, index, random_state), type(drawer).__name__)

    def _paint_drawn(self, drawn, random_state):
        return self._paint(drawn.images[drawn.index], drawn.region, random_state)

    def _tries(self, draw, random_state):
        """Paint until a defect is visible. If no try is visible, return the try with the highest contrast."""
        best = None
        for n_redraws in range(self.max_redraws + 1):  # noqa: B007
            drawn = draw(random_state)
            painted, more = check_painted(type(self).__name__, self._paint_drawn(drawn, random_state), drawn)
            image, mask, contrast = composite(drawn, painted)
            visible = mask.sum() >= MIN_AREA and contrast >= self.min_contrast
            if best is None or visible or (mask.any(), contrast) > (best[1].any(), best[2]["contrast"]):
                provenance = {
                    "augmenter": type(self).__name__,
                    "source": int(self.sources_[drawn.index]),
                    "region": drawn.name,
                    "contrast": contrast,
                    "visible": bool(visible),
                    "prompt": None,
                    "model": None,
                    **more,
                }
                best = image, mask, provenance
            if visible:
                break
        image, mask, provenance = best
        if not mask.any():
            raise ValueError(
                f"{type(self).__name__}: expected a visible change on {drawn.images.where(drawn.index)}, got none "
                f"in {self.max_redraws + 1} tries. Use larger regions or stronger defects."
            )
        return image, mask, {**provenance, "n_redraws": n_redraws}

    def _drawers(self):
        regions = self.regions
        if isinstance(regions, str) and regions == "auto":
            regions = MaskRegions() if self.masks_ else self._default_regions()
            if regions is None:
                raise TypeError(
                    f"{type(self).__name__}._default_regions: expected a region drawer or a list of them, got None. "
                    "Implement this method, or set regions."
                )
        return region_drawers(regions)

    def _region(self, drawer, index, random_state):
        """Draw a region on the foreground of an image."""
        shape = self.images_.shape(index)

        def draw():
            region = np.asarray(drawer.draw(shape, random_state, self.masks_))
            if region.shape != tuple(shape) or region.dtype != bool:
                raise ValueError(
                    f"regions: expected {type(drawer).__name__}.draw to return bool of shape {tuple(shape)}, got "
                    f"{region.dtype} of shape {region.shape}."
                )
            return region, None

        return self._on_foreground(draw, index, type(drawer).__name__)[0]

    def _on_foreground(self, draw, index, name):
        """Repeat a draw of a region, with its content, until the region lies on the foreground of an image."""
        shape = self.images_.shape(index)
        foreground, region_of_interest = self._foreground(index), self.images_.region(index)
        if region_of_interest is not None:
            foreground = region_of_interest if foreground is None else foreground & region_of_interest
        for _ in range(_MAX_DRAWS):
            region, content = draw()
            if foreground is not None:
                # If most of the region lies outside the foreground, draw another one instead of keeping a fragment.
                region = region & foreground if (region & foreground).sum() >= region.sum() / 2 else region & False
            if region.sum() >= MIN_AREA:
                return region, content
        place = "" if foreground is None else "the foreground or region of interest of "
        raise ValueError(
            f"regions: expected {name} to draw at least {MIN_AREA} pixels on {place}{self.images_.where(index)}, "
            f"{shape[0]} x {shape[1]} pixels, got fewer in {_MAX_DRAWS} draws. Change its parameters or the foreground."
        )

    def _foreground(self, index):
        if self.foreground is None:
            return None
        find = otsu_foreground if self.foreground == "otsu" else self.foreground
        foreground = np.asarray(find(self.images_[index]))
        if foreground.shape != tuple(self.images_.shape(index)) or foreground.dtype != bool:
            raise ValueError(
                f"foreground: expected bool of shape {tuple(self.images_.shape(index))} for "
                f"{self.images_.where(index)}, got {foreground.dtype} of shape {foreground.shape}."
            )
        return foreground

    def _key(self, params):
        if self.pixels_hash_ is None:
            raise ValueError("memory: expected a folder that was set before fit, got None in fit. Call fit again.")
        values = {name: self._key_of(name, value) for name, value in sorted(params.items())}
        return fingerprint_of_code(type(self), values, self.pixels_hash_, self.seed_, packages=self._packages)[:20]

    def _key_of(self, name, value):
        """Return the value that represents a parameter in the cache key."""
        return value

    def _fit_dir(self):
        """Return the cache folder of the trained weights, or None without a cache."""
        folder = folder_of(self.memory)
        if folder is None:
            return None
        key = self._key({name: getattr(self, name) for name in self._learned_from})
        return folder / f"{type(self).__name__}-learned-{key}"

    def _sample_cache(self, seed):
        folder = folder_of(self.memory)
        if folder is None:
            return None
        names = self.get_params(deep=False).keys() - _NOT_IN_KEY.union(self._not_in_key)
        params = {name: getattr(self, name) for name in names}
        # Samples name their source and model, so the key contains both. An interrupted training gives another model.
        key = self._key({**params, "sources_": self.sources_, "model_": getattr(self, "model_", None)})
        return SampleCache(folder / f"{type(self).__name__}-{key}-{seed}")
