"""Maps of the images with the highest scores, written one by one so that memory does not hold all maps."""

import heapq
import re
from itertools import count

from sklearn_exdd._images import read_image
from sklearn_exdd.cli.map_colors import MapColors
from sklearn_exdd.cli.report import Thumbnails

_N_FIRST = 8  # number of images, the first to be added, from which the colour scale is estimated


class WorstMaps:
    """Map files and thumbnails of the images with the highest scores.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the report. It must have a sub-folder "maps".
    n_shown : int
        Number of images whose maps are kept.
    threshold : float
        Value in the middle of the colour scale.
    """

    def __init__(self, folder, n_shown, threshold):
        self._folder, self._n_shown, self._threshold = folder, n_shown, threshold
        self._thumbnails, self._colors = Thumbnails(n_shown), None
        self._waiting, self._kept, self._numbers = [], [], count()

    def add(self, result, pixel_map, mask):
        """Add the map and the mask of the next image. The mask may be None.

        If there are more than `n_shown` maps, the map with the lowest score is dropped.
        """
        if self._n_shown == 0:
            return
        if self._colors is None:
            self._waiting.append((result, pixel_map, mask))
            if len(self._waiting) == _N_FIRST:
                self._begin()
        else:
            self._draw(result, pixel_map, mask)

    def finish(self, ranking):
        """Rename the map files by rank. `ranking` lists all results in order of decreasing score."""
        if self._waiting:
            self._begin()
        kept = {id(result) for _, _, result in self._kept}
        for rank, result in enumerate((one for one in ranking if id(one) in kept), start=1):
            stem = re.sub(r"[^\w.-]", "_", result.path.stem)[:50]
            name = f"maps/{rank:04d}_{stem}.png"
            (self._folder / result.map).rename(self._folder / name)
            result.map = name

    def _begin(self):
        """Estimate the colour scale from the first maps, and draw these maps."""
        self._colors = MapColors([pixel_map for _, pixel_map, _ in self._waiting], self._threshold)
        for waiting in self._waiting:
            self._draw(*waiting)
        self._waiting = []

    def _draw(self, result, pixel_map, mask):
        number = next(self._numbers)
        if len(self._kept) == self._n_shown and result.score <= self._kept[0][0]:
            return
        try:
            result.pictures = self._thumbnails.make(read_image(result.path), pixel_map, mask, self._colors)
        except (OSError, ValueError) as error:  # the file has changed since its score was computed
            result.problem = str(error)
            return
        result.map = f"maps/{number}"
        self._colors.write(pixel_map, self._folder / result.map)
        heapq.heappush(self._kept, (result.score, -number, result))
        if len(self._kept) > self._n_shown:
            _, _, other = heapq.heappop(self._kept)
            (self._folder / other.map).unlink()
            other.map, other.pictures = "", None
