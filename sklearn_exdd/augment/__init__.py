"""Augmenters: synthetic defects on normal images, and where they go."""

from sklearn_exdd.augment.base import BaseDefectAugmenter
from sklearn_exdd.augment.curves import CrackRegions, RidgedRegions
from sklearn_exdd.augment.cutpaste import CutPasteDefectAugmenter
from sklearn_exdd.augment.ddpm import DDPMDefectAugmenter
from sklearn_exdd.augment.defect_paste import DefectPasteAugmenter
from sklearn_exdd.augment.inpainting import DiffusionDefectAugmenter
from sklearn_exdd.augment.mixture import MixedDefectAugmenter, default_augmenter
from sklearn_exdd.augment.offset import OffsetDefectAugmenter
from sklearn_exdd.augment.perlin import PerlinDefectAugmenter
from sklearn_exdd.augment.regions import (
    BoxRegions,
    MaskRegions,
    PerlinRegions,
    PolygonRegions,
    RectangleRegions,
    otsu_foreground,
)
from sklearn_exdd.augment.synthetic import AugmentedImages, SyntheticDefects

__all__ = [
    "AugmentedImages",
    "BaseDefectAugmenter",
    "BoxRegions",
    "CrackRegions",
    "CutPasteDefectAugmenter",
    "DDPMDefectAugmenter",
    "DefectPasteAugmenter",
    "DiffusionDefectAugmenter",
    "MaskRegions",
    "MixedDefectAugmenter",
    "OffsetDefectAugmenter",
    "PerlinDefectAugmenter",
    "PerlinRegions",
    "PolygonRegions",
    "RectangleRegions",
    "RidgedRegions",
    "SyntheticDefects",
    "default_augmenter",
    "otsu_foreground",
]
