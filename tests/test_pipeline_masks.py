"""Masks and regions of interest in Pipelines of augmenters and a detector: none is lost on the way."""

import numpy as np
import pytest
from conftest import name_of
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline

from sklearn_exdd import (
    CombinedDefectDetector,
    DefectClassifier,
    ExDDDetector,
    LinearProbeDetector,
    PatchClassifierDetector,
    SegmentationDetector,
    StudentTeacherDetector,
)
from sklearn_exdd.augment import (
    AugmentedImages,
    CutPasteDefectAugmenter,
    DefectPasteAugmenter,
    MixedDefectAugmenter,
    OffsetDefectAugmenter,
    PerlinDefectAugmenter,
)
from sklearn_exdd.datasets import with_roi

MIXTURE = MixedDefectAugmenter([("a", OffsetDefectAugmenter()), ("b", PerlinDefectAugmenter())])
AUGMENTERS = [
    CutPasteDefectAugmenter(n_synthetic=4, min_contrast=0.3, random_state=3),
    DefectPasteAugmenter(n_synthetic=4, min_contrast=0.3, random_state=3),
    MIXTURE.set_params(n_synthetic=4, random_state=3),
    OffsetDefectAugmenter(n_synthetic=0),
]
PATCHES = {"classifier": LogisticRegression(), "random_state": 0}
STEPS = {"max_steps": 2, "random_state": 0}
DETECTORS = [
    lambda cells: ExDDDetector(cells, random_state=0),
    lambda cells: PatchClassifierDetector(cells, **PATCHES),
    lambda cells: CombinedDefectDetector([("a", ExDDDetector(cells)), ("b", ExDDDetector(cells, blur=0))]),
    lambda _: SegmentationDetector(random_state=0).set_params(
        feature_extractor__max_steps=2, feature_extractor__crop_size=32
    ),
    lambda cells: StudentTeacherDetector(cells, channels=(8, 16), **STEPS),
]


@pytest.fixture
def received(monkeypatch):
    """Return the masks of the defect images with which each detector is fitted, in turn."""
    received = []
    for detector in (ExDDDetector, PatchClassifierDetector, SegmentationDetector, StudentTeacherDetector):
        monkeypatch.setattr(detector, "_fit", recording(detector._fit, received))
    monkeypatch.setattr(CombinedDefectDetector, "_fit", recording(CombinedDefectDetector._fit, received))
    return received


def recording(fit, received):
    def _fit(self, normal, defect):
        received.append(None if defect is None or defect.masks is None else defect.masks.raw())
        return fit(self, normal, defect)

    return _fit


def step(name, value):
    return {f"{name}__masks": value}


def assert_same(masks, expected):
    assert len(masks) == len(expected)
    for one, other in zip(masks, expected):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("augmenter", AUGMENTERS, ids=name_of)
def test_masks_given_to_an_augmenter_reach_the_detector(augmenter, squares, cells):
    X, y, masks = squares
    pipeline = make_pipeline(clone(augmenter), ExDDDetector(cells, random_state=0))
    first, last = (name for name, _ in pipeline.steps)
    both = clone(pipeline).fit(X, y, **step(first, masks), **step(last, masks))
    one = clone(pipeline).fit(X, y, **step(first, masks))
    np.testing.assert_array_equal(one[-1].defect_bank_.features, both[-1].defect_bank_.features)
    assert one[-1].threshold_ == both[-1].threshold_
    without = clone(pipeline).fit(X, y, **step(first, masks), **step(last, [None] * len(y)))
    assert without[-1].threshold_ != both[-1].threshold_


@pytest.mark.slow
@pytest.mark.parametrize("make", DETECTORS, ids=lambda make: name_of(make(None)))
def test_every_detector_takes_them(make, squares, cells, received):
    X, y, masks = squares
    pipeline = make_pipeline(OffsetDefectAugmenter(n_synthetic=4, random_state=0), make(cells))
    pipeline.fit(X, y, offsetdefectaugmenter__masks=masks)
    assert_same(received[0], masks[y == 1])


def test_masks_reach_a_second_augmenter(squares, cells, received):
    X, y, masks = squares
    steps = OffsetDefectAugmenter(n_synthetic=2, random_state=0), DefectPasteAugmenter(n_synthetic=2, random_state=0)
    pipeline = make_pipeline(*steps, ExDDDetector(cells, random_state=0))
    pipeline.fit(X, y, offsetdefectaugmenter__masks=masks)
    assert_same(pipeline[1].masks_, masks[y == 1])
    assert_same(received[0], masks[y == 1])
    augmenters = make_pipeline(*map(clone, steps)).fit(X, y, offsetdefectaugmenter__masks=masks)
    assert_same(augmenters[-1].masks_, masks[y == 1])


def test_own_masks_come_first(squares, cells, received):
    X, y, masks = squares
    pipeline = make_pipeline(OffsetDefectAugmenter(n_synthetic=2, random_state=0), ExDDDetector(cells, random_state=0))
    wider = masks | np.roll(masks, 1, axis=1)
    pipeline.fit(X, y, offsetdefectaugmenter__masks=masks, exdddetector__masks=np.where(y[:, None, None], wider, False))
    assert_same(received[0], wider[y == 1])


def test_masks_of_defect_images_passed_separately_reach_the_detector(squares, cells, received):
    X, y, masks = squares
    pipeline = make_pipeline(OffsetDefectAugmenter(n_synthetic=2, random_state=0), ExDDDetector(cells, random_state=0))
    pipeline.fit(X[y == 0], X[y == 1], offsetdefectaugmenter__masks=masks[y == 1])
    assert_same(received[0], masks[y == 1])


def test_masks_come_back_from_the_memory_of_a_pipeline(squares, cells, received, tmp_path):
    X, y, masks = squares
    steps = OffsetDefectAugmenter(n_synthetic=2, random_state=0), ExDDDetector(cells, random_state=0)
    for _ in range(2):
        make_pipeline(*map(clone, steps), memory=str(tmp_path)).fit(X, y, offsetdefectaugmenter__masks=masks)
        assert_same(received[-1], masks[y == 1])


def test_a_search_cuts_masks_with_the_folds(squares, cells, received):
    X, y, masks = squares
    pipeline = make_pipeline(OffsetDefectAugmenter(random_state=0), ExDDDetector(cells, random_state=0))
    search = GridSearchCV(pipeline, {"offsetdefectaugmenter__n_synthetic": [0, 2]}, cv=2, error_score="raise")
    search.fit(X, y, offsetdefectaugmenter__masks=masks)
    assert [len(own) for own in received] == [3, 3, 3, 3, 6]
    assert_same(received[-1], masks[y == 1])


def test_with_routing_a_detector_may_do_without(squares, cells, received, routing):
    X, y, masks = squares
    augmenter = OffsetDefectAugmenter(n_synthetic=2, random_state=0)
    for request, expected in ((True, masks[y == 1]), (False, None), ("own_masks", masks[y == 1])):
        detector = ExDDDetector(cells, random_state=0).set_fit_request(masks=request)
        make_pipeline(augmenter, detector).fit(X, y, masks=masks)
        if expected is None:
            assert received[-1] is None
        else:
            assert_same(received[-1], expected)


def test_with_routing_groups_reach_the_folds_and_the_detector(squares, cells, monkeypatch, routing):
    X, y, masks = squares
    groups, seen, fit = np.arange(len(y)) // 3, [], ExDDDetector._fit
    monkeypatch.setattr(
        ExDDDetector, "_fit", lambda self, *sets: seen.append([own.groups for own in sets]) or fit(self, *sets)
    )
    pipeline = make_pipeline(OffsetDefectAugmenter(random_state=0), ExDDDetector(cells, random_state=0))
    search = GridSearchCV(pipeline, {"offsetdefectaugmenter__n_synthetic": [2]}, cv=StratifiedGroupKFold(2))
    search.fit(X, y, masks=masks, groups=groups)
    folds = [train for train, _ in StratifiedGroupKFold(2).split(X, y, groups)]
    for own, rows in zip(seen, [*folds, np.arange(len(y))], strict=True):
        _, numbers = np.unique(groups[rows], return_inverse=True)
        for label in (0, 1):
            np.testing.assert_array_equal(own[label], numbers[y[rows] == label])


def test_an_augmenter_keeps_masks_that_it_does_not_use(squares):
    X, y, masks = squares
    first = OffsetDefectAugmenter(n_synthetic=1, random_state=0).fit_transform(X, y, masks=masks)
    second = PerlinDefectAugmenter(n_synthetic=0).fit_transform(first, y)
    for augmented in (first, second):
        assert isinstance(augmented, AugmentedImages)
        assert augmented.masks is masks
        assert len(augmented.synthetic.images) == 1


@pytest.mark.parametrize("augmenter", AUGMENTERS, ids=name_of)
def test_a_mask_that_marks_a_normal_image_is_refused_by_augmenters_too(augmenter, squares):
    X, y, masks = squares
    normal, masks = int(np.flatnonzero(y == 0)[1]), masks.copy()
    masks[normal, 4:6, 4:6] = True
    with pytest.raises(ValueError, match=rf"^masks\[{normal}\]: expected None or an empty mask for a normal image"):
        clone(augmenter).fit(X, y, masks=masks)


@pytest.mark.parametrize(
    "make",
    [
        *DETECTORS,
        lambda cells: LinearProbeDetector(cells, random_state=0),
        lambda _: DefectClassifier("efficientnet_lite0", random_state=0),
    ],
    ids=lambda make: name_of(make(None)),
)
def test_a_region_given_after_the_augmenter_is_refused(make, squares, cells):
    X, y, _ = squares
    roi = np.zeros((64, 64), dtype=bool)
    roi[:24, :24] = True
    pipeline = make_pipeline(OffsetDefectAugmenter(n_synthetic=2, random_state=0), make(cells))
    with pytest.raises(ValueError, match=r"^roi: .*Attach the region before the augmenter, as in pipeline"):
        pipeline.fit(X[y == 0], **{f"{pipeline.steps[-1][0]}__roi": roi})


def test_a_region_attached_before_the_augmenter_reaches_both(squares, cells):
    X, y, masks = squares
    roi = np.ones((64, 64), dtype=bool)
    roi[:8] = False
    pipeline = make_pipeline(OffsetDefectAugmenter(n_synthetic=2, random_state=0), ExDDDetector(cells, random_state=0))
    pipeline.fit(with_roi(X, roi), y, offsetdefectaugmenter__masks=masks)
    assert not any(mask[~roi].any() for mask in pipeline[-1].synthetic_.masks)


def test_a_subclass_may_give_fit_another_signature(cells, surfaces):
    X, y, masks = surfaces

    class Own(ExDDDetector):
        def fit(self, X, y=None):
            return super().fit(X, y)

    own = Own(cells, random_state=0).fit(X, y)
    np.testing.assert_array_equal(own.score_samples(X), ExDDDetector(cells, random_state=0).fit(X, y).score_samples(X))
    augmenter = OffsetDefectAugmenter(n_synthetic=2, random_state=0)
    pipelines = [make_pipeline(clone(augmenter), kind(cells, random_state=0)) for kind in (Own, ExDDDetector)]
    own, other = (one.fit(X, y, offsetdefectaugmenter__masks=masks).decision_function(X) for one in pipelines)
    np.testing.assert_array_equal(own, other)
