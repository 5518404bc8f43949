"""Defects from a diffusion model: a tiny network, trained for seconds."""

import pickle

import numpy as np
import pytest
import torch
from assertions import assert_same_samples, beginning, each_way_to_store
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_exdd import ExDDDetector
from sklearn_exdd._training import train
from sklearn_exdd.augment import BoxRegions, ddpm
from sklearn_exdd.augment.ddpm import DDPMDefectAugmenter
from sklearn_exdd.augment.diffusion import Tiles, relative_contrast, window_around
from sklearn_exdd.datasets import make_surface_defects

pytest.importorskip("diffusers")

TINY = {
    "crop_size": 32,
    "block_out_channels": (8, 16),
    "max_steps": 60,
    "train_batch_size": 4,
    "n_inference_steps": 10,
    "min_contrast": 0.0,
    "random_state": 0,
}
BOX = BoxRegions([(20, 30, 34, 52)])


def surfaces(shape=(61, 83), n=6, seed=0):
    return make_surface_defects(n, defect_fraction=0, image_shape=shape, random_state=seed)[0]


def tiny(**options):
    return DDPMDefectAugmenter(**{**TINY, **options})


def with_params(augmenter, **params):
    """Return a copy of a fitted augmenter with other painting parameters."""
    return pickle.loads(pickle.dumps(augmenter)).set_params(**params)


@pytest.fixture(scope="module")
def fitted():
    """Return an augmenter fitted on grey images; no test may change it."""
    return tiny().fit(surfaces())


@pytest.fixture(scope="module")
def sampled(fitted):
    return fitted.sample(4)


@pytest.fixture
def no_training(monkeypatch):
    """Return a function that makes any further training an error."""

    def refuse(*_, **__):
        raise AssertionError("trained again")

    return lambda: monkeypatch.setattr("sklearn_exdd.augment.ddpm.train", refuse)


# Learning


@pytest.mark.slow
def test_the_loss_falls(fitted):
    assert fitted.losses_.shape == (60,)
    assert fitted.losses_[-10:].mean() < 0.5 * fitted.losses_[:5].mean()


def test_what_is_fitted_are_arrays_and_numbers(fitted):
    assert all(isinstance(value, np.ndarray) and value.dtype == np.float32 for value in fitted.weights_.values())
    for name, value in pickle.loads(pickle.dumps(fitted)).__dict__.items():
        assert not isinstance(value, (torch.nn.Module, torch.Tensor)), name


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_images(sampled):
    again = tiny().fit(surfaces())
    assert_same_samples(again.sample(2), beginning(sampled, 2))
    other = tiny(random_state=1, max_steps=2).fit(surfaces())
    assert (other.sample(1).images[0] != sampled.images[0]).any()


@pytest.mark.slow
def test_the_global_random_generators_are_neither_read_nor_moved():
    images = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002 - the test watches the global generator
        torch.manual_seed(seed)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        images.append(tiny(max_steps=3, regions=BOX).fit(surfaces(n=2)).sample(1).images)
        assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[1])
    np.testing.assert_array_equal(*images)


def test_flipped_crops_give_other_weights():
    plain, flipped = (tiny(max_steps=2, flip=flip).fit(surfaces(n=2)) for flip in (False, True))
    assert any((plain.weights_[name] != flipped.weights_[name]).any() for name in plain.weights_)


@pytest.mark.slow
def test_a_budget_in_seconds_ends_the_training():
    assert len(tiny(max_steps=10**6, max_seconds=0.5).fit(surfaces(n=2)).losses_) < 1000


@pytest.mark.slow
def test_images_smaller_than_the_crop_are_painted_on_but_not_learned_from(fitted):
    images = [*surfaces(n=2), surfaces(n=1)[0, :20], surfaces(n=1)[0, :25, :28]]
    augmenter = tiny(max_steps=2, regions=BoxRegions([(3, 4, 15, 20)])).fit(images)
    synthetic = augmenter.sample(12)
    assert {image.shape for image in synthetic.images} == {(61, 83), (20, 83), (25, 28)}
    for image, mask, provenance in zip(synthetic.images, synthetic.masks, synthetic.provenance):
        np.testing.assert_array_equal(image[~mask], images[provenance["source"]][~mask])
        assert mask.any()


def test_normals_that_are_all_too_small_are_refused():
    X = [surfaces(n=1)[0, :20], surfaces(n=1)[0, :25, :28]]
    with pytest.raises(
        ValueError, match=r"sides >= crop_size=32 pixels, got images of at most 25 x 28 pixels. Lower crop_size"
    ):
        tiny().fit(X)


def test_constant_normals_are_refused():
    with pytest.raises(ValueError, match=r"X: expected normal images with some texture .*, got constant images"):
        tiny().fit(np.full((3, 40, 40), 100, dtype=np.uint8))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"perturbation": "pink"}, "'perturbation' parameter of DDPMDefectAugmenter must be a str among"),
        ({"strength": 0.0}, "'strength' parameter"),
        ({"strength": 1.5}, "'strength' parameter"),
        ({"n_inference_steps": 0}, "'n_inference_steps' parameter"),
        ({"min_timestep": 1000}, "'min_timestep' parameter"),
        ({"correlation_length": -1.0}, "'correlation_length' parameter"),
        ({"context": -1}, "'context' parameter"),
        ({"crop_size": 4}, "'crop_size' parameter"),
        ({"max_steps": 0}, "'max_steps' parameter"),
        ({"max_seconds": 0}, "'max_seconds' parameter"),
        ({"patience": 0}, "'patience' parameter"),
        ({"learning_rate": 0.0}, "'learning_rate' parameter"),
        ({"train_batch_size": 0}, "'train_batch_size' parameter"),
        ({"batch_size": 0}, "'batch_size' parameter"),
        ({"device": 3}, "'device' parameter"),
        ({"flip": "both"}, "'flip' parameter"),
        ({"amplitude": (0.6, 0.3)}, "amplitude: expected two numbers in ascending order"),
        ({"amplitude": 0.5}, "'amplitude' parameter"),
        ({"block_out_channels": (12, 16)}, r"block_out_channels: expected multiples of 8, got \(12, 16\)"),
        ({"block_out_channels": ()}, "block_out_channels: expected multiples of 8"),
        ({"n_inference_steps": 4, "strength": 0.3}, "n_inference_steps: expected at least one step .* min_timestep=30"),
        ({"sign": "grey"}, "'sign' parameter"),
        ({"crop_size": 33}, "crop_size: expected a multiple of 2 for 2 resolutions, got 33"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        tiny(**params).fit(surfaces(n=1))


# Painting


@pytest.mark.slow
def test_the_first_samples_are_those_of_a_shorter_call(fitted, sampled):
    assert_same_samples(fitted.sample(2), beginning(sampled, 2))


@pytest.mark.slow
@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("shape", [(61, 83), (32, 32), (97, 45)])
def test_images_of_any_size_and_colour_change_inside_the_mask_only(shape, n_channels):
    X = surfaces(shape, n=2 * n_channels).reshape(2, n_channels, *shape).transpose(0, 2, 3, 1)
    region = BoxRegions([(4, 5, shape[0] - 4, 25)])
    synthetic = tiny(max_steps=2, regions=region).fit(X).sample(2)
    assert synthetic.images.shape == (2, *shape, n_channels)
    assert synthetic.images.dtype == np.uint8
    assert synthetic.masks.any(axis=(1, 2)).all()
    for image, mask, provenance in zip(synthetic.images, synthetic.masks, synthetic.provenance):
        source = X[provenance["source"]]
        np.testing.assert_array_equal(image[~mask], source[~mask])
        assert (image[mask] != source[mask]).any(axis=1).mean() > 0.5


@pytest.mark.slow
def test_each_perturbation_changes_the_inside_in_its_own_way(fitted):
    images = []
    for perturbation in ("correlated", "white", "held"):
        synthetic = with_params(fitted, perturbation=perturbation, regions=BOX).sample(1)
        inside = np.s_[20:34, 30:52]
        source = surfaces()[synthetic.provenance[0]["source"]]
        assert (synthetic.images[0][inside] != source[inside]).mean() > 0.3
        images.append(synthetic.images[0])
    assert all((images[i] != images[j]).any() for i, j in [(0, 1), (0, 2), (1, 2)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        {"amplitude": (1.5, 2.0)},
        {"correlation_length": 1.0},
        {"sign": "bright"},
        {"min_timestep": 500},
        {"strength": 0.8},
        {"n_inference_steps": 15},
        {"context": 0, "regions": BoxRegions([(20, 30, 55, 32)])},
    ],
)
def test_every_parameter_of_painting_changes_the_image(fitted, params):
    changed = with_params(fitted, **{"regions": BOX, **params})
    plain = with_params(fitted, regions=changed.regions)
    assert (changed.sample(1).images != plain.sample(1).images).any()


def test_without_perturbation_and_from_an_early_step_the_surface_stays_nearly_as_it_was(fitted):
    params = {"strength": 0.2, "max_redraws": 0, "regions": BOX}
    disturbed = with_params(fitted, **params, amplitude=(3, 3)).sample(1)
    source = surfaces()[disturbed.provenance[0]["source"]].astype(float)[20:34, 30:52]
    calm = with_params(fitted, **params, amplitude=(0, 0))
    painted, _ = calm._paint(
        surfaces()[:1, ..., None][0] / np.float32(255), np.ones((61, 83), bool), np.random.RandomState(0)
    )
    assert (
        np.abs(painted[..., 0] * 255 - surfaces()[0]).mean() < np.abs(disturbed.images[0][20:34, 30:52] - source).mean()
    )


@pytest.mark.slow
def test_the_number_of_tiles_at_a_time_changes_nothing(fitted):
    region = BoxRegions([(2, 3, 58, 80)])
    one, many = (with_params(fitted, batch_size=size, regions=region).sample(1) for size in (1, 16))
    np.testing.assert_allclose(one.images.astype(int), many.images, atol=1)


def test_tiles_cover_the_region_and_blend_to_what_all_of_them_say():
    inside = np.zeros((70, 41), dtype=bool)
    inside[30:69, 3:30] = True
    tiles = Tiles(inside, 32, batch_size=2)
    covered = np.zeros_like(inside)
    for top, left in tiles.corners:
        assert top + 32 <= 70
        assert left + 32 <= 41
        covered[top : top + 32, left : left + 32] = True
    assert covered[inside].all()

    class Identity:
        def __call__(self, batch, timestep):
            assert len(batch) <= 2
            self.sample = batch
            return self

    window = torch.arange(70 * 41, dtype=torch.float32).reshape(1, 70, 41)
    predicted = tiles.predict(Identity(), window, 5, "cpu")
    np.testing.assert_allclose(predicted[0].numpy()[inside], window[0].numpy()[inside], rtol=1e-5)


def test_tiles_without_a_part_of_the_region_are_left_out():
    inside = np.zeros((200, 200), dtype=bool)
    inside[100:104, 10:190] = True
    assert len(Tiles(inside, 32, 8).corners) < len(Tiles(np.ones_like(inside), 32, 8).corners) / 3


@pytest.mark.parametrize("box", [(0, 0, 3, 4), (97, 76, 100, 80), (40, 40, 44, 41), (5, 5, 95, 75), (0, 0, 100, 80)])
def test_the_window_holds_region_and_context_within_the_image(box):
    region = np.zeros((100, 80), dtype=bool)
    region[box[0] : box[2], box[1] : box[3]] = True
    top, left, bottom, right = window_around(region, 16, 32)
    assert 0 <= top <= max(0, box[0] - 16)
    assert 0 <= left <= max(0, box[1] - 16)
    assert 100 >= bottom >= min(100, box[2] + 16)
    assert 80 >= right >= min(80, box[3] + 16)
    assert bottom - top >= 32
    assert right - left >= 32


def test_contrast_within_a_window_is_that_of_the_whole_image():
    image = surfaces((90, 120), n=1)[0][..., None] / np.float32(255)
    whole, _ = relative_contrast(image, (0, 0, 90, 120), 8)
    part, part_base = relative_contrast(image, (30, 40, 62, 72), 8)
    np.testing.assert_allclose(part, whole[30:62, 40:72], atol=1e-5)
    np.testing.assert_allclose(part_base * np.exp(part) - 0.1, image[30:62, 40:72], atol=1e-5)


# Storing


@pytest.mark.slow
def test_weights_are_kept_and_not_trained_again(tmp_path, no_training):
    options = {"max_steps": 3, "memory": tmp_path}
    first = tiny(**options).fit(surfaces())
    assert [path.name for path in first._fit_dir().iterdir()] == ["weights.safetensors"]
    no_training()
    again = tiny(**options, n_synthetic=7, perturbation="white").fit(surfaces())
    np.testing.assert_array_equal(again.losses_, first.losses_)
    again, first = (with_params(augmenter, perturbation="held", memory=None) for augmenter in (again, first))
    assert_same_samples(again.sample(2), first.sample(2))


@pytest.mark.parametrize("max_steps", [3])
def test_other_images_or_another_budget_are_learned_anew(tmp_path, no_training, max_steps):
    tiny(memory=tmp_path, max_steps=2).fit(surfaces(n=2))
    no_training()
    with pytest.raises(AssertionError, match="trained again"):
        tiny(memory=tmp_path, max_steps=max_steps).fit(surfaces(n=2))
    with pytest.raises(AssertionError, match="trained again"):
        tiny(memory=tmp_path, max_steps=2).fit(surfaces(n=2, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_of_weights_is_told_and_trained_again(tmp_path, damage):
    first = tiny(memory=tmp_path, max_steps=2).fit(surfaces(n=2))
    path = first._fit_dir() / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-10] ^= 255
    path.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    with pytest.warns(
        RuntimeWarning, match=r"weights.safetensors: expected the weights of an earlier fit, got a damaged file"
    ):
        again = tiny(memory=tmp_path, max_steps=2).fit(surfaces(n=2))
    np.testing.assert_equal(again.weights_, first.weights_)
    assert bytes(content) != path.read_bytes()
    tiny(memory=tmp_path, max_steps=2).fit(surfaces(n=2))


@pytest.mark.slow
def test_an_interrupted_training_resumes_as_if_nothing_had_happened(tmp_path, monkeypatch):
    from sklearn_exdd import _training

    train, done = _training.train, []

    def pulled(module, loss_of_step, **options):
        def loss_or_failure(step, random_state):
            if step == 14:
                raise OSError("the plug is pulled")
            return loss_of_step(step, random_state)

        return train(module, loss_or_failure, **options, checkpoint_every=10)

    def noted(module, loss_of_step, **options):
        def loss_and_note(step, random_state):
            done.append(step)
            return loss_of_step(step, random_state)

        return train(module, loss_and_note, **options)

    expected = tiny(max_steps=20).fit(surfaces(n=2))
    monkeypatch.setattr("sklearn_exdd.augment.ddpm.train", pulled)
    with pytest.raises(OSError, match="the plug is pulled"):
        tiny(max_steps=20, memory=tmp_path).fit(surfaces(n=2))
    monkeypatch.setattr("sklearn_exdd.augment.ddpm.train", noted)
    resumed = tiny(max_steps=20, memory=tmp_path).fit(surfaces(n=2))
    assert done == list(range(10, 20))
    np.testing.assert_equal(resumed.weights_, expected.weights_)
    np.testing.assert_array_equal(resumed.losses_, expected.losses_)


@pytest.mark.slow
def test_a_training_that_the_user_stops_is_used_but_not_kept(tmp_path, monkeypatch):
    from sklearn_exdd import _training

    train = _training.train

    def stopped(module, loss_of_step, **options):
        def loss_or_stop(step, random_state):
            if step == 3:
                raise KeyboardInterrupt
            return loss_of_step(step, random_state)

        return train(module, loss_or_stop, **options)

    monkeypatch.setattr("sklearn_exdd.augment.ddpm.train", stopped)
    with pytest.warns(RuntimeWarning, match="DDPM of the normal images: interrupted after 3 of 60 steps"):
        augmenter = tiny(memory=tmp_path, regions=BOX).fit(surfaces(n=2))
    assert not (augmenter._fit_dir() / "weights.safetensors").exists()
    assert augmenter.sample(1).masks.any()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="memory: expected to write .*weights.safetensors"):
        tiny(memory=tmp_path / "file", max_steps=2).fit(surfaces(n=2))


@each_way_to_store
def test_a_stored_augmenter_draws_the_same(through, fitted, sampled):
    assert_same_samples(through(fitted).sample(4), sampled)


def test_a_clone_is_not_fitted_and_has_the_same_parameters(fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "weights_")


# Devices


def full(*_, **__):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_gpu_that_is_too_small_to_train_on_is_told_with_what_to_lower(monkeypatch):
    monkeypatch.setattr("sklearn_exdd.augment.ddpm.train", full)
    with pytest.raises(
        torch.cuda.OutOfMemoryError, match=r"lower train_batch_size or crop_size, or .*'cpu'.*2\.00 GiB"
    ):
        tiny().fit(surfaces(n=1))


def test_a_gpu_that_is_too_small_to_paint_on_is_told_with_what_to_lower(monkeypatch, fitted):
    monkeypatch.setattr("sklearn_exdd.augment.diffusion.Tiles.predict", full)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"lower batch_size, or set device='cpu'.*2\.00 GiB"):
        fitted.sample(1)


@pytest.mark.slow
def test_a_search_trains_once_a_fold_and_scores_real_images_only(tmp_path, monkeypatch):
    X, y, _ = make_surface_defects(18, defect_fraction=1 / 3, image_shape=(48, 48), random_state=0)
    trained, scored = [], []

    def counting(*args, **kwargs):
        trained.append(1)
        return train(*args, **kwargs)

    def recording(self, X):
        scored.append(len(X))
        return score(self, X)

    score = ExDDDetector.decision_function
    monkeypatch.setattr(ddpm, "train", counting)
    monkeypatch.setattr(ExDDDetector, "decision_function", recording)
    pipeline = make_pipeline(tiny(max_steps=5, memory=str(tmp_path)), ExDDDetector(random_state=0))
    grid = {
        "ddpmdefectaugmenter__n_synthetic": [0, 2, 4],
        "exdddetector__n_neighbors": [1, 3],
        "exdddetector__epsilon": ["scale", 1e-6],
    }
    GridSearchCV(pipeline, grid, scoring="roc_auc", cv=2, refit=False, error_score="raise").fit(X, y)
    assert len(trained) == 2
    assert scored == [9] * 2 * 12
