"""Memory bank, which holds the patch features of one class and their origin."""

import numbers

import numpy as np
from sklearn.utils.validation import check_array

from sklearn_exdd._cache import fingerprint
from sklearn_exdd.neighbors.bounds import check_distances
from sklearn_exdd.neighbors.exact_search import ExactSearch

# Number of rows up to which "auto" searches by brute force. For more rows, compiling an index pays off within a few
# hundred images (docs/performance.md).
_BRUTE_FORCE_ROWS = 100_000

#: Kinds of provenance that are stored for each row, and their dtypes.
PROVENANCE = {"image": np.intp, "row": np.float32, "column": np.float32, "group": np.intp, "synthetic": np.bool_}


class MemoryBank:
    """Patch features with their provenance, and a search for nearest neighbours.

    Parameters
    ----------
    features : array-like of shape (n_rows, n_features), float
        Patch features.
    provenance : dict of str to array-like of shape (n_rows,), default=None
        Origin of each row. The keys are:

        * ``"image"``: index of the image that the row came from
        * ``"row"`` and ``"column"``: centre of the patch, in pixels of that image
        * ``"group"``: group of the image; the images of one group are left out together
        * ``"synthetic"``: whether an augmenter made the image

        If "image" or "group" is missing, the row number is used. If another key is missing, 0 or False is used.
    algorithm : {"auto", "brute", "pynndescent"}, default="auto"
        Search method:

        * "brute" is exact. Matrix products bound all distances, and only the distances to the few rows that may be
          nearest are measured.
        * "pynndescent" is approximate. It compiles and builds an index [1]_ at the first query, and keeps the index.
        * "auto" selects "pynndescent" for banks of more than 100 000 rows, and "brute" otherwise.
    random_state : int, default=0
        Seed of the index. The same rows and the same seed give the same index.

    Attributes
    ----------
    features : ndarray of shape (n_rows, n_features)
    provenance : dict of str to ndarray of shape (n_rows,)
    n_features : int

    References
    ----------
    .. [1] W. Dong, C. Moses, K. Li, "Efficient k-nearest neighbor graph construction
       for generic similarity measures", WWW 2011.

    Examples
    --------
    >>> from sklearn_exdd import MemoryBank
    >>> bank = MemoryBank([[0.0, 0.0], [3.0, 4.0]])
    >>> distances, indices = bank.kneighbors([[0.0, 0.0]], n_neighbors=2)
    >>> distances.tolist()
    [[0.0, 5.0]]
    >>> indices
    array([[0, 1]])
    """

    def __init__(self, features, provenance=None, *, algorithm="auto", random_state=0):
        if algorithm not in ("auto", "brute", "pynndescent"):
            raise ValueError(f"algorithm: expected 'auto', 'brute' or 'pynndescent', got {algorithm!r}.")
        if not isinstance(random_state, numbers.Integral) or not 0 <= random_state < 2**32:
            raise ValueError(f"random_state: expected an integer in [0, 2**32 - 1], got {random_state!r}.")
        self.features = check_array(features, input_name="features", dtype=[np.float32, np.float64])
        check_distances(self.features, "features")
        self.algorithm = algorithm
        self.random_state = random_state
        self.provenance = self._complete({} if provenance is None else provenance, len(self.features), first=0)
        self._index, self._search, self._parts, self._key = None, None, None, None

    @staticmethod
    def _complete(provenance, n_rows, first):
        if not isinstance(provenance, dict):
            raise ValueError(f"provenance: expected a dict of str to array-like or None, got {provenance!r}.")
        unknown = set(provenance) - set(PROVENANCE)
        if unknown:
            raise ValueError(f"provenance: expected keys among {sorted(PROVENANCE)}, also got {sorted(unknown)}.")
        complete = {}
        for name, dtype in PROVENANCE.items():
            default = np.arange(first, first + n_rows) if name in ("image", "group") else np.zeros(n_rows)
            values = provenance.get(name, default)
            try:
                complete[name] = np.asarray(values, dtype=dtype)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"provenance[{name!r}]: expected one {np.dtype(dtype).name} per row of features, got {values!r}."
                ) from error
            if complete[name].shape != (n_rows,):
                raise ValueError(
                    f"provenance[{name!r}]: expected shape ({n_rows},), one value per row of features, "
                    f"got {complete[name].shape}."
                )
        return complete

    def __len__(self):
        return len(self.features)

    def __repr__(self):
        n_images = len(np.unique(self.provenance["image"]))
        return f"MemoryBank({len(self)} rows of {self.n_features} features from {n_images} images)"

    @property
    def n_features(self):
        return self.features.shape[1]

    @property
    def key(self):
        """Fingerprint of everything that the result of a search depends on."""
        if self._key is None:
            self._key = fingerprint(self.features, self.provenance["group"], (self.algorithm, self.random_state))
        return self._key

    @property
    def is_exact(self):
        """Whether the search is exact, by brute force."""
        return self.algorithm == "brute" or (self.algorithm == "auto" and len(self) <= _BRUTE_FORCE_ROWS)

    @property
    def parts(self):
        """Real rows and synthetic rows, each as a pair of row numbers and a bank of these rows.

        The list is empty if the search is not exact. The parts are searched separately, because candidates of a
        parameter search may differ only in their synthetic defects. Such candidates share the cached neighbours among
        real rows.
        """
        if self._parts is None:
            self._parts, synthetic = [], self.provenance["synthetic"]
            for rows in (np.flatnonzero(~synthetic), np.flatnonzero(synthetic)):
                if len(rows) and self.is_exact:
                    provenance = {name: values[rows] for name, values in self.provenance.items()}
                    part = MemoryBank(self.features[rows], provenance, algorithm="brute")
                    self._parts.append((rows, part))
        return self._parts

    def add(self, features, provenance=None):
        """Append rows.

        Parameters
        ----------
        features : array-like of shape (n_new, n_features)
        provenance : dict of str to array-like of shape (n_new,), default=None
            Origin of each row, as in the constructor.

        Returns
        -------
        self : MemoryBank
        """
        features = check_array(features, dtype=self.features.dtype)
        check_distances(features, "features")
        if features.shape[1] != self.n_features:
            raise ValueError(f"features: expected {self.n_features} columns as in the bank, got {features.shape[1]}.")
        first = 1 + int(max(self.provenance["image"].max(), self.provenance["group"].max()))
        new = self._complete({} if provenance is None else provenance, len(features), first)
        self.provenance = {name: np.concatenate([old, new[name]]) for name, old in self.provenance.items()}
        self.features = np.concatenate([self.features, features])
        self._index, self._search, self._parts, self._key = None, None, None, None
        return self

    def n_left_without(self, groups):
        """Return the number of rows that do not belong to a group, for one or several groups.

        Parameters
        ----------
        groups : int or array-like of int

        Returns
        -------
        n_rows : ndarray of the shape of `groups`
        """
        known, sizes = np.unique(self.provenance["group"], return_counts=True)
        position = np.searchsorted(known, groups).clip(max=len(known) - 1)
        return len(self) - np.where(known[position] == groups, sizes[position], 0)

    def place(self, index):
        """Return the origin of a row.

        Parameters
        ----------
        index : int

        Returns
        -------
        place : dict
            Dict with "image" (int), "patch" (row and column in pixels) and "synthetic" (bool).
        """
        origin = {name: values[index].item() for name, values in self.provenance.items()}
        return {
            "image": origin["image"],
            "patch": (origin["row"], origin["column"]),
            "synthetic": origin["synthetic"],
        }

    def kneighbors(self, X, n_neighbors=1, *, exclude=None):
        """Find the nearest rows of the bank.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
        n_neighbors : int, default=1
        exclude : int or array-like of shape (n_queries,), default=None
            Group whose rows are ignored, for each query or for all queries.

        Returns
        -------
        distances : ndarray of shape (n_queries, n_neighbors)
            Euclidean distances, ascending, in the dtype of the bank.
        indices : ndarray of shape (n_queries, n_neighbors), dtype intp
            Row numbers in the bank. Ties are broken arbitrarily.

        Raises
        ------
        ValueError
            If `n_neighbors` is larger than the number of rows that are not excluded, if `X` has a different number of
            features than the bank, or if the squares of its numbers are too large for its dtype.
        """
        X = check_array(X, dtype=self.features.dtype)
        check_distances(X, "X")
        if X.shape[1] != self.n_features:
            raise ValueError(f"X: expected {self.n_features} features as in the bank, got {X.shape[1]}.")
        available = len(self)
        if exclude is not None:
            exclude = np.broadcast_to(exclude, len(X))
            available = int(self.n_left_without(exclude).min(initial=available))
        if not isinstance(n_neighbors, numbers.Integral) or not 1 <= n_neighbors <= available:
            raise ValueError(
                f"n_neighbors: expected an integer in [1, {available}] (the number of rows), got {n_neighbors!r}."
            )
        if self.is_exact:
            return self._exact().kneighbors(X, n_neighbors, exclude)
        return self._search_index(X, n_neighbors, exclude)

    def _exact(self):
        if self._search is None:
            self._search = ExactSearch(self.features, self.provenance["group"])
        return self._search

    def _search_index(self, X, n_neighbors, exclude):
        # A query for one neighbour finds 84 % of the true neighbours. A query for ten neighbours finds nearly all of
        # them.
        n_candidates = min(n_neighbors + 9 + (0 if exclude is None else 20), len(self))
        indices, distances = self._built_index().query(X, k=n_candidates)
        lost = ~np.isfinite(distances) | (indices < 0)
        none = lost if exclude is None else lost | (self.provenance["group"][indices] == exclude[:, None])
        distances, indices = self._exact().measure(X, indices.astype(np.intp), ~none, n_neighbors)
        unsure = lost.any(axis=1) | ~np.isfinite(distances).all(axis=1)
        if unsure.any():
            exclude = None if exclude is None else exclude[unsure]
            distances[unsure], indices[unsure] = self._exact().kneighbors(X[unsure], n_neighbors, exclude)
        return distances, indices

    def _built_index(self):
        if self._index is None:
            from pynndescent import NNDescent

            self._index = NNDescent(self.features, n_neighbors=min(30, len(self) - 1), random_state=self.random_state)
            self._index.prepare()
        return self._index

    def __getstate__(self):
        # The index is not saved, because the same index can be rebuilt from the rows and the seed.
        return {**self.__dict__, "_index": None, "_search": None, "_parts": None}
