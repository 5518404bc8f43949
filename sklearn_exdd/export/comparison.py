"""Comparison of the predictions of an ONNX file with the predictions of its detector."""

import numpy as np

from sklearn_exdd._images import Images
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.detectors.combined import CombinedDefectDetector
from sklearn_exdd.detectors.linear_probe import LinearProbeDetector
from sklearn_exdd.detectors.segmentation import SegmentationDetector
from sklearn_exdd.detectors.student_teacher import StudentTeacherDetector
from sklearn_exdd.export.detectors import ON_NETWORKS, bare, extractors_of, largest_side, smallest_side

# Relative tolerances of scores and maps. Rounding errors are at least ten times smaller.
# The tolerance of a score is relative to the largest of three magnitudes: the score, the threshold, and the numbers
# that are subtracted to compute the score. The tolerance of a map is relative to the largest value of the map, or to
# the last two magnitudes if they are larger.
_SCORE_TOLERANCE, _MAP_TOLERANCE = 1e-4, 1e-3
_SHAPE = (97, 133)  # height and width of generated images, which are not multiples of any stride
_BEYOND = 200  # number of pixels by which a generated image is larger than a tile
_LARGEST = 2304  # maximum side of a generated image that is larger than a tile, to limit the time


class Disagreement(ValueError):
    """Error raised if the predictions of an ONNX file differ from the predictions of its detector."""


def compare(detector, content, images, layout):
    """Run an ONNX file on images. Raise an error if its predictions differ from the predictions of the detector.

    Parameters
    ----------
    detector : BaseDefectDetector
    content : bytes
        Content of the file.
    images : list of ndarray of shape (height, width, channels)
        Images in the dtype that the file accepts.
    layout : str
        Order of the axes that the file accepts, "NHWC" or "NCHW".

    Raises
    ------
    Disagreement
        If a score or a map differs by more than the tolerance. The message gives the values of the file and of the
        detector.
    """
    session = open_session(content)
    for i, image in enumerate(images):
        raw = image[..., 0] if image.shape[2] == 1 else image
        score, pixel_map = detector.score_samples([raw])[0], detector.predict_map([raw])[0]
        batch = image[None] if layout == "NHWC" else np.ascontiguousarray(image.transpose(2, 0, 1)[None])
        own_score, own_map = (values[0] for values in session.run(["score", "anomaly_map"], {"image": batch}))
        place = f"check[{i}] ({image.shape[0]} x {image.shape[1]} pixels)"
        level = max(abs(detector.threshold_), cancelling(detector))
        scale = max(abs(score), level)
        if not abs(own_score - score) <= _SCORE_TOLERANCE * scale:
            raise Disagreement(_message(place, "score", own_score, score))
        errors = np.abs(own_map - pixel_map)
        if not errors.max() <= _MAP_TOLERANCE * max(np.abs(pixel_map).max(), level):
            worst = np.unravel_index(np.argmax(errors), errors.shape)
            row, column = map(int, worst)
            raise Disagreement(_message(place, f"value at pixel ({row}, {column})", own_map[worst], pixel_map[worst]))


def cancelling(detector):
    """Return the magnitude of the numbers that are subtracted to compute a score.

    A score that is close to 0 may be the difference of large numbers, and then has their rounding errors.
    """
    if isinstance(detector, SegmentationDetector):
        return float(np.abs(detector._position_map()).max())
    if isinstance(detector, LinearProbeDetector):
        return abs(detector.intercept_)
    if isinstance(detector, StudentTeacherDetector) and detector.map_source == "both":
        return float(np.sum(np.abs(detector.map_scale_[:, 0]) / detector.map_scale_[:, 1]))
    if isinstance(detector, CombinedDefectDetector):
        levels = np.array([cancelling(bare(member)) for member in detector.detectors_])
        return float(detector._weights @ ((np.abs(detector.score_centers_) + levels) / detector.score_scales_))
    return 0.0


def _message(place, what, own, expected):
    return (
        f"{place}: expected the {what} {expected:.7g} of the detector, got {own:.7g} from the ONNX file. No file was "
        "written. Please report this with the parameters of the detector."
    )


def open_session(content):
    """Open an onnxruntime session that runs on one CPU core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def given(detector, check, dtype):
    """Convert the images passed by the user to arrays of shape (height, width, channels) and of the given dtype."""
    images = detector._images(check, "check")
    return [_as(images[i], dtype) for i in range(len(images))]


def made(detector, dtype):
    """Generate an image with a defect and an image without, both in a size that the detector accepts."""
    if getattr(detector, "roi_", None) is not None:
        return [_surface(detector, detector.roi_.shape, seed, dtype) for seed in (0, 1)]
    least = smallest_side(detector)
    members = map(bare, getattr(detector, "detectors_", [detector]))
    on_networks = [one for member in members for one in extractors_of(member) if isinstance(one, ON_NETWORKS)]
    fixed = [_only_size(one) for one in on_networks if one.image_size is None]
    shape = next(filter(None, fixed), tuple(max(least, side) for side in _SHAPE))
    return [_surface(detector, shape, seed, dtype) for seed in (0, 1)]


def beyond_tiles(detector, dtype):
    """Generate images larger than a tile if patches of the detector may depend on pixels beyond the tile margin."""
    if getattr(detector, "roi_", None) is not None:
        return []  # only images of the size of the region are accepted
    height, images = max(64, smallest_side(detector)), []
    limit = min(largest_side(detector) or _LARGEST, _LARGEST)
    for member in map(bare, getattr(detector, "detectors_", [detector])):
        if isinstance(member, StudentTeacherDetector):
            tile_sizes = [member.tile_size] if member.teacher != "learned" else []
        else:
            tile_sizes = [one.tile_size for one in extractors_of(member) if _has_foreign_network(one)]
        shapes = [(height, tile_size + _BEYOND) for tile_size in tile_sizes if tile_size + _BEYOND <= limit]
        images += [_surface(detector, shape, 2, dtype) for shape in shapes]
    return images


def _has_foreign_network(extractor):
    """Return whether the extractor processes images in tiles, by a network whose tile margin is only an estimate."""
    # Only a LearnedFeatureExtractor has an encoder. If the encoder is given by name, its margin is known.
    network = getattr(extractor, "encoder", extractor)
    return extractor.image_size is None and isinstance(network, ON_NETWORKS) and _only_size(network) is None


def _only_size(extractor):
    """Return the image size that a network requires, or None if it accepts any size."""
    loaded = extractor._loaded()
    return loaded.module.size if loaded.aligned else None  # only timm models are aligned


def _surface(detector, shape, seed, dtype):
    X, _, _ = make_surface_defects(2, defect_fraction=0.5, image_shape=shape, random_state=seed)
    image = Images(X)[seed % 2]
    if detector.n_channels_ == 3:
        image = image * np.array([1, 0.9, 0.8], dtype=np.float32)
    return _as(image, dtype)


def _as(image, dtype):
    if dtype == "float32":
        return image
    return np.rint(image * np.iinfo(dtype).max).astype(dtype)
