"""Pictures to work with: generated surfaces, and loaders for folders of images."""

from sklearn_exdd.datasets.folders import load_folder, load_index, load_ksdd2, load_mvtec
from sklearn_exdd.datasets.surfaces import make_surface_defects
from sklearn_exdd.review.store import load_review

__all__ = ["load_folder", "load_index", "load_ksdd2", "load_mvtec", "load_review", "make_surface_defects"]
