"""Posteriors that can be summed up exactly: finitely many images times finitely many kernels.

With `EmpiricalPrior`s on images and kernels, what Theorem 1 approximates is a finite sum, p(y | x_t, k_t) =
sum over i, j of p(image i | x_t) p(kernel j | k_t) N(y; kernel j * image i, sigma^2), and so is the joint posterior
that the sampler is to draw from. Float64 is meant: densities of many pixels lie far apart.
"""

import math
from collections.abc import Callable

from torch import Tensor

from pdm.priors import EmpiricalPrior

__all__ = ["jensen_bound", "joint_posterior", "log_gaussian", "log_likelihood", "measurements"]

Operator = Callable[[Tensor, Tensor], Tensor]
"""operator(image, kernel): B *S and B *K to B *Y"""


def measurements(images: Tensor, kernels: Tensor, operator: Operator) -> Tensor:
    """What each image would give with each kernel: I *S and J *K to I J *Y."""
    pairs = images.repeat_interleave(len(kernels), 0), kernels.repeat(len(images), *[1] * (kernels.dim() - 1))
    return operator(*pairs).unflatten(0, (len(images), len(kernels)))


def log_gaussian(y: Tensor, mean: Tensor, sigma: float) -> Tensor:
    """log N(y; mean, sigma^2): *Y and ... *Y to ..., the trailing dimensions being those of y."""
    count = y.numel()
    square = (y - mean).square().flatten(mean.dim() - y.dim()).sum(-1)
    return -square / (2 * sigma**2) - count / 2 * math.log(2 * math.pi * sigma**2)


def log_likelihood(
    y: Tensor,
    x: Tensor,
    k: Tensor,
    t: int,
    images: EmpiricalPrior,
    kernels: EmpiricalPrior,
    table: Tensor,
    sigma: float,
) -> Tensor:
    """log p(y | x_t, k_t), exactly: y *Y, x_t B *S, k_t B *K, and `table` as `measurements` gives it: B.

    That the sum is over all pairs, weighted by the product of two posteriors, is the independence of the components.
    Theorem 1 puts log_gaussian(y, operator(images.mean(x, t), kernels.mean(k, t)), sigma) in its place.
    """
    shares = images.log_posterior(x, t)[:, :, None] + kernels.log_posterior(k, t)[:, None]  # B I J
    return (shares + log_gaussian(y, table, sigma)).flatten(1).logsumexp(1)


def joint_posterior(y: Tensor, images: EmpiricalPrior, kernels: EmpiricalPrior, table: Tensor, sigma: float) -> Tensor:
    """p(image i, kernel j | y): I J, of sum 1."""
    log = images.weights.log()[:, None] + kernels.weights.log()[None] + log_gaussian(y, table, sigma)
    return (log - log.logsumexp((0, 1))).exp()


def jensen_bound(
    x: Tensor,
    k: Tensor,
    t: int,
    images: EmpiricalPrior,
    kernels: EmpiricalPrior,
    norm: Callable[[Tensor], Tensor],
    size: int,
    sigma: float,
) -> Tensor:
    """The bound of Supplement A on the Jensen gap |p(y | x_t, k_t) - p(y | x0_hat, k0_hat)|: B.

    d / sqrt(2 pi sigma^2) exp(-1 / (2 sigma^2)) (E||K0|| m1_x + ||X0_hat|| m1_k), with d = `size` the number of pixels
    of y, m1 the mean distance of a component from its denoised estimate, and `norm`(signals) the largest singular
    value of the convolution with each: B.
    """
    scale = size / math.sqrt(2 * math.pi * sigma**2) * math.exp(-1 / (2 * sigma**2))

    def distance(prior: EmpiricalPrior, at: Tensor) -> Tensor:
        apart = (prior.points[None] - prior.mean(at, t)[:, None]).flatten(2).norm(dim=2)  # B K
        return (prior.posterior(at, t) * apart).sum(1)

    operator = (kernels.posterior(k, t) * norm(kernels.points)).sum(1)
    return scale * (operator * distance(images, x) + norm(images.mean(x, t)) * distance(kernels, k))
