"""The review page and detectors with a region of interest."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from test_review import OFFSET, Prompted, write_folder

from sklearn_exdd import CombinedDefectDetector, CutPasteDefectAugmenter, ExDDDetector
from sklearn_exdd.datasets import with_roi
from sklearn_exdd.review.__main__ import main
from sklearn_exdd.review.drawing import preview
from sklearn_exdd.review.session import ReviewSession

LEFT, RIGHT = np.arange(64) < np.full((64, 1), 40), np.arange(64) > np.full((64, 1), 50)


@pytest.fixture
def folder(tmp_path, surfaces):
    X, y, _ = surfaces
    return write_folder(tmp_path / "parts", X[:8], y[:8])


@pytest.fixture
def source(folder):
    return next(entry.name for entry in folder.entries() if entry.label == 0)


@pytest.fixture
def normal(surfaces):
    return surfaces[0][surfaces[1] == 0]


def detector(normal, roi=LEFT):
    return ExDDDetector("gabor", random_state=0).fit(normal, roi=roi)


def box(rows, columns):
    drawn = np.zeros((64, 64), dtype=bool)
    drawn[slice(*rows), slice(*columns)] = True
    return drawn


def frozen(*detectors):
    return CombinedDefectDetector([(f"number {i}", FrozenEstimator(one)) for i, one in enumerate(detectors)])


def attach(X):
    return with_roi(X, RIGHT)


HOLDERS = {
    "alone": lambda one, X, y: one,
    "frozen": lambda one, X, y: FrozenEstimator(one),
    "pipeline": lambda one, X, y: make_pipeline(CutPasteDefectAugmenter(n_synthetic=0), FrozenEstimator(one)).fit(X),
    "threshold": lambda one, X, y: FixedThresholdClassifier(FrozenEstimator(one)).fit(X, y),
    "search": lambda one, X, y: GridSearchCV(
        ExDDDetector("gabor", random_state=0), {"n_neighbors": [1]}, cv=2, scoring="roc_auc"
    ).fit(X, y, roi=LEFT),
    "combination": lambda one, X, y: CombinedDefectDetector([("one", ExDDDetector("gabor"))], random_state=0).fit(
        X, roi=LEFT
    ),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_the_region_is_found_inside_whatever_holds_the_detector(holder, folder, source, normal, surfaces):
    session = ReviewSession(folder, HOLDERS[holder](detector(normal), *surfaces[:2]))
    image, roi = session.open(source)
    np.testing.assert_array_equal(roi, LEFT)
    np.testing.assert_array_equal(image, folder.read(source))
    made = session.make(source, box((20, 40), (30, 60)), OFFSET)
    assert made.is_cut
    assert not made.mask[~LEFT].any()


def test_a_combination_inspects_what_any_of_its_members_inspects(folder, source, normal, unseen_surfaces):
    left, right, whole = detector(normal), detector(normal, RIGHT), detector(normal, None)
    for members, expected in (((left, right), LEFT | RIGHT), ((left, whole), None), ((whole,), None)):
        roi = ReviewSession(folder, frozen(*members).fit(unseen_surfaces[0][unseen_surfaces[1] == 0])).roi(source)
        np.testing.assert_array_equal(roi, expected)


def test_a_step_of_a_pipeline_may_attach_a_region_to_each_image(folder, source, normal):
    pipeline = make_pipeline(FunctionTransformer(attach), ExDDDetector("gabor", random_state=0)).fit(normal)
    np.testing.assert_array_equal(ReviewSession(folder, pipeline).roi(source), RIGHT)


def test_without_a_region_the_whole_image_counts(folder, source, normal):
    for one in (None, detector(normal, None)):
        session = ReviewSession(folder, one)
        assert session.roi(source) is None
        assert not session.make(source, box((20, 40), (30, 60)), OFFSET).is_cut


@pytest.mark.parametrize("generator", [*ReviewSession(None).generators, "asked"])
def test_defects_are_made_in_the_region_and_from_what_lies_in_it(generator, folder, source, normal):
    image = folder.read(source)
    session = ReviewSession(folder, detector(normal), {"asked": Prompted()})
    inside = box((10, 50), (5, 35))
    made = session.make(source, inside, generator, prompt="a pit")
    assert not made.is_cut
    cut = session.make(source, inside | box((10, 50), (42, 60)), generator, prompt="a pit")
    assert cut.is_cut
    np.testing.assert_array_equal(cut.image, made.image)
    np.testing.assert_array_equal(made.image[~made.mask], image[~made.mask])  # the image itself, not one filled outside
    Image.fromarray(np.where(LEFT, image, 255 - image)).save(folder.path / source)
    other = session.make(source, inside, generator, prompt="a pit")
    np.testing.assert_array_equal(other.image[LEFT], made.image[LEFT])


def test_what_is_drawn_outside_is_refused(folder, source, normal):
    session, outside = ReviewSession(folder, detector(normal)), box((10, 30), (41, 60))
    message = r"^Expected a drawn region within .* region of interest, got one that lies entirely outside. Draw where"
    with pytest.raises(ValueError, match=message):
        session.make(source, outside, OFFSET)
    with pytest.raises(ValueError, match=message):
        session.corrections.add(source, 1, outside)
    assert (folder.decisions(), session.corrections.steps) == ([], ())


def test_only_the_part_in_the_region_is_kept_of_a_correction(folder, source, normal):
    session, drawn = ReviewSession(folder, detector(normal)), box((10, 30), (30, 60))
    assert session.corrections.add(source, 1, drawn)
    (decision,) = folder.decisions()
    np.testing.assert_array_equal(np.asarray(Image.open(folder.path / decision["mask"])) > 0, drawn & LEFT)
    assert len(session.detector.defect_bank_) > 0
    other = folder.entries()[1].name
    assert not session.corrections.add(other, 1, drawn & LEFT)
    assert not session.corrections.add(folder.entries()[2].name, 0)


def test_nothing_is_drawn_on_an_image_of_another_size(folder, normal):
    Image.new("L", (48, 32), 90).save(folder.path / "small.png")
    session = ReviewSession(folder, detector(normal))
    drawn = np.ones((32, 48), dtype=bool)
    for act in (
        lambda: session.make("small.png", drawn, OFFSET),
        lambda: session.corrections.add("small.png", 1, drawn),
    ):
        with pytest.raises(
            ValueError, match=r"^Expected an image of 64 x 64 pixels, .* got one of 32 x 48 pixels. Draw"
        ):
            act()
    assert folder.decisions() == []


def test_the_map_of_a_detector_in_a_pipeline_is_shown(folder, source, normal):
    inner = detector(normal)
    pipeline = make_pipeline(CutPasteDefectAugmenter(n_synthetic=0), FrozenEstimator(inner)).fit(normal)
    (result,) = inner.inspect([folder.locate(source)])
    located = ReviewSession(folder, pipeline).locate(source)
    np.testing.assert_array_equal(located.map, result.map)
    np.testing.assert_array_equal(located.mask, result.mask)
    assert located.threshold == inner.pixel_threshold_


@pytest.mark.parametrize("level", [0, 128, 255])
def test_what_lies_outside_is_shaded(level):
    image = np.full((64, 64), level, dtype=np.uint8)
    pixels = np.asarray(Image.open(io.BytesIO(preview(image, longest=64, roi=LEFT))))
    assert (pixels[LEFT] == level).all()
    assert len(np.unique(pixels[~LEFT])) == 2  # stripes
    assert level not in pixels[~LEFT]


# Start of the page


def own_regions(normal):
    return ExDDDetector("gabor", random_state=0).fit(normal, roi=[LEFT] * len(normal))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda one, X: one,
        lambda one, X: make_pipeline(FunctionTransformer(), FrozenEstimator(one)).fit(X),
    ],
)
def test_a_detector_that_needs_a_region_with_each_image_is_refused_at_the_start(wrap, folder, normal, tmp_path):
    pytest.importorskip("nicegui")
    (tmp_path / "detector.pkl").write_bytes(pickle.dumps(wrap(own_regions(normal), normal)))
    message = (
        r"^detector: expected one region of interest for all images, got a detector fitted with a separate region "
        r"for each image\. .* have no regions\. Fit the detector with a single mask, as in fit\(X, y, roi=mask\), or "
        r"crop"
    )
    with pytest.raises(SystemExit, match=message):
        main([str(folder.path), "--detector", str(tmp_path / "detector.pkl")])
    assert not (folder.path / "review").exists()
