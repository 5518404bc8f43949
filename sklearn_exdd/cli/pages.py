"""Writing of HTML pages. Each page is a single file that contains its images."""

import io
from base64 import b64encode
from datetime import datetime
from pathlib import Path

import numpy as np

from sklearn_exdd._files import write_whole
from sklearn_exdd.cli.model import check_place


def check_page(path):
    """Check that a page can be written. This is done before a long run, because its result would be lost otherwise.

    Parameters
    ----------
    path : str or None
        Page to write. The file may be new or an earlier page.

    Returns
    -------
    path : pathlib.Path or None
        Path of the page, or None if `path` is None. The home directory "~" is expanded.
    """
    if path is None:
        return None
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out: expected the name of an HTML page to write, such as report.html, got {str(path)!r}.")
    return check_place(path)


def write_page(path, template, **facts):
    """Fill in a template and write the page.

    Parameters
    ----------
    path : pathlib.Path
    template : str
        Name of the template: a file in the folder of this module that extends page.html.
    **facts : dict
        Values for the template. The current time is added to them.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["readable"] = readable
    time = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    write_whole(path, environment.get_template(template).render(time=time, **facts).encode("utf-8"))


def readable(text):
    """Replace bytes that are not valid text. File names may contain such bytes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def as_picture(image):
    """Convert an image to a Pillow image in RGB.

    Parameters
    ----------
    image : ndarray of shape (height, width) or (height, width, 3), dtype uint8, uint16 or float
        Image to convert. The largest value of a uint16 or float image becomes white. Otherwise, 12-bit values in a
        16-bit file would look black.
    """
    from PIL import Image

    if image.dtype != np.uint8:
        image = np.rint(255 * (image / max(float(image.max()), 1e-6))).astype(np.uint8)
    return Image.fromarray(image).convert("RGB")


def fitted(picture, side):
    """Shrink an image to at most `side` pixels per side. Enlarge a small image by a whole factor."""
    if max(picture.size) >= side:
        picture = picture.copy()
        picture.thumbnail((side, side))
        return picture
    factor = max(1, side // 2 // max(picture.size))
    return picture.resize([factor * length for length in picture.size], resample=0)  # nearest


def jpeg(picture):
    """Compress an image. Return the bytes of the JPEG file."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=85)
    return content.getvalue()


def data_uri(content):
    """Encode the bytes of a JPEG file as a data URI."""
    return "data:image/jpeg;base64," + b64encode(content).decode()
