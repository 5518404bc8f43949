"""Duplicates: images with the same pixels, and images that share their details."""

import numpy as np
from scipy import fft, ndimage, sparse
from scipy.sparse.csgraph import connected_components

SIDE = 128  # side of reduced images, in pixels
_N_NEAREST = 8  # number of candidates for an image: those whose hashes differ in the fewest bits
_REACH = SIDE // 10  # pixels by which a part may have moved
_PADDING = 16  # pixels, at least _REACH
_BLOCK = 32  # pixels
_MIN_CORRELATION = 0.75  # different parts of cloth reach 0.75; JPEG, resized and rephotographed copies keep 0.8
_MARGIN = 0.5  # distance by which the z-transformed correlation of copies must exceed that of usual pairs
_N_PAIRS = 300  # random pairs from which the usual correlation is estimated


def group_equal(digests):
    """Group equal digests.

    Parameters
    ----------
    digests : list of hashable

    Returns
    -------
    groups : list of list of int
        Positions of the digests that occur more than once, grouped by digest.
    """
    places = {}
    for index, digest in enumerate(digests):
        places.setdefault(digest, []).append(index)
    return [group for group in places.values() if len(group) > 1]


def group_alike(reduced):
    """Group images that share their details: copies, and photographs of one part.

    Parameters
    ----------
    reduced : ndarray of shape (n_images, SIDE, SIDE)
        Grey images, reduced to a common size.

    Returns
    -------
    groups : list of list of int
        Groups of at least two images. Each image shares its details with another image of its group.

    Notes
    -----
    The mean of all images is subtracted. Candidates are the nearest images by the perceptual hash (pHash) of the
    library ImageHash. A hash of 64 bits cannot distinguish parts of one surface. Candidates are therefore shifted onto
    each other, and the correlation of their fine details is computed in blocks. Its median must be as high as that of a
    copy and clearly higher than that of other pairs. Rotated and mirrored copies are not found.
    """
    n_images = len(reduced)
    if n_images < 2:
        return []
    level = np.maximum(reduced.mean(axis=(1, 2), keepdims=True), 1e-6)
    relative = reduced / level
    relative -= relative.mean(axis=0) if n_images > 4 else 1
    details = [_details(one) for one in relative]
    has_details = [one.std() > 1e-4 for one in details]
    pairs = [pair for pair in _candidates(relative) if has_details[pair[0]] and has_details[pair[1]]]
    correlations = {pair: _correlation(details[pair[0]], details[pair[1]]) for pair in pairs}
    least = _least(details) if max(correlations.values(), default=0) > _MIN_CORRELATION else _MIN_CORRELATION
    chosen = [pair for pair, correlation in correlations.items() if correlation > least]
    if not chosen:
        return []
    rows, columns = np.array(chosen).T
    graph = sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=(n_images, n_images))
    _, labels = connected_components(graph, directed=False)
    return group_equal(labels.tolist())


def _details(image):
    """Keep details that are finer than lighting and coarser than noise."""
    return ndimage.gaussian_filter(image, 1) - ndimage.gaussian_filter(image, SIDE / 16)


def _candidates(images):
    """Return pairs (i, j), i < j, of images with similar hashes."""
    signs = 1 - 2 * np.stack([_hash(image) for image in images]).astype(np.float32)
    n_nearest, pairs = min(_N_NEAREST, len(images) - 1), set()
    for i, own in enumerate(signs):
        bits = (signs.shape[1] - signs @ own) / 2
        bits[i] = np.inf
        nearest = np.argpartition(bits, n_nearest - 1)[:n_nearest]
        pairs |= {(min(i, j), max(i, j)) for j in nearest.tolist()}
    return sorted(pairs)


def _hash(image):
    import imagehash
    from PIL import Image

    low, high = image.min(), image.max()
    levels = np.rint(255 * (image - low) / max(high - low, 1e-9)).astype(np.uint8)
    return imagehash.phash(Image.fromarray(levels)).hash.ravel()


def _correlation(details, others):
    """Shift one image onto the other and return the median correlation over blocks."""
    first, second = details - details.mean(), others - others.mean()
    shape = (SIDE + _PADDING, SIDE + _PADDING)
    products = fft.irfft2(fft.rfft2(first, shape) * fft.rfft2(second, shape).conj(), shape)
    near = np.roll(products, (_REACH, _REACH), axis=(0, 1))[: 2 * _REACH + 1, : 2 * _REACH + 1]
    down, right = np.array(np.unravel_index(near.argmax(), near.shape)) - _REACH
    first, second = _blocks(_moved(first, down, right)), _blocks(_moved(second, -down, -right))
    norms = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return float(np.median((first * second).sum(axis=1) / np.maximum(norms, 1e-12)))


def _moved(image, down, right):
    return image[max(down, 0) : SIDE + min(down, 0), max(right, 0) : SIDE + min(right, 0)]


def _blocks(image):
    """Cut an image into blocks and subtract the mean of each block."""
    rows, columns = (length // _BLOCK for length in image.shape)
    cut = image[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    blocks = cut.swapaxes(1, 2).reshape(rows * columns, -1)
    return blocks - blocks.mean(axis=1, keepdims=True)


def _least(details):
    """Return the correlation that copies must exceed: the 0.9 quantile over random pairs, plus a margin."""
    n_images = len(details)
    rng = np.random.RandomState(0)
    if n_images < 10:  # too few pairs: many of them may be copies, and their quantile would not be usual
        return _MIN_CORRELATION
    first = rng.randint(n_images, size=_N_PAIRS)
    second = (first + rng.randint(1, n_images, size=_N_PAIRS)) % n_images
    usual = np.quantile([_correlation(details[i], details[j]) for i, j in zip(first, second)], 0.9)
    return max(_MIN_CORRELATION, float(np.tanh(np.arctanh(np.clip(usual, 0, 0.9999)) + _MARGIN)))
