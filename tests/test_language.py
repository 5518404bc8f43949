"""The wording of docstrings, comments, messages and pages: patterns that read as a translation."""

import ast
import re
import tokenize
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("sklearn_exdd", "tests", "examples", "benchmarks", "docs")
PYTHON = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
PAGES = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").glob("*.rst"), *ROOT.glob("*.md")]
BUILT = {"_build", "auto_examples", "api"}
# A docstring, and the description of a parameter, begin with a verb or a noun phrase.
FIRST_WORDS = re.compile(r"(What|Those|That|These|Whose|Of|The same|Such|Do that|It|They|Where|How|As so)\b")
ANYWHERE = re.compile(
    r"\bso (many|much)\b|\b(is|are|was|were) (?-i:none)\b|\b(is|are|was|were) no (?!longer\b|more\b)\w|\bof which\b"
    r"|\bof (those|that) that\b|\bwhat (it|they|there|fit|one|an?|the|its) [\w ]{0,30}\b(is|are|was)\b"
    r"|\bhas been at\b|\bby heart\b|\bhanded in\b|\ball alike\b",
    re.IGNORECASE,
)


def python_texts(path):
    """Yield (line, text, is_start) of the docstrings, comments and messages of a Python file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                docstrings.add(id(node.body[0].value))
                line = node.body[0].lineno
                yield line, text.splitlines()[0], True
                yield from ((line + i, one, False) for i, one in enumerate(text.splitlines()) if ">>>" not in one)
                yield from ((line, one, True) for one in descriptions(text))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value, False
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string, False


def descriptions(docstring):
    """Return the first line of each description in the sections of a numpydoc docstring."""
    lines, found = docstring.splitlines(), []
    for line, following in pairwise(lines):
        is_name = re.match(r"\S.* : \S", line) or re.match(r"[\w, *]+$", line)
        if is_name and following.startswith("    ") and following.strip():
            found.append(following.strip())
    return found


def page_texts(path):
    """Yield (line, text, is_start) of the prose of a page."""
    is_code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        is_code ^= line.lstrip().startswith("```")
        if not is_code:
            yield number, line, False


def faults(path):
    """Return the places of a file that the patterns find."""
    found = []
    texts = python_texts(path) if path.suffix == ".py" else page_texts(path)
    for line, text, is_start in texts:
        match = FIRST_WORDS.match(text) if is_start else ANYWHERE.search(text)
        if match:
            found.append(f"{path.relative_to(ROOT)}:{line}: {match[0]!r} in {text.strip()[:100]!r}")
    return found


@pytest.mark.parametrize(
    "path",
    [path for path in PYTHON + PAGES if not BUILT & set(path.parts) and path != Path(__file__)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_wording(path):
    assert faults(path) == []
