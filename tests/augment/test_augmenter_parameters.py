"""Parameters of the base class and of each augmenter."""

import numpy as np
import pytest

from sklearn_exdd.augment import OffsetDefectAugmenter, PerlinDefectAugmenter


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_synthetic": -1}, "The 'n_synthetic' parameter of OffsetDefectAugmenter must be an int"),
        ({"regions": "blobs"}, "The 'regions' parameter of OffsetDefectAugmenter must be"),
        ({"regions": ["perlin", "blobs"]}, "^regions: expected a region drawer or one of .*'perlin'.*, got 'blobs'"),
        ({"regions": [3]}, "^regions: expected a region drawer or one of .*, got 3"),
        ({"regions": []}, "^regions: expected at least one region drawer, got an empty list"),
        ({"foreground": "bright"}, "The 'foreground' parameter of OffsetDefectAugmenter must be"),
        ({"min_contrast": -0.1}, "The 'min_contrast' parameter of OffsetDefectAugmenter must be"),
        ({"max_redraws": 1.5}, "The 'max_redraws' parameter of OffsetDefectAugmenter must be"),
        ({"memory": 3}, "The 'memory' parameter of OffsetDefectAugmenter must be"),
        ({"random_state": "x"}, "The 'random_state' parameter of OffsetDefectAugmenter must be"),
        ({"offset": (0.5, 0.2)}, r"^offset: expected two numbers in ascending order, at least 0, got \(0.5, 0.2\)"),
        ({"offset": (0.5,)}, "^offset: expected two numbers in ascending order"),
        ({"softness": (-1, 2)}, "^softness: expected two numbers in ascending order, at least 0"),
        ({"sign": "down"}, "The 'sign' parameter of OffsetDefectAugmenter must be"),
    ],
)
def test_wrong_parameters_of_the_base_and_of_offsets_are_refused_in_fit(params, message, surfaces):
    with pytest.raises(ValueError, match=message):
        OffsetDefectAugmenter(**params).fit(surfaces[0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"opacity": (0.5, 1.2)}, r"^opacity: expected a range within \[0, 1\], got \(0.5, 1.2\)"),
        ({"gain": (2, 1)}, "^gain: expected two numbers in ascending order, at least 0"),
        ({"grid": (4,)}, r"^grid: expected two integers of at least 1, got \(4,\)"),
        ({"grid": (0, 4)}, "^grid: expected two integers of at least 1"),
        ({"texture": "dtd"}, "The 'texture' parameter of PerlinDefectAugmenter must be"),
        ({"texture": np.ones((3, 4))}, "^texture: expected 'self' or images, got feature rows"),
    ],
)
def test_wrong_parameters_of_perlin_pastes_are_refused_in_fit(params, message, surfaces):
    with pytest.raises(ValueError, match=message):
        PerlinDefectAugmenter(**params).fit(surfaces[0])
