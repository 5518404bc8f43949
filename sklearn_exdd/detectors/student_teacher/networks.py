"""Networks of the student-teacher detector. Importing this module imports torch."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sklearn_exdd._torch import box_mean

_GAINS = (2.5, 5.0, 5.0)  # scale the inputs of an untrained network to a standard deviation of about 1
FLOOR = 0.03  # added to the brightness before the logarithm, to limit the noise of black pixels
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HEAD_CHANNELS = 32
_MARGIN = 224  # width in pixels of the surroundings of a tile that its map may depend on


class Contrast(nn.Module):
    """Logarithms of the brightness, relative to the median of the image and to means along columns and rows."""

    n_outputs = 3  # per channel of the image

    def forward(self, logs, medians):
        parts = (logs - medians, logs - box_mean(logs, 2), logs - box_mean(logs, 3))
        return torch.cat([gain * part for gain, part in zip(_GAINS, parts)], dim=1)


class Brightness(nn.Module):
    """Inputs of networks that were trained on ImageNet."""

    def __init__(self):
        super().__init__()
        for name, values in zip(("mean", "std"), _IMAGENET):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, logs, medians):
        pixels = (logs.exp() - FLOOR).expand(-1, 3, -1, -1)
        return (pixels - self.mean) / self.std


def convolution(n_inputs, n_outputs, size=3, stride=1, dilation=1):
    """Build a convolution, followed by batch normalisation and a ReLU."""
    convolve = nn.Conv2d(n_inputs, n_outputs, size, stride, dilation * (size // 2), dilation, bias=False)
    return nn.Sequential(convolve, nn.BatchNorm2d(n_outputs), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two convolutions whose output is added to their input."""

    def __init__(self, n_channels, dilation=1):
        super().__init__()
        self.first = convolution(n_channels, n_channels, dilation=dilation)
        self.second = nn.Conv2d(n_channels, n_channels, 3, 1, dilation, dilation, bias=False)
        self.norm = nn.BatchNorm2d(n_channels)

    def forward(self, x):
        return functional.relu(x + self.norm(self.second(self.first(x))))


class Encoder(nn.Module):
    """Small encoder that returns a list of maps, finest first, each with twice the stride of the previous one."""

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
    """Inner layers of a torchvision model."""

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
    """Maps of a feature extractor as a single level, without gradients."""

    def __init__(self, extractor):
        super().__init__()
        self.extractor = extractor

    def forward(self, logs, medians):
        images = (logs.float().exp() - FLOOR).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        maps = np.stack(self.extractor.transform(images if images.shape[3] > 1 else images[..., 0]))
        return [torch.from_numpy(maps).permute(0, 3, 1, 2).to(logs.device)]


class Student(nn.Module):
    """Encoder and decoder that predict the teacher's maps from the coarsest level of the encoder."""

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
    """Head that computes logits from maps of several levels, at the stride of the finest one."""

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
    """Scale the vector at each position to a norm equal to the square root of its number of channels."""
    return [functional.normalize(level.float(), dim=1) * level.shape[1] ** 0.5 for level in maps]


def build_teacher(model, layers, channels, n_image_channels):
    """Build a teacher from layers of a torchvision model, or a small encoder if `model` is None."""
    if model is not None:
        return Layers(model, layers)
    return Encoder(Contrast(), Contrast.n_outputs * n_image_channels, channels)


def build_student(teacher, levels, n_image_channels):
    """Build the asymmetric student of a teacher."""
    if isinstance(teacher, Layers):
        return Student(Brightness(), 3, levels)
    return Student(Contrast(), Contrast.n_outputs * n_image_channels, levels)


def level_shapes(teacher, n_image_channels):
    """Return the number of channels and the stride of each level of a teacher, finest first."""
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
    """Teacher, student and, if there is a segmentation, its head."""

    def __init__(self, teacher, student, head, levels):
        super().__init__()
        self.teacher, self.student, self.head, self.levels = teacher, student, head, levels

    def forward(self, logs, medians):
        """Return logits (or None) and cosine distances, (n, height', width'), at the stride of the finest level."""
        seen, rebuilt = self.teacher(logs, medians), self.student(logs, medians)
        logits = None if self.head is None else self.head(products(seen, rebuilt))
        distances = [enlarge(level[:, None], rebuilt[0].shape[2] // level.shape[1]) for level in cosines(seen, rebuilt)]
        return logits, sum(distances)[:, 0]


class Trained(nn.Module):
    """Networks that are trained together."""

    def __init__(self, network, head):
        super().__init__()
        self.network, self.head = network, head


def products(seen, rebuilt):
    """Return the inputs of the head: the products of the components of both vectors, with a size of about 1."""
    return [one * other for one, other in zip(normalized(seen), normalized(rebuilt))]


def cosines(targets, rebuilt):
    """Return 1 - cos for each level, of shape (n, height', width')."""
    return [1 - functional.cosine_similarity(one.float(), other.float()) for one, other in zip(targets, rebuilt)]


def predict(network, logs, medians, tile_size):
    """Return logits (0 without a head) and cosine distances of an image, (2, height', width'). Tile large images."""
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
    """Return (start, stop) of each tile along an axis, without and with its margin."""
    if size <= step:
        return [((0, size), (0, size))]
    return [
        ((start, min(size, start + step)), (max(0, start - margin), min(size, start + step + margin)))
        for start in range(0, size, step)
    ]
