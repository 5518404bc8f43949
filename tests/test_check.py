"""Check of a set of images before fitting: its findings, and the images it leaves alone."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_exdd import ExDDDetector, OffsetDefectAugmenter
from sklearn_exdd.datasets import check_images, make_surface_defects
from sklearn_exdd.datasets.duplicates import SIDE, group_alike
from sklearn_exdd.datasets.mask_placement import misplaced
from sklearn_exdd.datasets.photographs import resized


@pytest.fixture(scope="module")
def castings():
    X, y, masks = make_surface_defects(40, defect_fraction=0.3, image_shape=(96, 96), texture="cast", random_state=0)
    for array in (X, y, masks):
        array.flags.writeable = False
    return X, y, masks


def kinds(findings):
    return [(finding.kind, finding.severity, finding.indices) for finding in findings]


def of_kind(findings, kind):
    (found,) = [finding for finding in findings if finding.kind == kind]
    return found


def replaced(values, **changes):
    """Return a list with other values at the positions named by the arguments, such as i3=..."""
    values = list(values)
    for place, value in changes.items():
        values[int(place[1:])] = value
    return values


# No findings


@pytest.mark.parametrize("texture", ["metal", "cast", "fabric", "tile"])
def test_different_parts_of_one_surface_give_no_finding(texture):
    X, y, masks = make_surface_defects(40, image_shape=(96, 96), texture=texture, random_state=1)
    findings = check_images(X, y, masks=masks)
    assert findings == []
    assert findings.n_images == 40
    assert findings.not_checked == ["scores of normal images: pass a detector, such as detector=ExDDDetector()."]


def test_images_are_not_changed_and_every_form_of_them_is_checked_alike(castings, write_images):
    X = castings[0]
    X = np.array(replaced(X, i1=X[0]))
    before = X.copy()
    expected = kinds(check_images(X[:12]))
    np.testing.assert_array_equal(X, before)
    assert expected == [("duplicate", "warning", (0, 1))]
    X = X[:12]
    for same in ([Image.fromarray(one) for one in X], write_images(X), X / np.float32(255), list(X.astype(int))):
        assert kinds(check_images(same)) == expected


# Duplicates


def jpeg(image):
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=60)
    return np.asarray(Image.open(content))


def half_size(image):
    return np.asarray(Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2)))


def brighter(image):
    return np.clip(1.1 * image + 8, 0, 255).astype(np.uint8)


def photographed_again(image):
    """Move the part, rotate it slightly, change the light and add camera noise."""
    rng = np.random.RandomState(0)
    moved = ndimage.rotate(ndimage.shift(image.astype(float), (2.5, -1.7), mode="reflect"), 0.4, reshape=False)
    lamp = 1.1 + 0.08 * np.linspace(-1, 1, image.shape[1])
    return np.clip(moved * lamp + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("texture", ["metal", "cast", "fabric", "tile"])
def test_copies_are_found_on_every_surface(texture):
    shape = (96, 96) if texture in ("metal", "cast") else (256, 256)  # finer textures get lost in noise and JPEG
    X, _, _ = make_surface_defects(20, defect_fraction=0, image_shape=shape, texture=texture, random_state=2)
    copies = [jpeg(X[4]), half_size(X[5]), brighter(X[6]), photographed_again(X[7])]
    found = check_images([*X, *copies], splits=["train"] * 20 + ["test"] * 4)
    near = [(finding.severity, finding.indices) for finding in found if finding.kind == "near_duplicate"]
    assert near == [("error", (4 + i, 20 + i)) for i in range(4)]


def test_a_part_before_and_after_its_damage_is_found():
    sound = make_surface_defects(20, defect_fraction=0, image_shape=(96, 96), random_state=3)[0]
    X, y, masks = make_surface_defects(20, defect_fraction=0.3, image_shape=(96, 96), random_state=3)
    defect = int(np.flatnonzero(y)[0])
    findings = check_images([*X, sound[defect]], [*y, 0], masks=[*masks, None])
    (found,) = findings
    assert (found.kind, found.severity, found.indices) == ("near_duplicate", "warning", (defect, 20))
    assert "are labelled both normal and defect" in found.message


def test_parts_that_all_look_alike_are_no_duplicates_but_a_copy_of_one_is():
    rng = np.random.RandomState(0)
    print_on_all = ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), 2)
    print_on_all /= print_on_all.std()
    moved = [np.roll(print_on_all, tuple(rng.randint(-3, 4, 2)), (0, 1)) for _ in range(40)]
    images = [0.5 + 0.1 * one + 0.03 * ndimage.gaussian_filter(rng.normal(0, 3, one.shape), 1) for one in moved]
    assert group_alike(np.array(images)) == []
    images.append(images[5] + rng.normal(0, 0.004, (SIDE, SIDE)))
    assert group_alike(np.array(images)) == [[5, 40]]


@pytest.mark.parametrize(
    ("more", "severity", "message"),
    [
        ({}, "warning", "2 images have the same pixels. Keep one"),
        ({"y": [0, 1]}, "error", "and are labelled both normal and defect"),
        ({"groups": ["a", "b"]}, "error", "and belong to 2 groups"),
        ({"groups": ["a", None]}, "error", "and belong to 2 groups"),
        ({"groups": ["a", "a"]}, "warning", "2 images have the same pixels. Keep one"),
        ({"splits": ["train", "test"]}, "error", "and lie in test and train"),
    ],
)
def test_equal_pixels_weigh_by_what_they_mix(more, severity, message, castings):
    image = castings[0][0]
    (found,) = check_images([image, image], **more)
    assert (found.kind, found.severity, found.indices, found.images) == (
        "duplicate",
        severity,
        (0, 1),
        ("X[0]", "X[1]"),
    )
    assert message in found.message


def test_photographs_of_one_group_may_be_alike_unless_they_are_split(castings):
    X, y, _ = castings
    X, y = [*X, brighter(X[0])], [*y, y[0]]
    groups = [*range(40), 0]
    assert check_images(X, y, groups=groups) == []
    assert kinds(check_images(X, y, groups=[*range(41)])) == [("near_duplicate", "warning", (0, 40))]
    found = check_images(X, y, groups=groups, splits=["train"] * 40 + ["test"])
    assert kinds(found) == [("near_duplicate", "error", (0, 40)), ("split_group", "error", (0, 40))]
    assert "The group '0' lies in the splits test and train" in of_kind(found, "split_group").message


# Photographs


def test_odd_photographs_are_found(castings):
    X, y, _ = castings
    texture = make_surface_defects(6, defect_fraction=0, image_shape=(96, 96), texture="cast", random_state=9)[0]
    odd = [
        (texture[0] * 0.15).astype(np.uint8),
        np.clip(texture[1].astype(int) + 140, 0, 255).astype(np.uint8),
        ndimage.gaussian_filter(texture[2], 2),
        np.zeros((96, 96), np.uint8),
        texture[3][:40],
    ]
    findings = check_images([*X, *odd], [*y, 0, 0, 0, 0, 0])
    found = {finding.kind: finding.indices for finding in findings}
    assert found["dark"] == (40, 43)
    assert found["overexposed"] == (41,)
    assert found["blur"] == (42,)
    assert found["blank"] == (43,)
    assert found["size"] == (44,)
    assert [finding.kind for finding in findings.errors] == ["blank"]
    assert "(40 x 96), while the others have 96 x 96 pixels" in of_kind(findings, "size").message


def test_images_of_a_size_of_their_own_are_right_unless_one_is_far_from_the_others(castings):
    X = [image[: 60 + i, : 90 - i] for i, image in enumerate(castings[0][:20])]
    assert check_images(X) == []
    assert kinds(check_images([*X, castings[0][20][:20]])) == [("size", "warning", (20,))]


def test_a_few_colour_images_among_grey_ones_are_an_error(castings):
    X, y, _ = castings
    found = of_kind(check_images(replaced(X, i3=np.stack([X[3]] * 3, axis=2)), y), "channels")
    assert (found.severity, found.indices) == ("error", (3,))
    assert found.message.startswith("1 image is in colour, while the others are grey")
    with pytest.raises(ValueError, match="expected 1 channel"):
        ExDDDetector("gabor").fit(replaced(X, i3=np.stack([X[3]] * 3, axis=2)), y)


def test_few_images_tell_nothing_of_what_is_usual(castings):
    dark = (castings[0][0] // 9).astype(np.uint8)
    assert check_images([*castings[0][1:6], dark]) == []


# Unreadable images


def test_all_that_cannot_be_read_is_named_at_once(castings, write_images, tmp_path):
    X, y, masks = castings
    paths = write_images(X)
    paths[2].write_text("no image")
    paths[5] = tmp_path / "nowhere.png"
    paths[7] = None
    found = check_images(paths, y, masks=masks)
    assert kinds(found) == [("unreadable", "error", (i,)) for i in (2, 5, 7)]
    assert [finding.images for finding in found] == [(str(paths[2]),), (str(paths[5]),), ("X[7]",)]
    assert "Expected an image that Pillow can decode" in found[0].message
    assert "found no such file" in found[1].message
    assert found.n_images == 40


def test_nothing_but_broken_images_is_no_exception(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    found = check_images([tmp_path / "a.png", np.full((40, 40), np.nan)], detector=ExDDDetector("gabor"))
    assert kinds(found) == [("unreadable", "error", (0,)), ("unreadable", "error", (1,))]
    assert found.not_checked == ["scores: expected at least 8 normal images, got 0."]


@pytest.mark.parametrize(
    "broken", [None, np.full((96, 96), -3), np.full((96, 96), np.nan), "nowhere.png", "a Pillow image"]
)
def test_an_unreadable_image_does_not_change_the_depth_of_the_others(broken, castings):
    if isinstance(broken, str) and broken == "a Pillow image":
        broken = Image.new("I", (96, 96), -7)
    deep = [image.astype(np.int32) for image in castings[0][:10]]
    deep[3] = deep[3] * 40  # of more than 8 bits: all ten have 16 bits in fit, and nine are dark
    expected = check_images(deep)
    found = check_images([broken, *deep])
    assert kinds(found)[0] == ("unreadable", "error", (0,))
    assert kinds(found)[1:] == [
        (kind, severity, tuple(index + 1 for index in indices)) for kind, severity, indices in kinds(expected)
    ]
    assert [finding.message for finding in found[1:]] == [finding.message for finding in expected]
    assert of_kind(expected, "bright").indices == (3,)


WRONG = {
    "below zero": (np.int32, -1),
    "above 16 bits": (np.int64, 70000),
    "above 16 bits, unsigned": (np.uint32, 70000),
    "NaN": (np.float32, np.nan),
    "masked": (np.uint8, np.ma.masked),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_array_and_a_list_of_it_give_the_same_findings(wrong, castings):
    dtype, value = WRONG[wrong]
    X = castings[0][:12]
    X = X / dtype(255) if dtype is np.float32 else X.astype(dtype)
    X = np.ma.masked_array(X, mask=np.zeros(X.shape, dtype=bool)) if value is np.ma.masked else X
    X[3, 5, 5] = value
    found = check_images(X)
    assert kinds(found) == [("unreadable", "error", (3,))]
    assert found == check_images(list(X))
    assert "X[3].filled()" in found[0].message or value is not np.ma.masked


def test_arrays_that_do_not_hold_images_are_still_refused(castings):
    X = castings[0].astype(np.int32) - 300
    for wrong in (X[0], X[0][..., None], X[:0], X[None, ..., None]):
        with pytest.raises(ValueError, match=r"^X: expected"):
            check_images(wrong)


@pytest.mark.parametrize("as_file", [False, True])
def test_the_first_readable_file_or_array_of_known_depth_decides(as_file, castings, tmp_path, write_images):
    known = write_images(castings[0][:1])[0] if as_file else castings[0][0]
    (tmp_path / "a.png").write_text("no image")
    wide = [image.astype(np.int32) for image in castings[0][:6]]
    too_deep = np.full((96, 96), 300)
    found = check_images([tmp_path / "a.png", known, *wide, too_deep])
    assert kinds(found) == [
        ("unreadable", "error", (0,)),
        ("unreadable", "error", (8,)),
        ("duplicate", "warning", (1, 2)),
    ]
    assert "Expected integers from 0 to 255" in found[1].message


# Masks


def test_wrong_masks_are_found(castings, tmp_path):
    X, y, masks = castings
    normal, defects = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
    (tmp_path / "mask.png").write_text("no mask")
    masks = list(masks)
    masks[defects[0]] = tmp_path / "mask.png"
    masks[defects[1]] = np.ones((10, 10), bool)
    masks[defects[2]] = np.zeros((96, 96), bool)
    masks[defects[3]] = ~masks[defects[3]]
    masks[normal[0]] = masks[defects[4]]
    found = {finding.kind: (finding.severity, finding.indices) for finding in check_images(X, y, masks=masks)}
    assert found == {
        "mask_unreadable": ("error", (defects[0],)),
        "mask_size": ("error", (defects[1],)),
        "mask_empty": ("error", (defects[2],)),
        "mask_full": ("error", (defects[3],)),
        "mask_on_normal": ("error", (normal[0],)),
    }


@pytest.mark.parametrize("texture", ["metal", "cast", "fabric", "tile"])
@pytest.mark.parametrize(
    ("move", "placement"),
    [
        (lambda masks: masks, None),
        (lambda masks: masks[:, :, ::-1], "mirrored left to right"),
        (lambda masks: masks[:, ::-1], "mirrored upside down"),
        (lambda masks: masks[:, ::-1, ::-1], "turned by 180 degrees"),
        (
            lambda masks: np.roll(masks, (11, -8), (1, 2)),
            "shifted down by about [89] % of the height and left by about [567] %",
        ),
    ],
)
def test_masks_that_are_all_moved_alike_are_found(texture, move, placement):
    X, _, masks = make_surface_defects(20, defect_fraction=1, image_shape=(SIDE, SIDE), texture=texture, random_state=0)
    found = misplaced(list(X / 255), list(move(masks).astype(float)))
    assert found is None if placement is None else re.match(placement, found)


def test_masks_of_a_mirrored_export_are_a_warning():
    X, _, masks = make_surface_defects(12, defect_fraction=1, image_shape=(96, 96), texture="cast", random_state=0)
    (found,) = check_images(X, np.ones(12), masks=masks[:, :, ::-1])
    assert (found.kind, found.severity, found.indices) == ("mask_placement", "warning", tuple(range(12)))
    assert "They seem to be mirrored left to right" in found.message


def test_few_masks_do_not_tell_where_they_belong(castings):
    X, y, masks = castings
    few = np.flatnonzero(y)[:5]
    findings = check_images(X[few], y[few], masks=masks[few][:, :, ::-1])
    assert findings == []
    assert findings.not_checked[0] == "placement of masks: expected at least 8 masks, got 5."


# Scores


def test_a_defect_among_the_normal_images_stands_out(squares, cells):
    X, y, _ = squares
    labels = np.zeros(len(y), int)
    labels[np.flatnonzero(y)[1:]] = 1  # one defect is labelled normal
    findings = check_images(X, labels, detector=ExDDDetector(cells, random_state=0))
    found = of_kind(findings, "score")
    assert (found.severity, found.indices) == ("warning", (np.flatnonzero(y)[0],))
    assert "1 normal image stands out. ExDDDetector, fitted without it" in found.message
    assert findings.not_checked == []


@pytest.mark.parametrize("nested", [False, True])
def test_a_pipeline_scores_like_the_detector_at_its_end(squares, cells, nested):
    X, y, _ = squares
    labels = np.zeros(len(y), int)
    labels[np.flatnonzero(y)[1:]] = 1
    detector = ExDDDetector(cells, random_state=0)
    expected = check_images(X, labels, detector=detector)
    pipeline = make_pipeline(FunctionTransformer(lambda X: [image[:, ::-1] for image in X]), "passthrough", detector)
    pipeline = make_pipeline(OffsetDefectAugmenter(n_synthetic=2, random_state=0), pipeline) if nested else pipeline
    findings = check_images(X, labels, detector=pipeline)
    assert of_kind(findings, "score").indices == of_kind(expected, "score").indices
    assert findings.not_checked == []
    assert not hasattr(pipeline[-1], "classes_")  # a clone was fitted


def test_a_transformer_that_fails_is_the_reason_given(squares, cells):
    X, y, _ = squares

    def fail(X):
        raise ValueError("no such crop")

    findings = check_images(X, y, detector=make_pipeline(FunctionTransformer(fail), ExDDDetector(cells)))
    assert findings.not_checked == ["scores: the detector cannot be fitted on these images. no such crop"]


def test_copies_do_not_vouch_for_each_other(squares, cells):
    X, y, _ = squares
    defect = X[np.flatnonzero(y)[0]]
    labels = np.append(y, [0, 0])
    findings = check_images([*X, defect, defect], labels, detector=ExDDDetector(cells, random_state=0))
    assert of_kind(findings, "score").indices == (18, 19)
    # An exact copy and near copies form one group.
    near = np.clip(defect.astype(int) + np.random.RandomState(0).randint(-1, 2, defect.shape), 0, 255).astype(np.uint8)
    labels = np.append(y, [0, 0, 0])
    findings = check_images([*X, defect, near, near], labels, detector=ExDDDetector(cells, random_state=0))
    assert sorted(of_kind(findings, "score").indices)[:3] == [18, 19, 20]


def test_groups_that_are_too_large_to_be_scored_are_the_reason_given(squares, cells):
    X, y, _ = squares
    findings = check_images(X[y == 0], detector=ExDDDetector(cells), max_scored=8, groups=np.zeros(np.sum(y == 0)))
    assert re.match(
        r"scores: the groups of the \d+ normal images are too large for max_scored=8", findings.not_checked[0]
    )


def test_only_as_many_images_are_scored_as_wanted(squares, cells):
    X, y, _ = squares
    findings = check_images(X, y, detector=ExDDDetector(cells), max_scored=10, groups=np.arange(18) // 2)
    assert re.match(
        r"scores of [2-4] normal images: the detector was fitted on the other (8|9|10)\.", findings.not_checked[0]
    )


def test_a_detector_that_cannot_use_the_images_is_named_and_wrong_parameters_are_errors(cells):
    X = list(np.random.RandomState(0).randint(0, 255, (9, 8, 8)).astype(np.uint8))
    findings = check_images(X, detector=ExDDDetector("gabor"))
    assert "scores: the detector cannot be fitted on these images. " in findings.not_checked[0]
    with pytest.raises(ValueError, match="'blur' parameter of ExDDDetector"):
        check_images(X, detector=ExDDDetector(cells, blur=-1))


# Text of the findings, and bad use


def test_findings_are_printed_errors_first_and_long_lists_are_cut(castings):
    X = castings[0]
    X = replaced(X, **{f"i{i}": X[0] for i in range(1, 7)}, i9=np.full((96, 96), 9, np.uint8))
    text = str(check_images(X, np.zeros(40)))
    assert text.startswith("40 images checked: 1 error, ")
    assert text.index("error  blank:") < text.index("warning  duplicate: 7 images have the same pixels.")
    assert "    X[0], X[1], X[2], X[3] and 3 more\n" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"X": []}, "X: expected at least one image, got none"),
        ({"X": np.zeros((4, 3))}, "X: expected images"),
        ({"X": "a.png"}, "got the single path 'a.png': pass a list of paths"),
        ({"X": np.zeros((40, 40, 3))}, "A single image? Pass X[None]"),
        ({"y": [0]}, "y: expected 2 labels, one for each sample of X, got 1"),
        ({"y": [0, None]}, "y[1]: expected a label, got None"),
        ({"X": np.zeros((3, 20, 20)), "y": [0, 1, 2]}, "y: expected two classes, normal and defect, got 3: 0, 1, 2"),
        ({"y": ["a", "a"]}, "set pos_label to say which label means defect"),
        ({"masks": [None]}, "masks: expected one mask or None for each of the 2 images, got 1"),
        ({"masks": "masks"}, "masks: expected one mask or None for each of the 2 images, got 'masks'"),
        ({"groups": [1]}, "groups: expected one entry for each of the 2 images, got 1"),
        ({"splits": "train"}, "splits: expected one entry for each of the 2 images, got 'train'"),
        ({"groups": iter([1, 2])}, "groups: expected a list or an array; got list_iterator: pass list(groups)"),
        (
            {"detector": "exdd"},
            "detector: expected a detector, such as ExDDDetector(), a Pipeline that ends in one, or",
        ),
        ({"detector": IsolationForest()}, "a Pipeline that ends in one, or None, got IsolationForest."),
        ({"detector": FrozenEstimator(ExDDDetector())}, "a Pipeline that ends in one, or None, got FrozenEstimator."),
        ({"detector": GridSearchCV(ExDDDetector(), {})}, "a Pipeline that ends in one, or None, got GridSearchCV."),
        ({"detector": make_pipeline(PCA())}, "a Pipeline that ends in one, or None, got a Pipeline that ends in PCA."),
        ({"detector": ExDDDetector}, "got the class ExDDDetector. Pass an instance: ExDDDetector()."),
        (
            {"detector": Pipeline([("a", ExDDDetector)])},
            "got the class ExDDDetector. Pass an instance: ExDDDetector().",
        ),
        ({"max_scored": 0}, "max_scored: expected an integer of at least 1, or None, got 0"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_images(**{"X": np.zeros((2, 20, 20))} | given)


def test_an_image_is_resized_by_means():
    image = np.arange(16.0).reshape(4, 4)
    np.testing.assert_allclose(resized(image, (2, 2)), [[2.5, 4.5], [10.5, 12.5]])
