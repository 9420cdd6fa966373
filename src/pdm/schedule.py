"""The variance-preserving (VP) process: betas, alpha_bar, Tweedie's estimate, and the steps of its reverse.

A time step t counts 0..N-1 and means that x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise. The clean signal is
the time step -1, whose alpha_bar is 1. A reverse process is a list of pairs (t, s), each a jump from t down to s.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real

import torch
from torch import Tensor

from pdm import checks


@dataclass(frozen=True, eq=False)
class Schedule:
    """The VP process in N discrete steps (Ho et al. 2020), held in float64 on the CPU.

    `betas` is a 1-D float64 tensor of N variances in (0, 1). Raises ValueError for anything else.
    """

    betas: Tensor
    alpha_bar: Tensor = field(init=False, repr=False)  # N+1; the last stands for the clean signal: alpha_bar[-1] is 1

    def __post_init__(self) -> None:
        betas = self.betas
        if checks.tensor("betas", betas, "N", finite=False).dtype != torch.float64:
            raise ValueError(f"betas are {betas.dtype}; wanted float64, 1-D, not empty")
        if not ((betas > 0) & (betas < 1)).all():
            raise ValueError(f"betas lie in [{betas.min():g}, {betas.max():g}]; wanted them inside (0, 1)")
        object.__setattr__(self, "betas", betas.detach().cpu())
        cumulative = torch.cumprod(1 - self.betas, dim=0)
        object.__setattr__(self, "alpha_bar", torch.cat([cumulative, cumulative.new_ones(1)]))

    @classmethod
    def linear(cls, steps: int = 1000) -> "Schedule":
        """Linear betas, 1e-4 to 2e-2 at 1,000 steps and scaled as 1,000 / steps otherwise (the paper's schedule).

        Raises: ValueError for 20 steps or fewer, which would take a beta to 1 or more.
        """
        scale = 1000 / checks.count("steps", steps)
        return cls(torch.linspace(1e-4 * scale, 2e-2 * scale, steps, dtype=torch.float64, device="cpu"))

    @classmethod
    def cosine(cls, steps: int = 1000) -> "Schedule":
        """alpha_bar a squared cosine, betas clipped at 0.999 (Nichol & Dhariwal 2021, eq. 17)."""
        time = torch.arange(checks.count("steps", steps) + 1, dtype=torch.float64, device="cpu") / steps
        alpha_bar = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
        return cls((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999))

    def __len__(self) -> int:
        return len(self.betas)

    def pairs(self, steps: int | Sequence[int] | None = None) -> list[tuple[int, int]]:
        """`steps` jumps (t, s), evenly spaced from t = N-1 down to s = -1, the clean signal; all N by default.

        In place of their number, `steps` may be the time steps themselves, none above the one before it.
        Raises: ValueError unless 1 <= steps <= N, or for time steps that rise or do not exist.

        >>> Schedule.linear().pairs(3)
        [(999, 500), (500, 0), (0, -1)]
        """
        last = len(self) - 1
        if hasattr(steps, "__len__") and not isinstance(steps, str) and getattr(steps, "ndim", True):
            times = [checks.count("a time step", t, 0, last) for t in steps]  # type: ignore[union-attr]
            if not times or any(s > t for t, s in pairwise(times)):
                raise ValueError(f"time steps {times}; wanted whole numbers from {last} to 0 that do not rise")
            return list(pairwise([*times, -1]))
        number = last + 1 if steps is None else checks.count("steps", steps, 1, last + 1)  # type: ignore[arg-type]
        times = torch.linspace(last, 0, number, dtype=torch.float64, device="cpu").round().int().tolist()
        return list(pairwise([*times, -1]))

    def alpha_bar_at(self, t: int | Tensor, like: Tensor) -> Tensor:
        """alpha_bar at a time step (an int, or B of them), shaped to multiply `like`, B *S.

        It is float64 on the CPU, because some devices have no float64: coefficients are computed from it and rounded
        once, where they meet `like`. Raises: ValueError for a time step outside -1..N-1.
        """
        checks.tensor("the samples", like, "B *S", finite=False)
        if not isinstance(t, (Real, Tensor)):
            raise ValueError(f"time step {t!r}; wanted whole numbers from -1 (clean) to {len(self) - 1}")
        t = torch.as_tensor(t, device="cpu")
        if t.numel() not in (1, len(like)):
            raise ValueError(f"{t.numel()} time steps for {len(like)} samples; wanted one, or one each")
        if t.is_floating_point() or t.dtype == torch.bool or t.dim() > 1 or ((t < -1) | (t >= len(self))).any():
            raise ValueError(f"time step {t.tolist()}; wanted whole numbers from -1 (clean) to {len(self) - 1}")
        return self.alpha_bar[t].reshape(-1, *[1] * (like.dim() - 1))

    def _alike(self, x: Tensor, other: Tensor, t: int | Tensor) -> Tensor:
        """alpha_bar at t for two tensors of one shape; ValueError for others."""
        checks.tensor("noise or x0", other, "B *S", finite=False)
        alpha_bar = self.alpha_bar_at(t, x)
        if x.shape != other.shape:
            raise ValueError(f"samples {tuple(x.shape)} with noise or x0 {tuple(other.shape)}; wanted one shape")
        return alpha_bar

    def diffuse(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise."""
        alpha_bar = self._alike(x0, noise, t)
        return rounded(alpha_bar.sqrt(), x0) * x0 + rounded((1 - alpha_bar).sqrt(), x0) * noise

    def tweedie(self, x: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """E[x0 | x_t] by Tweedie's formula, line (2) of Algorithm 1, with score = -noise / sqrt(1 - alpha_bar_t):

        (x_t - sqrt(1 - alpha_bar_t) noise) / sqrt(alpha_bar_t).
        """
        alpha_bar = self._alike(x, noise, t)
        return rounded((1 / alpha_bar).sqrt(), x) * x - rounded((1 / alpha_bar - 1).sqrt(), x) * noise

    def noise_from(self, x: Tensor, x0: Tensor, t: int | Tensor) -> Tensor:
        """The noise that an estimate x0 leaves in x_t: `tweedie` turned round. The time step is not -1."""
        alpha_bar = self._alike(x, x0, t)
        if (alpha_bar == 1).any():
            raise ValueError("time step -1 is the clean signal, which holds no noise; wanted 0 or more")
        return (x - rounded(alpha_bar.sqrt(), x) * x0) / rounded((1 - alpha_bar).sqrt(), x)

    def score_from(self, x: Tensor, x0: Tensor, t: int | Tensor) -> Tensor:
        """The score of p(x_t), the gradient of its logarithm, by the estimate x0 = E[x0 | x_t]."""
        return -self.noise_from(x, x0, t) / rounded((1 - self.alpha_bar_at(t, x)).sqrt(), x)


def rounded(coefficient: Tensor, x: Tensor) -> Tensor:
    """A float64 coefficient in the dtype of x and on its device, in this order."""
    return coefficient.to(x.dtype).to(x.device)


Step = Callable[[Schedule, Tensor, Tensor, int, int, Tensor, "Tensor | None"], Tensor]
"""(schedule, x_t, x0_hat, t, s, z, variance) -> proposal for x_s; z is standard normal"""


def ancestral_step(variance: str = "small") -> Step:
    """The ancestral step of DDPM, line (4) of Algorithm 1, for any jump t -> s.

    With alpha = alpha_bar_t / alpha_bar_s and beta = 1 - alpha, the mean is
    sqrt(alpha) (1 - alpha_bar_s) / (1 - alpha_bar_t) x_t + sqrt(alpha_bar_s) beta / (1 - alpha_bar_t) x0.
    `variance`: "small" is the posterior's, beta (1 - alpha_bar_s) / (1 - alpha_bar_t); "large" is beta; "learned"
    lets the network choose between the two on a log scale by its second half of channels, -1 for small and 1 for
    large (Nichol & Dhariwal 2021, eq. 15). The last step, to s = -1, adds no noise.

    >>> x, x0, z = torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1, 1)
    >>> ancestral_step()(Schedule.linear(), x, x0, 999, -1, z, None)
    tensor([[1.]])
    """
    checks.choice("variance", variance, ("small", "large", "learned"))

    def step(schedule: Schedule, x: Tensor, x0: Tensor, t: int, s: int, z: Tensor, v: Tensor | None = None) -> Tensor:
        if variance == "learned" and v is None:
            raise ValueError("variance 'learned' wants a network that predicts it; this prior predicts noise alone")
        at, to = schedule.alpha_bar_at(t, x), schedule.alpha_bar_at(s, x)
        alpha = at / to
        mean = rounded(alpha.sqrt() * (1 - to) / (1 - at), x) * x
        mean = mean + rounded(to.sqrt() * (1 - alpha) / (1 - at), x) * x0
        if s < 0:
            return mean
        small, large = (1 - alpha) * (1 - to) / (1 - at), 1 - alpha
        if variance == "learned" and v is not None:
            share = (v + 1) / 2
            log_variance = share * rounded(large.log(), x) + (1 - share) * rounded(small.log(), x)
            return mean + (log_variance / 2).exp() * z
        return mean + rounded((small if variance == "small" else large).sqrt(), x) * z

    return step


def ddim_step(eta: float = 0.0) -> Step:
    """The DDIM step (Song et al. 2021, eq. 12); eta 0 is deterministic, eta 1 the ancestral step."""
    if not isinstance(eta, Real) or not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; wanted 0 to 1")

    def step(schedule: Schedule, x: Tensor, x0: Tensor, t: int, s: int, z: Tensor, v: Tensor | None = None) -> Tensor:
        at, to = schedule.alpha_bar_at(t, x), schedule.alpha_bar_at(s, x)
        sigma = eta * ((1 - to) / (1 - at) * (1 - at / to)).sqrt()
        direction = rounded((1 - to - sigma**2).clamp(min=0).sqrt(), x)
        noise = schedule.noise_from(x, x0, t)
        return rounded(to.sqrt(), x) * x0 + direction * noise + rounded(sigma, x) * z

    return step
