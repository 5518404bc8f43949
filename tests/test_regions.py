"""Places of defects: the region drawers, the noise behind them, and the foreground."""

import time

import numpy as np
import pytest
from scipy import ndimage
from sklearn.base import BaseEstimator, clone

from sklearn_exdd.augment import (
    BoxRegions,
    CrackRegions,
    CutPasteDefectAugmenter,
    DefectPasteAugmenter,
    MaskRegions,
    OffsetDefectAugmenter,
    PerlinRegions,
    PolygonRegions,
    RectangleRegions,
    RidgedRegions,
    otsu_foreground,
)
from sklearn_exdd.augment.noise import correlated_noise, perlin_noise, ridge_distance

SHAPES = [(64, 96), (65, 33), (200, 40)]


def hand_drawn(shape=(64, 96)):
    mask = np.zeros(shape, dtype=bool)
    mask[10:16, 20:30] = True
    mask[16:20, 20:22] = True
    return mask


DRAWERS = [
    PerlinRegions(),
    PerlinRegions(rotate=False, n_blobs=1),
    RidgedRegions(),
    CrackRegions(),
    RectangleRegions(angle=(-45, 45)),
    BoxRegions([(1, 2, 30, 20), (5, 5, 20, 33)]),
    PolygonRegions([[(10, 10), (40, 10), (10, 30)], [(0, 0), (0, 33), (64, 33), (64, 0)]]),
    MaskRegions([hand_drawn()]),
]
each_drawer = pytest.mark.parametrize("drawer", DRAWERS, ids=repr)


def draws(drawer, shape, n_draws=40, masks=()):
    """Return the regions drawn with the seeds 0 to `n_draws` - 1, without the empty ones."""
    regions = [drawer.draw(shape, np.random.RandomState(seed), masks) for seed in range(n_draws)]
    return [region for region in regions if region.any()]


def n_blobs(region):
    return ndimage.label(region, structure=np.ones((3, 3)))[1]


def bounds(region):
    """Return the top, left, bottom and right of a region."""
    rows, columns = np.nonzero(region)
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def spread(region):
    """Return the standard deviations along and across the main axis of a region."""
    values = np.linalg.eigvalsh(np.cov(np.argwhere(region).T))
    return np.sqrt(values[::-1].clip(0))


def direction(region):
    """Return the direction of a region's main axis in degrees, within [0, 180); 0 is along the rows."""
    _, vectors = np.linalg.eigh(np.cov(np.argwhere(region).T))
    return np.degrees(np.arctan2(*vectors[:, 1])) % 180


# All drawers


@each_drawer
@pytest.mark.parametrize("shape", SHAPES)
def test_a_region_is_bool_of_the_images_shape_and_follows_the_seed(drawer, shape):
    regions = [drawer.draw(shape, np.random.RandomState(seed)) for seed in (0, 0, *range(1, 10))]
    for region in regions:
        assert region.shape == shape
        assert region.dtype == bool
    np.testing.assert_array_equal(regions[0], regions[1])
    assert len({region.tobytes() for region in regions}) > 1
    assert sum(region.any() for region in regions) > 5


@each_drawer
def test_drawers_take_a_shape_with_channels_and_leave_the_global_generator(drawer):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    regions = [drawer.draw(shape, np.random.RandomState(1)) for shape in [(64, 96), (64, 96, 3)]]
    np.testing.assert_array_equal(*regions)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@each_drawer
def test_drawers_can_be_cloned_and_show_their_parameters(drawer):
    copy = clone(drawer)
    assert repr(copy) == repr(drawer)
    for seed in range(3):
        np.testing.assert_array_equal(
            *(one.draw((64, 96), np.random.RandomState(seed)) for one in (copy, drawer)),
        )


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 3), (8, 8), (5, 40)])
@pytest.mark.parametrize(
    "drawer",
    [PerlinRegions(), RidgedRegions(), CrackRegions(), RectangleRegions(), MaskRegions([hand_drawn()])],
    ids=repr,
)
def test_tiny_images_are_no_error(drawer, shape):
    for seed in range(10):
        region = drawer.draw(shape, np.random.RandomState(seed))
        assert region.shape == shape
        assert region.dtype == bool


@pytest.mark.slow
@pytest.mark.parametrize(
    "drawer",
    [
        PerlinRegions(),
        RidgedRegions(),
        CrackRegions(),
        RectangleRegions(angle=(-45, 45)),
        BoxRegions([(0, 0, 1999, 2999)]),
        PolygonRegions([[(0, 0), (2000, 0), (0, 3000)]]),
        MaskRegions([np.ones((700, 700), dtype=bool)]),
    ],
    ids=lambda drawer: type(drawer).__name__,
)
def test_large_images_are_fast(drawer):
    start = time.process_time()
    region = drawer.draw((2000, 3000), np.random.RandomState(0))
    assert time.process_time() - start < 4  # usually 0.1 to 1 s
    assert region.any()


# Noise


def naive_perlin_noise(shape, n_cells, random_state):
    angles = random_state.uniform(0, 2 * np.pi, size=(n_cells[0] + 1, n_cells[1] + 1))
    noise = np.empty(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            y, x = i * n_cells[0] / shape[0], j * n_cells[1] / shape[1]
            top, left = int(y), int(x)
            value = 0
            for row in (top, top + 1):
                for column in (left, left + 1):
                    ramp = np.sin(angles[row, column]) * (y - row) + np.cos(angles[row, column]) * (x - column)
                    fade = [6 * t**5 - 15 * t**4 + 10 * t**3 for t in (1 - abs(y - row), 1 - abs(x - column))]
                    value += ramp * fade[0] * fade[1]
            noise[i, j] = np.sqrt(2) * value
    return noise


@pytest.mark.parametrize("n_cells", [(1, 1), (4, 2), (32, 7)])
@pytest.mark.parametrize("shape", [(32, 32), (13, 40)])
def test_perlin_noise_is_that_of_the_naive_twin(shape, n_cells):
    noise = perlin_noise(shape, n_cells, np.random.RandomState(0))
    np.testing.assert_allclose(noise, naive_perlin_noise(shape, n_cells, np.random.RandomState(0)), atol=1e-12)
    assert np.abs(noise).max() <= 1


def test_perlin_noise_fills_its_range():
    noise = perlin_noise((400, 400), (16, 16), np.random.RandomState(0))
    assert noise.min() < -0.7
    assert noise.max() > 0.7
    assert abs(noise.mean()) < 0.1


@pytest.mark.parametrize("length", [0, 2, 5, (8, 2)])
def test_correlated_noise_has_unit_variance_and_its_correlation_length(length):
    noise = np.stack([correlated_noise((60, 50), length, np.random.RandomState(seed)) for seed in range(200)])
    np.testing.assert_allclose(noise.var(axis=0).mean(), 1, atol=0.05)
    np.testing.assert_allclose(noise.mean(), 0, atol=0.05)
    for axis, own in enumerate(np.broadcast_to(length, 2)):
        lag = 3
        shifted = np.roll(noise, lag, axis=axis + 1)
        expected = np.exp(-(lag**2) / (4 * own**2)) if own else 0
        assert (noise * shifted).mean() == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("elongation", [1, 5, 50])
def test_the_ridge_runs_through_its_centre_and_near_it_its_distance_is_that_in_pixels(elongation):
    for seed in range(5):
        distance = ridge_distance((80, 100), (40, 50), 0.3, elongation, 60, np.random.RandomState(seed))
        assert distance[40, 50] < 1e-9
        counted = ndimage.distance_transform_edt(distance > 0.5)
        near = (counted > 0) & (counted < 3)
        assert np.median(np.abs(distance - counted)[near]) < 0.5


# Perlin


@pytest.mark.parametrize("n", [1, 2, 5])
def test_so_many_blobs_are_kept(n):
    regions = draws(PerlinRegions(scales=(4, 4), n_blobs=n, max_area=1), (128, 128))
    assert [n_blobs(region) for region in regions] == [n] * 40
    assert max(n_blobs(region) for region in draws(PerlinRegions(scales=(4, 4), max_area=1), (128, 128))) > 5


@pytest.mark.parametrize("max_area", [0.02, 0.1, 0.25])
def test_the_area_stays_below_its_maximum(max_area):
    areas = [region.mean() for region in draws(PerlinRegions(max_area=max_area, threshold=0.1), (80, 60), 100)]
    assert max(areas) <= max_area
    assert max(areas) > 0.5 * max_area


def test_without_limits_the_region_is_the_noise_above_the_threshold():
    for threshold in (-0.2, 0.3, 0.5):
        drawer = PerlinRegions(scales=(2, 2), threshold=threshold, rotate=False, max_area=1)
        random_state = np.random.RandomState(4)
        assert (2 ** random_state.randint(2, 3, size=2) == 4).all()
        noise = perlin_noise((50, 70), (4, 4), random_state)
        np.testing.assert_array_equal(drawer.draw((50, 70), np.random.RandomState(4)), noise > threshold)


def test_a_higher_threshold_and_more_cells_give_smaller_blobs():
    def area_of_blobs(**params):
        regions = draws(PerlinRegions(max_area=1, **params), (128, 128))
        return sum(region.sum() for region in regions) / sum(n_blobs(region) for region in regions)

    assert area_of_blobs(scales=(1, 2)) > 4 * area_of_blobs(scales=(4, 5))
    assert area_of_blobs(threshold=0.3) > 1.5 * area_of_blobs(threshold=0.6)


def test_each_axis_has_its_own_scale_and_all_scales_are_drawn():
    seen = set()

    class Recording(np.random.RandomState):
        def randint(self, *args, **kwargs):
            drawn = super().randint(*args, **kwargs)
            seen.add(tuple(np.atleast_1d(drawn)))
            return drawn

    for seed in range(200):
        PerlinRegions(scales=(0, 2), rotate=False).draw((16, 16), Recording(seed))
    assert seen == {(a, b) for a in range(3) for b in range(3)}


def test_the_noise_is_turned_in_both_directions_and_the_turn_is_right():
    regions = draws(PerlinRegions(n_blobs=1, max_area=1), (128, 128), 100)
    directions = [direction(region) for region in regions if region.sum() > 20]
    assert min(np.histogram(directions, bins=4, range=(0, 180))[0]) >= 4
    for seed in range(5):
        random_state = np.random.RandomState(seed)
        assert (2 ** random_state.randint(3, 4, size=2) == 8).all()
        noise = perlin_noise((100, 100), (8, 8), random_state)  # each side is hypot(60, 80) = 100
        angle = random_state.uniform(-90, 90)
        turned = ndimage.rotate(noise, angle, reshape=False, order=1, mode="nearest")[20:80, 10:90]
        region = PerlinRegions(scales=(3, 3), max_area=1).draw((60, 80), np.random.RandomState(seed))
        np.testing.assert_array_equal(region, turned > 0.5)


# Curves


@pytest.mark.parametrize("width", [(1.5, 5), (3, 3), (8, 8)])
def test_a_curve_is_one_piece_within_its_width_and_length(width):
    drawer = RidgedRegions(width=width, length=(0.3, 0.6))
    regions = draws(drawer, (120, 160), 60)
    assert len(regions) > 50
    thickness, extents = [], []
    for region in regions:
        assert n_blobs(region) == 1
        top, left, bottom, right = bounds(region)
        extents.append(max(bottom - top, right - left) / 120)
        # Twice the distance to the border, which lies half a pixel further inside.
        thickness.append(2 * ndimage.distance_transform_edt(np.pad(region, 1)).max() - 1)
    assert max(extents) <= 0.6 * np.sqrt(2) + 0.02
    assert np.median(extents) > 0.15
    # Curves are wider where they bend or meet, and the distance is exact only to first order.
    assert np.median(thickness) <= width[1] + 1
    assert np.quantile(thickness, 0.8) <= 2 * width[1]
    assert np.median(thickness) >= width[0] - 1


def test_a_curve_lies_within_half_its_length_of_one_pixel():
    for region in draws(RidgedRegions(length=(0.4, 0.4)), (100, 100), 20):
        points = np.argwhere(region)
        farthest = np.linalg.norm(points[:, None] - points[None], axis=2).max(axis=1)
        assert farthest.min() <= 20 + 1


@pytest.mark.slow
def test_more_elongation_is_straighter():
    def straightness(elongation):
        drawer = RidgedRegions(width=(2, 2), length=(0.7, 0.7), elongation=(elongation, elongation))
        along, across = np.transpose([spread(region) for region in draws(drawer, (200, 200)) if region.sum() > 60])
        return np.median(along / across)

    assert straightness(30) > 2 * straightness(1)


@pytest.mark.parametrize("angle", [0, 45, 90])
def test_a_straight_curve_runs_in_its_direction(angle):
    drawer = RidgedRegions(width=(2, 2), length=(0.7, 0.7), elongation=(50, 50), angle=(angle, angle))
    directions = []
    for region in draws(drawer, (200, 200)):
        if region.sum() > 60:
            directions.append(2 * np.radians(direction(region)))  # doubled, because a line has no sign
    mean = np.degrees(np.angle(np.exp(1j * np.array(directions)).mean())) / 2
    assert abs((mean - angle + 90) % 180 - 90) < 10


# Cracks


def test_a_crack_is_one_piece_as_long_and_as_wide_as_drawn():
    # The crack has no bends. It lies well inside the image or is cut off by its border.
    drawer = CrackRegions(width=(3, 3), length=(0.4, 0.4), waviness=(0, 0))
    for region in draws(drawer, (150, 200)):
        assert n_blobs(region) == 1
        top, left, bottom, right = bounds(region)
        inside = top > 0 and left > 0 and bottom < 150 and right < 200
        extent = np.hypot(bottom - top, right - left)
        assert extent <= 80 + 6
        assert extent >= 80 - 3 or not inside
        thickness = 2 * ndimage.distance_transform_edt(np.pad(region, 1)).max() - 1
        assert 1 <= thickness <= 3 * np.exp(0.3 * 3.5)


@pytest.mark.parametrize("angle", [0, 45, 90, 135])
def test_a_crack_runs_in_its_direction(angle):
    for region in draws(CrackRegions(length=(0.6, 0.6), waviness=(0.1, 0.1), angle=(angle, angle)), (200, 200), 20):
        if region.sum() > 60:
            assert abs((direction(region) - angle + 90) % 180 - 90) < 15


def test_a_wavier_crack_is_less_straight():
    def straightness(waviness):
        drawer = CrackRegions(width=(1, 1), length=(0.6, 0.6), waviness=(waviness, waviness))
        along, across = np.transpose([spread(region) for region in draws(drawer, (200, 200)) if region.sum() > 60])
        return np.median(along / across)

    assert straightness(0.05) > 3 * straightness(0.8)


@pytest.mark.parametrize("name", ["width", "length", "waviness"])
def test_ranges_of_a_crack_are_checked(name):
    with pytest.raises(ValueError, match=f"^{name}: expected two numbers in ascending order, at least 0, got"):
        CrackRegions(**{name: (2, 1)}).draw((64, 64), np.random.RandomState(0))


# Rectangles


def test_a_rectangle_has_its_area_and_aspect():
    for seed in range(40):
        region = RectangleRegions(area=(0.05, 0.05), aspect=(2, 2)).draw((100, 200), np.random.RandomState(seed))
        top, left, bottom, right = bounds(region)
        assert region[top:bottom, left:right].all()
        assert bottom - top <= 46
        assert right - left <= 24
        if top and left and bottom < 100 and right < 200:  # not cut off by the border
            assert bottom - top == pytest.approx(np.sqrt(1000 * 2), abs=1)
            assert right - left == pytest.approx(np.sqrt(1000 / 2), abs=1)


def test_areas_and_aspects_fill_their_ranges():
    drawer = RectangleRegions(area=(0.02, 0.15), aspect=(0.3, 3.3))
    areas, aspects = [], []
    for region in draws(drawer, (100, 100), 300):
        top, left, bottom, right = bounds(region)
        if top and left and bottom < 100 and right < 100:
            areas.append(region.mean())
            aspects.append((bottom - top) / (right - left))
    assert 0.015 < min(areas) < 0.03
    assert 0.11 < max(areas) < 0.16
    assert 0.25 < min(aspects) < 0.5
    assert 2 < max(aspects) < 4
    assert np.median(aspects) == pytest.approx(1, abs=0.3)  # tall and wide rectangles are equally frequent


@pytest.mark.parametrize("angle", [-45, -20, 20, 90])
def test_a_turned_rectangle_is_turned_by_its_angle(angle):
    drawer = RectangleRegions(area=(0.01, 0.01), aspect=(0.05, 0.05), angle=(angle, angle))
    for region in draws(drawer, (200, 200), 20):
        assert abs((direction(region) - angle + 90) % 180 - 90) < 4


# Boxes and polygons


def test_a_box_is_its_pixels_and_each_is_drawn():
    boxes = [(0, 0, 4, 5), (10, 20, 14, 30), (60, 90, 64, 96)]
    seen = set()
    for region in draws(BoxRegions(boxes), (64, 96)):
        box = bounds(region)
        assert region[box[0] : box[2], box[1] : box[3]].all()
        seen.add(tuple(map(int, box)))
    assert seen == set(boxes)


@pytest.mark.parametrize(
    "box", [(10, 10, 70, 20), (10, 10, 20, 97), (-1, 0, 5, 5), (0, -3, 5, 5), (10, 10, 10, 20), (10, 20, 20, 10)]
)
def test_a_box_that_is_not_inside_the_image_is_refused_by_its_number(box):
    with pytest.raises(
        ValueError,
        match=r"^boxes\[0\]: expected \(top, left, bottom, right\) inside an image of 64 x 96 pixels, got \(",
    ):
        BoxRegions([box]).draw((64, 96), np.random.RandomState(0))


def test_a_polygon_holds_the_pixels_within_it_and_none_beyond():
    vertices = np.array([(5.0, 8.0), (50.0, 20.0), (30.0, 40.0), (55.0, 80.0), (12.0, 60.0)])
    region = PolygonRegions([vertices]).draw((64, 96), np.random.RandomState(0))
    ends = np.roll(vertices, -1, axis=0)
    for row in range(64):
        for column in range(96):
            inside, nearest = False, np.inf
            for (r0, c0), (r1, c1) in zip(vertices, ends):
                if (r0 > row) != (r1 > row) and column < c0 + (row - r0) * (c1 - c0) / (r1 - r0):
                    inside = not inside
                along = np.array([r1 - r0, c1 - c0])
                share = np.clip(np.dot([row - r0, column - c0], along) / (along @ along), 0, 1)
                nearest = min(nearest, np.hypot(row - r0 - share * along[0], column - c0 - share * along[1]))
            if nearest > 1:  # pixels on the border may fall on either side
                assert region[row, column] == inside


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([(0, 0), (70, 0), (0, 20)], "expected vertices inside an image of 64 x 96 pixels, got rows 0 to 70 and col"),
        ([(0, 0), (10, -2), (0, 97)], "expected vertices inside an image of 64 x 96 pixels, got .* columns -2 to 97"),
        ([(0, 0), (10, 10)], r"expected at least 3 vertices \(row, column\), got shape \(2, 2\)"),
        ([(0, 0, 1), (10, 10, 1), (3, 4, 1)], r"expected at least 3 vertices \(row, column\), got shape \(3, 3\)"),
    ],
)
def test_a_polygon_that_is_none_or_not_inside_the_image_is_refused_by_its_number(polygon, message):
    with pytest.raises(ValueError, match=rf"^polygons\[0\]: {message}"):
        PolygonRegions([polygon]).draw((64, 96), np.random.RandomState(0))


@pytest.mark.parametrize("drawer", [BoxRegions([]), PolygonRegions([]), MaskRegions([]), BoxRegions(3)], ids=repr)
def test_nothing_to_choose_from_is_refused(drawer):
    with pytest.raises(ValueError, match=r"^(boxes|polygons|masks): expected a non-empty list, got"):
        drawer.draw((64, 96), np.random.RandomState(0))


# Masks


def test_a_mask_that_nothing_is_done_to_stays_exactly_in_place():
    drawer = MaskRegions([hand_drawn()], flip=False, rotation=0, scale=(1, 1), move=False)
    for region in draws(drawer, (64, 96), 5):
        np.testing.assert_array_equal(region, hand_drawn())


def test_a_mask_is_mirrored_along_both_axes():
    drawer = MaskRegions([hand_drawn()], rotation=0, scale=(1, 1), move=False)
    cut = hand_drawn()[10:20, 20:30]
    expected = {flipped.tobytes() for flipped in (cut, cut[::-1], cut[:, ::-1], cut[::-1, ::-1])}
    regions = draws(drawer, (64, 96))
    assert {region[10:20, 20:30].tobytes() for region in regions} == expected
    assert all(region.sum() == cut.sum() for region in regions)


def test_a_mask_is_moved_whole_all_over_the_image():
    drawer = MaskRegions([hand_drawn()], flip=False, rotation=0, scale=(1, 1))
    cut = hand_drawn()[10:20, 20:30]
    places = []
    for region in draws(drawer, (40, 200), 200):  # the shape differs from that of the mask
        top, left, bottom, right = bounds(region)
        np.testing.assert_array_equal(region[top:bottom, left:right], cut)
        places.append((top, left))
    lowest, highest = np.min(places, axis=0), np.max(places, axis=0)
    assert (lowest <= (1, 5)).all()
    assert (highest >= (29, 185)).all()


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_mask_is_scaled(factor):
    drawer = MaskRegions([hand_drawn()], flip=False, rotation=0, scale=(factor, factor), move=False)
    for region in draws(drawer, (64, 96), 3):
        top, left, bottom, right = bounds(region)
        assert bottom - top == pytest.approx(10 * factor, abs=1)
        assert right - left == pytest.approx(10 * factor, abs=1)
        assert region.sum() == pytest.approx(hand_drawn().sum() * factor**2, rel=0.25)
        assert (top + bottom) / 2 == pytest.approx(15, abs=1)
        assert (left + right) / 2 == pytest.approx(25, abs=1)


def test_a_mask_is_turned_by_so_many_degrees_at_most_and_thin_ones_stay_whole():
    scratch = np.zeros((100, 100), dtype=bool)
    scratch[50, 20:80] = True
    angles = []
    for region in draws(MaskRegions([scratch], flip=False, rotation=30, scale=(1, 1)), (100, 100), 60):
        assert n_blobs(region) == 1
        angles.append((direction(region) + 90) % 180 - 90)
        assert 50 <= region.sum() <= 130
    assert np.abs(angles).max() < 31
    assert min(angles) < -20
    assert max(angles) > 20


def test_a_mask_larger_than_the_image_is_cut():
    for region in draws(MaskRegions([np.ones((50, 50), dtype=bool)]), (20, 30), 10):
        assert region.mean() > 0.5


@pytest.mark.parametrize("scale", [(0.01, 0.02), (30, 30)])
def test_extreme_scales_are_no_error(scale):
    for seed in range(5):
        assert MaskRegions([hand_drawn()], scale=scale).draw((64, 96), np.random.RandomState(seed)).shape == (64, 96)


@pytest.mark.parametrize("form", ["bool", "uint8 of 255", "uint8 of 1", "float", "paths"])
def test_masks_come_in_all_forms(form, write_images):
    masks = [hand_drawn(), hand_drawn()[::-1]]
    given = {
        "bool": masks,
        "uint8 of 255": [mask.astype(np.uint8) * 255 for mask in masks],
        "uint8 of 1": [mask.astype(np.uint8) for mask in masks],
        "float": [mask.astype(float) for mask in masks],
        "paths": write_images([mask.astype(np.uint8) * 255 for mask in masks]),
    }[form]
    for seed in range(4):
        np.testing.assert_array_equal(
            *(MaskRegions(one).draw((64, 96), np.random.RandomState(seed)) for one in (masks, given))
        )


def test_the_masks_of_fit_are_taken_where_none_are_given():
    masks = [hand_drawn(), ~hand_drawn()]
    still = {"flip": False, "rotation": 0, "scale": (1, 1), "move": False}
    regions = draws(MaskRegions(**still), (64, 96), 20, masks)
    assert {region.tobytes() for region in regions} == {mask.tobytes() for mask in masks}
    own = draws(MaskRegions([hand_drawn()[::-1]], **still), (64, 96), 5, masks)
    assert {region.tobytes() for region in own} == {hand_drawn()[::-1].tobytes()}


@pytest.mark.parametrize(
    ("drawer", "message"),
    [
        (MaskRegions(), r"^regions: expected masks of real defects in fit for MaskRegions\(\), got none"),
        (MaskRegions([np.zeros((64, 96))]), r"^masks\[0\]: expected a mask that marks some pixels, got an empty mask"),
        (
            MaskRegions([hand_drawn((50, 96))], move=False),
            r"^masks: expected the shape of the image, \(64, 96\), for move=False, got \(50, 96\)",
        ),
        (MaskRegions([hand_drawn().astype(complex)]), r"^masks\[0\]: expected a mask of bool, integers or floats"),
        (MaskRegions([hand_drawn()], scale=(2, 1)), "^scale: expected two numbers in ascending order"),
        (PerlinRegions(scales=(3, 1)), "^scales: expected two numbers in ascending order, at least 0"),
        (PerlinRegions(scales=4), "The 'scales' parameter of PerlinRegions must be an instance of 'tuple'"),
        (RidgedRegions(width=(-1, 2)), "^width: expected two numbers in ascending order, at least 0"),
        (RidgedRegions(length=(0.5, 0.1)), "^length: expected two numbers in ascending order"),
        (RidgedRegions(elongation=(0.5, 2)), "^elongation: expected two numbers in ascending order, at least 1"),
        (RectangleRegions(area=(0.5, "x")), "^area: expected two numbers in ascending order"),
        (RectangleRegions(aspect=(0, 2)), "^aspect: expected two numbers in ascending order, at least 0.01"),
    ],
    ids=repr,
)
def test_a_drawer_says_which_parameter_is_wrong(drawer, message):
    with pytest.raises(ValueError, match=message):
        drawer.draw((64, 96), np.random.RandomState(0))


# In an augmenter


class TopLeft(BaseEstimator):
    """Drawer written by a user."""

    def __init__(self, size=12):
        self.size = size

    def draw(self, image_shape, random_state, masks=()):
        region = np.zeros(image_shape[:2], dtype=bool)
        region[: self.size, : self.size] = True
        return region


class Wrong:
    def __init__(self, region):
        self.region = region

    def draw(self, image_shape, random_state, masks=()):
        return self.region


@pytest.fixture
def normals(surfaces):
    X, y, _ = surfaces
    return X[y == 0]


def sample_with(regions, X, n_samples=6, **params):
    return OffsetDefectAugmenter(regions=regions, random_state=0, **params).fit(X).sample(n_samples)


def test_an_own_drawer_and_its_parameters_can_be_used(normals):
    synthetic = sample_with(TopLeft(), normals)
    assert {one["region"] for one in synthetic.provenance} == {"TopLeft"}
    assert synthetic.masks[:, :12, :12].mean() > 0.5
    assert not synthetic.masks[:, 12:].any()
    augmenter = OffsetDefectAugmenter(regions=TopLeft()).set_params(regions__size=20)
    assert augmenter.regions.size == 20
    assert augmenter.fit(normals).sample(1).masks[:, 13:20, :20].any()


@pytest.mark.parametrize(
    ("name", "drawer"),
    [
        ("perlin", PerlinRegions()),
        ("ridged", RidgedRegions()),
        ("crack", CrackRegions()),
        ("rectangle", RectangleRegions()),
    ],
)
def test_a_name_is_the_drawer_with_its_defaults(name, drawer, normals):
    by_name, by_drawer, in_list = (sample_with(regions, normals) for regions in (name, drawer, [name]))
    np.testing.assert_array_equal(by_name.images, by_drawer.images)
    np.testing.assert_array_equal(by_name.images, in_list.images)
    assert {one["region"] for one in by_name.provenance} == {type(drawer).__name__}


def test_the_name_masks_takes_the_masks_of_fit(surfaces):
    X, y, masks = surfaces
    augmenter = OffsetDefectAugmenter(regions=["masks", "ridged"], random_state=0)
    seen = {one["region"] for one in augmenter.fit(X, y, masks=masks).sample(12).provenance}
    assert seen == {"MaskRegions", "RidgedRegions"}
    with pytest.raises(ValueError, match=r"^regions: expected masks of real defects in fit .*, got none\."):
        augmenter.fit(X, y).sample(12)


def test_of_several_drawers_each_has_its_turn(normals):
    synthetic = sample_with(["perlin", TopLeft(), RidgedRegions()], normals, 60, max_redraws=0, min_contrast=0)
    names, counts = np.unique([one["region"] for one in synthetic.provenance], return_counts=True)
    assert names.tolist() == ["PerlinRegions", "RidgedRegions", "TopLeft"]
    assert counts.min() >= 10


@pytest.mark.parametrize(
    ("region", "got"),
    [
        (np.ones((64, 65), dtype=bool), r"bool of shape \(64, 65\)"),
        (np.ones((64, 64, 1), dtype=bool), r"bool of shape \(64, 64, 1\)"),
        (np.ones((64, 64)), r"float64 of shape \(64, 64\)"),
        (None, r"object of shape \(\)"),
    ],
)
def test_an_own_drawer_that_draws_no_mask_of_the_image_is_refused(region, got, normals):
    message = rf"^regions: expected Wrong\.draw to return bool of shape \(64, 64\), got {got}"
    with pytest.raises(ValueError, match=message):
        sample_with(Wrong(region), normals)


@pytest.mark.parametrize("n_pixels", [0, 7])
def test_a_drawer_that_draws_hardly_anything_is_refused_with_the_image(n_pixels, normals):
    region = np.arange(64 * 64).reshape(64, 64) < n_pixels
    message = r"^regions: expected Wrong to draw at least 8 pixels on X\[\d+\], 64 x 64 pixels, got fewer in 100 draws"
    with pytest.raises(ValueError, match=message):
        sample_with(Wrong(region), normals)


def test_an_empty_draw_is_followed_by_another(normals):
    class Sometimes:
        n_draws = 0

        def draw(self, image_shape, random_state, masks=()):
            Sometimes.n_draws += 1
            return TopLeft().draw(image_shape, random_state) & (Sometimes.n_draws % 5 == 0)

    synthetic = sample_with(Sometimes(), normals, 3, max_redraws=0, min_contrast=0)
    assert Sometimes.n_draws == 15
    assert synthetic.masks.any(axis=(1, 2)).all()


# The foreground


def upper_half(image):
    return np.broadcast_to(np.arange(image.shape[0])[:, None] < image.shape[0] / 2, image.shape[:2])


@pytest.mark.parametrize(
    "augmenter", [OffsetDefectAugmenter(), CutPasteDefectAugmenter(min_contrast=0.3), DefectPasteAugmenter()], ids=repr
)
def test_defects_lie_on_the_foreground_only(augmenter, surfaces):
    X, y, masks = surfaces
    augmenter = clone(augmenter).set_params(foreground=upper_half, random_state=0, min_contrast=0.2)
    synthetic = augmenter.fit(X, y, masks=masks).sample(20)
    assert synthetic.masks[:, :32].any(axis=(1, 2)).all()
    assert not synthetic.masks[:, 32:].any()


def test_the_foreground_is_asked_for_each_image_as_floats(normals):
    seen = []

    def bright(image):
        seen.append((image.dtype, image.shape, image.min() >= 0, image.max() <= 1))
        return image[..., 0] > 0.05

    sample_with("perlin", normals, 3, foreground=bright)
    assert set(seen) == {(np.dtype(np.float32), (64, 64, 1), True, True)}


def test_a_region_mostly_beyond_the_foreground_is_drawn_elsewhere(normals):
    boxes = BoxRegions([(20, 0, 60, 30), (20, 30, 40, 60)])  # 12 of 40 rows and 12 of 20 rows lie on the foreground
    masks = sample_with(boxes, normals, 8, foreground=upper_half, min_contrast=0).masks
    assert not masks[:, :, :30].any()
    assert masks[:, 20:32, 30:60].any(axis=(1, 2)).all()
    assert not masks[:, 32:].any()


@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize(
    "augmenter", [OffsetDefectAugmenter(), DefectPasteAugmenter()], ids=lambda augmenter: type(augmenter).__name__
)
def test_a_foreground_too_small_is_refused_with_the_image(augmenter, size, surfaces):
    X, y, masks = surfaces

    def corner(image):
        foreground = np.zeros(image.shape[:2], dtype=bool)
        foreground[:size, :size] = True
        return foreground

    message = r"to draw at least 8 pixels on the foreground or .* of X\[\d+\], 64 x 64 pixels, got fewer in 100 draws"
    with pytest.raises(ValueError, match=message):
        clone(augmenter).set_params(foreground=corner).fit(X, y, masks=masks).sample(1)


@pytest.mark.parametrize(
    ("find", "got"),
    [
        (lambda image: image[..., 0], r"float32 of shape \(64, 64\)"),
        (lambda image: image > 0.1, r"bool of shape \(64, 64, 1\)"),
        (lambda image: np.ones((3, 3), dtype=bool), r"bool of shape \(3, 3\)"),
        (lambda image: None, r"object of shape \(\)"),
    ],
)
def test_a_foreground_that_is_no_mask_of_the_image_is_refused(find, got, normals):
    message = rf"^foreground: expected bool of shape \(64, 64\) for X\[\d+\], got {got}"
    with pytest.raises(ValueError, match=message):
        sample_with("perlin", normals, foreground=find)


def naive_otsu(grey):
    """Return the threshold with the greatest variance between its two sides."""
    levels = np.unique(grey)[:-1]
    variances = []
    for level in levels:
        low, high = grey[grey <= level], grey[grey > level]
        variances.append(low.size * high.size * (low.mean() - high.mean()) ** 2)
    return levels[np.argmax(variances)]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_the_foreground_of_otsu_is_the_part_not_the_background(dark, n_channels):
    rng = np.random.RandomState(0)
    part = np.zeros((60, 80), dtype=bool)
    part[10:50, 20:70] = True
    grey = np.clip(np.where(part, 0.7, 0.2) + rng.normal(0, 0.03, part.shape), 0, 1)
    grey = 1 - grey if dark else grey
    image = np.repeat(grey[..., None], n_channels, axis=2).astype(np.float32)
    foreground = otsu_foreground(image)
    np.testing.assert_array_equal(foreground, part)
    above = grey > naive_otsu(np.round(grey * 255) / 255)
    assert ((~above if dark else above) == foreground).mean() > 0.999


def test_otsu_by_name_is_its_function():
    rng = np.random.RandomState(0)
    part = np.zeros((64, 64), dtype=bool)
    part[16:56, 10:60] = True
    X = np.where(part, 150, 30) + rng.randint(-8, 8, size=(4, 64, 64))
    X = X.astype(np.uint8)
    # The edge of the part counts as texture.
    by_name, by_function = (
        sample_with("perlin", X, foreground=foreground, min_contrast=0.1) for foreground in ("otsu", otsu_foreground)
    )
    np.testing.assert_array_equal(by_name.images, by_function.images)
    assert not by_name.masks[:, ~part].any()


def test_an_image_of_one_grey_has_no_foreground():
    X = np.full((2, 40, 40), 9, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"at least 8 pixels on the foreground or region of interest of X\[\d\]"):
        sample_with("perlin", X, foreground="otsu")
