"""Folder of images under review, and the decisions on them."""

import io
import json
import os
from collections import Counter
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from warnings import warn

import numpy as np
from sklearn.utils import Bunch

from sklearn_exdd import persistence
from sklearn_exdd._files import write_whole
from sklearn_exdd._images import read_image
from sklearn_exdd._images.files import list_files, why_left_out

_LABELS = {"normal": 0, "good": 0, "defect": 1}
_WHATS = ("accepted", "rejected", "corrected", "withdrawn")
_OWN = "review"
_FILE = "decisions.jsonl"
_DETECTORS = "detectors"


class Entry(NamedTuple):
    """Image of the folder.

    `name` is the path in the folder, and `label` is 0 (normal), 1 (defect) or None (unknown). `problem` holds the
    reason why the image cannot be used, or None if it can be used.
    """

    name: str
    label: object
    problem: object


class ReviewFolder:
    """Images of a folder, and an expert's decisions on them.

    Parameters
    ----------
    path : str or path-like
        Folder with the subfolders `normal/` (or `good/`) and optionally `defect/` and `masks/`. See
        :func:`~sklearn_exdd.datasets.load_folder` for this layout. Images elsewhere in the folder have no label.
        Decisions are written to the subfolder `review/`.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.

    Notes
    -----
    Nothing outside the folder is read or written. Links that lead out of the folder are not followed, but listed as
    files that cannot be used.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> from sklearn_exdd.review import ReviewFolder, load_review
    >>> with TemporaryDirectory() as path:
    ...     Image.new("L", (64, 64), 90).save(f"{path}/part.png")
    ...     folder = ReviewFolder(path)
    ...     names = [entry.name for entry in folder.entries()]
    ...     decision = folder.correct("part.png", 0)
    ...     review = load_review(path)
    >>> names, review.y.tolist(), review.provenance[0]["what"]
    (['part.png'], [0], 'corrected')
    """

    def __init__(self, path):
        self.path = Path(path).expanduser()
        if not self.path.is_dir():
            came = "got a file" if self.path.exists() else "found no such folder"
            raise FileNotFoundError(f"{str(self.path)!r}: expected a folder of images, {came}.")
        self._saving = Lock()

    def entries(self):
        """List the images of the folder. Masks and the files of decisions are not listed.

        Returns
        -------
        entries : list of Entry
            Images, sorted by name.
        """
        return [self._entry(name) for name in list_files(self.path).images if _is_under_review(name)]

    def left_out(self):
        """List the files that may be images but are not read. Masks and the files of decisions are not listed.

        Returns
        -------
        entries : list of Entry
            Files, sorted by name. The `problem` of an entry tells why the file is not read.
        """
        names = [name for name in list_files(self.path).left_out if _is_under_review(name)]
        return [Entry(name, None, why_left_out(self.path / name)) for name in names]

    def _entry(self, name):
        problem = None
        try:
            self.locate(name)
        except (OSError, ValueError) as error:
            problem = str(error)
        return Entry(name, _LABELS.get(name.partition("/")[0]) if "/" in name else None, problem)

    def locate(self, name):
        """Return the path of an image or a mask.

        Parameters
        ----------
        name : str
            Path relative to the folder.

        Returns
        -------
        path : pathlib.Path

        Raises
        ------
        ValueError
            If the path leads outside the folder.
        FileNotFoundError
            If the file does not exist.
        """
        path = self.path / name
        if os.path.isabs(name) or not self._holds(path):
            raise ValueError(f"{name!r}: expected a file within the folder, got a path that leads outside the folder.")
        if not path.is_file():
            came = "expected a file, got a folder" if path.is_dir() else "the folder contains no such file"
            raise FileNotFoundError(f"{name!r}: {came}.")
        return path

    def _holds(self, path):
        try:
            return path.resolve().is_relative_to(self.path.resolve())
        except (OSError, RuntimeError):  # circular links
            return False

    def read(self, name):
        """Read an image of the folder with :func:`~sklearn_exdd._images.read_image`."""
        return read_image(self.locate(name), repr(name))

    def decide(self, what, source, image, mask, *, generator=None, prompt=None, seed=None, model=None):
        """Write the decision on a synthetic defect, its image and its mask to the folder.

        Parameters
        ----------
        what : {"accepted", "rejected"}
            Decision of the expert.
        source : str
            Name of the image that the defect was made on.
        image : ndarray of shape (height, width) or (height, width, 3), dtype uint8, uint16 or float in [0, 1]
            Image with the defect.
        mask : ndarray of shape (height, width), dtype bool
            Mask of the defect.
        generator, prompt, model : str, default=None
            Name of the generator, prompt and model that the defect was made with.
        seed : int, default=None
            Seed of the generator.

        Returns
        -------
        decision : dict
            Decision as written to `decisions.jsonl`.
        """
        pixels, marked = _png(image), _png(mask)
        name = sha256(pixels + marked).hexdigest()[:16] + ".png"
        return self._append(
            {
                "what": what,
                "source": source,
                "image": self._write(f"{_OWN}/images/{name}", pixels),
                "mask": self._write(f"{_OWN}/masks/{name}", marked),
                "generator": generator,
                "prompt": prompt,
                "model": model,
                "seed": seed,
                "label": 1 if what == "accepted" else None,
            }
        )

    def correct(self, source, label, mask=None):
        """Write the true label of an image to the folder.

        Parameters
        ----------
        source : str
            Name of the image.
        label : {0, 1}
            True label: 0 for normal, 1 for a defect.
        mask : ndarray of shape (height, width), dtype bool, default=None
            Mask of the defect, or None if the mask is not known.

        Returns
        -------
        decision : dict
            Decision as written to `decisions.jsonl`.
        """
        self.locate(source)
        if mask is not None:
            content = _png(mask)
            name = sha256(source.encode("utf-8", "surrogateescape") + content).hexdigest()[:16]
            mask = self._write(f"{_OWN}/masks/{name}.png", content)
        return self._append({"what": "corrected", "source": source, "image": None, "mask": mask, "label": label})

    def withdraw(self, decision):
        """Withdraw a decision. The image and the mask of the decision are not deleted.

        Parameters
        ----------
        decision : dict
            Result of :meth:`decide` or :meth:`correct`, or an item of :meth:`decisions`.
        """
        return self._append({**decision, "what": "withdrawn", "label": None})

    def save(self, detector):
        """Save a detector in the folder of decisions. The file name is the next free number.

        If an error occurs, no incomplete file is left behind.

        Parameters
        ----------
        detector : object
            Detector of this library; see :func:`sklearn_exdd.persistence.dump`.

        Returns
        -------
        name : str
            Path of the file relative to the folder.

        Raises
        ------
        TypeError
            If the object is not a detector of this library, for example a Pipeline.
        """
        place = self._own(_DETECTORS)
        place.mkdir(parents=True, exist_ok=True)
        with self._saving:  # two open pages must not take the same number
            numbers = [int(path.stem) for path in place.glob("*.safetensors") if path.stem.isdecimal()]
            name = f"{_DETECTORS}/{1 + max(numbers, default=0):03d}.safetensors"
            persistence.dump(detector, self._own(name))
        return f"{_OWN}/{name}"

    def decisions(self):
        """List the latest decision on each image or synthetic defect, from the oldest to the newest.

        Returns
        -------
        decisions : list of dict
            Decisions that have not been withdrawn.

        Warns
        -----
        RuntimeWarning
            If a line is incomplete, which happens to the last line in a crash. The line is skipped.
        """
        latest = {}
        for decision in self._lines():
            item = decision["image"] or decision["source"]
            latest.pop(item, None)
            latest[item] = decision
        return [decision for decision in latest.values() if decision["what"] != "withdrawn"]

    def counts(self):
        """Return a Counter with the number of decisions of each kind."""
        return Counter(decision["what"] for decision in self.decisions())

    def _lines(self):
        place = self._own(_FILE)
        lines = place.read_bytes().split(b"\n") if place.exists() else []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                decision = json.loads(line)
            except ValueError:
                message = f"{place}, line {number}: expected a decision as JSON, got an incomplete line. It is skipped."
                warn(message, RuntimeWarning, stacklevel=4)
                continue
            if not _is_decision(decision):
                raise ValueError(
                    f"{place}, line {number}: expected a decision: a JSON object with the keys what (one of {_WHATS}), "
                    f"source, image, mask and label (0, 1 or null), got {line[:80].decode(errors='replace')!r}. "
                    "Correct the line or remove it."
                )
            yield {"image": None, "mask": None, "label": None, **decision}

    def _own(self, name):
        """Return a path in the folder of decisions. Links, and paths that lead outside the folder, are refused."""
        place = self.path / _OWN / name
        if place.is_symlink() or not self._holds(place):
            raise ValueError(f"{str(place)!r}: expected a path within the folder, got a link. Remove the link.")
        return place

    def _write(self, name, content):
        place = self._own(name.removeprefix(f"{_OWN}/"))
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, content)
        return name

    def _append(self, decision):
        decision = {**decision, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        place = self._own(_FILE)
        place.parent.mkdir(exist_ok=True)
        with open(place, "a+b") as file:
            # If a crash has left an incomplete line, start a new line. A line that another process is still writing
            # looks incomplete, too. In this case, a blank line results, which readers skip.
            torn = file.tell() > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write(b"\n" * torn + json.dumps(decision).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return decision


def load_review(path):
    """Read the decisions of an expert as data for `fit`, `partial_fit` and the augmenters.

    Parameters
    ----------
    path : str or path-like
        Folder with which `python -m sklearn_exdd.review` was started.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X : list of pathlib.Path, length n_decisions
            Files of accepted synthetic defects and of corrected images, in the order of the decisions. The images are
            not read.
        y : ndarray of shape (n_decisions,), dtype int
            Labels: 1 for a defect, 0 for a normal image.
        masks : list of pathlib.Path or None, length n_decisions
            Masks of the defects. The entry is None for normal images and for defects without a mask.
        kinds : ndarray of shape (n_decisions,), dtype str
            Kind of each image. This is "normal" for a normal image, the prompt for a defect that was generated from a
            prompt, and "defect" for any other defect.
        provenance : list of dict, length n_decisions
            Decisions as dictionaries with the keys "what" ("accepted" or "corrected"), "source" and "time". The source
            is the corrected image, or the normal image that a synthetic defect was made on, as a path relative to the
            folder. Synthetic defects also have "generator", "prompt", "model" and "seed".

    Raises
    ------
    FileNotFoundError
        If the folder, or a file named by a decision, does not exist.
    ValueError
        If a line is not a decision, or if it names a file outside the folder.

    Warns
    -----
    RuntimeWarning
        If a line is incomplete, which happens to the last line in a crash. The line is skipped.

    Notes
    -----
    If there are several decisions on an image or a synthetic defect, the latest decision is used. Rejected defects and
    withdrawn decisions are left out.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sklearn_exdd.review import ReviewFolder, load_review
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, masks = make_surface_defects(1, defect_fraction=1, image_shape=(64, 64), random_state=0)
    >>> with TemporaryDirectory() as path:
    ...     Image.fromarray(X[0]).save(f"{path}/part.png")
    ...     _ = ReviewFolder(path).correct("part.png", 1, masks[0])
    ...     data = load_review(path)
    >>> data.X[0].name, data.y.tolist(), data.masks[0].suffix
    ('part.png', [1], '.png')
    """
    folder = ReviewFolder(path)
    decisions = [decision for decision in folder.decisions() if decision["label"] is not None]
    masks = [decision["mask"] if decision["label"] == 1 else None for decision in decisions]
    return Bunch(
        X=[folder.locate(decision["image"] or decision["source"]) for decision in decisions],
        y=np.array([decision["label"] for decision in decisions], dtype=int),
        masks=[None if mask is None else folder.locate(mask) for mask in masks],
        kinds=np.array([_kind(decision) for decision in decisions], dtype=str),
        provenance=decisions,
    )


def _kind(decision):
    return "normal" if decision["label"] == 0 else decision.get("prompt") or "defect"


def _is_under_review(name):
    return name.partition("/")[0] not in ("masks", _OWN)


def _is_decision(decision):
    if not isinstance(decision, dict):
        return False
    if decision.get("what") not in _WHATS or decision.get("label") not in (0, 1, None):
        return False
    files = [decision.get(name) for name in ("image", "mask") if decision.get(name) is not None]
    return all(isinstance(name, str) for name in [decision.get("source"), *files])


def _png(pixels):
    from PIL import Image

    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype.kind == "f":
        pixels = np.rint(pixels * 65535).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
