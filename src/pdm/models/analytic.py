"""Priors whose denoised estimate is known in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pdm import checks
from pdm.models.prior import Prediction
from pdm.schedule import Schedule, rounded


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of Gaussians diffused by `schedule`, its score known in closed form.

    `means` is K *S, `weights` K (sum 1), `std` the standard deviation in every direction, of all components.
    At time t a component is N(sqrt(alpha_bar) mean, alpha_bar std^2 + 1 - alpha_bar), and E[x0 | x_t] the sum of the
    components' own posterior means. Raises: ValueError for weights that are none or a std not above 0.
    """

    schedule: Schedule
    means: Tensor
    weights: Tensor
    std: float

    def __post_init__(self) -> None:
        _check_weights(self.weights, self.means)
        checks.number("std", self.std, above=0)

    def __call__(self, x: Tensor, t: int) -> Prediction:
        alpha_bar = self.schedule.alpha_bar_at(t, x)
        variance = alpha_bar * self.std**2 + 1 - alpha_bar
        share = _log_shares(x, self.means, self.weights, alpha_bar, variance).exp()
        mean = (share.reshape(*share.shape, *[1] * (x.dim() - 1)) * _like(self.means, x)).sum(1)
        gain = rounded(alpha_bar.sqrt() * self.std**2 / variance, x)
        return Prediction(mean + gain * (x - rounded(alpha_bar.sqrt(), x) * mean))


@dataclass(frozen=True, eq=False)
class EmpiricalPrior:
    """Finitely many signals with their probabilities, diffused by `schedule`: a prior that knows nothing else.

    `points` is K *S, `weights` K (sum 1). At time t it is a mixture of N(sqrt(alpha_bar) point, 1 - alpha_bar), so that
    E[x0 | x_t] is the points' mean, each weighted by its posterior. Raises: ValueError for weights that are none.
    """

    schedule: Schedule
    points: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        _check_weights(self.weights, self.points)

    def log_posterior(self, x: Tensor, t: int) -> Tensor:
        """log p(point | x_t), by Bayes: B K; of a point that has a weight finite, and with finite gradients, even
        where its posterior underflows.
        """
        alpha_bar = self.schedule.alpha_bar_at(t, x)
        return _log_shares(x, self.points, self.weights, alpha_bar, 1 - alpha_bar)

    def posterior(self, x: Tensor, t: int) -> Tensor:
        """p(point | x_t): B K."""
        return self.log_posterior(x, t).exp()

    def mean(self, x: Tensor, t: int) -> Tensor:
        """E[x0 | x_t]: B *S."""
        return torch.tensordot(self.posterior(x, t), _like(self.points, x), dims=1)

    def __call__(self, x: Tensor, t: int) -> Prediction:
        return Prediction(self.mean(x, t))


@dataclass(frozen=True)
class FlatPrior:
    """A uniform prior: it knows nothing, and its denoised estimate is what it is given (Algorithm 3 of the paper)."""

    schedule: Schedule

    def __call__(self, x: Tensor, t: int) -> Prediction:
        return Prediction(x)


def _log_shares(x: Tensor, points: Tensor, weights: Tensor, alpha_bar: Tensor, variance: Tensor) -> Tensor:
    """log p(component | x_t), the components N(sqrt(alpha_bar) point, variance): B K."""
    if x.shape[1:] != points.shape[1:]:
        raise ValueError(f"samples have the shape {tuple(x.shape[1:])}; wanted {tuple(points.shape[1:])}")
    if (variance <= 0).any():
        raise ValueError("time step -1 is the clean signal; wanted 0 or more")
    pull = rounded(alpha_bar.sqrt(), x) * _like(points, x)[None] - x[:, None]  # B K *S
    log = _like(weights, x).log() - pull.square().flatten(2).sum(2) / rounded(2 * variance.reshape(-1, 1), x)
    return log.log_softmax(1)


def _like(value: Tensor, x: Tensor) -> Tensor:
    return checks.for_autograd(value).to(x)


def _check_weights(weights: Tensor, points: Tensor) -> None:
    checks.tensor("means", points, "K *S"), checks.tensor("weights", weights, "K")
    if weights.shape != points.shape[:1] or not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(f"weights {weights.tolist()}; wanted {len(points)}, nonnegative, of sum 1")
