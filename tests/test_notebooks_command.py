"""The notebook runner, on notebooks of one or two cells."""

import json
import os
import subprocess
import sys

import nbformat
import pytest

from pdm.study import notebooks

PARAMETERS = 'import os\nSCALE = os.environ.get("SCALE", "pocket")\nSEED = 0'
WRITE = """from pdm.paths import results_dir
(results_dir(SCALE) / "tables" / "seen.txt").write_text(f"{SCALE} {SEED} {os.path.basename(os.getcwd())}")"""


def make_notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(exist_ok=True, parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A notebooks folder (not made yet) and a results folder, in a directory with an odd name."""
    monkeypatch.setenv("PDM_RESULTS", "")  # main sets it, and this puts it back
    return tmp_path / "an {odd} 'name'" / "books", tmp_path / "an {odd} 'name'" / "out"


def run(folders, *arguments):
    return notebooks.main(["--notebooks-dir", str(folders[0]), "--results", str(folders[1]), *arguments])


def test_a_run_injects_its_parameters_and_keeps_the_executed_copy(folders, monkeypatch, capsys):
    monkeypatch.setenv("SCALE", "paper")  # the parameter wins
    notebooks, results = folders
    make_notebook(notebooks / "00_write.ipynb", PARAMETERS, WRITE)
    make_notebook(notebooks / "01_not_asked_for.ipynb", PARAMETERS, "raise RuntimeError")
    assert run(folders, "--scale", "smoke", "--seed", "7", "00_write.ipynb") == 0
    assert (results / "smoke" / "tables" / "seen.txt").read_text() == "smoke 7 books"
    assert [path.name for path in (results / "smoke" / "notebooks").iterdir()] == ["00_write.ipynb"]
    executed = nbformat.read(results / "smoke" / "notebooks" / "00_write.ipynb", as_version=4)
    assert [cell.execution_count for cell in executed.cells] == [1, 2, 3]
    assert "injected-parameters" in executed.cells[1].metadata.tags
    assert "00_write" in capsys.readouterr().out


def test_a_failing_cell_fails_the_run_shows_its_traceback_and_stops_no_other_notebook(folders, capsys):
    notebooks, results = folders
    make_notebook(notebooks / "00_good.ipynb", PARAMETERS, WRITE)
    make_notebook(notebooks / "01_bad.ipynb", PARAMETERS, "print('so far')", "mass = 0\n1 / mass")
    make_notebook(notebooks / "02_after_it.ipynb", PARAMETERS)
    assert run(folders) == 1
    shown = capsys.readouterr().err
    assert "failed: 01_bad\n" in shown and "1 / mass" in shown and "ZeroDivisionError" in shown
    written = results / "pocket" / "notebooks"
    names = sorted(path.name for path in written.iterdir())
    assert names == ["00_good.ipynb", "01_bad.failed.ipynb", "02_after_it.ipynb"]
    assert "so far" in (written / "01_bad.failed.ipynb").read_text()
    assert (results / "pocket" / "tables" / "seen.txt").read_text() == "pocket 0 books"


def test_a_success_removes_the_failed_copy_and_an_interrupt_keeps_the_last_success(folders, monkeypatch):
    import papermill

    notebooks, results = folders
    make_notebook(notebooks / "00_a.ipynb", PARAMETERS)
    written = results / "pocket" / "notebooks"
    written.mkdir(parents=True)
    (written / "00_a.failed.ipynb").write_text("old")

    def whole(source, target, **_):
        with open(target.format(), "w") as file:
            file.write("whole")

    def interrupted(source, target, **_):
        with open(target.format(), "w") as file:
            file.write("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(papermill, "execute_notebook", whole)
    assert run(folders) == 0
    assert {path.name: path.read_text() for path in written.iterdir()} == {"00_a.ipynb": "whole"}
    monkeypatch.setattr(papermill, "execute_notebook", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folders)
    left = {path.name: path.read_text() for path in written.iterdir()}
    assert left == {"00_a.ipynb": "whole", "00_a.failed.ipynb": "half"}


def test_the_kernels_are_told_what_was_asked_for(folders, monkeypatch):
    import papermill

    make_notebook(folders[0] / "00_a.ipynb", PARAMETERS)
    told, names = [], ("PDM_GO_ON", "PDM_PICTURES", "GOMP_SPINCOUNT")

    def execute(source, target, **_):
        told.append([os.environ.get(name) for name in names])
        open(target.format(), "w").close()

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    for name in names:
        monkeypatch.setenv(name, "")  # main sets it, and this puts it back
    monkeypatch.delenv("GOMP_SPINCOUNT")
    assert run(folders) == 0
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")  # the user's own stays
    assert run(folders, "--go-on") == 0 and run(folders, "--pictures") == 0
    assert told == [["", "", "1000"], ["1", "", "7"], ["1", "1", "7"]]


def test_relative_folders_are_those_of_where_the_command_was_called(folders, tmp_path):
    names = ("PDM_DATA", "PDM_PRIORS", "PDM_IMAGES", "PDM_RESULTS")
    look = """import json
from pathlib import Path
from pdm import paths
given = [Path(os.environ[name], name).read_text() for name in ("PDM_DATA", "PDM_PRIORS", "PDM_IMAGES")]
print(json.dumps([given, str(paths.data_dir()), str(paths.PRIORS), str(paths.results_dir(SCALE))]))"""
    make_notebook(folders[0] / "00_look.ipynb", PARAMETERS, look)
    caller = tmp_path / "caller's own"
    for name in names[:3]:
        (caller / f"{name} here").mkdir(parents=True)
        (caller / f"{name} here" / name).write_text(f"this is {name}")
    relative = {name: f"{name} here" for name in names}
    command = [sys.executable, "-m", "pdm.study.notebooks", "--scale", "smoke", "--notebooks-dir", str(folders[0])]
    done = subprocess.run(command, cwd=caller, env=os.environ | relative, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(caller / "PDM_RESULTS here" / "smoke" / "notebooks" / "00_look.ipynb", as_version=4)
    seen = json.loads(executed.cells[-1].outputs[0].text)
    data, priors, _, results = (caller / f"{name} here" for name in names)
    assert seen == [[f"this is {name}" for name in names[:3]], str(data), str(priors), str(results / "smoke")]
    assert [path.name for path in folders[0].iterdir()] == ["00_look.ipynb"]  # nothing is made beside the notebooks


def test_notebooks_are_selected_in_the_order_of_their_numbers(tmp_path):
    for name in ("10_last", "00_first", "02_middle", "scratch"):
        (tmp_path / f"{name}.ipynb").touch()
    stems = [path.stem for path in notebooks.select_notebooks(tmp_path)]
    assert stems == ["00_first", "02_middle", "10_last"]
    chosen = notebooks.select_notebooks(tmp_path, ["10_last.ipynb", "notebooks/00_first"])
    assert [path.stem for path in chosen] == ["00_first", "10_last"]


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        (["--scale", "tiny"], "smoke, pocket, bench, paper"),
        (["00_a", "07_typo"], "unknown notebook 07_typo; the notebooks are 00_a, 01_b"),
    ],
)
def test_a_bad_argument_exits_with_2_and_lists_the_valid_ones(folders, capsys, arguments, wanted):
    for name in ("00_a", "01_b"):
        make_notebook(folders[0] / f"{name}.ipynb", PARAMETERS)
    assert run(folders, *arguments) == 2
    assert wanted in capsys.readouterr().err
    assert not folders[1].exists()


def test_a_folder_without_notebooks_is_an_error(folders, capsys):
    assert run(folders) == 2
    assert "no notebook" in capsys.readouterr().err


def test_results_at_a_file_exit_with_2_and_a_message(folders, capsys):
    make_notebook(folders[0] / "00_a.ipynb", PARAMETERS)
    folders[1].write_text("a file")
    assert run(folders) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and str(folders[1]) in shown and "cannot be made a folder" in shown


def test_a_run_removes_what_killed_runs_left_unfinished(folders):
    from pdm.paths import platform

    make_notebook(folders[0] / "00_a.ipynb", PARAMETERS)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = folders[1] / "pocket" / "tables" / f".a.csv.{platform.node()}-{dead.pid}-0a1b2c3d4e5f.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("half a ta")
    assert run(folders) == 0
    assert not left.exists()
