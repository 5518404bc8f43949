"""Augmenter that makes pits, stains, cracks and scratches by a change of brightness."""

from numbers import Real

import numpy as np
from scipy import ndimage
from sklearn.utils._param_validation import Interval, StrOptions

from sklearn_exdd._params import check_interval
from sklearn_exdd.augment.base import BaseDefectAugmenter
from sklearn_exdd.augment.curves import RidgedRegions
from sklearn_exdd.augment.noise import correlated_noise
from sklearn_exdd.augment.regions import PerlinRegions


class OffsetDefectAugmenter(BaseDefectAugmenter):
    """Augmenter that makes a region darker or brighter, like a pit, a stain, a crack or a scratch.

    This is the cheapest augmenter. It multiplies the brightness by ``exp(±offset)``. The edge of the region is soft,
    and the texture of the surface stays visible.

    Parameters
    ----------
    offset : tuple of (float, float), default=(0.15, 0.6)
        Range of the change in the logarithm of the brightness. One value is drawn per defect.
    sign : {"both", "dark", "bright"}, default="both"
        Direction of the change. "both" draws dark twice as often as bright.
    softness : tuple of (float, float), default=(0.5, 3)
        Range of the width of the soft edge, in pixels.
    mottling : float, default=0.2
        Standard deviation of the mottling. The offset is multiplied by the mottling, which is smooth noise with mean 1
        and a correlation length of 4 pixels. 0 adds no mottling.
    n_synthetic : int, default=100
        Number of synthetic defects that ``fit_transform`` attaches to the images.
    regions : str, region drawer or list of them, default="auto"
        Shapes and positions of the defects; see :class:`BaseDefectAugmenter`. If ``fit`` receives no masks of real
        defects, "auto" draws compact Perlin blobs and thin curves.
    foreground : "otsu", callable or None, default=None
        Area of the image in which defects may lie; see :class:`BaseDefectAugmenter`.
    min_contrast : float, default=1.0
        Minimum contrast of a defect. The contrast is the mean change of the pixels, divided by the standard deviation
        of the texture. Fainter defects are drawn again.
    max_redraws : int, default=10
        Maximum number of redraws per defect. If all tries are too faint, the try with the highest contrast is kept, and
        a warning is issued.
    memory : str, path-like or joblib.Memory, default=None
        Cache folder for finished images; see :class:`BaseDefectAugmenter`.
    pos_label : object, default=None
        Label of defect images in y. If `pos_label` is None, the defect label is recognised by its name: "bad" or "NG"
        means defect, "good" or "OK" means normal. If no name is recognised, the label that sorts last means defect.
    random_state : int, RandomState instance or None, default=None
        Seed of the augmenter. Image i depends only on the seed and on i. The first 50 images of a sample of 100 are
        therefore the same as a sample of 50.
    verbose : int, default=0
        If > 0, show a progress bar.

    Attributes
    ----------
    sources_ : ndarray of shape (n_normal,)
        Index of each normal image in the X passed to ``fit``.
    seed_ : int
        Seed that ``sample`` uses if its `random_state` is None.

    Examples
    --------
    >>> from sklearn_exdd.augment import OffsetDefectAugmenter
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, _, _ = make_surface_defects(8, defect_fraction=0, image_shape=(64, 64), random_state=0)
    >>> images, masks = OffsetDefectAugmenter(random_state=0).fit(X).sample(5)
    >>> images.shape, masks.dtype
    ((5, 64, 64), dtype('bool'))
    """

    _parameter_constraints = {
        **BaseDefectAugmenter._parameter_constraints,
        "offset": [tuple, list],
        "sign": [StrOptions({"both", "dark", "bright"})],
        "softness": [tuple, list],
        "mottling": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        offset=(0.15, 0.6),
        sign="both",
        softness=(0.5, 3),
        mottling=0.2,
        n_synthetic=100,
        regions="auto",
        foreground=None,
        min_contrast=1.0,
        max_redraws=10,
        memory=None,
        pos_label=None,
        random_state=None,
        verbose=0,
    ):
        self.offset = offset
        self.sign = sign
        self.softness = softness
        self.mottling = mottling
        self.n_synthetic = n_synthetic
        self.regions = regions
        self.foreground = foreground
        self.min_contrast = min_contrast
        self.max_redraws = max_redraws
        self.memory = memory
        self.pos_label = pos_label
        self.random_state = random_state
        self.verbose = verbose

    def _default_regions(self):
        return [PerlinRegions(scales=(2, 5), n_blobs=1, max_area=0.1), RidgedRegions()]

    def _check_params(self):
        super()._check_params()
        check_interval("offset", self.offset, 0)
        check_interval("softness", self.softness, 0)

    def _paint(self, image, region, random_state):
        offset = random_state.uniform(*self.offset)
        dark = random_state.random_sample() < 2 / 3 if self.sign == "both" else self.sign == "dark"
        softness = random_state.uniform(*self.softness)
        depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
        # A thin defect has no room for a soft edge.
        profile = np.clip(depth / min(1 + softness, max(depth.max(), 1)), 0, 1)
        if self.mottling:
            profile = profile * np.clip(1 + self.mottling * correlated_noise(region.shape, 4, random_state), 0, 2)
        gain = np.exp((-offset if dark else offset) * profile)
        return image * gain[..., None], {"offset": float(-offset if dark else offset)}
