"""Pictures to work with: generated surfaces, and loaders for folders of images."""

from sklearn_exdd.datasets.folders import load_folder, load_index, load_ksdd2, load_mvtec
from sklearn_exdd.datasets.surfaces import make_surface_defects

__all__ = ["load_folder", "load_index", "load_ksdd2", "load_mvtec", "make_surface_defects"]
