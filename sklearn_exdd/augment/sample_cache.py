"""Cache of finished samples on disk, as PNG and JSON files."""

import hashlib
import io
import json
from warnings import warn

import numpy as np

from sklearn_exdd._files import write_whole

_MAX_PIXELS = 80_000_000  # maximum number of pixels in a PNG file; Pillow treats larger images as an attack


class SampleCache:
    """Cache of numbered samples in a folder.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the samples. It is created when the first sample is written.

    Notes
    -----
    An entry consists of an image, a mask and a JSON file with the checksums of both. The JSON file is written last, and
    an entry without a JSON file is ignored. Each file is written under a temporary name and then renamed. A crash or
    another process can therefore never leave a partial file.
    """

    def __init__(self, folder):
        self.folder = folder
        self._writable = True

    def read(self, number):
        """Return the image, mask and provenance of a sample, or None if the cache has no valid entry."""
        place = self.folder / f"{number:06d}.json"
        try:
            if not place.exists():
                return None
            entry = json.loads(place.read_text(encoding="utf-8"))
            if entry.pop("sha256") != _digest(entry):
                raise ValueError(f"{place.name} has changed")
            name = f"{number:06d}"
            image, mask = self._checked(entry["image"], name), self._checked(entry["mask"], f"{name}_mask")
            return image, mask.astype(bool), entry["provenance"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warn(
                f"{place}: expected a finished sample, got a damaged one ({error}). The sample is made again.",
                RuntimeWarning,
                stacklevel=3,
            )
            return None

    def write(self, number, image, mask, provenance):
        """Write a sample. If writing fails, warn once and write no more samples."""
        if not self._writable:
            return
        name = f"{number:06d}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            entry = {
                "image": self._stored(name, image),
                "mask": self._stored(f"{name}_mask", mask.astype(np.uint8) * 255),
                "provenance": provenance,
            }
            entry = json.loads(json.dumps(entry, default=lambda value: value.item()))  # NumPy scalars become numbers
            entry["sha256"] = _digest(entry)
            write_whole(self.folder / f"{name}.json", json.dumps(entry, indent=1).encode())
        except OSError as error:
            self._writable = False
            warn(
                f"memory: expected to write into {self.folder}, got {type(error).__name__}: {error}. Samples "
                "are still made, but no longer cached. Free some space, or choose another folder.",
                RuntimeWarning,
                stacklevel=3,
            )

    def _stored(self, name, pixels):
        from PIL import Image

        buffer = io.BytesIO()
        flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
        exact = flat.dtype == np.uint8 or (flat.dtype == np.uint16 and flat.ndim == 2)
        if exact and flat.shape[0] * flat.shape[1] <= _MAX_PIXELS:
            Image.fromarray(flat).save(buffer, format="PNG")
            file = f"{name}.png"
        else:  # pixels that PNG cannot store exactly, or that Pillow would refuse to read
            np.save(buffer, flat)
            file = f"{name}.npy"
        write_whole(self.folder / file, buffer.getvalue())
        return {"file": file, "shape": pixels.shape, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}

    def _checked(self, stored, name):
        from PIL import Image

        if stored["file"] not in (f"{name}.png", f"{name}.npy"):
            raise ValueError(f"it names {stored['file']}, which belongs to another sample")
        content = (self.folder / stored["file"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != stored["sha256"]:
            raise ValueError(f"{stored['file']} has changed")
        if stored["file"].endswith(".npy"):
            pixels = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            pixels = np.asarray(Image.open(io.BytesIO(content), formats=["PNG"]))
        return pixels.reshape(stored["shape"])


def _digest(entry):
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
