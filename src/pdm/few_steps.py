"""Restoration in tens of network evaluations: exact data steps in place of a thousand gradient steps.

Both functions are generators of states, as `sampler.sample`. Neither goes back through a network.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pdm import checks
from pdm.constraints import from_model_range, to_model_range
from pdm.convolutions import BOUNDARIES, Convolution, fitting
from pdm.exact_steps import (
    centred,
    from_opponent,
    image_step,
    kernel_noise,
    kernel_step,
    resized,
    surprise,
    to_opponent,
)
from pdm.models import Errors, NetworkPrior
from pdm.sampler import NoiseStreams, State
from pdm.schedule import Schedule


@dataclass(frozen=True)
class Plan:
    """How `restore_blind` goes about it.

    At each of the time steps `levels` there are `rounds` of one evaluation of either prior. The kernel is denoised at
    the time step whose noise over signal is `clock` times the image's, within `kernel_times`. What lies below `haze`
    of a kernel's peak is cleared, because an estimate's haze costs the image contrast. Of `chains` from different
    noise the least surprising one is kept, after `polish` steps each with its own kernel, as a wrong kernel
    shows only in what it makes of the image. `finish` steps with the chosen kernel end it, with a share `churn` of
    fresh noise: 1 gives the highest PSNR, less of it crisper images.
    """

    levels: tuple[int, ...] = (500, 400, 300, 200, 120, 60, 25)
    rounds: int = 3
    chains: int = 1
    clock: float = 1.0
    kernel_times: tuple[int, int] = (20, 400)
    haze: float = 0.05
    polish: int = 5
    judged_at: tuple[int, ...] = (120, 60)
    finish: int = 12
    churn: float = 0.7

    def __post_init__(self) -> None:
        for name in ("rounds", "chains", "polish", "finish"):
            checks.count(name, getattr(self, name))
        checks.number("clock", self.clock, above=0), checks.number("haze", self.haze, least=0)
        if not 0 <= checks.number("churn", self.churn) <= 1:
            raise ValueError(f"churn is {self.churn}; wanted 0 to 1")
        for name in ("levels", "kernel_times", "judged_at"):
            if not (steps := getattr(self, name)) or not all(checks.count(name, t, 0, 999) == t for t in steps):
                raise ValueError(f"{name} are {steps}; wanted time steps")
        if len(self.kernel_times) != 2 or self.kernel_times[0] > self.kernel_times[1]:
            raise ValueError(f"kernel_times are {self.kernel_times}; wanted the least and the largest")

    @property
    def evaluations(self) -> tuple[int, int]:
        """How often a sample's image prior is evaluated, and its kernel prior."""
        rounds = self.chains * self.rounds * len(self.levels)
        choice = self.chains * (self.polish + len(self.judged_at)) if self.chains > 1 else 0
        return rounds + choice + self.finish, rounds


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


@torch.no_grad()
def restore_known(
    measurement: Tensor,
    kernel: Tensor,
    prior: NetworkPrior,
    evaluations: int = 12,
    *,
    sigma: float,
    seeds: Sequence[int],
    boundary: str = "reflect",
    churn: float = 1.0,
    first: float = 5.0,
    start: Tensor | None = None,
    kernel_error: Tensor | None = None,
) -> Iterator[State]:
    """Restore images that known kernels blurred: `evaluations` states, the last clean.

    Each step denoises, corrects the estimate by `image_step`, and diffuses it to the next time step with a share
    `churn` of fresh noise, 1 all of it and 0 none (the DDIM step).
    Args: `measurement` B C H W in [-1, 1] give or take the noise; `kernel` B 1 h w of sum 1; `prior` with measured
    errors; `sigma` the noise's standard deviation; `seeds`, one a sample; `first` the noise over signal to begin with;
    `start` B C H W, an image to begin with in place of noise alone; `kernel_error` the power spectrum of what the
    kernel may be off by, as `kernel_noise` takes it. With the boundary "valid" the image is larger than what is seen.
    Raises: ValueError before the first evaluation.
    """
    checks.kernels("kernel", kernel)
    measurement, kernel = fitting("measurement B C Y X, kernel B 1 h w", measurement, kernel)
    if not 0 <= checks.number("churn", churn) <= 1:
        raise ValueError(f"churn is {churn}; wanted 0 to 1")
    checks.choice("boundary", boundary, BOUNDARIES)
    noise = NoiseStreams(seeds)
    if len(noise) != len(measurement) or len(kernel) != len(measurement):
        came = f"{len(noise)} seeds, {len(kernel)} kernels for {len(measurement)} measurements"
        raise ValueError(f"{came}; wanted as many of each")
    more = [n - 1 if boundary == "valid" else 0 for n in kernel.shape[-2:]]
    shape = (measurement.shape[1], *[n + m for n, m in zip(measurement.shape[-2:], more, strict=True)])
    settings = Known(checks.number("sigma", sigma, above=0), boundary, churn, kernel_error)
    steps = prior.schedule.pairs(times(prior.schedule, evaluations, first))
    x = noise("image", shape).to(measurement)
    if start is not None:
        (start,) = fitting(f"start {len(x)} {' '.join(map(str, shape))}", start)
        x = prior.schedule.diffuse(start.to(x), x, steps[0][0])
    yield from refined(x, measurement, kernel, prior, steps, partial(noise, "image", shape), settings)


class Known(NamedTuple):
    """What `refined` is told: as the arguments of `restore_known`."""

    sigma: float
    boundary: str
    churn: float = 1.0
    kernel_error: Tensor | None = None


def refined(
    x: Tensor,
    measurement: Tensor,
    kernel: Tensor,
    prior: NetworkPrior,
    steps: Sequence[tuple[int, int]],
    noise: Callable[[], Tensor],
    known: Known,
) -> Iterator[State]:
    """The loop of `restore_known`, from x at the first of the time steps."""
    y, size, schedule = to_opponent(measurement), x.shape[-2:], prior.schedule
    blur = Convolution(kernel, size, known.boundary)
    for t, s in steps:
        error = prior.error(t, size).to(y)  # first: a prior without errors is refused before it is evaluated
        x_hat = prior(x, t).x0.clamp(-1, 1)
        estimate = to_opponent(x_hat)
        extra = 0.0 if known.kernel_error is None else kernel_noise(estimate, error, known.kernel_error)
        x0 = from_opponent(image_step(estimate, y, kernel, error, known.sigma**2 + extra, known.boundary))
        residual = (measurement - blur(x0)).flatten(1).norm(dim=1)
        if s >= 0:
            old, fresh = schedule.noise_from(x, x0, t), noise().to(y)
            x = schedule.diffuse(x0, math.sqrt(1 - known.churn) * old + math.sqrt(known.churn) * fresh, s)
        else:
            x = x0
        yield State(t, s, {"image": x}, {"image": x_hat}, {"image": x0, "kernel": kernel}, residual)


@torch.no_grad()
def restore_blind(
    measurement: Tensor,
    image: NetworkPrior,
    kernel: NetworkPrior,
    errors: Errors,
    plan: Plan = Plan(),
    *,
    sigma: float,
    seeds: Sequence[int],
    boundary: str = "reflect",
) -> Iterator[State]:
    """Restore images and find the kernels that blurred them: a state a round, then those of `restore_known`.

    A round diffuses the image at hand and denoises it, solves for the kernel around the mean of all kernels with the
    image's error as noise, has the kernel prior denoise that, and solves for the image with the kernel's error as
    noise. `theta` holds all chains, B chains, those of a sample side by side; from the choice on B.
    Args: `measurement` B C H W; `image`, a prior with errors; `kernel`, a prior of kernels, of those that could have
    blurred this measurement (`ConditionalPrior.given`) or of all; `errors`, of the prior of all kernels; `plan`; the
    others as `restore_known`, but for the boundary "valid". Raises: ValueError before the first evaluation.
    """
    (measurement,) = fitting("measurement B C H W", measurement)
    sigma, noise = checks.number("sigma", sigma, above=0), NoiseStreams(seeds)
    checks.choice("boundary", boundary, BOUNDARIES[:3])
    if len(noise) != len(measurement):
        raise ValueError(f"{len(noise)} seeds for {len(measurement)} measurements; wanted one each")
    if errors.mean is None or errors.root is None:
        raise ValueError("the errors have no mean and root of kernels; wanted those of the kernel prior")
    m, size, canvas = plan.chains, measurement.shape[-2:], kernel.shape
    repeated = measurement.repeat_interleave(m, 0)
    y, chains = to_opponent(repeated), [f" of chain {c}" if c else "" for c in range(m)]
    image_m, kernel_m = image.repeated(m), kernel.repeated(m)
    mean, root = errors.mean.to(y), errors.root.to(y)

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.stack([noise(name + chain, shape) for chain in chains], dim=1).flatten(0, 1).to(y)

    x, k = repeated, mean.expand(len(y), *canvas)
    for t in plan.levels:
        t_k = time_of(kernel.schedule, plan.clock * ratio_of(image.schedule, t))
        t_k = min(max(t_k, plan.kernel_times[0]), plan.kernel_times[1])
        error, k_error = image_m.error(t, size).to(y), resized(errors.at(t_k, canvas[1:]).to(y), size)
        for _ in range(plan.rounds):
            noisy = image.schedule.diffuse(x.clamp(-1, 1), drawn("image", y.shape[1:]), t)
            x_hat = image_m(noisy, t).x0.clamp(-1, 1)
            estimate = to_opponent(x_hat)
            k = centred(kernel_step(estimate, y, k, error, sigma, mean, root, boundary))
            k_t = kernel.schedule.diffuse(to_model_range(k), drawn("kernel", canvas), t_k)
            k = cleared(from_model_range(kernel_m(k_t, t_k).x0.clamp(-1, 1)), plan.haze)
            extra = kernel_noise(estimate, error, k_error)
            x = from_opponent(image_step(estimate, y, k, error, sigma**2 + extra, boundary))
            residual = (repeated - Convolution(k, size, boundary)(x)).flatten(1).norm(dim=1)
            yield State(t, t, {"image": x, "kernel": k}, {"image": x_hat}, {"image": x, "kernel": k}, residual)
    # the kernel is better than its prior's error says; on training images a fiftieth did better than a tenth
    known = Known(sigma, boundary, 1.0, 0.02 * resized(errors.at(plan.kernel_times[0], canvas[1:]).to(y), size))
    if m > 1:
        steps = image.schedule.pairs(times(image.schedule, plan.polish, 1.0))
        polish = partial(drawn, "polish", y.shape[1:])
        x = image.schedule.diffuse(x.clamp(-1, 1), polish(), steps[0][0])
        for state in refined(x, repeated, k, image_m, steps, polish, known):
            yield state
        best = choice(state.theta["image"], y, k, image_m, noise, plan.judged_at, known)
        x, k = state.theta["image"][best], k[best]
    steps = image.schedule.pairs(times(image.schedule, plan.finish, 1.0))
    finish = partial(noise, "finish", tuple(y.shape[1:]))
    x = image.schedule.diffuse(x.clamp(-1, 1), finish().to(y), steps[0][0])
    yield from refined(x, measurement, k, image, steps, finish, known._replace(churn=plan.churn))


def choice(
    x: Tensor,
    y: Tensor,
    kernel: Tensor,
    prior: NetworkPrior,
    noise: NoiseStreams,
    judged_at: Sequence[int],
    known: Known,
) -> Tensor:
    """Which of a sample's chains is the least surprising, its place among all chains: B.

    Each restored image is diffused and denoised with the noise that the sample's other chains have too.
    """
    m = len(x) // len(noise)
    total = torch.zeros(len(x)).to(y)
    for t in judged_at:
        same = noise("judge", tuple(y.shape[1:])).repeat_interleave(m, 0).to(y)
        x_hat = to_opponent(prior(prior.schedule.diffuse(x.clamp(-1, 1), same, t), t).x0.clamp(-1, 1))
        total += surprise(x_hat, y, kernel, prior.error(t, y.shape[-2:]).to(y), known.sigma, known.boundary)
    return total.view(-1, m).argmin(1) + m * torch.arange(len(noise), device=y.device)


def cleared(kernel: Tensor, haze: float) -> Tensor:
    """Kernels B 1 h w without what lies below `haze` of their peak, of sum 1. Raises: ValueError for another shape."""
    kernel = checks.tensor("kernel", kernel, "B 1 h w").clamp(min=0)
    kernel = kernel * (kernel >= checks.number("haze", haze, least=0) * kernel.amax((-2, -1), keepdim=True))
    return kernel / kernel.sum((1, 2, 3), keepdim=True).clamp(min=1e-12)


def ratio_of(schedule: Schedule, t: int) -> float:
    """Noise over signal at a time step."""
    return float((1 / schedule.alpha_bar[t] - 1).sqrt())
