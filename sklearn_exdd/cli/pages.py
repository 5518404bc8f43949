"""The pages that commands write: HTML files that need nothing else, and the pictures in them."""

import io
import os
from base64 import b64encode
from datetime import datetime
from pathlib import Path

import numpy as np

from sklearn_exdd._files import write_whole


def check_page(path):
    """Make sure, before a long run, that a page can be written.

    Parameters
    ----------
    path : str or None

    Returns
    -------
    path : pathlib.Path or None
        A file that is not there yet, or an earlier page.
    """
    if path is None:
        return None
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out: expected the name of a page to write, such as report.html, got {str(path)!r}.")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        came = "a folder" if path.is_dir() else f"no folder {str(path.parent)!r} that can be written to"
        raise ValueError(f"--out: expected a file to write, got {str(path)!r}: {came}.")
    return path


def write_page(path, template, **facts):
    """Fill in a template and write the page.

    Parameters
    ----------
    path : pathlib.Path
    template : str
        A file beside this module, which extends page.html.
    **facts : dict
        Values for the template, besides the time.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["readable"] = readable
    time = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    write_whole(path, environment.get_template(template).render(time=time, **facts).encode("utf-8"))


def readable(text):
    """Return a text that can be written: names of files may hold bytes that are no text."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def as_picture(image):
    """Return an image as a Pillow image in RGB.

    Parameters
    ----------
    image : ndarray of shape (height, width) or (height, width, 3), dtype uint8, uint16 or float
        If it is not uint8, its largest value becomes white: 12 bits in a file of 16 would be black.
    """
    from PIL import Image

    if image.dtype != np.uint8:
        image = np.rint(255 * (image / max(float(image.max()), 1e-6))).astype(np.uint8)
    return Image.fromarray(image).convert("RGB")


def fitted(picture, side):
    """Return a picture as large as `side`, but of whole pixels if it is smaller."""
    if max(picture.size) >= side:
        picture = picture.copy()
        picture.thumbnail((side, side))
        return picture
    factor = max(1, side // 2 // max(picture.size))
    return picture.resize([factor * length for length in picture.size], resample=0)  # nearest


def jpeg(picture):
    """Return a picture as the bytes of a JPEG file."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=85)
    return content.getvalue()


def data_uri(content):
    """Return the bytes of a JPEG file as a page holds them."""
    return "data:image/jpeg;base64," + b64encode(content).decode()
