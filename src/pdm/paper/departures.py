"""What the authors' public release does where it departs from the paper, on our own functions; notebook 09 runs it.

The step size sqrt(alpha_bar_t) is `guidance.sqrt_alpha_bar`, the correlation `operators.correlate`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from pdm.constraints import shift_and_divide
from pdm.guidance import DPS, StepSize
from pdm.operators import warp
from pdm.sampler import final
from pdm.study.deblurring import Priors, Settings, blind_process
from pdm.study.method import method
from pdm.study.problem import Estimate, Measurement


class WholeBatchDPS:
    """`DPS` with one norm over the whole batch: a sample's step is smaller the worse the others fit.

    The gradient of each sample is DPS's times |r_i| / |r|, r_i being its residual and r that of the batch. The loss
    is still each sample's own norm. Args: DPS's, without a penalty. Raises: ValueError as DPS.
    """

    needs_gradients = True

    def __init__(self, measurement: Tensor, operator: Callable[..., Tensor], scale: Mapping[str, StepSize]):
        self.measurement, self.operator, self.scale = measurement, operator, scale
        self.names = DPS(measurement, operator, scale).names

    def __call__(self, state, proposal) -> tuple[dict[str, Tensor], Tensor]:
        """The displacement of each component, and the residual norms: B."""
        difference = self.measurement - self.operator(**state.theta)
        gradients = torch.autograd.grad(difference.norm(), list(state.x.values()))
        sizes = {n: a(state.t) if callable(a) else a for n, a in self.scale.items()}
        loss = difference.detach().flatten(1).norm(dim=1)
        return {n: sizes[n] * g for n, g in zip(state.x, gradients, strict=True)}, loss


def divide_by_batch_sum(x: Tensor) -> Tensor:
    """Kernels in model range, B 1 h w, clamped at 0 and divided by the sum of all of them: of sum 1 if B is 1."""
    u = ((x + 1) / 2).clamp(min=0)
    return u / u.sum().clamp(min=1e-6)


@method("blind_dps_whole_batch", priors=("image", "kernel"))
def blind_dps_whole_batch(measurement: Measurement, priors: Priors, steps: int = 1000) -> Estimate:
    """Algorithm 1 with one norm of the residual and one sum of the kernels over the whole batch."""
    process = blind_process(measurement, priors, steps, Settings())
    dps = process.guidance
    kernel = replace(process.components["kernel"], constrain=divide_by_batch_sum)
    whole = WholeBatchDPS(dps.measurement, dps.operator, dps.scale)
    run = process._replace(components=process.components | {"kernel": kernel}, guidance=whole)
    last = final(run.states(measurement, steps))
    values = {"image": last.theta["image"], "kernel": shift_and_divide(last.x0["kernel"])}
    return Estimate(values, steps, steps)


def warp_in_place(image: Tensor, tilt: Tensor) -> Tensor:
    """`operators.warp` with zeros around, which leaves in `tilt` the places looked at, not the displacements."""
    seen = warp(image, tilt, "zero")
    tilt.copy_(overwritten(tilt))
    return seen


def overwritten(tilt: Tensor) -> Tensor:
    """What a tilt field, B 2 H W, is after one use: the pixel grid has been added to it."""
    row, column = (torch.arange(n, dtype=tilt.dtype, device=tilt.device) for n in tilt.shape[2:])
    return tilt + torch.stack([column.expand(len(row), -1), row[:, None].expand(-1, len(column))])
