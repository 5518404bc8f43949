"""FID with Inception weights supplied by the user; the weights are random, as tests download no pretrained weights."""

import numpy as np
import pytest

from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.metrics import inception_distance


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """Return the file of a random Inception network, and the network."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        # The constructor always tries to load weights.
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: None)
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    generator = torch.Generator().manual_seed(0)
    network.to_empty(device="cpu").load_state_dict(
        {name: random_like(entry, generator) for name, entry in network.state_dict().items()}
    )
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path, network


def random_like(entry, generator):
    if entry.ndim < 2:
        return entry.new_ones(entry.shape)
    return (2 / entry[0].numel()) ** 0.5 * entry.new_empty(entry.shape).normal_(generator=generator)


def images(n_images, seed):
    return make_surface_defects(n_images, image_shape=(40, 48), random_state=seed)[0]


@pytest.mark.slow
def test_the_distance_is_that_of_the_moments_of_the_networks_features(inception):
    torch = pytest.importorskip("torch")
    path, network = inception
    real, synthetic = images(5, 0), images(4, 1)
    with pytest.warns(UserWarning, match=r"got \{'real': 5, 'synthetic': 4\}"):
        distance = inception_distance(real, synthetic, path)
    means, factors = [], []
    for X in (real, synthetic):
        features = np.concatenate([network(image.expand(1, 3, -1, -1))[0].numpy() for image in torch.from_numpy(X)])
        means.append(features.mean(axis=0))
        factors.append((features - means[-1]) / np.sqrt(len(X) - 1))  # factor.T @ factor is the covariance
    overlap = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    expected = np.sum((means[0] - means[1]) ** 2) + sum(np.sum(factor**2) for factor in factors) - 2 * overlap
    assert distance == pytest.approx(expected, rel=1e-3)
    assert distance > 0


def test_other_files_and_too_few_images_are_refused(inception, tmp_path):
    torch = pytest.importorskip("torch")
    X, other = images(2, 0), tmp_path / "other.pth"
    torch.save(torch.nn.Linear(2, 2).state_dict(), other)
    with pytest.raises(ValueError, match=r"expected the Inception network .* another model"):
        inception_distance(X, X, other)
    with pytest.raises(ValueError, match="expected SHA-256 00 "):
        inception_distance(X, X, other, weights_sha256="00")
    with pytest.raises(TypeError, match=r"weights: expected the path of pt_inception.*, got None"):
        inception_distance(X, X, None)
    with pytest.raises(FileNotFoundError, match="existing file"):
        inception_distance(X, X, tmp_path / "none.pth")
    with pytest.raises(ValueError, match="synthetic: expected at least 2 images, got 1"):
        inception_distance(X, X[:1], inception[0])


def test_a_file_that_holds_code_is_not_run(tmp_path):
    torch = pytest.importorskip("torch")

    class Touch:
        def __reduce__(self):
            return (tmp_path.joinpath("touched").touch, ())

    torch.save(Touch(), tmp_path / "code.pth")
    with pytest.raises(ValueError, match="weights"):
        inception_distance(images(2, 0), images(2, 1), tmp_path / "code.pth")
    assert not (tmp_path / "touched").exists()
