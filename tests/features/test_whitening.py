"""Whitening of features."""

import numpy as np
import pytest
from assertions import assert_same_maps
from sklearn.exceptions import NotFittedError
from tiny_extractors import CellMeans, Pixels, patches_of, random_images, resnet18

from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.features import GaborFeatureExtractor


def correlated_images(seed):
    """Return images whose three channels are correlated and have different scales."""
    rng = np.random.RandomState(seed)
    mixing = np.array([[1.0, 0.8, 0.1], [0.0, 0.5, -0.3], [0.0, 0.0, 0.4]])
    return np.clip(0.5 + rng.normal(size=(3, 40, 50, 3)) @ mixing * [0.1, 0.01, 0.03], 0, 1).astype(np.float32)


def test_whitened_patches_have_no_mean_and_no_correlation_and_variances_nearer_to_one():
    X = correlated_images(0)
    patches = patches_of(Pixels(whiten=True).fit_transform(X))
    np.testing.assert_allclose(patches.mean(axis=0), 0, atol=1e-4)
    covariance = np.cov(patches.T, bias=True)
    whitened = np.diag(covariance)
    np.testing.assert_allclose(covariance, np.diag(whitened), atol=1e-3)
    # The variances of the standardised features have mean 1. They are divided by a value between the variance and 1.
    variances = np.linalg.eigvalsh(np.corrcoef(patches_of(Pixels().transform(X)).T))[::-1]
    shrinkage = (variances[0] / whitened[0] - variances[0]) / (1 - variances[0])
    assert 0 < shrinkage < 1
    np.testing.assert_allclose(whitened, variances / ((1 - shrinkage) * variances + shrinkage), rtol=1e-3)


def test_whitening_is_learned_in_fit_and_only_applied_later():
    X, new = correlated_images(0), correlated_images(1)
    extractor = Pixels(whiten=True)
    fitted = extractor.fit_transform(X)
    assert_same_maps(extractor.transform(X), fitted, atol=1e-6)
    expected = (patches_of(Pixels().transform(new)) - extractor.mean_) @ extractor.components_
    np.testing.assert_allclose(patches_of(extractor.transform(new)), expected, atol=1e-5)
    assert extractor.n_features_out_ == 3


def test_features_that_repeat_others_add_no_dimension():
    X = correlated_images(0)
    X[..., 2] = 0.3 + X[..., 0] / 2
    extractor = Pixels(whiten=True).fit(X)
    assert extractor.n_features_out_ == 2
    assert extractor.transform(X)[0].shape == (40, 50, 2)


def test_gabor_features_are_whitened_on_the_images_of_fit():
    X, _, _ = make_surface_defects(6, defect_fraction=0, image_shape=(96, 96), random_state=0)
    patches = patches_of(GaborFeatureExtractor().fit_transform(X)).astype(np.float64)
    np.testing.assert_allclose(patches.mean(axis=0), 0, atol=1e-3)
    covariance = np.cov(patches.T, bias=True)
    variances = np.diag(covariance)
    assert abs(covariance - np.diag(variances)).max() < 0.01
    assert (variances > 0).all()
    assert (np.diff(variances) < 1e-3).all()  # the directions are sorted by variance


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("n_images", [1, 3])
def test_constant_images_have_finite_features(value, n_images):
    X = np.full((n_images, 64, 64), value)
    for extractor in (GaborFeatureExtractor(), CellMeans(whiten=True), resnet18(whiten=True)):
        assert np.isfinite(extractor.fit_transform(X)).all()
        assert np.isfinite(extractor.transform(random_images(0, 2, 64, 64))).all()


def test_a_channel_that_never_varies_does_not_spoil_the_others():
    X = correlated_images(0)
    X[..., 1] = 0.3
    patches = patches_of(Pixels(whiten=True).fit_transform(X))
    assert np.isfinite(patches).all()
    spread = patches.std(axis=0)
    assert spread[:2].min() > 0.5
    assert spread[:2].max() < 1.5
    assert spread[2:].max(initial=0) < 0.01


def test_fewer_patches_than_features_are_whitened_without_overflow():
    rng = np.random.RandomState(0)
    maps = resnet18(whiten=True).fit_transform(rng.uniform(size=(1, 32, 32)))
    assert np.isfinite(maps).all()
    assert maps[0].shape[2] <= 16


def test_features_cannot_be_whitened_before_fit():
    for extractor in (GaborFeatureExtractor(), CellMeans(whiten=True)):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            extractor.transform(random_images(0, 1, 64, 64))
