"""Review session, independent of the page: make defects, store decisions, and rank images by likely mistakes."""

from threading import Lock
from typing import NamedTuple

import numpy as np
from sklearn.base import clone

from sklearn_exdd._composition import follow_to_detector, reaches
from sklearn_exdd._images.roi import with_roi
from sklearn_exdd._map_colors import is_around_peak, map_threshold
from sklearn_exdd.augment import CutPasteDefectAugmenter, OffsetDefectAugmenter, PerlinDefectAugmenter
from sklearn_exdd.review.corrections import Corrections
from sklearn_exdd.review.drawing import preview
from sklearn_exdd.review.roi import check_regions, cut_to

_THUMBNAIL = 96
_N_THUMBNAILS = 2048

# Augmenters that learn nothing from the normal images. The keys are the names on the page.
_CHEAP = {
    "Offset: pits, stains, scratches": OffsetDefectAugmenter,
    "Perlin: another texture": PerlinDefectAugmenter,
    "CutPaste: a piece from elsewhere": CutPasteDefectAugmenter,
}


class Made(NamedTuple):
    """Synthetic defect, whether a part of the drawn region was cut off, and the recipe that made the defect."""

    image: np.ndarray
    mask: np.ndarray
    visible: bool
    is_cut: bool
    recipe: dict


class Judged(NamedTuple):
    """Verdict of a detector on an image.

    `score` is relative to the threshold. If the image cannot be read or the detector fails, `score` is None and
    `problem` holds the message.
    """

    entry: object
    score: object
    problem: object

    @property
    def surprise(self):
        """Amount by which the verdict looks wrong.

        The amount is positive for a missed defect, and for an alarm on an image that is not labelled as a defect.
        """
        return -self.score if self.entry.label == 1 else self.score


class Located(NamedTuple):
    """Place of a defect according to a detector: map, marked pixels, threshold of the map and a sentence on both."""

    map: np.ndarray
    mask: np.ndarray
    threshold: float
    found: str


class ReviewSession:
    """Review of a folder, with generators that make defects and a detector to correct.

    Parameters
    ----------
    folder : ReviewFolder
        Folder with the images and decisions.
    detector : object, default=None
        Fitted detector with the method `decision_function`. If it has the method `predict_map`, the page shows its
        anomaly maps. The detector is not modified, because corrections are applied to copies.
    augmenters : dict of str to object, default=None
        Further generators, by their names on the page. An augmenter with a parameter `prompts` is cloned and fitted
        with the prompt of the expert. All other augmenters must be fitted.

    Raises
    ------
    ValueError
        If the detector needs a region of interest with each image, which the images of a folder do not carry.
    """

    def __init__(self, folder, detector=None, augmenters=None):
        if detector is not None:
            check_regions(detector, folder)
        self.folder = folder
        self.generators = (augmenters or {}) | {name: augmenter() for name, augmenter in _CHEAP.items()}
        self._thumbnails = {}
        self._busy = Lock()  # one computation at a time, because each uses all cores or the only GPU
        self.corrections = None if detector is None else Corrections(detector, folder, self._busy)

    @property
    def detector(self):
        """Detector with all applied corrections, or None if the session has no detector."""
        return None if self.corrections is None else self.corrections.state.detector

    def sources(self):
        """List the images to make defects on.

        These are the images labelled normal. If the folder has no such images, they are the images without a label.
        """
        entries = [entry for entry in self.folder.entries() if entry.label != 1]
        normal = [entry for entry in entries if entry.label == 0]
        return normal or entries

    def thumbnail(self, entry):
        """Return the thumbnail of an image (bytes of a PNG file) and None, or None and the reason why it failed."""
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
        """List the files that the page cannot use, with the reasons.

        Returns
        -------
        left_out : list of (str, str)
            Names and reasons, sorted by name. The list contains the files that are never read. It also contains the
            images for which the thumbnail or the detector has failed so far.
        """
        reasons = {entry.name: entry.problem for entry in [*self.folder.left_out(), *self.folder.entries()]}
        found = {name: problem for name, (_, problem) in dict(self._thumbnails).items()}  # other threads add to them
        judged = {} if self.corrections is None else dict(self.corrections.state.judged)
        found |= {name: one.problem for name, one in judged.items() if not found.get(name)}
        reasons |= {name: problem for name, problem in found.items() if name in reasons and problem}
        return sorted((name, reason) for name, reason in reasons.items() if reason)

    def takes_prompt(self, generator):
        """Return True if a generator needs a prompt."""
        return hasattr(self.generators[generator], "prompts")

    def open(self, name):
        """Read an image.

        Parameters
        ----------
        name : str
            Name of the image.

        Returns
        -------
        image : ndarray of shape (height, width) or (height, width, 3)
        roi : ndarray of shape (height, width), dtype bool, or None
            Region of interest of the detector; None for the whole image.
        """
        return self.folder.read(name), self.roi(name)

    def roi(self, name):
        """Return the region of interest of the detector in an image, or None for the whole image."""
        return None if self.corrections is None else self.corrections.roi(name)

    def make(self, source, region, generator, *, prompt=None, seed=0):
        """Make a synthetic defect.

        Parameters
        ----------
        source : str
            Name of the image to make the defect on.
        region : ndarray of shape (height, width), dtype bool
            Region of the defect. Only the part within the region of interest of the detector is used.
        generator : str
            Name of the generator in `generators`.
        prompt : str, default=None
            Description of the defect, for a generator that needs a prompt.
        seed : int, default=0
            Seed of the random numbers.

        Returns
        -------
        made : Made
        """
        if not region.any():
            raise ValueError("Expected a region, got an empty one. Draw where the defect goes.")
        roi, augmenter, images = self.roi(source), self.generators[generator], [self.folder.locate(source)]
        region, is_cut = cut_to(roi, region)
        if roi is not None:
            images = with_roi(images, roi)
        with self._busy:
            if self.takes_prompt(generator):
                augmenter = clone(augmenter).set_params(prompts=[prompt or ""], prompt_shares=None).fit(images)
            elif generator in _CHEAP:
                augmenter = clone(augmenter).fit(images)
            made = augmenter.paint(images[0], region, random_state=seed)
        provenance = made.provenance[0]
        recipe = {
            "generator": provenance["augmenter"],
            "prompt": provenance["prompt"],
            "model": provenance["model"],
            "seed": seed,
        }
        return Made(made.images[0], made.masks[0], provenance["visible"], is_cut, {"source": source, **recipe})

    def decide(self, made, accept):
        """Write the decision on a synthetic defect to the folder."""
        return self.folder.decide("accepted" if accept else "rejected", image=made.image, mask=made.mask, **made.recipe)

    def judge(self, entry, state=None):
        """Score an image with a state of the detector. Each state scores an image only once.

        Parameters
        ----------
        entry : Entry
            Image to score.
        state : State, default=None
            State of the detector. By default, the current state.

        Returns
        -------
        judged : Judged
        """
        state = self.corrections.state if state is None else state
        detector, known = state.detector, state.judged
        if entry.name not in known:
            score, problem = None, entry.problem
            if problem is None:
                try:
                    with self._busy:
                        score = float(detector.decision_function([self.folder.locate(entry.name)])[0])
                        self.corrections.look(entry.name)
                except Exception as error:  # a detector may raise anything; the other images are still scored
                    score, problem = None, str(error)
            known[entry.name] = Judged(entry, score, problem)
        return known[entry.name]

    def take_back(self):
        """Withdraw the latest decision. If it is a correction, also undo it in the detector.

        Returns
        -------
        decision : dict or None
            Withdrawn decision, or None if the folder contains no decision.
        """
        if self.corrections is not None:
            return self.corrections.take_back()
        decision = next(reversed(self.folder.decisions()), None)
        if decision is not None:
            self.folder.withdraw(decision)
        return decision

    def worst_first(self, judged):
        """Sort images by the order in which an expert should look at them.

        Parameters
        ----------
        judged : list of Judged
            Verdicts to sort.

        Returns
        -------
        ranking : list of Judged
            Verdicts, with the most likely mistakes first and images without a score last.
        """
        return sorted(judged, key=lambda item: (item.score is None, 0 if item.score is None else -item.surprise))

    def locate(self, name):
        """Locate the defect in an image with the current detector.

        Parameters
        ----------
        name : str
            Name of the image.

        Returns
        -------
        located : Located or None
            Location of the defect, or None if the detector computes no anomaly maps.
        """
        detector = self.detector  # one state, even if a correction is applied in the meantime
        if not reaches(detector, "predict_map"):
            return None
        with self._busy:
            detector, X = follow_to_detector(detector, [self.folder.locate(name)])
            threshold = float(map_threshold(detector))
            result = detector.inspect(X)[0] if hasattr(detector, "inspect") else None
            anomaly_map = detector.predict_map(X)[0] if result is None else result.map
            decision = detector.decision_function(X)[0] if result is None else result.decision
        if result is None or result.mask is None:
            found = "Outlined: pixels above the threshold." if decision > 0 else "Normal."
            return Located(anomaly_map, (anomaly_map > threshold) & (decision > 0), threshold, found)
        n_regions, area = len(result.regions), sum(region.area for region in result.regions)
        found = f"Outlined: {n_regions} region{'s' * (n_regions != 1)} of {area} pixels" if n_regions else "Normal"
        if is_around_peak(result.mask, anomaly_map, threshold):
            found += " around the peak; none exceeds the pixel threshold"
        elif n_regions:
            found += " above the pixel threshold"
        return Located(anomaly_map, result.mask, threshold, f"{found}. P-value {result.p_value:.2g}.")
