import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run in two processes, see pyproject.toml

import numpy as np
import pytest
import sklearn
from hypothesis import HealthCheck, settings
from PIL import Image

from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.features import BaseFeatureExtractor

pytest.register_assert_rewrite("assertions", "cheap_augmenters", "naive_exdd", "tiny_extractors")

UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # a busy machine must not fail a test
settings.register_profile("default", max_examples=100, derandomize=True, **UNTIMED)
settings.register_profile("nightly", max_examples=5000, derandomize=False, **UNTIMED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


# Classes whose docstrings train a network or load a large library. A doctest cannot carry a mark of its own.
SLOW_DOCTESTS = {
    *("DDPMDefectAugmenter", "DefectClassifier", "EfficientNetLiteFeatureExtractor", "LearnedFeatureExtractor"),
    *("PatchClassifierDetector", "SegmentationDetector", "StudentTeacherDetector", "TimmFeatureExtractor"),
}

# Fixtures that run a whole benchmark; the tests that use them are slow.
LONG_RUNS = {"ksdd2_run", "mvtec_run"}

# The longest tests. They repeat, on other models or in other processes, what quicker tests check.
SLOW = (
    "test_encoder.py::test_tiles_are_stitched_without_seams",
    "test_threshold.py::test_calibration_scores_are_those_of_refits_that_whiten_without_the_image[dual-gabor",
    "test_threshold.py::test_the_promised_rate_is_kept_on_new_images[gabor",
    "test_timm.py::test_a_dot_is_found_where_it_is_at_any_size[pvt_v2_b0",
    "test_timm.py::test_a_dot_is_found_where_it_is_at_any_size[resnet18",
    "test_timm.py::test_a_dot_is_found_where_it_is_at_any_size[vit_tiny_patch16_224",
    "test_common.py::test_a_detector_leaves_its_input_as_it_is[SegmentationDetector]",
    "test_common.py::test_an_array_a_list_and_paths_are_the_same[SegmentationDetector]",
    "test_common.py::test_batches_and_jobs_change_nothing[{'n_jobs'",
    "test_common.py::test_scikit_learn_finds_nothing_wrong[ExDDDetector(epsilon=1e-06",
    "test_export_linear_probe.py::test_the_recommended_combination",
    "test_export_networks.py::test_a_file_with_a_network",
    "test_export_networks.py::test_a_segmentation_of_two_networks",
    "test_export_networks.py::test_a_student_teacher",
    "test_export_networks.py::test_colour_and_other_backbones",
    "test_export_networks.py::test_learned_features_with_an_encoder",
    "test_export_networks.py::test_members_of_all_kinds",
    "test_export_roi.py::test_a_region_with_a_network",
    "test_load.py::test_thousands_of_predictions",
    "test_memory_bank.py::test_the_index_finds_what_brute_force_finds",
    "test_project.py::test_examples_run[plot_cluster.py]",
    "test_project.py::test_examples_run[plot_grid_search.py]",
    "test_project.py::test_examples_run[plot_student_teacher.py]",
    "test_project.py::test_examples_run[plot_synthetic_count.py]",
    "test_roi.py::test_pixels_outside_change_nothing[classifier",
    "test_roi.py::test_pixels_outside_change_nothing[networks",
    "test_roi.py::test_maps_are_lowest_outside_and_nothing_is_marked_there[classifier",
    "test_roi.py::test_maps_are_lowest_outside_and_nothing_is_marked_there[networks",
    "test_roi.py::test_any_float_may_lie_outside[networks",
    "test_timm.py::test_a_dot_is_found_where_it_is_at_any_size[swinv2",
    "test_timm.py::test_a_dot_is_found_where_it_is_at_any_size[vit_small_patch14_reg4",
    "test_timm.py::test_a_dot_is_found_where_it_is_at_any_size[vit_small_patch16_dinov3",
    "test_timm.py::test_a_dot_is_found_where_it_is_at_any_size[eva02",
    "test_fork.py::test_what_a_forked_child_computes_ends_and_is_right[scores-",
    "test_fork.py::test_what_a_forked_child_computes_ends_and_is_right[maps-pool",
    "test_fork.py::test_what_a_forked_child_computes_ends_and_is_right[rows-",
    "test_search.py::test_parameters_of_an_extractor_that_is_given_by_name_can_be_searched[PatchClassifierDetector",
    "test_large.py::test_neither_the_shards_nor_the_processes_change_a_fit[{}]",
    "test_search_costs.py::test_a_search_trains_a_classifier_once_for_each_fold",
    "test_timm.py::test_outputs_are_those_of_timm[swin_tiny_patch4_window7_224-layers4-True",
    "test_timm.py::test_a_dot_is_found_where_it_is_at_any_size[swin_tiny",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        is_long_doctest = isinstance(item, pytest.DoctestItem) and item.name.rpartition(".")[2] in SLOW_DOCTESTS
        if any(name in item.nodeid for name in SLOW) or fixtures & LONG_RUNS or is_long_doctest:
            item.add_marker(pytest.mark.slow)


class CellStatistics(BaseFeatureExtractor):
    """Mean, standard deviation, minimum and maximum of cells of 8 x 8 pixels: features that are easy to verify."""

    stride = 8
    offset = 3.5

    def _extract(self, images):
        n, height, width, n_channels = images.shape
        padded = np.pad(images, ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
        cells = padded.reshape(n, -(-height // 8), 8, -(-width // 8), 8, n_channels)
        return np.concatenate([getattr(cells, name)(axis=(2, 4)) for name in ("mean", "std", "min", "max")], axis=3)


def name_of(estimator):
    """Return the name of the estimator's class, for use as a parameter id."""
    return type(estimator).__name__


@pytest.fixture
def routing():
    """Switch on scikit-learn's metadata routing."""
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.fixture(autouse=True)
def close_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def read_only(*arrays):
    for array in arrays:
        array.flags.writeable = False
    return arrays


@pytest.fixture
def cells():
    """Return a cheap feature extractor."""
    return CellStatistics()


@pytest.fixture(scope="session")
def surfaces():
    """Return X, y and masks of 24 surfaces of 64 x 64 pixels, 8 of them with a defect."""
    return read_only(*make_surface_defects(24, defect_fraction=1 / 3, image_shape=(64, 64), random_state=0))


@pytest.fixture(scope="session")
def unseen_surfaces():
    """Return X, y and masks of 12 more surfaces, 6 of them with a defect."""
    return read_only(*make_surface_defects(12, defect_fraction=0.5, image_shape=(64, 64), random_state=1))


def draw_squares(n_normal, n_defect, seed):
    """Return noise images of 64 x 64 pixels; a defect is a bright square of 16 x 16 pixels at a random position."""
    rng = np.random.RandomState(seed)
    y = rng.permutation(np.repeat([0, 1], [n_normal, n_defect]))
    X = rng.randint(90, 111, size=(len(y), 64, 64))
    masks = np.zeros(X.shape, dtype=bool)
    for i in np.flatnonzero(y):
        row, column = rng.randint(0, 49, size=2)
        masks[i, row : row + 16, column : column + 16] = True
    return read_only((X + 80 * masks).astype(np.uint8), y, masks)


@pytest.fixture(scope="session")
def squares():
    """Return X, y and masks of 18 noise images, 6 of them with a bright square."""
    return draw_squares(12, 6, seed=0)


@pytest.fixture(scope="session")
def unseen_squares():
    """Return X, y and masks of 8 more noise images, 4 of them with a bright square."""
    return draw_squares(4, 4, seed=1)


@pytest.fixture
def write_images(tmp_path):
    """Return a function that writes images as PNG files and returns their paths."""

    def write(images, folder="images"):
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / f"{i:03d}.png" for i in range(len(images))]
        for path, image in zip(paths, images):
            Image.fromarray(image).save(path)
        return paths

    return write
