"""Page of a check. It shows the findings with their images."""

import numpy as np

from sklearn_exdd._images import Masks, read_image
from sklearn_exdd.cli.pages import as_picture, data_uri, fitted, jpeg, write_page

_N_SHOWN = 12  # maximum number of images shown for one finding
_SIDE = 240  # maximum length of the longer side of a shown image, in pixels
_N_PICTURES = 1200  # maximum number of images on a page, which then has about 20 MB
_MARK = np.array([255, 90, 0])  # RGB colour of masks


def write_check(path, folder, findings, data):
    """Write the page.

    Parameters
    ----------
    path : pathlib.Path
    folder : str
    findings : Findings
    data : dict
        Arguments of the check: X (paths of the images), y, masks, groups and splits.
    """
    shown, room = [], _N_PICTURES
    for finding in findings:
        indices = finding.indices[: min(_N_SHOWN, room)]
        room -= len(indices)
        with_mask = finding.kind.startswith("mask")
        pictures = [_picture(data, index, with_mask) for index in indices]
        labels = [_label(data, index) for index in indices]
        rows = list(zip(finding.images, pictures, labels)) or [(name, None, "") for name in finding.images[:_N_SHOWN]]
        shown.append((finding, rows, len(finding.images) - len(rows)))
    write_page(
        path, "check.html", folder=folder, summary=findings.summary(), shown=shown, not_checked=findings.not_checked
    )


def _label(data, index):
    """Return the label, split and group of an image as text."""
    known = [] if data["y"] is None else ["defect" if data["y"][index] else "normal"]
    known += [data["splits"][index]] if data["splits"] is not None else []
    known += [f"group {data['groups'][index]}"] if data["groups"] is not None else []
    return ", ".join(known)


def _picture(data, index, with_mask):
    """Return a thumbnail of an image, or None if the image cannot be read.

    If `with_mask` is True, the thumbnail shows the mask beside the image.
    """
    try:
        picture = fitted(as_picture(read_image(data["X"][index])), _SIDE)
    except (OSError, ValueError):
        return None
    if with_mask and data["masks"] is not None and data["masks"][index] is not None:
        picture = _beside_mask(picture, data["masks"][index])
    return {"uri": data_uri(jpeg(picture)), "width": picture.width, "height": picture.height}


def _beside_mask(picture, mask):
    """Return a picture that shows an image twice, the second time with the mask painted over it.

    If the mask cannot be read, return the image alone.
    """
    from PIL import Image

    try:
        mask = Masks([mask], 1).get(0)
    except (OSError, ValueError):
        return picture
    marks = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(picture.size), dtype=float)[..., None] / 255
    painted = (1 - 0.6 * marks) * np.asarray(picture) + 0.6 * marks * _MARK
    pair = Image.new("RGB", (2 * picture.width + 4, picture.height), "white")
    pair.paste(picture, (0, 0))
    pair.paste(Image.fromarray(np.rint(painted).astype(np.uint8)), (picture.width + 4, 0))
    return pair
