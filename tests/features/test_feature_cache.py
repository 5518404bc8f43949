"""Cache of features."""

import joblib
import numpy as np
import pytest
from assertions import assert_same_maps
from PIL import Image
from sklearn.base import clone
from tiny_extractors import CellMeans, Pixels, random_images, random_pixels, resnet18


@pytest.fixture
def count(monkeypatch):
    """Return a function that counts images. It returns how many CellMeans has extracted since the last call."""
    monkeypatch.setattr(CellMeans, "n_extracted", 0)

    def since_last_asked():
        n_extracted, CellMeans.n_extracted = CellMeans.n_extracted, 0
        return n_extracted

    return since_last_asked


def test_a_second_call_extracts_nothing(tmp_path, count):
    X = random_pixels(0, 5, 16, 16)
    extractor = CellMeans(memory=str(tmp_path))
    expected = CellMeans().transform(X)
    assert count() == 5
    assert_same_maps(extractor.transform(X), expected)
    assert count() == 5
    assert_same_maps(extractor.transform(X), expected)
    assert_same_maps(extractor.fit_transform(X[::-1]), expected[::-1])
    assert_same_maps(clone(extractor).transform(list(X[2:])), expected[2:])
    assert count() == 0


def test_only_a_changed_image_is_extracted_again(tmp_path, count):
    X = random_pixels(0, 5, 16, 16)
    extractor = CellMeans(memory=joblib.Memory(tmp_path, verbose=0))
    extractor.transform(X)
    X[3, 7, 7] += 1
    count()
    assert_same_maps(extractor.transform(X), CellMeans().transform(X))
    assert count() == 1 + 5


def test_arrays_and_files_share_their_entries(tmp_path, count):
    X = random_pixels(0, 3, 16, 16)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, X):
        Image.fromarray(pixels).save(path)
    extractor = CellMeans(memory=str(tmp_path / "cache"))
    extractor.transform(X)
    extractor.transform(paths)
    assert count() == 3


@pytest.mark.parametrize(
    ("params", "n_extracted"),
    [
        ({"batch_size": 1}, 0),
        ({"n_jobs": 2}, 0),
        ({"verbose": 1}, 0),
        ({"whiten": True}, 0),
        ({"image_size": 12}, 4),
        ({"tile_size": 2000}, 4),
    ],
    ids=str,
)
def test_entries_are_kept_for_what_changes_the_features(tmp_path, count, params, n_extracted):
    X = random_pixels(0, 4, 16, 16)
    CellMeans(memory=str(tmp_path)).transform(X)
    count()
    CellMeans(memory=str(tmp_path)).set_params(**params).fit_transform(X)
    assert count() == n_extracted


def test_extractors_of_other_kinds_do_not_share_entries(tmp_path):
    X = random_pixels(0, 2, 16, 16)
    maps = [make(memory=str(tmp_path)).transform(X)[0] for make in (CellMeans, Pixels)]
    assert maps[0].shape != maps[1].shape


@pytest.mark.slow
def test_backbones_of_other_seeds_do_not_share_entries(tmp_path):
    X = random_images(0, 1, 64, 64)
    first, other = (resnet18(random_state=seed, memory=str(tmp_path)).transform(X)[0] for seed in (0, 1))
    assert not np.allclose(first, other)


@pytest.mark.parametrize("damage", [b"damaged", b""])
def test_a_damaged_entry_is_made_again(tmp_path, count, caplog, damage):
    X = random_pixels(0, 3, 16, 16)
    extractor = CellMeans(memory=str(tmp_path))
    expected = extractor.transform(X)
    files = sorted(tmp_path.rglob("output.pkl"))
    assert len(files) == 3
    for file in files[:2]:
        file.write_bytes(damage)
    count()
    assert_same_maps(extractor.transform(X), expected)
    assert "Exception while loading results" in caplog.text  # message of joblib
    assert count() == 2
    assert_same_maps(extractor.transform(X), expected)
    assert count() == 0


def test_a_lost_entry_is_made_again(tmp_path, count):
    X = random_pixels(0, 3, 16, 16)
    extractor = CellMeans(memory=str(tmp_path))
    expected = extractor.transform(X)
    sorted(tmp_path.rglob("output.pkl"))[0].unlink()
    count()
    assert_same_maps(extractor.transform(X), expected)
    assert count() == 1


def test_an_image_that_fails_leaves_the_others_cached(tmp_path, count):
    X = [random_images(0, 16, 16), random_images(1, 16, 16), random_images(2, 3, 3)]
    extractor = CellMeans(memory=str(tmp_path), batch_size=1)
    with pytest.raises(ValueError, match=r"^X\[2\]: expected at least 4 pixels a side"):
        extractor.transform(X)
    assert count() == 2
    extractor.transform(X[:2])
    assert count() == 0
