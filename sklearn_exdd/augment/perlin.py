"""Augmenter that blends a texture into blobs of Perlin noise (DRAEM, MemSeg)."""

from numbers import Integral

import numpy as np
from sklearn.utils._param_validation import StrOptions

from sklearn_exdd._images import Images, holds_images
from sklearn_exdd._params import check_interval
from sklearn_exdd.augment.base import BaseDefectAugmenter
from sklearn_exdd.augment.regions import PerlinRegions


class PerlinDefectAugmenter(BaseDefectAugmenter):
    """Augmenter that blends a texture into blobs of Perlin noise, as DRAEM and MemSeg do.

    Parameters
    ----------
    texture : "self" or images, default="self"
        Texture to blend into the image. "self" is a mosaic of mirrored pieces of the image itself, which MemSeg calls
        the structural source. Other textures are passed as images, in any form that X may have. DRAEM and MemSeg use
        the images of DTD.
    opacity : tuple of (float, float), default=(0.2, 1.0)
        Range of the weight of the texture in the blend, in [0, 1]. The image has the remaining weight. The weight of
        the texture is 0.15 to 1 in MemSeg, and 0.2 to 1 in DRAEM.
    grid : tuple of (int, int), default=(4, 8)
        Number of pieces of the mosaic along each axis, for "self". The default is the published value.
    gain : tuple of (float, float), default=(0.7, 1.4)
        Range of the factors that multiply the contrast and the brightness of the texture. The two factors are drawn
        independently.
    n_synthetic : int, default=100
        Number of synthetic defects that ``fit_transform`` attaches to the images.
    regions : str, region drawer or list of them, default="auto"
        Shapes and positions of the defects; see :class:`BaseDefectAugmenter`. If ``fit`` receives no masks of real
        defects, "auto" means :class:`PerlinRegions`, as published.
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

    References
    ----------
    .. [1] V. Zavrtanik et al., "DRAEM", ICCV 2021, section 3.3.
    .. [2] M. Yang et al., "MemSeg", Engineering Applications of Artificial Intelligence 119, 2023, section 3.2.

    Examples
    --------
    >>> from sklearn_exdd.augment import PerlinDefectAugmenter
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, _, _ = make_surface_defects(8, defect_fraction=0, image_shape=(64, 64), random_state=0)
    >>> synthetic = PerlinDefectAugmenter(random_state=0).fit(X).sample(5)
    >>> synthetic.images.shape, synthetic.provenance[0]["region"]
    ((5, 64, 64), 'PerlinRegions')
    """

    _parameter_constraints = {
        **BaseDefectAugmenter._parameter_constraints,
        "texture": [StrOptions({"self"}), "array-like"],
        "opacity": [tuple, list],
        "grid": [tuple, list],
        "gain": [tuple, list],
    }

    def __init__(
        self,
        *,
        texture="self",
        opacity=(0.2, 1.0),
        grid=(4, 8),
        gain=(0.7, 1.4),
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
        self.texture = texture
        self.opacity = opacity
        self.grid = grid
        self.gain = gain
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
        return PerlinRegions()

    def _check_params(self):
        super()._check_params()
        check_interval("gain", self.gain, 0)
        check_interval("opacity", self.opacity, 0)
        if self.opacity[1] > 1:
            raise ValueError(f"opacity: expected a range within [0, 1], got {self.opacity!r}.")
        if len(self.grid) != 2 or not all(isinstance(cells, Integral) and cells >= 1 for cells in self.grid):
            raise ValueError(f"grid: expected two integers of at least 1, got {self.grid!r}.")
        if not isinstance(self.texture, str) and not holds_images(self.texture):
            raise ValueError("texture: expected 'self' or images, got feature rows.")

    def _paint(self, image, region, random_state):
        if isinstance(self.texture, str):
            texture = _shuffled(image, self.grid, random_state)
        else:
            textures = Images(self.texture, "texture")
            texture = _cut(textures[random_state.randint(len(textures))], image.shape, random_state)
        contrast, brightness = (random_state.uniform(*self.gain) for _ in range(2))
        mean = texture.mean()
        texture = np.clip((texture - mean) * contrast + mean * brightness, 0, 1)
        opacity = random_state.uniform(*self.opacity)
        return (1 - opacity) * image + opacity * texture, {"opacity": float(opacity)}

    def _key_of(self, name, value):
        if name == "texture" and not isinstance(value, str):
            textures = Images(value, "texture")
            return [textures[i] for i in range(len(textures))]
        return value


def _shuffled(image, grid, random_state):
    """Return a mosaic of pieces of the image. Each piece has a random position and is mirrored at random."""
    height, width = image.shape[:2]
    cells = [max(1, size // n) for size, n in zip((height, width), grid)]
    corners = [(top, left) for top in range(0, height, cells[0]) for left in range(0, width, cells[1])]
    shuffled = np.empty_like(image)
    for top, left in corners:
        part = shuffled[top : top + cells[0], left : left + cells[1]]
        row, column = (random_state.randint(size - own + 1) for size, own in zip((height, width), part.shape))
        cell = image[row : row + part.shape[0], column : column + part.shape[1]]
        part[:] = cell[:: random_state.choice([-1, 1]), :: random_state.choice([-1, 1])]
    return shuffled


def _cut(texture, shape, random_state):
    """Cut a random piece with the shape of the image from a texture. A smaller texture is extended by mirroring."""
    height, width, n_channels = shape
    for axis, size in enumerate((height, width)):
        missing = size - texture.shape[axis]
        if missing > 0:
            padding = [(0, missing if other == axis else 0) for other in range(3)]
            texture = np.pad(texture, padding, mode="symmetric")
    top, left = (random_state.randint(size - own + 1) for size, own in zip(texture.shape, (height, width)))
    texture = texture[top : top + height, left : left + width]
    if texture.shape[2] == n_channels:
        return texture
    return texture.mean(axis=2, keepdims=True) if n_channels == 1 else np.repeat(texture, n_channels, axis=2)
