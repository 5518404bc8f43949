"""Results that a joblib.Memory keeps, with checksums, so that a damaged one is noticed whatever the damage."""

import hashlib
import pickle

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
    if memory is None:
        return compute()
    stored = check_memory(memory).cache(_stored, ignore=["feature_map"])
    key = f"{kind} {key}"
    result = _from_cache(stored, key)
    if result is None:
        result = compute()
        stored(key, result)
    return result


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
