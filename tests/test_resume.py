"""`make reproduce`, killed with SIGKILL at random moments and run again, ends where an uninterrupted run does."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is for POSIX")

METHOD = '''"""A method that takes its time and writes down whenever it begins."""
import os
import time

from pdm.study.problem import Estimate


def slow(cases):
    with open(os.environ["BEGUN"], "a") as log:
        log.write(cases.names[0] + "\\n")
    time.sleep(0.25)
    return Estimate((cases.measurement * 1.1).clamp(-1, 1), cases.kernels.roll(1, 2))
'''
CELLS = [
    'SCALE = "pocket"\nSEED = 0',
    """import sys
import torch
from pdm.study import runner
from pdm.study.statistics import aggregate
from pdm.study.tables import write_table
from pdm.data import motion_kernels
from pdm.study.problem import blurred_cases
sys.path.insert(0, ".")
from method import slow
draw = torch.Generator().manual_seed(SEED)
cases = blurred_cases(torch.rand(10, 3, 32, 32, generator=draw) * 2 - 1, motion_kernels(10, 16, 0.5, draw), range(10))
result = runner.recorded([runner.Method("slow", slow, batch=1)], cases, SCALE)
table = aggregate(result).drop(columns=["seconds_per_image", "fd_vgg", "kid"])
write_table(table, "slow", SCALE, SEED)""",
]


@pytest.fixture
def books(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    cells[0].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / "00_slow.ipynb")
    (folder / "method.py").write_text(METHOD)
    return folder


def start(books, results, log):
    command = [sys.executable, "-m", "pdm.reproduce", "--scale", "smoke"]
    command += ["--notebooks-dir", str(books), "--results", str(results)]
    return subprocess.Popen(command, env=os.environ | {"BEGUN": str(log)}, stdout=subprocess.DEVNULL)


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


def begun(log):
    return log.read_text().split() if log.is_file() else []


def test_killed_at_random_moments_it_ends_with_the_same_table(books, tmp_path):
    assert start(books, tmp_path / "whole", tmp_path / "whole.log").wait(timeout=120) == 0
    seed, log = random.randrange(2**32), tmp_path / "killed.log"
    print(f"moments of seed {seed}")  # shown where the test fails
    moments = random.Random(seed)
    for _ in range(3):
        process, before = start(books, tmp_path / "killed", log), len(begun(log))
        while len(begun(log)) == before:  # until it computes
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.7))
        kill_with_children(process)
    assert start(books, tmp_path / "killed", log).wait(timeout=120) == 0
    whole, killed = (tmp_path / run / "smoke" / "tables" / "slow.csv" for run in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes() and len(pd.read_csv(whole)) == 1
    assert set(begun(log)) == {str(i) for i in range(10)}
    assert len(begun(log)) <= 10 + 3  # a kill costs the one batch that it hits, at most
