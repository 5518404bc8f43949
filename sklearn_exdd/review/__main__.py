"""Command that opens the review page on a folder: ``python -m sklearn_exdd.review FOLDER``."""

import argparse
import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from secrets import token_urlsafe

from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd.review.store import ReviewFolder

_RISK = "Loading such a file can run code: pass only files that you trust. A .skops file is checked first."


def parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sklearn_exdd.review",
        description="Make synthetic defects and correct a detector on a local page. Decisions are stored in "
        "FOLDER/review/. To read them in Python, use sklearn_exdd.datasets.load_review.",
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="folder of images, or folder with the subfolders normal/ (or good/) and defect/",
    )
    parser.add_argument(
        "--detector", metavar="FILE", help=f"fitted detector to correct (.pkl, .joblib or .skops). {_RISK}"
    )
    parser.add_argument(
        "--augmenter", metavar="FILE", help=f"fitted augmenter to offer (.pkl, .joblib or .skops). {_RISK}"
    )
    parser.add_argument(
        "--diffusion",
        metavar="MODEL",
        help="inpainting pipeline to offer: a local folder, or a name on the Hugging Face hub",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, which only this machine can reach)",
    )
    parser.add_argument(
        "--port", type=int, default=7860, help="port to listen on; 0 selects a free port (default: %(default)s)"
    )
    return parser


def load_model(path, method):
    """Load a fitted estimator from a file.

    Parameters
    ----------
    path : str
        Path of the file. The suffix tells how the file was written:

        * .pkl, .pickle, .joblib: by :mod:`pickle` or :mod:`joblib`.
        * .skops: by :mod:`skops.io`. Only types of this library are trusted.
        * any other suffix: by :func:`sklearn_exdd.persistence.dump`.
    method : str
        Name of a method that the estimator must have.

    Returns
    -------
    estimator : object
    """
    if Path(path).suffix == ".skops":
        import skops.io

        unknown = skops.io.get_untrusted_types(file=path)
        foreign = [name for name in unknown if not name.startswith("sklearn_exdd.")]
        if foreign:
            raise ValueError(f"{path}: expected types of sklearn_exdd only, got {foreign}.")
        estimator = skops.io.load(path, trusted=unknown)
    elif Path(path).suffix not in (".pkl", ".pickle", ".joblib"):
        from sklearn_exdd import persistence

        estimator = persistence.load(path)
    else:
        import joblib

        try:
            estimator = joblib.load(path)
        except OSError:
            raise
        except Exception as error:  # loading a pickle may raise anything
            message = f"{path}: expected a saved estimator, got a file that cannot be loaded: {error!r}"
            raise ValueError(message) from error
    if not hasattr(estimator, method):
        raise ValueError(f"{path}: expected an estimator with the method {method}, got {type(estimator).__name__}.")
    check_is_fitted(estimator)
    return estimator


def listen(host, port):
    """Open a listening socket.

    The number of the port is then known before the page starts, even if `port` is 0 and the system chooses a free port.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"--port: expected a number from 0 to 65535, got {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def main(arguments=None):
    """Serve the page until the process is interrupted."""
    options = parser().parse_args(arguments)
    try:
        from sklearn_exdd.review.page import serve
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("sklearn_exdd"):
            raise
        sys.exit(f"The page needs {error.name}: pip install 'sklearn_exdd[review]'")
    from sklearn_exdd.review.session import ReviewSession

    try:
        folder = ReviewFolder(options.folder)
        detector = load_model(options.detector, "decision_function") if options.detector else None
        augmenters = {}
        if options.augmenter:
            augmenter = load_model(options.augmenter, "paint")
            augmenters[f"{type(augmenter).__name__}: {Path(options.augmenter).name}"] = augmenter
        if options.diffusion:
            from sklearn_exdd.augment import DiffusionDefectAugmenter

            augmenters["Diffusion: described by the prompt"] = DiffusionDefectAugmenter(
                options.diffusion, max_redraws=1
            )
        session = ReviewSession(folder, detector, augmenters)
        listener = listen(options.host, options.port)
    except (OSError, ValueError, NotFittedError) as error:
        sys.exit(str(error))
    host, port = listener.getsockname()[:2]
    names, called = {options.host}, options.host
    if not ip_address(host).is_loopback:
        called = socket.gethostname()
        names.add(called)
        print(
            f"Warning: the page listens on {options.host}. Other machines can reach it, and the connection is not "
            "encrypted. Anyone who gets the address below can see the images of the folder and make decisions on them.",
            file=sys.stderr,
        )
    token = token_urlsafe(16)
    called = f"[{called}]" if ":" in called else called
    print(f"Review {folder.path} at http://{called}:{port}/?token={token} (press Ctrl+C to stop)", flush=True)
    serve(session, listener, token, names)


if __name__ == "__main__":
    main()
