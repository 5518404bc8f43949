"""CutPaste: pieces of a normal image pasted where they do not belong."""

from numbers import Real

import numpy as np
from sklearn.utils._param_validation import Interval

from sklearn_exdd.augment.base import BaseDefectAugmenter
from sklearn_exdd.augment.regions import RectangleRegions


class CutPasteDefectAugmenter(BaseDefectAugmenter):
    """Augmenter that pastes pieces of an image elsewhere in the same image, as CutPaste's patches and scars.

    Parameters
    ----------
    jitter : float, default=0.1
        Largest relative change of a piece's brightness and contrast, in [0, 1] (published: 0.1).
    n_synthetic : int, default=100
        Number of synthetic images that ``fit_transform`` attaches.
    regions : str, region drawer or list of them, default="auto"
        Shapes and places of the defects; see :class:`BaseDefectAugmenter`. Without real masks, "auto" draws
        half patches and half scars, as published.
    foreground : "otsu", callable or None, default=None
        Part of the image where defects may lie; see :class:`BaseDefectAugmenter`.
    min_contrast : float, default=1.0
        Smallest mean change of a defect, in standard deviations of the texture. Fainter defects are drawn again.
    max_redraws : int, default=10
        Largest number of redraws per defect. If all tries are too faint, the one with the highest contrast is kept,
        with a warning.
    memory : str, path-like or joblib.Memory, default=None
        Cache folder for finished images; see :class:`BaseDefectAugmenter`.
    pos_label : object, default=None
        Label of defect images in y. None selects a known name, such as "bad" or "NG", or otherwise the label that sorts
        last.
    random_state : int, RandomState instance or None, default=None
        Seed of the augmenter. Image i depends only on the seed and on i, so a sample of 50 images is the first half
        of a sample of 100.
    verbose : int, default=0
        If > 0, show a progress bar.

    Attributes
    ----------
    sources_ : ndarray of shape (n_normal,)
        Indices of the normal images in the X passed to ``fit``.
    seed_ : int
        Seed of ``sample()``.

    See Also
    --------
    DefectPasteAugmenter : Pastes real defects.

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
        # In images of 256 x 256 pixels, published scars are 2 to 16 pixels wide and 10 to 25 pixels long.
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
