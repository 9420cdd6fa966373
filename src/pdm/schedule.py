"""The variance-preserving (VP) process: betas, alpha_bar, Tweedie's estimate, and the steps of its reverse.

A time step t counts 0..N-1 and means that x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise. The clean
signal is the time step -1, whose alpha_bar is 1. A reverse process of any number of steps is a list of pairs
(t, s), each a jump from t down to s.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Schedule:
    """The VP process in N discrete steps (Ho et al. 2020), held in float64.

    `betas` is a 1-D float64 tensor of N variances in (0, 1). Raises ValueError for anything else.
    """

    betas: Tensor

    def __post_init__(self):
        betas = self.betas
        if betas.dim() != 1 or len(betas) < 1 or betas.dtype != torch.float64:
            raise ValueError(f"betas are {betas.dtype} of shape {tuple(betas.shape)}; wanted float64, 1-D, not empty")
        if not ((betas > 0) & (betas < 1)).all():
            raise ValueError(f"betas lie in [{betas.min():g}, {betas.max():g}]; wanted them inside (0, 1)")
        cumulative = torch.cumprod(1 - betas, dim=0)
        object.__setattr__(self, "alpha_bar", torch.cat([cumulative, torch.ones(1, dtype=torch.float64)]))

    alpha_bar = None  # N+1, float64; the last stands for the clean signal, so that alpha_bar[-1] is 1

    @classmethod
    def linear(cls, steps: int = 1000) -> "Schedule":
        """Linear betas, 1e-4 to 2e-2 at 1,000 steps and scaled as 1,000 / steps otherwise (the paper's schedule).

        Raises: ValueError for 20 steps or fewer, which would take a beta to 1 or more.
        """
        _at_least_one(steps)
        scale = 1000 / steps
        return cls(torch.linspace(1e-4 * scale, 2e-2 * scale, steps, dtype=torch.float64))

    @classmethod
    def cosine(cls, steps: int = 1000) -> "Schedule":
        """alpha_bar a squared cosine, betas clipped at 0.999 (Nichol & Dhariwal 2021, eq. 17)."""
        _at_least_one(steps)
        time = torch.arange(steps + 1, dtype=torch.float64) / steps
        alpha_bar = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
        return cls((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999))

    def __len__(self) -> int:
        return len(self.betas)

    def pairs(self, steps: int | Sequence[int] | None = None) -> list[tuple[int, int]]:
        """`steps` jumps (t, s), evenly spaced from t = N-1 down to s = -1, the clean signal; all N by default.

        In place of their number, `steps` may be the time steps themselves, none above the one before it.
        Raises: ValueError unless 1 <= steps <= N, or for time steps that rise or that there are not.
        """
        if isinstance(steps, Sequence) and not isinstance(steps, str):
            times = list(steps)
            whole = all(isinstance(t, Integral) and 0 <= t < len(self) for t in times)
            if not times or not whole or any(s > t for t, s in pairwise(times)):
                raise ValueError(f"time steps {times}; wanted whole numbers from {len(self) - 1} to 0 that do not rise")
            return list(pairwise([*times, -1]))
        steps = len(self) if steps is None else steps
        if isinstance(steps, bool) or not isinstance(steps, Integral) or not 1 <= steps <= len(self):
            raise ValueError(f"steps is {steps!r}; wanted a whole number from 1 to {len(self)}")
        times = torch.linspace(len(self) - 1, 0, steps, dtype=torch.float64).round().int().tolist()
        return list(pairwise([*times, -1]))

    def alpha_bar_at(self, t: int | Tensor, like: Tensor) -> Tensor:
        """alpha_bar at a time step (an int, or B of them), on the device of `like` and shaped to multiply it.

        It stays in float64, for the coefficients are computed from it and rounded once, where they meet `like`.
        Raises: ValueError for a time step outside -1..N-1.
        """
        t = torch.as_tensor(t)
        if t.numel() not in (1, len(like)):
            raise ValueError(f"{t.numel()} time steps for {len(like)} samples; wanted one, or one each")
        if t.is_floating_point() or t.dtype == torch.bool or t.dim() > 1 or ((t < -1) | (t >= len(self))).any():
            raise ValueError(f"time step {t.tolist()}; wanted whole numbers from -1 (clean) to {len(self) - 1}")
        return self.alpha_bar[t.cpu()].to(like.device).reshape(-1, *[1] * (like.dim() - 1))

    def diffuse(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise."""
        alpha_bar = self.alpha_bar_at(t, x0)
        return alpha_bar.sqrt().to(x0.dtype) * x0 + (1 - alpha_bar).sqrt().to(x0.dtype) * noise

    def tweedie(self, x: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """E[x0 | x_t] by Tweedie's formula, line (2) of Algorithm 1.

        The score is -noise / sqrt(1 - alpha_bar_t), so that this is
        (x_t - sqrt(1 - alpha_bar_t) noise) / sqrt(alpha_bar_t).
        """
        alpha_bar = self.alpha_bar_at(t, x)
        return (1 / alpha_bar).sqrt().to(x.dtype) * x - (1 / alpha_bar - 1).sqrt().to(x.dtype) * noise


Step = Callable[[Schedule, Tensor, Tensor, int, int, Tensor, "Tensor | None"], Tensor]
"""(schedule, x_t, x0_hat, t, s, z, variance) -> proposal for x_s; z is standard normal"""


def ancestral_step(variance: str = "small") -> Step:
    """The ancestral step of DDPM, line (4) of Algorithm 1, for any jump t -> s.

    With alpha = alpha_bar_t / alpha_bar_s and beta = 1 - alpha, the mean is
    sqrt(alpha) (1 - alpha_bar_s) / (1 - alpha_bar_t) x_t + sqrt(alpha_bar_s) beta / (1 - alpha_bar_t) x0.
    `variance`: "small" is the posterior's, beta (1 - alpha_bar_s) / (1 - alpha_bar_t); "large" is beta; "learned"
    lets the network choose between the two on a log scale by its second half of channels, -1 for small and 1 for
    large (Nichol & Dhariwal 2021, eq. 15). The last step, to s = -1, adds no noise.
    """
    if variance not in ("small", "large", "learned"):
        raise ValueError(f"variance is {variance!r}; wanted 'small', 'large' or 'learned'")

    def step(schedule, x, x0, t, s, z, predicted=None):
        if variance == "learned" and predicted is None:
            raise ValueError("variance 'learned' wants a network that predicts it; this prior predicts noise alone")
        at, to = schedule.alpha_bar_at(t, x), schedule.alpha_bar_at(s, x)
        alpha = at / to
        mean = (alpha.sqrt() * (1 - to) / (1 - at)).to(x.dtype) * x
        mean = mean + (to.sqrt() * (1 - alpha) / (1 - at)).to(x.dtype) * x0
        if s < 0:
            return mean
        small, large = (1 - alpha) * (1 - to) / (1 - at), 1 - alpha
        if variance == "learned":
            share = (predicted + 1) / 2
            log_variance = share * large.log().to(x.dtype) + (1 - share) * small.log().to(x.dtype)
            return mean + (log_variance / 2).exp() * z
        return mean + (small if variance == "small" else large).sqrt().to(x.dtype) * z

    return step


def ddim_step(eta: float = 0.0) -> Step:
    """The DDIM step (Song et al. 2021, eq. 12); eta 0 is deterministic, eta 1 the ancestral step."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; wanted 0 to 1")

    def step(schedule, x, x0, t, s, z, predicted=None):
        at, to = schedule.alpha_bar_at(t, x), schedule.alpha_bar_at(s, x)
        sigma = eta * ((1 - to) / (1 - at) * (1 - at / to)).sqrt()
        noise = (x - at.sqrt().to(x.dtype) * x0) / (1 - at).sqrt().to(x.dtype)
        direction = (1 - to - sigma**2).clamp(min=0).sqrt()
        return to.sqrt().to(x.dtype) * x0 + direction.to(x.dtype) * noise + sigma.to(x.dtype) * z

    return step


def _at_least_one(steps: int) -> None:
    if not isinstance(steps, Integral) or steps < 1:
        raise ValueError(f"steps is {steps}; wanted a whole number, 1 or more")
