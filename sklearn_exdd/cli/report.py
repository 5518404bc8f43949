"""Report of the command predict: a single HTML file that shows the images in order of decreasing score."""

from typing import NamedTuple

import numpy as np

from sklearn_exdd._map_colors import OUTLINE_COLOR, draw_outline
from sklearn_exdd.cli.map_colors import gradient
from sklearn_exdd.cli.pages import as_picture, data_uri, fitted, jpeg, write_page
from sklearn_exdd.display.scores import count_scores, score_edges

_N_BYTES = 30_000_000  # maximum size of all thumbnails in a report, in bytes; base64 adds a third to it
# Lengths of the longer side of a thumbnail, in pixels. The first length whose files are small enough is used.
_SIDES = (640, 480, 360, 270, 200, 150)
_N_BINS = 40


class Pictures(NamedTuple):
    """Thumbnails of an image and its map as data URIs, with their common size in pixels."""

    image: str
    map: str
    width: int
    height: int


class Thumbnails:
    """Maker of thumbnails that are small enough to fit into one file together.

    Parameters
    ----------
    n_images : int
        Number of images. Each image has two thumbnails.
    """

    def __init__(self, n_images):
        self._n_bytes = _N_BYTES / max(n_images, 1)

    def make(self, image, pixel_map, mask, colors):
        """Make a thumbnail of an image, and a second thumbnail with the map and an outline of the marked pixels.

        Parameters
        ----------
        image : ndarray of shape (height, width) or (height, width, 3), dtype uint8, uint16 or float
        pixel_map : ndarray of shape (height, width)
        mask : ndarray of shape (height, width), dtype bool, or None
            Marked pixels. If None, the thumbnail does not have an outline.
        colors : MapColors

        Returns
        -------
        pictures : Pictures
        """
        from PIL import Image

        full, shares = as_picture(image), Image.fromarray(colors.shares(pixel_map).astype("f4"))
        marked = None if mask is None else Image.fromarray(mask.astype("f4"))
        for side in _SIDES:
            small = fitted(full, side)
            over = colors.over(np.asarray(small), np.asarray(shares.resize(small.size)))
            if marked is not None:
                # Average the mask when it is reduced. A small region then stays visible in a small thumbnail.
                touched = np.asarray(marked.resize(small.size, Image.Resampling.BOX)) > 0
                # The browser reduces thumbnails, so outlines need a minimum width.
                draw_outline(over, touched, width=max(2, round(max(small.size) / 110)))
            files = [jpeg(small), jpeg(Image.fromarray(over))]
            if sum(map(len, files)) <= self._n_bytes:
                break
        return Pictures(*map(data_uri, files), *small.size)


def write_report(path, facts, ranking, n_shown, unusable):
    """Write the HTML file.

    Parameters
    ----------
    path : pathlib.Path
    facts : dict
        Values for the page: folder, model, detector, threshold, false_alarm_rate, pixel_threshold, min_area and unit.
        `false_alarm_rate` is the rate that the threshold promises, or None. `pixel_threshold` is None if the model does
        not have a pixel threshold. `unit` is the unit of lengths, "pixels" or "mm".
    ranking : list of Result
        Results with a score, in order of decreasing score.
    n_shown : int
        Number of images to show.
    unusable : list of Result
        Results with a problem.
    """
    scores = np.array([result.score for result in ranking])
    write_page(
        path,
        "report.html",
        **facts,
        n_images=len({result.name for result in [*ranking, *unusable]}),
        n_defects=sum(result.is_defect for result in ranking),
        histogram=_histogram(scores, facts["threshold"]) if len(scores) else None,
        heat=gradient(),
        outline="rgb({}, {}, {})".format(*OUTLINE_COLOR),
        shown=ranking[:n_shown],
        n_left_out=max(0, len(ranking) - n_shown),
        unusable=unusable,
    )


def _histogram(scores, threshold):
    """Return the bars of the histogram and the position of the threshold, for the template.

    The height of a bar is given as a percentage of the highest bar. One edge between bars lies at the threshold.
    """
    # Limit the axis. Otherwise, a single huge score would squeeze all other scores into one bar.
    end = scores.max() if scores.min() >= threshold else threshold + 3 * (threshold - scores.min())
    edges = score_edges(np.minimum(scores, end), threshold, _N_BINS)
    counts = count_scores(scores, edges)
    low, high = float(edges[0]), float(edges[-1])
    return {
        "low": low,
        "high": high,
        "is_cut": bool(scores.max() > end),
        "top": int(counts.max()),
        "bars": [
            {"low": start, "high": stop, "n": int(n), "height": 100 * n / counts.max(), "is_defect": start >= threshold}
            for start, stop, n in zip(edges[:-1], edges[1:], counts)
        ],
        "place": 100 * (threshold - low) / (high - low),
    }
