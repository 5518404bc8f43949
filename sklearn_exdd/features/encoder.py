"""Frozen pretrained encoder, which provides additional maps for a segmentation network."""

_STRIDES = (4, 8, 16)  # strides of the maps of the segmentation network
_PROBE_SIZE = 64


class FrozenEncoder:
    """Pretrained network that computes maps from the planes of a segmentation network.

    Its weights are never changed.

    Parameters
    ----------
    extractor : NetworkFeatureExtractor
        Extractor that loads the network. The strides of its layers must be 4, 8 or 16, and differ from each other.

    Attributes
    ----------
    n_maps : dict of int to int
        Number of maps at each stride.
    """

    def __init__(self, extractor):
        import torch

        self._loaded = extractor._loaded()
        parameter = next(self._loaded.module.parameters())
        self._dtype = parameter.dtype
        mean, std = extractor._normalisation(self._loaded)
        shape = (1, -1, 1, 1)
        self._mean = torch.tensor(mean, device=parameter.device).view(shape)
        self._std = torch.tensor(std, device=parameter.device).view(shape)
        outputs = self._outputs(torch.zeros(1, 1, _PROBE_SIZE, _PROBE_SIZE, device=parameter.device))
        self._strides = strides = [_PROBE_SIZE // output.shape[2] for output in outputs]
        if not set(strides) <= set(_STRIDES) or len(set(strides)) < len(strides):
            raise ValueError(
                f"encoder: expected layers at the strides {_STRIDES}, or at some of these, one each, got {strides}."
            )
        self.n_maps = {stride: output.shape[1] for stride, output in zip(strides, outputs)}

    def __call__(self, planes):
        """Compute the maps.

        Parameters
        ----------
        planes : torch.Tensor of shape (n, n_planes, height, width)
            Input planes. Their height and width must be multiples of 16. The first plane is the brightness, from -1
            (black) to 1 (white).

        Returns
        -------
        maps : dict of int to torch.Tensor of shape (n, n_maps, height / stride, width / stride)
            Maps at each stride.
        """
        height, width = planes.shape[2:]
        return {
            stride: output[:, :, : height // stride, : width // stride].float()
            for stride, output in zip(self._strides, self._outputs(planes))
        }

    def _outputs(self, planes):
        import torch

        with torch.no_grad():
            images = (planes[:, :1].float().clamp(-1, 1) + 1) / 2
            images = ((images.expand(-1, self._loaded.n_channels, -1, -1) - self._mean) / self._std).to(self._dtype)
            outputs = self._loaded.module(images.contiguous(memory_format=torch.channels_last))
        return list(outputs.values() if isinstance(outputs, dict) else outputs)
