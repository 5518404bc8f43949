"""Export of a fitted detector to a single ONNX file."""

import json
from pathlib import Path

import numpy as np

from sklearn_exdd import __version__
from sklearn_exdd._files import check_destination, write_whole
from sklearn_exdd.export import comparison, heads, images
from sklearn_exdd.export.detectors import bare, largest_side, outputs, smallest_side
from sklearn_exdd.export.graph import Graph
from sklearn_exdd.export.refusals import check_exportable, check_packages

_DTYPES = {"uint8": 2, "uint16": 4, "float32": 1}  # numbers of the data types in onnx.TensorProto
_LAYOUTS = {"NHWC": ("batch", "height", "width", None), "NCHW": ("batch", None, "height", "width")}
_FLOAT, _BOOL = 1, 9
_MAX_BYTES = 2**31 - 1  # maximum size of a protobuf message, in bytes


def to_onnx(detector, path, *, dtype="uint8", layout="NHWC", check=None):
    """Write a fitted detector to a single ONNX file.

    The file runs in onnxruntime, without Python, torch or this library. It contains all steps of prediction, from the
    raw pixels to the scores, decisions and anomaly maps.

    Parameters
    ----------
    detector : detector
        Detector fitted on images. It must belong to one of the following classes:

        * :class:`ExDDDetector`
        * :class:`LinearProbeDetector`
        * :class:`SegmentationDetector`
        * :class:`StudentTeacherDetector`
        * :class:`CombinedDefectDetector`, if it combines detectors of the classes above

        The detector may be inside a FrozenEstimator. It may also be the last step of a Pipeline whose other steps are
        augmenters.
    path : str or path-like
        File to write, usually with the suffix ``.onnx``. It is written completely or not at all.
    dtype : {"uint8", "uint16", "float32"}, default="uint8"
        Data type of the pixels that the file accepts. Floats must be in [0, 1].
    layout : {"NHWC", "NCHW"}, default="NHWC"
        Order of the axes of the images that the file accepts. "NHWC" means batch, height, width, channels. "NCHW" means
        batch, channels, height, width.
    check : images, default=None
        Images on which the predictions of the file are compared with the predictions of the detector. If None,
        generated images are used.

    Raises
    ------
    ImportError
        If onnx or onnxruntime is not installed. For a detector with a network, also if onnxscript is not installed, or
        if the installed version of onnxscript or torch is older than the extra ``onnx`` requires.
    TypeError
        If the detector belongs to another class, or if its feature extractor does not belong to this library.
    ValueError
        If the predictions of the file differ from the predictions of the detector on `check`, or if an ONNX file cannot
        reproduce the predictions for one of the following reasons:

        * The feature extractor was fitted in bfloat16.
        * A memory bank is searched by pynndescent.
        * The detector was fitted on feature rows.
        * torch cannot export the network.
        * The detector has a region of interest and is a member of a combination, or is neither an ExDDDetector nor a
          LinearProbeDetector.
        * The training images of the detector have different regions of interest.
    sklearn.exceptions.NotFittedError
        If the detector is not fitted.
    FileNotFoundError
        If the folder of the file does not exist.
    IsADirectoryError
        If `path` is a folder.

    See Also
    --------
    sklearn_exdd.persistence.dump : Write a detector to a file that this library can read.

    Notes
    -----
    The input is named "image". Its axes are in the order of `layout`. The images have either one channel or the
    channels red, green and blue. The number of images, their height and their width may vary from call to call. The
    outputs are:

    * "score", float32 of shape (batch,): the result of ``score_samples``
    * "decision", float32 of shape (batch,): the result of ``decision_function``, > 0 for a defect
    * "is_defect", bool of shape (batch,): whether the image is a defect
    * "p_value", float32 of shape (batch,): the result of ``p_values``. This output is missing if the detector does not
      have calibration scores.
    * "anomaly_map", float32 of shape (batch, height, width): the result of ``predict_map``
    * "mask", bool of shape (batch, height, width): the result of ``predict_mask``, which marks the pixels of a
      defective image above `pixel_threshold_`. If no pixel is above it, the output marks only the highest pixel, while
      ``predict_mask`` also marks the surroundings of this pixel. This output is missing if the detector does not have
      the attribute `pixel_threshold_`.

    The file contains the following metadata as strings:

    * "class": class of the detector
    * "version": version of this library
    * "classes", "defect_class": class labels, and the label that means defect, both in JSON
    * "threshold", "false_alarm_rate", "pixel_threshold": attributes of the detector. "pixel_threshold" is missing if
      the detector does not have this attribute.
    * "dtype", "layout", "channels": data type, order of the axes and number of channels of the images
    * "min_size": minimum height and width of an image, in pixels
    * "max_size": maximum height and width of an image, in pixels. It is only present if the detector cuts larger images
      into tiles whose results the file cannot reproduce.
    * "size": height and width of all images, in JSON. It is only present if the detector was fitted with `roi`, because
      images must then have the size of the region.

    The file raises an error for images of other sizes and for floats outside [0, 1].

    The scores of the file and of the detector differ by at most about 1e-6, relative to the larger of score and
    threshold. Their maps differ by at most about 1e-5, relative to the largest value of the map.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_exdd import ExDDDetector
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> from sklearn_exdd.export import to_onnx
    >>> X, y, _ = make_surface_defects(12, image_shape=(64, 64), random_state=0)
    >>> detector = ExDDDetector("gabor", random_state=0).fit(X, y)
    >>> with TemporaryDirectory() as folder:
    ...     to_onnx(detector, Path(folder, "detector.onnx"))
    ...     import onnxruntime
    ...     session = onnxruntime.InferenceSession(Path(folder, "detector.onnx").read_bytes())
    >>> score, is_defect = session.run(["score", "is_defect"], {"image": X[..., None]})
    >>> score.shape, is_defect.dtype
    ((12,), dtype('bool'))
    """
    path = Path(path)
    _check_options(path, dtype, layout)
    check_packages()
    detector = bare(detector)
    check_exportable(detector)
    examples = comparison.made(detector, dtype) if check is None else comparison.given(detector, check, dtype)
    content = _content(detector, dtype, layout)
    try:
        comparison.compare(detector, content, examples + comparison.beyond_tiles(detector, dtype), layout)
    except comparison.Disagreement:
        limit = largest_side(detector, tiled=False)
        if limit is None or hasattr(detector, "roi_"):
            raise
        # Some patches depend on pixels beyond the margin of their tile. Write a file that only accepts images that fit
        # into one tile, because its predictions still agree with the detector.
        content = _content(detector, dtype, layout, tiled=False)
        comparison.compare(detector, content, [image[:limit, :limit] for image in examples], layout)
    write_whole(path, content)


def _check_options(path, dtype, layout):
    for name, value, known in (("dtype", dtype, _DTYPES), ("layout", layout, _LAYOUTS)):
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{name}: expected one of {sorted(known)}, got {value!r}.")
    check_destination(path)


def _content(detector, dtype, layout, tiled=True):
    """Return the content of the ONNX file of a detector."""
    import onnx
    from onnx import helper

    graph, n_channels, region = Graph(), detector.n_channels_, getattr(detector, "roi_", None)
    sizes = {None: n_channels}
    if region is not None:
        sizes |= dict(zip(["height", "width"], region.shape))
    axes = [sizes.get(axis, axis) for axis in _LAYOUTS[layout]]
    found = outputs(graph, detector, images.planes_of(graph, "image", dtype, layout), tiled)
    decisions = graph.Sub(found.scores, np.float32(detector.threshold_))
    is_defect = graph.Greater(decisions, np.float32(0))
    values = {"score": (found.scores, _FLOAT), "decision": (decisions, _FLOAT), "is_defect": (is_defect, _BOOL)}
    calibration_scores = getattr(detector, "calibration_scores_", np.empty(0))
    calibrating = np.flatnonzero(~np.isnan(calibration_scores))
    if len(calibrating):
        groups = detector._groups_at(calibrating)
        values["p_value"] = heads.p_values(graph, found.scores, calibration_scores[calibrating], groups), _FLOAT
    values["anomaly_map"] = found.maps, _FLOAT
    if hasattr(detector, "pixel_threshold_"):
        values["mask"] = heads.masks(graph, is_defect, found.maps, detector.pixel_threshold_, region), _BOOL
    infos = []
    for name, (value, kind) in values.items():
        graph.nodes.append(helper.make_node("Identity", [value], [name], name=name))
        shape = ["batch", "height", "width"] if name in ("anomaly_map", "mask") else ["batch"]
        shape = [sizes.get(axis, axis) for axis in shape]
        infos.append(helper.make_tensor_value_info(name, kind, shape))
    model = graph.model(
        [helper.make_tensor_value_info("image", _DTYPES[dtype], axes)],
        infos,
        metadata=_metadata(detector, dtype, layout, tiled),
        doc_string=_doc_string(n_channels, dtype, layout),
    )
    if model.ByteSize() > _MAX_BYTES:
        raise ValueError(
            f"to_onnx: expected a detector of less than 2 GB, the limit of an ONNX file, got "
            f"{model.ByteSize() / 1e9:.1f} GB. Fit with a smaller coreset."
        )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _metadata(detector, dtype, layout, tiled):
    largest, pixel_threshold = largest_side(detector, tiled), getattr(detector, "pixel_threshold_", None)
    region = getattr(detector, "roi_", None)
    return {
        "class": type(detector).__name__,
        "version": __version__,
        "classes": json.dumps(detector.classes_.tolist()),
        "defect_class": json.dumps(detector.classes_.tolist()[detector._positive_index()]),
        "threshold": repr(float(detector.threshold_)),
        "false_alarm_rate": repr(float(detector.false_alarm_rate_)),
        "dtype": dtype,
        "layout": layout,
        "channels": str(detector.n_channels_),
        "min_size": str(smallest_side(detector)),
        **({} if largest is None else {"max_size": str(largest)}),
        **({} if region is None else {"size": json.dumps(region.shape)}),
        **({} if pixel_threshold is None else {"pixel_threshold": repr(float(pixel_threshold))}),
    }


def _doc_string(n_channels, dtype, layout):
    values = "in [0, 1]" if dtype == "float32" else "as they are"
    colours = "grey" if n_channels == 1 else "red, green, blue"
    axes = ", ".join(str(n_channels) if axis is None else axis for axis in _LAYOUTS[layout])
    return (
        "import numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession('detector.onnx')\n"
        f"# images: {dtype} ({axes}), {colours}, pixels {values}\n"
        "outputs = session.run(None, {'image': images})\n"
        "found = dict(zip([one.name for one in session.get_outputs()], outputs))  # score, decision, is_defect, ...\n"
    )
