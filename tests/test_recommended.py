"""recommended: the detector it returns for each data set, and that this detector works."""

import numpy as np
import pytest

from sklearn_exdd import CombinedDefectDetector, ExDDDetector, recommended
from sklearn_exdd.datasets import make_surface_defects


def images(n_images):
    return np.zeros((n_images, 64, 64), dtype=np.uint8)


def parts_of(detector):
    if isinstance(detector, ExDDDetector):
        return {"banks": 1.0}
    assert isinstance(detector, CombinedDefectDetector)
    return dict(zip([name for name, _ in detector.detectors], detector.weights))


@pytest.mark.parametrize(
    ("n_normal", "n_defects", "n_marked", "minutes", "expected", "reason"),
    [
        (99, 0, 0, 60, {"banks": 1}, "there are 99"),
        (99, 40, 40, 60, {"banks": 1}, "there are 99"),
        (100, 0, 0, 4.9, {"banks": 1}, "there are 4.9"),
        (100, 0, 0, 5, {"banks": 1, "networks": 0.5}, "synthetic defects"),
        (100, 9, 9, 5, {"banks": 1, "networks": 0.5}, "synthetic defects"),
        (100, 10, 0, 1, {"banks": 1, "probe": 0.5}, "10 defect images without masks"),
        (100, 12, 9, 60, {"banks": 1, "probe": 0.5}, "12 defect images without masks"),
        (100, 10, 10, 1, {"banks": 1}, "there are 1"),
        (100, 12, 10, 5, {"banks": 1, "networks": 1}, "10 real ones with masks"),
    ],
)
def test_the_choice_follows_from_the_numbers_of_images(
    n_normal, n_defects, n_marked, minutes, expected, reason, capsys
):
    marked = np.ones((64, 64), dtype=bool)
    X, y = images(n_normal + n_defects), np.repeat([0, 1], [n_normal, n_defects])
    masks = [None] * (n_normal + n_defects - n_marked) + [marked] * n_marked if n_defects else None
    detector = recommended(X, y if n_defects else None, masks=masks, minutes=minutes, random_state=3)
    assert parts_of(detector) == expected
    assert detector.random_state == 3
    assert reason in capsys.readouterr().out
    apart = {"X_defect": X[n_normal:], "masks": masks and masks[n_normal:]} if n_defects else {}
    assert parts_of(recommended(X[:n_normal], **apart, minutes=minutes, verbose=0)) == expected
    assert capsys.readouterr().out == ""


def test_photographs_of_one_part_count_as_one_normal_image(capsys):
    assert parts_of(recommended(images(200), groups=np.arange(200) // 4)) == {"banks": 1}
    assert "100 groups of normal images and there are 50" in capsys.readouterr().out


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"'minutes' parameter of .*recommended must be a float in the range \(0"):
        recommended(images(5), minutes=0)
    with pytest.raises(ValueError, match="expected images, got feature rows"):
        recommended(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="y: expected"):
        recommended(images(5), [0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("with_masks", [False, True])
def test_what_is_recommended_finds_defects(with_masks):
    X, y, masks = make_surface_defects(125, defect_fraction=0.2, image_shape=(64, 64), random_state=0)
    given = {"masks": masks} if with_masks else {}
    detector = recommended(X, y, **given, random_state=0, verbose=0)
    if with_masks:
        detector.set_params(networks__feature_extractor__max_steps=2, networks__feature_extractor__n_synthetic=4)
    detector.fit(X, y, **given)
    X_test, y_test, _ = make_surface_defects(20, image_shape=(64, 64), random_state=1)
    assert np.mean(detector.predict(X_test) == y_test) > 0.8
