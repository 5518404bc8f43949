"""Corrections of the loaded detector. Each correction is applied at once, has a number, and can be undone exactly."""

import copy
from threading import Lock
from typing import NamedTuple

from sklearn_exdd._composition import follow_to_detector, partial_fit, reaches
from sklearn_exdd.review.roi import cut_to, region_of_interest

# Kinds of images that are counted separately; see Change for their meaning.
NEW, UNTOLD, KNOWN, CORRECTED = "new", "untold", "known", "corrected"


class State(NamedTuple):
    """Detector, which is never modified, its verdicts so far, by image name, and the corrections it has learned."""

    detector: object
    judged: dict
    steps: tuple = ()


class Step(NamedTuple):
    """Applied correction, with its decision in the folder and the state before the correction."""

    decision: dict
    before: State


class Figures(NamedTuple):
    """Numbers of found defects, of all defects, of false alarms and of all normal images in a set of images."""

    n_found: int
    n_defects: int
    n_alarms: int
    n_normals: int


class Change(NamedTuple):
    """Effect of corrections on one kind of images: figures before and after, and the changed verdicts.

    Parameters
    ----------
    kind : {"new", "untold", "known", "corrected"}
        Relation of the images to the detector:

        * "new": `fit` has not used them.
        * "known": `fit` has used them.
        * "untold": the detector cannot tell whether `fit` has used them.
        * "corrected": the detector has learned them from corrections.
    before, after : Figures
        Figures before and after the corrections.
    changed : list of str
        Names of the images whose verdict has changed.
    """

    kind: str
    before: Figures
    after: Figures
    changed: list


class Corrections:
    """Corrections of a detector. The state before each correction is stored, so that it can be restored.

    Parameters
    ----------
    detector : object
        Fitted detector. Corrections are applied to copies of it; the attribute `corrections_` of a copy lists them.
    folder : ReviewFolder
        Folder under review. Each decision is written to the folder before it is applied.
    busy : threading.Lock
        Lock that is held while the detector computes.

    Attributes
    ----------
    state : State
        Detector with all corrections. It is replaced as a whole, so that readers in other threads never see a detector
        with the corrections of another one.
    """

    def __init__(self, detector, folder, busy):
        self.folder, self.busy = folder, busy
        self.loaded = self.state = State(detector, {})
        self._is_known = {}
        self._changing = Lock()

    @property
    def steps(self):
        """Corrections applied so far, as a tuple of Step; the first has number 1."""
        return self.state.steps

    @property
    def can_learn(self):
        """Whether the detector, or the detector inside a Pipeline or a search, has `partial_fit`."""
        return reaches(self.loaded.detector, "partial_fit", allow_frozen=False)

    def applied(self):
        """List the corrections that the detector has learned, on this page or before it was saved and loaded."""
        return list(getattr(self.state.detector, "corrections_", ()))

    def kept(self):
        """List the corrections in the folder that the detector has not learned, from the oldest to the latest."""
        applied = self.applied()
        return [own for own in self.folder.decisions() if own["what"] == "corrected" and own not in applied]

    def roi(self, name):
        """Return the region of interest of an image, or None; see :func:`.roi.region_of_interest`."""
        return region_of_interest(self.loaded.detector, self.folder.locate(name))  # corrections never change it

    def add(self, name, label, region=None):
        """Write the true label of an image to the folder and correct the detector.

        Parameters
        ----------
        name : str
            Name of the image.
        label : {0, 1}
            True label: 0 for normal, 1 for a defect.
        region : ndarray of shape (height, width), dtype bool, default=None
            Region of the defect. Only the part within the region of interest of the detector is kept.

        Returns
        -------
        is_cut : bool
            Whether a part of the region was cut off.

        Raises
        ------
        ValueError
            If the image has been corrected before, if the region lies outside the region of interest, or if the
            detector fails. In the last case, the decision is kept.
        """
        region, is_cut = (None, False) if region is None else cut_to(self.roi(name), region)
        with self._changing:
            if self.can_learn:
                self._check_new(name)
            decision = self.folder.correct(name, label, region)
            if self.can_learn:
                self._apply(decision)
        return is_cut

    def apply_kept(self):
        """Apply the corrections that :meth:`kept` lists, in the same order."""
        with self._changing:
            for decision in self.kept():
                self._check_new(decision["source"])
                self._apply(decision)

    def undo(self, step, *, is_last=False):
        """Restore the state before a correction. Its decision and the decisions of all later corrections are withdrawn.

        Parameters
        ----------
        step : Step
            Item of `steps`.
        is_last : bool, default=False
            Whether to refuse if other corrections have been applied after this one.
        """
        with self._changing:
            self._undo(step, is_last)

    def take_back(self):
        """Withdraw the latest decision of the folder; if it is the latest correction, undo it, too.

        Returns
        -------
        decision : dict or None
            Withdrawn decision, or None without any decision.
        """
        with self._changing:  # nobody may apply the decision in the meantime
            decision = next(reversed(self.folder.decisions()), None)
            steps = [step for step in self.steps if step.decision == decision]
            if steps:
                self._undo(steps[-1], is_last=True)
            elif decision is not None:
                self.folder.withdraw(decision)
        return decision

    def _undo(self, step, is_last):
        numbers = [number for number, own in enumerate(self.steps, start=1) if own is step]
        name = step.decision["source"]
        if not numbers:
            raise ValueError(f"The correction of {name!r} has already been undone. Nothing has changed.")
        if is_last and numbers[0] < len(self.steps):
            raise ValueError(
                f"{name!r} is correction {numbers[0]}, and others have been applied after it. Undo it in the list of "
                "corrections."
            )
        while len(self.steps) >= numbers[0]:
            self.folder.withdraw(self.steps[-1].decision)
            self.state = self.steps[-1].before

    def _check_new(self, name):
        kinds = ("normal", "a defect")
        for number, step in enumerate(self.steps, start=1):
            if step.decision["source"] == name:
                kind = kinds[step.decision["label"]]
                raise ValueError(f"Correction {number} has already called {name!r} {kind}. Undo it first.")
        for decision in self.applied()[: -len(self.steps) or None]:
            if decision["source"] == name:
                raise ValueError(
                    f"The loaded detector has already learned that {name!r} is {kinds[decision['label']]}. To correct "
                    "the image again, start the page with a detector that was saved before this correction."
                )

    def _apply(self, decision):
        name, mask = decision["source"], decision["mask"]
        try:
            with self.busy:
                detector = copy.deepcopy(self.state.detector)
                mask = None if mask is None else self.folder.locate(mask)
                label = _labels(detector)[decision["label"]]
                partial_fit(detector, [self.folder.locate(name)], [label], masks=[mask])
                detector.corrections_ = [*self.applied(), decision]
        except Exception as error:  # a detector may raise anything
            raise ValueError(
                f"The correction of {name!r} is stored in the folder, but the detector failed and is unchanged: "
                f"{str(error) or repr(error)}"
            ) from error
        self.state = State(detector, {}, (*self.steps, Step(decision, self.state)))

    def look(self, name):
        """Ask the loaded detector whether `fit` has used an image, and remember the answer."""
        if name not in self._is_known:
            detector = self.loaded.detector
            is_known = None
            if reaches(detector, "is_training_image"):
                detector, X = follow_to_detector(detector, [self.folder.locate(name)], method="is_training_image")
                is_known = bool(detector.is_training_image(X)[0])
            self._is_known[name] = is_known

    def changes(self, before, after):
        """Compare two states on the labelled images that were scored in both states.

        Parameters
        ----------
        before, after : State
            States to compare.

        Returns
        -------
        changes : list of Change
            One item for each kind of images. Kinds without images are left out.
        n_left_out : int
            Number of labelled images that can be read but have not been scored in both states.
        """
        entries = [entry for entry in self.folder.entries() if entry.problem is None]
        labels = {entry.name: entry.label for entry in entries}
        labels |= {own["source"]: own["label"] for own in self.folder.decisions() if own["what"] == "corrected"}
        entries = [entry for entry in entries if labels[entry.name] is not None]
        scored = [entry for entry in entries if entry.name in before.judged and entry.name in after.judged]
        corrected, of_kind = {own["source"] for own in self.applied()}, {}
        for entry in scored:
            one, two = (state.judged[entry.name].score for state in (before, after))
            if one is not None and two is not None:
                kind = {None: UNTOLD, True: KNOWN, False: NEW}[self._is_known.get(entry.name)]
                kind = CORRECTED if entry.name in corrected else kind
                of_kind.setdefault(kind, []).append((entry.name, labels[entry.name], one > 0, two > 0))
        changes = [
            Change(
                kind,
                _figures([(label, one) for _, label, one, _ in of_kind[kind]]),
                _figures([(label, two) for _, label, _, two in of_kind[kind]]),
                [name for name, _, one, two in of_kind[kind] if one != two],
            )
            for kind in (NEW, UNTOLD, KNOWN, CORRECTED)
            if kind in of_kind
        ]
        return changes, len(entries) - len(scored)


def _figures(verdicts):
    """Count defects, normal images, found defects and false alarms in a list of pairs (label, is_alarm)."""
    found, alarms = ([is_alarm for label, is_alarm in verdicts if label == kind] for kind in (1, 0))
    return Figures(sum(found), len(found), sum(alarms), len(alarms))


def _labels(detector):
    """Return the label for normal and the label for defect in the classes of a detector."""
    inner, _ = follow_to_detector(detector, method="partial_fit", allow_frozen=False)
    classes = inner.classes_.tolist()
    positive = next(
        (own for own in (getattr(inner, name, None) for name in ("pos_label_", "pos_label")) if own is not None),
        classes[-1],
    )
    return next(label for label in classes if label != positive), positive
