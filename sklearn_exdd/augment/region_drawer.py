"""Base class of the region drawers. It checks the parameters before a region is drawn."""

from abc import abstractmethod

from sklearn.base import BaseEstimator

from sklearn_exdd._params import CheckedParams, validate


class RegionDrawer(CheckedParams, BaseEstimator):
    """Base class of the region drawers. A subclass implements ``_draw(shape, random_state, masks)``.

    Augmenters also accept an object of any other class with a method ``draw(image_shape, random_state, masks)``.
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
            Mask of the region. If the mask is empty, augmenters draw another region.
        """
        validate(self)
        return self._draw(tuple(image_shape[:2]), random_state, masks)

    @abstractmethod
    def _draw(self, shape, random_state, masks):
        """Draw a region of the given shape."""
