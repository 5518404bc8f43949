"""Parser of the command-line arguments."""

import argparse
import json
import sys
from math import isfinite
from pathlib import Path

from sklearn_exdd import __version__

DETECTORS = ("exdd", "student_teacher", "segmentation", "classifier")
AUGMENTERS = ("cutpaste", "perlin", "offset", "mixed", "ddpm")

_EPILOG = """exit codes:
  0    The command is done.
  1    The command is done. predict called an image defective (only with --fail-on-defect), or check found an error.
  2    The command was used wrongly. The message says what was expected. Nothing is written.
  3    The command is done, but some images or masks could not be used.
  4    An unexpected error occurred. Its traceback is printed.
  130  The command was interrupted. Nothing is written.
"""
_LAYOUT = {"epilog": _EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
_FOLDER = (
    "folder of labelled images: with index.csv, with normal/ (or good/), defect/ and masks/, or in the layout of MVTec "
    "AD or KSDD2"
)


class Parser(argparse.ArgumentParser):
    """Parser that accepts hyphens and underscores in option names, because Python parameters have underscores."""

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        n_options = args.index("--") if "--" in args else len(args)
        return super().parse_known_args([*map(_hyphenated, args[:n_options]), *args[n_options:]], namespace)


def _hyphenated(argument):
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def parser():
    """Build the parser of the command line."""
    is_script = Path(sys.argv[0]).stem == "sklearn-exdd"
    parser = Parser(
        prog="sklearn-exdd" if is_script else "python -m sklearn_exdd",
        description="Find and locate surface defects in images of parts.",
        **_LAYOUT,
    )
    parser.add_argument("--version", action="version", version=f"sklearn_exdd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_fit(commands)
    _add_predict(commands)
    _add_evaluate(commands)
    _add_check(commands)
    _add_export(commands)
    _add_versions(commands)
    return parser


def _add_fit(commands):
    what = "fit a detector to a folder of images and write the model"
    fit = commands.add_parser("fit", help=what, description=_sentence(what), **_LAYOUT)
    fit.add_argument(
        "folder",
        metavar="FOLDER",
        help=f"{_FOLDER}. If it has a training and a test part, only the training part is used. Without these layouts, "
        "all images must lie directly in the folder and be normal",
    )
    fit.add_argument("-o", "--out", metavar="MODEL", required=True, help="model file to write")
    fit.add_argument(
        "--detector",
        type=_detector,
        choices=DETECTORS,
        default="exdd",
        help="exdd: memory banks, fitted in seconds. segmentation and student_teacher: networks, trained in minutes. "
        "classifier: network that needs pretrained weights and defect images (default: %(default)s)",
    )
    fit.add_argument(
        "--feature-extractor",
        metavar="NAME",
        help="feature extractor of exdd: auto, gabor, learned, efficientnet_lite0, the name of a torchvision model, or "
        "timm:NAME for a timm model (default: auto)",
    )
    fit.add_argument(
        "--n-neighbors",
        metavar="N",
        type=_number_or_word,
        help="number of nearest patches in the memory banks of exdd, or auto (default: auto)",
    )
    fit.add_argument(
        "--augmenter", choices=AUGMENTERS, help="generator of synthetic defects to train on (default: none)"
    )
    fit.add_argument("--n-synthetic", metavar="N", type=int, help="number of synthetic defects")
    fit.add_argument(
        "--max-false-alarm-rate",
        metavar="SHARE",
        type=float,
        help="largest fraction of normal images that may be called defective, between 0 and 1 (default: 0.01)",
    )
    fit.add_argument(
        "--roi",
        metavar="MASK",
        help="image file that is white in the region of interest. Pixels outside the region are ignored",
    )
    fit.add_argument(
        "--random-state", metavar="SEED", type=int, default=0, help="seed of the random numbers (default: %(default)s)"
    )
    fit.add_argument(
        "--params",
        metavar="JSON",
        type=_params,
        default={},
        help="other parameters of the detector, as JSON, such as "
        """'{"blur": 2, "feature_extractor__image_size": 512}'""",
    )
    _add_verbose(fit)


def _add_predict(commands):
    what = "score the images of a folder and write a report"
    predict = commands.add_parser("predict", help=what, description=_sentence(what), **_LAYOUT)
    predict.add_argument("model", metavar="MODEL", help="model file written by fit")
    predict.add_argument(
        "folder", metavar="FOLDER", help="folder of images. Its sub-folders are searched, too. Masks are skipped"
    )
    predict.add_argument(
        "-o",
        "--out",
        metavar="REPORT",
        required=True,
        help="folder to write the report to: report.html, scores.csv and maps/. An earlier report is replaced",
    )
    predict.add_argument(
        "--n-shown",
        metavar="N",
        type=int,
        default=1000,
        help="number of images that report.html shows with their maps, starting with the highest score. scores.csv "
        "always lists all images (default: %(default)s)",
    )
    predict.add_argument(
        "--pixel-size",
        metavar="MM",
        type=_finite,
        help="side length of a pixel in millimetres. With it, sizes are given in millimetres instead of pixels",
    )
    predict.add_argument(
        "--min-area",
        metavar="AREA",
        type=_finite,
        default=0,
        help="minimum area of a defect region, in pixels, or in square millimetres with --pixel-size. Smaller regions "
        "are left out (default: %(default)s)",
    )
    _add_threshold(
        predict,
        ". SCORE changes only the decisions. The pixel threshold of the model is still used, so the regions of an "
        "image called defective do not depend on SCORE. An image called normal does not have regions",
    )
    predict.add_argument(
        "--fail-on-defect", action="store_true", help="exit with code 1 if an image is called defective"
    )
    _add_verbose(predict)


def _add_evaluate(commands):
    what = "compare the results of a model with the labels and masks of a folder"
    evaluate = commands.add_parser("evaluate", help=what, description=_sentence(what), **_LAYOUT)
    evaluate.add_argument("model", metavar="MODEL", help="model file written by fit")
    evaluate.add_argument(
        "folder",
        metavar="FOLDER",
        help=f"{_FOLDER}. If it has a training and a test part, only the test part is used",
    )
    _add_threshold(evaluate)
    evaluate.add_argument(
        "-o",
        "--out",
        metavar="PAGE",
        help="HTML page to write, such as page.html. It shows the operating points in a table and a chart",
    )
    for mistake, meaning in (("false-alarm", "a normal image called defective"), ("miss", "a defect called normal")):
        evaluate.add_argument(
            f"--cost-{mistake}",
            metavar="COST",
            type=_positive,
            default=1.0,
            help=f"cost of {meaning}. The costs determine the threshold with the lowest total cost (default: 1)",
        )
    evaluate.add_argument(
        "--no-maps", action="store_true", help="compare only the scores, not the maps. This takes half the time"
    )
    evaluate.add_argument("--json", action="store_true", help="print the figures as JSON")
    _add_verbose(evaluate)


def _add_check(commands):
    what = "look for mistakes in a folder of images before fitting: duplicates, wrong masks, odd images"
    check = commands.add_parser("check", help=what, description=_sentence(what), **_LAYOUT)
    check.add_argument(
        "folder",
        metavar="FOLDER",
        help=f"{_FOLDER}. If it has a training and a test part, the two are also compared. Without these layouts, all "
        "images must lie directly in the folder and be normal",
    )
    check.add_argument(
        "-o",
        "--out",
        metavar="PAGE",
        help="HTML page to write, such as check.html. It shows the images of each finding",
    )
    check.add_argument(
        "--no-scores",
        action="store_true",
        help="skip the search for normal images with outlying scores, for which a detector would be fitted",
    )
    check.add_argument("--json", action="store_true", help="print the findings as JSON")
    _add_verbose(check)


def _add_export(commands):
    what = "write a model as a single ONNX file for onnxruntime"
    export = commands.add_parser("export", help=what, description=_sentence(what), **_LAYOUT)
    export.add_argument("model", metavar="MODEL", help="model file written by fit")
    export.add_argument("-o", "--out", metavar="FILE", required=True, help="ONNX file to write, such as model.onnx")
    export.add_argument(
        "--dtype",
        choices=("uint8", "uint16", "float32"),
        default="uint8",
        help="data type of the pixels that the ONNX file accepts. float32 pixels are in [0, 1] (default: %(default)s)",
    )
    export.add_argument(
        "--layout",
        choices=("NHWC", "NCHW"),
        default="NHWC",
        help="order of the axes of the images that the ONNX file accepts (default: %(default)s)",
    )


def _add_versions(commands):
    what = "print the versions of Python, this library and its dependencies"
    commands.add_parser("versions", help=what, description=_sentence(what), **_LAYOUT)


def _add_threshold(command, effect=""):
    command.add_argument(
        "--threshold",
        metavar="SCORE",
        type=_finite,
        help=f"score above which an image is called defective (default: the threshold of the model){effect}",
    )


def _add_verbose(command):
    command.add_argument(
        "--verbose",
        metavar="LEVEL",
        type=int,
        default=int(sys.stderr.isatty()),
        help="0 for no progress bars, 1 for progress bars (default: 1 in a terminal, otherwise 0)",
    )


def _sentence(what):
    return f"{what[0].upper()}{what[1:]}."


def _detector(name):
    if name == "patch_classifier":
        raise argparse.ArgumentTypeError(
            "expected a detector that can be saved without code, got patch_classifier, which contains a scikit-learn "
            "classifier. Fit a PatchClassifierDetector in Python and save it with skops.io"
        )
    return name


def _number_or_word(text):
    return int(text) if text.lstrip("-").isdigit() else text


def _finite(text):
    number = float(text)
    if not isfinite(number):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return number


def _positive(text):
    number = _finite(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text!r}")
    return number


def _params(text):
    """Parse parameters from JSON. Convert lists to tuples, because the parameters expect tuples."""
    try:
        params = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected JSON, got {text!r} ({error})") from error
    if not isinstance(params, dict):
        raise argparse.ArgumentTypeError(f"""expected an object such as '{{"blur": 2}}', got {text!r}""")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in params.items()}
