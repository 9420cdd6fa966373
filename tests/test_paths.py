"""Where things lie, and that a file is whole whoever else writes it."""

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from pdm import paths
from pdm.study import tables


def test_results_go_to_the_argument_then_the_environment_then_home(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "HOME", tmp_path / "home")
    monkeypatch.delenv("PDM_RESULTS", raising=False)
    assert paths.results_dir("smoke") == tmp_path / "home" / "results" / "smoke"
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path / "variable"))
    assert paths.results_dir("bench") == tmp_path / "variable" / "bench"
    folder = paths.results_dir("bench", tmp_path / "argument")
    assert folder == tmp_path / "argument" / "bench"
    assert (folder / "tables").is_dir() and (folder / "figures").is_dir()
    with pytest.raises(ValueError, match="smoke, pocket, bench, paper"):
        paths.results_dir("large")


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(ValueError, match=r"results.* cannot be made a folder"):
        paths.results_dir("smoke", tmp_path / "results")


@pytest.mark.parametrize("is_checkout", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_training_writes_to_the_priors_or_outside_a_checkout_to_the_working_directory(
    is_checkout, named, tmp_path, monkeypatch
):
    """A copy of the module stands in a tree that is a checkout, or is not."""
    package, here = tmp_path / "tree" / "src" / "pdm", tmp_path / "user"
    for folder in (package, here):
        folder.mkdir(parents=True)
    copy = shutil.copy(paths.__file__, package)
    if is_checkout:
        (tmp_path / "tree" / "pyproject.toml").touch()
    monkeypatch.chdir(here)
    monkeypatch.setenv("PDM_PRIORS", "mine" if named else "")
    spec = importlib.util.spec_from_file_location("paths_elsewhere", copy)
    spec.loader.exec_module(elsewhere := importlib.util.module_from_spec(spec))
    assert is_checkout == elsewhere.IS_CHECKOUT
    committed = tmp_path / "tree" / "data" if is_checkout else package / "_data"
    assert elsewhere.PRIORS == (here / "mine" if named else committed / "priors")
    wanted = here / "mine" if named else (committed if is_checkout else here / "data") / "priors"
    assert elsewhere.TRAINED == wanted  # never into an installed package


def test_relative_folders_are_those_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"PDM_DATA": "some data", "PDM_PRIORS": "/elsewhere", "PDM_IMAGES": "", "HOME": "relative"}
    assert paths.resolved(given) == {"PDM_DATA": str(tmp_path / "some data"), "PDM_PRIORS": "/elsewhere"}
    monkeypatch.setenv("PDM_DATA", "some data")
    assert paths.data_dir() == tmp_path / "some data" and paths.data_dir("given") == Path("given")


@pytest.mark.parametrize("data", [b"\x00\xff\n", "Größe\nαβ\n"])
def test_a_file_is_written_byte_for_byte_with_its_folder(tmp_path, data):
    path = tmp_path / "new" / "folder" / "file.txt"
    for _ in range(2):  # the second in place of the first
        paths.write_whole(path, data)
        assert path.read_bytes() == (data if isinstance(data, bytes) else data.encode("utf-8"))
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    paths.write_whole(path, "old")
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        paths.write_whole(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_threads_that_write_one_file_leave_one_of_theirs(tmp_path):
    texts = [str(i) * 100_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            list(pool.map(lambda text: paths.write_whole(tmp_path / "file.txt", text), texts))
            assert (tmp_path / "file.txt").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no asking for a process without ending it")
def test_a_sweep_removes_what_the_dead_left_and_nothing_of_the_living_or_of_others(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("os.replace", lambda partial, path: kept.append(Path(partial).name))
    paths.write_whole(tmp_path / "a.csv", "")  # to see the name that it takes
    pid, node = str(os.getpid()), paths.platform.node()
    assert f"{node}-{pid}-" in kept[0]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        "living": kept[0],
        "dead": kept[0].replace(f"-{pid}-", f"-{dead.pid}-"),
        "of another machine": kept[0].replace(f"-{pid}-", f"-{dead.pid}-").replace(node, "another"),
        "of others": ".something.tmp",
        "of others, too": ".some-thing-1.tmp",
        "whole": "a.csv",
    }
    (tmp_path / "below").mkdir()
    for name in names.values():
        (tmp_path / "below" / name).write_text("")
    paths.sweep(tmp_path)
    assert {path.name for path in (tmp_path / "below").iterdir()} == set(names.values()) - {names["dead"]}


def test_a_lock_excludes_threads_and_falls_with_a_process(tmp_path):
    inside, most = [], []

    def enter(_):
        with paths.locked(tmp_path / "table.csv"):
            inside.append(1)
            time.sleep(0.01)
            most.append(len(inside))
            inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(8)))
    assert most == [1] * 8
    code = "import sys, time; from pdm.paths import locked\nwith locked(sys.argv[1]): print(flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path / "table.csv"], stdout=subprocess.PIPE)
    holder.stdout.readline()
    waiting = threading.Thread(target=enter, args=(0,), daemon=True)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive() and len(most) == 8
    holder.kill()
    holder.wait()
    waiting.join(30)
    assert len(most) == 9
    assert list(tmp_path.iterdir()) == []  # the lock is elsewhere


def test_rows_that_are_written_at_once_are_all_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    monkeypatch.setattr(tables.provenance, "describe", dict)
    read = pd.read_csv

    def slowly(path):
        frame = read(path)
        time.sleep(0.02)  # another thread's turn to write
        return frame

    monkeypatch.setattr(pd, "read_csv", slowly)

    def write(i):
        tables.update_table(pd.DataFrame({"prior": [i], "loss": [i / 7]}), "shared", "smoke", "prior")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(20)))
    assert list(read(tmp_path / "smoke" / "tables" / "shared.csv")["prior"]) == list(range(20))
    assert len(list((tmp_path / "smoke" / "provenance").iterdir())) == 20
