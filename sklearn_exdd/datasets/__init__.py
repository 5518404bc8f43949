"""Data sets: generated images of surfaces, loaders for folders of images, and a check of images before fitting."""

from sklearn_exdd._images import with_roi
from sklearn_exdd.datasets.check import check_images
from sklearn_exdd.datasets.findings import Finding, Findings
from sklearn_exdd.datasets.folders import load_folder, load_index, load_ksdd2, load_mvtec
from sklearn_exdd.datasets.surfaces import make_surface_defects
from sklearn_exdd.review.store import load_review

__all__ = [
    "Finding",
    "Findings",
    "check_images",
    "load_folder",
    "load_index",
    "load_ksdd2",
    "load_mvtec",
    "load_review",
    "make_surface_defects",
    "with_roi",
]
