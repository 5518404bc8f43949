"""Duplicates: images with the same pixels, and images that share their details."""

import numpy as np
from scipy import fft, ndimage, sparse
from scipy.sparse.csgraph import connected_components

SIDE = 128  # pixels that images are reduced to
_N_NEAREST = 8  # candidates of an image, by the bits in which their hashes differ
_REACH = SIDE // 10  # pixels by which the part may have moved
_PADDING = 16  # pixels, at least _REACH
_BLOCK = 32  # pixels
_MIN_CORRELATION = 0.75  # cloth, whose threads repeat, reaches 0.75; JPEG, a new size or a second photograph leave 0.8
_MARGIN = 0.5  # of the z-transformed correlation over that of other pairs, where all parts look alike
_N_PAIRS = 300  # drawn to learn how much any two images have in common


def group_equal(digests):
    """Group equal digests.

    Parameters
    ----------
    digests : list of hashable

    Returns
    -------
    groups : list of list of int
        Positions of each digest that occurs more than once.
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
        Grey images, all reduced to one size.

    Returns
    -------
    groups : list of list of int
        Each with two images or more; every image of a group shares its details with another one of it.

    Notes
    -----
    What all images have in common is subtracted. Candidates are the nearest images by the perceptual hash (pHash) of
    the library ImageHash. A hash of 64 bits cannot tell apart parts of one surface. Candidates are therefore shifted
    onto each other, and the correlation of fine details is computed in blocks. Its median has to be that of a copy,
    and clearly above that of other pairs. Turned and mirrored copies are not found.
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
    """Keep what is finer than lighting and coarser than noise."""
    return ndimage.gaussian_filter(image, 1) - ndimage.gaussian_filter(image, SIDE / 16)


def _candidates(images):
    """Return pairs (i, j), i < j, of images whose hashes are near."""
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
    """Return the median over blocks of the correlation, after one image has been shifted onto the other."""
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
    """Cut an image into blocks, and subtract the mean of each."""
    rows, columns = (length // _BLOCK for length in image.shape)
    cut = image[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    blocks = cut.swapaxes(1, 2).reshape(rows * columns, -1)
    return blocks - blocks.mean(axis=1, keepdims=True)


def _least(details):
    """Return the correlation that copies exceed: more than nine of ten pairs of images reach, by a margin."""
    n_images = len(details)
    rng = np.random.RandomState(0)
    if n_images < 10:  # few pairs, of which many may be copies
        return _MIN_CORRELATION
    first = rng.randint(n_images, size=_N_PAIRS)
    second = (first + rng.randint(1, n_images, size=_N_PAIRS)) % n_images
    usual = np.quantile([_correlation(details[i], details[j]) for i, j in zip(first, second)], 0.9)
    return max(_MIN_CORRELATION, float(np.tanh(np.arctanh(np.clip(usual, 0, 0.9999)) + _MARGIN)))
