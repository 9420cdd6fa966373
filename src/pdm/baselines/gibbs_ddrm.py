"""GibbsDDRM's kernel update: Langevin dynamics with a Laplace prior, between steps of the image.

N. Murata et al., "GibbsDDRM: A Partially Collapsed Gibbs Sampler for Solving Blind Inverse Problems with Denoising
Diffusion Restoration", ICML 2023. No network knows kernels: their sparsity is the only prior. The paper's image step,
DDRM's, divides by the blur's singular values, which are those of a circular blur; with another boundary it fails, so
that the image step here is the exact one with a white error, as in DiffPIR.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from pdm import checks
from pdm.convolutions import Convolution, KernelConvolution, fitting, pixels
from pdm.data import gaussian_kernels
from pdm.exact_steps import image_step
from pdm.few_steps import finite, posed, ratio_of
from pdm.models import NetworkPrior
from pdm.sampler import State
from pdm.schedule import Schedule


@torch.no_grad()
def gibbs_ddrm(
    measurement: Tensor,
    image: NetworkPrior,
    canvas: Sequence[int] = (32, 32),
    evaluations: int = 100,
    repeats: int = 3,
    begins: float = 0.3,
    *,
    sigma: float,
    seeds: Sequence[int],
    boundary: str = "reflect",
    iterations: int = 50,
    rate: float = 7.5e-12,
    weight: float = 1.2e4,
    std: float = 1.0,
) -> Iterator[State]:
    """Restore images and find their kernels in `evaluations` time steps, the last state clean.

    The settings are not the paper's, whose kernels span less of the picture: with those the kernel drifts off here.
    A step denoises, corrects the estimate by `image_step`, and diffuses it to the next time step with fresh noise.
    Below the share `begins` of the time it then denoises what it came to, draws the kernel by `langevin`, and corrects
    and diffuses the estimate again by that kernel, `repeats` times: so many more evaluations.
    Args: `measurement` B C H W; `image`, the prior; `canvas`, height and width of kernels, which begin as Gaussians of
    `std` pixels; `sigma` the noise's standard deviation; `seeds`, one a sample; the boundary is "reflect", "zero" or
    "circular"; the rest as `langevin`. Raises: ValueError before the first evaluation.
    """
    measurement, noise = posed(measurement, sigma, seeds, boundary)
    canvas, schedule = pixels("canvas", canvas), image.schedule
    checks.count("repeats", repeats, 0), checks.count("iterations", iterations), checks.number("begins", begins)
    checks.number("rate", rate, above=0), checks.number("weight", weight, least=0), checks.number("std", std, above=0)
    if canvas[0] != canvas[1]:
        raise ValueError(f"canvas is {canvas}; wanted a square")
    KernelConvolution(measurement, canvas, boundary)  # refuses an image that is too small for the kernel
    size, shape = measurement.shape[-2:], tuple(measurement.shape[1:])
    steps = schedule.pairs(checks.count("evaluations", evaluations, 1, len(schedule)))
    k = gaussian_kernels(1, canvas[0], std).to(measurement).expand(len(measurement), -1, -1, -1)
    x = noise("image", shape).to(measurement)
    white = measurement.new_ones(shape[0], size[0], size[1] // 2 + 1)
    for t, s in steps:
        x_hat, x_s = image(x, t).x0.clamp(-1, 1), x
        for again in range(repeats + 1 if updates(s, begins, schedule) else 1):
            if again:
                ahead = image(x_s, s).x0.clamp(-1, 1)
                draws = (noise("kernel", (1, *canvas)).to(k) for _ in range(iterations))
                k = langevin(ahead, measurement, k, draws, sigma, rate, weight, boundary)
                finite("kernel", k, t)
            error = ratio_of(schedule, t) ** 2 * white
            x0 = image_step(x_hat, measurement, k, error, sigma**2, boundary)
            x_s = schedule.diffuse(x0, noise("image", shape).to(x), s) if s >= 0 else x0
        x = x_s
        residual = (measurement - Convolution(k, size, boundary)(x0)).flatten(1).norm(dim=1)
        yield State(t, s, {"image": x, "kernel": k}, {"image": x_hat}, {"image": x0, "kernel": k}, residual)


def updates(s: int, begins: float, schedule: Schedule) -> bool:
    """Whether the kernel is drawn anew on the way to time step s; -1 is the clean image, which is not denoised."""
    return 0 <= s <= begins * len(schedule)


def passes(schedule: Schedule, evaluations: int, repeats: int, begins: float) -> int:
    """How often `gibbs_ddrm` evaluates its prior for a sample.

    >>> passes(Schedule.linear(), 100, 3, 0.7)
    310
    """
    steps = schedule.pairs(checks.count("evaluations", evaluations))
    drawn = sum(updates(s, checks.number("begins", begins), schedule) for _, s in steps)
    return evaluations + checks.count("repeats", repeats, 0) * drawn


def langevin(
    x: Tensor,
    y: Tensor,
    kernel: Tensor,
    draws: Iterable[Tensor],
    sigma: float,
    rate: float,
    weight: float,
    boundary: str = "reflect",
) -> Tensor:
    """Kernels drawn from p(k | x, y) with a Laplace prior, a step for each of the `draws`, B 1 h w of noise.

    A step is k - rate / 2 d/dk [|y - k * x|^2 / (2 sigma^2) + weight |k|_1] + sqrt(rate) z. The last kernel is divided
    by its sum. Raises: ValueError for tensors that do not fit.
    """
    x, kernel, y = fitting("x B C H W, kernel B 1 h w, y B C Y X", x, kernel, y, boundary=boundary)
    (
        checks.number("sigma", sigma, above=0),
        checks.number("rate", rate, above=0),
        checks.number("weight", weight, least=0),
    )
    blur = KernelConvolution(x, kernel.shape[-2:], boundary)
    for z in draws:
        slope = blur.adjoint(blur(kernel) - y) / sigma**2 + weight * kernel.sign()
        kernel = kernel - rate / 2 * slope + math.sqrt(rate) * z
    return kernel / kernel.sum((1, 2, 3), keepdim=True)
