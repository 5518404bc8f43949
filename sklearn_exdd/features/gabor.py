"""The embedded extractor: oriented filters that need neither weights nor training."""

from functools import lru_cache

import numpy as np

from sklearn_exdd.features.base import BaseFeatureExtractor

_RADIUS = 5  # of a filter, in pixels of its level


class GaborFeatureExtractor(BaseFeatureExtractor):
    """Multi-scale oriented filters on the log image: no weights, no download.

    Parameters
    ----------
    n_levels : int, default=4
        Levels of the pyramid, each half the size of the one before.
    n_orientations : int, default=8
        Orientations of the filters, evenly spread over 180 degrees.
    image_size, tile_size, batch_size, memory, n_jobs, verbose
        See :class:`BaseFeatureExtractor`.
    whiten : bool, default=True
        Whether ``fit`` learns to standardise and whiten the features on the normals.
    """

    stride = 8
    offset = 3.5

    def __init__(
        self,
        *,
        n_levels=4,
        n_orientations=8,
        image_size=None,
        tile_size=1024,
        whiten=True,
        batch_size=16,
        memory=None,
        n_jobs=None,
        verbose=0,
    ):
        super().__init__(
            image_size=image_size,
            tile_size=tile_size,
            whiten=whiten,
            batch_size=batch_size,
            memory=memory,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.n_levels = n_levels
        self.n_orientations = n_orientations

    @property
    def margin(self):
        return 8 * 2**self.n_levels

    @property
    def min_size(self):
        return (_RADIUS + 1) * 2 ** (self.n_levels - 1)

    def _prepare(self, images):
        grey = np.log(images.mean(axis=3, keepdims=True) + 0.05)
        return grey - grey.mean(axis=(1, 2), keepdims=True)

    def _extract(self, images):
        import torch
        from torch.nn import functional

        with torch.inference_mode():
            image = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
            height, width = image.shape[2:]
            image = functional.pad(image, (0, -width % 8, 0, -height % 8), mode="reflect")
            filters = _filters(self.n_orientations)
            features = []
            for level in range(self.n_levels):
                padded = functional.pad(image, (_RADIUS,) * 4, mode="reflect")
                responses = functional.conv2d(padded, filters)
                even, odd = responses[:, : self.n_orientations], responses[:, self.n_orientations :]
                modulus = (even.square() + odd.square()).sqrt()
                cell = 8 // 2**level
                mean = functional.avg_pool2d(modulus, cell)
                square = functional.avg_pool2d(modulus.square(), cell)
                mean, square = _widen(mean), _widen(square)
                features += [mean, (square - mean.square()).clamp(min=0).sqrt()]
                if level == 0:
                    for n in (1, 3):
                        m, s = functional.avg_pool2d(image, 8), functional.avg_pool2d(image.square(), 8)
                        for _ in range(n):
                            m, s = _widen(m), _widen(s)
                        features += [m, (s - m.square()).clamp(min=0).sqrt()]
                image = functional.avg_pool2d(image, 2)
            return torch.cat(features, dim=1).permute(0, 2, 3, 1).contiguous().numpy()


def _widen(cells):
    from torch.nn import functional

    return functional.avg_pool2d(functional.pad(cells, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


@lru_cache
def _filters(n_orientations):
    """Even and odd Gabor filters, (2 * n_orientations, 1, size, size)."""
    import torch

    sigma, frequency = 1.8, 1 / (2.5 * 1.8)
    y, x = np.mgrid[-_RADIUS : _RADIUS + 1, -_RADIUS : _RADIUS + 1].astype(np.float64)
    envelope = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    even, odd = [], []
    for angle in np.arange(n_orientations) * np.pi / n_orientations:
        phase = 2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle))
        wave = envelope * np.cos(phase)
        even.append(wave - envelope * wave.sum() / envelope.sum())
        odd.append(envelope * np.sin(phase))
    filters = np.stack(even + odd)
    filters /= np.abs(filters).sum(axis=(1, 2), keepdims=True)
    return torch.from_numpy(filters[:, None].astype(np.float32))
