"""Regions of interest: nothing outside them changes anything that a detector says."""

import re
from pathlib import Path

import numpy as np
import pytest
import sklearn
from assertions import assert_same_maps
from PIL import Image
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from sklearn_exdd import (
    CombinedDefectDetector,
    DefectClassifier,
    DriftMonitor,
    ExDDDetector,
    LinearProbeDetector,
    OffsetDefectAugmenter,
    PatchClassifierDetector,
    PerlinDefectAugmenter,
    SegmentationDetector,
    StudentTeacherDetector,
    persistence,
)
from sklearn_exdd._images import Images
from sklearn_exdd.cli.command import main
from sklearn_exdd.datasets import check_images, make_surface_defects, with_roi
from sklearn_exdd.metrics import (
    PixelScorer,
    per_region_overlap_score,
    pixel_average_precision_score,
    pixel_roc_auc_score,
)

DETECTORS = {
    "filters": ExDDDetector("gabor", random_state=0),
    "whitened": ExDDDetector("gabor", random_state=0).set_params(feature_extractor__whiten=True),
    "shards": ExDDDetector("gabor", image_score="exdd", shard_size=9, random_state=0),
    "synthetic defects": ExDDDetector("gabor", augmenter=PerlinDefectAugmenter(), n_synthetic=4, random_state=0),
    "patch classifier": PatchClassifierDetector("gabor", random_state=0),
    "probe": LinearProbeDetector("gabor", random_state=0),
    "combination": CombinedDefectDetector(
        [("banks", ExDDDetector("gabor")), ("probe", LinearProbeDetector("gabor", validation_fraction=0))],
        random_state=0,
    ),
    "networks": SegmentationDetector(n_networks=1, random_state=0).set_params(
        feature_extractor__max_steps=2, feature_extractor__n_synthetic=4, feature_extractor__crop_size=32
    ),
    "student-teacher": StudentTeacherDetector(
        channels=(8, 16), n_synthetic=4, max_steps=2, map_source="both", position_map=True, random_state=0
    ),
    "classifier": DefectClassifier(
        "resnet18", weights=None, max_steps=2, image_size=32, train_batch_size=4, random_state=0
    ),
}
SLOW = {"networks", "student-teacher", "classifier"}
each_detector = pytest.mark.parametrize(
    "detector",
    [pytest.param(one, id=name, marks=[pytest.mark.slow] if name in SLOW else []) for name, one in DETECTORS.items()],
)


@pytest.fixture(scope="module")
def roi():
    region = np.zeros((64, 96), dtype=bool)
    region[6:58, 10:70] = True
    region[20:30, 30:40] = False
    return region


@pytest.fixture(scope="module")
def surfaces(roi):
    """Return images whose defects lie at least partly in the region, with labels and masks."""
    X, y, masks = make_surface_defects(24, image_shape=(64, 96), random_state=2)
    chosen = [i for i in range(len(X)) if y[i] == 0 or (masks[i] & roi).any()]
    return X[chosen], y[chosen], [masks[i] if y[i] else None for i in chosen]


@pytest.fixture(scope="module")
def disturbed(surfaces, roi):
    """Return the images with noise outside the region."""
    noise = np.random.default_rng(0).integers(0, 256, surfaces[0].shape).astype(surfaces[0].dtype)
    return np.where(roi, surfaces[0], noise)


def results(detector, X, y, masks, X_new, **params):
    """Return everything that a detector says after a fit."""
    fitted = sklearn.base.clone(detector).fit(X, y, masks=masks, **params)
    found = fitted.inspect(X_new)
    thresholds = fitted.threshold_, fitted.pixel_threshold_, fitted.calibration_scores_
    return [one.score for one in found], [one.map for one in found], [one.mask for one in found], thresholds


def assert_same_results(one, other):
    assert one[0] == other[0]
    assert_same_maps(one[1], other[1])
    for pair in zip(one[2], other[2]):
        np.testing.assert_array_equal(*pair)
    for pair in zip(one[3], other[3]):
        np.testing.assert_array_equal(*pair)


@each_detector
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_pixels_outside_change_nothing(detector, surfaces, disturbed, roi):
    X, y, masks = surfaces
    expected = results(detector, X, y, masks, X, roi=roi)
    wrapped = with_roi(disturbed, [roi] * len(X))
    assert_same_results(results(detector, wrapped, y, masks, wrapped), expected)


@each_detector
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_maps_are_lowest_outside_and_nothing_is_marked_there(detector, surfaces, roi):
    X, y, masks = surfaces
    fitted = sklearn.base.clone(detector).set_params(max_false_alarm_rate=0.3).fit(X, y, masks=masks, roi=roi)
    found = fitted.inspect(X)
    for one in found:
        assert one.map[~roi].max() == one.map[roi].min()
        assert not one.mask[~roi].any()
        assert one.mask.any() == (one.score > fitted.threshold_)
    assert_same_maps(fitted.predict_map(X), [one.map for one in found])
    np.testing.assert_array_equal(fitted.predict_mask(X), [one.mask for one in found])
    np.testing.assert_array_equal(fitted.score_samples(X), [one.score for one in found])
    disturbed = np.where(roi, X, 255 - X)  # the one region of fit is applied to new images
    np.testing.assert_array_equal(fitted.score_samples(disturbed), [one.score for one in found])


def test_every_row_of_the_banks_touches_the_region(surfaces, roi):
    X, y, masks = surfaces
    detector = ExDDDetector("gabor", random_state=0).fit(X, y, masks=masks, roi=roi)
    for bank in (detector.normal_bank_, detector.defect_bank_):
        rows, columns = (np.rint(bank.provenance[axis]).astype(int) for axis in ("row", "column"))
        half = detector.feature_extractor_.stride // 2
        for row, column in zip(rows, columns):
            assert roi[max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1].any()
    whole = ExDDDetector("gabor", normal_coreset=1.0, random_state=0).fit(X[y == 0])
    part = ExDDDetector("gabor", normal_coreset=1.0, random_state=0).fit(X[y == 0], roi=roi)
    assert len(part.normal_bank_) < 0.8 * len(whole.normal_bank_)


def test_the_whole_image_as_a_region_is_no_region(surfaces):
    X, y, masks = surfaces
    whole = np.ones(X.shape[1:3], dtype=bool)
    detector = ExDDDetector("gabor", random_state=0)
    expected = results(detector, X, y, masks, X)
    assert_same_results(results(detector, X, y, masks, X, roi=whole), expected)


def test_explanations_lie_in_the_region(surfaces, roi):
    X, y, masks = surfaces
    detector = ExDDDetector("gabor", random_state=0).fit(X, y, masks=masks, roi=roi)
    for explanation in detector.explain(X):
        row, column = (int(axis) for axis in explanation["patch"])
        assert roi[max(0, row - 4) : row + 5, max(0, column - 4) : column + 5].any()


@pytest.mark.parametrize("form", ["bool", "uint8", "picture", "path", "list of paths"])
def test_a_region_is_given_as_masks_are(form, surfaces, roi, tmp_path):
    X, y, _ = surfaces
    Image.fromarray(np.uint8(255) * roi).save(tmp_path / "roi.png")
    given = {
        "bool": roi,
        "uint8": np.uint8(255) * roi,
        "picture": Image.fromarray(np.uint8(255) * roi),
        "path": tmp_path / "roi.png",
        "list of paths": [str(tmp_path / "roi.png")] * len(X),
    }[form]
    detector = ExDDDetector("gabor", random_state=0).fit(X, y, roi=given)
    X_new = with_roi(X, given) if form == "list of paths" else X
    expected = ExDDDetector("gabor", random_state=0).fit(X, y, roi=roi)
    np.testing.assert_array_equal(detector.score_samples(X_new), expected.score_samples(X))


def test_each_image_may_have_its_own_region(surfaces, roi):
    X, y, _ = surfaces
    regions = [roi if i % 2 else np.roll(roi, 20, axis=1) for i in range(len(X))]
    regions[3] = None
    detector = ExDDDetector("gabor", augmenter=PerlinDefectAugmenter(), n_synthetic=4, random_state=0)
    detector.fit(X, y, roi=regions)
    assert detector.roi_ is None
    maps = detector.predict_map(with_roi(X, regions))
    for pixel_map, region in zip(maps, regions):
        assert region is None or pixel_map[~region].max() == pixel_map[region].min()
    with pytest.raises(ValueError, match=r"X: expected a region of interest with each image.*Pass with_roi\(X, roi\)"):
        detector.predict(X)


@pytest.mark.parametrize("extension", [".joblib", ".exdd"])
@pytest.mark.parametrize("has_own", [False, True])
def test_a_region_is_stored_with_the_model(extension, has_own, surfaces, disturbed, roi, tmp_path):
    X, y, masks = surfaces
    detector = DETECTORS["combination"]
    fitted = sklearn.base.clone(detector).fit(X, y, masks=masks, roi=[roi] * len(X) if has_own else roi)
    path = tmp_path / f"model{extension}"
    if extension == ".joblib":
        import joblib

        joblib.dump(fitted, path)
        back = joblib.load(path)
    else:
        persistence.dump(fitted, path)
        back = persistence.load(path)
    X_new = with_roi(disturbed, roi) if has_own else disturbed
    np.testing.assert_array_equal(back.score_samples(X_new), fitted.score_samples(with_roi(X, roi)))
    back.partial_fit(X_new[:1], [0])
    assert np.isfinite(back.threshold_)


def test_files_memory_and_arrays_are_the_same(surfaces, disturbed, roi, tmp_path):
    X, y, _ = surfaces
    paths = []
    for i, image in enumerate(disturbed):
        paths.append(tmp_path / f"{i:02}.png")
        Image.fromarray(image).save(paths[-1])
    expected = ExDDDetector("gabor", random_state=0).fit(X, y, roi=roi).score_samples(X)
    detector = ExDDDetector("gabor", memory=tmp_path / "cache", random_state=0)
    for _ in range(2):
        # The sizes of batches of an exact search may change the last digits.
        np.testing.assert_allclose(detector.fit(paths, y, roi=roi).score_samples(paths), expected, atol=1e-6)
    other = np.ones_like(roi)
    assert not np.allclose(detector.fit(paths, y, roi=other).score_samples(paths), expected, atol=1e-6)


def test_an_augmenter_in_a_pipeline(surfaces, disturbed, roi):
    X, y, _ = surfaces
    steps = OffsetDefectAugmenter(n_synthetic=4, random_state=0), ExDDDetector("gabor", random_state=0)
    pipeline = make_pipeline(*steps).fit(with_roi(X, roi), y)
    other = make_pipeline(*map(sklearn.base.clone, steps)).fit(with_roi(disturbed, roi), y)
    np.testing.assert_array_equal(
        pipeline.score_samples(with_roi(X, roi)), other.score_samples(with_roi(disturbed, roi))
    )
    assert not any(mask[~roi].any() for mask in pipeline[-1].synthetic_.masks)


def test_searches_and_cross_validation_split_images_with_their_regions(surfaces, disturbed, roi):
    X, y, masks = surfaces
    detector = ExDDDetector("gabor", random_state=0)
    scores = [cross_val_score(detector, with_roi(one, roi), y, cv=2, scoring="roc_auc") for one in (X, disturbed)]
    np.testing.assert_array_equal(*scores)
    search = GridSearchCV(detector, {"n_neighbors": [1, 3]}, cv=2, scoring="roc_auc").fit(with_roi(X, roi), y)
    assert search.predict(with_roi(X, roi)).shape == y.shape
    with sklearn.config_context(enable_metadata_routing=True):
        found = [
            cross_val_score(
                detector,
                with_roi(one, roi),
                y,
                cv=2,
                scoring=PixelScorer(pixel_roc_auc_score),
                params={"masks": masks},
            )
            for one in (X, disturbed)
        ]
    np.testing.assert_array_equal(*found)


def test_a_region_as_high_as_there_are_images_is_not_split_in_silence(surfaces):
    X, y, _ = make_surface_defects(32, image_shape=(32, 48), defect_fraction=0.5, random_state=0)
    params = {"roi": np.ones((32, 48), dtype=bool)}
    expected = r"X\[\d+\]: expected 16 x 48 pixels, the shape of its region of interest"
    with sklearn.config_context(enable_metadata_routing=True), pytest.raises(ValueError, match=expected):
        cross_val_score(ExDDDetector("gabor"), X, y, cv=2, params=params, error_score="raise")


@pytest.mark.parametrize("score", [pixel_roc_auc_score, pixel_average_precision_score, per_region_overlap_score])
def test_pixel_metrics_count_the_region_alone(score, roi):
    rng = np.random.default_rng(0)
    maps = rng.random((4, *roi.shape))
    masks = rng.random((4, *roi.shape)) > 0.99
    expected = score(masks, maps, roi=roi)
    noise = rng.random(maps.shape)
    assert score(masks | (~roi & (noise > 0.9)), np.where(roi, maps, noise), roi=[roi] * 4) == expected
    assert score(masks, maps, roi=np.ones_like(roi)) == score(masks, maps)
    if score is pixel_roc_auc_score:
        flat = sklearn.metrics.roc_auc_score(masks[:, roi].ravel(), maps[:, roi].ravel())
        assert expected == pytest.approx(flat, abs=1e-12)
    with pytest.raises(ValueError, match=r"roi\[0\]: expected the shape of its image, \(64, 96\), got \(3, 3\)"):
        score(masks, maps, roi=np.ones((3, 3), dtype=bool))


@pytest.mark.filterwarnings("ignore:DriftMonitor. expected at least 20")
def test_a_monitor_looks_at_the_region_alone(surfaces, disturbed, roi):
    X, y, _ = surfaces
    detector = ExDDDetector("gabor", random_state=0).fit(X, y, roi=roi)
    monitors = [DriftMonitor(detector, random_state=0).fit(X[y == 0]) for _ in range(2)]
    states = [monitor.update(one[y == 0]) for monitor, one in zip(monitors, (X, disturbed))]
    assert states[0] == states[1]


def test_the_command_line_takes_a_region(surfaces, roi, tmp_path, capsys):
    X, y, _ = surfaces
    for i, (image, label) in enumerate(zip(X, y)):
        folder = tmp_path / "parts" / ("defect" if label else "good")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02}.png")
    Image.fromarray(np.uint8(255) * roi).save(tmp_path / "roi.png")
    model, out = str(tmp_path / "model"), str(tmp_path / "report")
    command = ["fit", str(tmp_path / "parts"), "-o", model, "--feature-extractor", "gabor"]
    assert main([*command, "--roi", str(tmp_path / "roi.png")]) == 0
    np.testing.assert_array_equal(persistence.load(model).roi_, roi)
    assert main(["predict", model, str(tmp_path / "parts" / "defect"), "-o", out]) in (0, 1)
    assert main(["evaluate", model, str(tmp_path / "parts")]) == 0
    own = ExDDDetector("gabor", random_state=0).fit(X, y, roi=[roi] * len(X))
    persistence.dump(own, model)
    assert main(["predict", model, str(tmp_path / "parts"), "-o", out]) == 2
    assert "training images had different regions. Predict in Python" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf, -3.0, 7.5, 0.12345])
@pytest.mark.parametrize("name", ["synthetic defects", pytest.param("networks", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_any_float_may_lie_outside(value, name, surfaces, roi):
    X, y, masks = surfaces
    images = (X / 255).astype(np.float32)
    other = np.where(roi, images, np.float32(value))
    expected = results(DETECTORS[name], images, y, masks, images, roi=roi)
    assert_same_results(results(DETECTORS[name], other, y, masks, other, roi=roi), expected)


@pytest.mark.parametrize("value", [300, -1, 70_000])
def test_any_integer_may_lie_outside(value, surfaces, roi):
    X, y, _ = surfaces
    images = X.astype(np.int64)
    detector = DETECTORS["filters"]
    expected = sklearn.base.clone(detector).fit(images, y, roi=roi).score_samples(images)
    other = np.where(roi, images, value)
    np.testing.assert_array_equal(sklearn.base.clone(detector).fit(other, y, roi=roi).score_samples(other), expected)


@pytest.mark.parametrize("form", ["one channel", "colour", "nested lists", "with alpha"])
def test_masks_of_other_shapes(form, surfaces, roi):
    levels = np.uint8(255) * roi
    given = {
        "one channel": levels[..., None],
        "colour": np.repeat(levels[..., None], 3, axis=2),
        "nested lists": roi.tolist(),
        "with alpha": np.dstack([levels, levels, levels, np.full_like(levels, 255)]),
    }[form]
    for image in with_roi(surfaces[0], given):
        np.testing.assert_array_equal(image.region, roi)


def test_a_check_counts_the_region_alone(surfaces, roi, tmp_path):
    X, y, _ = surfaces
    outside = np.zeros_like(roi)
    outside[:4, :4] = True
    findings = check_images(with_roi(X, roi), y, masks=[outside] * len(X))
    assert {finding.kind for finding in findings if "mask" in finding.kind} == {"mask_empty"}
    found = [index for finding in findings if finding.kind == "mask_empty" for index in finding.indices]
    assert sorted(found) == np.flatnonzero(y).tolist()
    (tmp_path / "broken.png").write_bytes(b"no image")
    (broken,) = [one for one in check_images(with_roi([*X, tmp_path / "broken.png"], roi)) if one.kind == "unreadable"]
    assert broken.images == (str(tmp_path / "broken.png"),)


def test_a_changed_region_file_does_not_change_the_held_out_images(surfaces, roi, tmp_path):
    X, y, masks = surfaces
    Image.fromarray(np.uint8(255) * roi).save(tmp_path / "roi.png")
    fitted = [
        sklearn.base.clone(DETECTORS["combination"]).fit(X, y, masks=masks, roi=[one] * len(X))
        for one in (tmp_path / "roi.png", roi)
    ]
    Image.fromarray(np.full(roi.shape, 255, dtype=np.uint8)).save(tmp_path / "roi.png")
    thresholds = [one.partial_fit(with_roi(X[:1], roi), y[:1]).threshold_ for one in fitted]
    assert thresholds[0] == thresholds[1]


def test_the_mask_in_the_folder_of_the_images_is_not_an_image(surfaces, roi, tmp_path):
    X, y, _ = surfaces
    for i, image in enumerate(X[y == 0]):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    Image.fromarray(np.uint8(255) * roi).save(tmp_path / "roi.png")
    command = ["fit", str(tmp_path), "-o", str(tmp_path / "model"), "--feature-extractor", "gabor"]
    assert main([*command, "--roi", str(tmp_path / "roi.png")]) == 0
    assert len(persistence.load(tmp_path / "model").calibration_scores_) == (y == 0).sum()


# Bad input


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("regions", r"--roi: expected an image file, one region for all images, found a folder: .*regions'. If each"),
        ("one", r"--roi: expected an image file, one region for all images, found a folder"),
        ("nowhere.png", r"--roi: expected an image file, .*, found no such file: .*nowhere.png'. Check the path."),
        ("", r"--roi: expected an image file, .*, found no such file: ''. Check the path."),
        ("notes.txt", r"roi \(.*notes.txt\): expected an image that Pillow can decode"),
        ("black.png", r"roi: expected a region of interest with at least one pixel, .* Mark the pixels that count."),
        ("small.png", r"X\[0\] \(.*png\): expected 32 x 96 pixels, .* got 64 x 96. Make the region as large as"),
        ("parts/good/01.png", r"--roi: expected a mask, not an image to fit on, got .*01.png'. Move or replace it."),
    ],
)
def test_what_is_no_region_is_named_on_the_command_line(name, message, surfaces, roi, tmp_path, monkeypatch, capsys):
    X, y, _ = surfaces
    monkeypatch.chdir(tmp_path)
    for folder in ("parts/good", "regions", "one"):
        Path(folder).mkdir(parents=True)
    for i, image in enumerate(X[y == 0]):
        Image.fromarray(image).save(f"parts/good/{i:02}.png")
        Image.fromarray(roi).save(f"regions/{i:02}.png")
    for place, region in (("one/roi.png", roi), ("black.png", roi & False), ("small.png", roi[:32])):
        Image.fromarray(region).save(place)
    Path("notes.txt").write_text("no image")
    assert main(["fit", "parts", "-o", "model", "--feature-extractor", "gabor", "--roi", name]) == 2
    assert re.search(message, capsys.readouterr().err, flags=re.DOTALL)
    assert not Path("model").exists()


def test_regions_are_attached_before_an_augmenter(surfaces, roi):
    X, y, _ = surfaces
    augmented = OffsetDefectAugmenter(n_synthetic=2, random_state=0).fit_transform(with_roi(X, roi), y)
    with pytest.raises(ValueError, match=r"^roi: expected images without synthetic defects.* Attach the region before"):
        with_roi(augmented, roi)


@pytest.mark.parametrize("missing", ["", None, np.nan])
def test_a_missing_region_is_refused(missing, surfaces):
    with pytest.raises(ValueError, match="roi: expected a mask or one mask for each image, got"):
        with_roi(surfaces[0], missing)


def test_a_region_of_another_size_is_refused(surfaces, roi):
    X, y, _ = surfaces
    with pytest.raises(ValueError, match=r"X\[0\]: expected 63 x 96 pixels, the shape of its region of interest, got"):
        ExDDDetector("gabor").fit(X, y, roi=roi[1:])
    detector = ExDDDetector("gabor", random_state=0).fit(X, y, roi=roi)
    images = [*X[:2], X[2][:, :90]]
    with pytest.raises(ValueError, match=r"X\[2\]: expected 64 x 96 pixels.* got 64 x 90"):
        detector.predict(images)


def test_regions_that_are_empty_missing_or_too_few(surfaces, roi, tmp_path):
    X, y, _ = surfaces
    with pytest.raises(ValueError, match=r"roi: expected a region of interest with at least one pixel"):
        with_roi(X, np.zeros_like(roi))
    with pytest.raises(ValueError, match=r"roi\[1\]: expected a region of interest with at least one pixel"):
        with_roi(X[:2], [roi, np.zeros_like(roi)])
    with pytest.raises(ValueError, match=r"roi: expected one mask for each of the \d+ images, got 1"):
        with_roi(X, [roi])
    Image.fromarray(np.zeros(roi.shape, dtype=np.uint8)).save(tmp_path / "empty.png")
    with pytest.raises(ValueError, match=r"roi of X\[0\] .*empty\.png\): expected a region of interest"):
        ExDDDetector("gabor").fit(with_roi(X, [tmp_path / "empty.png"] * len(X)), y)
    with pytest.raises(ValueError, match=r"X: expected images.*got an array of shape \(5, 3\)"):
        with_roi(np.zeros((5, 3)), roi)


def test_a_region_for_feature_rows(roi):
    with pytest.raises(ValueError, match="roi: expected None for feature rows, which have no pixels"):
        ExDDDetector().fit(np.random.default_rng(0).random((20, 3)), roi=roi)


def test_only_some_images_with_regions(surfaces, roi):
    X, y, _ = surfaces
    mixed = [*with_roi(X[:1], roi), *X[1:]]
    with pytest.raises(ValueError, match=r"X: expected a region of interest with each image, got 1 images with and"):
        ExDDDetector("gabor").fit(mixed, y)
    detector = ExDDDetector("gabor", random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"X: expected images without regions of interest, as in fit"):
        detector.predict(with_roi(X, roi))


def test_a_defect_outside_the_region(surfaces, roi):
    X, y, _ = surfaces
    outside = np.zeros_like(roi)
    outside[:4, :4] = True
    masks = [outside if label else None for label in y]
    with pytest.raises(ValueError, match=r"got an empty one within the region of interest. Leave.* or label it normal"):
        ExDDDetector("gabor").fit(X, y, masks=masks, roi=roi)
    on_normal = [outside if not label else None for label in y]
    ExDDDetector("gabor").fit(X, y, masks=on_normal, roi=roi)  # a defect that does not count


def test_the_images_that_a_detector_reads_are_filled_with_the_mean_of_the_region(surfaces, roi):
    X, _, _ = surfaces
    image = Images(with_roi(X, roi))[0]
    inside = image[roi]
    np.testing.assert_array_equal(inside, Images(X)[0][roi])
    levels = np.unique(image[~roi]) * 255
    assert len(levels) == 1
    assert levels[0] == pytest.approx(inside.mean() * 255, abs=0.51)
