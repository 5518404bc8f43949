"""Grey and colour images in one call (`image_channels`)."""

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import sklearn_exdd
from sklearn_exdd import (
    BaseDefectDetector,
    CombinedDefectDetector,
    CutPasteDefectAugmenter,
    DefectClassifier,
    DefectPasteAugmenter,
    ExDDDetector,
    GaborFeatureExtractor,
    LearnedFeatureExtractor,
    LinearProbeDetector,
    OffsetDefectAugmenter,
    PatchClassifierDetector,
    PerlinDefectAugmenter,
    SegmentationDetector,
    StudentTeacherDetector,
    persistence,
)
from sklearn_exdd._images import Images
from sklearn_exdd.augment import default_augmenter
from sklearn_exdd.display import DefectMapDisplay
from sklearn_exdd.metrics import kernel_distance

RNG = np.random.RandomState(0)
COLOUR = RNG.randint(0, 256, (7, 9, 3)).astype(np.uint8)
LUMA = np.asarray(Image.fromarray(COLOUR).convert("L"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "bool"])
@pytest.mark.parametrize("n_channels", [3, 4])
def test_grey_is_the_luma_of_pillow_in_every_dtype(dtype, n_channels):
    factor = {"uint8": 1, "uint16": 257}.get(dtype, 1 / 255)
    pixels = COLOUR > 99 if dtype == "bool" else (COLOUR.astype(float) * factor).astype(dtype)
    pixels = np.concatenate([pixels, pixels[..., :1]], axis=2)[..., :n_channels]
    shown = Image.fromarray((pixels[..., :3] * 255).astype(np.uint8)) if dtype == "bool" else Image.fromarray(COLOUR)
    for X in ([pixels], pixels[None]):
        image = Images(X, channels="grey")[0]
        np.testing.assert_allclose(image[..., 0] * 255, np.asarray(shown.convert("L")), atol=0.51)
    if dtype == "uint8":
        np.testing.assert_array_equal(Images([pixels], channels="grey").raw()[0], LUMA)


@pytest.mark.parametrize("channels", ["grey", "colour"])
def test_grey_and_colour_of_every_container_become_alike(channels, tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "colour.png")
    Image.fromarray(LUMA).save(tmp_path / "grey.png")
    colours = [COLOUR, Image.fromarray(COLOUR), tmp_path / "colour.png", str(tmp_path / "colour.png")]
    greys = [LUMA, LUMA[..., None], Image.fromarray(LUMA), tmp_path / "grey.png"]
    images = Images([*colours, *greys], channels=channels)
    for taken in (images, images.take(range(8)), Images(images.raw()), images.as_uint8()):
        for i in range(8):
            if channels == "grey":
                expected = LUMA[..., None]
            else:
                expected = COLOUR if i < 4 else np.repeat(LUMA[..., None], 3, axis=2)
            np.testing.assert_array_equal(np.rint(taken[i] * 255), expected)
            np.testing.assert_array_equal(taken.original(i), expected if channels == "colour" else LUMA)


@pytest.mark.parametrize("channels", ["grey", "colour"])
def test_what_is_wrong_is_named_as_ever(channels, tmp_path):
    images = Images([COLOUR, tmp_path / "gone.png", np.zeros((5, 6, 2))], channels=channels)
    with pytest.raises(FileNotFoundError, match=r"X\[1\] \(.*gone\.png\): expected an image file"):
        images[1]
    with pytest.raises(ValueError, match=r"X\[2\]: expected shape"):
        images[2]


DETECTORS = {
    "ExDDDetector": lambda cells: ExDDDetector(cells, random_state=0),
    "augmented": lambda cells: ExDDDetector(cells, augmenter=OffsetDefectAugmenter(), n_synthetic=3, random_state=0),
    "LinearProbeDetector": lambda cells: LinearProbeDetector(cells, random_state=0),
    "PatchClassifierDetector": lambda cells: PatchClassifierDetector(
        cells, classifier=LogisticRegression(), random_state=0
    ),
    "CombinedDefectDetector": lambda cells: CombinedDefectDetector(
        [("one", ExDDDetector(cells)), ("two", ExDDDetector(cells, blur=0))], random_state=0
    ),
    "StudentTeacherDetector": lambda cells: StudentTeacherDetector(
        channels=(8,), n_synthetic=4, max_steps=2, train_batch_size=2, crop_size=32, random_state=0
    ),
    "SegmentationDetector": lambda cells: SegmentationDetector(
        LearnedFeatureExtractor(max_steps=2, n_synthetic=4, crop_size=32, train_batch_size=4, precision="float32"),
        n_networks=1,
        random_state=0,
    ),
    "DefectClassifier": lambda cells: DefectClassifier(
        "resnet18",
        weights=None,
        image_size=64,
        augmenter=OffsetDefectAugmenter(),
        n_synthetic=4,
        max_steps=2,
        random_state=0,
    ),
}


@pytest.mark.parametrize("channels", ["grey", "colour"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name[0] in "SD" else []) for name in DETECTORS]
)
def test_a_detector_reads_mixed_images_as_converted_ones(name, channels, squares, cells, tmp_path):
    X, y, masks = squares
    mixed, converted = [], []
    for i, image in enumerate(X):
        colour = np.stack([image, np.roll(image, 1, 0), image], axis=2)
        grey = np.asarray(Image.fromarray(colour).convert("L"))
        if i % 2:
            mixed.append(tmp_path / f"{i}.png" if i % 3 else colour)
            Image.fromarray(colour).save(tmp_path / f"{i}.png")
            converted.append(grey if channels == "grey" else colour)
        else:
            mixed.append(image)
            converted.append(image if channels == "grey" else np.stack([image] * 3, axis=2))
    plain = DETECTORS[name](cells).fit(converted, y, masks=masks)
    detector = DETECTORS[name](cells).set_params(image_channels=channels).fit(mixed, y, masks=masks)
    np.testing.assert_array_equal(detector.score_samples(mixed), plain.score_samples(converted))
    np.testing.assert_array_equal(detector.predict_map(mixed[:3]), plain.predict_map(converted[:3]))
    with pytest.raises(
        ValueError, match=r"X\[1\].*: expected 1 channel \(grey\) as in the other .*image_channels='grey'"
    ):
        DETECTORS[name](cells).fit(mixed, y)
    if name == "ExDDDetector":
        DefectMapDisplay.from_estimator(detector, mixed[:2])
        cached = clone(detector).set_params(memory=str(tmp_path / "cache"))
        for other in (channels, "grey", "colour"):
            twin = clone(detector).set_params(image_channels=other).fit(mixed, y, masks=masks)
            cached.set_params(image_channels=other).fit(mixed, y, masks=masks)
            np.testing.assert_array_equal(cached.score_samples(mixed), twin.score_samples(mixed))


def test_synthetic_defects_of_an_earlier_step_are_converted_too(squares, cells):
    X, y, _ = squares
    colour = np.stack([X, np.roll(X, 1, 1), X], axis=3)
    pipeline = make_pipeline(
        OffsetDefectAugmenter(n_synthetic=3, random_state=0),
        ExDDDetector(cells, image_channels="grey", random_state=0),
    )
    assert pipeline.fit(colour, y).predict(X).shape == (len(X),)
    assert pipeline[-1].synthetic_.images[0].ndim == 2


AUGMENTERS = {
    "offset": OffsetDefectAugmenter,
    "perlin": PerlinDefectAugmenter,
    "cut and paste": CutPasteDefectAugmenter,
    "defects": DefectPasteAugmenter,
    "mixture": default_augmenter,
}


def in_many_forms(X, folder, coloured):
    """Return grey arrays or, if `coloured`, a mix of grey arrays, colour arrays and colour files."""
    mixed = []
    for i, image in enumerate(X):
        colour = np.stack([image, np.roll(image, 1, 0), image], axis=2)
        if i % 4 == 0 or not coloured:
            mixed.append(image)
        elif i % 4 == 1:
            mixed.append(colour)
        else:
            mixed.append(folder / f"{i}.png")
            picture = Image.fromarray(colour)
            (picture.quantize(64) if i % 4 == 2 else picture.convert("RGBA")).save(mixed[-1])
    return mixed


@pytest.mark.parametrize("channels", ["grey", "colour"])
@pytest.mark.parametrize("name", AUGMENTERS)
def test_a_step_before_the_detector_takes_mixed_images(name, channels, squares, cells, tmp_path):
    X, y, masks = squares
    mixed = in_many_forms(X, tmp_path, True)
    augmenter = AUGMENTERS[name]().set_params(n_synthetic=5, random_state=0)
    step = type(augmenter).__name__.lower()
    detector = ExDDDetector(cells, image_channels=channels, random_state=0)
    given = {f"{step}__masks": masks, "exdddetector__masks": masks}
    pipeline = make_pipeline(augmenter, detector).fit(mixed, y, **given)
    synthetic = pipeline[-1].synthetic_.images
    assert {np.ndim(image) for image in synthetic} == {2 if channels == "grey" else 3}
    converted = Images(mixed, channels=channels).raw()
    alone = clone(detector).fit(converted, y, masks=masks)
    assert alone.n_channels_ == pipeline[-1].n_channels_ == (1 if channels == "grey" else 3)
    np.testing.assert_array_equal(
        pipeline.score_samples(mixed), pipeline[-1].score_samples(list(map(np.asarray, converted)))
    )
    with pytest.raises(
        ValueError, match=r"X\[\d+\].*: expected .* channels? .*image_channels='(grey|colour)' of the detector"
    ):
        make_pipeline(clone(augmenter), ExDDDetector(cells)).fit(mixed, y, **given)


@pytest.mark.parametrize("name", AUGMENTERS)
def test_an_augmenter_paints_in_colour_only_if_some_image_is_in_colour(name, squares, tmp_path):
    X, y, masks = squares
    for coloured in (False, True):
        given = in_many_forms(X, tmp_path, coloured)
        augmenter = AUGMENTERS[name]().set_params(n_synthetic=3, random_state=0)
        augmented = augmenter.fit_transform(given, y, masks=masks)
        assert {np.ndim(image) for image in augmented.synthetic.images} == {3 if coloured else 2}
        assert all(passed is item for passed, item in zip(augmented, given))
        for part in getattr(augmenter, "augmenters_", [augmenter]):
            assert part.paint(X[0], masks.any(axis=0)).images[0].ndim == (3 if coloured else 2)


def test_readers_without_the_parameter_name_another_remedy(squares):
    X = squares[0]
    colour = np.stack([X] * 3, axis=3)
    readers = [
        lambda: OffsetDefectAugmenter(random_state=0).fit(X).paint(colour[0], X[0] > 99),
        lambda: kernel_distance([*X[:3], colour[3]], X),
        lambda: GaborFeatureExtractor().fit([X[0], colour[1]]),
    ]
    for read in readers:
        with pytest.raises(ValueError, match=r"channel.* Convert all images to one of the two, as Pillow") as caught:
            read()
        assert "image_channels" not in str(caught.value)


def test_a_stored_detector_keeps_its_channels(surfaces, tmp_path):
    X = surfaces[0]
    mixed = [*X[:3], *np.stack([X[3:6]] * 3, axis=3)]
    detector = ExDDDetector(image_channels="grey", random_state=0).fit(mixed)
    persistence.dump(detector, tmp_path / "model")
    again = persistence.load(tmp_path / "model")
    assert again.image_channels == "grey"
    np.testing.assert_array_equal(again.score_samples(mixed), detector.score_samples(X[:6]))


def test_every_detector_is_tested_and_checks_the_parameter(squares, cells):
    kinds = {
        kind
        for name in sklearn_exdd.__all__
        if isinstance(kind := getattr(sklearn_exdd, name), type)
        and issubclass(kind, BaseDefectDetector)
        and kind is not BaseDefectDetector
    }
    detectors = [make(cells) for make in DETECTORS.values()]
    assert {type(detector) for detector in detectors} == kinds
    for detector in detectors:
        name = type(detector).__name__
        assert detector.image_channels is None
        with pytest.raises(ValueError, match=f"The 'image_channels' parameter of {name} must be a str among"):
            detector.set_params(image_channels="rgb").fit(squares[0])
