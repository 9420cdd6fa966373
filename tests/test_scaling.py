"""The time of an experiment against the number of workers: real processes, and the model for many."""

import time

import pytest
import torch

from pdm.data import motion_kernels
from pdm.paper.scaling import measured, projected
from pdm.study import problem
from pdm.study.method import Method, method
from pdm.study.problem import Estimate


@method("asleep")
def asleep(measurement, priors) -> Estimate:
    time.sleep(0.6 * len(measurement))
    return Estimate({"image": measurement.y.clamp(-1, 1)})


@pytest.fixture
def cases():
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(4, 3, 32, 32, generator=generator) * 1.6 - 0.8
    return problem.measured(truth, motion_kernels(4, 16, 0.5, generator), range(4))


def test_two_workers_that_do_not_compute_take_half_the_time(cases, forked):
    import cloudpickle  # what distributed sends functions by: this module is not on the workers' path

    module = __import__(__name__)
    cloudpickle.register_pickle_by_value(module)
    table = measured(Method("asleep", asleep, batch=1), cases)
    cloudpickle.unregister_pickle_by_value(module)
    assert table.workers.tolist() == [1, 2] and table.images.tolist() == [4, 4]
    assert table.seconds[0] > 4 * 0.6 and table.efficiency[0] == 1
    assert table.seconds[1] > 2 * 0.6 and table.efficiency[1] > 0.6
    assert table.overhead.between(0, 0.2).all()


def test_the_first_count_is_one(cases):
    with pytest.raises(ValueError, match=r"counts are \(2,\); wanted 1 first"):
        measured(Method("asleep", asleep), cases, (2,))


def test_the_projection_in_closed_form():
    whole = projected(64, 64 * 4 * 3, 4, 10.0, 0.0)
    assert whole["seconds"] == 30 and whole["efficiency"] == 1
    idle = projected(64, 65, 1, 10.0, 0.0)  # one batch in the second round
    assert idle["seconds"] == 20 and idle["efficiency"] == pytest.approx(65 / 128)
    busy = projected(64, 64, 1, 10.0, 0.05)
    assert busy["seconds"] == pytest.approx(13.2)
