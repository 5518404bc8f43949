"""What the command line takes."""

import argparse
import json
import sys
from math import isfinite
from pathlib import Path

from sklearn_exdd import __version__

DETECTORS = ("exdd", "student_teacher", "segmentation", "classifier")
AUGMENTERS = ("cutpaste", "perlin", "offset", "mixed", "ddpm")

_EPILOG = """exit codes:
  0    done
  1    done, and an image is called defective (only with --fail-on-defect), or check found an error
  2    bad use: the message says what was expected; nothing is written
  3    done, but some images or masks could not be used
  4    an error that should not happen, with its traceback
  130  interrupted; nothing is written
"""
_LAYOUT = {"epilog": _EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
_FOLDER = "folder of images: index.csv; normal/ (or good/), defect/ and masks/; MVTec AD; or KSDD2"


class Parser(argparse.ArgumentParser):
    """Parser that accepts underscores in the names of options, too: Python's spelling of the parameters."""

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        n_options = args.index("--") if "--" in args else len(args)
        return super().parse_known_args([*map(_hyphenated, args[:n_options]), *args[n_options:]], namespace)


def _hyphenated(argument):
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def parser():
    """Return the parser of the command line."""
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
    what = "learn from a folder of images, and write a model"
    fit = commands.add_parser("fit", help=what, description=what.capitalize() + ".", **_LAYOUT)
    fit.add_argument("folder", metavar="FOLDER", help=f"{_FOLDER}. Of the last two, the training part")
    fit.add_argument("-o", "--out", metavar="MODEL", required=True, help="file to write")
    fit.add_argument(
        "--detector",
        type=_detector,
        choices=DETECTORS,
        default="exdd",
        help="exdd: memory banks, seconds. segmentation, student_teacher: networks trained on the images, minutes. "
        "classifier: a backbone with pretrained weights, and defects (default: %(default)s)",
    )
    fit.add_argument(
        "--feature-extractor",
        metavar="NAME",
        help="of exdd: auto, gabor, learned, efficientnet_lite0, a torchvision model, or timm:NAME (default: auto)",
    )
    fit.add_argument("--n-neighbors", metavar="N", type=_number_or_word, help="of exdd: a number, or auto (default)")
    fit.add_argument("--augmenter", choices=AUGMENTERS, help="makes synthetic defects to learn from")
    fit.add_argument("--n-synthetic", metavar="N", type=int, help="number of synthetic defects")
    fit.add_argument(
        "--max-false-alarm-rate",
        metavar="SHARE",
        type=float,
        help="share of normal images that may be called defective (default: 0.01)",
    )
    fit.add_argument(
        "--roi", metavar="MASK", help="image file that is white where images count; everything else is ignored"
    )
    fit.add_argument("--random-state", metavar="SEED", type=int, default=0, help="default: %(default)s")
    fit.add_argument(
        "--params",
        metavar="JSON",
        type=_params,
        default={},
        help="""further parameters of the detector, such as '{"blur": 2, "feature_extractor__image_size": 512}'""",
    )
    _add_verbose(fit)


def _add_predict(commands):
    what = "score the images of a folder, and write a report"
    predict = commands.add_parser("predict", help=what, description=what.capitalize() + ".", **_LAYOUT)
    predict.add_argument("model", metavar="MODEL", help="file that fit has written")
    predict.add_argument("folder", metavar="FOLDER", help="images, in sub-folders too; masks are left out")
    predict.add_argument(
        "-o",
        "--out",
        metavar="REPORT",
        required=True,
        help="folder to write: report.html, scores.csv and maps/. An earlier report is replaced",
    )
    predict.add_argument(
        "--n-shown",
        metavar="N",
        type=int,
        default=1000,
        help="images with a map and a place in report.html, the worst ones; scores.csv has all (default: %(default)s)",
    )
    predict.add_argument(
        "--pixel-size", metavar="MM", type=_finite, help="side of a pixel: sizes in millimetres (default: in pixels)"
    )
    predict.add_argument(
        "--min-area",
        metavar="AREA",
        type=_finite,
        default=0,
        help="leave out smaller regions, in pixels or square millimetres (default: %(default)s)",
    )
    _add_threshold(predict)
    predict.add_argument("--fail-on-defect", action="store_true", help="end with code 1 if there is a defect")
    _add_verbose(predict)


def _add_evaluate(commands):
    what = "compare a model with the labels and masks of a folder"
    evaluate = commands.add_parser("evaluate", help=what, description=what.capitalize() + ".", **_LAYOUT)
    evaluate.add_argument("model", metavar="MODEL", help="file that fit has written")
    evaluate.add_argument("folder", metavar="FOLDER", help=f"{_FOLDER}. Of the last two, the test part")
    _add_threshold(evaluate)
    evaluate.add_argument(
        "-o", "--out", metavar="PAGE", help="page to write, such as page.html: the operating points as a picture"
    )
    for mistake, meaning in (("false-alarm", "a normal image called defective"), ("miss", "a defect called normal")):
        evaluate.add_argument(
            f"--cost-{mistake}",
            metavar="COST",
            type=_positive,
            default=1.0,
            help=f"cost of {meaning}, for the threshold of the lowest cost (default: 1)",
        )
    evaluate.add_argument("--no-maps", action="store_true", help="only compare scores: saves half the time")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    _add_verbose(evaluate)


def _add_check(commands):
    what = "look for mistakes in a folder of images before fit: duplicates, masks, odd photographs"
    check = commands.add_parser("check", help=what, description=what.capitalize() + ".", **_LAYOUT)
    check.add_argument("folder", metavar="FOLDER", help=f"{_FOLDER}. Of the last two, both parts")
    check.add_argument("-o", "--out", metavar="PAGE", help="page to write, such as check.html: findings with pictures")
    check.add_argument(
        "--no-scores", action="store_true", help="do not fit a detector, which finds normal images that stand out"
    )
    check.add_argument("--json", action="store_true", help="print JSON")
    _add_verbose(check)


def _add_export(commands):
    what = "write a model as one ONNX file, which onnxruntime runs"
    export = commands.add_parser("export", help=what, description=what[0].upper() + what[1:] + ".", **_LAYOUT)
    export.add_argument("model", metavar="MODEL", help="file that fit has written")
    export.add_argument("-o", "--out", metavar="FILE", required=True, help="file to write, such as model.onnx")
    export.add_argument(
        "--dtype",
        choices=("uint8", "uint16", "float32"),
        default="uint8",
        help="type of the pixels that the file takes; floats are in [0, 1] (default: %(default)s)",
    )
    export.add_argument(
        "--layout", choices=("NHWC", "NCHW"), default="NHWC", help="order of their axes (default: %(default)s)"
    )


def _add_versions(commands):
    what = "print the versions of Python, this library and its dependencies"
    commands.add_parser("versions", help=what, description=what.capitalize() + ".", **_LAYOUT)


def _add_threshold(command):
    command.add_argument(
        "--threshold", metavar="SCORE", type=_finite, help="scores above it mean defect (default: the model's own)"
    )


def _add_verbose(command):
    command.add_argument(
        "--verbose",
        metavar="LEVEL",
        type=int,
        default=int(sys.stderr.isatty()),
        help="0: no progress bars; 1: bars (default: 1 at a terminal)",
    )


def _detector(name):
    if name == "patch_classifier":
        raise argparse.ArgumentTypeError(
            "expected a detector that a file without code can hold, got patch_classifier, which holds a classifier of "
            "scikit-learn. Fit a PatchClassifierDetector in Python, and keep it with skops.io"
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
    """Parameters from JSON; its lists become tuples, as Python writes them."""
    try:
        params = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected JSON, got {text!r} ({error})") from error
    if not isinstance(params, dict):
        raise argparse.ArgumentTypeError(f"""expected an object such as '{{"blur": 2}}', got {text!r}""")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in params.items()}
