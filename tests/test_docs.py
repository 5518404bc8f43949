"""Documentation: running code, a complete API reference and working links."""

import doctest
import inspect
import re
from html.parser import HTMLParser
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import sklearn_exdd
from sklearn_exdd import ExDDDetector

DOCS = Path(__file__).parent.parent / "docs"
SITE = DOCS / "_build" / "html"
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if not {"_build", "auto_examples"} & set(path.relative_to(DOCS).parts)
)


def code_blocks(page, language):
    """Return the fenced code blocks of a language, at their line numbers, with all other lines blank."""
    lines, inside = [], False
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = line == f"```{language}"
            line = ""
        lines.append(line if inside else "")
    return "\n".join(lines) + "\n"


def public_names():
    """Return the public names without the package name, such as "features.make_feature_extractor"."""
    names = [name for name in sklearn_exdd.__all__ if not inspect.ismodule(getattr(sklearn_exdd, name))]
    for module in (name for name in sklearn_exdd.__all__ if name not in names):
        content = vars(import_module(f"sklearn_exdd.{module}"))
        own = [
            name
            for name, value in content.items()
            if not name.startswith("_") and getattr(value, "__module__", "") == f"sklearn_exdd.{module}"
        ]
        names += [f"{module}.{name}" for name in content.get("__all__", own) if name not in names]
    return sorted(set(names) - {"__version__"})


REFERENCE = (DOCS / "api.rst").read_text(encoding="utf-8")
LISTED = re.findall(r"^   ([a-zA-Z_.]+)$", REFERENCE, flags=re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if ">>>" in code_blocks(page, "pycon")])
def test_code_of_a_page_gives_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    test = doctest.DocTestParser().get_doctest(code_blocks(page, "pycon"), {}, page, str(DOCS / page), 0)
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(test, out=report.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("page", ["../README.md", *(page for page in PAGES if code_blocks(page, "python").strip())])
def test_code_of_a_page_that_cannot_run_here_is_python_all_the_same(page):
    compile(code_blocks(page, "python"), str(DOCS / page), "exec")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["../README.md", "index.md"])
def test_the_lines_for_ones_own_pictures_run_on_a_folder(page, surfaces, tmp_path, monkeypatch):
    for i, (image, label, mask) in enumerate(zip(*surfaces)):
        places = {"parts/defect": image, "parts/masks": mask} if label else {"parts/good": image, "today": image}
        for place, pixels in places.items():
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / place / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    first = re.search(
        r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    found = {}
    exec(compile(first[1], page, "exec"), found)
    assert found["parts"].y.sum() == 8
    assert (tmp_path / "maps.png").stat().st_size > 10_000


def test_the_classes_of_the_guide_for_contributors_work_in_a_search(surfaces):
    X, y, _ = surfaces
    found = {}
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / "../CONTRIBUTING.md").read_text("utf-8"), re.M | re.S):
        exec(compile(block, "CONTRIBUTING.md", "exec"), found)
    extractor, augmenter = found["GreyHistograms"](), found["SmearDefectAugmenter"](min_contrast=0.3, random_state=0)
    pipeline = make_pipeline(augmenter, ExDDDetector(extractor))
    searches = [
        GridSearchCV(ExDDDetector(extractor), {"feature_extractor__n_bins": [2, 4]}, cv=2),
        GridSearchCV(pipeline, {"smeardefectaugmenter__n_synthetic": [0, 3]}, cv=2),
    ]
    for search in searches:
        assert np.isfinite(search.fit(X, y).cv_results_["mean_test_score"]).all()
    tiled = clone(extractor).set_params(tile_size=32)
    np.testing.assert_array_equal(tiled.transform(X[:2]), extractor.transform(X[:2]))
    for wrong in (extractor.set_params(n_bins=1), augmenter.set_params(darkness=2)):
        with pytest.raises(ValueError, match=r"'(n_bins|darkness)' parameter of"):
            wrong.fit(X)


def test_no_prompt_stands_in_a_block_that_is_not_run():
    assert [page for page in PAGES if ">>>" in code_blocks(page, "python")] == []


def test_every_public_name_is_in_the_api_reference():
    missing = [name for name in public_names() if not re.search(rf"(^   |``){re.escape(name)}(``|$)", REFERENCE, re.M)]
    assert missing == []


def test_the_api_reference_names_what_exists():
    assert LISTED
    for name in LISTED:
        assert attrgetter(name)(sklearn_exdd).__doc__


@pytest.mark.parametrize("name", public_names())
def test_every_public_name_has_an_example(name):
    value = attrgetter(name)(sklearn_exdd)
    assert value.__doc__
    assert ">>> " in inspect.getsource(value if inspect.isclass(value) or inspect.isfunction(value) else type(value))


class Page(HTMLParser):
    """Anchors and link targets of a built page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.targets = set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[name] for name in ("id", "name") if attrs.get(name)}
        self.targets += [attrs[name] for name in ("href", "src") if attrs.get(name)]


@pytest.mark.skipif(not SITE.is_dir(), reason="the site is not built: run python -m sphinx docs docs/_build/html")
def test_no_link_inside_the_built_site_is_dead():
    pages = {path: Page(path) for path in SITE.rglob("*.html") if "_static" not in path.parts}
    dead = []
    for path, page in pages.items():
        for target in page.targets:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            place = (path.parent / unquote(url.path)).resolve() if url.path else path
            place = place / "index.html" if place.is_dir() else place
            anchor = unquote(url.fragment)
            if not place.exists() or (anchor and place in pages and anchor not in pages[place].ids):
                dead.append(f"{path.relative_to(SITE)}: {target}")
    assert pages
    assert dead == []
