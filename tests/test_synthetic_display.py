import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_exdd import ExDDDetector, SyntheticDefectsDisplay
from sklearn_exdd.augment import PerlinDefectAugmenter, SyntheticDefects
from sklearn_exdd.datasets import make_surface_defects

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


def make_synthetic(n=5, shapes=((64, 64),), n_channels=None, **origin):
    images, masks = [], []
    for i in range(n):
        X, _, mask = make_surface_defects(1, defect_fraction=1, image_shape=shapes[i % len(shapes)], random_state=i)
        images.append(X[0] if n_channels is None else np.stack([X[0]] * n_channels, axis=-1))
        masks.append(mask[0])
    provenance = [{"source": 10 * i, "augmenter": "PerlinDefectAugmenter", "region": "RidgedRegions"} for i in range(n)]
    return SyntheticDefects(images, masks, [one | origin for one in provenance])


class Augmenter(TransformerMixin, BaseEstimator):
    """Stand-in for an augmenter that need not be fitted."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X

    def sample(self, n_samples, random_state=None):
        return make_synthetic(n_samples, model=random_state)


class Detector(BaseEstimator):
    def __init__(self, n_synthetic=3):
        self.n_synthetic = n_synthetic

    def fit(self, X, y=None):
        self.synthetic_ = make_synthetic(self.n_synthetic) if self.n_synthetic else None
        return self

    def score(self, X, y=None):
        return 0


def captions(display):
    return [ax.get_xlabel() for ax in display.axes_[:, 0]]


def titles(display):
    return [ax.get_title(loc="left") for ax in display.axes_[:, 0]]


def n_outlines(ax):
    return sum(isinstance(one, matplotlib.contour.ContourSet) for one in ax.collections)


@pytest.mark.parametrize("n_channels", [None, 3])
@pytest.mark.parametrize("shapes", [[(64, 64)], [(40, 96), (96, 40), (64, 64)]])
@pytest.mark.parametrize("detail", [True, False])
def test_images_of_any_size_grey_or_colour_stand_apart(shapes, n_channels, detail):
    synthetic = make_synthetic(7, shapes, n_channels)
    display = SyntheticDefectsDisplay.from_samples(synthetic, detail=detail)
    display.figure_.canvas.draw()
    assert display.axes_.shape == (7, 1 + detail)
    for axes, image in zip(display.axes_, synthetic.images):
        assert [ax.images[0].get_array().shape[:2] for ax in axes] == [image.shape[:2]] * (1 + detail)
        assert axes[0].get_xlim() == (-0.5, image.shape[1] - 0.5)
    panels = [ax.get_position() for ax in display.axes_.ravel()]
    assert not any(a.overlaps(b) for i, a in enumerate(panels) for b in panels[:i])
    # A caption runs below both panels of its image.
    boxes = [matplotlib.transforms.Bbox.union([ax.get_tightbbox() for ax in axes]) for axes in display.axes_]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(display.figure_.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_the_mask_is_outlined_on_the_image_and_never_on_the_detail():
    synthetic = make_synthetic(2)
    display = SyntheticDefectsDisplay.from_samples(synthetic)
    assert [[n_outlines(ax) for ax in axes] for axes in display.axes_] == [[1, 0], [1, 0]]
    assert [text.get_text() for text in display.figure_.legends[0].get_texts()] == ["mask"]
    bare = display.plot(contour=False)
    assert bare is display
    assert [n_outlines(ax) for ax in display.axes_[:, 0]] == [0, 0]
    assert not display.figure_.legends


@pytest.mark.parametrize("corner", [(0, 0), (30, 61), (12, 80)])
@pytest.mark.parametrize("size", [1, 8, 20])
def test_the_detail_holds_the_whole_mask_and_stays_in_the_image(corner, size):
    mask = np.zeros((40, 100), dtype=bool)
    mask[corner[0] : corner[0] + size, corner[1] : corner[1] + size] = True
    image = np.full(mask.shape, 100, dtype=np.uint8)
    ax = SyntheticDefectsDisplay.from_samples(([image], [mask])).axes_[0, 1]
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    rows, columns = np.nonzero(mask)
    assert -0.5 <= top <= rows.min() - 0.5 < rows.max() + 0.5 <= bottom <= 39.5
    assert -0.5 <= left <= columns.min() - 0.5 < columns.max() + 0.5 <= right <= 99.5
    assert (right - left) / (bottom - top) == pytest.approx(2.5)
    assert right - left >= 25


def test_title_and_caption_say_where_a_defect_comes_from():
    display = SyntheticDefectsDisplay.from_samples(make_synthetic(2))
    assert titles(display) == ["[0] from image 0", "[1] from image 10"]
    assert captions(display) == ["PerlinDefectAugmenter, RidgedRegions"] * 2
    prompted = SyntheticDefectsDisplay.from_samples(make_synthetic(1, prompt="a thin scratch", source=None))
    assert titles(prompted) == ["[0]"]
    assert captions(prompted) == ['"a thin scratch"']
    faint = SyntheticDefectsDisplay.from_samples(make_synthetic(1, visible=False))
    assert captions(faint)[0].replace("\n", " ") == "hardly visible: PerlinDefectAugmenter, RidgedRegions"
    unknown = SyntheticDefectsDisplay.from_samples(tuple(make_synthetic(1)))
    assert titles(unknown) + captions(unknown) == ["[0]", ""]
    given = SyntheticDefectsDisplay.from_samples(tuple(make_synthetic(1)), provenance=[{"source": 4}])
    assert titles(given) == ["[0] from image 4"]


@pytest.mark.parametrize(
    "prompt", ["a deep scratch " * 20, "scratch" * 40, "A STAIN OF RUST " * 20, r"costs $5, $\scratch"]
)
@pytest.mark.parametrize("detail", [True, False])
def test_a_long_prompt_is_cut_to_the_width_of_its_panels(prompt, detail):
    display = SyntheticDefectsDisplay.from_samples(make_synthetic(2, prompt=prompt), detail=detail)
    display.figure_.canvas.draw()
    assert all(len(caption.splitlines()) <= 2 for caption in captions(display))
    left, right = (ax.get_tightbbox() for ax in display.axes_[:, 0])
    assert left.x1 < right.x0
    assert right.x1 <= display.figure_.bbox.x1


def test_arrays_lists_and_paths_give_the_same_sheet(write_images):
    synthetic = make_synthetic(3)
    paths = write_images(synthetic.images), write_images([255 * mask.astype(np.uint8) for mask in synthetic.masks], "m")
    sheets = []
    for images, masks in [tuple(synthetic), tuple(map(np.stack, synthetic)), paths]:
        display = SyntheticDefectsDisplay.from_samples((images, masks))
        display.figure_.canvas.draw()
        sheets.append(np.asarray(display.figure_.canvas.buffer_rgba()))
    assert all(np.array_equal(sheets[0], sheet) for sheet in sheets[1:])


def test_an_augmenter_is_asked_for_samples():
    display = SyntheticDefectsDisplay.from_estimator(Augmenter().fit(None), 3, random_state=5)
    assert len(display.images) == 3
    assert display.provenance[0]["model"] == 5
    assert len(SyntheticDefectsDisplay.from_estimator(make_pipeline(Augmenter()), 4).images) == 4


def test_a_detector_shows_what_it_learned_from():
    X = np.zeros((4, 2))
    detector = Detector().fit(X)
    assert len(SyntheticDefectsDisplay.from_estimator(detector).images) == 3
    assert len(SyntheticDefectsDisplay.from_estimator(detector, 2).provenance) == 2
    pipeline = make_pipeline(Augmenter(), Detector()).fit(X)
    assert len(SyntheticDefectsDisplay.from_estimator(pipeline).images) == 3
    search = GridSearchCV(pipeline, {"detector__n_synthetic": [2]}, cv=2).fit(X)
    assert len(SyntheticDefectsDisplay.from_estimator(search).images) == 2
    without = make_pipeline(Augmenter(), Detector(n_synthetic=0)).fit(X)
    assert len(SyntheticDefectsDisplay.from_estimator(without, 5).images) == 5


@pytest.mark.slow
def test_the_librarys_own_augmenter_and_detector_are_shown(squares):
    X, y, _ = squares
    augmenter = PerlinDefectAugmenter(n_synthetic=6, random_state=0)
    drawn = SyntheticDefectsDisplay.from_estimator(augmenter.fit(X[y == 0]), 2)
    assert captions(drawn)[0].startswith("PerlinDefectAugmenter, ")
    detector = ExDDDetector(augmenter=augmenter, random_state=0).fit(X[y == 0])
    learned = SyntheticDefectsDisplay.from_estimator(detector, 4)
    np.testing.assert_array_equal(learned.images, detector.synthetic_.images[:4])


def test_axes_of_the_user_are_drawn_into():
    synthetic = make_synthetic(2)
    figure, axes = matplotlib.pyplot.subplots(2, 2, layout="constrained")
    display = SyntheticDefectsDisplay.from_samples(synthetic, axes=axes)
    assert display.figure_ is figure
    assert axes[0, 0].get_legend() is not None
    with pytest.raises(ValueError, match=r"^axes: expected 4 axes \(2 images with 2 panels each\), got 3"):
        display.plot(axes=axes.ravel()[:3])


def test_data_that_do_not_belong_together_are_refused():
    images, masks = make_synthetic(3)
    show = SyntheticDefectsDisplay.from_samples
    for n_samples in (None, 2):
        with pytest.raises(ValueError, match="masks: expected one mask for each of the 3 images, got 2"):
            show((images, masks[:2]), n_samples)
        with pytest.raises(ValueError, match="provenance: expected one entry for each of the 3 images, got 1"):
            show((images, masks), n_samples, provenance=[{}])
    with pytest.raises(ValueError, match=r"masks\[1\]: expected a mask that marks the defect, got an empty mask"):
        show((images, [masks[0], np.zeros((64, 64)), masks[2]]))
    with pytest.raises(ValueError, match=r"masks\[2\]: expected a mask that marks the defect, got None"):
        show((images, [*masks[:2], None]))
    with pytest.raises(
        TypeError, match=r"synthetic: expected the result of the method sample .* \(images, masks\), got ndarray"
    ):
        show(np.stack(images))
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        show((images, masks), colour="red")


def test_an_estimator_without_synthetic_defects_is_refused():
    with pytest.raises(TypeError, match=r"expected a fitted augmenter .* none of these in SimpleNamespace"):
        SyntheticDefectsDisplay.from_estimator(SimpleNamespace(synthetic_=None))
    with pytest.raises(TypeError, match="none of these in Pipeline"):
        SyntheticDefectsDisplay.from_estimator(make_pipeline(Detector(n_synthetic=0)).fit(None))


@pytest.mark.slow
def test_importing_the_display_does_not_import_matplotlib():
    code = "import sys; from sklearn_exdd import SyntheticDefectsDisplay; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'sklearn_exdd\[plot\]'"):
        SyntheticDefectsDisplay.from_samples(make_synthetic(1))
