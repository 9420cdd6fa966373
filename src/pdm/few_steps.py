"""Restoration in tens of network evaluations: exact data steps in place of a thousand gradient steps.

`restore_known` is a generator of states, as `sampler.sample`, and goes back through no network. `blind_steps` has the
same where the kernel is not known.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pdm import checks
from pdm.convolutions import BOUNDARIES, Convolution, fitting
from pdm.exact_steps import (
    from_opponent,
    image_step,
    kernel_noise,
    resized,
    to_opponent,
)
from pdm.models import Prediction
from pdm.sampler import NoiseStreams, State
from pdm.schedule import Schedule


class PriorWithErrors(Protocol):
    """A prior that knows how far its estimates lie from the truth, as `NetworkPrior.error` says it."""

    schedule: Schedule

    def __call__(self, x: Tensor, t: int) -> Prediction: ...

    def error(self, t: int, size: Sequence[int]) -> Tensor: ...


INFLATION = (2.0, 0.3)


def times(schedule: Schedule, count: int, first: float = 5.0, last: float = 0.03) -> list[int]:
    """`count` time steps whose noise over signal, sqrt(1 / alpha_bar - 1), falls from `first` to `last` by one factor.

    >>> times(Schedule.linear(), 4)
    [565, 240, 47, 5]
    """
    checks.number("first", first, above=0), checks.number("last", last, above=0)
    gaps = max(1, checks.count("evaluations", count) - 1)
    return [time_of(schedule, first * (last / first) ** (i / gaps)) for i in range(count)]


def time_of(schedule: Schedule, ratio: float) -> int:
    """The time step whose noise over signal is nearest to a ratio."""
    checks.number("ratio", ratio, above=0)
    return int(((1 / schedule.alpha_bar[:-1] - 1).sqrt() - ratio).abs().argmin())


def posed(
    measurement: Tensor,
    sigma: float,
    seeds: Sequence[int],
    boundary: str,
    boundaries: Sequence[str] = BOUNDARIES[:3],
    frames: int = 1,
) -> tuple[Tensor, NoiseStreams]:
    """What all restorations are asked: the measurement B C H W, checked, and its samples' noise.

    Raises: ValueError for another shape, a sigma not above 0, other than one seed for the `frames` of a sample, a
    boundary that is none of `boundaries`.
    """
    (measurement,) = fitting("measurement B C H W", measurement)
    checks.number("sigma", sigma, above=0), checks.choice("boundary", boundary, boundaries)
    noise = NoiseStreams(seeds)
    if len(noise) * checks.count("frames", frames) != len(measurement):
        each = "one each" if frames == 1 else f"one for {frames} frames"
        raise ValueError(f"{len(noise)} seeds for {len(measurement)} measurements; wanted {each}")
    return measurement, noise


@torch.no_grad()
def restore_known(
    measurement: Tensor,
    kernel: Tensor,
    prior: PriorWithErrors,
    evaluations: int | Sequence[int] = 12,
    *,
    sigma: float,
    seeds: Sequence[int],
    boundary: str = "reflect",
    churn: float = 0.85,
    first: float = 5.0,
    start: Tensor | None = None,
    kernel_error: Tensor | None = None,
    inflation: tuple[float, float] = INFLATION,
    clipped: Tensor | None = None,
    frames: int = 1,
) -> Iterator[State]:
    """Restore images that known kernels blurred: `evaluations` states, the last clean.

    Each step denoises, corrects the estimate by `image_step`, and diffuses it to the next time step with a share
    `churn` of fresh noise, 1 all of it and 0 none (the DDIM step).
    Args: `measurement` B C H W in [-1, 1] give or take the noise; `kernel` B 1 h w of sum 1; `prior` with measured
    errors; `evaluations`, how many or the time steps themselves; `sigma` the noise's standard deviation; `seeds`, one a
    sample; `first` the noise over signal to begin with; `start` B C H W, an image to begin with in place of noise
    alone; `kernel_error` the power spectrum of what the kernel may be off by, as `kernel_noise` takes it; `inflation`
    as `inflated` takes it; `clipped` B 1 H W bool, pixels of the measurement that tell nothing, as their light was more
    than the camera holds; `frames` of one scene each: `measurement`, `kernel` and `clipped` then hold all first frames,
    then all second ones. With the boundary "valid" the image is larger than what is seen.
    Raises: ValueError before the first evaluation.
    """
    checks.kernels("kernel", kernel)
    measurement, kernel = fitting("measurement B C Y X, kernel B 1 h w", measurement, kernel)
    measurement, noise = posed(measurement, sigma, seeds, boundary, BOUNDARIES, frames)
    if not 0 <= checks.number("churn", churn) <= 1:
        raise ValueError(f"churn is {churn}; wanted 0 to 1")
    if not isinstance(inflation, Sequence) or len(inflation) != 2:
        raise ValueError(f"inflation is {inflation!r}; wanted two numbers")
    checks.number("inflation", inflation[0], above=0), checks.number("inflation", inflation[1], least=0)
    if len(kernel) != len(measurement):
        raise ValueError(f"{len(kernel)} kernels for {len(measurement)} measurements; wanted one each")
    more = [n - 1 if boundary == "valid" else 0 for n in kernel.shape[-2:]]
    shape = (measurement.shape[1], *[n + m for n, m in zip(measurement.shape[-2:], more, strict=True)])
    if kernel_error is not None:
        (kernel_error,) = fitting(f"kernel_error 1 {shape[1]} {shape[2] // 2 + 1}", kernel_error)
    settings = Known(sigma, boundary, churn, kernel_error, inflation, masked(clipped, measurement), frames)
    listed = isinstance(evaluations, Sequence) and not isinstance(evaluations, str)
    steps = prior.schedule.pairs(evaluations if listed else times(prior.schedule, evaluations, first))  # type: ignore[arg-type]
    x = noise("image", shape).to(measurement)
    if start is not None:
        (start,) = fitting(f"start {len(x)} {' '.join(map(str, shape))}", start)
        x = prior.schedule.diffuse(start.to(x), x, steps[0][0])
    yield from refined(x, measurement, kernel, prior, steps, partial(noise, "image", shape), settings)


def finite(name: str, value: Tensor, t: int) -> None:
    """Raise FloatingPointError, which a table counts as diverged, for values that are NaN or infinite."""
    if not value.isfinite().all():
        raise FloatingPointError(f"the {name} is not finite at t = {t}")


class Known(NamedTuple):
    """What `refined` is told: as the arguments of `restore_known`."""

    sigma: float
    boundary: str
    churn: float = 1.0
    kernel_error: Tensor | None = None
    inflation: tuple[float, float] = INFLATION
    clipped: Tensor | None = None
    frames: int = 1

    def each(self, image: Tensor) -> Tensor:
        """What is one for each scene, B C H W, for each of its frames; what is one for all scenes stays."""
        return image if self.frames == 1 or image.dim() == 3 else image.repeat(self.frames, 1, 1, 1)

    def told(self, y: Tensor, blur: Callable[[Tensor], Tensor], estimate: Tensor) -> Tensor:
        """The measurement y with what the estimate makes of its clipped pixels, which then say nothing against it."""
        return y if self.clipped is None else torch.where(self.clipped, blur(estimate), y)


def masked(clipped: Tensor | None, measurement: Tensor) -> Tensor | None:
    """Clipped pixels as they are asked for, or None. Raises: ValueError for other than B 1 H W bool."""
    if clipped is not None:
        wanted = (len(measurement), 1, *measurement.shape[-2:])
        if not isinstance(clipped, Tensor) or clipped.dtype != torch.bool or tuple(clipped.shape) != wanted:
            came = f"{tuple(clipped.shape)} {clipped.dtype}" if isinstance(clipped, Tensor) else type(clipped).__name__
            raise ValueError(f"clipped is {came}; wanted a mask {wanted}, torch.bool")
        return clipped.to(measurement.device)
    return None


def inflated(error: Tensor, ratio: float, inflation: tuple[float, float] = INFLATION) -> Tensor:
    """inflation[0] times a prior's error spectrum and a white one of inflation[1] times the squared noise over signal.

    Spectra are measured on diffused photographs. A state on the way holds, besides, what the steps before got wrong, so
    that its estimate is further from the truth. The numbers were chosen by PSNR and LPIPS on 16 training faces and 16
    photographs with motion and with Gaussian blur. In ensemble Kalman filters this is covariance inflation (Anderson
    and Anderson 1999).
    """
    return inflation[0] * error + inflation[1] * ratio**2


def refined(
    x: Tensor,
    measurement: Tensor,
    kernel: Tensor,
    prior: PriorWithErrors,
    steps: Sequence[tuple[int, int]],
    noise: Callable[[], Tensor],
    known: Known,
) -> Iterator[State]:
    """The loop of `restore_known`, from x at the first of the time steps."""
    y, size, schedule = to_opponent(measurement), x.shape[-2:], prior.schedule
    blur = Convolution(kernel, size, known.boundary)
    for t, s in steps:
        measured = prior.error(t, size).to(y)  # first: a prior without errors is refused before it is evaluated
        error = known.each(inflated(measured, ratio_of(schedule, t), known.inflation))
        x_hat = prior(x, t).x0.clamp(-1, 1)
        estimate = known.each(to_opponent(x_hat))
        extra: Tensor | float = 0.0
        if known.kernel_error is not None:
            extra = resized(kernel_noise(estimate, error, known.kernel_error), y.shape[-2:])
        told = known.told(y, blur, estimate)
        noise_power = known.sigma**2 + extra
        step = image_step(estimate, told, kernel, error, noise_power, known.boundary, frames=known.frames)
        x0 = from_opponent(step[: len(x)])
        finite("image", x0, t)
        seen = blur(known.each(x0))
        residual = (known.told(measurement, blur, known.each(x0)) - seen).flatten(1).norm(dim=1)
        if s >= 0:
            old, fresh = schedule.noise_from(x, x0, t), noise().to(y)
            x = schedule.diffuse(x0, math.sqrt(1 - known.churn) * old + math.sqrt(known.churn) * fresh, s)
        else:
            x = x0
        yield State(t, s, {"image": x}, {"image": x_hat}, {"image": x0, "kernel": kernel}, residual)


def ratio_of(schedule: Schedule, t: int) -> float:
    """Noise over signal at a time step."""
    return float((1 / schedule.alpha_bar[t] - 1).sqrt())
