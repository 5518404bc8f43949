"""Augmenter that cuts real defects along their masks and pastes them onto normal images."""

from numbers import Real

import numpy as np
from scipy import ndimage
from sklearn.utils._param_validation import Interval

from sklearn_exdd._images import Images
from sklearn_exdd._params import check_interval
from sklearn_exdd.augment.base import BaseDefectAugmenter
from sklearn_exdd.augment.composite import Drawn

_RING = 5  # width, in pixels, of the ring around a defect where brightness is measured


class DefectPasteAugmenter(BaseDefectAugmenter):
    """Augmenter that flips, rotates, scales and moves real defects and pastes them onto normal images.

    A few real defects become many, on other images and at other positions. The brightness of a defect is matched to its
    new surroundings. ``fit`` needs defect images with masks.

    Parameters
    ----------
    flip : bool, default=True
        Whether to mirror defects at random. Each axis is mirrored with probability 1/2.
    rotation : float, default=15.0
        Maximum rotation of a defect, in degrees, clockwise or counterclockwise.
    scale : tuple of (float, float), default=(0.8, 1.25)
        Range of the scale factor of a defect.
    contrast : tuple of (float, float), default=(0.7, 1.2)
        Range of the factor that multiplies the contrast between a defect and its surroundings.
    feather : float, default=1.5
        Standard deviation, in pixels, of the Gaussian that softens the edge of a pasted defect.
    n_synthetic : int, default=100
        Number of synthetic defects that ``fit_transform`` attaches to the images.
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
    defects_ : list of tuple (ndarray, ndarray)
        Pairs of an image piece with a real defect (float32 of shape (height, width, channels)) and the mask of the
        defect (bool of shape (height, width)).
    seed_ : int
        Seed that ``sample`` uses if its `random_state` is None.

    Notes
    -----
    Let L be the logarithm of the brightness. First, the mean of L around the defect is subtracted from L. This
    difference is then multiplied by a factor drawn from `contrast` and added to the mean of L around the new position.

    Examples
    --------
    >>> from sklearn_exdd.augment import DefectPasteAugmenter
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, masks = make_surface_defects(12, image_shape=(64, 64), random_state=0)
    >>> synthetic = DefectPasteAugmenter(random_state=0).fit(X, y, masks=masks).sample(5)
    >>> synthetic.images.shape
    (5, 64, 64)
    """

    _parameter_constraints = {
        **{name: kinds for name, kinds in BaseDefectAugmenter._parameter_constraints.items() if name != "regions"},
        "flip": ["boolean"],
        "rotation": [Interval(Real, 0, 180, closed="both")],
        "scale": [tuple, list],
        "contrast": [tuple, list],
        "feather": [Interval(Real, 0, None, closed="left")],
    }
    regions = "auto"  # not a parameter, because the shape of a real defect is its region

    def __init__(
        self,
        *,
        flip=True,
        rotation=15.0,
        scale=(0.8, 1.25),
        contrast=(0.7, 1.2),
        feather=1.5,
        n_synthetic=100,
        foreground=None,
        min_contrast=1.0,
        max_redraws=10,
        memory=None,
        pos_label=None,
        random_state=None,
        verbose=0,
    ):
        self.flip = flip
        self.rotation = rotation
        self.scale = scale
        self.contrast = contrast
        self.feather = feather
        self.n_synthetic = n_synthetic
        self.foreground = foreground
        self.min_contrast = min_contrast
        self.max_redraws = max_redraws
        self.memory = memory
        self.pos_label = pos_label
        self.random_state = random_state
        self.verbose = verbose

    def _default_regions(self):
        return []

    def _drawers(self):
        return []

    def _check_params(self):
        super()._check_params()
        check_interval("scale", self.scale, 0.05)
        check_interval("contrast", self.contrast, 0)

    def _learn(self, images, defects, masks, random_state):
        self.defects_ = []
        for i in range(len(defects) if masks is not None else 0):
            mask = defects.within_region(i, masks.get(i, defects.shape(i)))
            if mask is not None and mask.any():
                rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
                margin = 2 * _RING
                cut = tuple(slice(max(0, at[0] - margin), at[-1] + 1 + margin) for at in (rows, columns))
                self.defects_.append((defects[i][cut], mask[cut]))
        if not self.defects_:
            raise ValueError(
                "masks: expected at least one defect image with a mask to paste from, got none. Pass fit(X, y, "
                "masks=masks), or use an augmenter that needs no defects, such as PerlinDefectAugmenter."
            )

    def _draw(self, random_state):
        index = random_state.randint(len(self.images_))

        def draw():
            return self._placed(self.images_, index, None, random_state)

        region, content = self._on_foreground(draw, index, type(self).__name__)
        return Drawn(self.images_, index, region, "defect", content)

    def _placed(self, images, index, center, random_state):
        """Return the region and content of a random defect at `center`, or at a random position if `center` is None."""
        number = random_state.randint(len(self.defects_))
        piece, mask = self.defects_[number]
        flips = random_state.choice([-1, 1], size=2) if self.flip else np.ones(2)
        angle = np.deg2rad(random_state.uniform(-self.rotation, self.rotation))
        scale = random_state.uniform(*self.scale)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        back = np.diag(flips) @ turn.T / scale  # maps positions in the image to positions in the piece
        corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) * (np.array(mask.shape) - 1) / 2
        reach = np.abs(corners @ np.linalg.inv(back).T).max(axis=0)
        shape = np.array(images.shape(index))
        if center is None:
            margin = np.minimum(np.maximum(reach - 2 * _RING, 0), (shape - 1) / 2)
            center = random_state.uniform(margin, shape - 1 - margin)
        start = np.maximum(np.floor(center - reach), 0).astype(int)
        stop = np.minimum(np.ceil(center + reach) + 1, shape).astype(int)
        window = tuple(slice(a, b) for a, b in zip(start, stop))
        offset = back @ (start - center) + (np.array(mask.shape) - 1) / 2
        where = {"matrix": back, "offset": offset, "output_shape": tuple(stop - start)}
        moved = ndimage.affine_transform(mask.astype(np.float32), **where, order=1, mode="constant") > 0.4
        content = [
            ndimage.affine_transform(channel, **where, order=1, mode="mirror") for channel in np.moveaxis(piece, 2, 0)
        ]
        grown = ndimage.binary_dilation(moved, iterations=int(np.ceil(self.feather))) if self.feather else moved
        region = np.zeros(shape, dtype=bool)
        region[window] = grown
        return region, (number, window, moved, np.stack(content, axis=2))

    def _paint_drawn(self, drawn, random_state):
        image = drawn.images[drawn.index]
        if drawn.content is None:  # the user gave a region: centre the defect in it; pixels outside are not painted
            center = np.argwhere(drawn.region).mean(axis=0)
            content = self._placed(drawn.images, drawn.index, center, random_state)[1]
        else:
            content = drawn.content
        number, window, mask, piece = content
        painted = image.copy()
        floor = 0.1 * image.mean() + 1e-4  # limits the logarithm of dark pixels
        target = np.log(image[window] + floor)
        piece = np.log(piece + floor)
        ring = ndimage.binary_dilation(mask, iterations=1 + _RING) & ~ndimage.binary_dilation(mask, iterations=1)
        ring = ring if ring.any() else np.ones_like(mask)
        contrast = random_state.uniform(*self.contrast)
        new = target[ring].mean(axis=0) + contrast * (piece - piece[ring].mean(axis=0))
        alpha = np.maximum(mask, ndimage.gaussian_filter(mask.astype(np.float32), self.feather))[..., None]
        painted[window] = np.exp((1 - alpha) * target + alpha * new) - floor
        return painted, {"defect": int(number), "defect_contrast": float(contrast)}

    def _paint(self, image, region, random_state):
        return self._paint_drawn(Drawn(Images([image]), 0, region, "given"), random_state)
