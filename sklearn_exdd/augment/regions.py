"""Region drawers. A region drawer makes a boolean mask with the shape and position of a synthetic defect."""

from numbers import Integral, Real

import numpy as np
from scipy import ndimage
from sklearn.utils._param_validation import Interval

from sklearn_exdd._images import Masks, is_image
from sklearn_exdd._params import check_interval, is_finite
from sklearn_exdd.augment.curves import CrackRegions, RidgedRegions
from sklearn_exdd.augment.noise import perlin_noise
from sklearn_exdd.augment.region_drawer import RegionDrawer

_MIN_AREA = 16  # minimum area of a rectangle, in pixels
_MAX_SCALE = 12  # maximum exponent of the number of cells; more cells than pixels would only waste memory
_EIGHT = np.ones((3, 3), dtype=bool)  # 8-connectivity: diagonal neighbours belong to the same blob


class PerlinRegions(RegionDrawer):
    """Region drawer for blobs. A blob lies where Perlin noise exceeds a threshold, as in DRAEM, MemSeg and RealNet.

    Parameters
    ----------
    scales : tuple of (int, int), default=(0, 5)
        Range of the exponent s, including both ends. The noise has ``2 ** s`` cells along an axis, and s is drawn
        separately for each axis. The maximum is 12. The published range is (0, 5).
    threshold : float, default=0.5
        Threshold of the noise, in (-1, 1). The noise lies in [-1, 1].
    n_blobs : int or None, default=None
        Number of blobs to keep, selected at random. None keeps all blobs.
    rotate : bool, default=True
        Whether to rotate the noise by up to 90 degrees in either direction.
    max_area : float, default=0.25
        Maximum fraction of the image that the blobs may cover together, in (0, 1]. If they cover more, blobs are
        dropped at random.

    References
    ----------
    .. [1] V. Zavrtanik et al., "DRAEM", ICCV 2021, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.augment import PerlinRegions
    >>> region = PerlinRegions(n_blobs=1).draw((64, 96), np.random.RandomState(0))
    >>> region.shape, region.dtype
    ((64, 96), dtype('bool'))
    """

    _parameter_constraints = {
        "scales": [tuple, list],
        "threshold": [Interval(Real, -1, 1, closed="neither")],
        "n_blobs": [Interval(Integral, 1, None, closed="left"), None],
        "rotate": ["boolean"],
        "max_area": [Interval(Real, 0, 1, closed="right")],
    }

    def __init__(self, *, scales=(0, 5), threshold=0.5, n_blobs=None, rotate=True, max_area=0.25):
        self.scales = scales
        self.threshold = threshold
        self.n_blobs = n_blobs
        self.rotate = rotate
        self.max_area = max_area

    def _check_params(self):
        check_interval("scales", self.scales, 0)
        if not all(isinstance(scale, Integral) and scale <= _MAX_SCALE for scale in self.scales):
            raise ValueError(f"scales: expected two integers of at most {_MAX_SCALE}, got {self.scales!r}.")

    def _draw(self, shape, random_state, masks):
        height, width = shape
        n_cells = 2 ** random_state.randint(self.scales[0], self.scales[1] + 1, size=2)
        side = int(np.ceil(np.hypot(height, width))) if self.rotate else 0
        noise = perlin_noise((side or height, side or width), n_cells, random_state)
        if self.rotate:
            angle = np.deg2rad(random_state.uniform(-90, 90))
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            corner = np.array([(side - height) // 2, (side - width) // 2]) - (side - 1) / 2
            noise = ndimage.affine_transform(
                noise, turn, turn @ corner + (side - 1) / 2, output_shape=(height, width), order=1, mode="nearest"
            )
        blobs, n_found = ndimage.label(noise > self.threshold, structure=_EIGHT)
        order = 1 + random_state.permutation(n_found)[: self.n_blobs]
        areas = np.bincount(blobs.ravel(), minlength=n_found + 1)[order]
        kept = np.zeros(n_found + 1, dtype=bool)
        kept[order[np.cumsum(areas) <= self.max_area * height * width]] = True
        return kept[blobs]


class RectangleRegions(RegionDrawer):
    """Region drawer for random rectangles, such as CutPaste's patches and its scars, which are thin and rotated.

    Parameters
    ----------
    area : tuple of (float, float), default=(0.02, 0.15)
        Range of the fraction of the image that the rectangle covers. The default is the published range for patches.
    aspect : tuple of (float, float), default=(0.3, 3.3)
        Range of the ratio of height to width. Values are drawn on a logarithmic scale. The default is the published
        range for patches.
    angle : tuple of (float, float), default=(0, 0)
        Range of the rotation, in degrees. The published range for scars is -45 to 45.

    References
    ----------
    .. [1] C.-L. Li et al., "CutPaste", CVPR 2021, sections 2.2 and A.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.augment import RectangleRegions
    >>> scar = RectangleRegions(area=(0.002, 0.01), aspect=(3, 12), angle=(-45, 45))
    >>> bool(scar.draw((64, 96), np.random.RandomState(0)).any())
    True
    """

    _parameter_constraints = {name: [tuple, list] for name in ("area", "aspect", "angle")}

    def __init__(self, *, area=(0.02, 0.15), aspect=(0.3, 3.3), angle=(0, 0)):
        self.area = area
        self.aspect = aspect
        self.angle = angle

    def _check_params(self):
        for name, low in (("area", 0), ("aspect", 0.01), ("angle", None)):
            check_interval(name, getattr(self, name), low)

    def _draw(self, shape, random_state, masks):
        height, width = shape
        area = max(random_state.uniform(*self.area) * height * width, _MIN_AREA)
        aspect = np.exp(random_state.uniform(*np.log(self.aspect)))
        angle = np.deg2rad(random_state.uniform(*self.angle))
        sides = max(1, np.sqrt(area * aspect)), max(1, np.sqrt(area / aspect))
        rows, columns = np.ogrid[:height, :width]
        rows, columns = rows - random_state.uniform(0, height - 1), columns - random_state.uniform(0, width - 1)
        down = rows * np.cos(angle) - columns * np.sin(angle)
        right = rows * np.sin(angle) + columns * np.cos(angle)
        return (np.abs(down) <= sides[0] / 2) & (np.abs(right) <= sides[1] / 2)


class BoxRegions(RegionDrawer):
    """Region drawer that selects one of several given rectangles at random.

    Parameters
    ----------
    boxes : list of tuple (top, left, bottom, right)
        Rectangles, in pixels of the image. The row `bottom` and the column `right` lie outside the rectangle.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.augment import BoxRegions
    >>> int(BoxRegions([(10, 20, 14, 30)]).draw((64, 96), np.random.RandomState(0)).sum())
    40
    """

    def __init__(self, boxes):
        self.boxes = boxes

    def _check_params(self):
        _check_list("boxes", self.boxes)
        for number, box in enumerate(self.boxes):
            if not hasattr(box, "__len__") or len(box) != 4 or not all(map(is_finite, box)):
                raise ValueError(
                    f"boxes[{number}]: expected four numbers (top, left, bottom, right) in pixels, got {box!r}."
                )

    def _draw(self, shape, random_state, masks):
        number = random_state.randint(len(self.boxes))
        top, left, bottom, right = self.boxes[number]
        height, width = shape
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise ValueError(
                f"boxes[{number}]: expected (top, left, bottom, right) inside an image of {height} x {width} pixels, "
                f"got {tuple(self.boxes[number])}."
            )
        region = np.zeros((height, width), dtype=bool)
        region[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
        return region


class PolygonRegions(RegionDrawer):
    """Region drawer that selects one of several given polygons at random.

    Parameters
    ----------
    polygons : list of array-like of shape (n_vertices, 2)
        Polygons. Each vertex is a pair (row, column), in pixels of the image.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.augment import PolygonRegions
    >>> triangle = [(10, 10), (40, 10), (10, 40)]
    >>> bool(PolygonRegions([triangle]).draw((64, 96), np.random.RandomState(0))[12, 12])
    True
    """

    def __init__(self, polygons):
        self.polygons = polygons

    def _check_params(self):
        _check_list("polygons", self.polygons)
        for number, polygon in enumerate(self.polygons):
            try:
                vertices = np.asarray(polygon, dtype=float)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"polygons[{number}]: expected at least 3 vertices (row, column), got {polygon!r}."
                ) from error
            if vertices.ndim != 2 or vertices.shape[1] != 2 or len(vertices) < 3:
                raise ValueError(
                    f"polygons[{number}]: expected at least 3 vertices (row, column), got shape {vertices.shape}."
                )
            if not np.isfinite(vertices).all():
                raise ValueError(f"polygons[{number}]: expected finite vertices, got NaN or infinity.")

    def _draw(self, shape, random_state, masks):
        from PIL import Image, ImageDraw

        number = random_state.randint(len(self.polygons))
        vertices = np.asarray(self.polygons[number], dtype=float)
        height, width = shape
        if vertices.min() < 0 or (vertices.max(axis=0) > (height, width)).any():
            raise ValueError(
                f"polygons[{number}]: expected vertices inside an image of {height} x {width} pixels, got rows "
                f"{vertices[:, 0].min():g} to {vertices[:, 0].max():g} and columns {vertices[:, 1].min():g} to "
                f"{vertices[:, 1].max():g}."
            )
        canvas = Image.new("1", (width, height))
        ImageDraw.Draw(canvas).polygon([(column, row) for row, column in vertices], fill=1)
        return np.array(canvas, dtype=bool)


class MaskRegions(RegionDrawer):
    """Region drawer that flips, rotates, scales and moves masks of real or hand-drawn defects.

    Parameters
    ----------
    masks : list of ndarray of shape (height, width) or of paths, default=None
        Masks to select from, in the form that the guide on masks describes. None uses the masks of real defects that
        the ``fit`` of the augmenter received.
    flip : bool, default=True
        Whether to mirror masks at random. Each axis is mirrored with probability 1/2.
    rotation : float, default=15.0
        Maximum rotation of a mask, in degrees, clockwise or counterclockwise.
    scale : tuple of (float, float), default=(0.8, 1.25)
        Range of the scale factor of a mask.
    move : bool, default=True
        Whether to move masks to random positions. If False, the centre of a mask keeps its position.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.augment import MaskRegions
    >>> drawn = np.zeros((64, 96), dtype=bool)
    >>> drawn[10:14, 20:30] = True
    >>> exactly = MaskRegions([drawn], flip=False, rotation=0, scale=(1, 1), move=False)
    >>> np.array_equal(exactly.draw((64, 96), np.random.RandomState(0)), drawn)
    True
    """

    _parameter_constraints = {
        "flip": ["boolean"],
        "rotation": [Interval(Real, 0, 180, closed="both")],
        "scale": [tuple, list],
        "move": ["boolean"],
    }

    def __init__(self, masks=None, *, flip=True, rotation=15.0, scale=(0.8, 1.25), move=True):
        self.masks = masks
        self.flip = flip
        self.rotation = rotation
        self.scale = scale
        self.move = move

    def _check_params(self):
        if self.masks is not None:
            _check_list("masks", self.masks)
            for number, mask in enumerate(self.masks):
                if not is_image(mask):
                    raise ValueError(f"masks[{number}]: expected an array (height, width) or a path, got {mask!r}.")
        check_interval("scale", self.scale, 0)

    def _draw(self, shape, random_state, masks):
        mask = self._one(masks, random_state)
        height, width = shape
        if not self.move and mask.shape != (height, width):
            raise ValueError(
                f"masks: expected the shape of the image, ({height}, {width}), for move=False, got {mask.shape}. "
                "Set move=True, or pass masks of that shape."
            )
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        center = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2
        if self.flip:
            cut = cut[:: random_state.choice([-1, 1]), :: random_state.choice([-1, 1])]
        angle, scale = random_state.uniform(-self.rotation, self.rotation), random_state.uniform(*self.scale)
        if angle:
            # Linear interpolation, a low threshold and a border prevent gaps in thin lines.
            cut = ndimage.rotate(np.pad(cut, 1).astype(np.float32), angle, order=1) > 0.4
        if scale != 1:
            cut = ndimage.zoom(cut.astype(np.float32), scale, order=1, grid_mode=True, mode="grid-constant") > 0.4
        if self.move:
            center = [
                random_state.uniform(min(own / 2, size / 2), max(size - own / 2, size / 2)) - 0.5
                for own, size in zip(cut.shape, (height, width))
            ]
        region = np.zeros((height, width), dtype=bool)
        top, left = (round(at - (own - 1) / 2) for at, own in zip(center, cut.shape))
        inside = cut[max(0, -top) : height - top, max(0, -left) : width - left]
        top, left = max(0, top), max(0, left)
        region[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        return region

    def check_masks(self, masks):
        """Check that there are masks to select from.

        Parameters
        ----------
        masks : sequence of ndarray
            Masks of the real defects.
        """
        if self.masks is None and len(masks) == 0:
            raise ValueError(
                "regions: expected masks of real defects in fit for MaskRegions(), got none. Pass fit(X, y, "
                "masks=masks), or MaskRegions(masks)."
            )

    def _one(self, masks, random_state):
        self.check_masks(masks)
        if self.masks is None:
            return masks[random_state.randint(len(masks))]
        number = random_state.randint(len(self.masks))
        mask = Masks(self.masks, len(self.masks)).get(number)
        if not mask.any():
            raise ValueError(f"masks[{number}]: expected a mask that marks some pixels, got an empty mask.")
        return mask


def otsu_foreground(image):
    """Separate a part from a plain background with Otsu's threshold [1]_.

    Parameters
    ----------
    image : ndarray of shape (height, width, channels), dtype float in [0, 1]

    Returns
    -------
    foreground : ndarray of shape (height, width), dtype bool
        Mask of the part. It is the brighter or the darker side of the threshold, whichever covers less of the border of
        the image.

    References
    ----------
    .. [1] N. Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC, 1979.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.augment import otsu_foreground
    >>> image = np.zeros((32, 32, 1))
    >>> image[8:24, 8:24] = 0.8
    >>> int(otsu_foreground(image).sum())
    256
    """
    grey = image.mean(axis=2)
    counts, edges = np.histogram(grey, bins=256)
    centers = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = grey.size - below
    sums = np.cumsum(counts * centers)
    between = (sums[-1] * below / grey.size - sums[:-1]) ** 2 / np.maximum(below * above, 1)
    bright = grey > edges[1 + np.argmax(between)]
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    return ~bright if border.mean() > 0.5 else bright


NAMED_REGIONS = {
    "perlin": PerlinRegions,
    "crack": CrackRegions,
    "ridged": RidgedRegions,
    "rectangle": RectangleRegions,
    "masks": MaskRegions,
}


def region_drawers(regions):
    """Convert the parameter `regions` of an augmenter to a list of region drawers. "auto" is not accepted.

    Parameters
    ----------
    regions : str, region drawer or list of them

    Returns
    -------
    drawers : list of region drawers
    """
    regions = list(regions) if isinstance(regions, (list, tuple)) else [regions]
    drawers = []
    for item in regions:
        if isinstance(item, str) and item in NAMED_REGIONS:
            item = NAMED_REGIONS[item]()
        if not hasattr(item, "draw"):
            raise ValueError(f"regions: expected a region drawer or one of {sorted(NAMED_REGIONS)}, got {item!r}.")
        drawers.append(item)
    if not drawers:
        raise ValueError("regions: expected at least one region drawer, got an empty list.")
    return drawers


def _check_list(name, items):
    if not isinstance(items, (list, tuple, np.ndarray)) or getattr(items, "ndim", 1) == 0 or len(items) == 0:
        raise ValueError(f"{name}: expected a non-empty list, got {items!r}.")
