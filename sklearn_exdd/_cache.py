"""Cache of results in a joblib.Memory, with checksums that reveal damaged entries."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.validation import check_memory

from sklearn_exdd._code import fingerprint_of_code, versions

#: Constraint on every `memory` parameter.
MEMORY = [str, os.PathLike, HasMethods("cache"), None]


def cached(memory, kind, key, compute):
    """Return the result for a key from the cache. If it is missing, compute and cache it.

    Parameters
    ----------
    memory : str, path-like, joblib.Memory or None
        Cache to use. None disables caching.
    kind : str
        Kind of result.
    key : str
        Fingerprint of everything that the result depends on.
    compute : callable
        Function without arguments that computes the result. It is called only if the result is not in the cache, and
        must not return None.

    Returns
    -------
    result : object
    """
    result = load(memory, kind, key)
    if result is None:
        result = compute()
        store(memory, kind, key, result)
    return result


def load(memory, kind, key):
    """Return the cached result for a key, or None if its entry is missing or damaged."""
    if memory is None:
        return None
    entries, key = _entries(memory), _entry(kind, key)
    if not entries.check_call_in_cache(key):
        return None
    try:
        content, checksum = entries(key)
        if checksum == _checksum(key, content):
            return pickle.loads(content)
    except _MissingEntry:
        return None
    except (TypeError, ValueError):
        pass  # the damaged entry does not even consist of bytes and a checksum
    entries.call_and_shelve(key).clear()
    return None


def store(memory, kind, key, result):
    """Store a result in the cache. The result must not be None."""
    if memory is not None:
        _entries(memory)(_entry(kind, key), result)


def fingerprint(*things):
    """Return a checksum of arrays and other objects.

    Parameters
    ----------
    *things : object
        Objects to include. A list may hold images, masks, paths and None. Files are identified by path, size and
        modification time.

    Returns
    -------
    fingerprint : str
    """
    total = hashlib.sha256()
    for thing in things:
        if isinstance(thing, list):
            total.update(f"list {len(thing)} {fingerprint(*map(_as_array, thing))}".encode())
        elif isinstance(thing, os.PathLike) or (isinstance(thing, str) and os.path.exists(thing)):
            stat = os.stat(thing) if os.path.exists(thing) else None  # a missing file is reported when it is read
            state = stat and (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)  # tools can reset mtime, but not ctime
            total.update(f"file {os.path.abspath(thing)} {state}".encode())
        elif isinstance(thing, np.ndarray) and thing.dtype.kind in "buif":
            total.update(f"{thing.dtype} {thing.shape}".encode())
            total.update(np.ascontiguousarray(thing))  # twice as fast as joblib.hash
        else:
            total.update(f"other {fingerprint_of_code(thing)}".encode())
    return total.hexdigest()


def fingerprint_of_pixels(images, masks=None):
    """Return a checksum of the pixels of images and masks. Only one image is in memory at a time.

    Parameters
    ----------
    images : Images
    masks : sequence of ndarray or None, default=None
        Mask of each image.

    Returns
    -------
    fingerprint : str
    """
    masks = [None] * len(images) if masks is None else masks
    regions = [[] if images.region(i) is None else [images.region(i)] for i in range(len(images))]
    return fingerprint(*(fingerprint(images.original(i), mask, *regions[i]) for i, mask in enumerate(masks)))


def _as_array(item):
    if hasattr(item, "region"):  # an ImageInRegion, which has a region of interest
        return [item.image, item.region]
    return item if item is None or isinstance(item, (str, os.PathLike)) else np.asarray(item)


def folder_of(memory):
    """Return the folder of a cache, for results that are stored outside of joblib's entries.

    Parameters
    ----------
    memory : str, path-like, joblib.Memory or None

    Returns
    -------
    folder : pathlib.Path or None
        Folder of the cache, or None if caching is disabled.
    """
    location = getattr(memory, "location", memory)
    if location is not None and not isinstance(location, (str, os.PathLike)):
        raise ValueError(
            f"memory: expected a path or a joblib.Memory in a folder, got {memory!r} without a folder. Pass a path."
        )
    return None if location is None else Path(location)


def as_memory(memory):
    """Return the joblib.Memory for the value of a `memory` parameter, or None if the value is None."""
    if memory is None:
        return None
    return check_memory(os.fspath(memory) if isinstance(memory, os.PathLike) else memory)


def _entry(kind, key):
    return f"{kind} {key} {versions()}"  # versions affect even results computed from arrays alone


def _entries(memory):
    return as_memory(memory).cache(_stored, ignore=["result"])


class _MissingEntry(Exception):
    pass


def _stored(key, result=None):
    if result is None:
        raise _MissingEntry  # joblib calls this function if the entry has vanished or cannot be read
    content = pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL)
    return content, _checksum(key, content)


def _checksum(key, content):
    checksum = hashlib.sha256(key.encode())
    checksum.update(content)
    return checksum.digest()
