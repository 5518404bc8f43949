"""Figures of maps: the pixel threshold that they mark, and the outlines of the pixels above it."""

from copy import copy

import numpy as np
import pytest

from sklearn_exdd import ExDDDetector
from sklearn_exdd._map_colors import OUTLINE_COLOR, draw_outline, is_around_peak, map_threshold
from sklearn_exdd.display import DefectMapDisplay
from sklearn_exdd.display.panels import MAP_LINE, PEAK_LINE

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
pytest.importorskip("matplotlib.pyplot")


def marks_of(display):
    """Return the values that arrows mark at the colour bar, and the texts beside it."""
    lines = [line for line in display.colorbar_.ax.lines if line.get_marker() == 5]
    return [float(line.get_ydata()[0]) for line in lines], [text.get_text() for text in display.colorbar_.ax.texts]


def outlines_of(display):
    """Return the dashes of the outlines on each image."""
    kinds = [ax.collections for ax in display.axes_[:, 0]]
    return [[one.get_linestyle()[0] for one in each if one.get_paths()] for each in kinds]


def dashes_of(line):
    """Return the dashes as matplotlib scales them to the width of an outline."""
    return (0, pytest.approx([1.3 * length for length in line["linestyle"][1]]))


def legend_of(display):
    legends = display.figure_.legends
    return [text.get_text() for text in legends[0].get_texts()] if legends else []


@pytest.fixture(scope="module")
def detector(surfaces):
    X, y, _ = surfaces
    return ExDDDetector("gabor", max_false_alarm_rate=0.1, random_state=0).fit(X[y == 0])


def test_the_colour_bar_marks_the_value_that_the_outlines_use(detector, unseen_surfaces):
    X, y, _ = unseen_surfaces
    display = DefectMapDisplay.from_estimator(detector, X, y)
    values, texts = marks_of(display)
    assert values == [detector.pixel_threshold_] != [detector.threshold_]
    assert texts == [f"outlined above {detector.pixel_threshold_:.4g},\nif called a defect"]
    assert [len(each) for each in outlines_of(display)] == detector.predict(X).tolist()
    assert f"{detector.threshold_:.4g}" in display.axes_[0, 0].get_title(loc="left")
    for ax, mask in zip(display.axes_[:, 0], detector.predict_mask(X)):
        for one in ax.collections:
            rows, columns = np.nonzero(mask)
            (left, bottom), (right, top) = one.get_paths()[0].vertices.min(0), one.get_paths()[0].vertices.max(0)
            expected = [columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5]
            np.testing.assert_allclose([left, bottom, right, top], expected, atol=0.5)


def test_a_bright_spot_of_an_image_called_normal_is_not_outlined_and_the_bar_says_why(detector, unseen_surfaces):
    X, _, _ = unseen_surfaces
    brightest = X[[int(detector.score_samples(X).argmax())]]
    assert detector.predict_map(brightest).max() > detector.pixel_threshold_
    strict = copy(detector)
    strict.threshold_ = 1e9
    display = DefectMapDisplay.from_estimator(strict, brightest)
    assert outlines_of(display) == [[]]
    assert marks_of(display)[1] == [f"outlined above {detector.pixel_threshold_:.4g},\nif called a defect"]


def test_marks_around_the_peak_have_dashes_and_a_name_of_their_own():
    image, pixel_map = np.zeros((16, 16)), np.zeros((16, 16), dtype=np.float32)
    pixel_map[4:8, 4:8] = 3.0
    data = {"scores": [9, 9], "threshold": 8, "predicted_masks": [pixel_map > 0] * 2, "pixel_threshold": 3.5}
    display = DefectMapDisplay.from_predictions([image] * 2, [pixel_map, 2 * pixel_map], **data)
    assert outlines_of(display) == [[dashes_of(PEAK_LINE)], [dashes_of(MAP_LINE)]]
    assert legend_of(display) == ["predicted mask", "predicted around the peak"]
    assert marks_of(display) == ([3.5], ["outlined above 3.5,\nif called a defect"])


def test_without_masks_the_decision_and_the_pixel_threshold_say_what_is_outlined():
    images, maps = [np.zeros((16, 16))] * 2, [np.arange(256.0).reshape(16, 16)] * 2
    decided = DefectMapDisplay.from_predictions(images, maps, scores=[1, 3], threshold=2, pixel_threshold=99)
    assert [len(each) for each in outlines_of(decided)] == [0, 1]
    assert legend_of(decided) == ["map above 99"]
    assert marks_of(decided) == ([99], ["outlined above 99,\nif called a defect"])
    undecided = DefectMapDisplay.from_predictions(images, maps, threshold=200)
    assert [len(each) for each in outlines_of(undecided)] == [1, 1]
    assert marks_of(undecided) == ([200], ["outlined above 200"])
    assert marks_of(decided.plot(pixel_threshold=7))[0] == [7]
    assert marks_of(decided.plot(contour=False)) == ([], [])


def test_masks_without_a_pixel_threshold_mark_no_value():
    pixel_map = np.arange(256.0).reshape(16, 16)
    data = {"scores": [300], "threshold": 280, "predicted_masks": [pixel_map > 99]}
    display = DefectMapDisplay.from_predictions([np.zeros((16, 16))], [pixel_map], **data)
    assert marks_of(display) == ([], [])
    assert legend_of(display) == ["predicted mask"]


def test_a_pixel_threshold_beyond_the_scale_has_a_text_without_an_arrow():
    pixel_map = np.arange(256.0).reshape(16, 16)
    data = {"pixel_threshold": 99, "map_range": (100, 200)}
    display = DefectMapDisplay.from_predictions([np.zeros((16, 16))], [pixel_map], **data)
    assert marks_of(display) == ([], ["outlined above 99"])
    wide = DefectMapDisplay.from_predictions([np.zeros((16, 16))], [pixel_map], pixel_threshold=999)
    assert wide.axes_[0, 1].images[1].get_clim() == (0, 999)


def test_a_detector_without_a_pixel_threshold_marks_its_threshold():
    class Fitted:
        threshold_ = 2.0

    assert map_threshold(Fitted()) == 2.0
    assert map_threshold(object()) is None
    Fitted.pixel_threshold_ = 3.0
    assert map_threshold(Fitted()) == 3.0


def test_the_peak_is_marked_only_if_no_pixel_exceeds_the_threshold():
    pixel_map = np.array([[1.0, 2.0]])
    assert is_around_peak(pixel_map > 1, pixel_map, 2.0)
    assert not is_around_peak(pixel_map > 1, pixel_map, 1.5)
    assert not is_around_peak(pixel_map > 2, pixel_map, 2.0)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_an_outline_surrounds_the_marked_pixels_and_is_closed_along_the_border(width):
    mask = np.zeros((40, 50), dtype=bool)
    mask[10:20, 15:30] = mask[30:, :9] = True
    pixels = np.full((40, 50, 3), 200, dtype=np.uint8)
    draw_outline(pixels, mask, width)
    line = (pixels == OUTLINE_COLOR).all(axis=2)
    assert line[15, 15 - width : 15].all()
    assert line[10 - width : 10, 20].all()
    assert not line[10:20, 15:30].any()
    assert (pixels[15, [14 - width, 15]] == 100).all()  # dark on both sides
    assert line[30:, :width].all()
    assert line[40 - width :, :9].all()
    assert (pixels[12:18, 17:28] == 200).all()


def test_a_mask_of_the_whole_picture_is_outlined_within_it():
    pixels = np.zeros((12, 12, 3), dtype=np.uint8)
    draw_outline(pixels, np.ones((12, 12), dtype=bool))
    expected = np.ones((12, 12), dtype=bool)
    expected[2:-2, 2:-2] = False
    np.testing.assert_array_equal((pixels == OUTLINE_COLOR).all(axis=2), expected)
    draw_outline(pixels := np.zeros((12, 12, 3), dtype=np.uint8), np.zeros((12, 12), dtype=bool))
    assert not pixels.any()
