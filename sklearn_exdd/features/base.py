"""Base class of the feature extractors, which handles image sizes, tiles, batches, the cache and the whitening."""

import hashlib
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral

import joblib
import numpy as np
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import gen_batches
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from sklearn_exdd._cache import MEMORY, as_memory, load, store
from sklearn_exdd._code import fingerprint_of_code
from sklearn_exdd._images import Images
from sklearn_exdd._params import N_JOBS, CheckedParams, check_image_size, validate
from sklearn_exdd._torch import resize, resolve_device, share_out_threads
from sklearn_exdd.features.patch_grid import rows_of
from sklearn_exdd.features.tiles import stitched_map
from sklearn_exdd.features.whitening import mean_of, moments_of, whitening_of

# Parameters that affect how the features are computed, but not the values of the features.
_NOT_IN_KEY = {"batch_size", "memory", "n_jobs", "verbose", "whiten", "device"}
_KIND = "feature map"  # kind of the cache entries that hold feature maps


class BaseFeatureExtractor(
    CheckedParams, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, auto_wrap_output_keys=None
):
    """Base class of the feature extractors, which turn images into feature maps.

    A subclass implements ``_extract(images)``. This method receives images as float32 of shape (n, height, width,
    channels) in [0, 1], and returns feature maps as float32 of shape (n, height', width', n_features). Class attributes
    or properties describe the patches: patch i is centred at pixel ``offset + stride * i``, and depends only on pixels
    that are at most `margin` pixels away from its centre. Both sides of an image must have at least `min_size` pixels.
    Computations that need the whole image belong in ``_prepare(images)``, which runs before large images are cut into
    tiles. Parameters of the subclass are checked if it adds their constraints to `_parameter_constraints`.

    Two class attributes describe ``fit``. `learns_from_defects` is True if ``fit`` accepts ``y`` and ``masks`` and
    learns from marked defects. `fits_in_shards` is False if ``fit`` learns anything besides the whitening. False is
    the default for a class with its own ``fit``.

    Parameters
    ----------
    image_size : int or tuple (height, width), default=None
        Size to which images are resized before extraction. An int is the length of the shorter side. None keeps the
        resolution of each image.
    tile_size : int, default=1024
        Side of the tiles, in pixels. An image with a longer side is cut into overlapping tiles. The feature maps of the
        tiles are joined without seams.
    whiten : bool, default=False
        Whether ``fit`` learns to whiten the features. The features are standardised, and then whitened with a PCA that
        keeps 99.9 % of the variance. The variances of the principal components are shrunk halfway towards their mean.
    batch_size : int, default=16
        Number of images of the same shape to process together. On a CPU, large images are processed in smaller batches,
        which saves memory and takes no longer.
    memory : str, path-like or joblib.Memory, default=None
        Folder in which feature maps are cached, with one entry per image. The key of an entry is a hash of the pixels
        of the image, the parameters and the code of the extractor, and the versions of the libraries.
    n_jobs : int, default=None
        Number of batches to process in parallel threads, which divide torch's threads among themselves. If only one
        batch is processed at a time, the next batch is read in the meantime.
    verbose : int, default=0
        If `verbose` > 0, show a progress bar.

    Examples
    --------
    >>> from sklearn_exdd import BaseFeatureExtractor
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> class CellMeans(BaseFeatureExtractor):
    ...     stride, offset = 8, 3.5  # spacing of the patches, centre of the first patch
    ...
    ...     def _extract(self, images):
    ...         n, height, width, channels = images.shape
    ...         cells = images.reshape(n, height // 8, 8, width // 8, 8, channels)
    ...         return cells.mean(axis=(2, 4))
    >>> X, _, _ = make_surface_defects(4, image_shape=(64, 96), random_state=0)
    >>> CellMeans(image_size=(128, 192)).fit(X).transform(X)[0].shape
    (16, 24, 1)
    """

    stride = None
    offset = 0.0
    margin = 0
    min_size = 1
    #: Whether ``fit(X, y, masks=)`` also learns from marked defects. If True, detectors pass marked defects to ``fit``.
    learns_from_defects = False
    #: Whether ``fit`` learns only the whitening. If True, ``fit`` can process the images shard by shard.
    fits_in_shards = True
    # Python packages whose versions are part of the cache key, in addition to the packages that are part of every key.
    _packages = ()
    # Number of pixels that a CPU thread processes at a time. With more pixels, every operation would allocate new
    # memory.
    _n_pixels = None

    _parameter_constraints = {
        "image_size": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "tile_size": [Interval(Integral, 1, None, closed="left")],
        "whiten": ["boolean"],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "memory": MEMORY,
        "n_jobs": N_JOBS,
        "verbose": ["verbose"],
    }

    @property
    def learns_from_normals(self):
        """Whether ``fit`` learns more than the whitening from normal images. It may then memorise these images."""
        return not self.fits_in_shards

    _n_features_out = property(lambda self: self.n_features_out_)  # read by get_feature_names_out

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**{"auto_wrap_output_keys": None} | kwargs)  # feature maps cannot become tables
        if {"fit", "fit_transform"} & vars(cls).keys() and "fits_in_shards" not in vars(cls):
            cls.fits_in_shards = False  # this ``fit`` may need all images at once

    def __init__(
        self, *, image_size=None, tile_size=1024, whiten=False, batch_size=16, memory=None, n_jobs=None, verbose=0
    ):
        self.image_size = image_size
        self.tile_size = tile_size
        self.whiten = whiten
        self.batch_size = batch_size
        self.memory = memory
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(self, X, y=None):
        """Learn the whitening if `whiten` is True.

        Parameters
        ----------
        X : images
            Normal images.
        y : None
            Ignored.

        Returns
        -------
        self : object
        """
        self.fit_transform(X)
        return self

    def fit_transform(self, X, y=None):
        """Fit to images and transform them, computing the features only once.

        Parameters
        ----------
        X : images
        y : None
            Ignored.

        Returns
        -------
        feature_maps : list of ndarray of shape (height', width', n_features), dtype float32
        """
        return self._fit_transform_within(X, np.inf)

    def _fit_transform_within(self, X, max_bytes):
        """Fit and transform. If the raw maps take more than `max_bytes`, learn nothing and return None."""
        validate(self)
        images = X if isinstance(X, Images) else Images(X)
        self._before_fit()
        maps, n_bytes = [], 0
        for feature_map in self._raw_maps(images):
            n_bytes += feature_map.nbytes
            if n_bytes > max_bytes:
                return None
            maps.append(feature_map)
        self.n_channels_ = images.n_channels
        if self.whiten:
            shift = mean_of(maps[0])
            self.mean_, self.components_ = whitening_of(shift, moments_of(rows_of(self, images, maps), shift))
        for i, feature_map in enumerate(maps):
            maps[i] = self._refined(feature_map)
        self.n_features_out_ = maps[0].shape[2]
        return maps

    def fit_shards(self, shards, run):
        """Fit on images that are divided into shards, without keeping all feature maps in memory.

        Parameters
        ----------
        shards : list of Images
        run : callable
            Function that runs a task on every shard, possibly in other processes. ``run(function, *args)`` returns the
            list of the results of ``function(extractor, shard, *args)``.

        Returns
        -------
        self : object
        """
        validate(self)
        self._before_fit()
        first = next(self._raw_maps(shards[0].take([0])))
        self.n_channels_ = shards[0].n_channels
        if self.whiten:
            shift = mean_of(first)
            moments = [sum(terms) for terms in zip(*run(_moments_of_shard, shift))]
            self.mean_, self.components_ = whitening_of(shift, moments)
        self.n_features_out_ = self._refined(first).shape[2]
        return self

    def _check_params(self):
        check_image_size(self.image_size)

    def _before_fit(self):
        """Make the decisions that hold for the whole fit. This method runs before any feature is computed."""

    def transform(self, X):
        """Compute the feature maps of images.

        Parameters
        ----------
        X : images

        Returns
        -------
        feature_maps : list of ndarray of shape (height', width', n_features), dtype float32
            One map per image. Each position of a map is a patch.
        """
        return list(self.iter_transform(X))

    def iter_transform(self, X):
        """Yield the feature maps of images one by one, without keeping all maps in memory.

        Parameters
        ----------
        X : images

        Yields
        ------
        feature_map : ndarray of shape (height', width', n_features), dtype float32
        """
        validate(self)
        if self.whiten:
            check_is_fitted(self)
        images = X if isinstance(X, Images) else Images(X, n_channels=getattr(self, "n_channels_", None))
        yield from map(self._refined, self._raw_maps(images))

    @property
    def key(self):
        """Hash of everything that feature maps depend on, apart from the images."""
        whitening = getattr(self, "mean_", None), getattr(self, "components_", None)
        return fingerprint_of_code(self._cache_key(), self.whiten, self.whiten and whitening, packages=self._packages)

    def patch_centers(self, map_shape, image_shape):
        """Return the positions of the patches of a feature map, in pixels of the image.

        Parameters
        ----------
        map_shape : tuple of int (height', width', ...)
        image_shape : tuple of int (height, width, ...)

        Returns
        -------
        row_centers : ndarray of shape (height',)
            Row of each patch centre, in pixels of the original image (before resizing). Row 0 is the centre of the
            first row of pixels.
        column_centers : ndarray of shape (width',)
            Column of each patch centre, in the same units.
        """
        centers = []
        for n_patches, size, working_size in zip(map_shape, image_shape, self._working_shape(image_shape)):
            if self.stride is None:  # the stride is unknown: assume evenly spaced patches
                centers.append((np.arange(n_patches) + 0.5) * size / n_patches - 0.5)
            else:
                positions = self.offset + self.stride * np.arange(n_patches)
                centers.append((positions + 0.5) * size / working_size - 0.5)
        return tuple(centers)

    @abstractmethod
    def _extract(self, images):
        """Compute the feature maps of images that have the same shape."""

    @property
    def _tile_unit(self):
        """Spacing of the positions at which tiles may start, in pixels. It aligns pyramids and strided layers."""
        return int(self.stride) * 8

    def _prepare(self, images):
        return images

    def _working_shape(self, image_shape):
        height, width = image_shape[:2]
        if self.image_size is None:
            return height, width
        if isinstance(self.image_size, Integral):
            scale = self.image_size / min(height, width)
            return max(1, round(height * scale)), max(1, round(width * scale))
        return tuple(self.image_size)

    def _raw_maps(self, images):
        """Yield the feature maps of images one by one, before whitening."""
        batches = list(gen_batches(len(images), self.batch_size))
        with joblib.parallel_config(backend="threading"):
            n_jobs = joblib.effective_n_jobs(self.n_jobs)
        computed = self._one_after_the_other if n_jobs == 1 else self._side_by_side
        with tqdm(total=len(images), desc="features", unit="image", disable=not self.verbose) as progress:
            index = 0
            for maps in computed(images, batches, n_jobs):
                for feature_map in maps:
                    self._check_numbers(feature_map, images.where(index))
                    yield feature_map
                    index += 1
                progress.update(len(maps))

    def _one_after_the_other(self, images, batches, n_jobs):
        own_key = self._own_key()
        with ThreadPoolExecutor(n_jobs) as reader:
            upcoming = reader.submit(self._read, images, batches[0], own_key)
            for batch in [*batches[1:], None]:
                read = upcoming.result()
                if batch is not None:
                    upcoming = reader.submit(self._read, images, batch, own_key)
                yield self._extracted(read)

    def _side_by_side(self, images, batches, n_jobs):
        own_key, parallel = self._own_key(), Parallel(n_jobs, backend="threading", return_as="generator")
        with share_out_threads(n_jobs):
            compute = delayed(lambda batch: self._extracted(self._read(images, batch, own_key)))
            yield from parallel(compute(batch) for batch in batches)

    def _read(self, images, batch, own_key):
        """Read a batch. Return a tuple (cache key, feature map, pixels) for each image.

        The key is None without a cache. The feature map is None if it is not cached, and otherwise the pixels are None.
        """
        memory, items = as_memory(self.memory), []
        for index in range(batch.start, batch.stop):
            image = images[index]
            self._check_size(image.shape, images.where(index))
            key = _image_key(own_key, image) if self.memory is not None else None
            feature_map = None if key is None else load(memory, _KIND, key)
            items.append((key, feature_map, self._resized(image) if feature_map is None else None))
        return items

    def _extracted(self, items):
        """Return the feature maps of a batch from the tuples that `_read` returned."""
        memory, maps, missing = as_memory(self.memory), [feature_map for _, feature_map, _ in items], {}
        for i, (_, feature_map, pixels) in enumerate(items):
            if feature_map is None:
                missing.setdefault(pixels.shape, []).append(i)
        for places in (some for shape, same in missing.items() for some in self._portions(same, shape)):
            computed = self._maps(np.stack([items[i][2] for i in places]))
            for i, feature_map in zip(places, computed):
                if items[i][0] is not None:
                    store(memory, _KIND, items[i][0], feature_map)
                maps[i] = feature_map
        return maps

    def _portions(self, images, shape):
        """Split the indices of images of the same shape into groups to process together."""
        n_together = len(images)
        if self._n_pixels is not None and resolve_device(getattr(self, "device", None)).type == "cpu":
            import torch

            # At the end of an operation, the threads that share it wait for each other. More threads therefore need
            # longer operations.
            n_together = max(1, self._n_pixels * torch.get_num_threads() ** 2 // (shape[0] * shape[1]))
        return [images[some] for some in gen_batches(len(images), n_together)]

    def _own_key(self):
        """Return the part of the cache key that does not depend on the image. Without a cache, return None."""
        return None if self.memory is None else fingerprint_of_code(self._cache_key(), packages=self._packages)

    def _cache_key(self):
        params = {name: value for name, value in self.get_params(deep=False).items() if name not in _NOT_IN_KEY}
        return type(self), params

    def _check_numbers(self, feature_map, where):
        limits = (feature_map.min(), feature_map.max()) if feature_map.size else ()  # NaN if any value is NaN
        if not np.isfinite(limits).all():
            came = "NaN" if np.isnan(limits).any() else "infinity"
            raise ValueError(
                f"{where}: expected numbers as features, got {came} from feature_extractor {self._name}. Check its "
                "output for this image."
            )

    _name = property(lambda self: type(self).__name__)  # name of the extractor in messages

    def _check_size(self, image_shape, where):
        working_shape = self._working_shape(image_shape)
        if min(working_shape) < self.min_size:
            raise ValueError(
                f"{where}: expected at least {self.min_size} pixels a side for {type(self).__name__}, got "
                f"{working_shape[0]} x {working_shape[1]}. Use larger images, or set image_size to "
                f"{self.min_size} or more to enlarge them."
            )

    def _resized(self, image):
        shape = self._working_shape(image.shape)
        return image if shape == image.shape[:2] else resize(image, shape)

    def _maps(self, images):
        images = self._prepare(images)
        if max(images.shape[1:3]) <= self.tile_size or self.stride is None:
            return self._extracted_maps(images)
        return stitched_map(
            self._extracted_maps,
            images,
            tile_size=self.tile_size,
            stride=int(self.stride),
            unit=self._tile_unit,
            margin=self.margin,
            min_size=self.min_size,
        )

    def _extracted_maps(self, images):
        """Extract feature maps, and check their dtype, their shape and their number."""
        name, shape, maps = type(self).__name__, images.shape, np.asarray(self._extract(images))
        if maps.dtype.kind not in "buif" or maps.ndim != 4 or len(maps) != shape[0] or 0 in maps.shape:
            raise ValueError(
                f"{name}._extract: expected float32 of shape (n, height', width', n_features) with n = {shape[0]} for "
                f"images of shape {shape}, got {maps.dtype} of shape {maps.shape}. Return a feature map for each image."
            )
        for axis, size in zip((1, 2), shape[1:3]):
            if self.stride is not None and self.stride * (maps.shape[axis] - 1) >= size:
                raise ValueError(
                    f"{name}.stride: expected about {size / maps.shape[axis]:g}, the number of pixels between two of "
                    f"the {maps.shape[axis]} patches along {size} pixels, got {self.stride}. Set it to match _extract."
                )
        return maps.astype(np.float32, copy=False)

    def _refined(self, feature_map):
        return (feature_map - self.mean_) @ self.components_ if self.whiten else feature_map

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inputs = tags.input_tags
        inputs.two_d_array, inputs.three_d_array, inputs.string = False, True, True
        return tags


def _moments_of_shard(extractor, shard, shift):
    return moments_of(rows_of(extractor, shard, extractor._raw_maps(shard)), shift)


def _image_key(own_key, image):
    key = hashlib.sha256(f"{own_key} {image.shape}".encode())
    key.update(np.ascontiguousarray(image))  # twice as fast as joblib.hash
    return key.hexdigest()
