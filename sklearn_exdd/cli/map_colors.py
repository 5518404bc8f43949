"""Colours of anomaly maps in image files."""

import numpy as np

from sklearn_exdd._map_colors import HEAT_COLORS, heat_colors


class MapColors:
    """Colour scale shared by all maps of a report.

    The scale is linear from its lowest value to the threshold. Above the threshold, it is compressed and has no upper
    end.

    Parameters
    ----------
    some_maps : list of ndarray of shape (height, width)
        Maps from which the lowest value of the scale is estimated. This value gets the darkest colour.
    threshold : float
        Value in the middle of the scale, above which pixels are outlined.

    Attributes
    ----------
    low : float
        Lowest value of the scale.
    """

    def __init__(self, some_maps, threshold):
        self.threshold = threshold
        self.low = float(np.median([pixel_map.min() for pixel_map in some_maps])) if some_maps else threshold
        if self.low >= threshold:  # all images are defective
            self.low = threshold - (abs(threshold) or 1.0)

    def shares(self, pixel_map):
        """Return the position of each value of a map on the scale, in [0, 1)."""
        times = np.maximum((pixel_map - self.low) / (self.threshold - self.low), 0)
        return np.where(times <= 1, times / 2, 1 - 1 / (2 * np.maximum(times, 1)))

    def write(self, pixel_map, path):
        """Write a map as a PNG file. Each pixel holds the number of a colour in the palette of the file.

        Viewers show the colours of the palette. Programs can compute the values of the map from the numbers and from
        the text entries "low" and "threshold" of the file. The value of the number n is
        ``low + (threshold - low) * times``. Up to the threshold, ``times = n / 127.5``. Above the threshold,
        ``times = 127.5 / (255 - n)``.
        """
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        picture = Image.fromarray(np.minimum(np.rint(255 * self.shares(pixel_map)), 254).astype(np.uint8))
        picture.putpalette(np.rint(heat_colors(np.linspace(0, 1, 256))).astype(np.uint8).tobytes())
        facts = PngInfo()
        facts.add_text("low", repr(self.low))
        facts.add_text("threshold", repr(self.threshold))
        picture.save(path, "PNG", pnginfo=facts)

    def over(self, image, shares):
        """Paint a map over an image of the same size.

        Parameters
        ----------
        image : ndarray of shape (height, width, 3), dtype uint8
        shares : ndarray of shape (height, width)
            Positions of the map's values on the scale. Where a value is far below the threshold, the image stays
            visible.

        Returns
        -------
        picture : ndarray of shape (height, width, 3), dtype uint8
        """
        opacity = np.interp(shares, [0, 0.35, 0.5, 0.6, 1], [0, 0.08, 0.35, 0.5, 0.65])[..., None]
        return np.rint(opacity * heat_colors(shares) + (1 - opacity) * image).astype(np.uint8)


def gradient():
    """Return the colours of the scale as the colour stops of a CSS gradient."""
    return ", ".join("rgb({}, {}, {})".format(*color) for color in HEAT_COLORS)
