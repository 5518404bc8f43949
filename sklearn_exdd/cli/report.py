"""The report: a single HTML file with the worst images first."""

import io
from base64 import b64encode
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sklearn_exdd.cli.map_colors import gradient
from sklearn_exdd.display.scores import count_scores, score_edges

_N_BYTES = 30_000_000  # of all pictures, before base64 makes a third more of them
_SIDES = (640, 480, 360, 270, 200, 150)  # of a picture, in pixels; the first that is small enough
_N_BINS = 40


class Pictures(NamedTuple):
    """The image and its map, as data URIs, and their size in pixels."""

    image: str
    map: str
    width: int
    height: int


class Thumbnails:
    """Small pictures that fit into one file together.

    Parameters
    ----------
    n_images : int
        Each has two pictures.
    """

    def __init__(self, n_images):
        self._n_bytes = _N_BYTES / max(n_images, 1)

    def make(self, image, pixel_map, colors):
        """The image, and the map over it.

        Parameters
        ----------
        image : ndarray of shape (height, width) or (height, width, 3), dtype uint8, uint16 or float
        pixel_map : ndarray of shape (height, width)
        colors : MapColors

        Returns
        -------
        pictures : Pictures
        """
        from PIL import Image

        if image.dtype != np.uint8:  # 12 bits in a file of 16 would be black
            image = np.rint(255 * (image / max(float(image.max()), 1e-6))).astype(np.uint8)
        full, shares = Image.fromarray(image).convert("RGB"), Image.fromarray(colors.shares(pixel_map).astype("f4"))
        for side in _SIDES:
            small = _fit(full, side)
            over = colors.over(np.asarray(small), np.asarray(shares.resize(small.size)))
            files = [_jpeg(small), _jpeg(Image.fromarray(over))]
            if sum(map(len, files)) <= self._n_bytes:
                break
        return Pictures(*("data:image/jpeg;base64," + b64encode(file).decode() for file in files), *small.size)


def _fit(picture, side):
    """A picture as large as `side`, but of whole pixels where it is smaller."""
    if max(picture.size) >= side:
        picture = picture.copy()
        picture.thumbnail((side, side))
        return picture
    factor = max(1, side // 2 // max(picture.size))
    return picture.resize([factor * length for length in picture.size], resample=0)  # nearest


def _jpeg(picture):
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=85)
    return content.getvalue()


def write_report(path, facts, ranking, n_shown, unusable):
    """Write the HTML file.

    Parameters
    ----------
    path : pathlib.Path
    facts : dict
        The folder, the model, the detector, the threshold, the false_alarm_rate that it promises, or None, and the
        unit of lengths, "pixels" or "mm".
    ranking : list of Result
        Images with a score, the worst first.
    n_shown : int
        How many of them to show.
    unusable : list of Result
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["readable"] = _readable
    scores = np.array([result.score for result in ranking])
    content = environment.get_template("report.html").render(
        **facts,
        time=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        n_images=len({result.name for result in [*ranking, *unusable]}),
        n_defects=sum(result.is_defect for result in ranking),
        histogram=_histogram(scores, facts["threshold"]) if len(scores) else None,
        heat=gradient(),
        shown=ranking[:n_shown],
        n_left_out=max(0, len(ranking) - n_shown),
        unusable=unusable,
    )
    path.write_text(content, encoding="utf-8")


def _readable(text):
    """Names of files may hold bytes that are no text."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _histogram(scores, threshold):
    """Bins of the scores in percent of the highest, on either side of the threshold."""
    # A single huge score must not press all others into one bar.
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
