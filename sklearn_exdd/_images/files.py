"""Search of a folder for image files, and for other files that must be reported to the user."""

import os
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from sklearn_exdd._images.decoding import IMAGE_SUFFIXES

# Suffixes of texts, tables, documents and programs that accompany images. No image file has one of these suffixes.
_SIDECAR_SUFFIXES = frozenset(
    [
        *(".txt", ".md", ".rst", ".log", ".pdf", ".html", ".htm", ".css", ".js", ".tex", ".rtf"),
        *(".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf"),
        *(".xls", ".xlsx", ".xlsm", ".ods", ".doc", ".docx", ".odt", ".ppt", ".pptx", ".odp", ".parquet", ".feather"),
        *(".db", ".sqlite", ".sqlite3", ".xmp", ".exif", ".md5", ".sha1", ".sha256", ".sha512", ".lock", ".bib"),
        *(".py", ".pyc", ".ipynb", ".r", ".m", ".sh", ".bat", ".cmd", ".ps1", ".exe", ".dll", ".so", ".url"),
        *(".safetensors", ".pt", ".pth", ".ckpt", ".onnx", ".pkl", ".pickle", ".joblib", ".skops"),
    ]
)
_SIDECAR_NAMES = frozenset(["readme", "license", "licence", "copying", "notice", "authors", "changelog", "makefile"])
# Names of files and folders that operating systems and network drives create. Names that start with a dot are not in
# these lists, because hidden files and folders are always skipped.
_COMPANION_FILES = frozenset(["thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"])
_COMPANION_FOLDERS = frozenset(
    [
        *("@eadir", "__macosx", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "$recycle.bin"),
        *("system volume information", "network trash folder", "temporary items", "lost+found", "__pycache__"),
    ]
)


class Listing(NamedTuple):
    """Files in a folder: images, and files that are left out but reported.

    Both lists hold posix paths relative to the folder, in sorted order.
    """

    images: list
    left_out: list


def list_files(folder):
    """Find the images in a folder, at any depth.

    Parameters
    ----------
    folder : pathlib.Path

    Returns
    -------
    listing : Listing
        `left_out` holds links to folders, because links are not followed. It also holds files that may be images, but
        do not have the suffix of a supported format. Hidden files, files that operating systems create, and sidecars
        (texts, tables, documents, programs) are in neither list.

    Raises
    ------
    OSError
        If a folder cannot be listed.
    """
    images, left_out = [], []
    for place, folders, files in os.walk(folder, onerror=_raise):
        within = Path(place).relative_to(folder)
        visible = [name for name in folders if not name.startswith(".") and name.lower() not in _COMPANION_FOLDERS]
        links = [name for name in visible if os.path.islink(os.path.join(place, name))]
        folders[:] = [name for name in visible if name not in links]
        left_out += [within / name for name in links if not _leads_up(place, name)]
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                images.append(within / name)
            elif not _is_companion(name):
                left_out.append(within / name)
    return Listing(*(sorted(path.as_posix() for path in paths) for paths in (images, left_out)))


def why_left_out(path):
    """Return a message that explains why :func:`list_files` leaves out a file that may be an image."""
    if path.is_dir():
        return "expected an image, got a link to a folder, which is not followed. Copy the images."
    came = f"the suffix {path.suffix!r}" if path.suffix else "no suffix"
    return (
        f"expected an image, with one of the suffixes {', '.join(IMAGE_SUFFIXES)}, got {came}. Convert the file, or "
        "remove it if it is not an image."
    )


def _raise(error):
    raise error


def _leads_up(place, name):
    """Tell whether a link leads to the folder that contains the link, or to a parent of this folder."""
    target = os.path.realpath(os.path.join(place, name))
    return Path(os.path.realpath(place)).is_relative_to(target)


def _is_companion(name):
    name = name.lower()
    stem, suffix = os.path.splitext(name)
    return (
        name.startswith(".")
        or name in _COMPANION_FILES
        or name.endswith(":zone.identifier")
        or suffix in _SIDECAR_SUFFIXES
        or (not suffix and stem in _SIDECAR_NAMES)
    )


class Names:
    """Lookup of values by name. It also finds a name that looks the same but is encoded differently.

    Names are compared in Unicode's composed form (NFC), because some systems write the same letter as two characters.
    If no name is equal, a name that differs only in case is found, provided that there is exactly one such name.

    Parameters
    ----------
    pairs : iterable of (str, object)
        Names and their values.
    """

    def __init__(self, pairs):
        self._exact, self._folded = defaultdict(list), defaultdict(list)
        for name, value in pairs:
            self._exact[composed(name)].append(value)
            self._folded[composed(name).casefold()].append((composed(name), value))

    def equal(self, name):
        """Return a list of all values under a name."""
        return self._exact.get(composed(name), [])

    def alike(self, name):
        """Return all values of the name that is equal up to case, or an empty list unless there is exactly one."""
        found = self._folded.get(composed(name).casefold(), [])
        return [value for _, value in found] if len({one for one, _ in found}) == 1 else []

    def find(self, name):
        """Return a list of all values under a name. Case is ignored if the result is then unambiguous."""
        return self.equal(name) or self.alike(name)


def composed(name):
    """Return a name in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", name)
