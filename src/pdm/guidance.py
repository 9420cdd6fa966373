"""How the components meet: line (5) of Algorithm 1."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real

import torch
from torch import Tensor

from pdm.schedule import Schedule

StepSize = float | Callable[[int], float]
Penalty = Callable[[Tensor], Tensor]


def operator_parameters(operator: Callable) -> frozenset[str]:
    """The names of an operator's parameters that have no default: what has to be estimated."""
    parameters = inspect.signature(operator).parameters.values()
    return frozenset(
        p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    )


def sqrt_alpha_bar(schedule: Schedule, scale: float = 1.0) -> Callable[[int], float]:
    """A step size of scale sqrt(alpha_bar_t), which the authors' release takes instead of the paper's constant."""
    return lambda t: scale * math.sqrt(schedule.alpha_bar[t].item())


@dataclass(frozen=True, eq=False)
class DPS:
    """Diffusion posterior sampling: each component descends the norm of the one residual they share.

    x_s = x' - a grad_{x_t} ( || y - operator(theta) ||_2 + sum_n weight_n R_n(x0_n) ), the norm not squared, one
    gradient through operator, constraint, Tweedie and network.
    Args: `measurement` y, B C H W, finite; `operator`, a function of the components by name; `scale`, the step a for
    each, a number or a function of t; `penalty`, (R, weight) for any of them, R taking x0 in the prior's range, before
    it is normalised, and giving one value per sample.
    Raises: ValueError for a measurement that is not finite or not floating, names that the operator does not take,
    steps that are negative or not finite; on the first call, an operator whose output has another shape than y.
    Source: Chung et al., "Diffusion Posterior Sampling" (2023) and Algorithm 1, line (5).
    """

    measurement: Tensor
    operator: Callable[..., Tensor]
    scale: Mapping[str, StepSize]
    penalty: Mapping[str, tuple[Penalty, float]] = field(default_factory=dict)

    def __post_init__(self):
        y = self.measurement
        if y.dim() != 4 or not y.is_floating_point():
            raise ValueError(f"the measurement is {y.dtype} of shape {tuple(y.shape)}; wanted floating point, B C H W")
        if not y.isfinite().all():
            raise ValueError(
                f"the measurement holds {(~y.isfinite()).sum()} values that are NaN or infinite; wanted finite ones"
            )
        for what, names in (("steps", set(self.scale)), ("penalties", set(self.penalty) | self.names)):
            if names != self.names:
                raise ValueError(f"{what} are given for {sorted(names)}; the operator takes {sorted(self.names)}")
        constants = {n: a for n, a in self.scale.items() if not callable(a)}
        constants |= {f"penalty on {n}": weight for n, (_, weight) in self.penalty.items()}
        for name, value in constants.items():
            _check_size(name, value)

    @property
    def names(self) -> frozenset[str]:
        """The components that the operator takes."""
        return operator_parameters(self.operator)

    def __call__(self, state, proposal) -> tuple[dict[str, Tensor], Tensor]:
        """The displacement of each component, and the residual norms: B."""
        predicted = self.operator(**state.theta)
        if predicted.shape != self.measurement.shape:
            shapes = f"{tuple(self.measurement.shape)}; the operator gives {tuple(predicted.shape)}"
            raise ValueError(f"the measurement has the shape {shapes}")
        residual = (self.measurement - predicted).flatten(1).norm(dim=1)  # B
        penalties = [weight * penalty(state.x0[n]) for n, (penalty, weight) in self.penalty.items()]
        total = sum(penalties, residual).sum()  # samples do not meet, so that its gradient is each one's own
        gradients = torch.autograd.grad(total, list(state.x.values()))
        sizes = {n: _check_size(n, a(state.t) if callable(a) else a) for n, a in self.scale.items()}
        return {n: sizes[n] * g for n, g in zip(state.x, gradients, strict=True)}, residual.detach()


def _check_size(name: str, value: float) -> float:
    if not isinstance(value, Real) or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"the step or weight of {name} is {value!r}; wanted a finite number, 0 or more")
    return value


def step_sizes(
    steps: int, image: float = 1.0, kernel: float = 0.6, constant: bool = False, fade: int = 100
) -> dict[str, StepSize]:
    """Step sizes of image and kernel, given for 1,000 steps: a sqrt(alpha_bar_t), or `constant` a.

    Fewer steps want larger ones, in proportion: it is their sum over the process that moves an estimate. The constant
    is the paper's, the factor sqrt(alpha_bar_t) the authors' release's; notebook 08 compares the two. The kernel's is
    times min(1, t / `fade`) too unless it is constant, and not with `fade` 0: the residual's curvature is many times
    larger in the kernel than in the image, so that a step which does not shrink with the noise makes it shiver.
    Raises: ValueError for a negative `fade`.
    """
    if fade < 0:
        raise ValueError(f"fade is {fade}; wanted 0 or more time steps")
    schedule = Schedule.linear()
    sizes = {name: a * 1000 / steps for name, a in (("image", image), ("kernel", kernel))}
    if constant:
        return sizes
    size = {name: sqrt_alpha_bar(schedule, a) for name, a in sizes.items()}
    return size | {"kernel": lambda t: size["kernel"](t) * min(1.0, t / fade if fade else 1.0)}
