"""The release's departures: that each does what is said of it, and is the paper's where the two must agree."""

from dataclasses import dataclass

import pytest
import torch

from pdm.constraints import shift_and_divide, to_model_range
from pdm.data import motion_kernels
from pdm.guidance import DPS
from pdm.operators import blur, warp
from pdm.paper.departures import WholeBatchDPS, divide_by_batch_sum, overwritten, warp_in_place


@dataclass
class At:
    """A state whose estimates depend on x by a known function."""

    t: int
    x: dict
    x0: dict
    theta: dict


def state(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = (torch.rand(n, 3, 12, 12, generator=generator) * 2 - 1).requires_grad_()
    kernel = to_model_range(motion_kernels(n, 8, 0.5, generator)).requires_grad_()
    x = {"image": image, "kernel": kernel}
    return At(10, x, x, {"image": image, "kernel": shift_and_divide(kernel)})


@pytest.mark.parametrize("n", [1, 3])
def test_each_step_is_scaled_by_the_samples_share_of_the_residual(n):
    y = (
        torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(9))
        * torch.tensor([0.1, 1.0, 3.0])[:n, None, None, None]
    )
    sizes = {"image": 0.5, "kernel": lambda t: 0.01 * t}
    expected, loss = DPS(y, blur, sizes)(state(n), {})
    found, same = WholeBatchDPS(y, blur, sizes)(state(n), {})
    torch.testing.assert_close(same, loss)
    share = (loss / loss.norm())[:, None, None, None]
    for name in expected:
        torch.testing.assert_close(found[name], share * expected[name], rtol=1e-4, atol=1e-7)


def test_its_arguments_are_checked_as_those_of_dps():
    with pytest.raises(ValueError, match="steps are given for"):
        WholeBatchDPS(torch.zeros(1, 3, 8, 8), blur, {"image": 1.0})
    with pytest.raises(ValueError, match="NaN"):
        WholeBatchDPS(torch.full((1, 3, 8, 8), torch.nan), blur, {"image": 1.0, "kernel": 1.0})


def test_a_batch_shares_one_sum():
    x = to_model_range(motion_kernels(4, 8, 0.5, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(divide_by_batch_sum(x[:1]), shift_and_divide(x[:1]))
    found = divide_by_batch_sum(x)
    assert found.sum().item() == pytest.approx(1, abs=1e-5) and (found.sum((1, 2, 3)) < 0.6).all()


def test_a_field_used_twice_is_wrong_the_second_time():
    generator = torch.Generator().manual_seed(0)
    image, tilt = torch.rand(2, 3, 10, 12, generator=generator), torch.randn(2, 2, 10, 12, generator=generator)
    first, used = warp(image, tilt, "zero"), tilt.clone()
    assert torch.equal(warp_in_place(image, used), first)
    torch.testing.assert_close(used, overwritten(tilt))
    assert (used[:, 0, :, 5] - tilt[:, 0, :, 5] - 5).abs().max() < 1e-5  # channel 0 counts columns
    assert (used[:, 1, 7] - tilt[:, 1, 7] - 7).abs().max() < 1e-5  # channel 1 rows
    assert (warp_in_place(image, used) - first).abs().mean() > 0.1
