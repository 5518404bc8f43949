"""Grey and colour images in one call: `image_channels`."""

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_exdd import (
    CombinedDefectDetector,
    DefectClassifier,
    ExDDDetector,
    OffsetDefectAugmenter,
    PatchClassifierDetector,
    SegmentationDetector,
    StudentTeacherDetector,
    persistence,
)
from sklearn_exdd._images import Images
from sklearn_exdd.display import DefectMapDisplay

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


TINY = {"n_synthetic": 4, "max_steps": 2, "crop_size": 32}
DETECTORS = {
    "ExDDDetector": lambda cells: ExDDDetector(cells, random_state=0),
    "augmented": lambda cells: ExDDDetector(cells, augmenter=OffsetDefectAugmenter(), n_synthetic=3, random_state=0),
    "PatchClassifierDetector": lambda cells: PatchClassifierDetector(
        cells, classifier=LogisticRegression(), random_state=0
    ),
    "CombinedDefectDetector": lambda cells: CombinedDefectDetector(
        [("one", ExDDDetector(cells)), ("two", ExDDDetector(cells, blur=0))], random_state=0
    ),
    "StudentTeacherDetector": lambda cells: StudentTeacherDetector(
        channels=(8,), n_synthetic=4, max_steps=2, train_batch_size=2, crop_size=32, random_state=0
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


def test_a_stored_detector_keeps_its_channels(surfaces, tmp_path):
    X = surfaces[0]
    mixed = [*X[:3], *np.stack([X[3:6]] * 3, axis=3)]
    detector = ExDDDetector(image_channels="grey", random_state=0).fit(mixed)
    persistence.dump(detector, tmp_path / "model")
    again = persistence.load(tmp_path / "model")
    assert again.image_channels == "grey"
    np.testing.assert_array_equal(again.score_samples(mixed), detector.score_samples(X[:6]))


def test_every_detector_has_the_parameter_and_checks_it(squares):
    for kind in (ExDDDetector, SegmentationDetector, StudentTeacherDetector, DefectClassifier, PatchClassifierDetector):
        assert kind().get_params()["image_channels"] is None
    with pytest.raises(ValueError, match="The 'image_channels' parameter of ExDDDetector must be a str among"):
        ExDDDetector(image_channels="rgb").fit(squares[0])
