"""Files that are there whole or not at all."""

import os
import tempfile
from pathlib import Path


def write_whole(path, content):
    """Write a file so that it is there whole or not at all.

    Parameters
    ----------
    path : pathlib.Path
    content : bytes
    """
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
