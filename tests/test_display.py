import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_exdd import (
    CombinedDefectDetector,
    CutPasteDefectAugmenter,
    ExDDDetector,
    MixedDefectAugmenter,
    PerlinDefectAugmenter,
)
from sklearn_exdd.display import DefectMapDisplay, ScoreHistogramDisplay, SyntheticDefectsDisplay
from sklearn_exdd.display.scores import count_scores, score_edges

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
pytest.importorskip("matplotlib.pyplot")


def make_surfaces(shapes, n_channels=None, seed=0):
    """Return surfaces and their masks; surfaces at odd indices have a bright scratch."""
    rng = np.random.RandomState(seed)
    images, masks = [], []
    for index, (height, width) in enumerate(shapes):
        mask = np.zeros((height, width), dtype=bool)
        mask[height // 3 : height // 3 + 3, width // 4 : width // 2] = index % 2
        image = rng.randint(90, 110, size=mask.shape) + 100 * mask
        images.append((image if n_channels is None else np.stack([image] * n_channels, axis=-1)).astype(np.uint8))
        masks.append(mask if index % 2 else None)
    return images, masks


class Detector(ClassifierMixin, BaseEstimator):
    """Stand-in for a detector, whose map is the brightness divided by 100."""

    def __init__(self, pos_label=None):
        self.pos_label = pos_label

    def fit(self, X, y=None):
        self.classes_ = np.array([0, 1])
        self.normal_bank_ = self.defect_bank_ = "a bank"
        self.threshold_ = 1.5
        return self

    def predict_map(self, X):
        self.seen_ = X
        return [(image if image.ndim == 2 else image[..., 0]) / 100 for image in map(read, X)]

    def score_samples(self, X):
        return np.array([one.max() for one in self.predict_map(X)])

    def explain(self, X):
        explanations = []
        for index, one in enumerate(self.predict_map(X)):
            explanation = dict.fromkeys(["defect_image", "defect_patch", "defect_distance", "synthetic", "prompt"])
            row, column = np.unravel_index(one.argmax(), one.shape)
            explanation |= {"score": one.max(), "patch": (float(row), float(column))}
            explanation |= {"normal_image": index % 2, "normal_patch": (3.0, 30.0), "normal_distance": 1.25}
            if self.defect_bank_ is not None:
                explanation |= {"defect_image": 0, "defect_patch": (9.0, 9.0), "defect_distance": 0.5}
                explanation |= {"synthetic": index == 1, "prompt": "a scratch " * 20 if index == 1 else None}
            explanations.append(explanation)
        return explanations


def read(image):
    return image if isinstance(image, np.ndarray) else np.asarray(Image.open(image))


def titles(display):
    return [ax.get_title(loc="left") for ax in display.axes_[:, 0]]


def legend_of(display):
    return [text.get_text() for text in display.figure_.legends[0].get_texts()]


def n_lines(ax):
    """Return the numbers of outlines and boxes."""
    contours = [one for one in ax.collections if isinstance(one, matplotlib.contour.ContourSet)]
    return len(contours), len(ax.patches)


@pytest.mark.parametrize("n_channels", [None, 3, 4])
@pytest.mark.parametrize("shapes", [[(32, 32)], [(32, 32)] * 8, [(32, 48), (60, 20), (12, 80)]])
def test_one_or_many_images_of_any_size_grey_or_colour_are_drawn_as_pairs(shapes, n_channels):
    images, masks = make_surfaces(shapes, n_channels)
    detector = Detector().fit(images)
    display = DefectMapDisplay.from_estimator(detector, images, masks=masks)
    display.figure_.canvas.draw()
    assert display.axes_.shape == (len(shapes), 2)
    for pair, shape in zip(display.axes_, shapes):
        assert [ax.images[0].get_array().shape[:2] for ax in pair] == [shape, shape]
        assert pair[0].get_xlim() == (-0.5, shape[1] - 0.5)
    boxes = [ax.get_position() for ax in [*display.axes_.ravel(), display.colorbar_.ax]]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.slow
def test_arrays_lists_and_paths_give_the_same_pictures(tmp_path):
    images, masks = make_surfaces([(32, 32)] * 4)
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for image, path in zip(images, paths):
        Image.fromarray(image).save(path)
    detector = Detector().fit(images)
    pictures = []
    for X in (np.stack(images), images, paths, list(map(str, paths))):
        display = DefectMapDisplay.from_estimator(detector, X, masks=masks)
        display.figure_.canvas.draw()
        pictures.append(np.asarray(display.figure_.canvas.buffer_rgba()))
    assert all(np.array_equal(pictures[0], picture) for picture in pictures[1:])


def test_the_title_says_score_decision_truth_and_mistake():
    images, masks = make_surfaces([(32, 32)] * 4)
    display = DefectMapDisplay.from_predictions(
        images, [image / 100 for image in images], scores=[1, 2, 2, 1], threshold=1.5, masks=masks
    )
    assert titles(display) == [
        "[0] normal, score 1 ≤ 1.5\ntrue label: normal",
        "[1] defect, score 2 > 1.5\ntrue label: defect",
        "[2] defect, score 2 > 1.5\ntrue label: normal (false alarm)",
        "[3] normal, score 1 ≤ 1.5\ntrue label: defect (missed)",
    ]


def test_what_is_not_known_is_left_out_of_the_title():
    images, _ = make_surfaces([(32, 32)] * 2)
    maps = [image / 100 for image in images]
    assert titles(DefectMapDisplay.from_predictions(images, maps)) == ["[0]", "[1]"]
    assert titles(DefectMapDisplay.from_predictions(images, maps, scores=[1, 2])) == ["[0] score 1", "[1] score 2"]
    labelled = DefectMapDisplay.from_predictions(images, maps, labels=[True, False])
    assert titles(labelled) == ["[0]\ntrue label: defect", "[1]\ntrue label: normal"]
    assert not labelled.figure_.legends


@pytest.mark.parametrize("pos_label", [None, 0, 1])
def test_labels_are_read_in_the_classes_of_the_estimator(pos_label):
    images, _ = make_surfaces([(32, 32)] * 2)
    display = DefectMapDisplay.from_estimator(Detector(pos_label).fit(images), images, [0, 1])
    expected = ["defect", "normal"] if pos_label == 0 else ["normal", "defect"]
    assert [title.split("true label: ")[1].split(" (")[0] for title in titles(display)] == expected


def test_mask_and_map_are_outlined_where_there_is_something_to_outline():
    images, masks = make_surfaces([(32, 32)] * 2)
    maps = [image / 100 for image in images]
    display = DefectMapDisplay.from_predictions(images, maps, threshold=1.5, masks=masks)
    assert [n_lines(ax) for ax in display.axes_[:, 0]] == [(0, 0), (2, 0)]
    assert legend_of(display) == ["true mask", "map above 1.5"]
    assert n_lines(display.plot(contour=False).axes_[1, 0]) == (1, 0)
    assert legend_of(display.plot(pixel_threshold=1.25)) == ["true mask", "map above 1.25"]
    assert n_lines(DefectMapDisplay.from_predictions(images, maps).axes_[1, 0]) == (0, 0)


def test_an_outline_is_closed_along_the_border_of_the_image():
    corner = np.zeros((20, 20))
    corner[:5, :4] = 1
    display = DefectMapDisplay.from_predictions([np.zeros((20, 20))], [corner], threshold=0.5)
    (path,) = display.axes_[0, 0].collections[0].get_paths()
    np.testing.assert_array_equal(path.vertices[0], path.vertices[-1])
    np.testing.assert_array_equal([path.vertices.min(axis=0), path.vertices.max(axis=0)], [[-0.5, -0.5], [3.5, 4.5]])


def test_all_maps_share_one_scale_that_reaches_the_threshold():
    images, _ = make_surfaces([(32, 32)] * 2)
    maps = [np.full((32, 32), 0.2), np.full((32, 32), 0.8)]
    display = DefectMapDisplay.from_predictions(images, maps, threshold=2.0)
    assert all(ax.images[1].get_clim() == (0.2, 2.0) for ax in display.axes_[:, 1])
    assert display.colorbar_.extend == "neither"
    clipped = DefectMapDisplay.from_predictions(images, maps, map_range=(0.3, 0.5))
    assert clipped.axes_[0, 1].images[1].get_clim() == (0.3, 0.5)
    assert clipped.colorbar_.extend == "both"
    constant = DefectMapDisplay.from_predictions(images, maps[:1] * 2)
    assert constant.axes_[0, 1].images[1].get_clim() == (0.2, 1.2)


@pytest.mark.parametrize(
    ("banks", "label"),
    [
        ({"normal_bank_": 1, "defect_bank_": 1}, "ratio score"),
        ({"normal_bank_": 1, "defect_bank_": None}, "distance to the normal bank"),
        ({}, "anomaly score"),
    ],
)
def test_the_colour_bar_names_what_the_detector_measures(banks, label):
    images, _ = make_surfaces([(32, 32)])
    detector = Detector().fit(images)
    del detector.normal_bank_, detector.defect_bank_
    vars(detector).update(banks)
    display = DefectMapDisplay.from_estimator(detector, images)
    assert display.colorbar_.ax.get_ylabel().startswith(label)


def test_explanations_without_training_images_are_written_below():
    images, _ = make_surfaces([(32, 32)] * 2)
    display = DefectMapDisplay.from_estimator(Detector().fit(images), images, explain=True)
    assert display.axes_.shape == (2, 2)
    assert n_lines(display.axes_[1, 0]) == (1, 1)
    assert display.axes_[0, 0].get_xlabel() == (
        "nearest normal [0] at row 3, column 30, distance 1.25\nnearest defect [0] at row 9, column 9, distance 0.5"
    )
    nearest, prompt = display.axes_[1, 0].get_xlabel().splitlines()[1:]
    assert nearest.startswith("nearest defect [synthetic 0] at row 9")
    assert prompt.startswith('prompt: "a scratch a scratch')
    assert len(prompt) < 70


def test_explanations_with_training_images_show_the_patches_that_are_at_hand():
    images, _ = make_surfaces([(32, 32)] * 2)
    normal, _ = make_surfaces([(32, 32), (64, 40)], seed=1)
    display = DefectMapDisplay.from_estimator(
        Detector().fit(images), images, explain=True, X_normal=normal, X_defect=images[:1]
    )
    assert display.axes_.shape == (2, 4)
    assert display.axes_[1, 2].get_title(loc="left") == "nearest normal [1]\ndistance 1.25"
    assert display.axes_[1, 2].images[0].get_array().shape == (64, 40)
    # The box is 8 wide, the crop 16. For a patch at row 3, column 30 the crop is shifted to stay inside the image.
    assert display.axes_[0, 2].get_ylim() == (15.5, -0.5)
    assert display.axes_[0, 2].get_xlim() == (15.5, 31.5)
    assert display.axes_[0, 3].images
    assert not display.axes_[1, 3].images  # a synthetic row, and the detector keeps no synthetic images
    assert "prompt" in display.axes_[1, 0].get_xlabel()


def test_a_brighter_training_image_is_not_clipped_to_white():
    images = [np.full((32, 32), 40, dtype=np.uint8)] * 2
    normal = [np.full((32, 32), 200, dtype=np.uint8)] * 2
    normal[0] = np.where(np.arange(32) < 16, normal[0], 100).astype(np.uint8)
    display = DefectMapDisplay.from_estimator(Detector().fit(images), images, explain=True, X_normal=normal)
    shown = display.axes_[0, 2].images[0].get_array()
    assert shown.max() == pytest.approx(1)
    assert shown.min() == pytest.approx(0.5, abs=0.01)
    assert display.axes_[0, 0].images[0].get_array().max() == pytest.approx(0.2, abs=0.01)


@pytest.mark.slow
def test_a_synthetic_neighbour_is_shown_from_the_images_the_detector_keeps():
    images, _ = make_surfaces([(32, 32)] * 2)
    detector = Detector().fit(images)
    detector.synthetic_ = type("Synthetic", (), {"images": np.full((1, 24, 24), 7, dtype=np.uint8)})
    display = DefectMapDisplay.from_estimator(detector, images, explain=True)
    assert display.axes_.shape == (2, 3)
    assert display.axes_[1, 2].images[0].get_array().shape == (24, 24)


def test_a_one_class_explanation_has_no_defect_patch():
    images, _ = make_surfaces([(32, 32)] * 2)
    detector = Detector().fit(images)
    detector.defect_bank_ = None
    display = DefectMapDisplay.from_estimator(detector, images, explain=True)
    assert display.axes_[1, 0].get_xlabel() == "nearest normal [1] at row 3, column 30, distance 1.25"
    with_panel = DefectMapDisplay.from_estimator(detector, images, explain=True, X_defect=images)
    assert not with_panel.axes_[0, 2].images


def test_a_combination_has_no_single_patch_to_mark(squares, cells):
    detector = CombinedDefectDetector([("one", ExDDDetector(cells))], random_state=0).fit(squares[0], squares[1])
    with pytest.raises(TypeError, match=r"^explain: expected False for a CombinedDefectDetector, .* To explain one"):
        DefectMapDisplay.from_estimator(detector, squares[0][:2], explain=True)


def test_a_pipeline_shows_the_images_as_they_came():
    images = np.stack(make_surfaces([(32, 32)] * 2)[0])
    pipeline = make_pipeline(FunctionTransformer(lambda X: X // 2), Detector()).fit(images)
    display = DefectMapDisplay.from_estimator(pipeline, images)
    np.testing.assert_array_equal(pipeline[-1].seen_, images // 2)
    shown = display.axes_[0, 0].images[0].get_array()
    np.testing.assert_allclose(shown, images[0] / images.max(), rtol=1e-6)


def test_axes_of_the_user_are_drawn_into():
    images, masks = make_surfaces([(32, 32)] * 2)
    maps = [image / 100 for image in images]
    figure, axes = matplotlib.pyplot.subplots(2, 2, layout="constrained")
    display = DefectMapDisplay.from_predictions(images, maps, masks=masks, axes=axes, cmap="viridis")
    assert display.figure_ is figure
    assert display.axes_[1, 1] is axes[1, 1]
    assert display.axes_[0, 1].images[1].get_cmap().name == "viridis"
    figure.canvas.draw()
    with pytest.raises(ValueError, match=r"^axes: expected 4 axes \(2 images with 2 panels each\), got 3"):
        display.plot(axes=axes.ravel()[:3])


def test_data_that_do_not_belong_together_are_refused():
    images, masks = make_surfaces([(32, 32)] * 2)
    maps = [image / 100 for image in images]
    with pytest.raises(ValueError, match=r"^maps: expected one entry for each of the 2 images, got 1"):
        DefectMapDisplay.from_predictions(images, maps[:1])
    with pytest.raises(ValueError, match=r"^masks: expected one entry for each of the 2 images, got 3"):
        DefectMapDisplay.from_predictions(images, maps, masks=[*masks, None])
    with pytest.raises(ValueError, match=r"^maps\[1\]: expected the shape of its image, \(32, 32\), got \(16, 16\)"):
        DefectMapDisplay.from_predictions(images, [maps[0], maps[1][::2, ::2]])
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        DefectMapDisplay.from_predictions(images, maps, colour="red")


@pytest.mark.slow
def test_importing_the_display_does_not_import_matplotlib():
    code = "import sys, sklearn_exdd.display; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    images, _ = make_surfaces([(32, 32)])
    monkeypatch.setitem(sys.modules, "matplotlib.cm", None)
    with pytest.raises(ImportError, match=r"pip install 'sklearn_exdd\[plot\]'"):
        DefectMapDisplay.from_predictions(images, [image / 100 for image in images])


# Histograms of scores


def bars_of(display):
    """Return the heights of the normal and defect bars, and their edges."""
    normal, defect = display.ax_.patches
    return normal.get_data().values.tolist(), defect.get_data().values.tolist(), normal.get_data().edges.tolist()


def histogram_legend(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def test_each_score_is_counted_on_its_side_of_the_threshold():
    y, scores = [0, 0, 0, 0, 1, 1, 1], [0.0, 0.5, 2.0, 2.1, 2.0, 3.0, 4.0]
    display = ScoreHistogramDisplay.from_predictions(y, scores, threshold=2.0, n_bins=4)
    assert bars_of(display) == ([2, 1, 1, 0], [0, 1, 1, 1], [0.0, 1.0, 2.0, 3.0, 4.0])
    assert display.ax_.lines[0].get_xdata() == [2.0, 2.0]
    expected = ["normal: 4, 1 false alarm (25 %)", "defect: 3, 1 missed (33.3 %)", "threshold 2"]
    assert histogram_legend(display) == expected
    assert display.ax_.get_xlabel() == "anomaly score (no unit)"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_bins", [1, 7, 30])
@pytest.mark.parametrize("threshold", [None, -9.0, 0.0, 0.3, 9.0])
def test_bins_hold_all_scores_and_never_both_sides_of_the_threshold(seed, n_bins, threshold):
    scores = np.random.RandomState(seed).standard_normal(40).round(1)
    edges = score_edges(scores, threshold, n_bins)
    counts = count_scores(scores, edges)
    assert n_bins <= len(counts) <= n_bins + 1
    np.testing.assert_allclose(np.diff(edges), edges[1] - edges[0])
    assert edges[0] <= scores.min() + 1e-9
    assert edges[-1] >= scores.max() - 1e-9
    if threshold is not None:
        assert threshold in edges
        assert counts[edges[:-1] >= threshold].sum() == (scores > threshold).sum()


@pytest.mark.parametrize(("scores", "threshold"), [([2.0], None), ([2.0, 2.0], 2.0), ([2.0], 5.0), ([5.0], 2.0)])
def test_a_single_value_has_a_bar_too(scores, threshold):
    counts = count_scores(np.array(scores), edges := score_edges(np.array(scores), threshold, 4))
    assert counts.sum() == len(scores)
    assert (np.diff(edges) > 0).all()


def test_without_a_threshold_there_is_no_line_and_no_mistake():
    display = ScoreHistogramDisplay.from_predictions([0, 1, 1], [0.0, 1.0, 2.0])
    assert histogram_legend(display) == ["normal: 1", "defect: 2"]
    assert not display.ax_.lines
    only_normal = ScoreHistogramDisplay.from_predictions([0, 0], [0.0, 1.0], threshold=0.5)
    assert histogram_legend(only_normal)[:2] == ["normal: 2, 1 false alarm (50 %)", "defect: 0"]


@pytest.mark.parametrize("pos_label", [None, 0, 1])
def test_a_histogram_reads_labels_in_the_classes_of_the_estimator(pos_label):
    images, _ = make_surfaces([(32, 32)] * 6)
    pipeline = make_pipeline(FunctionTransformer(lambda X: X), Detector(pos_label)).fit(np.stack(images))
    display = ScoreHistogramDisplay.from_estimator(pipeline, np.stack(images), [0, 1, 0, 1, 0, 0])
    n_defects = 4 if pos_label == 0 else 2
    assert (sum(bars_of(display)[0]), sum(bars_of(display)[1])) == (6 - n_defects, n_defects)
    np.testing.assert_array_equal(display.scores, pipeline.score_samples(np.stack(images)))
    assert display.threshold == 1.5
    assert display.ax_.get_xlabel().startswith("ratio score")


def test_a_histogram_takes_another_threshold_and_axes_of_the_user():
    images, _ = make_surfaces([(32, 32)] * 2)
    figure, ax = matplotlib.pyplot.subplots()
    display = ScoreHistogramDisplay.from_estimator(Detector().fit(images), images, [0, 1], threshold=1.0, ax=ax)
    assert (display.ax_, display.figure_) == (ax, figure)
    assert histogram_legend(display)[0] == "normal: 1, 1 false alarm (100 %)"
    assert histogram_legend(display)[2] == "threshold 1"


def test_normal_and_defect_bars_are_told_apart_without_colours():
    normal, defect = ScoreHistogramDisplay.from_predictions([0, 1], [0.0, 1.0]).ax_.patches
    assert (normal.get_hatch(), defect.get_hatch()) == (None, "////")


def test_scores_that_make_no_histogram_are_refused():
    with pytest.raises(ValueError, match="y, scores: expected one label and one score per image, got 2 labels and"):
        ScoreHistogramDisplay.from_predictions([0, 1], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"scores\[1\]: expected a finite number, got nan"):
        ScoreHistogramDisplay.from_predictions([0, 1], [0.0, np.nan])
    with pytest.raises(ValueError, match=r"y: expected 1 \(or True\) for a defect and 0 .* got 'bad'. Pass"):
        ScoreHistogramDisplay.from_predictions(["bad", "good"], [0.0, 1.0])


def test_a_histogram_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'sklearn_exdd\[plot\]'"):
        ScoreHistogramDisplay.from_predictions([0, 1], [0.0, 1.0])


def test_real_defects_make_a_contact_sheet_like_synthetic_ones():
    images, masks = make_surfaces([(64, 64)] * 4)
    sheet = SyntheticDefectsDisplay.from_predictions(
        images[1::2], masks[1::2], provenance=[{"source": 5}, {"source": 7}]
    )
    same = SyntheticDefectsDisplay.from_samples((images[1::2], masks[1::2]))
    assert sheet.axes_.shape == same.axes_.shape == (2, 2)
    assert [ax.get_title(loc="left") for ax in sheet.axes_[:, 0]] == ["[0] from image 5", "[1] from image 7"]


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(
    ("estimator", "members"),
    [
        (
            CombinedDefectDetector([("sharp", ExDDDetector(blur=0)), ("coarse", ExDDDetector()), ("none", "drop")]),
            ["sharp", "coarse", "none"],
        ),
        (
            MixedDefectAugmenter([("perlin", PerlinDefectAugmenter()), ("cutpaste", CutPasteDefectAugmenter())]),
            ["perlin", "cutpaste"],
        ),
    ],
)
def test_in_a_notebook_members_stand_side_by_side(estimator, members, fitted):
    estimator = clone(estimator)
    if fitted:
        estimator.fit(np.stack(make_surfaces([(64, 64)] * 8)[0]))
    html = estimator._repr_html_()
    assert "sk-parallel" in html
    assert html.count('<div class="sk-parallel-item">') == len(members)
    for name in members:
        assert f">{name}<" in html


def test_in_a_notebook_members_that_are_no_pairs_do_no_harm():
    assert "CombinedDefectDetector" in CombinedDefectDetector([ExDDDetector()])._repr_html_()
