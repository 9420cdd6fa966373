"""The parallel reverse loop: Algorithms 1 and 2 of the paper, for any number of named components."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pdm import checks
from pdm.schedule import Schedule, Step, ancestral_step

Values = dict[str, Tensor]
Noise = Callable[[str, tuple[int, ...]], Tensor]
Prior = Callable[[Tensor, int], Any]  # (x_t, t) -> models.Prediction; its `schedule`, if any, is its process


@dataclass(frozen=True)
class Component:
    """One unknown: its prior, the shape C *S of a sample, and the way from the prior's range to the operator's.

    `clip` bounds x0_hat in the prior's range (None: not at all). `start`, *S or B *S, is where the reverse process
    begins in place of noise, and `step` how it goes on in place of the step that all the others take.
    """

    prior: Prior
    shape: tuple[int, ...]
    constrain: Callable[[Tensor], Tensor] = lambda x0: x0
    clip: tuple[float, float] | None = (-1.0, 1.0)
    start: Tensor | None = None
    step: Step | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip is {self.clip}; wanted (low, high) with low below high, or None")
        if self.start is not None:
            came = checks.tensor("start", self.start, "*S").shape
            if tuple(came[-len(self.shape) :]) != tuple(self.shape) or len(came) > len(self.shape) + 1:
                raise ValueError(f"the start has the shape {tuple(came)}; wanted {self.shape}, or a batch of it")


@dataclass(frozen=True, eq=False)
class State:
    """Where the reverse process stands between (or at) steps; every value B *S, detached except within a step.

    `x` is at time `s` once the step is done; `x0` and `theta` are the denoised estimates, in the prior's range and in
    the operator's; `loss` is B, the norm of the residual at `theta`.
    """

    t: int
    s: int
    x: Values
    x0: Values
    theta: Values
    loss: Tensor | None = None


class Guidance(Protocol):
    """Line (5): what is subtracted from each proposal, and the loss of each sample."""

    names: frozenset[str]
    needs_gradients: bool  # whether it differentiates theta with respect to x

    def __call__(self, state: State, proposal: Values) -> tuple[Values, Tensor]: ...


def stream(seed: int, name: str) -> torch.Generator:
    """A generator of random numbers for one sample and one use of them: for another seed or name, other numbers."""
    words = [checks.count("seed", seed, 0), zlib.crc32(name.encode())]
    word = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator("cpu").manual_seed(int(word))


class NoiseStreams:
    """Standard normal noise with one stream per (sample, component).

    A stream depends on the sample's seed and the component's name only, so that a sample is the same in every batch.
    """

    def __init__(self, seeds: Iterable[int]) -> None:
        self.seeds = checks.seeds(seeds)
        self.streams: dict[str, list[torch.Generator]] = {}

    def __len__(self) -> int:
        return len(self.seeds)

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The next noise of a component: B *shape, float32."""
        if name not in self.streams:
            self.streams[name] = [stream(seed, name) for seed in self.seeds]
        plain: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever the process's defaults are
        return torch.stack([torch.randn(shape, generator=stream, **plain) for stream in self.streams[name]])


def sample(
    components: Mapping[str, Component],
    guidance: Guidance | None,
    seeds: Sequence[int] | None = None,
    steps: int | Sequence[int] | None = None,
    schedule: Schedule | None = None,
    step: Step | None = None,
    noise: Noise | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[State]:
    """Run the components' reverse processes in parallel; yield the state after each step, the last clean.

    Args: `components` by name, the names being the operator's parameters; `guidance`, or None to draw from the priors;
    `seeds`, one per sample, or `noise(name, shape)` in its place, asked once for the start and once a step; `steps`,
    1..N (default N), or the time steps themselves; `schedule`, by default the priors'; `step`, ancestral by default.
    A sample that leaves the finite numbers is NaN from there in every component; the others go on.
    Raises: ValueError before the first step for names that do not match the operator, wrong steps or seeds, schedules
    that differ; FloatingPointError at the step where no sample is finite any more.
    Source: Algorithm 1 (Algorithm 2 with a third component); Remark 1 for any number of them.

    >>> from pdm.models import Prediction
    >>> prior = lambda x, t: Prediction(torch.full_like(x, 0.5))
    >>> final(sample({"image": Component(prior, (1, 2))}, None, seeds=[0, 1], steps=10)).x["image"].shape
    torch.Size([2, 1, 2])
    """
    if not components:
        raise ValueError("there are no components; wanted at least one")
    if guidance is not None and set(components) != set(guidance.names):
        raise ValueError(f"components are named {sorted(components)}; the operator takes {sorted(guidance.names)}")
    if (seeds is None) == (noise is None):
        raise ValueError("wanted either seeds or noise")
    carriers = {f"the prior of {n!r}": c.prior for n, c in components.items()} | {"the guidance": guidance}
    process = _agreed(schedule, carriers)
    pairs, draw = process.pairs(steps), noise or NoiseStreams(() if seeds is None else seeds)
    steps_of = {n: c.step or step or ancestral_step() for n, c in components.items()}
    graph = guidance is not None and guidance.needs_gradients

    def z(name: str) -> Tensor:
        return checks.for_autograd(draw(name, components[name].shape)).to(device)

    def advance(x: Values, t: int, s: int) -> State:
        x = {n: v.detach().requires_grad_(graph) for n, v in x.items()}
        predicted = {n: c.prior(x[n], t) for n, c in components.items()}  # (1) scores and (2) Tweedie: E[x0 | x_t]
        lost = _lost(x, {n: predicted[n].x0 for n in x}, t)
        x0 = _mark({n: predicted[n].x0 for n in x}, lost, 0.0)
        x0 = {n: v if (clip := components[n].clip) is None else v.clamp(*clip) for n, v in x0.items()}
        theta = {n: c.constrain(x0[n]) for n, c in components.items()}  # (3) P_C
        with torch.no_grad():
            proposal = {n: steps_of[n](process, x[n], x0[n], t, s, z(n), predicted[n].variance) for n in x}  # (4)
        delta, loss = ({}, None) if guidance is None else guidance(State(t, s, x, x0, theta), proposal)
        with torch.no_grad():
            x = {n: v - delta[n] if n in delta else v for n, v in proposal.items()}  # (5) gradients of the residual
            x, x0, theta = (_mark({n: v.detach() for n, v in values.items()}, lost) for values in (x, x0, theta))
            loss = loss if lost is None or loss is None else loss.masked_fill(lost, torch.nan)
            return State(t, s, x, x0, theta, loss)

    def states() -> Iterator[State]:
        with torch.inference_mode(False):
            white, start = {n: z(n) for n in components}, {n: c.start for n, c in components.items()}
            for n, at in start.items():
                if at is not None and at.dim() == white[n].dim() and len(at) not in (1, len(white[n])):
                    raise ValueError(f"the start of {n!r} has {len(at)} samples; wanted {len(white[n])}, one per seed")
            x = {
                n: v if (at := start[n]) is None else checks.for_autograd(at).to(v).expand_as(v)
                for n, v in white.items()
            }
            if guidance is not None and hasattr(guidance, "fits"):  # before the first evaluation of a prior
                guidance.fits({n: c.constrain(x[n]) for n, c in components.items()})
        for t, s in pairs:
            with torch.inference_mode(False), torch.set_grad_enabled(graph):  # whatever the caller's modes are
                state = advance(x, t, s)
            x = state.x
            yield state
            del state  # so that the next step does not keep it

    return states()


def final(states: Iterable[State]) -> State:
    """Run a reverse process to its end and return its last state; earlier ones are freed as it goes.

    Raises: ValueError for a process without a state; what the process raises.

    >>> final(State(t, t - 1, {}, {}, {}) for t in (2, 1, 0)).s
    -1
    """
    last = None
    for state in states:
        last = state
    if last is None:
        raise ValueError("there are no states; wanted a process of one step at least")
    return last


def _agreed(schedule: Schedule | None, carriers: Mapping[str, object]) -> Schedule:
    """The one schedule of the argument, the priors and the guidance: the linear one where none has any."""
    first = "the argument"
    for who, other in ((who, getattr(carrier, "schedule", None)) for who, carrier in carriers.items()):
        if other is not None and schedule is not None and not torch.equal(other.betas, schedule.betas):
            came = [f"{len(s)} betas from {s.betas[0]:.3g} to {s.betas[-1]:.3g}" for s in (other, schedule)]
            raise ValueError(f"the schedule of {who} has {came[0]}; wanted that of {first}, {came[1]}")
        if schedule is None and other is not None:
            first, schedule = who, other
    return schedule or Schedule.linear()


def _lost(x: Values, x0: Values, t: int) -> Tensor | None:
    """Which samples have an estimate that is not finite: B, or None where there is none."""
    for name, value in x0.items():
        if value.shape != x[name].shape:
            shapes = f"shape {tuple(value.shape)} at t = {t}; wanted {tuple(x[name].shape)}"
            raise ValueError(f"the prior of {name!r} gave an estimate of {shapes}")
    lost = torch.stack([~value.detach().isfinite().flatten(1).all(1) for value in x0.values()])  # components, B
    if lost.any(0).all():
        name = list(x0)[int(lost.sum(1).argmax())]
        raise FloatingPointError(f"the prior of {name!r} gave NaN or infinite estimates at t = {t}; wanted finite ones")
    return lost.any(0) if lost.any() else None


def _mark(values: Values, lost: Tensor | None, mark: float = torch.nan) -> Values:
    """The values, B *S each, with `mark` in place of the samples that are lost."""
    if lost is None:
        return values
    return {n: v.masked_fill(lost.reshape(-1, *[1] * (v.dim() - 1)), mark) for n, v in values.items()}
