"""DiffPIR: the exact data step by an estimate whose error is taken for white; the kernel is known.

Y. Zhu et al., "Denoising Diffusion Models for Plug-and-Play Image Restoration", CVPR workshops 2023, algorithm 1.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pdm import checks
from pdm.convolutions import fitting, pixels
from pdm.few_steps import PriorWithErrors, ratio_of, restore_known
from pdm.models import Prediction
from pdm.sampler import State


class WhiteErrors:
    """A prior with the errors that DiffPIR gives it: of every frequency the variance sbar_t^2 / lam.

    sbar_t is noise over signal; 1 / lam is the denoiser's mean square error over the noise's, one number for all time
    steps where `models.Errors` has a measured spectrum for each. Raises: ValueError for a lam that is not above 0.
    """

    def __init__(self, prior: PriorWithErrors, lam: float, channels: int = 3) -> None:
        self.prior, self.schedule, self.channels = prior, prior.schedule, checks.count("channels", channels)
        self.lam = checks.number("lam", lam, above=0)

    def __call__(self, x: Tensor, t: int) -> Prediction:
        return self.prior(x, t)

    def error(self, t: int, size: Sequence[int]) -> Tensor:
        """C H W//2+1, the same for all colours."""
        height, width = pixels("size", size)
        power, shape = ratio_of(self.schedule, t) ** 2 / self.lam, (self.channels, height, width // 2 + 1)
        return torch.full(shape, power, dtype=torch.float32, device="cpu")


def diffpir(
    measurement: Tensor,
    kernel: Tensor,
    prior: PriorWithErrors,
    evaluations: int = 100,
    lam: float = 1.0,
    zeta: float = 0.8,
    *,
    sigma: float,
    seeds: Sequence[int],
    boundary: str = "reflect",
) -> Iterator[State]:
    """Restore images that known kernels blurred, at time steps N (1 - sqrt(u)) for u from 0 to 1.

    `lam` weighs the prior as `WhiteErrors` has it, `zeta` is the share of fresh noise; both were chosen on training
    faces, where the paper's release has 1.75 in our range and 0.3. The rest is as `few_steps.restore_known`, with
    other errors; the last estimate, too, has its data step, which the release leaves out. Raises: ValueError as that.
    """
    (measurement,) = fitting("measurement B C H W", measurement)
    last, count = len(prior.schedule) - 1, checks.count("evaluations", evaluations)
    if not 0 <= checks.number("zeta", zeta) <= 1:
        raise ValueError(f"zeta is {zeta}; wanted 0 to 1")
    ramp = torch.linspace(0, 1, count, dtype=torch.float64, device="cpu").sqrt()
    times = (last * (1 - ramp)).round().int().tolist()
    white = WhiteErrors(prior, lam, measurement.shape[1])
    given = {"sigma": sigma, "seeds": seeds, "boundary": boundary, "churn": zeta, "inflation": (1.0, 0.0)}
    return restore_known(measurement, kernel, white, times, **given)
