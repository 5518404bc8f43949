"""The student-teacher detector: tiny networks, trained for a few steps."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from assertions import through_joblib, through_pickle, through_skops
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_exdd import EfficientNetLiteFeatureExtractor, GaborFeatureExtractor, TorchvisionFeatureExtractor
from sklearn_exdd._images import Images
from sklearn_exdd._torch import arrays_of, seeded
from sklearn_exdd._training_set import TrainingSet
from sklearn_exdd.augment import CutPasteDefectAugmenter, OffsetDefectAugmenter, default_augmenter
from sklearn_exdd.augment.synthetic import synthesize
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.detectors.student_teacher import StudentTeacherDetector, training
from sklearn_exdd.detectors.student_teacher.crops import DefectCrops, grow, logarithms, paste
from sklearn_exdd.detectors.student_teacher.defects import Defects
from sklearn_exdd.detectors.student_teacher.losses import cosine_loss, segmentation_loss
from sklearn_exdd.detectors.student_teacher.networks import Encoder, Extracted, Head, level_shapes
from sklearn_exdd.detectors.student_teacher.training import Training

TINY = {
    "channels": (8, 12),
    "max_steps": 4,
    "n_synthetic": 4,
    "train_batch_size": 4,
    "crop_size": 32,
    "random_state": 0,
}
RANDOM_RESNET = {"teacher": "resnet18", "weights": None, "layers": ("layer1",)}


def tiny(**params):
    return StudentTeacherDetector(**{**TINY, **params})


@pytest.fixture(scope="module")
def normals(surfaces):
    return surfaces[0][surfaces[1] == 0]


@pytest.fixture(scope="module")
def fitted(surfaces):
    """Return a detector fitted for a few steps. No test may change it."""
    X, y, masks = surfaces
    return tiny().fit(X, y, masks=masks)


@pytest.fixture
def no_training(monkeypatch):
    """Return a function that makes any further training an error."""

    def refuse(*_, **__):
        raise AssertionError("trained again")

    return lambda: monkeypatch.setattr(training, "train", refuse)


def assert_same_weights(first, second, parts=("teacher", "student", "head")):
    for part in parts:
        one, other = (getattr(detector, f"{part}_weights_") for detector in (first, second))
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


# Learning


@pytest.mark.slow
def test_a_longer_training_finds_unseen_defects_and_where_they_are(squares, unseen_squares):
    X, y, masks = squares
    detector = tiny(max_steps=250, train_batch_size=8).fit(X, y, masks=masks)
    X, y, masks = unseen_squares
    assert roc_auc_score(y, detector.decision_function(X)) == 1
    assert roc_auc_score(masks.ravel(), detector.predict_map(X).ravel()) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_losses_fall(normals, precision):
    losses = tiny(max_steps=60, precision=precision).fit(normals).losses_
    assert losses["teacher"].shape == (18,)
    assert losses["student"].shape == (42,)
    assert losses["student"][-10:].mean() < 0.9 * losses["student"][:5].mean()


@pytest.mark.slow
def test_the_weights_of_the_teacher_do_not_change_while_the_student_learns(normals, monkeypatch):
    seen = {}

    def spy(detector, network, *arguments):
        seen["before"] = arrays_of(network.teacher)
        runs = train_student(detector, network, *arguments)
        seen["after"] = arrays_of(network.teacher)
        return runs

    train_student = Training._train_student
    monkeypatch.setattr(Training, "_train_student", spy)
    for params in ({}, RANDOM_RESNET):
        detector = tiny(**params).fit(normals)
        for name, value in seen["before"].items():
            np.testing.assert_array_equal(seen["after"][name], value)
            np.testing.assert_array_equal(detector.teacher_weights_[name], value)


@pytest.mark.slow
def test_a_torchvision_teacher_is_the_model_with_its_weights(normals, tmp_path):
    from torchvision.models import get_model

    with seeded(3):
        state = get_model("resnet18", weights=None).state_dict()
    torch.save(state, tmp_path / "weights.pt")
    detector = tiny(**{**RANDOM_RESNET, "weights": str(tmp_path / "weights.pt")}).fit(normals)
    assert detector.levels_ == [(64, 4)]
    np.testing.assert_array_equal(detector.teacher_weights_["model.conv1.weight"], state["conv1.weight"].numpy())
    assert not any(name.startswith("model.layer2") for name in detector.teacher_weights_)
    assert not np.array_equal(
        tiny(**RANDOM_RESNET).fit(normals).score_samples(normals), detector.score_samples(normals)
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_teacher_and_student_differ(normals, symmetric):
    detector = tiny(symmetric=symmetric).fit(normals)
    same_names = detector.teacher_weights_.keys() == detector.student_weights_.keys()
    assert same_names == symmetric
    if symmetric:
        name = "levels.0.0.0.weight"
        assert not np.array_equal(detector.teacher_weights_[name], detector.student_weights_[name])
    else:
        assert sum(map(np.size, detector.student_weights_.values())) > sum(
            map(np.size, detector.teacher_weights_.values())
        )


@pytest.mark.slow
def test_the_same_seed_gives_the_same_detector_and_another_seed_another(fitted, surfaces):
    X, y, masks = surfaces
    again = tiny().fit(X, y, masks=masks)
    assert_same_weights(again, fitted)
    np.testing.assert_array_equal(again.score_samples(X), fitted.score_samples(X))
    other = tiny(random_state=1).fit(X, y, masks=masks)
    assert not np.array_equal(other.score_samples(X), fitted.score_samples(X))


def test_the_global_random_generators_are_neither_read_nor_moved(normals):
    scores = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002 - the test watches the global generator
        torch.manual_seed(seed)
        before = joblib.hash([np.random.get_state(), torch.get_rng_state().numpy()])  # noqa: NPY002
        scores.append(tiny().fit(normals).score_samples(normals[:2]))
        assert joblib.hash([np.random.get_state(), torch.get_rng_state().numpy()]) == before  # noqa: NPY002
    np.testing.assert_array_equal(*scores)


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [{}, {"training": "two_stage"}, {"symmetric": True}, {"cosine_weight": 0.0}, {"map_source": "both"}],
    ids=str,
)
def test_every_way_to_train_gives_finite_maps_of_its_own(params, surfaces, fitted):
    X, y, masks = surfaces
    detector = tiny(**params).fit(X, y, masks=masks)
    maps = detector.predict_map(X[:2])
    assert maps.shape == (2, 64, 64)
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert (params == {}) == np.array_equal(maps, fitted.predict_map(X[:2]))


def test_two_stages_train_the_student_and_then_the_head(normals):
    first, second = (tiny(training="two_stage", segmentation_weight=weight).fit(normals) for weight in (1.0, 5.0))
    assert set(first.losses_) == {"teacher", "student", "head"}
    assert_same_weights(first, second, parts=("teacher", "student"))
    joint = tiny().fit(normals)
    assert_same_weights(first, joint, parts=("teacher",))
    for part in ("student", "head"):
        one, other = (getattr(detector, f"{part}_weights_") for detector in (first, joint))
        assert not any(np.array_equal(one[name], other[name]) for name in one if one[name].ndim == 4), part


def test_without_a_segmentation_the_map_is_the_cosine_distance(normals):
    detector = tiny(segmentation_weight=0.0).fit(normals)
    assert detector.head_weights_ is None
    maps = detector.predict_map(normals)
    assert (maps >= 0).all()
    assert (maps <= 2 * len(detector.levels_)).all()
    np.testing.assert_array_equal(detector.set_params(map_source="cosine").predict_map(normals), maps)


def test_both_is_the_sum_of_the_standardised_maps(fitted, normals):
    maps = {}
    for kind in ("segmentation", "cosine", "both"):
        maps[kind] = pickle.loads(pickle.dumps(fitted)).set_params(map_source=kind).predict_map(normals)
    scaled = [
        (maps[kind] - mean) / deviation
        for kind, (mean, deviation) in zip(("segmentation", "cosine"), fitted.map_scale_)
    ]
    np.testing.assert_allclose(sum(scaled), maps["both"], rtol=1e-3, atol=1e-3)


# Origin of defects


@pytest.mark.slow
def test_an_augmenter_before_the_detector_gives_the_defects(normals):
    augmenter = OffsetDefectAugmenter(n_synthetic=6, min_contrast=0.0, random_state=0)
    piped = make_pipeline(augmenter, tiny(n_synthetic=0)).fit(normals)
    assert np.isfinite(piped.decision_function(normals)).all()
    own = tiny(augmenter=augmenter).fit(normals)
    assert not np.array_equal(piped[-1].score_samples(normals), own.score_samples(normals))


def test_what_was_attached_to_images_kept_out_is_not_trained_on(normals):
    attached = OffsetDefectAugmenter(n_synthetic=20, min_contrast=0.0, random_state=0).fit_transform(normals).synthetic
    everything, numbers = np.arange(len(normals)), np.arange(0, len(normals), 2)
    learning = TrainingSet(Images(normals), everything, everything, synthetic=attached).take(numbers)
    synthetic = Defects.from_synthetic(learning.synthetic, learning.samples)
    expected = [sample["source"] for sample in attached.provenance if sample["source"] % 2 == 0]
    assert 0 < len(expected) < 20
    assert [numbers[source] for source in synthetic.sources] == expected
    assert len(synthetic.images) == len(synthetic.masks) == len(expected)


def test_an_augmenter_for_images_that_one_has_been_at_is_refused(normals):
    X = OffsetDefectAugmenter(n_synthetic=2, min_contrast=0.0, random_state=0).fit_transform(normals)
    with pytest.raises(ValueError, match="augmenter: expected None, because X already carries synthetic defects"):
        tiny(augmenter=CutPasteDefectAugmenter()).fit(X)


@pytest.mark.slow
def test_no_defect_at_all_is_refused_where_masks_are_needed(normals):
    with pytest.raises(ValueError, match="for teacher='learned', got neither"):
        tiny(n_synthetic=0).fit(normals)
    with pytest.raises(ValueError, match="for segmentation_weight > 0, got neither"):
        tiny(n_synthetic=0, **RANDOM_RESNET).fit(normals)
    assert tiny(n_synthetic=0, segmentation_weight=0.0, **RANDOM_RESNET).fit(normals).threshold_ > 0


def test_real_defects_with_masks_need_no_synthetic_ones(surfaces):
    X, y, masks = surfaces
    assert np.isfinite(tiny(n_synthetic=0).fit(X, y, masks=masks).threshold_)


@pytest.mark.slow
def test_real_defects_without_masks_count_all_the_same(surfaces, fitted, normals):
    X, y, masks = surfaces
    unmarked = tiny().fit(X, y)
    for other in (fitted, tiny().fit(normals)):
        assert not np.array_equal(unmarked.score_samples(X), other.score_samples(X))
    some = [mask if i % 2 else None for i, mask in enumerate(masks)]
    assert np.isfinite(tiny().fit(X, y, masks=some).threshold_)


@pytest.mark.slow
def test_defect_images_may_come_apart_and_with_labels_of_any_kind(surfaces, fitted):
    X, y, masks = surfaces
    apart = tiny().fit(X[y == 0], X[y == 1], masks=masks[y == 1])
    assert_same_weights(apart, fitted)
    words = tiny().fit(X, np.where(y == 1, "scratched", "good"), masks=masks)
    assert_same_weights(words, fitted)
    assert set(words.predict(X)) <= {"good", "scratched"}


def test_the_default_defects_can_be_seen(normals):
    n_normals = len(normals)
    made = synthesize(default_augmenter(), 20, list(normals), [0] * n_normals, [None] * n_normals, seed=0)
    synthetic = Defects.from_synthetic(made, Images(normals))
    for image, mask, source in zip(synthetic.images.raw(), synthetic.masks, synthetic.sources):
        assert mask.any()
        np.testing.assert_array_equal(image[~mask], normals[source][~mask])


# The threshold


def test_whole_groups_are_kept_out_of_the_training(normals, monkeypatch):
    seen = {}

    def spy(detector, images, held_out):
        seen.update(learning=images.raw(), held_out=held_out.samples.raw())
        return calibrate(detector, images, held_out)

    calibrate = StudentTeacherDetector._calibrate
    monkeypatch.setattr(StudentTeacherDetector, "_calibrate", spy)
    groups = np.arange(len(normals)) // 4
    detector = tiny(validation_fraction=0.3).fit(normals, groups=groups)
    kept = [int(groups[[np.array_equal(image, other) for other in normals]][0]) for image in seen["held_out"]]
    learned = [int(groups[[np.array_equal(image, other) for other in normals]][0]) for image in seen["learning"]]
    assert len(kept) == 8
    assert set(kept).isdisjoint(learned)
    assert detector.false_alarm_rate_ == 1 / 3  # two groups are held out
    assert detector.threshold_ == max(detector.score_samples(np.array(seen["held_out"])))


def test_defects_of_groups_that_are_kept_out_are_not_trained_on(surfaces, monkeypatch):
    X, y, masks = surfaces
    n_real = []

    def spy(detector, normal, real):
        n_real.append(len(real))
        return learn(detector, normal, real)

    learn = StudentTeacherDetector._learn
    monkeypatch.setattr(StudentTeacherDetector, "_learn", spy)
    groups = np.empty(len(y), dtype=int)
    groups[y == 0] = np.arange((y == 0).sum()) % 4
    groups[y == 1] = np.arange((y == 1).sum()) % 4
    tiny().fit(X, y, masks=masks, groups=groups)
    tiny().fit(X, y, masks=masks)
    assert n_real == [6, 8]


def test_normals_of_one_group_are_refused(normals):
    with pytest.raises(
        ValueError, match="normal images of at least 2 groups, one to train on and one for the threshold"
    ):
        tiny().fit(normals, groups=np.zeros(len(normals)))


def test_the_position_map_is_subtracted_from_the_score_and_not_from_the_map(fitted, normals):
    shifted = pickle.loads(pickle.dumps(fitted))
    shifted.position_map_ = np.full((24, 24), 1, dtype=np.float32)
    assert fitted.position_map_ is None
    np.testing.assert_allclose(shifted.score_samples(normals), fitted.score_samples(normals) - 1, atol=1e-5)
    np.testing.assert_array_equal(shifted.predict_map(normals), fitted.predict_map(normals))
    assert tiny(position_map=True).fit(normals).position_map_.shape == (24, 24)


@pytest.mark.parametrize("n_images", [3, 60])
def test_the_position_map_is_what_normal_maps_share_and_nothing_by_chance(n_images, monkeypatch):
    detector = tiny()
    detector._seeds, detector.head_weights_ = {"held_out": 0}, {}
    border = np.zeros((24, 24), dtype=np.float32)
    border[:, :4] = border[:, -4:] = 1
    noise = np.random.RandomState(0).normal(size=(n_images, 24, 24)).astype(np.float32)
    for pattern in (0, 3 * border):
        monkeypatch.setattr(detector, "_raw_maps", lambda _: ((pattern + one, None) for one in noise))  # noqa: B023
        mean = detector._mean_map(Images(noise - noise.min() > 0))
        assert mean.shape == (24, 24)
        np.testing.assert_allclose(mean, mean[::-1, ::-1], atol=1e-5)
        if np.any(pattern):
            assert mean[:, 1].mean() - mean[:, 12].mean() == pytest.approx(3, abs=0.5)
        else:
            assert np.abs(mean).max() < 0.3


# The cache


@pytest.mark.slow
def test_weights_are_kept_for_all_that_does_not_change_them(normals, tmp_path, no_training):
    detector = tiny(memory=tmp_path).fit(normals)
    no_training()
    for params in ({"map_source": "both"}, {"top_share": 0.1}, {"max_false_alarm_rate": 0.2}, {"position_map": True}):
        other = clone(detector).set_params(**params).fit(normals)
        assert_same_weights(other, detector)
        assert other.losses_["student"].shape == (3,)
    for params in (
        {"max_steps": 5},
        {"random_state": 1},
        {"augmenter": CutPasteDefectAugmenter()},
        {"channels": (8, 16)},
    ):
        with pytest.raises(AssertionError, match="trained again"):
            clone(detector).set_params(**params).fit(normals)
    with pytest.raises(AssertionError, match="trained again"):
        clone(detector).fit(normals[1:])


def test_one_teacher_serves_all_weights_of_the_losses(normals, tmp_path, monkeypatch):
    tiny(memory=tmp_path).fit(normals)
    monkeypatch.setattr(Training, "_train_teacher", None)
    other = tiny(memory=tmp_path, segmentation_weight=0.5).fit(normals)
    assert set(other.losses_) == {"teacher", "student"}


@pytest.mark.slow
def test_a_grid_search_over_the_map_trains_once_for_each_fold(surfaces, tmp_path, monkeypatch):
    X, y, _ = surfaces
    trained = []

    def spy(detector, *arguments):
        trained.append(1)
        return train_student(detector, *arguments)

    train_student = Training._train_student
    monkeypatch.setattr(Training, "_train_student", spy)
    grid = {"map_source": ["segmentation", "cosine"], "top_share": [0.01, 0.1]}
    search = GridSearchCV(tiny(memory=tmp_path), grid, cv=2, scoring="roc_auc", error_score="raise").fit(X, y)
    assert len(trained) == 3  # two folds and the refit
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_all_networks_are_stored_in_one_order(normals):
    # The order affects how results are rounded, so a teacher from the cache would otherwise give another student.
    network = tiny().fit(normals)._training().build()
    weights = [weight for weight in network.parameters() if weight.ndim == 4]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_damaged_weights_are_trained_again(normals, tmp_path):
    detector = tiny(memory=tmp_path).fit(normals)
    for path in tmp_path.glob("*student*/weights.safetensors"):
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.warns(
        RuntimeWarning, match=r"weights\.safetensors: expected the weights of an earlier fit, got a damaged file"
    ):
        again = tiny(memory=tmp_path).fit(normals)
    assert_same_weights(again, detector)


@pytest.mark.slow
def test_a_resumed_training_equals_the_uninterrupted_one(normals, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_CHECKPOINT_EVERY", 2)
    whole = tiny(max_steps=10).fit(normals)

    def interrupt_at(n_batches):
        drawn = []

        def draw(crops, *arguments):
            drawn.append(1)
            if len(drawn) > n_batches:
                raise KeyboardInterrupt
            return draw_batch(crops, *arguments)

        monkeypatch.setattr(DefectCrops, "draw", draw)

    draw_batch = DefectCrops.draw
    interrupt_at(2)  # within the teacher's three steps
    detector = tiny(max_steps=10, memory=tmp_path)
    with (
        pytest.raises(KeyboardInterrupt),
        pytest.warns(RuntimeWarning, match="teacher: interrupted after 2 of 3 steps"),
    ):
        detector.fit(normals)
    with pytest.raises(NotFittedError):
        detector.predict(normals)
    interrupt_at(6)  # after one step of the teacher and five of the student's seven
    with pytest.warns(RuntimeWarning, match="interrupted after 5 of 7 steps"):
        detector.fit(normals)
    assert np.isfinite(detector.score_samples(normals)).all()
    monkeypatch.setattr(DefectCrops, "draw", draw_batch)
    assert_same_weights(tiny(max_steps=10, memory=tmp_path).fit(normals), whole)
    assert list(tmp_path.glob("*/*.pt")) == []


@pytest.mark.slow
def test_a_budget_in_seconds_ends_the_training(normals):
    losses = tiny(max_steps=10**6, max_seconds=1.0).fit(normals).losses_
    assert sum(map(len, losses.values())) < 1000


# Images of any kind


def test_stored_and_restored_it_is_the_same(fitted, normals):
    for through in (through_pickle, through_joblib, through_skops):
        np.testing.assert_array_equal(through(fitted).score_samples(normals), fitted.score_samples(normals))
    for name, value in pickle.loads(pickle.dumps(fitted)).__dict__.items():
        assert not isinstance(value, (torch.nn.Module, torch.Tensor)), name


@pytest.mark.slow
def test_the_same_pixels_in_another_form_train_the_same_detector(surfaces, fitted, write_images):
    X, y, masks = surfaces
    forms = [X[..., None], X / 255, (X / 255).astype(np.float32), X.astype(np.uint16) * 257, write_images(X)]
    for form in forms:
        assert_same_weights(tiny().fit(form, y, masks=masks), fitted)


@pytest.mark.slow
def test_colour_images_and_images_of_different_sizes_are_learned(fitted):
    shapes = [(64, 64), (65, 97), (131, 64), (77, 77)]
    images = [make_surface_defects(1, image_shape=shape, random_state=0)[0][0] for shape in shapes]
    assert [pixel_map.shape for pixel_map in fitted.predict_map(images)] == shapes
    colour = [np.stack([image, image // 2, image // 3], axis=2) for image in images]
    detector = tiny().fit(colour)
    assert [pixel_map.shape for pixel_map in detector.predict_map(colour)] == shapes
    with pytest.raises(ValueError, match="expected 3 channels as in fit, got 1 channel"):
        detector.predict(images)


@pytest.mark.slow
def test_a_large_image_in_tiles_is_as_the_whole(fitted):
    image = make_surface_defects(1, image_shape=(420, 611), random_state=0)[0]
    whole = fitted.predict_map(image)
    tiled = pickle.loads(pickle.dumps(fitted)).set_params(tile_size=256).predict_map(image)
    assert tiled.shape == whole.shape
    np.testing.assert_allclose(tiled, whole, atol=2e-2)


@pytest.mark.slow
def test_tiles_of_the_default_networks_leave_no_seams(surfaces):
    X, y, masks = surfaces
    params = {"max_steps": 30, "n_synthetic": 8, "crop_size": 64, "train_batch_size": 4, "precision": "float32"}
    detector = StudentTeacherDetector(random_state=0, **params)
    detector.fit(X, y, masks=[mask if label else None for mask, label in zip(masks, y)])
    image = make_surface_defects(1, image_shape=(64, 900), random_state=0)[0]
    whole, tiled = (detector.set_params(tile_size=size).predict_map(image) for size in (1024, 256))
    np.testing.assert_allclose(tiled, whole, atol=1e-5 * np.abs(whole).max())


def test_images_smaller_than_the_stride_are_refused(fitted, normals):
    with pytest.raises(ValueError, match=r"X\[1\]: expected at least 8 x 8 pixels, as the networks need, got 7 x 9"):
        fitted.predict([normals[0], normals[0][:7, :9]])
    with pytest.raises(ValueError, match="expected at least 8 x 8 pixels, as the networks need, got 4 x 64"):
        tiny().fit(normals[:, :4])


def test_feature_rows_are_refused():
    with pytest.raises(ValueError, match="expected images to train a student and a teacher on, got feature rows"):
        tiny().fit(np.zeros((10, 3)))


def test_an_empty_mask_of_a_defect_is_refused(surfaces):
    X, y, masks = surfaces
    with pytest.raises(ValueError, match=r"masks\[\d+\]: expected a mask of the defect, got an empty one"):
        tiny().fit(X, y, masks=masks & False)


def test_a_loss_that_is_not_finite_ends_the_training(normals):
    with pytest.raises(FloatingPointError, match="expected a finite loss"):
        tiny(learning_rate=1e38, max_steps=30).fit(normals)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"training": "three_stage"}, "'training' parameter of StudentTeacherDetector must be a str among"),
        ({"map_source": "logits"}, "'map_source' parameter"),
        ({"top_share": 0.0}, "'top_share' parameter"),
        ({"validation_fraction": 1.0}, "'validation_fraction' parameter"),
        ({"cosine_weight": -1.0}, "'cosine_weight' parameter"),
        ({"train_batch_size": 1}, "'train_batch_size' parameter"),
        ({"channels": ()}, "channels: expected at least one integer > 0, got ()"),
        ({"channels": (8, 0)}, "channels: expected at least one integer > 0, got"),
        ({"cosine_weight": 0.0, "segmentation_weight": 0.0}, "expected at least one > 0, got 0 for both"),
        (
            {"segmentation_weight": 0.0, "map_source": "both"},
            "map_source: expected 'auto' or 'cosine' with segmentation_weight=0",
        ),
        ({"cosine_weight": 0.0, "training": "two_stage"}, "cosine_weight: expected a weight > 0 for training="),
        ({"teacher": "resnet8"}, "expected a name of torchvision.models.list_models"),
        ({**RANDOM_RESNET, "layers": ("layer9",)}, "layers: expected names of layers of ResNet"),
        ({**RANDOM_RESNET, "layers": ("layer1", "layer3")}, "twice the stride of the previous layer, got strides"),
    ],
)
def test_wrong_parameters_are_refused(params, message, normals):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        tiny(**params).fit(normals)


# Crops and losses


@pytest.fixture(scope="module")
def crops(surfaces):
    X, y, masks = surfaces
    normals = Images(X[y == 0])
    synthetic = OffsetDefectAugmenter(min_contrast=0.0, random_state=0).fit(X[y == 0]).sample(5)
    sources = [sample["source"] for sample in synthetic.provenance]
    synthetic = Defects(Images(synthetic.images), list(synthetic.masks), sources)
    real = Defects(Images(X[y == 1]), [*masks[y == 1][:-1], None], [None] * 8)
    return lambda shares: DefectCrops(normals, synthetic, real, (48, 32), shares)


def test_a_batch_keeps_to_its_shares(crops):
    batch = crops((0.25, 0.25, 0.25)).draw(16, np.random.RandomState(0))
    assert batch.corrupted.shape == (16, 1, 48, 32)
    same = (batch.corrupted == batch.clean).flatten(1).all(dim=1)
    known = (batch.normal == 1).flatten(1).all(dim=1)
    assert (same & ~known)[:4].all()  # real defects, whose appearance without the defect is unknown
    assert (known[4:]).all()
    assert (batch.corrupted[12:] == batch.clean[12:]).all()
    assert (batch.mask[12:] == 0).all()
    assert (batch.defective[12:] == 0).all()
    assert batch.defective[:12].mean() > 0.7


def test_corrupted_and_clean_differ_within_the_grown_mask_only(crops):
    for shares in ((0, 0, 1), (0, 1, 0)):
        batch = crops(shares).draw(24, np.random.RandomState(0))
        changed = ((batch.corrupted - batch.clean).abs() > 1e-4).float()
        assert changed.sum() > 0
        assert (changed <= torch.stack([grow(mask, 3) for mask in batch.mask])).all()


def test_the_surroundings_of_a_real_defect_are_normal_and_an_unmarked_one_is_not_known(crops):
    batch = crops((1, 0, 0)).draw(60, np.random.RandomState(0))
    assert not batch.marked.all()
    assert (batch.normal[~batch.marked] == 0).all()
    assert (batch.defective[~batch.marked] == 1).all()
    assert (batch.normal[batch.marked] * batch.mask[batch.marked] == 0).all()


def test_a_pasted_defect_takes_the_brightness_around_it():
    mask = torch.zeros(1, 40, 40)
    mask[:, 15:25, 15:25] = 1
    clean, defect = torch.full((1, 40, 40), -1.0), torch.full((1, 40, 40), 0.5) - 0.25 * mask
    pasted = paste(clean, defect, mask, 1.0)
    np.testing.assert_allclose(pasted[mask > 0], -1.25, atol=1e-6)
    assert pasted[0, 0, 0] == -1


def test_logarithms_come_with_their_median():
    image = np.random.RandomState(0).uniform(size=(5, 7, 3)).astype(np.float32)
    logs, medians = logarithms(image)
    np.testing.assert_allclose(logs[1].numpy(), np.log(image[..., 1] + 0.03), rtol=1e-5)
    np.testing.assert_allclose(medians[2, 0, 0], np.median(logs[2]), rtol=1e-6)


def test_the_cosine_loss_counts_only_what_is_normal():
    target, rebuilt = torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    rebuilt[:, :, 0] = -1
    normal = torch.ones(1, 1, 16, 16)
    assert float(cosine_loss([target], [rebuilt], normal)) == pytest.approx(0.5)
    normal[:, :, 3] = 0
    assert float(cosine_loss([target], [rebuilt], normal)) == pytest.approx(0, abs=1e-6)


def test_the_segmentation_loss_falls_towards_the_mask(crops):
    batch = crops((0, 0, 1)).draw(4, np.random.RandomState(0))
    target = torch.nn.functional.avg_pool2d(batch.mask, 4)[:, 0] > 0.2
    good = torch.where(target, 6.0, -6.0)
    losses = [float(segmentation_loss(scale * good, batch, 4.0)) for scale in (-1, 0, 1)]
    assert losses[0] > losses[1] > losses[2] > 0
    unmarked = batch._replace(marked=torch.zeros(4, dtype=torch.bool))
    assert float(segmentation_loss(good, unmarked, 4.0)) < 0.01


def test_maps_of_all_levels_reach_the_head():
    encoder = Encoder(lambda logs, medians: logs, 1, (8, 8, 16))
    levels = level_shapes(encoder, 1)
    assert levels == [(8, 4), (8, 8), (16, 16)]
    assert Head(levels)(encoder(torch.zeros(2, 1, 32, 64), None)).shape == (2, 8, 16)


# A feature extractor as the teacher

EXTRACTORS = [GaborFeatureExtractor(), TorchvisionFeatureExtractor("resnet18", weights=None)]


@pytest.mark.slow
@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda extractor: type(extractor).__name__)
def test_any_extractor_may_be_the_teacher(surfaces, normals, extractor):
    X, y, masks = surfaces
    detector = tiny(teacher=extractor, crop_size=48).fit(X, y, masks=masks)
    maps = detector.teacher_.transform(X[:2])
    assert detector.levels_ == [(maps[0].shape[2], 8)]
    assert detector.teacher_weights_ == {}
    assert np.isfinite(detector.score_samples(X)).all()
    assert detector.predict_map(X[:2]).shape == X[:2].shape
    assert not hasattr(extractor, "n_channels_")  # the parameter stays as it was


def test_a_pretrained_teacher_has_a_name(surfaces):
    X, y, masks = surfaces
    by_name, by_object = (
        tiny(teacher=teacher, crop_size=48).fit(X, y, masks=masks)
        for teacher in ("efficientnet_lite0", EfficientNetLiteFeatureExtractor())
    )
    assert isinstance(by_name.teacher_, EfficientNetLiteFeatureExtractor)
    np.testing.assert_array_equal(by_name.decision_function(X), by_object.decision_function(X))
    with pytest.raises(ValueError, match=r"^symmetric: expected False with a feature extractor as the teacher"):
        tiny(teacher="efficientnet_lite0", symmetric=True).fit(X, y)


def test_the_maps_of_a_teaching_extractor_are_its_own(normals):
    extractor = GaborFeatureExtractor().fit(normals)
    logs, medians = map(torch.stack, zip(*(logarithms(image[..., None] / np.float32(255)) for image in normals[:2])))
    (maps,) = Extracted(extractor)(logs, medians)
    np.testing.assert_allclose(maps[0].permute(1, 2, 0), extractor.transform(normals[:2])[0], rtol=1e-3, atol=1e-3)


def test_an_extractor_teaches_colour_images_of_odd_sizes():
    X, y, masks = make_surface_defects(8, image_shape=(50, 70), random_state=0)
    X = np.stack([X, X // 2, X], axis=-1)
    detector = tiny(teacher=GaborFeatureExtractor(), crop_size=48).fit(X, y, masks=masks)
    assert detector.predict_map(X[:1]).shape == (1, 50, 70)


@pytest.mark.slow
def test_a_detector_with_an_extractor_as_its_teacher_is_stored_and_cached(surfaces, tmp_path, no_training):
    X, y, masks = surfaces
    detector = tiny(teacher=GaborFeatureExtractor(), crop_size=48, memory=str(tmp_path)).fit(X, y, masks=masks)
    stored = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(stored.score_samples(X), detector.score_samples(X))
    no_training()
    again = clone(detector).fit(X, y, masks=masks)
    np.testing.assert_array_equal(again.score_samples(X), detector.score_samples(X))
    with pytest.raises(AssertionError, match="trained again"):
        clone(detector).set_params(teacher__n_orientations=4).fit(X, y, masks=masks)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"symmetric": True}, "^symmetric: expected False with a feature extractor as the teacher"),
        ({"crop_size": 32}, "^crop_size: expected at least 48 for GaborFeatureExtractor as the teacher, got 32"),
        (
            {"teacher__image_size": 64},
            "^teacher: expected an extractor with image_size=None, because the teacher receives crops",
        ),
    ],
)
def test_what_an_extractor_cannot_teach_is_refused(normals, params, message):
    with pytest.raises(ValueError, match=message):
        tiny(teacher=GaborFeatureExtractor(), crop_size=48).set_params(**params).fit(normals)
