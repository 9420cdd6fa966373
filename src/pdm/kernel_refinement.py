"""A kernel that is nearly right made exact, on a canvas of any size, by the image prior and no prior of kernels."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pdm import checks
from pdm.blind_steps import cleared
from pdm.convolutions import BOUNDARIES, Convolution, fitting
from pdm.exact_steps import from_opponent, image_step, kernel_noise, kernel_step, resized, to_opponent
from pdm.few_steps import Known, PriorWithErrors, finite, posed, restore_known, times
from pdm.sampler import State


@dataclass(frozen=True)
class Refinement:
    """How `refine_kernel` goes about it.

    `begun` steps restore the image with the kernel at hand. Then `rounds` are at noise over signal that falls by one
    factor from `first` to `last`. A pixel's standard deviation is `spread` times the kernel smoothed by a Gaussian of
    `reach` pixels, and at least `floor` of the largest. A share `doubt` of that variance counts as the kernel's error
    in the image step. What lies below `haze` of a kernel's peak is cleared, and the result is the mean of the last
    `averaged` kernels.
    """

    begun: int = 6
    rounds: int = 10
    first: float = 3.0
    last: float = 0.1
    spread: float = 3.0
    reach: float = 2.0
    floor: float = 0.005
    doubt: float = 0.3
    haze: float = 0.06
    averaged: int = 4

    def __post_init__(self) -> None:
        for name in ("begun", "rounds", "averaged"):
            checks.count(name, getattr(self, name))
        for name in ("first", "last", "spread", "reach", "floor", "doubt"):
            checks.number(name, getattr(self, name), above=0)
        checks.number("haze", self.haze, least=0)
        if self.first < self.last:
            raise ValueError(f"first is {self.first:g} and last {self.last:g}; wanted noise that falls")

    def deviation(self, kernel: Tensor) -> Tensor:
        """The standard deviation of each pixel of kernels B 1 h w about them."""
        reach = int(3 * self.reach)
        place = torch.arange(-reach, reach + 1, dtype=kernel.dtype, device=kernel.device)
        bell = torch.exp(-place.square() / (2 * self.reach**2))
        bell = bell / bell.sum()
        smooth = F.conv2d(kernel, bell.view(1, 1, -1, 1), padding=(reach, 0))
        smooth = F.conv2d(smooth, bell.view(1, 1, 1, -1), padding=(0, reach))
        return self.spread * (smooth + self.floor * smooth.amax((-2, -1), keepdim=True))


@torch.no_grad()
def refine_kernel(
    measurement: Tensor,
    kernel: Tensor,
    image: PriorWithErrors,
    plan: Refinement = Refinement(),
    *,
    sigma: float,
    seeds: Sequence[int],
    boundary: str = "reflect",
    frames: int = 1,
) -> Iterator[State]:
    """Find the kernel near one at hand: a state a round, whose `theta` holds the image and the kernel so far.

    A round diffuses the image at hand and denoises it, solves for the kernel, and solves for the image, as those of
    `restore_blind`. In place of a prior of kernels it is known that the kernel's pixels are independent, and lie about
    those of the one at hand. That allows kernels of any size, and a kernel found at a coarser scale.
    Args: `measurement` B C H W; `kernel` B 1 h w of sum 1, on the canvas that is searched; the others as
    `restore_known`. Raises: ValueError before the first evaluation.
    """
    checks.kernels("kernel", kernel)
    measurement, noise = posed(measurement, sigma, seeds, boundary, BOUNDARIES, frames)
    measurement, kernel = fitting("measurement B C Y X, kernel B 1 h w", measurement, kernel)
    if len(kernel) != len(measurement):
        raise ValueError(f"{len(kernel)} kernels for {len(measurement)} measurements; wanted one each")
    known, y = Known(sigma, boundary, frames=frames), to_opponent(measurement)
    deviation, kernels = plan.deviation(kernel), deque([kernel], maxlen=plan.averaged)
    begin = partial(restore_known, sigma=sigma, seeds=seeds, boundary=boundary, churn=1.0, frames=frames)
    for state in begin(measurement, kernel, image, plan.begun):
        yield state
    x = state.theta["image"]
    size, k, solved = x.shape[-2:], kernel, kernel
    k_error = plan.doubt * deviation.square().sum((-2, -1), keepdim=True).expand(-1, 1, size[0], size[1] // 2 + 1)
    for t in times(image.schedule, plan.rounds, plan.first, plan.last):
        error = known.each(image.error(t, size).to(y))
        fresh = noise("image", tuple(x.shape[1:])).to(y)
        x_hat = image(image.schedule.diffuse(x.clamp(-1, 1), fresh, t), t).x0.clamp(-1, 1)
        estimate = known.each(to_opponent(x_hat))
        solved = kernel_step(estimate, y, k, error, sigma, kernel, deviation, boundary, 16, solved)
        k = cleared(solved, plan.haze)
        finite("kernel", k, t)
        kernels.append(k)
        extra = resized(kernel_noise(estimate, error, k_error), y.shape[-2:])
        x = from_opponent(image_step(estimate, y, k, error, sigma**2 + extra, boundary, 5, frames)[: len(x)])
        residual = (measurement - Convolution(k, size, boundary)(known.each(x))).flatten(1).norm(dim=1)
        mean = cleared(torch.stack(tuple(kernels)).mean(0), plan.haze)
        yield State(t, t, {"image": x, "kernel": k}, {"image": x_hat}, {"image": x, "kernel": mean}, residual)
