"""Region of interest of a detector, applied in a graph."""

import numpy as np

from sklearn_exdd.features.patch_grid import PatchGrid

_ROW = 64  # maximum number of patches whose distances are computed at a time


class Region:
    """Region of interest that applies to all images. The images must have the size of the region.

    Parameters
    ----------
    detector : ExDDDetector or LinearProbeDetector
        Detector fitted with `roi`.
    """

    def __init__(self, detector):
        self.mask, extractor = detector.roi_, detector.feature_extractor_
        colours = (3,) if detector.n_channels_ == 3 else ()
        blank = detector._in_region(detector._images([np.zeros((*self.mask.shape, *colours), np.uint8)], "roi"))
        (feature_map,) = extractor.iter_transform(blank)
        self._grid = PatchGrid.of_map(feature_map, blank, 0, extractor)

    @property
    def n_patches(self):
        """Number of patches that touch the region."""
        return self._grid.n_patches

    @property
    def rings(self):
        """Distance of each patch from the border of the region, as the number of patches in between."""
        return self._grid.rings

    def filled(self, graph, planes):
        """Replace pixels outside the region with the mean colour of the region. The mean is rounded to 8 bits."""
        inside = graph.Where(self.mask, planes, np.float32(0))
        total = graph.ReduceSum(graph.double(inside), [2, 3])
        levels = graph.Round(graph.Mul(graph.Div(total, np.float64(self.mask.sum())), np.float64(255)))
        return graph.Where(self.mask, planes, graph.float(graph.Div(levels, np.float64(255))))

    def patches(self, graph, maps):
        """Select the patches that touch the region from feature maps.

        The result has the shape (batch, n_patches, n_features).
        """
        return self._taken(graph, maps, np.flatnonzero(self._grid.inside))

    def rows(self, graph, maps):
        """Select the patches that touch the region from feature maps, and arrange them in rows.

        The result has the shape (batch, n_rows, n_columns, n_features). An incomplete last row is filled with copies of
        the last patch.
        """
        n_columns = min(_ROW, self.n_patches)
        positions = np.pad(np.flatnonzero(self._grid.inside), (0, -self.n_patches % n_columns), mode="edge")
        taken = self._taken(graph, maps, positions)
        return graph.Reshape(taken, graph.vector(0, -1, n_columns, graph.size(maps, 3)))

    @staticmethod
    def _taken(graph, maps, positions):
        flat = graph.Reshape(maps, graph.vector(0, -1, graph.size(maps, 3)))
        return graph.Gather(flat, positions, axis=1)

    def spread(self, graph, scores):
        """Arrange patch scores in maps. Patches outside the region get the lowest score of the image.

        Parameters
        ----------
        graph : Graph
        scores : str
            Scores of the patches that touch the region, a tensor of shape (batch, n_patches).

        Returns
        -------
        maps : str
            Tensor of shape (batch, height', width').
        """
        positions = np.full(self._grid.shape, self.n_patches)
        positions[self._grid.inside] = np.arange(self.n_patches)
        return graph.Gather(graph.Concat(scores, graph.ReduceMin(scores, [1]), axis=1), positions, axis=1)

    def lowest_outside(self, graph, pixel_maps):
        """Set all pixels outside the region to the lowest value inside the region."""
        lowest = graph.ReduceMin(graph.Where(self.mask, pixel_maps, np.float32(np.inf)), [1, 2])
        return graph.Where(self.mask, pixel_maps, lowest)


def region_of(detector):
    """Return the region of interest of a detector, or None if the detector does not have one."""
    return None if getattr(detector, "roi_", None) is None else Region(detector)
