"""What the page does, without the page: make defects, keep decisions, rank what a detector says."""

from threading import Lock
from typing import NamedTuple

import numpy as np
from sklearn.base import clone

from sklearn_exdd.augment import CutPasteDefectAugmenter, OffsetDefectAugmenter, PerlinDefectAugmenter
from sklearn_exdd.review.corrections import Corrections
from sklearn_exdd.review.drawing import preview

_THUMBNAIL = 96
_N_THUMBNAILS = 2048

# Those that learn nothing from the normal images, by the names that the page gives them.
_CHEAP = {
    "Offset: pits, stains, scratches": OffsetDefectAugmenter,
    "Perlin: another texture": PerlinDefectAugmenter,
    "CutPaste: a piece from elsewhere": CutPasteDefectAugmenter,
}


class Made(NamedTuple):
    """A synthetic defect, and what it was made of."""

    image: np.ndarray
    mask: np.ndarray
    visible: bool
    recipe: dict


class Judged(NamedTuple):
    """What a detector says of an image: its score less the threshold, or why there is none (the other is None)."""

    entry: object
    score: object
    problem: object

    @property
    def surprise(self):
        """How wrong the detector would be: above 0 for an alarm, unless the image is known as a defect, and a miss."""
        return -self.score if self.entry.label == 1 else self.score


class Located(NamedTuple):
    """Where a detector sees a defect: its map, the marked pixels, the threshold and a sentence on what was found."""

    map: np.ndarray
    mask: np.ndarray
    threshold: float
    found: str


class ReviewSession:
    """A folder under review, with what makes and what detects defects.

    Parameters
    ----------
    folder : ReviewFolder
    detector : object, default=None
        Fitted, with ``decision_function(images)`` and, if it locates defects, ``inspect(images)`` or
        ``predict_map(images)``. It stays as it is: corrections are applied to copies.
    augmenters : dict of str to object, default=None
        More generators. One that has a parameter `prompts` is cloned and given the expert's prompt; all others are
        fitted already.
    """

    def __init__(self, folder, detector=None, augmenters=None):
        self.folder = folder
        self.generators = (augmenters or {}) | {name: augmenter() for name, augmenter in _CHEAP.items()}
        self._thumbnails = {}
        self._busy = Lock()  # one at a time: they use all cores, or the only GPU
        self.corrections = None if detector is None else Corrections(detector, folder, self._busy)

    @property
    def detector(self):
        """The detector with all corrections that have been applied, or None."""
        return None if self.corrections is None else self.corrections.state.detector

    def sources(self):
        """The images to make defects on, a list of Entry: those known as normal or, where none is, all but defects."""
        entries = [entry for entry in self.folder.entries() if entry.label != 1]
        normal = [entry for entry in entries if entry.label == 0]
        return normal or entries

    def thumbnail(self, entry):
        """A small picture of an image, bytes of a PNG file, and why there is none (the other is None)."""
        thumbnail = self._thumbnails.get(entry.name)
        if thumbnail is None:
            content, problem = None, entry.problem
            if problem is None:
                try:
                    content = preview(self.folder.read(entry.name), longest=_THUMBNAIL)
                except (OSError, ValueError) as error:
                    problem = str(error)
            if len(self._thumbnails) >= _N_THUMBNAILS:
                self._thumbnails = {}
            thumbnail = self._thumbnails[entry.name] = content, problem
        return thumbnail

    def left_out(self):
        """List the files that the page cannot use, and why.

        Returns
        -------
        left_out : list of (str, str)
            Names and reasons, in the order of the names: files that are not read, and images that could not be read
            so far, by their thumbnails or by the detector.
        """
        reasons = {entry.name: entry.problem for entry in [*self.folder.left_out(), *self.folder.entries()]}
        found = {name: problem for name, (_, problem) in self._thumbnails.items()}
        judged = {} if self.corrections is None else dict(self.corrections.state.judged)
        found |= {name: one.problem for name, one in judged.items() if not found.get(name)}
        reasons |= {name: problem for name, problem in found.items() if name in reasons and problem}
        return sorted((name, reason) for name, reason in reasons.items() if reason)

    def takes_prompt(self, generator):
        """Whether a generator draws what a sentence says."""
        return hasattr(self.generators[generator], "prompts")

    def make(self, source, region, generator, *, prompt=None, seed=0):
        """Make a defect.

        Parameters
        ----------
        source : str
            Name of the image to make it on.
        region : ndarray of shape (height, width), dtype bool
        generator : str
            Its name in `generators`.
        prompt : str, default=None
            For a generator that takes one.
        seed : int, default=0

        Returns
        -------
        made : Made
        """
        if not region.any():
            raise ValueError("Expected a region, got an empty one. Draw where the defect goes.")
        path, augmenter = self.folder.locate(source), self.generators[generator]
        with self._busy:
            if self.takes_prompt(generator):
                augmenter = clone(augmenter).set_params(prompts=[prompt or ""], prompt_shares=None).fit([path])
            elif generator in _CHEAP:
                augmenter = clone(augmenter).fit([path])
            made = augmenter.paint(path, region, random_state=seed)
        provenance = made.provenance[0]
        recipe = {
            "generator": provenance["augmenter"],
            "prompt": provenance["prompt"],
            "model": provenance["model"],
            "seed": seed,
        }
        return Made(made.images[0], made.masks[0], provenance["visible"], {"source": source, **recipe})

    def decide(self, made, accept):
        """Keep the decision on a synthetic defect."""
        return self.folder.decide("accepted" if accept else "rejected", image=made.image, mask=made.mask, **made.recipe)

    def judge(self, entry, state=None):
        """Ask the detector about an image, once between two corrections.

        Parameters
        ----------
        entry : Entry
        state : State, default=None
            Of the detector; None for the present one.

        Returns
        -------
        judged : Judged
        """
        detector, known = self.corrections.state if state is None else state
        if entry.name not in known:
            score, problem = None, entry.problem
            if problem is None:
                try:
                    with self._busy:
                        score = float(detector.decision_function([self.folder.locate(entry.name)])[0])
                        self.corrections.look(entry.name)
                except Exception as error:  # a detector may raise anything, and the others are to be judged
                    score, problem = None, str(error)
            known[entry.name] = Judged(entry, score, problem)
        return known[entry.name]

    def take_back(self):
        """Withdraw the latest decision; a correction is undone in the detector, too.

        Returns
        -------
        decision : dict or None
            None if there is no decision.
        """
        decisions = self.folder.decisions()
        if not decisions:
            return None
        steps = [] if self.corrections is None else [step.decision for step in self.corrections.steps]
        if decisions[-1] not in steps:
            self.folder.withdraw(decisions[-1])
        elif decisions[-1] == steps[-1]:
            self.corrections.undo(len(steps))
        else:
            number = 1 + steps.index(decisions[-1])
            raise ValueError(
                f"{decisions[-1]['source']!r} is correction {number}, and others have been applied after it. Undo it "
                "in the list of corrections."
            )
        return decisions[-1]

    def worst_first(self, judged):
        """In the order in which an expert should look at them.

        Parameters
        ----------
        judged : list of Judged

        Returns
        -------
        ranking : list of Judged
            The most surprising alarms and misses first, what has no score last.
        """
        return sorted(judged, key=lambda item: (item.score is None, 0 if item.score is None else -item.surprise))

    def locate(self, name):
        """Where the detector sees a defect in an image.

        Parameters
        ----------
        name : str

        Returns
        -------
        located : Located or None
            None if the detector has no maps.
        """
        detector = self.detector  # one state, even if a correction is applied in the meantime
        if not hasattr(detector, "predict_map"):
            return None
        paths, threshold = [self.folder.locate(name)], float(detector.threshold_)
        with self._busy:
            result = detector.inspect(paths)[0] if hasattr(detector, "inspect") else None
            anomaly_map = detector.predict_map(paths)[0] if result is None else result.map
        if result is None or result.mask is None:
            return Located(anomaly_map, anomaly_map > threshold, threshold, "Outlined: above the threshold.")
        n_regions, area = len(result.regions), sum(region.area for region in result.regions)
        found = f"Outlined: {n_regions} region{'s' * (n_regions != 1)} of {area} pixels." if n_regions else "Normal."
        return Located(anomaly_map, result.mask, threshold, f"{found} P-value {result.p_value:.2g}.")
