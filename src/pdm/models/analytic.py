"""Priors whose denoised estimate is known in closed form."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pdm.models.prior import Prediction
from pdm.schedule import Schedule


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of Gaussians diffused by `schedule`, its score known in closed form.

    `means` is K *S, `weights` K (sum 1), `std` the standard deviation in every direction, of all components.
    At time t a component is N(sqrt(alpha_bar) mean, alpha_bar std^2 + 1 - alpha_bar), and the noise predicted is
    -sqrt(1 - alpha_bar) times the score. Raises: ValueError for weights that are none or a std not above 0.
    """

    schedule: Schedule
    means: Tensor
    weights: Tensor
    std: float

    def __post_init__(self):
        _check_weights(self.weights, self.means)
        if not (math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"std is {self.std}; wanted it above 0")

    def __call__(self, x: Tensor, t: int) -> Prediction:
        if x.shape[1:] != self.means.shape[1:]:
            raise ValueError(
                f"samples have the shape {tuple(x.shape[1:])}; wanted the means', {tuple(self.means.shape[1:])}"
            )
        alpha_bar = self.schedule.alpha_bar_at(t, x).to(x.dtype)
        variance = alpha_bar * self.std**2 + 1 - alpha_bar
        pull = alpha_bar.sqrt() * self.means[None] - x[:, None]  # B K *S
        log = self.weights.log() - (pull**2).flatten(2).sum(2) / (2 * variance.reshape(-1, 1))  # B K
        share = log.softmax(1).reshape(*log.shape, *[1] * (x.dim() - 1))
        return Prediction(-(1 - alpha_bar).sqrt() * (share * pull).sum(1) / variance)


@dataclass(frozen=True, eq=False)
class EmpiricalPrior:
    """Finitely many signals with their probabilities, diffused by `schedule`: a prior that knows nothing else.

    `points` is K *S, `weights` K (sum 1). At time t it is a mixture of N(sqrt(alpha_bar) point, 1 - alpha_bar), so that
    E[x0 | x_t] is the points' mean, each weighted by its posterior. Raises: ValueError for weights that are none.
    """

    schedule: Schedule
    points: Tensor
    weights: Tensor

    def __post_init__(self):
        _check_weights(self.weights, self.points)

    def log_posterior(self, x: Tensor, t: int) -> Tensor:
        """log p(point | x_t), by Bayes: B K; of a point that has a weight finite, and with finite gradients, even
        where its posterior underflows.
        """
        if x.shape[1:] != self.points.shape[1:]:
            raise ValueError(f"samples have the shape {tuple(x.shape[1:])}; wanted {tuple(self.points.shape[1:])}")
        alpha_bar = self.schedule.alpha_bar_at(t, x).to(x.dtype)
        pull = alpha_bar.sqrt() * self.points[None] - x[:, None]  # B K *S
        square = pull.square().flatten(2).sum(2)  # B K
        return (self.weights.log() - square / (2 * (1 - alpha_bar.reshape(-1, 1)))).log_softmax(1)

    def posterior(self, x: Tensor, t: int) -> Tensor:
        """p(point | x_t): B K."""
        return self.log_posterior(x, t).exp()

    def mean(self, x: Tensor, t: int) -> Tensor:
        """E[x0 | x_t]: B *S."""
        return torch.tensordot(self.posterior(x, t), self.points, dims=1)

    def __call__(self, x: Tensor, t: int) -> Prediction:
        alpha_bar = self.schedule.alpha_bar_at(t, x).to(x.dtype)
        return Prediction((x - alpha_bar.sqrt() * self.mean(x, t)) / (1 - alpha_bar).sqrt())


@dataclass(frozen=True)
class FlatPrior:
    """A uniform prior: it knows nothing, and its denoised estimate is what it is given (Algorithm 3 of the paper)."""

    schedule: Schedule

    def __call__(self, x: Tensor, t: int) -> Prediction:
        alpha_bar = self.schedule.alpha_bar_at(t, x)
        return Prediction(((1 - alpha_bar.sqrt()) / (1 - alpha_bar).sqrt()).to(x.dtype) * x)


def _check_weights(weights: Tensor, points: Tensor) -> None:
    if weights.shape != points.shape[:1] or not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(f"weights {weights.tolist()}; wanted {len(points)}, nonnegative, of sum 1")
    if not points.isfinite().all():
        raise ValueError("a mean holds NaN or infinite values; wanted finite ones")
