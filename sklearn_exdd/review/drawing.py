"""Regions drawn with the mouse, and PNG files of images for the page."""

import io
from dataclasses import dataclass, field

import numpy as np

from sklearn_exdd._map_colors import OUTLINE_COLOR, draw_outline, heat_colors

TOOLS = ("brush", "outline", "box")
# Length of the longer side of an image on the page, in pixels. Small images are enlarged by a whole factor, to at most
# _SMALL pixels, so that single pixels are visible. Images larger than _LARGE pixels are reduced.
_SMALL, _LARGE = 480, 1200
_GREYS, _STRIPE = (110, 145), 8  # of the shade outside a region of interest; width in pixels of the page


@dataclass
class Stroke:
    """Stroke of a drawing tool, in pixels of the image.

    Parameters
    ----------
    tool : {"brush", "outline", "box"}
        Drawing tool. "brush" paints a line. "outline" fills the area inside the line. "box" fills a rectangle between
        the first and the last point.
    width : float
        Width of the brush, in pixels.
    points : list of (x, y)
        Positions of the mouse, in pixels.
    """

    tool: str
    width: float
    points: list = field(default_factory=list)

    def corners(self):
        """Return the left, top, right and bottom of a box."""
        (x0, y0), (x1, y1) = self.points[0], self.points[-1]
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def rasterize(strokes, shape):
    """Convert strokes to a mask.

    Parameters
    ----------
    strokes : list of Stroke
    shape : tuple of (int, int)
        Height and width of the image.

    Returns
    -------
    region : ndarray of shape (height, width), dtype bool
        Mask that is True for pixels covered by a stroke.

    Examples
    --------
    >>> from sklearn_exdd.review.drawing import Stroke, rasterize
    >>> rasterize([Stroke("box", 1, [(4, 2), (1, 0)])], (4, 6)).astype(int)
    array([[0, 1, 1, 1, 1, 0],
           [0, 1, 1, 1, 1, 0],
           [0, 1, 1, 1, 1, 0],
           [0, 0, 0, 0, 0, 0]])
    """
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (shape[1], shape[0]))
    draw = ImageDraw.Draw(canvas)
    for stroke in strokes:
        if stroke.tool == "box":
            draw.rectangle([int(value) for value in stroke.corners()], fill=1)
        elif stroke.tool == "outline" and len(stroke.points) > 2:
            draw.polygon(stroke.points, fill=1)
        else:
            radius = stroke.width / 2
            draw.line(stroke.points, fill=1, width=max(1, round(stroke.width)))
            for x, y in stroke.points:  # round joints and ends
                draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=1)
    return np.array(canvas, dtype=bool)


def svg(strokes, scale):
    """Convert strokes to SVG elements, which the page lays over the image.

    Parameters
    ----------
    strokes : list of Stroke
    scale : float
        Number of pixels on the page per pixel of the image.

    Returns
    -------
    content : str
        SVG elements.
    """
    shapes = []
    for stroke in strokes:
        if stroke.tool == "box":
            x0, y0, x1, y1 = (value * scale for value in stroke.corners())
            shapes.append(f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" {_FILLED}/>')
            continue
        points = " ".join(f"{x * scale:.1f},{y * scale:.1f}" for x, y in stroke.points)
        if stroke.tool == "outline":
            shapes.append(f'<polygon points="{points}" {_FILLED}/>')
        else:
            points += " " + points.split()[-1]  # repeat the last point, so that a mere click gives a dot
            shapes.append(f'<polyline points="{points}" stroke-width="{stroke.width * scale:.1f}" {_PAINTED}/>')
    return "".join(shapes)


_COLOR = "rgb({}, {}, {})".format(*OUTLINE_COLOR)
_FILLED = f'fill="{_COLOR}" fill-opacity="0.4" stroke="{_COLOR}" stroke-width="2"'
_PAINTED = f'fill="none" stroke="{_COLOR}" stroke-opacity="0.5" stroke-linecap="round" stroke-linejoin="round"'


def page_scale(shape):
    """Return the number of pixels on the page per pixel of an image of this shape."""
    longest = max(shape[:2])
    return max(1, _SMALL // longest) if longest <= _LARGE else _LARGE / longest


def preview(image, mask=None, longest=None, roi=None):
    """Encode an image as a PNG file for the page.

    Parameters
    ----------
    image : ndarray of shape (height, width) or (height, width, 3), dtype uint8, uint16 or float in [0, 1]
    mask : ndarray of shape (height, width), dtype bool, default=None
        Mask to outline. If it is None, nothing is outlined.
    longest : int, default=None
        Length of the longer side, in pixels. If it is None, the length is chosen to fit the page.
    roi : ndarray of shape (height, width), dtype bool, default=None
        Region of interest; the image is shaded outside it.

    Returns
    -------
    content : bytes
        Content of a PNG file.
    """
    from PIL import Image

    def enlarged(marks):
        return np.array(Image.fromarray(marks).resize(size, Image.Resampling.NEAREST))

    scale = page_scale(image.shape) if longest is None else longest / max(image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    shown = Image.fromarray(_eight_bits(image)).resize(size, resampling)
    if roi is not None:
        shown = Image.fromarray(_shaded(np.array(shown.convert("RGB")), ~enlarged(roi)))
    if mask is not None:
        pixels = np.array(shown.convert("RGB"))
        draw_outline(pixels, enlarged(mask))
        shown = Image.fromarray(pixels)
    buffer = io.BytesIO()
    shown.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _shaded(pixels, outside):
    """Cover pixels with translucent stripes of two greys, which stand out against both dark and bright images."""
    rows, columns = np.indices(outside.shape, sparse=True)
    stripes = np.where((rows + columns) // _STRIPE % 2, *_GREYS)[outside, None]
    pixels[outside] = np.rint(0.3 * pixels[outside] + 0.7 * stripes)
    return pixels


def heat(image, anomaly_map, threshold):
    """Colour an anomaly map and lay it over its image.

    Parameters
    ----------
    image : ndarray of shape (height, width) or (height, width, 3)
    anomaly_map : ndarray of shape (height, width)
    threshold : float
        Threshold of the detector. The colour scale extends at least to this value, so that the maps of normal images
        stay dark.

    Returns
    -------
    colored : ndarray of shape (height, width, 3), dtype uint8

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if anomaly_map.shape != image.shape[:2]:
        raise ValueError(
            f"Expected an anomaly map of the shape of the image, {image.shape[:2]}, got {anomaly_map.shape}. The "
            "steps before the detector change the size of images, so its maps cannot be shown on them."
        )
    low, high = anomaly_map.min(), max(anomaly_map.max(), threshold)
    share = (anomaly_map - low) / (high - low) if high > low else np.zeros(anomaly_map.shape)
    grey = _eight_bits(image).reshape(*anomaly_map.shape, -1).mean(axis=2, keepdims=True)
    return np.rint(0.65 * heat_colors(share) + 0.35 * grey).astype(np.uint8)


def _eight_bits(image):
    if image.dtype.kind == "f":
        return np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    return (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
