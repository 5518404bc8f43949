"""Order of the gallery, from first steps to special cases."""

EXAMPLES = [
    "plot_quickstart.py",
    "plot_own_images.py",
    "plot_pretrained.py",
    "plot_threshold.py",
    "plot_operating_point.py",
    "plot_drift.py",
    "plot_false_discovery.py",
    "plot_regions.py",
    "plot_roi.py",
    "plot_kinds.py",
    "plot_explain.py",
    "plot_grid_search.py",
    "plot_synthetic_defects.py",
    "plot_synthetic_count.py",
    "plot_student_teacher.py",
    "plot_partial_fit.py",
    "plot_onnx.py",
    "plot_features_only.py",
    "plot_cluster.py",
]


def position(name):
    """Return the sorting key of an example. Examples not listed above come last."""
    return EXAMPLES.index(name) if name in EXAMPLES else len(EXAMPLES)
