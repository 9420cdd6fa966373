"""Fast Diffusion EM: guided steps for the image, and at each of them the kernel that explains the estimate best.

C. Laroche, A. Almansa, E. Coupete, "Fast Diffusion EM: a diffusion model for blind inverse problems with application to
deconvolution", WACV 2024. Its guidance is PiGDM: J. Song et al., "Pseudoinverse-Guided Diffusion Models for Inverse
Problems", ICLR 2023.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pdm import checks
from pdm.constraints import from_model_range, to_model_range
from pdm.convolutions import Convolution, KernelConvolution, fitting
from pdm.exact_steps import centred, conjugate_gradients, image_step
from pdm.few_steps import finite, posed, ratio_of, time_of
from pdm.models import NetworkPrior
from pdm.sampler import State
from pdm.schedule import ancestral_step, rounded


def fast_em(
    measurement: Tensor,
    image: NetworkPrior,
    kernel: NetworkPrior,
    evaluations: int = 100,
    *,
    sigma: float,
    seeds: Sequence[int],
    boundary: str = "reflect",
    spread: float = 3.2e-3,
    level: float = 0.1,
    inner: int = 10,
    iterations: int = 12,
) -> Iterator[State]:
    """Restore images and find their kernels: `evaluations` states, the last clean.

    At each time step the image is denoised, the kernel is `kernel_map`, begun as a Dirac, and the image goes down by an
    ancestral step and PiGDM's gradient, which takes the estimate's error for white, of variance v / (1 + v) with v the
    square of noise over signal. In the authors' release v is the variance of the ancestral step, the gradient has one
    more factor of (1 + v)^(-1/2), and least squares are circular, by one FFT.
    Args: `measurement` B C H W; `image` and `kernel` priors; `sigma` the noise's standard deviation; `seeds`, one a
    sample; the boundary is "reflect", "zero" or "circular"; the rest as `kernel_map`.
    Raises: ValueError before the first evaluation.
    """
    measurement, noise = posed(measurement, sigma, seeds, boundary)
    schedule, step = image.schedule, ancestral_step()
    told = {"sigma": sigma, "boundary": boundary, "spread": spread, "level": level}
    told |= {"inner": checks.count("inner", inner), "iterations": checks.count("iterations", iterations)}
    checks.number("spread", spread, above=0), checks.number("level", level, above=0)
    KernelConvolution(measurement, kernel.shape[-2:], boundary)  # refuses an image that is too small for the kernel
    shape, (height, width) = tuple(measurement.shape[1:]), measurement.shape[-2:]
    white = measurement.new_ones(shape[0], height, width // 2 + 1)
    k = measurement.new_zeros(len(measurement), *kernel.shape)
    k[..., kernel.shape[-2] // 2, kernel.shape[-1] // 2] = 1
    x = noise("image", shape).to(measurement)
    for t, s in schedule.pairs(checks.count("evaluations", evaluations, 1, len(schedule))):
        with torch.inference_mode(False):
            x = x.clone().requires_grad_()  # a plain tensor, in inference mode too
            with torch.enable_grad():
                x_hat = image(x, t).x0.clamp(-1, 1)
            estimate, v = x_hat.detach(), ratio_of(schedule, t) ** 2
            with torch.no_grad():
                k = kernel_map(estimate, measurement, k.clone(), kernel, **told)
                change = image_step(estimate, measurement, k, v / (1 + v) * white, sigma**2, boundary) - estimate
            (gradient,) = torch.autograd.grad(x_hat, x, change)
        x, x_hat = x.detach(), estimate
        finite("kernel", k, t)
        root = rounded(schedule.alpha_bar_at(t, x).sqrt(), x)
        x = step(schedule, x, x_hat, t, s, noise("image", shape).to(x), None) + root * gradient
        residual = (measurement - Convolution(k, (height, width), boundary)(x_hat)).flatten(1).norm(dim=1)
        shown = x_hat if s >= 0 else x
        yield State(t, s, {"image": x, "kernel": k}, {"image": x_hat}, {"image": shown, "kernel": k}, residual)


def kernel_map(
    x_hat: Tensor,
    y: Tensor,
    k: Tensor,
    prior: NetworkPrior,
    *,
    sigma: float,
    boundary: str = "reflect",
    spread: float = 3.2e-3,
    level: float = 0.1,
    inner: int = 10,
    iterations: int = 12,
) -> Tensor:
    """The kernel that is likeliest if the image is `x_hat`, by half-quadratic splitting with a denoiser: B 1 h w.

    `inner` times: least squares around the kernel at hand with a deviation of `spread` a pixel of kernels of sum 1, in
    `iterations` of conjugate gradients, then the prior's denoiser at the one noise over signal `level`, in its range.
    Raises: ValueError for tensors that do not fit.
    """
    x_hat, k, y = fitting("x_hat B C H W, k B 1 h w, y B C Y X", x_hat, k, y, boundary=boundary)
    checks.number("sigma", sigma, above=0), checks.number("spread", spread, above=0)
    checks.count("inner", inner), checks.count("iterations", iterations)
    t, blur = time_of(prior.schedule, level), KernelConvolution(x_hat, k.shape[-2:], boundary)
    signal, weight = rounded(prior.schedule.alpha_bar_at(t, k).sqrt(), k), (sigma / spread) ** 2

    def normal(w: Tensor) -> Tensor:
        return blur.adjoint(blur(w)) + weight * w

    for _ in range(inner):
        k = k + conjugate_gradients(normal, blur.adjoint(y - blur(k)), lambda w: w, iterations)
        scaled = to_model_range(k.clamp(min=0))
        k = from_model_range(prior(signal * scaled, t).x0.clamp(-1, 1))
        k = k / k.sum((1, 2, 3), keepdim=True).clamp(min=1e-12)
    return centred(k)
