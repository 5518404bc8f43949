"""Checks before files are written, and atomic writing."""

import os
import secrets


def check_destination(path):
    """Check that a file can be written to a path: it is not a folder, and the folder of the file exists.

    Parameters
    ----------
    path : pathlib.Path
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected a file to write, got a folder. Add the name of a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: expected an existing folder to write into, found no {str(path.parent)!r}.")


def write_whole(path, content):
    """Write a file atomically, so that it is never incomplete.

    Parameters
    ----------
    path : pathlib.Path
    content : bytes
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # Permissions follow the umask, because a model may be fitted by one user and used by another.
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
