"""Scores and maps of each class of detectors, computed in a graph."""

from typing import NamedTuple

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from sklearn_exdd.augment.base import DefectAugmenterMixin
from sklearn_exdd.detectors.combined import CombinedDefectDetector
from sklearn_exdd.detectors.exdd import ExDDDetector
from sklearn_exdd.detectors.linear_probe import LinearProbeDetector
from sklearn_exdd.detectors.segmentation import SegmentationDetector
from sklearn_exdd.detectors.student_teacher import StudentTeacherDetector
from sklearn_exdd.export import banks, gabor, heads, images, linear_probe, networks, regions, student_teacher
from sklearn_exdd.features import (
    EfficientNetLiteFeatureExtractor,
    GaborFeatureExtractor,
    LearnedFeatureExtractor,
    ModuleFeatureExtractor,
    TimmFeatureExtractor,
    TorchvisionFeatureExtractor,
)

#: Classes of extractors that compute features with a network. For the last three, the tile margin is only an estimate.
ON_NETWORKS = (
    EfficientNetLiteFeatureExtractor,
    ModuleFeatureExtractor,
    TimmFeatureExtractor,
    TorchvisionFeatureExtractor,
)


class Outputs(NamedTuple):
    """Names of the scores, of shape (batch,), and of the maps, of shape (batch, height, width), in a graph."""

    scores: str
    maps: str


def outputs(graph, detector, planes, tiled=True):
    """Append the computation of the scores and maps of a detector to a graph.

    Parameters
    ----------
    graph : Graph
    detector : BaseDefectDetector
        Detector that passes :func:`check_exportable`.
    planes : str
        Images, a float32 tensor of shape (batch, channels, height, width) with values in [0, 1].
    tiled : bool, default=True
        Whether the graph accepts images that the detector would process in tiles. If False, the graph raises an error
        for such images at run time.

    Returns
    -------
    outputs : Outputs
    """
    return _APPEND[type(detector)](graph, detector, planes, tiled)


def bare(estimator):
    """Return the detector inside a FrozenEstimator or a Pipeline.

    All other steps of the Pipeline must be augmenters, because these do not change images at prediction.
    """
    while isinstance(estimator, (FrozenEstimator, Pipeline)):
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif all(_leaves_images(step) for _, step in estimator.steps[:-1]):
            estimator = estimator[-1]
        else:
            return estimator
    return estimator


def _leaves_images(step):
    return step is None or isinstance(step, DefectAugmenterMixin) or (isinstance(step, str) and step == "passthrough")


def extractors_of(detector):
    """Return the feature extractors of a fitted detector. For a combination of detectors, the list is empty."""
    if isinstance(detector, (ExDDDetector, LinearProbeDetector)):
        return [detector.feature_extractor_]
    if isinstance(detector, SegmentationDetector):
        return detector.feature_extractors_
    return [one for one in [getattr(detector, "teacher_", None)] if one is not None]


def smallest_side(detector):
    """Return the minimum height and width, in pixels, of images that a detector accepts."""
    if isinstance(detector, CombinedDefectDetector):
        return max(smallest_side(bare(member)) for member in detector.detectors_)
    if isinstance(detector, StudentTeacherDetector):
        return max(detector.levels_[-1][1], getattr(detector.teacher_, "min_size", 1))
    extractors = [one for one in extractors_of(detector) if one.image_size is None]
    return max((one.min_size for one in extractors), default=1)


def largest_side(detector, tiled=True):
    """Return the maximum height and width, in pixels, of images for which a graph reproduces the predictions.

    Return None if images of any size are allowed.
    """
    if isinstance(detector, CombinedDefectDetector):
        sides = [largest_side(bare(member), tiled) for member in detector.detectors_]
    elif isinstance(detector, StudentTeacherDetector):
        sides = [student_teacher.max_size(detector, tiled)]
    else:
        sides = [one.tile_size for one in extractors_of(detector) if not tiled and one.image_size is None]
    return min(filter(None, sides), default=None)


def _working_planes(graph, extractor, planes, tiled):
    """Resize the images to the size at which an extractor computes features."""
    shape = images.shape_of(graph, planes)
    working = images.working_shape(graph, shape, extractor.image_size)
    planes = images.in_range(graph, planes, working, extractor.min_size, None if tiled else extractor.tile_size)
    return planes if extractor.image_size is None else images.resized(graph, planes, working)


def _features(graph, extractor, planes):
    """Return the feature maps as a tensor of shape (batch, height', width', n_features)."""
    if isinstance(extractor, GaborFeatureExtractor):
        maps = gabor.features(graph, extractor, planes)
    elif isinstance(extractor, LearnedFeatureExtractor):
        maps = networks.LearnedNetwork(extractor).features(graph, planes)
    else:
        maps = networks.features(graph, extractor, planes)
    maps = graph.Transpose(maps, perm=[0, 2, 3, 1])
    if not extractor.whiten:
        return maps
    return graph.MatMul(graph.Sub(maps, extractor.mean_), extractor.components_)


class _PatchMaps:
    """Feature maps of images, with methods that select patches and convert scores of patches to maps of pixels.

    Attributes
    ----------
    region : Region or None
        Region of interest of the detector.
    features : str
        Feature maps, a tensor of shape (batch, height', width', n_features).
    """

    def __init__(self, graph, detector, planes, tiled):
        self._detector, self.region = detector, regions.region_of(detector)
        if self.region is not None:
            planes = self.region.filled(graph, planes)
        working = _working_planes(graph, detector.feature_extractor_, planes, tiled)
        self._shape, self._working_shape = images.shape_of(graph, planes), images.shape_of(graph, working)
        self.features = _features(graph, detector.feature_extractor_, working)
        self._grid = graph.size(self.features, 1), graph.size(self.features, 2)

    def patches(self, graph):
        """Return the patches, or the patches in the region, as a tensor of shape (batch, n_patches, n_features)."""
        if self.region is not None:
            return self.region.patches(graph, self.features)
        return graph.Reshape(self.features, graph.vector(0, graph.Mul(*self._grid), graph.size(self.features, 3)))

    def of_pixels(self, graph, patch_scores):
        """Convert the scores of these patches to maps of the pixels, of shape (batch, height, width)."""
        if self.region is None:
            maps = graph.Reshape(patch_scores, graph.vector(-1, *self._grid))
        else:
            maps = self.region.spread(graph, patch_scores)

        def on_grid(pixels, axis):
            return self._on_grid(graph, pixels, axis)

        maps = heads.pixel_maps(graph, maps, on_grid, self._shape, self._detector.blur)
        return maps if self.region is None else self.region.lowest_outside(graph, maps)

    def _on_grid(self, graph, pixels, axis):
        """Convert positions of image pixels along an axis to positions on the grid of patches."""
        extractor, size = self._detector.feature_extractor_, graph.double(self._shape[axis])
        centers = graph.Add(pixels, np.float64(0.5))
        if extractor.stride is None:  # the patches divide the image evenly
            ratio = graph.Div(graph.double(self._grid[axis]), size)
            return graph.Sub(graph.Mul(centers, ratio), np.float64(0.5))
        ratio = graph.Div(graph.double(self._working_shape[axis]), size)
        places = graph.Sub(graph.Mul(centers, ratio), np.float64(0.5 + extractor.offset))
        return graph.Div(places, np.float64(extractor.stride))


def _exdd(graph, detector, planes, tiled):
    maps, fitted = _PatchMaps(graph, detector, planes, tiled), detector._banks()
    patches = banks.patch_scores(graph, fitted, maps.features, maps.region)
    return Outputs(banks.image_scores(graph, fitted, patches), maps.of_pixels(graph, patches.scores))


def _linear_probe(graph, detector, planes, tiled):
    maps = _PatchMaps(graph, detector, planes, tiled)
    scores, patch_scores = linear_probe.scores(graph, detector, maps.patches(graph))
    return Outputs(scores, maps.of_pixels(graph, patch_scores))


def _segmentation(graph, detector, planes, tiled):
    shape = images.shape_of(graph, planes)
    logits = [_defect_logits(graph, one, planes, shape, tiled) for one in detector.feature_extractors_]
    logits = logits[0] if len(logits) == 1 else graph.Mean(*logits)
    position_map = detector._position_map()
    scores = heads.top_share_means(graph, logits, detector.top_share, position_map)
    missing = graph.Min(graph.Sub(scores, np.float32(detector.threshold_)), np.float32(0))
    lowered = graph.Sub(graph.Mul(missing, np.float32(detector.image_weight)), np.float32(position_map.mean()))
    return Outputs(scores, graph.Add(logits, graph.Unsqueeze(lowered, [1, 2])))


def _defect_logits(graph, extractor, planes, shape, tiled):
    """Return the logits of the pixels as a tensor of shape (batch, height, width)."""
    working = _working_planes(graph, extractor, planes, tiled)
    cells = networks.LearnedNetwork(extractor).logits(graph, working)
    matrices = []
    for axis, (size, own) in enumerate(zip(images.shape_of(graph, working), shape)):
        factor = np.float64(networks.HEAD_STRIDE)
        matrix = images.enlargement(graph, size, factor, graph.size(cells, axis + 2))
        if extractor.image_size is not None:
            matrix = graph.MatMul(images.antialiasing(graph, own, size), matrix)
        matrices.append(matrix)
    return graph.Squeeze(images.between(graph, matrices[0], cells, matrices[1]), [1])


def _student_teacher(graph, detector, planes, tiled):
    shape = images.shape_of(graph, planes)
    max_size = student_teacher.max_size(detector, tiled)
    planes = images.in_range(graph, planes, shape, smallest_side(detector), max_size)
    cells = student_teacher.cells(graph, detector, planes, _features)
    stride = detector.levels_[0][1]

    def on_grid(pixels, axis):
        return graph.Div(graph.Sub(pixels, np.float64((stride - 1) / 2)), np.float64(stride))

    scores = heads.top_share_means(graph, cells, detector.top_share, detector.position_map_)
    return Outputs(scores, heads.pixel_maps(graph, cells, on_grid, shape))


def _combined(graph, detector, planes, tiled):
    weights = np.where(np.isnan(detector.map_scales_), 0, detector._weights)
    factors = weights / weights.sum() / detector.map_scales_
    scores, maps = [], []
    for i, member in enumerate(detector.detectors_):
        one = outputs(graph, bare(member), planes, tiled)
        centered = graph.Sub(one.scores, np.float32(detector.score_centers_[i]))
        scores.append(graph.Mul(centered, np.float32(detector._weights[i] / detector.score_scales_[i])))
        centered = graph.Sub(one.maps, np.float32(detector.map_centers_[i]))
        maps.append(graph.Mul(centered, np.float32(factors[i])))
    return Outputs(graph.Sum(*scores), graph.Sum(*maps))


_APPEND = {
    ExDDDetector: _exdd,
    LinearProbeDetector: _linear_probe,
    SegmentationDetector: _segmentation,
    StudentTeacherDetector: _student_teacher,
    CombinedDefectDetector: _combined,
}
#: Classes of detectors that can be exported.
DETECTORS = tuple(_APPEND)
