"""Small feature extractors and networks, and random images to test them with."""

import numpy as np
import torch
from torch import nn

from sklearn_exdd.features import BaseFeatureExtractor, TorchvisionFeatureExtractor


class CellMeans(BaseFeatureExtractor):
    """Extractor that returns the mean and maximum of cells of 4 x 4 pixels. It counts the images that it receives."""

    stride = 4
    offset = 1.5
    min_size = 4
    n_extracted = 0

    def _extract(self, images):
        type(self).n_extracted += len(images)
        height, width = (size // 4 * 4 for size in images.shape[1:3])
        cells = images[:, :height, :width].reshape(len(images), height // 4, 4, width // 4, 4, -1)
        return np.concatenate([cells.mean(axis=(2, 4)), cells.max(axis=(2, 4))], axis=3)


class Pixels(BaseFeatureExtractor):
    """Extractor that returns the pixels. Every pixel is a patch, and its channels are the features."""

    stride = 1

    def _extract(self, images):
        return images


def random_images(seed, *shape):
    return np.random.RandomState(seed).uniform(size=shape).astype(np.float32)


def random_pixels(seed, *shape):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def resnet18(**options):
    return TorchvisionFeatureExtractor("resnet18", weights=None, **{"precision": "float32", **options})


def as_maps(outputs):
    return list(torch.cat(outputs, dim=1).permute(0, 2, 3, 1).numpy())


def tiny_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Linear(7, 7)
        )


def patches_of(maps):
    return np.concatenate([feature_map.reshape(-1, feature_map.shape[2]) for feature_map in maps])
