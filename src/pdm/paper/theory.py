"""Posteriors that can be summed up exactly: finitely many images times finitely many kernels.

With `EmpiricalPrior`s on images and kernels, what Theorem 1 approximates is a finite sum, p(y | x_t, k_t) =
sum over i, j of p(image i | x_t) p(kernel j | k_t) N(y; kernel j * image i, sigma^2), and so is the joint posterior
that the sampler is to draw from. Float64 is meant: densities of many pixels lie far apart.
"""

import math
from collections.abc import Callable

from torch import Tensor

from pdm.models import EmpiricalPrior

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


def misfit_bound(
    x: Tensor,
    k: Tensor,
    t: int,
    images: EmpiricalPrior,
    kernels: EmpiricalPrior,
    norm: Callable[[Tensor], Tensor],
    constrain: Callable[[Tensor], Tensor] = lambda k0: k0,
) -> Tensor:
    """E||K0|| m1_x + ||X0_hat|| m1_k, which E||K0 x0 - K0_hat x0_hat|| over p(x0 | x_t) p(k0 | k_t) cannot exceed: B.

    m1 is the mean distance of a component from its denoised estimate, for kernels after `constrain`, as the operator
    takes them; `norm`(signals) is the largest singular value of the convolution with each: B.
    Times a Lipschitz constant of the density of the noise it bounds the Jensen gap of Theorem 1,
    |p(y | x_t, k_t) - p(y | x0_hat, k0_hat)|. Source: Supplement A.
    """

    def distance(points: Tensor, mean: Tensor, posterior: Tensor) -> Tensor:
        return (posterior * (points[None] - mean[:, None]).flatten(2).norm(dim=2)).sum(1)

    taken, shares, image = constrain(kernels.points), kernels.posterior(k, t), images.mean(x, t)
    image_term = (shares * norm(taken)).sum(1) * distance(images.points, image, images.posterior(x, t))
    return image_term + norm(image) * distance(taken, constrain(kernels.mean(k, t)), shares)


def paper_constant(size: int, sigma: float) -> float:
    """What Supplement A puts before `misfit_bound`, d / sqrt(2 pi sigma^2) exp(-1 / (2 sigma^2)), d = `size` pixels."""
    return size / math.sqrt(2 * math.pi * sigma**2) * math.exp(-1 / (2 * sigma**2))


def lipschitz_constant(size: int, sigma: float) -> float:
    """The steepest slope of N(r; 0, sigma^2 I) in `size` dimensions: that at |r| = sigma.

    The slope at |r| is |r| / sigma^2 times the density, (2 pi sigma^2)^(-d / 2) exp(-|r|^2 / (2 sigma^2)).
    """
    return (2 * math.pi * sigma**2) ** (-size / 2) * math.exp(-0.5) / sigma
