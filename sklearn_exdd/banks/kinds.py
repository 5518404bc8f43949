"""Vote on the kind of a defect by the rows of the defect bank nearest to the patches of the defect."""

import numpy as np

from sklearn_exdd.banks.memory_bank import MemoryBank


class KindVoters:
    """Rows of a defect bank that have a kind. Each row votes for its own kind.

    Parameters
    ----------
    bank : MemoryBank
        Defect bank.
    kinds : ndarray of shape (n_rows,), dtype str
        Kind of each row. The kind of rows that do not vote is "".
    n_neighbors : int
        Number of rows that vote on each patch. If fewer rows have a kind, all of them vote.
    """

    def __init__(self, bank, kinds, n_neighbors):
        rows = np.flatnonzero(kinds != "")
        self.kinds, self._numbers = np.unique(kinds[rows], return_inverse=True)
        self._n_neighbors = min(n_neighbors, len(rows))
        # An index would not pay off, because only a few patches of each image are searched.
        self._bank = MemoryBank(bank.features[rows], algorithm="brute") if len(rows) else None

    def votes(self, features):
        """Count the votes of the rows nearest to the given patches of an image.

        Parameters
        ----------
        features : ndarray of shape (n_patches, n_features)

        Returns
        -------
        votes : dict of str to float
            Fraction of the votes for each kind, in (0, 1], in descending order. If two kinds have the same fraction,
            the kind of the nearer row comes first. Kinds without a vote are left out. If no row has a kind, the dict is
            empty.
        """
        if self._bank is None:
            return {}
        distances, rows = self._bank.kneighbors(features, self._n_neighbors)
        numbers = self._numbers[rows].ravel()
        counts = np.bincount(numbers, minlength=len(self.kinds))
        nearest = np.full(len(self.kinds), np.inf)
        np.minimum.at(nearest, numbers, distances.ravel())
        order = np.lexsort((nearest, -counts))
        return {str(self.kinds[i]): float(counts[i] / len(numbers)) for i in order if counts[i]}
