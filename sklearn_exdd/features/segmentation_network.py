"""Segmentation network of the learned feature extractor. Importing this module does not load torch."""

import numpy as np

from sklearn_exdd._torch import arrays_of, box_mean, seeded
from sklearn_exdd._training import train

# Number of maps, by stride, to which the maps of a pretrained encoder are reduced.
_N_REDUCED = {4: 16, 8: 32, 16: 64}


def segmentation_network(n_planes, encoder=None):
    """Build an encoder-decoder network that marks defects. It has 0.4 million parameters.

    Parameters
    ----------
    n_planes : int
        Number of input planes. The first plane is the brightness.
    encoder : FrozenEncoder, default=None
        Pretrained encoder. The decoder uses the maps of this encoder in addition to the network's own maps. The weights
        of the encoder are not part of the network's weights.

    Returns
    -------
    network : torch.nn.Module
        Network with two functions:

        * ``network(planes)`` maps planes of shape (n, n_planes, height, width) to logits of shape
          (n, 1, height / 4, width / 4). Height and width must be multiples of 16.
        * ``network.levels(planes)`` returns three inner maps and the logits. The shapes of the inner maps are
          (n, 24, height / 4, width / 4), (n, 48, height / 8, width / 8) and (n, 64, height / 8, width / 8).

    Notes
    -----
    Kernels of strided layers have even sizes. Position i of a map at stride s is therefore centred at pixel
    ``s i + (s - 1) / 2``. After training, all normalisation is by constants, so distant pixels have no influence.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    def block(n_in, n_out, *, kernel=3, stride=1, dilation=1):
        padding = dilation * ((kernel - stride + 1) // 2)
        convolution = nn.Conv2d(n_in, n_out, kernel, stride, padding, dilation, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))

    def enlarged(maps):
        return functional.interpolate(maps, scale_factor=2, mode="bilinear")

    n_maps = {} if encoder is None else encoder.n_maps
    n_joined = {stride: _N_REDUCED[stride] if stride in n_maps else 0 for stride in _N_REDUCED}

    class SegmentationNetwork(nn.Module):
        def __init__(self):
            super().__init__()
            self.stride_4 = nn.Sequential(
                block(n_planes + 2, 16, kernel=6, stride=2),
                block(16, 24, kernel=4, stride=2),
                block(24, 24),
                block(24, 24),
            )
            self.stride_8 = nn.Sequential(block(24, 48, kernel=4, stride=2), block(48, 48))
            self.stride_16 = nn.Sequential(
                block(48, 96, kernel=4, stride=2), block(96, 96, dilation=2), block(96, 96, dilation=2)
            )
            self.up_8 = block(96 + 48 + n_joined[16] + n_joined[8], 64)
            self.up_4 = nn.Sequential(block(64 + 24 + n_joined[4], 24), block(24, 24))
            self.head = nn.Conv2d(24, 1, 1)
            nn.init.constant_(self.head.bias, -3.0)  # defects are rare
            self.reduce = nn.ModuleDict({str(s): block(n, _N_REDUCED[s], kernel=1) for s, n in n_maps.items()})

        def levels(self, planes):
            pretrained = {} if encoder is None else encoder(planes)
            joined = {stride: [self.reduce[str(stride)](maps)] for stride, maps in pretrained.items()}
            fine = self.stride_4(_with_directions(planes))
            middle = self.stride_8(fine)
            coarse = torch.cat([self.stride_16(middle), *joined.get(16, ())], dim=1)
            up_8 = self.up_8(torch.cat([enlarged(coarse), middle, *joined.get(8, ())], dim=1))
            up_4 = self.up_4(torch.cat([enlarged(up_8), fine, *joined.get(4, ())], dim=1))
            return fine, middle, up_8, self.head(up_4)

        def forward(self, planes):
            return self.levels(planes)[-1]

    return SegmentationNetwork()


def segmentation_loss(logits, targets, top=12):
    """Compute the loss of defect logits: 4 x focal loss + 0.5 x Dice loss + 0.1 x cross-entropy of the image.

    Parameters
    ----------
    logits : torch.Tensor of shape (n, 1, height, width), dtype float32
    targets : torch.Tensor of shape (n, 1, height, width), dtype float32
        1 on the defect, 0 elsewhere.
    top : int, default=12
        Number of the highest logits of an image. Their mean is the logit of the image.

    Returns
    -------
    loss : torch.Tensor of shape ()

    Notes
    -----
    The focal loss [1]_ has gamma 1.5 and gives defect pixels three times the weight of other pixels. The Dice loss [2]_
    is computed over the whole batch.

    References
    ----------
    .. [1] T.-Y. Lin et al., "Focal loss for dense object detection", ICCV 2017.
    .. [2] F. Milletari et al., "V-Net", 3DV 2016.
    """
    from torch.nn import functional

    probabilities = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    missed = (targets - probabilities).abs()
    focal = (missed**1.5 * (1 + 2 * targets) * entropy).mean()
    dice = 1 - (2 * (probabilities * targets).sum() + 1) / (probabilities.sum() + targets.sum() + 1)
    flat = logits.flatten(1)
    image = flat.topk(min(top, flat.shape[1]), dim=1).values.mean(dim=1)
    return 4 * focal + 0.5 * dice + 0.1 * functional.binary_cross_entropy_with_logits(image, targets.amax((1, 2, 3)))


def train_segmentation_network(
    planes,
    targets,
    *,
    batch_size,
    flip,
    contrast,
    bfloat16,
    device,
    max_steps,
    max_seconds,
    learning_rate,
    seed,
    encoder=None,
    verbose=0,
):
    """Train a segmentation network on crops.

    Parameters
    ----------
    planes : ndarray of shape (n, n_planes, size, size), dtype float16
    targets : ndarray of shape (n, 1, size / 4, size / 4), dtype bool
        True on the defect.
    batch_size : int
        Number of crops per training step.
    flip : bool
        Whether crops are mirrored along both axes at random.
    contrast : tuple of (float, float)
        Range of the random factor by which the contrast of each crop is multiplied.
    bfloat16 : bool
        Whether the network computes in bfloat16.
    device : torch.device
    encoder : FrozenEncoder, default=None
    max_steps, max_seconds, learning_rate, seed, verbose
        See :func:`sklearn_exdd._training.train`.

    Returns
    -------
    weights : dict of str to ndarray
    run : TrainingRun
    """
    import torch

    planes, targets = torch.from_numpy(planes), torch.from_numpy(targets)
    with seeded(seed):
        network = segmentation_network(planes.shape[1], encoder)
    network = network.to(device=device, memory_format=torch.channels_last)

    def loss_of_step(step, random_state):
        rows = torch.from_numpy(random_state.randint(len(planes), size=batch_size))
        batch, marks = planes[rows].to(device).float(), targets[rows].to(device).float()
        if flip:
            for axis in (2, 3):
                flipped = torch.from_numpy(random_state.randint(2, size=(len(batch), 1, 1, 1)) > 0).to(device)
                batch = torch.where(flipped, batch.flip(axis), batch)
                marks = torch.where(flipped, marks.flip(axis), marks)
        factors = np.exp(random_state.uniform(*np.log(contrast), size=(len(batch), 1, 1, 1)))
        factors = torch.from_numpy(factors.astype(np.float32)).to(device)
        batch = (batch * factors).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
            logits = network(batch)
        return segmentation_loss(logits.float(), marks)

    run = train(
        network,
        loss_of_step,
        max_steps=max_steps,
        max_seconds=max_seconds,
        seed=seed,
        learning_rate=learning_rate,
        weight_decay=1e-3,
        ema_decay=0.99,
        verbose=verbose,
        description="network on the normal images",
    )
    return arrays_of(network), run


def _with_directions(planes):
    """Append two planes: the brightness minus its local mean along columns, and minus its local mean along rows."""
    import torch

    brightness = planes[:, :1]
    down, across = (5 * (brightness - box_mean(brightness, axis)) for axis in (2, 3))
    return torch.cat([2.5 * planes, down, across], dim=1)
