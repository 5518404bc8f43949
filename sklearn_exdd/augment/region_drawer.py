"""Base class of the region drawers, which checks parameters before a region is drawn."""

from abc import abstractmethod

from sklearn.base import BaseEstimator

from sklearn_exdd._params import CheckedParams, validate


class RegionDrawer(CheckedParams, BaseEstimator):
    """Base class of the region drawers. A subclass implements ``_draw(shape, random_state, masks)``.

    Augmenters accept any object with ``draw(image_shape, random_state, masks)``.
    """

    _parameter_constraints = {}

    def draw(self, image_shape, random_state, masks=()):
        """Draw a region.

        Parameters
        ----------
        image_shape : tuple of int (height, width)
        random_state : RandomState instance
        masks : sequence of ndarray of shape (height', width'), dtype bool
            Masks of real defects, used only by ``MaskRegions(masks=None)``.

        Returns
        -------
        region : ndarray of shape (height, width), dtype bool
            Mask of the region. If it is empty, augmenters draw another one.
        """
        validate(self)
        return self._draw(tuple(image_shape[:2]), random_state, masks)

    @abstractmethod
    def _draw(self, shape, random_state, masks):
        """Draw a region of the given shape."""
