"""Configuration of the site.

Build it with ``python -m sphinx -W --keep-going -b html docs docs/_build/html``.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import sklearn_exdd

project = "sklearn_exdd"
author = copyright = "The sklearn_exdd developers"
version = release = sklearn_exdd.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "_extensions.formulas",
    "_extensions.names",
]
exclude_patterns = ["_build", "api/backreferences"]
templates_path = ["_templates"]
html_static_path = ["_static"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

nitpicky = True  # broken references are errors
highlight_language = "text"
toc_object_entries_show_parents = "hide"
autosummary_generate = True
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the template lists them

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"[\\/]plot_",
    "within_subsection_order": "_extensions.gallery.position",
    "backreferences_dir": "api/backreferences",
    "doc_module": ("sklearn_exdd",),
    "download_all_examples": False,
    "show_signature": False,
    "capture_repr": (),
    "write_computation_times": False,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "sklearn_exdd"
html_css_files = ["site.css"]
html_favicon = "_static/mark.svg"
_WIDE = ("index", "auto_examples/**", "changes", "choose", "comparison", "contributing", "from_anomalib", "from_pyod")
html_sidebars = {page: [] for page in _WIDE}
html_theme_options = {
    "logo": {"text": "sklearn_exdd", "image_light": "_static/mark.svg", "image_dark": "_static/mark.svg"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
