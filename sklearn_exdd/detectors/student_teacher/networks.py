"""Networks of the student-teacher detector. Importing this module imports torch."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sklearn_exdd._torch import box_mean

_GAINS = (2.5, 5.0, 5.0)  # factors that give the inputs of a network a standard deviation of about 1
FLOOR = 0.03  # constant that is added to the brightness before the logarithm, to limit the noise of black pixels
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of ImageNet
_HEAD_CHANNELS = 32  # number of channels of the inner maps of a head
_MARGIN = 224  # width, in pixels, of the margin around a tile; the map of the tile may depend on this margin


class Contrast(nn.Module):
    """Module that returns logarithms of the brightness minus the image median and minus means of nearby pixels.

    The means are taken along columns and along rows.
    """

    n_outputs = 3  # number of outputs per image channel

    def forward(self, logs, medians):
        parts = (logs - medians, logs - box_mean(logs, 2), logs - box_mean(logs, 3))
        return torch.cat([gain * part for gain, part in zip(_GAINS, parts)], dim=1)


class Brightness(nn.Module):
    """Module that converts logarithms of the brightness to inputs of networks trained on ImageNet."""

    def __init__(self):
        super().__init__()
        for name, values in zip(("mean", "std"), _IMAGENET):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, logs, medians):
        pixels = (logs.exp() - FLOOR).expand(-1, 3, -1, -1)
        return (pixels - self.mean) / self.std


def convolution(n_inputs, n_outputs, size=3, stride=1, dilation=1):
    """Build a convolution that is followed by batch normalisation and a ReLU."""
    convolve = nn.Conv2d(n_inputs, n_outputs, size, stride, dilation * (size // 2), dilation, bias=False)
    return nn.Sequential(convolve, nn.BatchNorm2d(n_outputs), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Block of two convolutions. Its input is added to the output of the convolutions."""

    def __init__(self, n_channels, dilation=1):
        super().__init__()
        self.first = convolution(n_channels, n_channels, dilation=dilation)
        self.second = nn.Conv2d(n_channels, n_channels, 3, 1, dilation, dilation, bias=False)
        self.norm = nn.BatchNorm2d(n_channels)

    def forward(self, x):
        return functional.relu(x + self.norm(self.second(self.first(x))))


class Encoder(nn.Module):
    """Small encoder that returns a list of maps. The stride doubles from each map to the next."""

    def __init__(self, source, n_inputs, channels, first_stride=4):
        super().__init__()
        self.source = source
        stem, stride, width = [], 1, n_inputs
        while stride < first_stride // 2:
            stem.append(convolution(width, max(8, channels[0] * 2 // 3), 5 if width == n_inputs else 3, 2))
            width, stride = max(8, channels[0] * 2 // 3), 2 * stride
        self.stem = nn.Sequential(*stem)
        self.levels = nn.ModuleList()
        for n_channels in channels:
            dilation = 2 if n_channels is channels[-1] else 1
            self.levels.append(nn.Sequential(convolution(width, n_channels, 3, 2), Residual(n_channels, dilation)))
            width = n_channels

    def forward(self, logs, medians):
        x = self.stem(self.source(logs, medians))
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


class Layers(nn.Module):
    """Module that returns the maps of inner layers of a torchvision model."""

    def __init__(self, model, layers):
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor

        self.source = Brightness()
        try:
            self.model = create_feature_extractor(model, return_nodes=list(layers))
        except ValueError as error:
            names = [name for name, _ in model.named_children()]
            raise ValueError(
                f"layers: expected names of layers of {type(model).__name__} (at the top: {names}), got {layers!r}."
            ) from error

    def forward(self, logs, medians):
        return list(self.model(self.source(logs, medians)).values())


class Extracted(nn.Module):
    """Module that returns the maps of a feature extractor as a single level. It has no gradients."""

    def __init__(self, extractor):
        super().__init__()
        self.extractor = extractor

    def forward(self, logs, medians):
        images = (logs.float().exp() - FLOOR).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        maps = np.stack(self.extractor.transform(images if images.shape[3] > 1 else images[..., 0]))
        return [torch.from_numpy(maps).permute(0, 3, 1, 2).to(logs.device)]


class Student(nn.Module):
    """Student: a decoder that predicts the maps of the teacher from the coarsest map of an encoder."""

    def __init__(self, source, n_inputs, levels):
        super().__init__()
        channels = [n_channels for n_channels, _ in levels]
        self.encoder = Encoder(source, n_inputs, channels, levels[0][1])
        self.blocks, self.outputs = nn.ModuleList(), nn.ModuleList()
        width = channels[-1]
        for n_channels in channels[::-1]:
            narrow = nn.Identity() if n_channels == width else convolution(width, n_channels)
            self.blocks.append(nn.Sequential(narrow, Residual(n_channels)))
            self.outputs.append(nn.Conv2d(n_channels, n_channels, 1))
            width = n_channels

    def forward(self, logs, medians):
        x = self.encoder(logs, medians)[-1]
        maps = []
        for number, (block, output) in enumerate(zip(self.blocks, self.outputs)):
            x = block(enlarge(x, 2) if number else x)
            maps.append(output(x))
        return maps[::-1]


class Head(nn.Module):
    """Head that computes logits from the maps of several levels. The logits have the stride of the finest level."""

    def __init__(self, levels):
        super().__init__()
        n_inputs, width = sum(n_channels for n_channels, _ in levels), _HEAD_CHANNELS
        self.layers = nn.Sequential(
            convolution(n_inputs, width, 1), Residual(width), Residual(width, 2), nn.Conv2d(width, 1, 1)
        )
        nn.init.constant_(self.layers[-1].bias, -3.0)  # defects are rare

    def forward(self, maps):
        finest = maps[0].shape[2]
        return self.layers(torch.cat([enlarge(level, finest // level.shape[2]) for level in maps], dim=1))[:, 0]


def enlarge(x, factor):
    """Enlarge maps by a factor."""
    return x if factor == 1 else functional.interpolate(x, scale_factor=factor, mode="bilinear")


def normalized(maps):
    """Scale the vector at each position to a norm of sqrt(number of channels)."""
    return [functional.normalize(level.float(), dim=1) * level.shape[1] ** 0.5 for level in maps]


def build_teacher(model, layers, channels, n_image_channels):
    """Build a teacher from layers of a torchvision model, or a small encoder if `model` is None."""
    if model is not None:
        return Layers(model, layers)
    return Encoder(Contrast(), Contrast.n_outputs * n_image_channels, channels)


def build_student(teacher, levels, n_image_channels):
    """Build a student with an encoder and a decoder for a teacher."""
    if isinstance(teacher, Layers):
        return Student(Brightness(), 3, levels)
    return Student(Contrast(), Contrast.n_outputs * n_image_channels, levels)


def level_shapes(teacher, n_image_channels):
    """Return the number of channels and the stride of each level of a teacher, starting with the finest level."""
    size = 256
    with torch.inference_mode():
        maps = teacher.eval()(torch.zeros(1, n_image_channels, size, size), torch.zeros(1, n_image_channels, 1, 1))
    strides = [size // level.shape[2] if level.ndim == 4 else None for level in maps]
    if strides != [strides[0] * 2**number for number in range(len(maps))] or strides[0] < 2:
        raise ValueError(
            f"layers: expected layers whose maps have twice the stride of the previous layer, got strides {strides}."
        )
    return [(int(level.shape[1]), stride) for level, stride in zip(maps, strides)]


class StudentTeacher(nn.Module):
    """Teacher, student and head. Without segmentation, the head is None."""

    def __init__(self, teacher, student, head, levels):
        super().__init__()
        self.teacher, self.student, self.head, self.levels = teacher, student, head, levels

    def forward(self, logs, medians):
        """Return logits (None without a head) and cosine distances, at the stride of the finest level.

        Both have the shape (n, height', width').
        """
        seen, rebuilt = self.teacher(logs, medians), self.student(logs, medians)
        logits = None if self.head is None else self.head(products(seen, rebuilt))
        distances = [enlarge(level[:, None], rebuilt[0].shape[2] // level.shape[1]) for level in cosines(seen, rebuilt)]
        return logits, sum(distances)[:, 0]


class Trained(nn.Module):
    """Container for two networks that are trained together. The head may be None."""

    def __init__(self, network, head):
        super().__init__()
        self.network, self.head = network, head


def products(seen, rebuilt):
    """Return the inputs of the head: componentwise products of the vectors, with a magnitude of about 1."""
    return [one * other for one, other in zip(normalized(seen), normalized(rebuilt))]


def cosines(targets, rebuilt):
    """Return 1 - cos between targets and rebuilt maps, with shape (n, height', width') for each level."""
    return [1 - functional.cosine_similarity(one.float(), other.float()) for one, other in zip(targets, rebuilt)]


def predict(network, logs, medians, tile_size):
    """Return the logits and cosine distances of an image, with shape (2, height', width').

    Large images are divided into tiles. Without a head, the logits are 0.
    """
    device = next(network.parameters()).device
    stride, unit = network.levels[0][1], network.levels[-1][1]
    height, width = logs.shape[1:]
    logs = functional.pad(logs[None].to(device), (0, -width % unit, 0, -height % unit), mode="reflect")
    maps = torch.zeros(2, logs.shape[2] // stride, logs.shape[3] // stride)
    tiles = [_tiles(size, tile_size // unit * unit, -(-_MARGIN // unit) * unit) for size in logs.shape[2:]]
    for rows, outer_rows in tiles[0]:
        for columns, outer_columns in tiles[1]:
            with torch.inference_mode():
                parts = network(logs[:, :, slice(*outer_rows), slice(*outer_columns)], medians[None].to(device))
            place = [slice(*(at // stride for at in own)) for own in (rows, columns)]
            inner = [
                slice(*((at - outer[0]) // stride for at in own))
                for own, outer in ((rows, outer_rows), (columns, outer_columns))
            ]
            for number, part in enumerate(parts):
                if part is not None:
                    maps[(number, *place)] = part[0][tuple(inner)].cpu()
    return maps[:, : -(-height // stride), : -(-width // stride)].numpy()


def _tiles(size, step, margin):
    """Return (start, stop) of each tile along an axis, first without and then with its margin."""
    if size <= step:
        return [((0, size), (0, size))]
    return [
        ((start, min(size, start + step)), (max(0, start - margin), min(size, start + step + margin)))
        for start in range(0, size, step)
    ]
