"""Search for duplicates: images with the same pixels, and images that share their fine details."""

import numpy as np
from scipy import fft, ndimage, sparse
from scipy.sparse.csgraph import connected_components

SIDE = 128  # height and width of reduced images, in pixels
# Number of other images that each image is compared with. The images with the most similar hashes are selected.
_N_NEAREST = 8
_REACH = SIDE // 10  # maximum distance, in pixels, by which a part may have moved between two photographs
_PADDING = 16  # number of pixels of padding before a Fourier transform, at least _REACH
_BLOCK = 32  # height and width of a block, in pixels
# Minimum correlation of copies. Images of different parts of one cloth reach 0.75. JPEG copies, resized copies and
# repeated photographs reach at least 0.8.
_MIN_CORRELATION = 0.75
_MARGIN = 0.5  # minimum difference between copies and most other pairs, in Fisher z-transformed correlations
_N_PAIRS = 300  # number of random pairs from which the correlation of images that are not copies is estimated


def group_equal(digests):
    """Group the positions of equal digests.

    Parameters
    ----------
    digests : list of hashable

    Returns
    -------
    groups : list of list of int
        One group for each digest that occurs more than once. A group holds the positions of its digest.
    """
    places = {}
    for index, digest in enumerate(digests):
        places.setdefault(digest, []).append(index)
    return [group for group in places.values() if len(group) > 1]


def group_alike(reduced):
    """Group images that share their fine details, such as copies of an image and photographs of one part.

    Parameters
    ----------
    reduced : ndarray of shape (n_images, SIDE, SIDE)
        Grey images, reduced to a common size.

    Returns
    -------
    groups : list of list of int
        Positions of the images in each group. A group has at least two images. Each of them shares its details with
        another image of the group.

    Notes
    -----
    First, the mean of all images is subtracted. The perceptual hash (pHash) of the library ImageHash then selects pairs
    of images with similar hashes. A hash of 64 bits cannot distinguish parts that have the same surface. The two images
    of each pair are therefore shifted onto each other, and the correlation of their fine details is computed in blocks.
    The median correlation of a pair must reach the level of copies and lie clearly above the level of other pairs.
    Rotated and mirrored copies are not found.
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
    """Remove lighting, which is coarse, and noise, which is fine. Return the remaining details."""
    return ndimage.gaussian_filter(image, 1) - ndimage.gaussian_filter(image, SIDE / 16)


def _candidates(images):
    """Return the pairs of images with similar hashes, as positions (i, j) with i < j."""
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
    """Shift one image onto the other and return the median of the correlations of their blocks."""
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
    """Return the correlation that copies must exceed.

    It is the 0.9 quantile of the correlations of random pairs, plus a margin.
    """
    n_images = len(details)
    rng = np.random.RandomState(0)
    if n_images < 10:  # with so few images, copies may dominate the random pairs and raise the quantile
        return _MIN_CORRELATION
    first = rng.randint(n_images, size=_N_PAIRS)
    second = (first + rng.randint(1, n_images, size=_N_PAIRS)) % n_images
    usual = np.quantile([_correlation(details[i], details[j]) for i, j in zip(first, second)], 0.9)
    return max(_MIN_CORRELATION, float(np.tanh(np.arctanh(np.clip(usual, 0, 0.9999)) + _MARGIN)))
