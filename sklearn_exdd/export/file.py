"""Export of a fitted detector to one ONNX file."""

import json
from pathlib import Path

import numpy as np

from sklearn_exdd import __version__
from sklearn_exdd._files import write_whole
from sklearn_exdd.export import comparison, heads, images
from sklearn_exdd.export.detectors import bare, largest_side, outputs, smallest_side
from sklearn_exdd.export.graph import Graph
from sklearn_exdd.export.refusals import check_exportable, check_packages

_DTYPES = {"uint8": 2, "uint16": 4, "float32": 1}  # numbers from onnx.TensorProto
_LAYOUTS = {"NHWC": ("batch", "height", "width", None), "NCHW": ("batch", None, "height", "width")}
_FLOAT, _BOOL = 1, 9
_MAX_BYTES = 2**31 - 1  # largest protobuf message


def to_onnx(detector, path, *, dtype="uint8", layout="NHWC", check=None):
    """Write a fitted detector to one ONNX file that maps raw pixels to score, decision and anomaly map.

    The file runs wherever onnxruntime does, without Python, torch or this library. It contains all steps of prediction:
    scaling of the pixels, resizing, features, banks or networks, threshold and maps.

    Parameters
    ----------
    detector : detector
        Detector fitted on images: an :class:`ExDDDetector`, :class:`LinearProbeDetector`,
        :class:`SegmentationDetector`, :class:`StudentTeacherDetector` or :class:`CombinedDefectDetector` of these. It
        may be inside a FrozenEstimator, or a Pipeline of augmenters.
    path : str or path-like
        File to write, usually with the suffix ``.onnx``. It is written completely or not at all.
    dtype : {"uint8", "uint16", "float32"}, default="uint8"
        Type of the input pixels. Floats are in [0, 1].
    layout : {"NHWC", "NCHW"}, default="NHWC"
        Order of the input axes: batch, height, width and channels, or channels before height.
    check : images, default=None
        Images on which the file, run by onnxruntime, must agree with the detector. None uses generated surfaces.

    Raises
    ------
    ImportError
        If onnx or onnxruntime is not installed, or onnxscript for a detector with a network.
    TypeError
        If the detector is of another class, or its feature extractor is not one of this library.
    ValueError
        If an ONNX file cannot reproduce the scores, or disagrees with the detector on `check`. The scores cannot be
        reproduced if the extractor was fitted in bfloat16, if a bank is searched by pynndescent, if the detector was
        fitted on feature rows, or if torch cannot export the network. Regions of interest are supported only for an
        ExDDDetector or LinearProbeDetector outside a combination, with one region for all images.
    sklearn.exceptions.NotFittedError
        If the detector is not fitted.
    FileNotFoundError
        If the folder does not exist.

    See Also
    --------
    sklearn_exdd.persistence.dump : Writes a detector to a file for this library.

    Notes
    -----
    The input is named "image". Its shape is (batch, height, width, channels) or (batch, channels, height, width), with
    one channel or with red, green and blue. All sizes except the number of channels may vary from call to call. The
    outputs are:

    * "score", float32 (batch,): as returned by ``score_samples``;
    * "decision", float32 (batch,): as returned by ``decision_function``, > 0 for a defect;
    * "is_defect", bool (batch,);
    * "p_value", float32 (batch,): as returned by ``p_values``; omitted if the detector has no calibration scores;
    * "anomaly_map", float32 (batch, height, width): as returned by ``predict_map``;
    * "mask", bool (batch, height, width): the pixels of a defective image above `pixel_threshold_`, as returned by
      ``predict_mask``. If no pixel is above it, the mask contains only the highest pixel, while ``predict_mask`` also
      marks its surroundings. The output is omitted if the detector has no `pixel_threshold_`.

    The metadata of the file are strings: "class", "version", "classes" and "defect_class" (JSON), "threshold",
    "false_alarm_rate", "dtype", "layout", "channels", "min_size" (the smallest side of an image in pixels) and
    "pixel_threshold". "max_size", the largest side, is only present if the detector cuts larger images into tiles whose
    results the file cannot reproduce. "size" (JSON: height and width) is only present if the detector was fitted with
    `roi`: all images must have the size of the region. Images of other sizes and floats outside [0, 1] raise an error.

    Scores agree to about 1e-6 of the larger of score and threshold, maps to 1e-5 of their largest value.

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
        # A patch may depend on pixels beyond the margin of its tile. Images that fit into one tile still agree.
        content = _content(detector, dtype, layout, tiled=False)
        comparison.compare(detector, content, [image[:limit, :limit] for image in examples], layout)
    write_whole(path, content)


def _check_options(path, dtype, layout):
    for name, value, known in (("dtype", dtype, _DTYPES), ("layout", layout, _LAYOUTS)):
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{name}: expected one of {sorted(known)}, got {value!r}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: expected an existing folder to write to, but {str(path.parent)!r} does not exist."
        )


def _content(detector, dtype, layout, tiled=True):
    """Return the content of a detector's file as bytes."""
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
