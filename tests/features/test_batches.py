"""Extraction in batches: sizes of the images and order of the feature maps."""

import numpy as np
import pytest
import torch
from assertions import assert_same_maps
from PIL import Image
from tiny_extractors import CellMeans, random_images, random_pixels, resnet18

from sklearn_exdd.features import GaborFeatureExtractor


@pytest.mark.parametrize("make", [lambda **o: GaborFeatureExtractor(whiten=False, **o), resnet18, CellMeans])
@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 2, "n_jobs": 2}])
def test_maps_do_not_depend_on_batches_and_jobs(make, options):
    X = random_images(0, 7, 64, 72)
    expected = make().transform(X)
    assert_same_maps(make(**options).transform(X), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [lambda **o: GaborFeatureExtractor(whiten=False, **o), resnet18, CellMeans])
@pytest.mark.parametrize("options", [{}, {"batch_size": 2, "n_jobs": 2}])
def test_images_of_mixed_sizes_keep_their_order(make, options):
    shapes = [(64, 64), (50, 72), (64, 64), (72, 50), (50, 72), (64, 64)]
    X = [random_images(i, *shape) for i, shape in enumerate(shapes)]
    one_by_one = [make().transform([image])[0] for image in X]
    assert_same_maps(make(**options).transform(X), one_by_one, rtol=1e-4, atol=1e-4)


def test_a_cpu_computes_few_pixels_at_a_time_with_the_same_maps(monkeypatch):
    X, extractor = random_images(0, 5, 64, 96), GaborFeatureExtractor(whiten=False)
    whole, together = extractor.transform(X), []
    extract = GaborFeatureExtractor._extract
    monkeypatch.setattr(
        GaborFeatureExtractor, "_extract", lambda self, images: together.append(len(images)) or extract(self, images)
    )
    for n_pixels, n_threads, expected in (
        (2 * 64 * 96, 1, [2, 2, 1]),
        (64 * 96, 2, [4, 1]),
        (1, 1, [1] * 5),
        (None, 1, [5]),
    ):
        monkeypatch.setattr(GaborFeatureExtractor, "_n_pixels", n_pixels)
        monkeypatch.setattr(torch, "get_num_threads", lambda n_threads=n_threads: n_threads)
        together.clear()
        assert_same_maps(extractor.transform(X), whole, rtol=1e-4, atol=1e-4)
        assert together == expected


def test_maps_come_one_by_one_and_only_a_batch_is_read(tmp_path):
    paths = []
    for i in range(4):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(random_pixels(i, 8, 8)).save(paths[-1])
    maps = CellMeans(batch_size=2).iter_transform([*paths, tmp_path / "missing.png"])
    assert [next(maps).shape for _ in range(4)] == [(2, 2, 2)] * 4
    with pytest.raises(FileNotFoundError, match=r"^X\[4\] \(.*missing\.png\)"):
        next(maps)


def test_arrays_lists_and_files_give_the_same_maps(tmp_path):
    X = random_pixels(0, 3, 48, 56, 3)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, X):
        Image.fromarray(pixels).save(path)
    expected = GaborFeatureExtractor().fit_transform(X)
    for same in (list(X), paths, np.asfortranarray(X), X / 255):
        assert_same_maps(GaborFeatureExtractor().fit_transform(same), expected, atol=2e-3)


def test_images_with_other_channels_than_in_fit_are_refused():
    extractor = CellMeans().fit(random_images(0, 2, 8, 8))
    with pytest.raises(ValueError, match=r"^X\[0\]: expected 1 channel \(grey\) as in fit, got 3 channels"):
        extractor.transform(random_images(0, 2, 8, 8, 3))


def test_a_progress_bar_is_shown_only_when_asked_for(capsys):
    X = random_images(0, 5, 8, 8)
    CellMeans().transform(X)
    assert capsys.readouterr().err == ""
    CellMeans(verbose=1, batch_size=2).transform(X)
    assert "5/5" in capsys.readouterr().err
