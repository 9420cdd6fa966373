"""Scale-out over two real worker processes: the same table, and a worker that dies loses nothing."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask.config
import pandas as pd
import pytest
import torch
from dask_jobqueue import SLURMCluster
from distributed import LocalCluster

from pdm.data import motion_kernels
from pdm.study import runner
from pdm.study.dask import connected
from pdm.study.method import Method, method
from pdm.study.problem import Estimate, measured


@pytest.fixture(scope="module")
def cluster(forked):
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster


@pytest.fixture
def cases():
    generator = torch.Generator().manual_seed(1)
    truth = torch.nn.functional.interpolate(torch.rand(8, 3, 8, 8, generator=generator) * 1.6 - 0.8, 32)
    return measured(truth, motion_kernels(8, 16, 0.5, generator), range(8))


@method("slow", known=("kernel",))
def slow(measurement, priors, seconds: float = 0.0, begun: str = "") -> Estimate:
    if begun:
        Path(begun, str(os.getpid())).touch()
    time.sleep(seconds)
    image, kernel = (measurement.y * 1.1).clamp(-1, 1), measurement.known["kernel"].roll(1, 2)
    return Estimate({"image": image, "kernel": kernel})


def table(way, cases, folder, monkeypatch, executor=None):
    monkeypatch.setenv("PDM_RESULTS", str(folder))
    result = runner.run([way], cases, "smoke", executor)
    return pd.DataFrame(result[way.name]["rows"]).drop(columns="seconds"), result[way.name]["image"]


@pytest.fixture
def way():
    return Method("slow", slow, {"seconds": 0.2}, batch=2)


def test_over_two_processes_the_table_is_the_serial_one(cluster, cases, way, tmp_path, monkeypatch):
    serial, image = table(way, cases, tmp_path / "serial", monkeypatch)
    monkeypatch.setenv("EXECUTOR", cluster.scheduler_address)
    spread, same = table(way, cases, tmp_path / "dask", monkeypatch)
    pd.testing.assert_frame_equal(serial, spread)
    assert torch.equal(image, same) and len(list((tmp_path / "dask" / "smoke" / "parts").iterdir())) == 4


def test_a_worker_that_is_killed_loses_nothing(cluster, cases, way, tmp_path, monkeypatch):
    serial, _ = table(way, cases, tmp_path / "serial", monkeypatch)
    (tmp_path / "begun").mkdir()
    way = Method("slow", slow, {"seconds": 0.5, "begun": str(tmp_path / "begun")}, batch=2)
    with ThreadPoolExecutor(1) as beside, connected(cluster.scheduler_address) as executor:
        running = beside.submit(table, way, cases, tmp_path / "dask", monkeypatch, executor)
        while not (at_work := [int(path.name) for path in (tmp_path / "begun").iterdir()]):
            assert not running.done()
            time.sleep(0.02)
        os.kill(at_work[0], signal.SIGKILL)  # in the middle of its first batch
        spread, _ = running.result(timeout=60)
    pd.testing.assert_frame_equal(serial, spread)
    assert len(list((tmp_path / "begun").iterdir())) > len(at_work)  # another did its work


def test_a_worker_of_other_weights_is_refused(cluster, cases, way, tmp_path, monkeypatch):
    class Elsewhere(Method):
        def key(self, part):
            return Method.key(self, part) | {"image": f"the weights of process {os.getpid()}"}

    other = Elsewhere("slow", slow, batch=2)
    with connected(cluster.scheduler_address) as executor, pytest.raises(ValueError, match="image is the weights of"):
        table(other, cases, tmp_path, monkeypatch, executor)


def test_workers_of_its_own_are_started_and_ended(cases, way, tmp_path, monkeypatch):
    serial, image = table(way, cases, tmp_path / "serial", monkeypatch)
    spawned = dask.config.set({"distributed.worker.multiprocessing-method": "spawn"})  # as a user's are
    with spawned, connected("local:2") as executor:
        spread, same = table(way, cases, tmp_path / "local", monkeypatch, executor)
        threads = set(executor.map(_threads, range(4)))
    pd.testing.assert_frame_equal(serial, spread)
    assert torch.equal(image, same) and threads == {1}
    with pytest.raises(Exception, match=r"(?i)closed|cannot schedule|shut"):
        executor.submit(_threads, 0).result(timeout=10)


def test_under_slurm_the_table_is_the_serial_one(cases, way, tmp_path, monkeypatch):
    """dask-jobqueue's cluster as the README starts it, Slurm's two commands played by scripts that start it here."""
    for name, text in SLURM.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # where `slow` is
    serial, image = table(way, cases, tmp_path / "serial", monkeypatch)
    asked = {"cores": 1, "processes": 1, "memory": "8GB", "walltime": "12:00:00"}
    with SLURMCluster(**asked, scheduler_options={"dashboard_address": ":0"}) as cluster:
        cluster.scale(jobs=2)
        with connected(cluster.scheduler_address) as executor:
            spread, same = table(way, cases, tmp_path / "slurm", monkeypatch, executor)
    pd.testing.assert_frame_equal(serial, spread)
    assert torch.equal(image, same)


SLURM = {
    "sbatch": """#!/bin/sh
script=$(mktemp "$(dirname "$0")/XXXXXX") && cp "$1" "$script"
sh "$script" > /dev/null 2>&1 < /dev/null &
echo "Submitted batch job $!"
""",
    "scancel": """#!/bin/sh
pkill -P "$1"
""",
}


def _threads(_) -> int:
    return torch.get_num_threads()


def test_without_an_address_there_is_no_executor():
    for nothing in (None, ""):
        with connected(nothing) as executor:
            assert executor is None


def test_an_address_that_is_none_is_refused():
    for wrong in ("slurm", "local:0", "local:"):
        with pytest.raises(ValueError, match=f"EXECUTOR is '{wrong}'"), connected(wrong):
            pass
