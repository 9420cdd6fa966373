"""ILVR: the low frequencies are the measurement's, the others the prior's."""

import pytest
import torch

from pdm.baselines.ilvr import ILVR, low_pass
from pdm.models import GaussianMixture
from pdm.sampler import Component, final, sample
from pdm.schedule import Schedule

SCHEDULE = Schedule.linear()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_low_pass_keeps_slow_waves_and_stops_fast_ones():
    across = torch.arange(64) * 2 * torch.pi
    slow, fast = (torch.sin(across / period).expand(1, 1, 64, 64) for period in (32, 4))
    inner = (..., slice(8, -8), slice(8, -8))
    assert (low_pass(slow, 4) - slow)[inner].norm() < 0.1 * slow[inner].norm()
    assert low_pass(fast, 4)[inner].norm() < 0.1 * fast[inner].norm()
    flat = torch.full((1, 3, 64, 64), 0.3)
    torch.testing.assert_close(low_pass(flat, 4), flat)


def test_the_step_puts_the_noisy_measurements_low_frequencies_in_place_of_the_proposals():
    """Equation (8) by hand, with the first noise of the stream of each seed."""
    from pdm.sampler import NoiseStreams, State

    y, proposal = normal(2, 3, 16, 16, seed=1).clamp(-2, 2), {"image": normal(2, 3, 16, 16, seed=2)}
    state = State(500, 400, {}, {"image": y}, {})
    delta, loss = ILVR(y, 4, [5, 6])(state, proposal)
    noisy = SCHEDULE.diffuse(y, NoiseStreams([5, 6])("measurement", (3, 16, 16)), 400)
    expected = proposal["image"] + low_pass(noisy, 4) - low_pass(proposal["image"], 4)
    torch.testing.assert_close(proposal["image"] - delta["image"], expected)
    torch.testing.assert_close(loss, torch.zeros(2))
    delta, _ = ILVR(y, 4, [5, 6])(State(10, -1, {}, {"image": y}, {}), proposal)
    torch.testing.assert_close(delta["image"], low_pass(proposal["image"] - y, 4))  # the last step: no noise is left


def test_the_result_has_the_measurements_low_frequencies():
    y = low_pass(normal(2, 3, 16, 16, seed=3), 4)
    prior = GaussianMixture(SCHEDULE, torch.zeros(1, 3, 16, 16), torch.ones(1), 1.0)
    last = final(sample({"image": Component(prior, (3, 16, 16), clip=None)}, ILVR(y, 4, [0, 1]), [0, 1], 100))
    found = last.x["image"]
    assert (low_pass(found, 4) - low_pass(y, 4)).norm() < 0.25 * low_pass(y, 4).norm()
    high = found - low_pass(found, 4)
    assert high.std() > 0.5  # the prior's own, for nothing asks for others


@pytest.mark.parametrize(("factor", "seeds"), [(1, [0]), (3, [0]), (4, [0, 1])])
def test_mistakes_are_refused(factor, seeds):
    with pytest.raises(ValueError, match=r"factor is|seeds are \[0, 1\]; wanted 1 of them"):
        ILVR(torch.zeros(1, 3, 16, 16), factor, seeds)
