import joblib
import numpy as np
import pytest
from scipy import linalg

from sklearn_exdd import GaborFeatureExtractor
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.features import BaseFeatureExtractor
from sklearn_exdd.metrics import frechet_distance, kernel_distance

DISTANCES = [frechet_distance, kernel_distance]


def value(distance):
    return distance[0] if isinstance(distance, tuple) else distance


def draw(n, seed, **kwargs):
    X, _, masks = make_surface_defects(n, defect_fraction=1, image_shape=(64, 64), random_state=seed, **kwargs)
    return X, masks


@pytest.fixture(scope="module")
def defects():
    """Return images and masks of 60 surfaces with a stain."""
    return draw(60, 0, defects="stain")


@pytest.fixture
def gabor(tmp_path):
    return GaborFeatureExtractor(memory=joblib.Memory(tmp_path, verbose=0))


class Pixels(BaseFeatureExtractor):
    """Extractor of one patch per image, whose features are the first pixels."""

    stride = 8

    def __init__(self, n_pixels=3):
        super().__init__()
        self.n_pixels = n_pixels

    def _extract(self, images):
        return images[:, :1, : self.n_pixels, 0].reshape(len(images), 1, 1, -1)


def unit_rows(real, synthetic):
    """Return the features of `Pixels` on the scale that the documentation promises."""
    rows = [X[:, 0, :3].astype(np.float64) for X in (real, synthetic)]
    rows = [(one - rows[0].mean(axis=0)) / rows[0].std(axis=0) for one in rows]
    return [one / np.linalg.norm(one, axis=1, keepdims=True) for one in rows]


def random_images(n, seed, power=1):
    return np.random.RandomState(seed).random_sample((n, 8, 8)).astype(np.float32) ** power


def test_the_frechet_distance_is_that_of_the_paper():
    real, synthetic = random_images(40, 0), random_images(30, 1, power=3)
    r, s = unit_rows(real, synthetic)
    covariances = np.cov(r, rowvar=False), np.cov(s, rowvar=False)
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = np.sum((r.mean(axis=0) - s.mean(axis=0)) ** 2) + np.trace(sum(covariances) - 2 * root)
    found = frechet_distance(real, synthetic, feature_extractor=Pixels())
    assert found == pytest.approx(expected, abs=1e-5)
    assert isinstance(found, float)


def naive_kernel_distance(r, s):
    def mean(some, others):
        return np.mean([(a @ b + 1) ** 3 for a in some for b in others if a is not b])

    r, s = list(r), list(s)
    return mean(r, r) + mean(s, s) - 2 * mean(r, s)


def test_the_kernel_distance_and_its_error_are_those_of_the_loops():
    real, synthetic = random_images(12, 0), random_images(9, 1, power=3)
    r, s = unit_rows(real, synthetic)
    distance, error = kernel_distance(real, synthetic, feature_extractor=Pixels())
    assert distance == pytest.approx(naive_kernel_distance(r, s), abs=1e-5)
    left_out = [
        [naive_kernel_distance(np.delete(r, i, axis=0), s) for i in range(12)],
        [naive_kernel_distance(r, np.delete(s, i, axis=0)) for i in range(9)],
    ]
    assert error == pytest.approx(np.sqrt(sum((len(one) - 1) * np.var(one) for one in left_out)), abs=1e-5)


@pytest.mark.slow
def test_both_distances_agree_with_those_of_torchmetrics():
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchmetrics")
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import poly_mmd

    real, synthetic = random_images(40, 0), random_images(40, 1, power=3)
    rows = [torch.from_numpy(one) for one in unit_rows(real, synthetic)]
    features = torch.nn.Identity()
    features.num_features = 3
    fid = FrechetInceptionDistance(features)
    fid.update(rows[0], real=True)
    fid.update(rows[1], real=False)
    assert frechet_distance(real, synthetic, feature_extractor=Pixels()) == pytest.approx(
        fid.compute().item(), abs=1e-5
    )
    distance, _ = kernel_distance(real, synthetic, feature_extractor=Pixels())
    assert distance == pytest.approx(poly_mmd(*rows, gamma=1.0).item(), abs=1e-5)


@pytest.mark.parametrize("metric", DISTANCES)
def test_equal_sets_are_at_no_distance(metric, defects):
    X, masks = defects
    distance = value(metric(X, X, real_masks=masks, synthetic_masks=masks))
    # The unbiased kernel distance skips equal pairs within a set but not between the sets, so it is below 0.
    assert distance == pytest.approx(0, abs=1e-9) if metric is frechet_distance else -0.3 < distance < 0


@pytest.mark.slow
def test_the_kernel_distance_of_one_kind_is_zero_on_average_and_its_error_is_honest(gabor):
    X, masks = draw(96, 3)
    order, found = np.random.RandomState(0), []
    for _ in range(12):
        halves = np.split(order.permutation(96), 2)
        (a, b), (a_masks, b_masks) = ([values[half] for half in halves] for values in (X, masks))
        found.append(kernel_distance(a, b, real_masks=a_masks, synthetic_masks=b_masks, feature_extractor=gabor))
    distances, errors = np.transpose(found)
    assert abs(distances.mean()) < errors.mean()
    assert 0.5 < errors.mean() / distances.std() < 3


@pytest.mark.slow
@pytest.mark.parametrize("metric", DISTANCES)
def test_the_distance_grows_as_the_defects_fade(metric, defects, gabor):
    X, masks = defects
    clean, _, _ = make_surface_defects(60, defect_fraction=0, image_shape=(64, 64), random_state=0)
    found = []
    for share in (0.0, 0.5, 1.0):
        faded = np.rint((1 - share) * X + share * clean).astype(np.uint8)
        found.append(value(metric(X, faded, real_masks=masks, synthetic_masks=masks, feature_extractor=gabor)))
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize("metric", DISTANCES)
def test_other_kinds_of_defect_are_farther_off_where_masks_say_where_to_look(metric, defects, gabor):
    X, masks = defects
    stains, pits = draw(40, 5, defects="stain"), draw(40, 5, defects="pit")
    options = {"real_masks": masks, "feature_extractor": gabor}
    same, other = (value(metric(X, one, synthetic_masks=shown, **options)) for one, shown in (stains, pits))
    assert other > 3 * same
    whole = [value(metric(X, one, feature_extractor=gabor)) for one, _ in (stains, pits)]
    assert other - same > 3 * abs(whole[1] - whole[0])


@pytest.mark.parametrize("metric", DISTANCES)
def test_order_container_and_colour_of_grey_images_change_nothing(metric, defects, cells, write_images):
    X, masks = (values[:40] for values in defects)
    other, other_masks = draw(30, 7)
    options = {"feature_extractor": cells}
    expected = metric(X, other, real_masks=masks, synthetic_masks=other_masks, **options)
    order = np.random.RandomState(0).permutation(30)
    shuffled = metric(X[::-1], other[order], real_masks=masks[::-1], synthetic_masks=other_masks[order], **options)
    np.testing.assert_allclose(shuffled, expected, rtol=1e-6)
    paths, mask_paths = write_images(other), write_images(other_masks.astype(np.uint8) * 255, "masks")
    assert metric(list(X), paths, real_masks=list(masks), synthetic_masks=mask_paths, **options) == expected
    colour = [np.repeat(one[..., None], 3, axis=3) for one in (X, other)]
    in_colour = metric(*colour, real_masks=masks, synthetic_masks=other_masks, **options)
    np.testing.assert_allclose(in_colour, expected, rtol=1e-4)


@pytest.mark.parametrize("metric", DISTANCES)
def test_images_may_differ_in_size_and_are_left_as_they_are(metric, cells):
    X, _ = draw(40, 0)
    sizes = [(64 - i % 3, 64 - i % 5) for i in range(40)]
    cut = [one[:height, :width] for one, (height, width) in zip(X, sizes)]
    kept = X.copy()
    assert value(metric(X, cut, feature_extractor=cells)) < 0.1
    np.testing.assert_array_equal(X, kept)


@pytest.mark.parametrize("metric", DISTANCES)
def test_each_image_weighs_the_same_however_large_its_defect(metric, cells):
    X, _ = draw(40, 0)
    small, large = np.zeros((2, 64, 64), dtype=bool)
    small[8:16, 8:16] = large[8:48, 8:48] = True
    # The images are uniform, so that all their patches are alike and only the number of patches could make a
    # difference. The larger defects are on the brighter images.
    flat = np.broadcast_to(np.arange(50, 170, 3)[:, None, None], X.shape).astype(np.uint8)
    flat, textured = flat[:30].copy(), X[:20].copy()
    found = [
        metric(flat, textured, real_masks=masks, synthetic_masks=[small] * 20, feature_extractor=cells)
        for masks in ([small] * 30, [small] * 15 + [large] * 15)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-2)


@pytest.mark.parametrize("metric", DISTANCES)
def test_a_thin_defect_fills_no_patch_and_is_compared_all_the_same(metric, cells):
    X, _ = draw(40, 0)
    masks = np.zeros(X.shape, dtype=bool)
    masks[:, 20, 5:60] = True
    assert np.isfinite(
        metric(X[:20], X[20:], real_masks=masks[:20], synthetic_masks=masks[20:], feature_extractor=cells)
    ).all()


@pytest.mark.parametrize("metric", DISTANCES)
def test_constant_images_are_all_alike(metric, cells):
    X = np.full((20, 32, 32), 100, dtype=np.uint8)
    assert value(metric(X, X, feature_extractor=cells)) == 0


def test_too_few_patches_for_the_frechet_distance_are_warned_of():
    X = random_images(10, 0)
    with pytest.warns(UserWarning, match="real: expected more patches than the 8 features, got 8 patches of 8 images"):
        frechet_distance(X[:8], random_images(12, 1), feature_extractor=Pixels(8))
    with pytest.warns(UserWarning, match="synthetic: expected more patches .* use more images, .* or kernel_distance"):
        frechet_distance(random_images(12, 1), X[:8], feature_extractor=Pixels(8))


@pytest.mark.parametrize(("metric", "n_images"), [(frechet_distance, 2), (kernel_distance, 3)])
def test_too_few_images_are_refused(metric, n_images, defects):
    X, _ = defects
    with pytest.raises(ValueError, match=f"real: expected at least {n_images} images, got {n_images - 1}"):
        metric(X[: n_images - 1], X)
    with pytest.raises(ValueError, match=f"synthetic: expected at least {n_images} images, got {n_images - 1}"):
        metric(X, X[: n_images - 1])
    with pytest.raises(ValueError, match="synthetic: expected at least one image, got none"):
        metric(X, [])


@pytest.mark.parametrize("metric", DISTANCES)
def test_masks_that_do_not_fit_are_refused(metric, defects, cells):
    X, masks = (values[:20] for values in defects)

    def compare(real_masks, synthetic_masks):
        metric(X, X, real_masks=real_masks, synthetic_masks=synthetic_masks, feature_extractor=cells)

    with pytest.raises(ValueError, match="synthetic_masks: expected masks, as real_masks are given, got None"):
        compare(masks, None)
    with pytest.raises(ValueError, match="real_masks: expected masks, as synthetic_masks are given, got None"):
        compare(None, masks)
    with pytest.raises(ValueError, match="synthetic_masks: expected one mask for each of the 20 images, got 19"):
        compare(masks, masks[1:])
    with pytest.raises(ValueError, match=r"real_masks\[2\]: expected a mask that marks the defect, got an empty one"):
        compare([*masks[:2], np.zeros((64, 64)), *masks[3:]], masks)
    with pytest.raises(ValueError, match=r"synthetic_masks\[0\]: expected a mask that marks the defect, got None"):
        compare(masks, [None, *masks[1:]])
    with pytest.raises(
        ValueError, match=r"real_masks\[1\]: expected the shape of its image, \(64, 64\), got \(32, 64\)"
    ):
        compare([masks[0], masks[1][:32], *masks[2:]], masks)


@pytest.mark.parametrize("metric", DISTANCES)
def test_images_and_extractors_that_are_none_are_refused(metric, defects, cells):
    X, _ = defects
    with pytest.raises(ValueError, match=r"synthetic\[0\]: expected 1 channel \(grey\) as in the other images, got 3"):
        metric(X, np.stack([X] * 3, axis=-1), feature_extractor=cells)
    with pytest.raises(ValueError, match=r"real: expected images: .* got an array of shape"):
        metric(X[0], X)
    with pytest.raises(TypeError, match=r"feature_extractor: expected a name or an object with transform"):
        metric(X, X, feature_extractor=7)
