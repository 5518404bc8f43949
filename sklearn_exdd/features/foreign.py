"""Wrapper that turns any object with ``transform(images)`` into a feature extractor."""

import numpy as np
from sklearn.base import clone
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._images import Images
from sklearn_exdd._params import validate
from sklearn_exdd.features.base import BaseFeatureExtractor


class ForeignFeatureExtractor(BaseFeatureExtractor):
    """Wrapper of an object that is not a :class:`BaseFeatureExtractor`.

    Parameters
    ----------
    extractor : object
        Object with ``transform(images)``. This method takes float32 images in [0, 1], of shape (n, height, width,
        channels), and returns float feature maps of shape (n, height', width', n_features). If the object has
        ``fit(images)``, it is called with a list of images of shape (height, width, channels). Patches are assumed to
        be evenly spaced over the image.
    image_size, tile_size, whiten, batch_size, memory, n_jobs, verbose
        See :class:`BaseFeatureExtractor`.
    """

    fits_in_shards = False  # the object may learn anything

    _parameter_constraints = {
        **BaseFeatureExtractor._parameter_constraints,
        "extractor": [HasMethods("transform")],
    }

    def __init__(
        self,
        extractor,
        *,
        image_size=None,
        tile_size=1024,
        whiten=False,
        batch_size=16,
        memory=None,
        n_jobs=None,
        verbose=0,
    ):
        super().__init__(
            image_size=image_size,
            tile_size=tile_size,
            whiten=whiten,
            batch_size=batch_size,
            memory=memory,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.extractor = extractor

    @property
    def learns_from_normals(self):
        """Whether the object has a method ``fit``."""
        return hasattr(self.extractor, "fit")

    def fit_transform(self, X, y=None):
        validate(self)
        images = X if isinstance(X, Images) else Images(X)
        self.extractor_ = clone(self.extractor, safe=False)
        if hasattr(self.extractor_, "fit"):
            self.extractor_.fit([images[i] for i in range(len(images))])
        return super().fit_transform(images)

    def iter_transform(self, X):
        validate(self)
        check_is_fitted(self, "extractor_")
        yield from super().iter_transform(X)

    @property
    def _name(self):
        return type(self.extractor).__name__

    def _cache_key(self):
        return type(self), self.image_size, self.extractor_

    def _extract(self, images):
        maps = np.asarray(self.extractor_.transform(images), dtype=np.float32)
        if maps.ndim != 4 or len(maps) != len(images):
            raise ValueError(
                f"feature_extractor: expected transform to return (n, height', width', n_features) with n = "
                f"{len(images)}, got shape {maps.shape} from {type(self.extractor_).__name__}."
            )
        return maps
