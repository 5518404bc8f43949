"""Augmenter that follows CutPaste and copies pieces of a normal image to other positions."""

from numbers import Real

import numpy as np
from sklearn.utils._param_validation import Interval

from sklearn_exdd.augment.base import BaseDefectAugmenter
from sklearn_exdd.augment.regions import RectangleRegions


class CutPasteDefectAugmenter(BaseDefectAugmenter):
    """Augmenter that copies a piece of an image to another position in the same image, as in CutPaste [1]_.

    Parameters
    ----------
    jitter : float, default=0.1
        Maximum relative change of the brightness and the contrast of a piece, in [0, 1]. The published value is 0.1.
    n_synthetic : int, default=100
        Number of synthetic defects that ``fit_transform`` attaches to the images.
    regions : str, region drawer or list of them, default="auto"
        Shapes and positions of the defects; see :class:`BaseDefectAugmenter`. If ``fit`` receives no masks of real
        defects, "auto" draws patches (rectangles) and scars (thin, rotated rectangles) equally often, as published.
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

    See Also
    --------
    DefectPasteAugmenter : Augmenter that pastes real defects.

    References
    ----------
    .. [1] C.-L. Li et al., "CutPaste: self-supervised learning for anomaly detection and localization", CVPR 2021.

    Examples
    --------
    >>> from sklearn_exdd.augment import CutPasteDefectAugmenter
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, _, _ = make_surface_defects(8, defect_fraction=0, image_shape=(64, 64), random_state=0)
    >>> images, masks = CutPasteDefectAugmenter(random_state=0).fit(X).sample(5)
    >>> images.shape, masks.any(axis=(1, 2)).all().item()
    ((5, 64, 64), True)
    """

    _parameter_constraints = {
        **BaseDefectAugmenter._parameter_constraints,
        "jitter": [Interval(Real, 0, 1, closed="both")],
    }

    def __init__(
        self,
        *,
        jitter=0.1,
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
        self.jitter = jitter
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
        # The published scars are 2 to 16 pixels wide and 10 to 25 pixels long, in images of 256 x 256 pixels.
        return [RectangleRegions(), RectangleRegions(area=(0.0005, 0.006), aspect=(1.5, 10), angle=(-45, 45))]

    def _paint(self, image, region, random_state):
        rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
        cut = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        sides = cut[0].stop - cut[0].start, cut[1].stop - cut[1].start
        top, left = (random_state.randint(size - own + 1) for size, own in zip(image.shape, sides))
        piece = image[top : top + sides[0], left : left + sides[1]]
        contrast, brightness = random_state.uniform(1 - self.jitter, 1 + self.jitter, size=2)
        mean = piece.mean(axis=(0, 1))
        painted = image.copy()
        painted[cut] = (piece - mean) * contrast + mean * brightness
        return painted, {}
