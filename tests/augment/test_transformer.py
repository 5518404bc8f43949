"""Augmenters as steps of a Pipeline."""

import numpy as np
import pytest
from assertions import assert_same_samples
from cheap_augmenters import Shift, each_augmenter
from conftest import name_of
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sklearn_exdd.augment import AugmentedImages, SyntheticDefects


@each_augmenter
def test_transform_is_the_identity_and_needs_a_fit(augmenter, surfaces):
    X, y, masks = surfaces
    with pytest.raises(NotFittedError, match=f"This {name_of(augmenter)} instance is not fitted yet"):
        clone(augmenter).transform(X)
    with pytest.raises(NotFittedError, match=f"This {name_of(augmenter)} instance is not fitted yet"):
        clone(augmenter).sample(1)
    augmenter = clone(augmenter).fit(X, y, masks=masks)
    images = list(X[:3])
    assert augmenter.transform(X) is X
    assert augmenter.transform(images) is images


@each_augmenter
def test_fit_transform_keeps_the_images_and_attaches_samples(augmenter, surfaces):
    X, y, masks = surfaces
    augmenter = clone(augmenter).set_params(n_synthetic=3)
    images = augmenter.fit_transform(X, y, masks=masks)
    assert isinstance(images, AugmentedImages)
    assert isinstance(images, list)
    np.testing.assert_array_equal(images, X)
    assert_same_samples(images.synthetic, augmenter.sample(3))
    items = list(X)
    assert all(
        one is other for one, other in zip(clone(augmenter).fit_transform(items, y, masks=masks), items, strict=True)
    )


@each_augmenter
def test_none_attached_is_none(augmenter, surfaces):
    X, y, masks = surfaces
    augmenter = clone(augmenter).set_params(n_synthetic=0)
    images = augmenter.fit_transform(X, y, masks=masks)
    assert images.synthetic is None
    assert len(augmenter.sample(1).images) == 1


@each_augmenter
def test_augmenters_in_a_row_accumulate(augmenter, surfaces):
    X, y, masks = surfaces
    first, second = clone(augmenter).set_params(n_synthetic=2), Shift(n_synthetic=3, random_state=1)
    images = second.fit_transform(first.fit_transform(X, y, masks=masks), y, masks=masks)
    assert_same_samples(images.synthetic, SyntheticDefects.concatenate([first.sample(2), second.sample(3)]))
    np.testing.assert_array_equal(images, X)
    none = Shift(n_synthetic=0).fit_transform(images, y)
    assert_same_samples(none.synthetic, images.synthetic)


def test_attached_defects_survive_pickling_and_a_slice_has_none(surfaces):
    import pickle

    X, _, _ = surfaces
    images = Shift(n_synthetic=2, random_state=0).fit_transform(X)
    back = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(back, images)
    assert_same_samples(back.synthetic, images.synthetic)
    assert getattr(images[:3], "synthetic", None) is None


def test_a_progress_bar_is_shown_only_when_asked_for(surfaces, capsys):
    X, _, _ = surfaces
    Shift(random_state=0).fit(X).sample(2)
    assert capsys.readouterr().err == ""
    Shift(random_state=0, verbose=1).fit(X).sample(2)
    assert "synthetic defects" in capsys.readouterr().err
