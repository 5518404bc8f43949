"""The vote on the kind of a defect: which kinds the rows of a defect bank have that its patches come nearest to."""

import numpy as np

from sklearn_exdd.banks.memory_bank import MemoryBank


class KindVoters:
    """The rows of a defect bank that have a kind, each of which votes for its own.

    Parameters
    ----------
    bank : MemoryBank
        Defect bank.
    kinds : ndarray of shape (n_rows,), dtype str
        Kind of each row; rows with "" are not asked.
    n_neighbors : int
        Number of rows that each patch asks; all, if fewer have a kind.
    """

    def __init__(self, bank, kinds, n_neighbors):
        rows = np.flatnonzero(kinds != "")
        self.kinds, self._numbers = np.unique(kinds[rows], return_inverse=True)
        self._n_neighbors = min(n_neighbors, len(rows))
        # A few patches of an image are searched, so that an index would not win back its compilation.
        self._bank = MemoryBank(bank.features[rows], algorithm="brute") if len(rows) else None

    def votes(self, features):
        """Count the kinds of the rows nearest to some patches of an image.

        Parameters
        ----------
        features : ndarray of shape (n_patches, n_features)

        Returns
        -------
        votes : dict of str to float
            Share of the rows that have each kind, in (0, 1]; the largest first and, of equal ones, the kind with the
            nearest row. Kinds without a row are left out; without any row that has a kind, the dict is empty.
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
