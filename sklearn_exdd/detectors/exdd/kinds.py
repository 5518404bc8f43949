"""Kinds of defects in an ExDDDetector. They are predicted from the kinds of the rows in its defect bank."""

import numpy as np

from sklearn_exdd.banks.kinds import KindVoters
from sklearn_exdd.detectors.base.kinds import KindPredictions


class Kinds(KindPredictions):
    """Mixin of :class:`ExDDDetector` that assigns kinds to the rows of the defect bank and counts their votes."""

    __metadata_request__partial_fit = {"kinds": True}

    def _name_rows(self, normal, defect):
        """Set `defect_kinds_` and `kinds_`. Rows that were added by earlier calls keep their kinds."""
        is_told = any(part is not None and part.kinds is not None for part in (normal, defect))
        if not (is_told or hasattr(self, "defect_kinds_")):
            return
        known, bank = getattr(self, "defect_kinds_", np.empty(0, dtype="U1")), self.defect_bank_
        kind_of = {}
        if defect is not None and defect.kinds is not None:
            kind_of = dict(zip(defect.indices.tolist(), defect.kinds.tolist()))
        names = []
        if bank is not None:
            rows = slice(len(known), None)
            for image, is_synthetic in zip(bank.provenance["image"][rows], bank.provenance["synthetic"][rows]):
                names.append((self._provenance(image).get("prompt") or "") if is_synthetic else kind_of.get(image, ""))
        self.defect_kinds_ = np.concatenate([known, np.array(names, dtype=str)])
        self.kinds_ = np.unique(self.defect_kinds_[self.defect_kinds_ != ""])

    def _vote(self, banks):
        """Return a function that computes the votes of an image from its scores, rings and features.

        The function returns None if the detector has no kinds.
        """
        if not hasattr(self, "kinds_"):
            return lambda *image: None
        if banks.defect is None:
            return lambda *image: {}
        voters = KindVoters(banks.defect, self.defect_kinds_, banks.n_neighbors_in(banks.defect))

        def vote(scores, rings, features):
            top = np.argsort(-banks.relative_scores(scores, rings), kind="stable")[: self.n_top_patches]
            # In an image of a small defect, most of the top patches show normal surroundings, not a kind of defect.
            is_asking = scores.normal_distances[top] > self._normal_cutoff
            is_asking[0] = True
            return voters.votes(features[top[is_asking]])

        return vote

    def _row_votes(self, samples):
        banks, ring = self._banks(), np.zeros(1, dtype=np.intp)
        scores, vote = banks.patch_scores(samples), self._vote(banks)
        for i, score in enumerate(self._score(samples)):
            yield score, vote(scores.take(slice(i, i + 1)), ring, samples[i : i + 1])
