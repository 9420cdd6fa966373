"""How the components meet: line (5) of Algorithm 1."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from pdm import checks
from pdm.schedule import Schedule

StepSize = float | Callable[[int], float]
Penalty = Callable[[Tensor], Tensor]


def operator_parameters(operator: Callable) -> frozenset[str]:
    """The names of an operator's parameters that have no default: what has to be estimated."""
    free = [p for p in inspect.signature(operator).parameters.values() if p.default is p.empty]
    return frozenset(p.name for p in free if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))


def sqrt_alpha_bar(schedule: Schedule, scale: float = 1.0) -> Callable[[int], float]:
    """A step size of scale sqrt(alpha_bar_t), which the authors' release takes instead of the paper's constant."""
    checks.number("scale", scale)
    return lambda t: scale * math.sqrt(schedule.alpha_bar[t].item())


@dataclass(frozen=True, eq=False)
class DPS:
    """Diffusion posterior sampling: each component descends the norm of the one residual they share.

    x_s = x' - a grad_{x_t} ( || y - operator(theta) ||_2 + sum_n weight_n R_n(x0_n) ), the norm not squared, one
    gradient through operator, constraint, Tweedie and network.
    Args: `measurement` y, B *Y, finite; `operator`, a function of the components by name; `scale`, the step a for
    each, a number or a function of t; `penalty`, (R, weight) for any of them, R taking x0 in the prior's range, before
    it is normalised, and giving one value per sample.
    Raises: ValueError for a measurement that is not finite or not floating, names that the operator does not take,
    steps that are negative or not finite; on the first call, an operator whose output has another shape than y.
    Source: Chung et al., "Diffusion Posterior Sampling" (2023) and Algorithm 1, line (5).

    >>> sorted(DPS(torch.zeros(1, 3), lambda source, gain: gain * source, {"source": 1.0, "gain": 0.1}).names)
    ['gain', 'source']
    """

    measurement: Tensor
    operator: Callable[..., Tensor]
    scale: Mapping[str, StepSize]
    penalty: Mapping[str, tuple[Penalty, float]] = field(default_factory=dict)
    needs_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "measurement", checks.tensor("the measurement", self.measurement, "B *S").detach())
        for what, names in (("steps", set(self.scale)), ("penalties", set(self.penalty) | self.names)):
            if names != self.names:
                raise ValueError(f"{what} are given for {sorted(names)}; the operator takes {sorted(self.names)}")
        constants = {n: a for n, a in self.scale.items() if not callable(a)}
        constants |= {f"penalty on {n}": weight for n, (_, weight) in self.penalty.items()}
        for name, value in constants.items():
            checks.number(f"the step or weight of {name}", value, least=0)

    @property
    def names(self) -> frozenset[str]:
        """The components that the operator takes."""
        return operator_parameters(self.operator)

    def fits(self, theta: Mapping[str, Tensor]) -> Tensor:
        """The measurement that the operator gives; ValueError where it has another shape than y."""
        predicted = self.operator(**theta)
        if predicted.shape != self.measurement.shape:
            came = f"the measurement has the shape {tuple(self.measurement.shape)}"
            raise ValueError(f"{came}; the operator gives {tuple(predicted.shape)}")
        return predicted

    def __call__(self, state: Any, proposal: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The displacement of each component, and the residual norms: B."""
        y, predicted = checks.for_autograd(self.measurement), self.fits(state.theta)
        residual = (y - predicted).flatten(1).norm(dim=1)  # B
        penalties = [weight * penalty(state.x0[n]) for n, (penalty, weight) in self.penalty.items()]
        total = sum(penalties, residual).sum()  # samples do not meet, so that its gradient is each one's own
        gradients = torch.autograd.grad(total, list(state.x.values()))
        given = {n: a(state.t) if callable(a) else a for n, a in self.scale.items()}
        sizes = {n: checks.number(f"the step of {n}", a, least=0) for n, a in given.items()}
        return {n: sizes[n] * g for n, g in zip(state.x, gradients, strict=True)}, residual.detach()
