"""What is measured is what is said: counts that are known, times that are times."""

import subprocess
import time
from contextlib import contextmanager

import pytest
import torch

from pdm.paper import cost
from pdm.paper.cost import Setting


def test_more_components_and_larger_images_are_more_work():
    one, two, three = (cost.step_flops(Setting(components=n, batch=1)) for n in (1, 2, 3))
    assert one < two < three
    assert cost.step_flops(Setting(components=1, batch=2)) == pytest.approx(one, rel=0.01)
    large = cost.step_flops(Setting(components=1, batch=1, size=128))
    assert 3.9 < large / one < 5  # four times the pixels; attention grows faster


def test_a_step_runs_the_networks_forward_and_back():
    total = 0
    for name in ("image", "kernel"):
        prior = cost.load_prior(name, precision=torch.float32)
        with cost.FlopCounterMode(display=False) as counter, torch.no_grad():
            prior(torch.zeros(1, *prior.shape), 500)
        total += counter.get_total_flops()
    assert 1.8 < cost.step_flops(Setting(batch=1, precision="float32")) / total < 2.2


def test_shares_add_up():
    found = cost.shares(Setting(batch=1), repeats=1)
    assert set(found) == {"networks", "operator", "backward", "rest"} and sum(found.values()) == pytest.approx(1)
    assert all(share > 0 for share in found.values()) and found["networks"] > found["operator"]


@pytest.mark.parametrize("setting", [Setting(batch=2), Setting(plain=True, batch=1), Setting(3, 1, fast_norm=False)])
def test_every_setting_runs(setting):
    assert 0 < cost.step_seconds(setting, repeats=1) < 60
    assert setting.precision == ("float32" if setting.plain else str(cost.best_precision()).split(".")[1])


def test_a_run_takes_as_many_steps_as_it_is_asked_for(monkeypatch):
    taken = []
    around = cost.sample

    def counted(*arguments):
        for state in around(*arguments):
            taken.append(state.t)
            yield state

    monkeypatch.setattr(cost, "sample", counted)
    assert cost.run_seconds(Setting(1, 1), 3) > 0 and len(taken) == 3


def test_a_step_with_either_norm_is_the_same_to_rounding():
    ends = [next(cost._states(Setting(batch=1, fast_norm=fast), 0)).x0["image"] for fast in (True, False)]
    assert (ends[0] - ends[1]).norm() / ends[1].norm() < 0.02


def test_the_ceiling_and_a_blur_take_time():
    assert cost.ceiling(side=64, repeats=1) > 0
    assert all(cost.blur_seconds(5, method, 16, 1, 1) > 0 for method in ("fft", "direct"))


@pytest.mark.parametrize("count", [0, 4])
def test_other_numbers_of_components_are_refused(count):
    with pytest.raises(ValueError, match=r"components is .*; wanted a whole number, 1 to 3"):
        Setting(components=count)


def test_other_counts_are_refused():
    for wrong in ({"batch": 0}, {"size": 1.5}, {"batch": True}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* wanted a whole number"):
            Setting(**wrong)
    for wrong in ({"waiting": ["idle"]}, {"neighbours": [-1]}, {"repeats": 0}, {"limit": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            cost.busy(**wrong)
    with pytest.raises(ValueError, match="steps is 1001; wanted a whole number, 1 to 1000"):
        cost.peak_memory(Setting(), 1001)


def test_each_way_of_waiting_is_measured_with_its_own_variables_and_neighbours(monkeypatch):
    """A step of the process that is started, played here: as many seconds as there are neighbours, and one."""
    seen, running = [], []
    around = cost._neighbours

    @contextmanager
    def watched(count):
        with around(count) as started:
            running[:] = started
            yield started

    def played(command, env, **_):
        assert all(process.poll() is None for process in running)
        seen.append({k: v for k, v in env.items() if "OMP" in k})
        return subprocess.CompletedProcess(command, 0, stdout=f"{1 + len(running)}\n")

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(cost, "_neighbours", watched)
    monkeypatch.setattr(cost.subprocess, "run", played)
    rows = cost.busy(neighbours=(0, 2), setting=Setting(batch=4))
    assert seen == 2 * list(cost.WAITING.values())
    assert [row["neighbours"] for row in rows] == 4 * [0] + 4 * [2]
    assert [row["setting"] for row in rows] == 2 * list(cost.WAITING)
    assert [row["seconds_per_step"] for row in rows] == 4 * [4] + 4 * [12]
    assert len(running) == 2 and all(process.poll() is not None for process in running)  # ended


def test_a_neighbour_keeps_a_core_busy():
    psutil = pytest.importorskip("psutil")
    with cost._neighbours(1) as (process,):
        used = psutil.Process(process.pid).cpu_times
        before = used().user
        time.sleep(0.6)
        assert used().user - before > 0.1


def test_a_process_of_its_own_measures_time_and_memory():
    ballast = torch.ones(10**8)  # 400 MB of ours, which are none of its
    (row,) = cost.busy(["as shipped"], [0], Setting(1, 1), repeats=1)
    assert 0 < row["seconds_per_step"] < 60 and len(ballast) == 10**8
    small, large = (cost.peak_memory(Setting(1, 1, size=size), 1) for size in (64, 160))
    assert (small["size"], small["batch"], small["steps"]) == (64, 1, 1)
    assert 150 < small["peak_mb"] < 2000  # torch alone is some hundred megabytes
    assert large["peak_mb"] > small["peak_mb"] + 20  # a step's activations at six times the pixels
