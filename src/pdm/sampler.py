"""The parallel reverse loop: Algorithms 1 and 2 of the paper, for any number of named components."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pdm.schedule import Schedule, Step, ancestral_step

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Component:
    """One unknown: its prior, the shape C *S of a sample, and the way from the prior's range to the operator's.

    `clip` bounds x0_hat in the prior's range (None: not at all). `start`, *S or B *S, is where the reverse process
    begins in place of noise, and `step` how it goes on in place of the step that all the others take.
    """

    prior: Callable
    shape: tuple[int, ...]
    constrain: Callable[[Tensor], Tensor] = lambda x0: x0
    clip: tuple[float, float] | None = (-1.0, 1.0)
    start: Tensor | None = None
    step: Step | None = None

    def __post_init__(self):
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip is {self.clip}; wanted (low, high) with low below high, or None")
        if self.start is not None and tuple(self.start.shape[-len(self.shape) :]) != tuple(self.shape):
            raise ValueError(
                f"the start has the shape {tuple(self.start.shape)}; wanted {self.shape}, or a batch of it"
            )


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

    def __call__(self, state: State, proposal: Values) -> tuple[Values, Tensor]: ...


def stream(seed: int, name: str) -> torch.Generator:
    """A generator of random numbers for one sample and one use of them: for another seed or name, other numbers."""
    word = np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word))


class NoiseStreams:
    """Standard normal noise with one stream per (sample, component).

    Neither another component nor another sample changes a stream: it depends on the sample's seed and the component's
    name alone, so that a sample is the same in every batch.
    """

    def __init__(self, seeds: Sequence[int]):
        listed = list(seeds) if isinstance(seeds, Iterable) else []
        if not listed or any(isinstance(s, bool) or not isinstance(s, Integral) or s < 0 for s in listed):
            raise ValueError(f"seeds are {listed or seeds!r}; wanted one whole number, 0 or more, per sample")
        self.seeds, self.streams = [int(seed) for seed in listed], {}

    def __len__(self) -> int:
        return len(self.seeds)

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The next noise of a component: B *shape, float32."""
        if name not in self.streams:
            self.streams[name] = [stream(seed, name) for seed in self.seeds]
        return torch.stack([torch.randn(shape, generator=stream) for stream in self.streams[name]])


def sample(
    components: Mapping[str, Component],
    guidance: Guidance | None,
    seeds: Sequence[int] | None = None,
    steps: int | Sequence[int] | None = None,
    schedule: Schedule | None = None,
    step: Step | None = None,
    noise: Callable[[str, tuple[int, ...]], Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[State]:
    """Run the components' reverse processes in parallel; yield the state after each step, the last clean.

    Args: `components` by name, the names being the operator's parameters; `guidance`, or None to draw from the priors;
    `seeds`, one per sample, or `noise(name, shape)` in its place, asked once for the start and once a step; `steps`,
    1..N (default N), or the time steps themselves; `step`, ancestral by default, or `ddim_step(eta)`.
    Raises: ValueError before the first step for names that do not match the operator, or wrong steps or seeds;
    FloatingPointError at the step where a run has left what numbers there are.
    Source: Algorithm 1 (Algorithm 2 with a third component); Remark 1 for any number of them.
    """
    schedule, step = schedule or Schedule.linear(), step or ancestral_step()
    if not components:
        raise ValueError("there are no components; wanted at least one")
    if guidance is not None and set(components) != set(guidance.names):
        raise ValueError(f"components are named {sorted(components)}; the operator takes {sorted(guidance.names)}")
    if (seeds is None) == (noise is None):
        raise ValueError("wanted either seeds or noise")
    pairs = schedule.pairs(steps)
    noise = noise or NoiseStreams(seeds)
    return _reverse(dict(components), guidance, pairs, schedule, step, noise, torch.device(device))


def final(states: Iterable[State]) -> State:
    """Run a reverse process to its end and return its last state; earlier ones are freed as it goes.

    Raises: ValueError for a process without a state; what the process raises.
    """
    last = None
    for state in states:
        last = state
    if last is None:
        raise ValueError("there are no states; wanted a process of one step at least")
    return last


def _reverse(components, guidance, pairs, schedule, step, noise, device) -> Iterator[State]:
    def z(name: str) -> Tensor:
        return noise(name, components[name].shape).to(device)

    x = {name: z(name) for name in components}
    x = {n: v if components[n].start is None else components[n].start.to(v).expand_as(v) for n, v in x.items()}
    for t, s in pairs:
        x = {n: v.detach().requires_grad_(guidance is not None) for n, v in x.items()}
        with torch.set_grad_enabled(guidance is not None):
            predicted = {
                n: _checked(n, c.prior(x[n], t), x[n], t) for n, c in components.items()
            }  # (1) scores, as predicted noise
            x0 = {n: schedule.tweedie(x[n], predicted[n].noise, t) for n in x}  # (2) Tweedie
            x0 = {n: v if components[n].clip is None else v.clamp(*components[n].clip) for n, v in x0.items()}
            theta = {n: c.constrain(x0[n]) for n, c in components.items()}  # (3) P_C
        with torch.no_grad():
            steps = {n: c.step or step for n, c in components.items()}
            proposal = {n: steps[n](schedule, x[n], x0[n], t, s, z(n), predicted[n].variance) for n in x}  # (4)
        state = State(t, s, x, x0, theta)
        delta, loss = ({}, None) if guidance is None else guidance(state, proposal)  # (5) gradients of the residual
        x = {n: v - delta[n] if n in delta else v for n, v in proposal.items()}
        yield State(t, s, x, _detached(x0), _detached(theta), loss)


def _checked(name: str, predicted, x: Tensor, t: int):
    shape, finite = tuple(predicted.noise.shape), predicted.noise.isfinite().all()
    if shape != tuple(x.shape):
        raise ValueError(f"the prior of {name!r} gave noise of shape {shape} at t = {t}; wanted {tuple(x.shape)}")
    if not finite:
        raise FloatingPointError(f"the prior of {name!r} gave NaN or infinite noise at t = {t}; wanted finite noise")
    return predicted


def _detached(values: Values) -> Values:
    return {name: value.detach() for name, value in values.items()}
