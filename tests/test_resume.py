"""`make reproduce`, two at once on one folder, killed with SIGKILL at random moments: nothing is lost or half."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import pytest
import torch

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is for POSIX")

ROUNDS = int(os.environ.get("PDM_ROUNDS", "3"))
GENERATIONS = 2  # of processes that are killed, before those that are let go on
METHOD = '''"""A method that takes its time and writes down whenever it begins."""
import os
import time

from pdm.study.method import method
from pdm.study.problem import Estimate


@method("slow", known=("kernel",))
def slow(measurement, priors):
    with open(os.environ["BEGUN"], "a") as log:
        log.write(f"{measurement.seeds[0]}\\n")
    time.sleep(float(os.environ.get("NAP", "0.2")))
    return Estimate({"image": (measurement.y * 1.1).clamp(-1, 1), "kernel": measurement.known["kernel"].roll(1, 2)})
'''
CELLS = [
    'SCALE = "pocket"\nSEED = 0\nNAME = "{name}"',
    """import sys
import torch
from pdm.data import motion_kernels
from pdm.study import runner
from pdm.study.method import Method
from pdm.study.problem import measured
from pdm.study.statistics import aggregate
from pdm.study.tables import update_table
sys.path.insert(0, ".")
from method import slow
draw = torch.Generator().manual_seed(SEED)
image, kernel = torch.rand(10, 3, 32, 32, generator=draw) * 2 - 1, motion_kernels(10, 16, 0.5, draw)
first = 0 if NAME == "a" else 3  # four images of the two are the same
cases = measured(image[first : first + 7], kernel[first : first + 7], range(first, first + 7))
result = runner.recorded([Method("slow", slow, batch=1)], cases, SCALE)
table = aggregate(result).drop(columns=["seconds_per_image", "fd_vgg", "kid"])
update_table(table.assign(dataset=NAME), "slow", SCALE, "dataset", SEED)""",
]


@pytest.fixture
def books(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for number, name in enumerate("ab"):
        cells = [nbformat.v4.new_code_cell(source.replace("{name}", name)) for source in CELLS]
        cells[0].metadata["tags"] = ["parameters"]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
        nbformat.write(notebook, folder / f"0{number}_{name}.ipynb")
    (folder / "method.py").write_text(METHOD)
    return folder


@pytest.fixture
def whole(books, tmp_path, monkeypatch):
    """The table of both notebooks' cells where nobody kills, run here: no process has to start for it."""
    monkeypatch.chdir(books)
    monkeypatch.syspath_prepend(str(books))
    for name, value in (("PDM_RESULTS", tmp_path / "whole"), ("BEGUN", tmp_path / "begun"), ("NAP", "0")):
        monkeypatch.setenv(name, str(value))
    for name in "ab":
        cells = [source.replace("{name}", name).replace('"pocket"', '"smoke"') for source in CELLS]
        exec("\n".join(cells), {"__name__": "cells"})
    sys.modules.pop("method")
    monkeypatch.delenv("NAP")
    return pd.read_csv(tmp_path / "whole" / "smoke" / "tables" / "slow.csv")


def start(books, results, log, name):
    command = [sys.executable, "-m", "pdm.study.notebooks", "--scale", "smoke", name]
    command += ["--notebooks-dir", str(books), "--results", str(results)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=os.environ | {"BEGUN": str(log)}, **quiet)


def begun(log):
    return log.read_text().split() if log.exists() else []


def kill_with_children(process):
    """SIGKILL to the runner and to its kernel, which is in a session of its own."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout.split()[2:]
    parents = dict(zip(map(int, listed[::2]), map(int, listed[1::2]), strict=True))
    family = [process.pid]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid]
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def check_whole(results):
    """No file is half written, whatever was killed: tables, records, provenance and parts are readable."""
    for path in [path for path in results.rglob("*") if path.is_file() and not path.name.startswith(".")]:
        if path.suffix == ".csv":
            assert len(pd.read_csv(path)) > 0, path
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)


def test_two_at_once_killed_at_random_moments_end_with_the_same_table(books, whole, tmp_path):
    assert len(whole) == 2
    draw, names = random.Random(0), ("00_a", "01_b")
    for round_ in range(ROUNDS):
        results, kills = tmp_path / f"round{round_}", dict.fromkeys(names, 0)
        logs = {name: [tmp_path / f"{round_}-{name}-{i}" for i in range(GENERATIONS + 1)] for name in names}
        for generation in range(GENERATIONS):
            running = {name: start(books, results, logs[name][generation], name) for name in names}
            moments = {name: (draw.randint(1, 3), draw.uniform(0, 0.4)) for name in names}  # so deep in its work
            end = time.monotonic() + 300
            while running and time.monotonic() < end:
                time.sleep(0.01)
                for name, (images, seconds) in list(moments.items()):
                    if running[name].poll() is None and len(begun(logs[name][generation])) < images:
                        continue
                    time.sleep(seconds)
                    kills[name] += running[name].poll() is None
                    kill_with_children(running.pop(name))
                    moments.pop(name)
                    check_whole(results)
            assert not running
        running = {name: start(books, results, logs[name][-1], name) for name in names}
        assert [process.wait(timeout=300) for process in running.values()] == [0, 0]
        check_whole(results)
        found = pd.read_csv(results / "smoke" / "tables" / "slow.csv")
        pd.testing.assert_frame_equal(found.sort_values("dataset", ignore_index=True), whole)
        assert sum(kills.values()) >= 3
        for name in names:  # a kill costs the image that it falls on, and no other
            assert sum(len(begun(log)) for log in logs[name]) <= 7 + kills[name]
        print(f"round {round_}: {sum(kills.values())} kills, nothing lost")
