"""Augmenter that combines several augmenters in given proportions."""

from numbers import Integral

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._cache import MEMORY
from sklearn_exdd._composition import clone_with_seed
from sklearn_exdd._params import finite_numbers, validate_parts
from sklearn_exdd.augment.base import DefectAugmenterMixin
from sklearn_exdd.augment.curves import CrackRegions, RidgedRegions
from sklearn_exdd.augment.cutpaste import CutPasteDefectAugmenter
from sklearn_exdd.augment.offset import OffsetDefectAugmenter
from sklearn_exdd.augment.regions import PerlinRegions, RectangleRegions
from sklearn_exdd.augment.synthetic import SyntheticDefects


class MixedDefectAugmenter(DefectAugmenterMixin, _BaseComposition):
    """Augmenter that combines several augmenters. Each of them makes a given share of the defects.

    For example, In&Out [1]_ makes one half of its defects with a DDPM and the other half as MemSeg does.

    Parameters
    ----------
    augmenters : list of (str, augmenter) tuples
        Names and augmenters, as in a Pipeline. Parameters of an augmenter are set as ``name__parameter``. The
        `n_synthetic` of the augmenters is ignored.
    shares : array-like of shape (n_augmenters,), default=None
        Relative share of each augmenter (> 0). The sum need not be 1. None means equal shares.
    n_synthetic : int, default=100
        Number of synthetic defects that ``fit_transform`` attaches to the images.
    memory : str, path-like or joblib.Memory, default=None
        Cache folder of the augmenters whose own `memory` is None; see :class:`BaseDefectAugmenter`.
    random_state : int, RandomState instance or None, default=None
        Seed of the augmenters whose own `random_state` is None.

    Attributes
    ----------
    augmenters_ : list of augmenters
        Fitted augmenters.

    References
    ----------
    .. [1] L. Capogrosso et al., "Diffusion-based image generation for in-distribution data augmentation in surface
       defect detection" (In&Out), VISAPP 2024.

    Examples
    --------
    >>> from sklearn_exdd.augment import CutPasteDefectAugmenter, MixedDefectAugmenter, PerlinDefectAugmenter
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, _, _ = make_surface_defects(8, defect_fraction=0, image_shape=(64, 64), random_state=0)
    >>> mixed = MixedDefectAugmenter(
    ...     [("perlin", PerlinDefectAugmenter()), ("cutpaste", CutPasteDefectAugmenter())], random_state=0
    ... )
    >>> [sample["augmenter"] for sample in mixed.fit(X).sample(3).provenance]
    ['PerlinDefectAugmenter', 'CutPasteDefectAugmenter', 'PerlinDefectAugmenter']
    """

    _parameter_constraints = {
        "augmenters": [list],
        "shares": ["array-like", None],
        "n_synthetic": [Interval(Integral, 0, None, closed="left")],
        "memory": MEMORY,
        "random_state": ["random_state"],
    }

    def __init__(self, augmenters, *, shares=None, n_synthetic=100, memory=None, random_state=None):
        self.augmenters = augmenters
        self.shares = shares
        self.n_synthetic = n_synthetic
        self.memory = memory
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, *, masks=None):
        """Fit all augmenters.

        Parameters
        ----------
        X : images
        y : array-like of shape (n_samples,) or images, default=None
        masks : array or list, default=None
            See :meth:`BaseDefectAugmenter.fit` for X, y and masks.

        Returns
        -------
        self : object
        """
        random_state = check_random_state(self.random_state)
        fitted = []
        for _, augmenter in self.augmenters:
            seed = int(random_state.randint(2**31 - 1))
            augmenter = clone_with_seed(augmenter, seed, keep_pos_label=True, memory=self.memory)
            postpones = self._postpones and isinstance(augmenter, DefectAugmenterMixin)
            fitted.append(augmenter._fit_later(X, y, masks) if postpones else augmenter.fit(X, y, masks=masks))
        self.augmenters_ = fitted
        return self

    def _check_params(self):
        if not self.augmenters or not all(
            isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) for item in self.augmenters
        ):
            raise ValueError(f"augmenters: expected a list of (name, augmenter), got {self.augmenters!r}.")
        names, augmenters = zip(*self.augmenters)
        self._validate_names(names)
        for name, augmenter in self.augmenters:
            if not (hasattr(augmenter, "fit") and hasattr(augmenter, "sample")):
                raise ValueError(f"augmenters: expected {name!r} to have fit and sample, got {augmenter!r}.")
        self._shares()
        validate_parts(augmenters)

    def sample(self, n_samples, random_state=None):
        """Make synthetic defects. The augmenters take turns according to their shares.

        Parameters
        ----------
        n_samples : int
            Number of defects to make, at least 1.
        random_state : int, RandomState instance or None, default=None
            Seed of the defects. None uses the seeds of the augmenters.

        Returns
        -------
        synthetic : SyntheticDefects
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples: expected an integer of at least 1, got {n_samples!r}.")
        shares = self._shares()
        counts, turns = np.zeros(len(shares), dtype=int), []
        # Select the augmenter that is farthest behind its share. The first k samples then keep the shares, for any k.
        for _ in range(n_samples):
            turn = int(np.argmax(shares * (len(turns) + 1) - counts))
            counts[turn] += 1
            turns.append(turn)
        if random_state is not None and random_state is not self.random_state:
            random_state = check_random_state(random_state).randint(2**31 - 1, size=len(shares)).tolist()
        else:
            random_state = [None] * len(shares)
        parts = [
            zip(part.images, part.masks, part.provenance)
            for part in (
                augmenter.sample(int(count), random_state=seed) if count else SyntheticDefects([], [], [])
                for augmenter, count, seed in zip(self.augmenters_, counts, random_state)
            )
        ]
        return SyntheticDefects.from_samples([next(parts[turn]) for turn in turns])

    def get_params(self, deep=True):
        """Return the parameters, including those of the augmenters."""
        return self._get_params("augmenters", deep=deep)

    def set_params(self, **params):
        """Set parameters, including those of the augmenters."""
        self._set_params("augmenters", **params)
        return self

    def _sk_visual_block_(self):
        """Return the diagram for notebooks, with the augmenters side by side."""
        from sklearn.pipeline import FeatureUnion  # avoids importing the class of the block, whose module varies

        return FeatureUnion(self.augmenters)._sk_visual_block_()

    def _shares(self):
        if self.shares is None:
            return np.full(len(self.augmenters), 1 / len(self.augmenters))
        shares = finite_numbers(self.shares)
        if shares is None or len(shares) != len(self.augmenters) or not (shares > 0).all():
            raise ValueError(
                f"shares: expected {len(self.augmenters)} numbers > 0, one for each augmenter, got {self.shares!r}."
            )
        return shares / shares.sum()


def default_augmenter():
    """Return the default augmenter for the training of networks, a mixture of cheap augmenters.

    The defects are 35 % patches and 20 % scars as in CutPaste [1]_, 30 % cracks and 15 % holes. The augmenters do not
    learn from images.

    Returns
    -------
    augmenter : MixedDefectAugmenter

    References
    ----------
    .. [1] C.-L. Li et al., "CutPaste: Self-supervised learning for anomaly detection and localization", CVPR 2021.

    Examples
    --------
    >>> from sklearn_exdd import ExDDDetector
    >>> from sklearn_exdd.augment import default_augmenter
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, _, _ = make_surface_defects(8, defect_fraction=0, image_shape=(64, 64), random_state=0)
    >>> detector = ExDDDetector(augmenter=default_augmenter(), n_synthetic=12, random_state=0).fit(X)
    >>> len(detector.synthetic_.images)
    12
    """
    patches = CutPasteDefectAugmenter(regions=RectangleRegions(area=(0.003, 0.08)))
    scars = CutPasteDefectAugmenter(regions=RectangleRegions(area=(0.0005, 0.006), aspect=(1.5, 10), angle=(-45, 45)))
    cracks = OffsetDefectAugmenter(regions=[RidgedRegions(), CrackRegions()], offset=(0.2, 0.9))
    holes = OffsetDefectAugmenter(regions=PerlinRegions(scales=(2, 5), n_blobs=1, max_area=0.02))
    kinds = [("patches", patches), ("scars", scars), ("cracks", cracks), ("holes", holes)]
    return MixedDefectAugmenter(kinds, shares=[0.35, 0.2, 0.3, 0.15])
