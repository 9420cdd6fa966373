"""What is measured of a prior: samples of it, and its losses by noise band."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from pdm.models import NetworkPrior
from pdm.sampler import Component, final, sample
from pdm.schedule import ddim_step
from pdm.train.objectives import BANDS, band_losses


def band_rows(name: str, domain: str, split: str, prior: NetworkPrior, x0: Tensor) -> list[dict]:
    """Rows of the table of losses by noise band, `objectives.band_losses` of N C *S samples."""
    losses = band_losses(prior, x0)
    key = {"prior": name, "domain": domain, "split": split}
    return [key | {"t_low": a, "t_high": b, "loss": v} for (a, b), v in zip(pairwise(BANDS), losses, strict=True)]


def sample_prior(prior: NetworkPrior, seeds: Sequence[int], steps: int = 100) -> Tensor:
    """Samples of a prior by deterministic DDIM, one a seed, in the prior's range clipped to [-1, 1]: B C *S.

    Time steps are 999 u^2, u evenly spaced: dense where there is little noise and fine detail is made. Evenly spaced
    steps want twice as many for the same power there. Source: Song et al. 2021, DDIM, the quadratic choice of D.2.
    """
    times = (999 * torch.linspace(1, 0, steps, dtype=torch.float64).square()).round().int().unique().flip(0).tolist()
    last = final(sample({"x": Component(prior, prior.shape)}, None, seeds, times, step=ddim_step()))
    return last.theta["x"]
