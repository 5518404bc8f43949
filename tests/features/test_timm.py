"""Extractors with models of timm: convolutional networks, networks with TensorFlow's padding, and transformers."""

import sys
import time

import numpy as np
import pytest
import torch
from assertions import assert_same_maps
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.fixes import parse_version
from test_patch_centers import dot_errors, size_of_a_step
from tiny_extractors import random_images
from torch import nn

from sklearn_exdd import ExDDDetector
from sklearn_exdd.features import TimmFeatureExtractor

timm = pytest.importorskip("timm")

NEWEST = pytest.mark.skipif(
    parse_version(timm.__version__) < parse_version("1.0.31"), reason="needs timm >= 1.0.31, as the message says"
)
#: For each family: a small model, the stride of its finest level in use, and the position of its first patch.
FAMILIES = [
    ("test_resnet", 8, 3.5),
    ("resnet18", 8, 0),
    ("mobilenetv3_small_050", 8, 0),
    ("tf_efficientnetv2_b0", 8, 7),
    ("test_convnext", 8, 3.5),
    ("test_vit", 16, 7.5),
    ("test_vit3", 16, 7.5),
    ("vit_tiny_patch16_224", 16, 7.5),
    pytest.param("efficientvit_b0", 8, 0, marks=NEWEST),
    ("pvt_v2_b0", 8, 0),
    pytest.param("swin_tiny_patch4_window7_224", 8, 3.5, marks=[pytest.mark.slow, NEWEST]),
    pytest.param("swinv2_tiny_window8_256", 8, 3.5, marks=[pytest.mark.slow, NEWEST]),
    pytest.param("vit_small_patch14_dinov2", 14, 6.5, marks=pytest.mark.slow),
    pytest.param("vit_small_patch14_reg4_dinov2", 14, 6.5, marks=pytest.mark.slow),
    pytest.param("vit_small_patch16_dinov3", 16, 7.5, marks=pytest.mark.slow),
    pytest.param("eva02_tiny_patch14_224", 14, 6.5, marks=pytest.mark.slow),
]
each_family = pytest.mark.parametrize(("backbone", "stride", "offset"), FAMILIES)
SMALL = [family[0] for family in FAMILIES if type(family) is tuple]
each_small_one = pytest.mark.parametrize("backbone", [*SMALL, pytest.param("efficientvit_b0", marks=NEWEST)])


def random_model(backbone, **params):
    return TimmFeatureExtractor(backbone, **{"weights": None, "precision": "float32", **params})


# Every family


@each_family
def test_a_dot_is_found_where_it_is_at_any_size(backbone, stride, offset):
    for image_size, shape in ((None, (97, 131)), (None, (150, 83)), (112, (90, 130))):
        extractor = random_model(backbone, pool_size=1, image_size=image_size)
        assert (extractor.stride, extractor.offset) == (stride, offset)
        (feature_map,) = extractor.transform(random_images(0, 1, *shape))
        if image_size is None:
            assert feature_map.shape[:2] == (-(-shape[0] // stride), -(-shape[1] // stride))
        errors = dot_errors(extractor, shape) / size_of_a_step(extractor, shape)
        # The errors are not 0, because random filters are asymmetric.
        assert np.median(abs(errors)) < 0.5
        assert abs(errors.mean(axis=0)).max() < 0.5
        assert abs(errors).max() < 1.5


@each_small_one
def test_bfloat16_comes_close_to_float32(backbone):
    X = random_images(0, 1, 64, 80)
    exact, rough = (random_model(backbone, precision=name).transform(X)[0] for name in ("float32", "bfloat16"))
    assert np.linalg.norm(rough - exact) < 0.05 * np.linalg.norm(exact)


@each_small_one
def test_maps_depend_neither_on_the_batch_nor_on_the_process(backbone):
    X = random_images(0, 3, 64, 64)
    extractor = random_model(backbone)
    maps = extractor.transform(X)
    assert_same_maps(clone(extractor).set_params(batch_size=1, n_jobs=2).transform(X), maps, rtol=1e-3, atol=1e-4)
    other = random_model(backbone, random_state=1).transform(X[:1])
    assert not np.allclose(other[0], maps[0], rtol=1e-2)


# Comparison with the outputs of timm


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(
    ("backbone", "layers"),
    [
        ("test_resnet", (1, 3)),
        ("tf_efficientnet_lite0", (0, 4)),
        ("test_convnext", (0, 2)),
        ("test_vit", (0, 3)),
        pytest.param("swin_tiny_patch4_window7_224", (0, 3), marks=pytest.mark.slow),
    ],
)
def test_outputs_are_those_of_timm(backbone, layers, folded):
    loaded = random_model(backbone, layers=layers)._loaded(folded)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(backbone).eval()
    size = 160 if backbone.startswith("test") else 224  # input size for which the model was made
    batch = torch.from_numpy(random_images(0, 1, size, size, 3)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        outputs, norm = loaded.module(batch), backbone == "test_vit"
        expected = model.forward_intermediates(batch, norm=norm, intermediates_only=True, output_fmt="NCHW")
    for output, layer in zip(outputs, layers):
        torch.testing.assert_close(output, expected[layer], rtol=1e-3, atol=1e-4)


def test_the_norms_are_folded_unless_they_are_to_be_trained():
    folded, plain = (random_model("mobilenetv3_small_050").network(folded=folded)[0] for folded in (True, False))
    n_folded, n_plain = (sum(isinstance(one, nn.BatchNorm2d) for one in net.modules()) for net in (folded, plain))
    assert n_folded == 0 < n_plain


@pytest.mark.parametrize("layers", [(2,), (2, 3), (3, 2), (-3, -2)])
def test_levels_are_given_by_their_indices(layers):
    X = random_images(0, 1, 64, 96)
    joined = random_model("resnet18", layers=layers).transform(X)[0]
    alone = random_model("resnet18", layers=(2,)).transform(X)[0]
    assert joined.shape[:2] == (8, 12)
    np.testing.assert_allclose(joined[..., -128:] if layers == (3, 2) else joined[..., :128], alone, rtol=1e-4)


def test_the_default_levels_are_those_of_strides_8_and_16_or_middle_blocks():
    assert random_model("resnet18")._loaded().strides == (8, 16)
    assert random_model("test_vit")._source()._indices([16] * 12) == (5, 8)
    assert random_model("resnet18")._source()._indices([4, 32]) == (1,)


@pytest.mark.parametrize("layers", [(5,), (-6,), (0, 9)])
def test_an_index_beyond_the_levels_is_refused(layers):
    message = r"^layers: expected indices of levels from -5 to 4, got .* resnet18 have the strides \[2, 4, 8, 16"
    with pytest.raises(ValueError, match=message):
        random_model("resnet18", layers=layers).transform(random_images(0, 1, 64, 64))


def test_mean_and_deviation_are_those_of_the_model_unless_given():
    X = random_images(0, 1, 64, 64)
    own = random_model("test_vit").transform(X)
    config = timm.get_pretrained_cfg("test_vit")
    assert_same_maps(random_model("test_vit", mean=config.mean, std=config.std).transform(X), own, rtol=1e-4, atol=1e-5)
    other = random_model("test_vit", mean=(0.1,), std=(1.0,)).transform(X)
    assert not np.allclose(other[0], own[0], rtol=1e-2)
    with pytest.raises(
        ValueError, match=r"^mean: expected 3 numbers, one for each input channel, .*got \(0\.1, 0\.2\)"
    ):
        random_model("test_vit", mean=(0.1, 0.2)).transform(X)


# Large and small images


@pytest.mark.parametrize("backbone", ["resnet18", "test_convnext"])
def test_maps_of_tiles_are_those_of_the_whole(backbone):
    X = random_images(0, 1, 75, 600)
    whole, tiled = (random_model(backbone, tile_size=size).transform(X) for size in (1024, 128))
    assert_same_maps(tiled, whole, atol=1e-3)


def test_tiles_bound_what_a_transformer_computes_at_once(monkeypatch):
    sizes = []
    extract = TimmFeatureExtractor._extract
    monkeypatch.setattr(
        TimmFeatureExtractor, "_extract", lambda self, images: sizes.append(images.shape[1:3]) or extract(self, images)
    )
    (feature_map,) = random_model("test_vit", tile_size=256).transform(random_images(0, 1, 100, 1500))
    assert feature_map.shape[:2] == (7, 94)
    assert len(sizes) > 3
    assert max(max(size) for size in sizes) <= 256 + 2 * 256


@pytest.mark.parametrize(("backbone", "size"), [("test_vit", 16), ("resnet18", 16), ("test_convnext", 16)])
def test_images_smaller_than_a_patch_are_refused(backbone, size):
    assert random_model(backbone).transform(random_images(0, 1, size, size))[0].shape[2] > 0
    with pytest.raises(
        ValueError, match=rf"^X\[0\]: expected at least {size} pixels a side .* got 15 x 64\. Use larger"
    ):
        random_model(backbone).transform(random_images(0, 1, 15, 64))


@NEWEST
def test_a_model_of_one_size_says_so():
    X = random_images(0, 1, 64, 64)
    message = (
        r"^images: expected 160 x 160 pixels, the only size that test_vit_relpos accepts, got 64 x 64\. Set image_size"
    )
    with pytest.raises(ValueError, match=message):
        random_model("test_vit_relpos").transform(X)
    assert random_model("test_vit_relpos", image_size=(160, 160)).transform(X)[0].shape[:2] == (10, 10)


@pytest.mark.parametrize("n_channels", [2, 5])
def test_images_of_other_channels_are_refused(n_channels):
    with pytest.raises(ValueError, match=rf"expected .*channel.*, got .*{n_channels}"):
        random_model("test_vit").transform(random_images(0, 1, 64, 64, n_channels))


def test_a_model_without_maps_is_refused_by_name():
    message = (
        r"^backbone: expected a timm model whose levels are feature maps, got 'levit_128s' \(.*\)\. Choose another"
    )
    with pytest.raises(ValueError, match=message):
        random_model("levit_128s").transform(random_images(0, 1, 64, 64))


# Searches


@pytest.mark.slow
def test_names_can_be_searched_over(surfaces, monkeypatch):
    X, y, _ = surfaces
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, pretrained, **kwargs: create(*args, **kwargs))
    monkeypatch.setattr("sklearn_exdd.features.timm.TimmModel._look_for_hub", lambda *_: None)
    names = ["gabor", "timm:test_resnet", "timm:test_vit"]
    detector = ExDDDetector(normal_coreset=50, random_state=0)
    search = GridSearchCV(detector, {"feature_extractor": names}, cv=2, scoring="roc_auc", error_score="raise")
    search.fit(X[:12], y[:12])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# Weights


@pytest.mark.parametrize("backbone", ["resnet10t", "test_vit"])
def test_a_timm_model_takes_a_local_file(backbone, tmp_path):
    X = random_images(0, 1, 64, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        torch.save(timm.create_model(backbone).state_dict(), tmp_path / "weights.pth")
    extractor = random_model(backbone, weights=tmp_path / "weights.pth")
    assert_same_maps(extractor.transform(X), random_model(backbone, random_state=7).transform(X), rtol=1e-6)
    with pytest.raises(FileNotFoundError, match=r"^weights: expected one of \['pretrained'\] or an existing file, got"):
        TimmFeatureExtractor(backbone, weights="nowhere.pth").transform(X)
    with pytest.raises(ValueError, match=r"expected the weights of resnet18 in .*, got those of another model"):
        random_model("resnet18", weights=tmp_path / "weights.pth").transform(X)


def test_a_hub_that_is_not_there_is_asked_once(tmp_path, monkeypatch):
    asked = []

    def refuse(url, **_):
        asked.append(url)
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("expected no second attempt"))
    message = r"^weights: .* resnet10t could not be downloaded \(no route to host\)\. Give a local file as weights=path"
    with pytest.raises(OSError, match=message):
        TimmFeatureExtractor("resnet10t").transform(random_images(0, 1, 64, 64))
    assert len(asked) == 1
    assert "resnet10t" in asked[0]


def test_without_timm_the_message_says_how_to_install_it(monkeypatch, surfaces):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"needs timm: pip install timm"):
        TimmFeatureExtractor("resnet18", weights=None, random_state=99).transform(random_images(0, 1, 64, 64))
    with pytest.raises(ImportError, match=r"needs timm: pip install timm"):
        ExDDDetector("timm:vit_small_patch14_dinov2").fit(surfaces[0][:4])
    ExDDDetector("gabor", random_state=0).fit(surfaces[0][:4])
