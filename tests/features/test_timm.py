"""Models of timm."""

import sys

import numpy as np
import pytest
import torch
from assertions import assert_same_maps
from sklearn.base import clone
from tiny_extractors import random_images

from sklearn_exdd.features import TimmFeatureExtractor


def test_a_timm_model_works_by_name():
    X = random_images(0, 2, 64, 96, 3)
    extractor = TimmFeatureExtractor("resnet18", weights=None)
    maps = extractor.transform(X)
    assert maps[0].shape == (8, 12, 384)
    assert extractor.stride == 8
    assert_same_maps(clone(extractor).transform(X), maps, rtol=1e-6)
    other = TimmFeatureExtractor("resnet18", weights=None, random_state=1).transform(X)
    assert not np.allclose(other[0], maps[0])


@pytest.mark.slow
def test_a_timm_model_takes_a_local_file(tmp_path):
    import timm

    X = random_images(0, 1, 64, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "weights.pth")
    extractor = TimmFeatureExtractor("resnet10t", weights=tmp_path / "weights.pth")
    expected = TimmFeatureExtractor("resnet10t", weights=None, random_state=7).transform(X)
    assert_same_maps(extractor.transform(X), expected, rtol=1e-6)
    with pytest.raises(FileNotFoundError, match=r"^weights: expected one of \['pretrained'\] or an existing file, got"):
        TimmFeatureExtractor("resnet10t", weights="nowhere.pth").transform(X)


def test_without_timm_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"needs timm: pip install 'sklearn_exdd\[timm\]'"):
        TimmFeatureExtractor("resnet18", weights=None, random_state=99).transform(random_images(0, 1, 64, 64))
