"""ILVR: a diffusion prior held to the low frequencies of the measurement, whatever the degradation was.

J. Choi, S. Kim, Y. Jeong, Y. Gwon, S. Yoon, "ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models",
ICCV 2021. No operator and no gradient: at each step the low frequencies of the proposal are replaced by those of the
measurement with as much noise as is left.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pdm import checks
from pdm.sampler import NoiseStreams, State
from pdm.schedule import Schedule


def low_pass(x: Tensor, factor: int) -> Tensor:
    """Down by `factor` and up again, bicubic: B C H W. What is left are waves longer than two of its pixels."""
    checks.tensor("x", x, least=checks.count("factor", factor))
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x is {x.dtype}; wanted float32 or float64")
    small = F.interpolate(x, scale_factor=1 / factor, mode="bicubic", antialias=True)
    return F.interpolate(small, x.shape[2:], mode="bicubic", antialias=True)


class ILVR:
    """Guidance of the component "image": x_s = x' + low(y_s) - low(x'), equation (8) of the paper.

    `measurement` is B C H W in [-1, 1]; `factor` the down-scaling, which divides its sides; `seeds`, one per sample,
    are of the noise that the measurement gets. The loss is the norm of low(y) - low(x0_hat).
    Raises: ValueError for a factor that does not divide the sides, another number of seeds, or another measurement.
    """

    names = frozenset({"image"})
    needs_gradients = False

    def __init__(self, measurement: Tensor, factor: int, seeds: Sequence[int], schedule: Schedule | None = None):
        checks.images("the measurement", measurement, reach=2)
        if checks.count("factor", factor) < 2 or any(side % factor for side in measurement.shape[2:]):
            raise ValueError(f"factor is {factor}; wanted 2 or more, a divisor of {tuple(measurement.shape[2:])}")
        self.measurement, self.factor, self.schedule = measurement, factor, schedule or Schedule.linear()
        self.noise = NoiseStreams(checks.seeds(seeds, len(measurement)))

    def __call__(self, state: State, proposal: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The displacement that is subtracted from the proposal, and the loss: B."""
        y, noise = self.measurement, self.noise("measurement", tuple(self.measurement.shape[1:])).to(self.measurement)
        noisy = y if state.s < 0 else self.schedule.diffuse(y, noise, state.s)
        loss = (low_pass(y, self.factor) - low_pass(state.x0["image"].detach(), self.factor)).flatten(1).norm(dim=1)
        return {"image": low_pass(proposal["image"] - noisy, self.factor)}, loss
