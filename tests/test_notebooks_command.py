"""The notebook runner, on notebooks of one or two cells."""

import json
import os
import re
import shutil
import subprocess

import nbformat
import pandas as pd
import pytest
import torch

from pdm import paths
from pdm.models import prior_card
from pdm.study import cache, notebooks, provenance, tables

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


def test_the_kernels_are_told_whether_to_take_records(folders, monkeypatch):
    import papermill

    make_notebook(folders[0] / "00_a.ipynb", PARAMETERS)
    told = []

    def execute(source, target, **_):
        told.append(os.environ.get("PDM_GO_ON"))
        open(target.format(), "w").close()

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    monkeypatch.setenv("PDM_GO_ON", "")
    assert run(folders) == 0 and run(folders, "--go-on") == 0
    assert told == ["", "1"]


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


def test_results_go_to_the_argument_then_the_environment_then_the_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path / "repository")
    monkeypatch.delenv("PDM_RESULTS", raising=False)
    assert paths.results_dir("smoke") == tmp_path / "repository" / "results" / "smoke"
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path / "variable"))
    assert paths.results_dir("bench") == tmp_path / "variable" / "bench"
    folder = paths.results_dir("bench", tmp_path / "argument")
    assert folder == tmp_path / "argument" / "bench"
    assert (folder / "tables").is_dir() and (folder / "figures").is_dir()
    with pytest.raises(ValueError, match="smoke, pocket, bench, paper"):
        paths.results_dir("large")


def test_a_table_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    frame = pd.DataFrame({"method": ["dps", "pan"], "psnr": [21.123456789, 1e-7 / 3]})
    path = tables.write_table(frame, "table_1", "smoke")
    assert path == tmp_path / "smoke" / "tables" / "table_1.csv"
    assert path.read_text() == "method,psnr\ndps,21.1235\npan,3.33333e-08\n"
    by_method = tables.write_table(frame.set_index("method"), "by_method", "smoke")
    assert by_method.read_text() == path.read_text()

    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        tables.write_table(frame * 2, "table_1", "smoke")
    left = sorted(file.name for file in path.parent.iterdir())
    assert left == ["by_method.csv", "table_1.csv"] and path.read_text().startswith("method,psnr\n")


@pytest.mark.parametrize("name", ["", "../table", "a/b", ".hidden"])
def test_a_table_name_is_a_plain_file_name(name):
    with pytest.raises(ValueError, match="table's name"):
        tables.write_table(pd.DataFrame(), name, "smoke")


def test_a_part_that_is_finished_is_not_computed_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    calls = []

    def compute(value):
        calls.append(value)
        return {"rows": [{"image": "a", "psnr": value}], "kernel": None}

    key = {"name": "deblurring", "seed": 3, "steps": 10}
    first = cache.finished("smoke", key, lambda: compute(1.5))
    again = cache.finished("smoke", dict(reversed(key.items())), lambda: compute(2.5))
    assert first == again == {"rows": [{"image": "a", "psnr": 1.5}], "kernel": None} and calls == [1.5]
    assert cache.finished("smoke", key | {"steps": 20}, lambda: compute(3.5))["rows"][0]["psnr"] == 3.5
    for part in (tmp_path / "smoke" / "parts").iterdir():
        part.write_bytes(part.read_bytes()[:100])  # cut short: it is computed again
    assert cache.finished("smoke", key, lambda: compute(4.5))["rows"][0]["psnr"] == 4.5
    with pytest.raises(ValueError, match="has no name"):
        cache.finished("smoke", {"seed": 3}, lambda: compute(0))


def test_a_record_is_taken_up_where_the_environment_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    key = {"name": "deblurring", "seed": 3}
    assert cache.recorded("smoke", key, lambda: {"psnr": 0.1 + 0.2, "mnc": None}) == {
        "psnr": 0.1 + 0.2,
        "mnc": None,
    }
    assert cache.recorded("smoke", key, lambda: 1 / 0) == {"psnr": 0.1 + 0.2, "mnc": None}  # the part is there
    shutil.rmtree(tmp_path / "smoke" / "parts")
    assert cache.recorded("smoke", key, lambda: {"psnr": 2.5}) == {"psnr": 2.5}
    shutil.rmtree(tmp_path / "smoke" / "parts")
    monkeypatch.setenv("PDM_GO_ON", "1")
    assert cache.is_recorded("smoke", key) and not cache.is_recorded("smoke", key | {"seed": 4})
    assert cache.recorded("smoke", key, lambda: 1 / 0) == {"psnr": 2.5}
    (record,) = (tmp_path / "smoke" / "records").iterdir()
    assert json.loads(record.read_text())["key"] == key
    record.write_text(record.read_text()[:30])  # cut short: it is computed again
    assert cache.recorded("smoke", key, lambda: {"psnr": 3.5}) == {"psnr": 3.5}
    assert cache.recorded("smoke", key, lambda: 1 / 0) == {"psnr": 3.5}


def test_rows_of_a_record_say_where_they_were_computed_and_not_where_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    monkeypatch.setenv("PDM_GO_ON", "1")
    key = {"name": "bands"}
    monkeypatch.setattr(provenance, "here", lambda: {"commit": "abc", "machine": "Xeon"})
    first = cache.recorded_rows("smoke", key, lambda: [{"loss": 0.5}])
    assert first == [{"loss": 0.5, "commits": "abc", "machines": "Xeon"}]
    monkeypatch.setattr(provenance, "here", lambda: {"commit": "def", "machine": "EPYC"})
    rows = cache.recorded_rows("smoke", key, lambda: 1 / 0)
    tables.write_table(pd.DataFrame(rows).assign(sampler="DDIM, 100 steps"), "bands", "smoke")
    assert (tmp_path / "smoke" / "tables" / "bands.csv").read_text() == "loss\n0.5\n"
    origin = json.loads((tmp_path / "smoke" / "provenance" / "bands.json").read_text())
    assert origin["rows"] == {"commits": ["abc"], "machines": ["Xeon"], "sampler": ["DDIM, 100 steps"]}


def test_a_digest_is_of_the_values_and_not_of_their_rounding():
    draw = torch.Generator().manual_seed(0)
    for tensor in (torch.rand(16, 3, 64, 64, generator=draw) * 2 - 1, torch.rand(64, 1, 32, 32, generator=draw) / 500):
        rounded = tensor * (1 + 1e-7 * torch.randn(tensor.shape, generator=draw))
        changed = tensor.clone()
        changed[3, 0, 5, 7] += 0.5 * tensor.abs().max()
        assert not torch.equal(tensor, rounded) and cache.digest(tensor) == cache.digest(rounded)
        others = changed, 2 * tensor, tensor.flip(0), tensor[:-1], tensor.roll(1, -1)
        assert len({cache.digest(other) for other in (tensor, *others)}) == 6


def test_a_part_that_fails_or_dies_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        cache.finished("smoke", {"name": "part"}, lambda: 1 / 0)
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        cache.finished("smoke", {"name": "part"}, lambda: 1)
    assert list((tmp_path / "smoke" / "parts").iterdir()) == []


def test_a_shared_table_keeps_the_rows_of_others(tmp_path, monkeypatch):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    old = pd.DataFrame({"prior": ["image", "kernel", "image"], "loss": [1.0, 2.0, 3.0]})
    tables.update_table(old, "priors", "smoke", "prior")
    path = tables.update_table(pd.DataFrame({"prior": ["image"], "loss": [4.0]}), "priors", "smoke", "prior")
    assert path.read_text() == "prior,loss\nimage,4\nkernel,2\n"


def test_a_table_says_where_it_came_from(tmp_path, monkeypatch):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    frame = pd.DataFrame({"method": ["dps", "pan"], "commits": ["abc", "abc def"], "seeds": ["0-3", "0-1"]})
    path = tables.write_table(frame, "methods", "smoke", seed=7)
    assert path.read_text() == "method\ndps\npan\n"
    origin = json.loads((tmp_path / "smoke" / "provenance" / "methods.json").read_text())
    assert origin["rows"] == {"commits": ["abc", "abc def"], "seeds": ["0-3", "0-1"]}
    assert (origin["scale"], origin["seed"], origin["packages"]["pandas"]) == ("smoke", 7, pd.__version__)
    assert origin["weights"]["image"] == prior_card("image")["sha256"] and origin["machine"]["cores"] >= 1


def test_a_commit_is_marked_where_the_code_differs_from_it(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert provenance.commit(tmp_path) == "unknown"
    git("init")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("a = 1")
    git("add", ".")
    git("commit", "-m", "first")
    clean = provenance.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "notes").write_text("no input of a table")
    assert provenance.commit(tmp_path) == clean
    (tmp_path / "src" / "a.py").write_text("a = 2")
    assert provenance.commit(tmp_path) == clean + "+"


def test_an_earlier_prior_comes_from_the_history(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    (tmp_path / "data" / "priors").mkdir(parents=True)
    git("init")
    for text in ("first", "second"):
        for kind in ("json", "safetensors"):
            (tmp_path / "data" / "priors" / f"small.{kind}").write_text(f"{text} {kind}")
        git("add", ".")
        git("commit", "-m", text)
    folder = tmp_path / "out"
    folder.mkdir()
    provenance.earlier("HEAD~1", "small", folder, tmp_path)
    assert [(folder / f"small.{kind}").read_text() for kind in ("json", "safetensors")] == [
        "first json",
        "first safetensors",
    ]
    with pytest.raises(ValueError, match=r"no HEAD~7:data/priors/small\.json in the history"):
        provenance.earlier("HEAD~7", "small", folder, tmp_path)
