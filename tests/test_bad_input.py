"""Invalid input: the message says where the problem is, what was expected and what was given."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import BaseEstimator

from sklearn_exdd import ExDDDetector
from sklearn_exdd.features import make_feature_extractor


@pytest.fixture
def fitted(squares, cells):
    X, y, masks = squares
    return ExDDDetector(cells, random_state=0).fit(X, y, masks=masks)


def spoil(X, index, value):
    """Return the images as a list of floats, with one pixel of the image at `index` set to `value`."""
    images = [image / 255 for image in X]
    images[index][30, 40] = value
    return images


# Too few


def test_only_defects_are_refused(squares, cells):
    X, y, _ = squares
    with pytest.raises(ValueError, match="expected normal samples, got one class only, 1, which means defect"):
        ExDDDetector(cells).fit(X[y == 1], y[y == 1])
    with pytest.raises(ValueError, match="expected normal samples, got one class only, 'bad', which means defect"):
        ExDDDetector(cells, pos_label="bad").fit(X[:2], ["bad", "bad"])


def test_one_class_whose_meaning_is_unknown_is_refused(squares, cells):
    with pytest.raises(ValueError, match="one class only, 'fine'; set pos_label to say which label means defect"):
        ExDDDetector(cells).fit(squares[0][:3], ["fine"] * 3)


@pytest.mark.parametrize("dual", [False, True], ids=["one class", "dual"])
def test_one_normal_image_is_refused(dual, squares, cells):
    X, y, _ = squares
    X_defect = X[y == 1] if dual else None
    with pytest.raises(ValueError, match="expected at least 2 normal samples"):
        ExDDDetector(cells).fit(X[y == 0][:1], X_defect)
    if dual:
        with pytest.raises(ValueError, match="expected at least 2 normal samples"):
            ExDDDetector(cells).fit(X[:3], np.where(np.arange(3) == 0, 0, 1))


@pytest.mark.parametrize("empty", [[], (), np.empty((0, 64, 64)), np.empty((0, 64, 64, 3), dtype=np.uint8)])
def test_no_images_are_refused(empty, fitted, squares):
    with pytest.raises(ValueError, match="X: expected at least one image, got none"):
        ExDDDetector().fit(empty)
    with pytest.raises(ValueError, match="X_defect: expected at least one image, got none"):
        ExDDDetector().fit(squares[0], X_defect=empty)
    for method in ("score_samples", "predict", "predict_map", "explain"):
        with pytest.raises(ValueError, match="X: expected at least one image, got none"):
            getattr(fitted, method)(empty)


@pytest.mark.parametrize("kind", ["normal", "defect"])
def test_more_neighbours_than_a_bank_has_rows_are_refused(kind, squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, n_neighbors=9).set_params(**{f"{kind}_coreset": 8})
    match = rf"n_neighbors: expected at most 8, .* rows in the {kind} bank \(with {kind}_coreset=8 of \d+ .*, got 9"
    with pytest.raises(ValueError, match=match):
        detector.fit(X, y, masks=masks)


def test_neighbours_are_counted_among_rows_of_features_too():
    with pytest.raises(ValueError, match=r"n_neighbors: expected at most 2, .* in the defect bank .*, got 3"):
        ExDDDetector(n_neighbors=3).fit(np.eye(5), [0, 0, 0, 1, 1])


# Values


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.nan, "expected finite values, got NaN or infinity"),
        (np.inf, "expected finite values, got NaN or infinity"),
        (-np.inf, "expected finite values, got NaN or infinity"),
        (1.5, r"expected floats in \[0, 1\], got values from 0\.\d+ to 1\.5"),
        (-0.25, r"expected floats in \[0, 1\], got values from -0\.25 to 0\.\d+"),
    ],
)
def test_a_wrong_value_is_refused_and_its_image_named(value, match, fitted, squares, cells):
    X, y, _ = squares
    detector = ExDDDetector(cells)
    with pytest.raises(ValueError, match=rf"X\[3\]: {match}"):
        detector.fit(spoil(X[y == 0], 3, value))
    with pytest.raises(ValueError, match=rf"X_defect\[1\]: {match}"):
        detector.fit(X[y == 0] / 255, spoil(X[y == 1], 1, value))
    for label in (0, 1):
        index = np.flatnonzero(y == label)[-1]
        with pytest.raises(ValueError, match=rf"X\[{index}\]: {match}"):
            detector.fit(spoil(X, index, value), y)
    for method in ("decision_function", "predict_map", "explain"):
        with pytest.raises(ValueError, match=rf"X\[5\]: {match}"):
            getattr(fitted, method)(spoil(X, 5, value))
        with pytest.raises(ValueError, match=rf"X\[5\]: {match}"):
            getattr(fitted, method)(np.stack(spoil(X, 5, value)))


def test_floats_up_to_255_are_refused_with_advice(squares, cells):
    with pytest.raises(ValueError, match=r"X\[0\]: .* to 110. Rescale them, or pass uint8"):
        ExDDDetector(cells).fit(squares[0][squares[1] == 0].astype(float))


@pytest.mark.parametrize("dtype", [np.int8, complex, object, "U3"])
def test_an_unknown_dtype_is_refused(dtype, fitted, squares):
    with pytest.raises(ValueError, match=r"X\[0\]: expected dtype uint8, uint16, bool or float, got"):
        fitted.predict((squares[0] // 2).astype(dtype))


# Shapes


@pytest.mark.parametrize(
    ("X", "match"),
    [
        (np.zeros((2, 64, 64, 2), dtype=np.uint8), r"X\[0\]: expected shape .*1, 3 or 4 channels, got \(64, 64, 2\)"),
        (np.zeros((2, 3, 64, 64), dtype=np.uint8), r"got \(3, 64, 64\). Move the channels to the end"),
        (np.zeros((2, 4, 64, 64, 3), dtype=np.uint8), r"X: expected images.*got an array of shape \(2, 4, 64, 64, 3\)"),
        (np.zeros((2, 0, 64), dtype=np.uint8), r"X\[0\]: expected at least one pixel, got shape \(0, 64, 1\)"),
        ([np.zeros((64, 64)), np.zeros(64)], r"X\[1\]: expected shape .*, got \(64,\)"),
        ([np.zeros((64, 64)), 7], r"X\[1\]: expected shape .*, got \(\)"),
    ],
    ids=["two channels", "channels first", "five dimensions", "no pixels", "a row", "a number"],
)
def test_what_has_not_the_shape_of_images_is_refused(X, match, cells):
    with pytest.raises(ValueError, match=match):
        ExDDDetector(cells).fit(X)


@pytest.mark.parametrize("path", ["parts/good.png", Path("parts/good.png")])
def test_one_path_instead_of_a_list_is_refused(path, cells):
    with pytest.raises(ValueError, match=r"got the single path 'parts.good.png': pass a list of paths"):
        ExDDDetector(cells).fit(path)


def test_another_number_of_channels_is_refused(fitted, squares, cells):
    X, y, _ = squares
    colour = np.stack([X] * 3, axis=3)
    match = r"X\[0\]: expected 1 channel \(grey\) as in fit, got 3 channels\. Convert it, or set image_channels='grey'"
    for method in ("score_samples", "predict", "predict_map", "explain"):
        with pytest.raises(ValueError, match=match):
            getattr(fitted, method)(colour)
    with pytest.raises(ValueError, match=match):
        fitted.partial_fit(colour, y)
    on_colour = ExDDDetector(cells).fit(colour, y)
    with pytest.raises(ValueError, match=r"X\[0\]: expected 3 channels as in fit, got 1 channel \(grey\)"):
        on_colour.predict(X)


def test_grey_and_colour_do_not_mix(squares, cells):
    X, y, _ = squares
    colour = np.stack([X] * 3, axis=3)
    with pytest.raises(ValueError, match=r"X\[2\]: expected 1 channel \(grey\) as in the other images, got 3 channels"):
        ExDDDetector(cells).fit([X[0], X[1], colour[2]])
    with pytest.raises(ValueError, match=r"X_defect\[0\]: expected 1 channel \(grey\).*, got 3 channels"):
        ExDDDetector(cells).fit(X[y == 0], colour[y == 1])


def test_an_image_smaller_than_the_largest_filter_is_refused(squares):
    X, y, _ = squares
    detector = ExDDDetector(random_state=0).fit(X, y)
    side = make_feature_extractor("auto").min_size
    assert side > 1
    small = X[0][: side - 1]
    match = rf"expected at least {side} pixels a side for \w+, got {side - 1} x 64. Use larger .* or set image_size"
    with pytest.raises(ValueError, match=rf"X\[1\]: {match}"):
        detector.predict([X[0], small])
    with pytest.raises(ValueError, match=rf"X\[2\]: {match}"):
        ExDDDetector().fit([X[0], X[1], small])
    with pytest.raises(ValueError, match=rf"X_defect\[0\]: {match}"):
        ExDDDetector().fit(X[y == 0], [small])
    # Follow the advice of the message.
    extractor = make_feature_extractor("auto").set_params(image_size=side)
    assert np.isfinite(ExDDDetector(extractor).fit([X[0], X[1], small]).threshold_)


# Files


@pytest.fixture
def paths(squares, write_images):
    return write_images(squares[0])


def write_truncated_jpeg(path):
    Image.fromarray(np.random.RandomState(0).randint(256, size=(64, 64)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-700])


@pytest.mark.parametrize(
    ("name", "write", "error", "match"),
    [
        ("half.jpg", write_truncated_jpeg, ValueError, "an image that Pillow can decode, got OSError: .*trunc"),
        ("notes.txt", lambda path: path.write_text("no image"), ValueError, "expected an image that Pillow can decode"),
        ("empty.png", lambda path: path.touch(), ValueError, "expected an image that Pillow can decode"),
        ("folder", lambda path: path.mkdir(), FileNotFoundError, "expected an image file, got a folder"),
        ("gone.png", lambda path: None, FileNotFoundError, "expected an image file, found no such file"),
    ],
    ids=["truncated", "text", "empty", "folder", "missing"],
)
def test_a_file_that_cannot_be_read_is_named(name, write, error, match, fitted, squares, cells, paths, tmp_path):
    y = squares[1]
    broken = tmp_path / name
    write(broken)
    index = np.flatnonzero(y == 1)[2]
    match = rf"\({re.escape(str(broken))}\): .*{match}"
    with pytest.raises(error, match=rf"X\[{index}\] {match}"):
        ExDDDetector(cells).fit([broken if i == index else path for i, path in enumerate(paths)], y)
    normal, defect = ([path for path, label in zip(paths, y) if label == one] for one in (0, 1))
    with pytest.raises(error, match=rf"X_defect\[6\] {match}"):
        ExDDDetector(cells).fit(normal, [*defect, broken])
    with pytest.raises(error, match=rf"X\[1\] {match}"):
        fitted.predict([str(paths[0]), str(broken)])
    with pytest.raises(error, match=rf"masks\[0\] {match}"):
        ExDDDetector(cells).fit(normal, defect[:1], masks=[broken])


# Masks


def test_a_mask_of_another_shape_is_refused(squares, cells):
    X, y, masks = squares
    normal, defect = X[y == 0], X[y == 1]
    wrong = [*masks[y == 1][:2], np.ones((64, 32), dtype=bool)]
    with pytest.raises(ValueError, match=r"masks\[2\]: expected the shape of its image, \(64, 64\), got \(64, 32\)"):
        ExDDDetector(cells).fit(normal, defect[:3], masks=wrong)
    index = np.flatnonzero(y == 1)[3]
    aligned = [mask[:32] if i == index else mask for i, mask in enumerate(masks)]
    with pytest.raises(ValueError, match=rf"masks\[{index}\]: expected the shape .*\(64, 64\), got \(32, 64\)"):
        ExDDDetector(cells).fit(X, y, masks=aligned)


def test_an_empty_mask_of_a_defect_is_refused(squares, cells):
    X, y, masks = squares
    index = np.flatnonzero(y == 1)[3]
    empty = [None if i == index else mask for i, mask in enumerate(masks)]
    ExDDDetector(cells).fit(X, y, masks=empty)
    empty[index] = np.zeros((64, 64), dtype=bool)
    match = rf"masks\[{index}\]: expected a mask of the defect, got an empty one. Pass None"
    with pytest.raises(ValueError, match=match):
        ExDDDetector(cells).fit(X, y, masks=empty)


def test_a_mask_on_a_normal_image_is_refused(squares, fitted, cells):
    X, y, masks = squares
    index = np.flatnonzero(y == 0)[3]
    marked = masks.copy()
    marked[index, 5, 7:9] = True
    match = rf"masks\[{index}\]: expected None or an empty mask for a normal image, got one with 2 defect pixels"
    with pytest.raises(ValueError, match=match):
        ExDDDetector(cells).fit(X, y, masks=marked)
    with pytest.raises(ValueError, match=match):
        fitted.partial_fit(X, y, masks=marked)


@pytest.mark.parametrize("n_masks", [0, 5, 18, "none"])
def test_masks_that_are_not_one_for_each_image_are_refused(n_masks, squares, cells):
    X, y, masks = squares
    wrong = 3.5 if n_masks == "none" else masks[:n_masks]
    with pytest.raises(ValueError, match=r"masks: expected one mask for each of the 6 images, got (0|5|18|float)"):
        ExDDDetector(cells).fit(X[y == 0], X[y == 1], masks=wrong)
    if n_masks != 18:
        with pytest.raises(ValueError, match=r"masks: expected one mask for each of the 18 images, got"):
            ExDDDetector(cells).fit(X, y, masks=wrong)


def test_a_mask_that_is_no_picture_is_refused(squares, cells):
    X, y, _ = squares
    with pytest.raises(ValueError, match=r"masks\[0\]: expected a mask of bool, integers or floats, got dtype"):
        ExDDDetector(cells).fit(X[y == 0], X[y == 1][:1], masks=[np.full((64, 64), "defect")])


def test_masks_without_defect_images_are_refused(squares, cells):
    X, y, masks = squares
    with pytest.raises(ValueError, match="masks: expected None without defect images"):
        ExDDDetector(cells).fit(X[y == 0], masks=masks[y == 0])


# Labels and groups


@pytest.mark.parametrize("labels", [[0, 1, 2], ["bad", "fair", "good"]])
def test_three_classes_are_refused(labels, squares, cells):
    with pytest.raises(ValueError, match=r"Only binary classification .*expected two classes, .*, got 3"):
        ExDDDetector(cells).fit(squares[0], np.resize(labels, 18))


@pytest.mark.parametrize(
    ("y", "error", "match"),
    [
        ([0, 1] * 8, ValueError, "y: expected 18 labels, one for each sample of X, got 16"),
        (np.linspace(0, 1, 18), ValueError, "expected two classes, normal and defect, got continuous y"),
        ([0.0, np.nan] * 9, ValueError, "Input y contains NaN"),
        (np.zeros((18, 2), dtype=int), ValueError, r"y should be a 1d array, got an array of shape \(18, 2\)"),
        ([None, 1] * 9, (ValueError, TypeError), "y"),
    ],
    ids=["too few", "continuous", "NaN", "two-dimensional", "None"],
)
def test_labels_that_are_none_are_refused(y, error, match, squares, cells):
    with pytest.raises(error, match=match):
        ExDDDetector(cells).fit(squares[0], y)


def test_a_pos_label_that_is_no_label_is_refused(squares, cells):
    X, y, _ = squares
    with pytest.raises(ValueError, match=r"pos_label: expected one of the classes \[0, 1\], got 2"):
        ExDDDetector(cells, pos_label=2).fit(X, y)


def test_defect_images_passed_twice_are_refused(squares, cells):
    X, y, _ = squares
    with pytest.raises(ValueError, match="got defect images both as y and as X_defect; pass them once"):
        ExDDDetector(cells).fit(X[y == 0], X[y == 1], X_defect=X[y == 1])
    with pytest.raises(ValueError, match="expected labels y or images X_defect, got both"):
        ExDDDetector(cells).fit(X, y, X_defect=X[y == 1])


def test_groups_that_are_not_one_for_each_image_are_refused(squares, cells):
    X, y, _ = squares
    with pytest.raises(ValueError, match="groups: expected one group for each of the 18 samples of X, got 17"):
        ExDDDetector(cells).fit(X, y, groups=np.arange(17))


def test_masks_of_feature_rows_are_refused():
    with pytest.raises(ValueError, match="masks: expected None for feature rows, which have no pixels"):
        ExDDDetector().fit(np.eye(6), [0, 0, 0, 1, 1, 1], masks=[None] * 6)


# Images and rows of features


def test_rows_and_images_are_not_mistaken_for_each_other(fitted, squares):
    rows = np.random.RandomState(0).rand(20, 5)
    on_rows = ExDDDetector(random_state=0).fit(rows)
    with pytest.raises(ValueError, match=r"X: expected feature rows of shape \(n, 5\) as in fit, got images"):
        on_rows.predict(squares[0])
    with pytest.raises(ValueError, match="X has 4 features, but ExDDDetector is expecting 5 features"):
        on_rows.predict(rows[:, :4])
    with pytest.raises(ValueError, match="predict_map: expected images, got feature rows, which have no map"):
        on_rows.predict_map(rows)
    with pytest.raises(ValueError, match=r"X: expected images.*got an array of shape \(20, 5\)"):
        fitted.predict(rows)


def test_defects_of_another_kind_than_the_normals_are_refused(squares, cells):
    rows = np.random.RandomState(0).rand(20, 5)
    with pytest.raises(ValueError, match=r"X_defect: expected images.*got an array of shape \(20, 5\)"):
        ExDDDetector(cells).fit(squares[0], X_defect=rows)
    with pytest.raises(ValueError, match="Found array with dim 3"):
        ExDDDetector().fit(rows, X_defect=squares[0])
    with pytest.raises(ValueError, match="X has 4 features, but ExDDDetector is expecting 5 features"):
        ExDDDetector().fit(rows, X_defect=rows[:, :4])


class NoAugmenter(BaseEstimator):
    def fit(self, X, y=None, *, masks=None):
        return self

    def sample(self, n_samples, random_state=None):
        raise AssertionError("not reached")


def test_an_augmenter_of_feature_rows_is_refused():
    with pytest.raises(ValueError, match="augmenter: expected images to make defects on, got feature rows"):
        ExDDDetector(augmenter=NoAugmenter()).fit(np.eye(6))


# Parameters


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("feature_extractor", 3),
        ("augmenter", "diffusion"),
        ("n_synthetic", -1),
        ("n_neighbors", 0),
        ("n_neighbors", 1.5),
        ("epsilon", 0.0),
        ("epsilon", "auto"),
        ("normal_coreset", 0),
        ("normal_coreset", 1.5),
        ("defect_coreset", 0.0),
        ("coreset", "kmeans"),
        ("max_defect_patches", 0),
        ("image_score", "max"),
        ("n_top_patches", 0),
        ("n_support", 0),
        ("blur", -1),
        ("algorithm", "faiss"),
        ("max_false_alarm_rate", 0.0),
        ("max_false_alarm_rate", 1.0),
        ("memory", 3),
        ("batch_size", 0),
        ("n_jobs", "all"),
        ("random_state", "seed"),
    ],
)
def test_a_parameter_out_of_its_range_is_refused_at_fit(name, value, squares):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of ExDDDetector must be"):
        ExDDDetector(**{name: value}).fit(squares[0])


def test_an_unknown_backbone_is_refused(squares):
    with pytest.raises(ValueError, match=r"backbone: expected a name of torchvision.*, got 'resnet19'"):
        ExDDDetector("resnet19").fit(squares[0])


def test_normal_samples_of_one_group_alone_are_refused(surfaces, cells):
    X, y, _ = surfaces
    X = X[y == 0]
    with pytest.raises(ValueError, match="groups: expected normal samples of at least 2 groups"):
        ExDDDetector(cells).fit(X, groups=np.zeros(len(X)))
