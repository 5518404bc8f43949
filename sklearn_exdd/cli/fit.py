"""Command ``fit``: fit a detector to a folder of images."""

import time
from pathlib import Path

from sklearn.utils.validation import has_fit_parameter

from sklearn_exdd.cli import model
from sklearn_exdd.cli.command import DONE
from sklearn_exdd.cli.evaluation_page import n_needed, percent
from sklearn_exdd.cli.pictures import LAYOUTS, list_images, load_labelled, open_folder

_OPTIONS = ("feature_extractor", "n_neighbors", "n_synthetic", "max_false_alarm_rate", "random_state", "verbose")


def run(options):
    """Fit a detector and write the model."""
    path, folder = model.check_place(options.out), open_folder(options.folder)
    detector, roi = make_detector(options), _region_file(options.roi)
    start = time.perf_counter()
    data = load_labelled(folder, "train")
    if data is None:
        images = [image for image in list_images(folder, path) if roi is None or image.resolve() != roi.resolve()]
        if any(image.parent != folder for image in images):
            raise ValueError(f"{str(folder)!r}: expected {LAYOUTS}; or only normal images, without sub-folders.")
        print(f"{len(images)} images without labels. All are assumed to be normal.")
        detector.fit(images, roi=roi)
    else:
        if roi is not None and roi.resolve() in [Path(image).resolve() for image in data.X]:
            raise ValueError(f"--roi: expected a mask, not an image to fit on, got {str(roi)!r}. Move or replace it.")
        n_defects, n_masks = int(data.y.sum()), sum(mask is not None for mask, y in zip(data.masks, data.y) if y)
        print(f"{len(data.y) - n_defects} normal images, {n_defects} with a defect, {n_masks} of them with a mask.")
        named = sorted({str(kind) for kind in data.kinds} - {"normal", "defect"})
        more = {}
        if named and has_fit_parameter(detector, "kinds"):
            print(f"Kinds of defect: {', '.join(named)}.")
            more = {"kinds": data.kinds}
        detector.fit(data.X, data.y, masks=data.masks, groups=data.groups, roi=roi, **more)
    if roi is not None:
        print(f"Region of interest: {100 * detector.roi_.mean():.0f} % of the pixels.")
    model.save(detector, path)
    print(
        f"{type(detector).__name__} fitted in {time.perf_counter() - start:.0f} s: threshold "
        f"{detector.threshold_:.4g}, at most {100 * detector.false_alarm_rate_:.2g} % false alarms. Written to {path}."
    )
    rate = detector.max_false_alarm_rate
    if detector.false_alarm_rate_ > rate:
        print(f"A promise of {percent(rate)} needs at least {n_needed(rate)} normal images or groups of images.")
    return DONE


def make_detector(options):
    """Make the detector from the options."""
    given = {name: getattr(options, name) for name in _OPTIONS if getattr(options, name) is not None}
    if options.augmenter:
        given["augmenter"] = _make_augmenter(options.augmenter)
    twice = sorted(given.keys() & options.params.keys())
    if twice:
        raise ValueError(
            f"--params: expected parameters that are not set by another option, got {twice[0]!r}. Set it only once."
        )
    detector = _detector_class(options.detector)()
    if any(name.startswith("feature_extractor__") for name in options.params):
        from sklearn_exdd.features import make_feature_extractor

        own = detector.get_params(deep=False).get("feature_extractor", "auto")
        given["feature_extractor"] = make_feature_extractor(given.get("feature_extractor", own))
    try:
        return detector.set_params(**given, **options.params)
    except (AttributeError, TypeError) as error:  # the object of a nested parameter does not have parameters
        names = ", ".join(name for name in options.params if "__" in name)
        raise ValueError(
            f"--params: expected {names} to belong to an object that has parameters, but {error}. Pass an object with "
            "parameters, for example with --augmenter perlin, or leave the parameter out."
        ) from error


def _region_file(text):
    """Return the path of the file with the region of interest, or None."""
    path = None if text is None else Path(text).expanduser()
    if path is None or path.is_file():
        return path
    came, advice = "no such file", "Check the path."
    if text and path.is_dir():
        came, advice = "a folder", "If each image has its own region, fit and predict in Python, with with_roi(X, roi)."
    raise ValueError(f"--roi: expected an image file, one region for all images, found {came}: {text!r}. {advice}")


def _detector_class(name):
    if name == "student_teacher":
        from sklearn_exdd.detectors.student_teacher import StudentTeacherDetector as Detector
    elif name == "segmentation":
        from sklearn_exdd.detectors.segmentation import SegmentationDetector as Detector
    elif name == "classifier":
        from sklearn_exdd.detectors.defect_classifier import DefectClassifier as Detector
    else:
        from sklearn_exdd.detectors.exdd import ExDDDetector as Detector
    return Detector


def _make_augmenter(name):
    from sklearn_exdd import augment

    makers = {
        "cutpaste": augment.CutPasteDefectAugmenter,
        "perlin": augment.PerlinDefectAugmenter,
        "offset": augment.OffsetDefectAugmenter,
        "ddpm": augment.DDPMDefectAugmenter,
        "mixed": augment.default_augmenter,
    }
    return makers[name]()
