"""DefectClassifier: its training, its promised false alarm rate, its map and its failures in training."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from assertions import each_way_to_store
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import estimator_checks, get_tags
from torch import nn
from torchvision import models

from sklearn_exdd._torch import seeded
from sklearn_exdd._training_set import hold_out_of_each_kind
from sklearn_exdd.augment import OffsetDefectAugmenter, RectangleRegions
from sklearn_exdd.detectors.defect_classifier import DefectClassifier
from sklearn_exdd.detectors.defect_classifier import detector as defect_classifier
from sklearn_exdd.detectors.defect_classifier.batches import Batches
from sklearn_exdd.detectors.defect_classifier.network import last_maps, stack_images
from sklearn_exdd.features import EfficientNetLiteFeatureExtractor, TorchvisionFeatureExtractor


class TinyNet(nn.Module):
    """Network of three strided convolutions with the head of a ResNet."""

    def __init__(self):
        super().__init__()
        layers = []
        for n_in, n_out in ((3, 8), (8, 16), (16, 16)):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 5)

    def forward(self, images):
        return self.fc(self.avgpool(self.features(images)).flatten(1))


@pytest.fixture(autouse=True)
def tiny_backbones(monkeypatch):
    """Add torchvision models "tiny", which trains in a second, and "tiny_fixed", for images of 64 x 64 pixels."""

    def build_fixed(weights=None):
        module = TinyNet()
        module.avgpool, module.fc = nn.Identity(), nn.Linear(16 * 8 * 8, 5)
        return module

    for name, build in ("tiny", lambda weights=None: TinyNet()), ("tiny_fixed", build_fixed):
        build.__module__ = "torchvision.models.tiny"
        monkeypatch.setitem(models._api.BUILTIN_MODELS, name, build)


def painter(**params):
    return OffsetDefectAugmenter(regions=RectangleRegions(), sign="bright", offset=(0.2, 0.4), **params)


def classifier(**params):
    defaults = {
        "backbone": "tiny",
        "weights": None,
        "image_size": None,
        "augmenter": painter(),
        "n_synthetic": 12,
        "learning_rate": 1e-2,
        "n_epochs": 15,
        "train_batch_size": 8,
        "random_state": 0,
    }
    return DefectClassifier(**{**defaults, **params})


@pytest.fixture(scope="module")
def scratch():
    return {}


@pytest.fixture
def fitted(squares, scratch):
    """Return a classifier fitted on the normal squares only; no test may change it."""
    if "fitted" not in scratch:
        X, y, _ = squares
        scratch["fitted"] = classifier().fit(X[y == 0])
    return scratch["fitted"]


def assert_same_classifier(one, other, X):
    np.testing.assert_array_equal(one.score_samples(X), other.score_samples(X))
    assert one.threshold_ == other.threshold_
    assert one.weights_.keys() == other.weights_.keys()
    for name, value in one.weights_.items():
        np.testing.assert_array_equal(value, other.weights_[name])


# Training data and scores


def test_it_ranks_unseen_defects_first_from_synthetic_ones_alone(fitted, unseen_squares):
    X, y, _ = unseen_squares
    assert roc_auc_score(y, fitted.decision_function(X)) > 0.9


def test_the_map_is_higher_on_the_defect(fitted, unseen_squares):
    X, y, masks = unseen_squares
    maps = fitted.predict_map(X)
    assert maps.shape == X.shape
    assert maps.dtype == np.float32
    for pixel_map, mask in zip(maps[y == 1], masks[y == 1]):
        assert pixel_map[mask].mean() > pixel_map[~mask].mean() + maps.std()


@pytest.mark.slow
def test_real_defects_are_enough(squares, unseen_squares):
    X, y, masks = squares
    detector = classifier(augmenter=None).fit(X, y, masks=masks)
    assert detector.synthetic_ is None
    assert roc_auc_score(unseen_squares[1], detector.decision_function(unseen_squares[0])) > 0.9


def test_real_defects_come_on_top_of_synthetic_ones(squares, monkeypatch):
    X, y, _ = squares
    n_images = []
    split = hold_out_of_each_kind
    monkeypatch.setattr(
        defect_classifier,
        "hold_out_of_each_kind",
        lambda groups, *rest: n_images.append([len(own) for own in groups]) or split(groups, *rest),
    )
    classifier(n_synthetic=5, max_steps=1).fit(X, y)
    classifier(n_synthetic=5, max_steps=1).fit(X[y == 0], X[y == 1])
    assert n_images == [[12, 6, 5]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("class_balance", ["sampling", "weight", None])
def test_it_learns_from_few_defects_however_they_are_balanced(class_balance, squares, unseen_squares):
    X, y, _ = squares
    detector = classifier(class_balance=class_balance, n_synthetic=5, patience=None).fit(X[y == 0])
    assert roc_auc_score(unseen_squares[1], detector.decision_function(unseen_squares[0])) > 0.9


def test_a_score_is_the_logit_of_pooled_features_and_a_map_is_its_parts(fitted, unseen_squares):
    X = unseen_squares[0]
    module = fitted._trained()
    with torch.no_grad():
        batch = torch.from_numpy(X / 255).float()[:, None].expand(-1, 3, -1, -1)
        (maps,) = module.trunk((batch - module.mean) / module.std).values()
        logits = nn.functional.linear(maps.mean(dim=(2, 3)), module.head.weight[:, :, 0, 0], module.head.bias)[:, 0]
    assert maps.shape[1:] == (16, 8, 8)
    np.testing.assert_allclose(fitted.score_samples(X), logits, rtol=1e-3, atol=1e-4)
    # Patches are centred on every eighth pixel, where the map equals the logit of the patch.
    patches = fitted.predict_map(X)[:, ::8, ::8]
    np.testing.assert_allclose(patches.mean(axis=(1, 2)), logits, rtol=1e-3, atol=1e-4)


def test_probabilities_are_sigmoids_in_the_order_of_the_classes(fitted, squares, unseen_squares):
    X = unseen_squares[0]
    probabilities = fitted.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(probabilities[:, 1], 1 / (1 + np.exp(-fitted.score_samples(X))))
    labels = np.where(squares[1] == 1, "broken", "fine")
    with pytest.warns(UserWarning, match="pos_label='broken' sorts before the label of normal samples"):
        named = classifier(pos_label="broken", max_steps=2).fit(squares[0], labels)
    assert named.classes_.tolist() == ["broken", "fine"]
    np.testing.assert_allclose(named.predict_proba(X)[:, 0], 1 / (1 + np.exp(-named.score_samples(X))))
    np.testing.assert_array_equal(named.predict(X) == "broken", named.decision_function(X) > 0)


@pytest.mark.parametrize("layer", ["features.5", "layer"])
def test_an_earlier_layer_gives_a_finer_map(layer, squares):
    X, y, _ = squares
    detector = classifier(layer=layer, max_steps=1)
    if layer == "layer":
        with pytest.raises(ValueError, match=r"^layers: expected names of layers of TinyNet"):
            detector.fit(X[y == 0])
    else:
        detector.fit(X[y == 0])
        assert detector._trained().stride == 4


# Promised false alarm rate


@pytest.mark.slow
def test_the_threshold_comes_from_normal_images_that_training_did_not_see(squares, monkeypatch):
    X, y, _ = squares
    seen = []
    monkeypatch.setattr(defect_classifier, "stack_images", lambda images: seen.extend(images) or stack_images(images))
    detector = classifier(validation_fraction=0.25, patience=None, class_balance=None).fit(X[y == 0])
    trained_on = {image.tobytes() for image in seen if image.dtype == np.uint16}
    is_new = [(image[..., None] * np.uint16(257)).tobytes() not in trained_on for image in X[y == 0]]
    assert 0 < sum(is_new) < len(is_new)
    assert detector.threshold_ == detector.score_samples(X[y == 0][is_new]).max()
    assert detector.false_alarm_rate_ == 1 / (1 + sum(is_new))


def test_with_enough_images_the_threshold_promises_the_rate_asked_for(squares):
    X, y, _ = squares
    detector = classifier(validation_fraction=0.5, max_false_alarm_rate=0.3, max_steps=1).fit(X[y == 0])
    assert detector.false_alarm_rate_ == 0.3


def split(groups, fraction=0.2, seed=0):
    return hold_out_of_each_kind([np.array(own) for own in groups], fraction, np.random.RandomState(seed))


def test_a_split_holds_out_a_share_of_whole_groups():
    groups = np.repeat(np.arange(20), 3)
    normal, defect = split([groups, groups[:30]])
    for number in range(20):
        own = np.concatenate([normal[groups == number], defect[groups[:30] == number]])
        assert own.all() or not own.any()
    # Two of the 10 groups with defects and two of the 10 without are held out.
    assert normal.sum() == 3 * 4
    assert defect.sum() == 3 * 2


def test_a_synthetic_defect_is_held_out_with_its_source(squares, monkeypatch):
    X, y, _ = squares
    splits = []
    monkeypatch.setattr(
        defect_classifier,
        "hold_out_of_each_kind",
        lambda groups, *rest: splits.append((groups, hold_out_of_each_kind(groups, *rest))) or splits[-1][1],
    )
    inside = classifier(n_synthetic=20, max_steps=1).fit(X, y)
    attached = make_pipeline(painter(n_synthetic=20, random_state=0), classifier(augmenter=None, max_steps=1)).fit(X, y)
    for (groups, is_validation), numbers, synthetic in zip(
        splits, (np.arange(12), np.flatnonzero(y == 0)), (inside.synthetic_, attached[-1].synthetic_)
    ):
        sources = np.array([one["source"] for one in synthetic.provenance])
        held_out = numbers[is_validation[0]]
        np.testing.assert_array_equal(np.isin(sources, held_out), is_validation[2])
        assert 0 < is_validation[2].sum() < 20
        np.testing.assert_array_equal(groups[1], np.flatnonzero(y == 1))


@pytest.mark.parametrize(
    ("groups", "counts"),
    [
        ([[0, 1, 2], [3]], "1 normal images for validation, 2 normal images for training, 0 defect images for valid"),
        ([[0, 0, 0], [1, 2]], "0 normal images for validation, 3 normal images for training"),
        ([[0], [0]], "0 normal images for validation"),
    ],
)
def test_a_split_that_leaves_no_image_of_a_class_is_refused(groups, counts):
    with pytest.raises(ValueError, match=f"^validation_fraction: expected 0.2 of . groups to leave at .*{counts}"):
        split(groups)


def test_groups_are_those_of_fit(squares):
    X, y, _ = squares
    with pytest.raises(ValueError, match=r"of 7 groups .* 0 normal images for validation.*Pass more images or smaller"):
        classifier(augmenter=None).fit(X, y, groups=np.where(y == 0, 0, np.arange(len(y)) + 1))


# Training


@pytest.mark.parametrize("balanced", [True, False])
def test_batches_are_full_and_go_through_the_images(balanced):
    labels = np.array([0] * 10 + [1] * 3)
    training = np.arange(1, 13)
    batches = Batches(labels, training, 5, balanced, seed=0)
    assert batches.n_per_epoch == 3
    rows = [batches.rows(step) for step in range(6)]
    assert all(len(own) == 5 for own in rows)
    for epoch in np.concatenate(rows[:3]), np.concatenate(rows[3:]):
        if balanced:
            assert labels[epoch].tolist() == [0, 1] * 7 + [0]
            assert len(set(epoch[labels[epoch] == 0])) == 8
            assert set(epoch[labels[epoch] == 1]) == {10, 11, 12}
        else:
            assert set(epoch) == set(training)
    assert not np.array_equal(rows[0], rows[3])
    np.testing.assert_array_equal(Batches(labels, training, 5, balanced, seed=0).rows(4), rows[4])


def test_fewer_images_than_a_batch_make_a_smaller_batch():
    batches = Batches(np.array([0, 0, 1]), np.arange(3), 32, False, seed=0)
    assert (batches.size, batches.n_per_epoch) == (3, 1)


def test_smaller_images_are_continued_by_their_mirror_image():
    batch = stack_images([np.arange(6.0).reshape(2, 3, 1), np.zeros((3, 2, 1))])
    assert batch.shape == (2, 1, 3, 3)
    np.testing.assert_array_equal(batch[0, 0], [[0, 1, 2], [3, 4, 5], [3, 4, 5]])


@pytest.mark.slow
def test_training_ends_when_the_validation_loss_no_longer_falls_and_the_best_weights_are_kept(squares):
    X, y, _ = squares
    detector = classifier(n_epochs=100, patience=3, learning_rate=0.05).fit(X[y == 0])
    steps, losses = detector.validation_losses_.T
    best = int(np.argmin(losses))
    assert len(detector.losses_) == steps[-1] < 200
    assert len(losses) == best + 1 + 3
    again = classifier(n_epochs=100, max_steps=int(steps[best]), learning_rate=0.05).fit(X[y == 0])
    assert_same_classifier(again, detector, X)


def test_without_patience_the_whole_budget_is_trained(squares):
    X, y, _ = squares
    detector = classifier(n_epochs=4, patience=None).fit(X[y == 0])
    assert len(detector.losses_) % 4 == 0
    assert detector.validation_losses_.shape == (0, 2)
    assert len(classifier(max_steps=3).fit(X[y == 0]).losses_) == 3
    assert len(classifier(max_seconds=1e-9, max_steps=3).fit(X[y == 0]).losses_) == 0


def test_the_statistics_of_batch_normalisation_are_those_of_the_training_images(squares, monkeypatch):
    X, y, _ = squares
    batches = []
    monkeypatch.setattr(
        defect_classifier, "stack_images", lambda images: batches.append(stack_images(images)) or batches[-1]
    )
    detector = classifier(max_steps=2, train_batch_size=50, class_balance=None, patience=None).fit(X[y == 0])
    (batch,) = [batch / 65535 for batch in batches[2:] if len(batch) > 16]
    module = detector._trained()
    with torch.no_grad():
        first = getattr(module.trunk.features, "0")((batch - module.mean) / module.std)
    expected = first.mean(dim=(0, 2, 3))
    np.testing.assert_allclose(detector.weights_["trunk.features.1.running_mean"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("patience", [None, 1000])
def test_an_interrupted_training_resumes_where_it_was(patience, squares, tmp_path, monkeypatch):
    X, y, _ = squares
    params = {"n_epochs": 45, "patience": patience, "memory": tmp_path / "cache"}
    expected = classifier(**{**params, "memory": None}).fit(X[y == 0])
    assert len(expected.losses_) > 110
    rows = Batches.rows

    def interrupted(batches, step):
        if step == 105:
            raise KeyboardInterrupt
        return rows(batches, step)

    monkeypatch.setattr(Batches, "rows", interrupted)
    with pytest.warns(RuntimeWarning, match=r"^DefectClassifier on tiny: interrupted after \d+ of \d+ steps"):
        stopped = classifier(**params).fit(X[y == 0])
    monkeypatch.setattr(Batches, "rows", rows)
    assert len(stopped.losses_) == 105
    assert [path.name for path in params["memory"].glob("DefectClassifier-*/*")] == ["training.pt"]
    assert_same_classifier(classifier(**params).fit(X[y == 0]), expected, X)
    assert [path.name for path in params["memory"].glob("DefectClassifier-*/*")] == ["weights.safetensors"]
    monkeypatch.setattr(Batches, "rows", None)
    assert_same_classifier(classifier(**params).fit(X[y == 0]), expected, X)


def test_a_loss_that_is_not_finite_is_told(squares):
    X, y, _ = squares
    with pytest.raises(
        FloatingPointError, match=r"^DefectClassifier on tiny: expected a finite loss, got .* Lower the lea"
    ):
        classifier(learning_rate=1e30, class_balance=None).fit(X[y == 0])


@pytest.mark.slow
def test_a_loss_that_turns_nan_leaves_the_best_weights_so_far(squares, monkeypatch):
    X, y, _ = squares
    loss, left = nn.functional.binary_cross_entropy_with_logits, iter(range(14))

    def breaking(logits, *args, **kwargs):
        value = loss(logits, *args, **kwargs)
        return value * np.nan if logits.requires_grad and next(left, None) is None else value

    monkeypatch.setattr(nn.functional, "binary_cross_entropy_with_logits", breaking)
    with pytest.warns(RuntimeWarning, match=r"expected a finite loss, got nan .* at step 14.* of step \d+ are used"):
        detector = classifier(n_epochs=100, patience=100).fit(X[y == 0])
    monkeypatch.setattr(nn.functional, "binary_cross_entropy_with_logits", loss)
    steps, losses = detector.validation_losses_.T
    assert len(detector.losses_) == 14
    again = classifier(n_epochs=100, patience=100, max_steps=int(steps[np.argmin(losses)])).fit(X[y == 0])
    assert_same_classifier(again, detector, X)


def test_a_failed_fit_leaves_the_detector_as_it_was(fitted, squares, unseen_squares):
    X, y, _ = squares
    detector = pickle.loads(pickle.dumps(fitted)).set_params(learning_rate=1e30, class_balance=None)
    with pytest.raises(FloatingPointError, match="expected a finite loss"):
        detector.fit(X[y == 0])
    assert_same_classifier(detector, fitted, unseen_squares[0])


@pytest.mark.slow
def test_the_seed_decides_and_no_global_generator_is_touched(fitted, squares, unseen_squares):
    X, y, _ = squares
    np.random.seed(3)  # noqa: NPY002 - the test watches the global generator
    torch.manual_seed(3)
    before = joblib.hash([np.random.get_state(), torch.get_rng_state().numpy()])  # noqa: NPY002
    assert_same_classifier(classifier().fit(X[y == 0]), fitted, unseen_squares[0])
    assert joblib.hash([np.random.get_state(), torch.get_rng_state().numpy()]) == before  # noqa: NPY002
    other = classifier(random_state=1).fit(X[y == 0])
    assert not np.array_equal(other.weights_["head.weight"], fitted.weights_["head.weight"])


# Sources of the weights


@pytest.mark.slow
def test_training_starts_from_a_local_state_dict_and_leaves_the_shared_network_alone(squares, tmp_path):
    X, y, _ = squares
    path = tmp_path / "resnet18.pt"
    with seeded(7):
        torch.save(models.resnet18().state_dict(), path)
    extractor = TorchvisionFeatureExtractor("resnet18", weights=path, layers=("layer4.1.relu_1",), device="cpu")
    before = extractor.transform(X[:2])
    params = {"backbone": "resnet18", "weights": path, "image_size": 32, "max_steps": 1, "patience": None}
    unmoved = classifier(**params, learning_rate=1e-12).fit(X[y == 0])
    state = torch.load(path, weights_only=True)
    np.testing.assert_allclose(
        unmoved.weights_["trunk.layer4.1.conv2.weight"], state["layer4.1.conv2.weight"], atol=1e-9
    )
    again = classifier(**params, learning_rate=1e-12).fit(X[y == 0])  # the network is now loaded in this process
    np.testing.assert_array_equal(again.weights_["head.weight"], unmoved.weights_["head.weight"])
    moved = classifier(**params).fit(X[y == 0])
    assert not np.allclose(moved.weights_["trunk.conv1.weight"], state["conv1.weight"], atol=1e-4)
    for one, other in zip(before, extractor.transform(X[:2])):
        np.testing.assert_array_equal(one, other)
    path.unlink()
    assert pickle.loads(pickle.dumps(moved)).predict(X).shape == y.shape


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"backbone": "resnet19"}, ValueError, r"^backbone: expected a name of torchvision.models.list_models\("),
        (
            {"backbone": "tiny_fixed"},
            ValueError,
            "^backbone: expected a model that takes images of any size, such as 'res",
        ),
        (
            {"backbone": "resnet18", "weights": "missing.pt"},
            FileNotFoundError,
            "^weights: expected one of .*'missing.pt'",
        ),
        ({"image_size": (64, 64, 3)}, ValueError, r"^image_size: expected an integer .* or None, got \(64"),
        (
            {"image_size": 4},
            ValueError,
            r"^X\[0\]: expected at least 8 pixels a side, the stride .* got 4 x 4. Set image_",
        ),
        (
            {"augmenter": None},
            ValueError,
            r"^X: expected defects to learn from, got normal images only. Set augmenter=",
        ),
        ({"n_synthetic": 0}, ValueError, "^X: expected defects to learn from, got normal images only"),
        ({"class_balance": "none"}, ValueError, "The 'class_balance' parameter of DefectClassifier must be"),
        ({"train_batch_size": 1}, ValueError, "The 'train_batch_size' parameter of DefectClassifier must be"),
        ({"validation_fraction": 1}, ValueError, "The 'validation_fraction' parameter of DefectClassifier must be"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(params, error, message, squares):
    X, y, _ = squares
    with pytest.raises(error, match=message):
        classifier().set_params(**params).fit(X[y == 0])


def test_feature_rows_are_refused():
    with pytest.raises(ValueError, match=r"^X: expected images to train a network on, got feature rows"):
        classifier().fit(np.zeros((9, 4)))


def test_a_second_augmenter_is_refused(squares):
    X, y, _ = squares
    with pytest.raises(ValueError, match=r"^augmenter: expected None, because X already carries synthetic defects"):
        make_pipeline(painter(n_synthetic=2), classifier()).fit(X, y)


@pytest.mark.parametrize("augmenter", [None, painter()])
def test_defects_of_other_channels_are_refused(augmenter, squares):
    X, y, _ = squares
    with pytest.raises(ValueError, match=r"^X_defect\[0\]: expected 1 channel \(grey\) as in the other images, got 3"):
        classifier(augmenter=augmenter).fit(X[y == 0], np.stack([X[y == 1]] * 3, axis=3))


@pytest.mark.slow
@pytest.mark.parametrize("convert", [lambda X: X / 255, lambda X: X.astype(np.uint16) * 257], ids=["float", "uint16"])
def test_the_same_pixels_in_another_form_train_the_same_network(convert, fitted, squares, unseen_squares):
    X, y, _ = squares
    assert_same_classifier(classifier().fit(convert(X[y == 0])), fitted, unseen_squares[0])


def test_a_defect_on_a_normal_image_is_refused(squares):
    X, y, masks = squares
    with pytest.raises(ValueError, match=r"^masks\[.*: expected None or an empty mask for a normal image"):
        classifier().fit(X, 1 - y, masks=masks)


# Image formats


@pytest.mark.parametrize("image_size", [None, 32, (40, 24)], ids=str)
def test_images_of_different_sizes_and_channels_can_be_fitted(image_size, squares):
    X, y, _ = squares
    images = [np.stack([image[: 40 + i, : 64 - 2 * i]] * 3, axis=2) for i, image in enumerate(X)]
    detector = classifier(image_size=image_size, max_steps=4).fit(images, y)
    maps = detector.predict_map(images)
    assert [pixel_map.shape for pixel_map in maps] == [image.shape[:2] for image in images]
    scores = detector.score_samples(images)
    np.testing.assert_allclose(detector.set_params(batch_size=1).score_samples(images[::-1])[::-1], scores, rtol=1e-4)


@pytest.mark.slow
def test_paths_are_as_good_as_arrays(fitted, squares, unseen_squares, write_images):
    X, y, _ = squares
    from_paths = classifier().fit(write_images(X[y == 0]))
    assert_same_classifier(from_paths, fitted, unseen_squares[0])


# Behaviour as an estimator


@pytest.mark.slow
def test_an_attached_augmenter_is_the_same_as_an_own_one(squares, unseen_squares):
    X, y, _ = squares
    own = classifier(augmenter=painter(random_state=5)).fit(X[y == 0])
    pipeline = make_pipeline(painter(n_synthetic=12, random_state=5), classifier(augmenter=None)).fit(X[y == 0])
    assert_same_classifier(pipeline[-1], own, unseen_squares[0])


@pytest.mark.slow
def test_the_number_of_synthetic_defects_can_be_searched(squares):
    X, y, _ = squares
    pipeline = Pipeline([("augment", painter(random_state=0)), ("classify", classifier(augmenter=None, max_steps=3))])
    for estimator, name in ((classifier(max_steps=3), "n_synthetic"), (pipeline, "augment__n_synthetic")):
        search = GridSearchCV(estimator, {name: [3, 6]}, scoring="roc_auc", cv=StratifiedKFold(2), error_score="raise")
        assert len(search.fit(X, y).cv_results_["params"]) == 2
        assert search.predict_proba(X).shape == (len(y), 2)


@each_way_to_store
def test_it_comes_back_from_a_file_without_its_module(through, fitted, unseen_squares):
    back = through(fitted)
    assert "_module" not in vars(back)
    np.testing.assert_array_equal(back.predict_map(unseen_squares[0]), fitted.predict_map(unseen_squares[0]))
    assert_same_classifier(back, fitted, unseen_squares[0])


def test_a_clone_has_the_parameters_and_nothing_else(fitted):
    copy = clone(fitted)
    assert repr(copy) == repr(classifier())
    assert not hasattr(copy, "weights_")
    assert not hasattr(copy, "_module")


@pytest.mark.parametrize(
    "check",
    [
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_get_params_invariance",
        "check_mixin_order",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_valid_tag_types",
    ],
)
def test_scikit_learns_checks_without_a_table_of_numbers_pass(check):
    getattr(estimator_checks, check)("DefectClassifier", DefectClassifier())


def test_scikit_learn_knows_what_it_takes():
    tags = get_tags(DefectClassifier())
    assert tags.input_tags.three_d_array
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert not tags.classifier_tags.multi_class


def test_the_last_maps_of_a_resnet_are_those_of_its_last_block():
    assert last_maps("resnet18") == "layer4.1.relu_1"


# EfficientNet-Lite


def lite(**params):
    params = {"image_size": 64, "max_steps": 3, "random_state": 0, **params}
    return DefectClassifier("efficientnet_lite0", augmenter=painter(), n_synthetic=6, **params)


@each_way_to_store
def test_a_pretrained_backbone_comes_by_pip(through, squares):
    X, y, _ = squares
    detector = lite().fit(X, y)
    assert detector.weights_["head.weight"].shape == (1, 320, 1, 1)
    assert np.isfinite(detector.decision_function(X)).all()
    assert detector.predict_map(X[:2]).shape == X[:2].shape
    back = through(detector)
    np.testing.assert_array_equal(back.decision_function(X), detector.decision_function(X))


def test_training_starts_from_the_pretrained_weights(squares):
    X, y, _ = squares
    trained = lite(max_steps=1, learning_rate=1e-12).fit(X, y).weights_
    module, _, _ = EfficientNetLiteFeatureExtractor(strides=(32,)).network(folded=False)
    name, weights = next((name, values) for name, values in module.state_dict().items() if values.ndim == 4)
    np.testing.assert_allclose(trained[f"trunk.{name}"], weights.float().numpy(), rtol=0.02, atol=1e-3)
    drawn = lite(max_steps=1, learning_rate=1e-12, weights=None).fit(X, y).weights_
    assert abs(drawn[f"trunk.{name}"] - trained[f"trunk.{name}"]).max() > 0.1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"layer": "layer3"},
            r"^layer: expected None for 'efficientnet_lite0', which always pools .* got 'layer3'",
        ),
        (
            {"weights": "DEFAULT"},
            r"^weights: expected 'IMAGENET1K_V1' or None for 'efficientnet_lite0', .* got 'DEFAULT'",
        ),
        ({"weights_sha256": "00"}, r"^weights_sha256: expected None for 'efficientnet_lite0', .* got '00'"),
    ],
)
def test_what_a_pretrained_backbone_has_no_use_for_is_named(params, message, squares):
    X, y, _ = squares
    with pytest.raises(ValueError, match=message):
        lite(**params).fit(X, y)
