"""What the repository promises outside the package: README, continuous integration, examples, documentation."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


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
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_inside_the_repository_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    missing = [target for target in targets if not ((ROOT / page).parent / target).exists()]
    assert missing == []


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


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")))
def test_benchmarks_say_how_to_use_them(script):
    if "import resource" in (ROOT / "benchmarks" / script).read_text(encoding="utf-8"):
        pytest.importorskip("resource", reason="the script measures memory by POSIX")
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"python benchmarks/{script}" in done.stdout


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


def test_the_accuracy_benchmark_says_what_it_needs_without_data():
    environment = {name: value for name, value in os.environ.items() if name != "EXDD_DATA"}
    command = [sys.executable, str(ROOT / "benchmarks" / "real_data.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "EXDD_DATA" in done.stderr
