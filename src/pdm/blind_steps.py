"""The image and the kernel that blurred it in tens of network evaluations, as a generator of states."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pdm import checks
from pdm.constraints import from_model_range, to_model_range
from pdm.convolutions import BOUNDARIES, Convolution, continued
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
from pdm.few_steps import Known, PriorWithErrors, finite, posed, ratio_of, refined, time_of, times
from pdm.models import Errors, NetworkPrior
from pdm.sampler import NoiseStreams, State

ITERATIONS = {"kernel": 16, "image": 5}  # of a round's solves; the kernel's begins where the round before ended


@dataclass(frozen=True)
class Plan:
    """How `restore_blind` goes about it.

    In each of `rounds` both priors are evaluated once, at noise over signal that falls by one factor from `first` to
    `last`. The kernel's is `clock` times the image's, within `kernel_times`. What lies below `haze` of a kernel's peak
    is cleared, because an estimate's haze costs the image contrast. The kernel is the mean of the last `averaged`. Of
    `chains` from different noise the least surprising one is kept, after `polish` steps each with its own kernel, as a
    wrong kernel shows only in what it makes of the image; `surprise` judges it at the time steps `judged_at` with the
    weight `log_weight`. `finish` steps with the chosen kernel end it, with a share `churn` of fresh noise. In them the
    kernel's error is `remaining` times that of its prior's estimate at the least noise.

    The last three are for ablations: `carried`, whether a round goes on from the image of the one before, or begins at
    the measurement; `uncertain`, whether the image step counts the kernel's error as noise; `centre`, whether kernels
    are centred to a part of a pixel.
    """

    rounds: int = 35
    first: float = 3.5
    last: float = 0.06
    chains: int = 1
    clock: float = 1.0
    kernel_times: tuple[int, int] = (20, 400)
    haze: float = 0.03
    averaged: int = 6
    remaining: float = 0.2
    polish: int = 5
    judged_at: tuple[int, ...] = (60, 25)
    log_weight: float = 0.5
    finish: int = 12
    churn: float = 1.0
    carried: bool = True
    uncertain: bool = True
    centre: bool = True

    def __post_init__(self) -> None:
        for name in ("rounds", "chains", "averaged", "polish", "finish"):
            checks.count(name, getattr(self, name))
        for name in ("first", "last", "clock", "remaining"):
            checks.number(name, getattr(self, name), above=0)
        checks.number("haze", self.haze, least=0), checks.number("log_weight", self.log_weight, least=0)
        if self.first < self.last:
            raise ValueError(f"first is {self.first:g} and last {self.last:g}; wanted noise that falls")
        if not 0 <= checks.number("churn", self.churn) <= 1:
            raise ValueError(f"churn is {self.churn}; wanted 0 to 1")
        for name in ("kernel_times", "judged_at"):
            if not (steps := getattr(self, name)) or not all(checks.count(name, t, 0, 999) == t for t in steps):
                raise ValueError(f"{name} are {steps}; wanted time steps")
        if len(self.kernel_times) != 2 or self.kernel_times[0] > self.kernel_times[1]:
            raise ValueError(f"kernel_times are {self.kernel_times}; wanted the least and the largest")

    @property
    def evaluations(self) -> tuple[int, int]:
        """How often a sample's image prior is evaluated, and its kernel prior."""
        rounds = self.chains * self.rounds
        choice = self.chains * (self.polish + len(self.judged_at)) if self.chains > 1 else 0
        return rounds + choice + self.finish, rounds


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
    frames: int = 1,
) -> Iterator[State]:
    """Restore images and find the kernels that blurred them: a state a round, then those of `restore_known`.

    A round diffuses the image at hand and denoises it, solves for the kernel around the mean of all kernels with the
    image's error as noise, has the kernel prior denoise that, and solves for the image with the kernel's error as
    noise. `theta` holds all chains, B chains, those of a sample side by side; from the choice on B.
    Args: `measurement` B C H W; `image`, a prior with errors; `kernel`, a prior of kernels, of those that could have
    blurred this measurement (`ConditionalPrior.given`) or of all; `errors`, of the prior of all kernels; `plan`; the
    others as `restore_known`. Of several `frames` of a scene, all kernels must have their centres of mass at one place.
    Raises: ValueError before the first evaluation.
    """
    measurement, noise = posed(measurement, sigma, seeds, boundary, BOUNDARIES, frames)
    if errors is None or errors.mean is None or errors.root is None:
        raise ValueError("the errors have no mean and root of kernels; wanted those of the kernel prior")
    m = plan.chains
    repeated = measurement.repeat_interleave(m, 0)
    y, chains = to_opponent(repeated), [f" of chain {c}" if c else "" for c in range(m)]
    image_m, kernel_m = image.repeated(m), kernel.repeated(m)

    def drawn(name: str, shape: Sequence[int]) -> Tensor:
        return torch.stack([noise(name + chain, tuple(shape)) for chain in chains], dim=1).flatten(0, 1).to(y)

    kernels: deque[Tensor] = deque(maxlen=plan.averaged)
    known = Known(sigma, boundary, frames=frames)
    for state in alternated(repeated, image_m, kernel_m, errors, plan, drawn, known):
        kernels.append(state.theta["kernel"])
        yield state
    x, k = state.theta["image"], cleared(torch.stack(tuple(kernels)).mean(0), plan.haze)
    kernel_error = plan.remaining * resized(errors.at(plan.kernel_times[0], kernel.shape[1:]).to(y), x.shape[-2:])
    known = known._replace(kernel_error=kernel_error if plan.uncertain else None)
    if m > 1:
        steps = image.schedule.pairs(times(image.schedule, plan.polish, 1.0))
        polish = partial(drawn, "polish", x.shape[1:])
        x = image.schedule.diffuse(x.clamp(-1, 1), polish(), steps[0][0])
        for state in refined(x, repeated, k, image_m, steps, polish, known):
            yield state
        best = choice(state.theta["image"], y, k, image_m, noise, plan, known)
        x, k = state.theta["image"][best], k.unflatten(0, (frames, -1))[:, best].flatten(0, 1)
    steps = image.schedule.pairs(times(image.schedule, plan.finish, 1.0))
    finish = partial(noise, "finish", tuple(x.shape[1:]))
    x = image.schedule.diffuse(x.clamp(-1, 1), finish().to(y), steps[0][0])
    yield from refined(x, measurement, k, image, steps, finish, known._replace(churn=plan.churn))


def alternated(
    measurement: Tensor,
    image: PriorWithErrors,
    kernel: NetworkPrior,
    errors: Errors,
    plan: Plan,
    noise: Callable[[str, Sequence[int]], Tensor],
    known: Known,
    start: tuple[Tensor, Tensor] | None = None,
) -> Iterator[State]:
    """The rounds of `restore_blind`, with noise of a name and a shape a sample, from an image and a kernel if given."""
    y, canvas, sigma, boundary = to_opponent(measurement), kernel.shape, known.sigma, known.boundary
    mean, root = (v.to(y) for v in (errors.mean, errors.root) if v is not None)
    x = first = continued(measurement, canvas[1:], boundary).unflatten(0, (known.frames, -1)).mean(0)
    k = solved = mean.expand(len(y), *canvas)  # as the solve of the round before left it
    size = x.shape[-2:]
    if start is not None:
        x, k, solved = *start, start[1]
    for t in times(image.schedule, plan.rounds, plan.first, plan.last):
        t_k = time_of(kernel.schedule, plan.clock * ratio_of(image.schedule, t))
        t_k = min(max(t_k, plan.kernel_times[0]), plan.kernel_times[1])
        error, k_error = known.each(image.error(t, size).to(y)), resized(errors.at(t_k, canvas[1:]).to(y), size)
        begun = (x if plan.carried else first).clamp(-1, 1)
        x_hat = image(image.schedule.diffuse(begun, noise("image", x.shape[1:]), t), t).x0.clamp(-1, 1)
        estimate = known.each(to_opponent(x_hat))
        solved = kernel_step(estimate, y, k, error, sigma, mean, root, boundary, ITERATIONS["kernel"], solved)
        k = centred(solved) if plan.centre else cleared(solved, 0)
        fresh = torch.cat([noise(f"kernel{f or ''}", canvas) for f in range(known.frames)])
        k_t = kernel.schedule.diffuse(to_model_range(k), fresh, t_k)
        k = cleared(from_model_range(kernel(k_t, t_k).x0.clamp(-1, 1)), plan.haze)
        finite("kernel", k, t)
        extra = resized(kernel_noise(estimate, error, k_error), y.shape[-2:]) if plan.uncertain else 0.0
        step = image_step(estimate, y, k, error, sigma**2 + extra, boundary, ITERATIONS["image"], known.frames)
        x = from_opponent(step[: len(x)])
        residual = (measurement - Convolution(k, size, boundary)(known.each(x))).flatten(1).norm(dim=1)
        yield State(t, t, {"image": x, "kernel": k}, {"image": x_hat}, {"image": x, "kernel": k}, residual)


def choice(
    x: Tensor,
    y: Tensor,
    kernel: Tensor,
    prior: PriorWithErrors,
    noise: NoiseStreams,
    plan: Plan,
    known: Known,
) -> Tensor:
    """Which of a sample's chains is the least surprising, its place among all chains: B."""
    total = surprises(x, y, kernel, prior, noise, plan, known)
    m = len(x) // len(noise)
    return total.view(-1, m).argmin(1) + m * torch.arange(len(noise), device=y.device)


def surprises(
    x: Tensor,
    y: Tensor,
    kernel: Tensor,
    prior: PriorWithErrors,
    noise: NoiseStreams,
    plan: Plan,
    known: Known,
) -> Tensor:
    """The `surprise` of each chain's image and kernel, the mean over the plan's time steps: B chains.

    Each restored image is diffused and denoised with the noise that the sample's other chains have too.
    """
    m = len(x) // len(noise)
    total = torch.zeros(len(x)).to(y)
    for t in plan.judged_at:
        same = noise("judge", tuple(x.shape[1:])).repeat_interleave(m, 0).to(y)
        x_hat = known.each(to_opponent(prior(prior.schedule.diffuse(x.clamp(-1, 1), same, t), t).x0.clamp(-1, 1)))
        error = known.each(prior.error(t, x.shape[-2:]).to(y))
        each = surprise(x_hat, y, kernel, error, known.sigma, known.boundary, plan.log_weight)
        total += each.unflatten(0, (known.frames, -1)).mean(0)
    return total / len(plan.judged_at)


def cleared(kernel: Tensor, haze: float) -> Tensor:
    """Kernels B 1 h w without what lies below `haze` of their peak, of sum 1. Raises: ValueError for another shape."""
    kernel = checks.tensor("kernel", kernel, "B 1 h w").clamp(min=0)
    kernel = kernel * (kernel >= checks.number("haze", haze, least=0) * kernel.amax((-2, -1), keepdim=True))
    return kernel / kernel.sum((1, 2, 3), keepdim=True).clamp(min=1e-12)
