"""Results that a joblib.Memory keeps, with checksums, so that a damaged one is noticed whatever the damage."""

import hashlib
import os
import pickle

import joblib
import numpy as np
from sklearn.utils.validation import check_memory


def recall(memory, kind, key, compute):
    """What was computed before for the same key, or what `compute` gives now.

    Parameters
    ----------
    memory : str, joblib.Memory or None
        None keeps nothing.
    kind : str
        Of the result.
    key : str
        Hash of all that the result depends on.
    compute : callable
        Without arguments.

    Returns
    -------
    result : object
    """
    result = kept(memory, kind, key)
    if result is None:
        result = compute()
        keep(memory, kind, key, result)
    return result


def kept(memory, kind, key):
    """What is kept under a key, or None."""
    return None if memory is None else _from_cache(_entries(memory), f"{kind} {key}")


def keep(memory, kind, key, result):
    """Keep a result, which is not None."""
    if memory is not None:
        _entries(memory)(f"{kind} {key}", result)


def digest(*things):
    """Checksum of arrays and whatever else can be pickled; of a file, of where it is and when it was changed.

    Parameters
    ----------
    *things : object
        A list is one of images, masks, paths and None.

    Returns
    -------
    digest : str
    """
    total = hashlib.sha256()
    for thing in things:
        if isinstance(thing, list):
            total.update(f"list {len(thing)} {digest(*map(_as_array, thing))}".encode())
        elif isinstance(thing, os.PathLike) or (isinstance(thing, str) and os.path.exists(thing)):
            stat = os.stat(thing) if os.path.exists(thing) else None  # who reads it will say so
            state = stat and (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)  # the last one nobody can set back
            total.update(f"file {os.path.abspath(thing)} {state}".encode())
        elif isinstance(thing, np.ndarray) and thing.dtype.kind in "buif":
            total.update(f"{thing.dtype} {thing.shape}".encode())
            total.update(np.ascontiguousarray(thing))  # twice as fast as joblib.hash
        else:
            total.update(f"other {joblib.hash(thing)}".encode())
    return total.hexdigest()


def _as_array(item):
    return item if item is None or isinstance(item, (str, os.PathLike)) else np.asarray(item)


def _entries(memory):
    return check_memory(memory).cache(_stored, ignore=["feature_map"])


class _NotStored(Exception):
    pass


def _stored(key, feature_map=None):
    if feature_map is None:
        raise _NotStored  # the entry went missing or cannot be read: it is made again
    content = pickle.dumps(feature_map, protocol=pickle.HIGHEST_PROTOCOL)
    return content, _checksum(key, content)


def _from_cache(stored, key):
    """What `stored` keeps under a key, undamaged, or None."""
    if key is None or not stored.check_call_in_cache(key):
        return None
    try:
        content, checksum = stored(key)
        if checksum == _checksum(key, content):
            return pickle.loads(content)
    except _NotStored:
        return None
    except (TypeError, ValueError):
        pass  # damaged so that it is not even bytes and their checksum
    stored.call_and_shelve(key).clear()
    return None


def _checksum(key, content):
    digest = hashlib.sha256(key.encode())
    digest.update(content)
    return digest.digest()
