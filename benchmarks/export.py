"""Comparison of ONNX files with their detectors: differences of predictions, times and memory.

    python benchmarks/export.py
    python benchmarks/export.py --detectors gabor efficientnet_lite0 --sizes 256 512 1024
    python benchmarks/export.py --openvino

Detectors are fitted on generated surfaces. Networks have random weights or are trained for a few steps, because neither
times nor rounding depend on their quality. The columns are:

* "score" and "map" are the largest differences over images of four sizes. One of these images is larger than a tile. A
  difference of scores is relative to the score or to the threshold, whichever is larger. A difference of maps is
  relative to the largest value of the map. If larger numbers cancel in the map, the difference is relative to these
  numbers.
* Times are CPU milliseconds of one thread for one image, as the median of five runs. They are measured for
  `decision_function`, for `predict_map`, and for onnxruntime, which computes all outputs at once.
* "peak" is the resident memory (Linux) of a separate process that runs the file or the detector on an image. It
  includes the imports.

With `--openvino`, the script compares OpenVINO (pip install openvino) with onnxruntime instead, on the same files and
images. The columns "score" and "map" are the same as above. "mask" is the fraction of pixels in which the masks differ.
OpenVINO computes in float32 first. Then it computes in the precision that it chooses by itself, which is bfloat16 on
processors with bfloat16 instructions.
"""

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sklearn_exdd import (
    EfficientNetLiteFeatureExtractor,
    ExDDDetector,
    LearnedFeatureExtractor,
    LinearProbeDetector,
    SegmentationDetector,
    StudentTeacherDetector,
    TorchvisionFeatureExtractor,
)
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.export import to_onnx
from sklearn_exdd.export.comparison import cancelling

TRAINING = {"max_steps": 30, "n_synthetic": 8, "crop_size": 64, "train_batch_size": 4, "precision": "float32"}
SHAPES = [(64, 64), (97, 133), (256, 256), (200, 1100)]

# Code for separate processes, which import only what they need.
MEASURE = """
import json, sys, time
import numpy as np
path, side, is_file, n_repeats = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "file", int(sys.argv[4])
image = np.random.RandomState(0).randint(0, 256, (1, side, side)).astype(np.uint8)
if is_file:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    parts = [lambda: session.run(None, {"image": image[..., None]})]
else:
    import pickle
    import torch
    torch.set_num_threads(1)
    detector = pickle.load(open(path, "rb"))
    parts = [lambda: detector.decision_function(image), lambda: detector.predict_map(image)]
times = []
for _ in range(1 + n_repeats):
    row = []
    for part in parts:
        start = time.process_time()
        part()
        row.append(1000 * (time.process_time() - start))
    times.append(row)
# Not ru_maxrss, which includes the process that started this one.
(peak,) = [int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps({"ms": np.median(times[1:], axis=0).tolist(), "peak": peak}))
"""


def detector_of(name):
    """Return an unfitted detector."""
    if name == "gabor":
        return ExDDDetector("gabor", random_state=0)
    if name == "efficientnet_lite0":
        return ExDDDetector(EfficientNetLiteFeatureExtractor(precision="float32"), random_state=0)
    if name == "resnet18":
        extractor = TorchvisionFeatureExtractor("resnet18", weights=None, precision="float32")
        return ExDDDetector(extractor, random_state=0)
    if name == "linear_probe":
        return LinearProbeDetector(EfficientNetLiteFeatureExtractor(precision="float32"), random_state=0)
    if name == "segmentation":
        return SegmentationDetector(LearnedFeatureExtractor(**TRAINING), random_state=0)
    return StudentTeacherDetector(**TRAINING, random_state=0)


def library_of(detector):
    """Return a function that returns scores, maps and masks of images."""

    def run(X):
        results = detector.inspect(X)
        return [np.array([result[name] for result in results]) for name in ("score", "map", "mask")]

    return run


def onnxruntime_of(path):
    """Return the same for a file in onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda X: session.run(["score", "anomaly_map", "mask"], {"image": X[..., None]})


def openvino_of(path, precision):
    """Return the same for a file in OpenVINO, in "f32" or in the precision that it chooses by itself (None)."""
    import openvino

    core = openvino.Core()
    config = {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
    compiled = core.compile_model(core.read_model(path), "CPU", config)

    def run(X):
        found = compiled({"image": X[..., None]})
        return [found[name] for name in ("score", "anomaly_map", "mask")]

    return run


def differences(detector, run, reference):
    """Return the largest relative differences of scores and maps, and the share of pixels whose masks differ."""
    errors, differing, level = [], [], cancelling(detector)
    for seed, shape in enumerate(SHAPES):
        X, _, _ = make_surface_defects(4, image_shape=shape, random_state=100 + seed)
        (own_scores, own_maps, own_masks), (scores, maps, masks) = run(X), reference(X)
        scale = np.maximum(np.abs(scores), max(level, abs(detector.threshold_)))
        largest = np.maximum(np.abs(maps).max(axis=(1, 2)), level)
        errors.append(
            [
                (np.abs(own_scores - scores) / scale).max(),
                (np.abs(own_maps - maps).max(axis=(1, 2)) / largest).max(),
            ]
        )
        differing.append((own_masks != masks).ravel())
    return *np.max(errors, axis=0), np.concatenate(differing).mean()


def measured(path, side, kind, n_repeats):
    """Measure time and memory of a file or a pickled detector in a separate process."""
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(path), str(side), kind, str(n_repeats)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def compare_openvino(name, detector, path):
    """Print how far OpenVINO is from onnxruntime on a file."""
    for precision in ("f32", None):
        score, pixel_map, mask = differences(detector, openvino_of(path, precision), onnxruntime_of(path))
        print(f"| {name} | {precision or 'default'} | {score:.1e} | {pixel_map:.1e} | {mask:.1%} |", flush=True)


def compare_library(name, detector, path, seconds, arguments):
    """Print how far a file is from the library, and the times and the memory of both."""
    pickled = path.with_suffix(".pickle")
    pickled.write_bytes(pickle.dumps(detector))
    score, pixel_map, _ = differences(detector, onnxruntime_of(path), library_of(detector))
    for side in arguments.sizes:
        own = measured(path, side, "file", arguments.repeats)
        library = measured(pickled, side, "library", arguments.repeats)
        decision, maps = library["ms"]
        print(
            f"| {name} | {seconds:.1f} | {path.stat().st_size / 1e6:.1f} | {score:.1e} | {pixel_map:.1e} "
            f"| {side} x {side} | {decision:.0f} + {maps:.0f} | {own['ms'][0]:.0f} | {library['peak']:.0f} "
            f"| {own['peak']:.0f} |",
            flush=True,
        )


def main():
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    names = ["gabor", "efficientnet_lite0", "resnet18", "linear_probe", "segmentation", "student_teacher"]
    parser.add_argument("--detectors", nargs="+", choices=names, default=names)
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--openvino", action="store_true", help="compare OpenVINO with onnxruntime, without times")
    arguments = parser.parse_args()
    if arguments.openvino and find_spec("openvino") is None:
        parser.error("--openvino: expected OpenVINO to be installed, found none. Run: pip install openvino.")
    X, y, masks = make_surface_defects(40, image_shape=(256, 256), random_state=0)
    columns = ["detector", "export, CPU s", "MB", "score", "map", "image", "decision + map, ms", "file, ms"]
    columns += ["peak, MB", "file: peak, MB"]
    if arguments.openvino:
        columns = ["detector", "precision", "score", "map", "mask"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in arguments.detectors:
        detector = detector_of(name).fit(X, y, masks=masks)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "detector.onnx")
            start = time.process_time()
            to_onnx(detector, path)
            seconds = time.process_time() - start
            if arguments.openvino:
                compare_openvino(name, detector, path)
            else:
                compare_library(name, detector, path, seconds, arguments)


if __name__ == "__main__":
    main()
