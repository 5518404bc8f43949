"""Promises of the repository outside the package: README, continuous integration, metadata, examples, pages."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import sklearn_exdd

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_readme_has_exactly_two_commands_to_paste():
    commands = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    assert len(commands) == 2
    assert all(len(command.splitlines()) == 1 for command in commands)


def test_ci_runs_the_second_of_them():
    second = re.findall(r"```bash\n(.*?)\n```", README, flags=re.DOTALL)[1]
    run = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -m1 '(.*?)' README.md", run).group(1)
    lines = subprocess.run(["grep", "-m1", pattern, "README.md"], cwd=ROOT, capture_output=True, text=True).stdout
    assert lines.strip() == second


@pytest.mark.parametrize(
    "page",
    [path.relative_to(ROOT).as_posix() for folder in (ROOT, ROOT / "docs") for path in sorted(folder.glob("*.md"))],
)
def test_links_inside_the_repository_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    missing = [target for target in targets if not ((ROOT / page).parent / target).exists()]
    assert missing == []


def steps(workflow):
    return [step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]]


def test_there_is_a_workflow():
    assert WORKFLOWS


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_commands_of_workflows_are_those_that_the_pages_name(workflow):
    pages = ["README.md", "CONTRIBUTING.md", "docs/reliability.md"]
    named = {line.removeprefix("$ ") for page in pages for line in (ROOT / page).read_text().splitlines()}
    named |= {code for page in pages for code in re.findall(r"`([^`\n]+)`", (ROOT / page).read_text())}
    commands = [step["run"] for step in steps(workflow) if "run" in step]
    assert "bash .ci/run" in commands
    on_linux = [
        re.sub("^python -m venv", "python3 -m venv", c.replace(".venv/Scripts/", ".venv/bin/")) for c in commands
    ]
    assert [command for command in on_linux if command not in named] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_only_read_and_end_in_time(workflow):
    content = yaml.safe_load(workflow.read_text())
    assert content["permissions"] == {"contents": "read"}
    assert content["concurrency"]["cancel-in-progress"]
    assert all(job["timeout-minutes"] <= 90 for job in content["jobs"].values())
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps(workflow) if "uses" in step)


def test_every_supported_python_is_tested():
    matrix = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]["tests"]["strategy"]["matrix"]
    supported = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: Python :: \d\.\d+$", c)]
    assert matrix["python"] == supported


@pytest.mark.parametrize(
    "form", sorted(p.name for p in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if p.name != "config.yml")
)
def test_issue_forms_have_what_the_host_asks_for(form):
    content = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / form).read_text())
    assert {"name", "description", "body"} <= set(content)
    identifiers = [field["id"] for field in content["body"] if field["type"] != "markdown"]
    assert len(identifiers) == len(set(identifiers)) > 0
    assert all(field["attributes"]["label"] for field in content["body"] if field["type"] != "markdown")


def test_the_bug_form_asks_for_the_versions():
    form = (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text()
    assert "sklearn_exdd.show_versions()" in form
    assert "python -m sklearn_exdd versions" in form


def test_the_site_is_built_as_on_any_machine():
    content = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())
    assert (ROOT / content["sphinx"]["configuration"]).is_file()
    assert content["sphinx"]["fail_on_warning"] is True
    (install,) = content["python"]["install"]
    assert set(install["extra_requirements"]) <= set(PROJECT["optional-dependencies"])


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert "version" not in PROJECT
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert "version" not in citation
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]
    first = re.search(r"^## (\S+)", (ROOT / "CHANGES.md").read_text(), flags=re.MULTILINE)[1]
    assert first == sklearn_exdd.__version__


def test_the_addresses_of_the_project_are_the_same_everywhere():
    source, documentation = PROJECT["urls"]["Source"], PROJECT["urls"]["Documentation"]
    pages = [*ROOT.glob("*.md"), *ROOT.glob("*.cff"), *(ROOT / ".github").rglob("*.yml"), ROOT / "pyproject.toml"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert set(re.findall(r"https://github\.com/[\w-]+/sklearn_exdd", text)) == {source}
    assert set(re.findall(r"https://sklearn[\w-]+\.readthedocs\.io", text)) == {documentation}


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("plot_*.py")))
def test_examples_run(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    runpy.run_path(str(ROOT / "examples" / example), run_name="__main__")


def test_the_quickstart_draws_its_picture(tmp_path):
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    command = [sys.executable, str(ROOT / "examples" / "plot_quickstart.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "defects" in done.stdout
    assert (tmp_path / "results" / "quickstart.png").stat().st_size > 50_000


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")))
def test_benchmarks_say_how_to_use_them(script):
    if "import resource" in (ROOT / "benchmarks" / script).read_text(encoding="utf-8"):
        pytest.importorskip("resource", reason="the script measures memory with a POSIX module")
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"python benchmarks/{script}" in done.stdout


@pytest.mark.slow
def test_the_accuracy_benchmark_measures_a_folder(tmp_path):
    from PIL import Image

    from sklearn_exdd.datasets import make_surface_defects

    X, y, masks = make_surface_defects(36, defect_fraction=0.4, image_shape=(64, 64), random_state=0)
    for folder in ("normal", "defect", "masks"):
        (tmp_path / "parts" / folder).mkdir(parents=True)
    for i, image in enumerate(X):
        Image.fromarray(image).save(tmp_path / "parts" / ("defect" if y[i] else "normal") / f"{i}.png")
        if y[i]:
            Image.fromarray(masks[i]).save(tmp_path / "parts" / "masks" / f"{i}.png")
    command = [sys.executable, str(ROOT / "benchmarks" / "real_data.py"), str(tmp_path / "parts")]
    command += ["--folds", "2", "--seeds", "1", "--bootstrap", "20", "--json", str(tmp_path / "out" / "figures.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "dual, 100% of the defects" in done.stdout
    assert "over one-class" in done.stdout
    assert (tmp_path / "out" / "figures.json").is_file()


@pytest.mark.slow
def test_the_accuracy_benchmark_says_what_it_needs_without_data():
    environment = {name: value for name, value in os.environ.items() if name != "EXDD_DATA"}
    command = [sys.executable, str(ROOT / "benchmarks" / "real_data.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "EXDD_DATA" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the script reads memory from /proc")
def test_the_benchmark_of_inspections_compares_pairs_and_measures_memory():
    command = [sys.executable, str(ROOT / "benchmarks" / "inspection.py"), "--detectors", "gabor"]
    command += ["--side", "64", "--repeats", "3", "--images", "2", "5"]
    head, row = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert head.split(" | ")[-2:] == ["peak after 2, MiB", "peak after 5, MiB |"]
    name, milliseconds, ratio, quartiles, *peaks = row.strip("| ").split(" | ")
    assert name == "gabor"
    low, high = map(float, quartiles.split(" to "))
    assert 0 < low <= float(ratio) <= high
    assert float(milliseconds) > 0
    assert 50 < float(peaks[0]) <= float(peaks[1])
