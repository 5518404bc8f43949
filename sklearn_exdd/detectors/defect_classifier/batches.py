"""Batches of training images. The two classes can be balanced."""

import numpy as np


class Batches:
    """Training batches, given as the positions of their images.

    Parameters
    ----------
    labels : ndarray of shape (n,), dtype int
        Labels of all images, 0 or 1.
    training : ndarray of int
        Positions of the images to train on.
    size : int
        Number of images in a batch.
    balanced : bool
        Whether each batch contains as many normal images as defect images. In this case, an epoch skips some images of
        the larger class and repeats images of the smaller class.
    seed : int
    """

    def __init__(self, labels, training, size, balanced, seed):
        self.classes = [training[labels[training] == label] for label in (0, 1)] if balanced else [training]
        self.size = min(size, len(training))
        self.n_per_epoch = -(-len(training) // self.size)
        self.seed = seed

    def rows(self, step):
        """Return the positions of the images in a step. The last batch of an epoch is also full."""
        epoch, place = divmod(step, self.n_per_epoch)
        random_state = np.random.RandomState([self.seed, epoch, 1])
        order = np.empty(self.n_per_epoch * self.size, dtype=int)
        for i, rows in enumerate(self.classes):
            turns = order[i :: len(self.classes)]
            turns[:] = np.resize(random_state.permutation(rows), len(turns))
        return order[place * self.size : (place + 1) * self.size]
