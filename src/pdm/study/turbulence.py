"""Table 3: seeing through turbulent air. Image, kernel and tilts through the same loop as image and kernel.

Each method has the signature of those of `pdm.restoration`, and takes cases with tilts, of K frames.
"""

from collections.abc import Sequence
from dataclasses import replace
from inspect import Parameter, Signature

import torch
from torch import Tensor

from pdm.baselines.ilvr import ILVR
from pdm.chains import run_passes
from pdm.degradations import SIGMA, TILT_BOUND
from pdm.experiments import noisy, step_sizes
from pdm.guidance import DPS, StepSize
from pdm.operators import turbulence
from pdm.priors import FlatPrior
from pdm.restoration import Cases, Estimate, Problem, blind_dps, blind_problem, explained, prior_for
from pdm.sampler import Component, State, sample
from pdm.schedule import Schedule

__all__ = ["Frames", "blind", "blur_only", "ilvr", "known_operator", "turbulent_cases", "uniform_tilt"]


def turbulent_cases(
    truth: Tensor,
    kernels: Tensor,
    tilts: Tensor,
    seeds: Sequence[int],
    names: Sequence[str] | None = None,
    sigma: float = SIGMA,
) -> Cases:
    """K frames of each photograph through one kernel and K tilts, B 2K H W in pixels, with noise."""
    names = [str(i) for i in range(len(truth))] if names is None else names
    clean = explained(Estimate(truth, kernels, tilts))
    return Cases(tuple(names), truth, noisy(clean, seeds, sigma), kernels, tuple(seeds), tilts, sigma)


class Frames:
    """The operator of K frames: `frames(image, kernel, tilt_0, ..., tilt_K-1)`, B 3 H W each, stacked along channels.

    Its signature names as many tilts as there are frames, so that each is a component of its own (Remark 1).
    """

    def __init__(self, count: int, boundary: str = "reflect"):
        self.boundary = boundary
        self.tilts = [f"tilt_{i}" for i in range(count)]
        names = ["image", "kernel", *self.tilts]
        self.__signature__ = Signature([Parameter(name, Parameter.KEYWORD_ONLY) for name in names])

    def __call__(self, image: Tensor, kernel: Tensor, **tilts: Tensor) -> Tensor:
        return torch.cat([turbulence(image, kernel, tilts[name], self.boundary) for name in self.tilts], dim=1)


def blind(
    cases: Cases,
    steps: int = 1000,
    label: str | None = None,
    tilt_step: float = 0.6,
    restarts: int = 0,
    back_to: int = 200,
    **settings,
) -> Estimate:
    """Algorithm 2, with a tilt for each frame and a step for every tilt, of the shape that the image's step has.

    Settings as `restoration.blind_problem`; `restarts` from `back_to` are ours, as `chains.run_passes` counts them.
    """
    prior = prior_for(cases, "tilt")
    tilt = Component(prior, prior.shape, _in_pixels)

    def problem(steps: int) -> Problem:
        size = step_sizes(steps, tilt_step, constant=settings.get("constant", False))["image"]
        return _problem(cases, steps, label, tilt, size, **settings)

    return _estimate(run_passes(cases, problem, steps, restarts, back_to))


def uniform_tilt(
    cases: Cases, steps: int = 1000, label: str | None = None, tilt_step: float = 0.01, **settings
) -> Estimate:
    """The same without a prior over tilts: they begin at zero and go down the gradient, within their bound."""

    def bounded(schedule, x, x0, t, s, z, variance):
        return x.clamp(-1, 1)

    shape = (2, *cases.truth.shape[2:])
    tilt = Component(FlatPrior(Schedule.linear()), shape, _in_pixels, start=torch.zeros(shape), step=bounded)
    components, guidance, step = _problem(cases, steps, label, tilt, tilt_step * 1000 / steps, **settings)
    *_, last = sample(components, guidance, cases.seeds, steps, step=step, device=cases.measurement.device)
    return _estimate(last)


def blur_only(
    cases: Cases, steps: int = 1000, label: str | None = None, image_step: float = 1.0, kernel_step: float = 0.6
) -> Estimate:
    """Algorithm 1 on the first frame, which takes the turbulence for a blur."""
    first = replace(cases, measurement=_first(cases), tilts=None)
    return blind_dps(first, steps, label, image_step=image_step, kernel_step=kernel_step)


def known_operator(cases: Cases, steps: int = 1000, label: str | None = None, image_step: float = 1.0) -> Estimate:
    """The image alone with kernel and tilts known."""

    def operator(image):
        return explained(Estimate(image, cases.kernels, cases.tilts), boundary=cases.boundary)

    guidance = DPS(cases.measurement, operator, {"image": step_sizes(steps, image_step)["image"]})
    components = {"image": Component(prior_for(cases, "image", label), tuple(cases.truth.shape[1:]))}
    *_, last = sample(components, guidance, cases.seeds, steps, device=cases.measurement.device)
    return Estimate(last.theta["image"])


def ilvr(cases: Cases, steps: int = 1000, label: str | None = None, factor: int = 4) -> Estimate:
    """ILVR on the first frame, by the same image prior; a factor of 4 of 64 pixels is the paper's 16 of 256."""
    components = {"image": Component(prior_for(cases, "image", label), tuple(cases.truth.shape[1:]))}
    guidance = ILVR(_first(cases), factor, cases.seeds)
    *_, last = sample(components, guidance, cases.seeds, steps, device=cases.measurement.device)
    return Estimate(last.theta["image"])


def _problem(cases: Cases, steps: int, label, tilt: Component, tilt_size: StepSize, **settings) -> Problem:
    """Algorithm 1's problem, and a tilt for each frame."""
    components, guidance, step = blind_problem(cases, steps, label, **settings)
    operator = Frames(cases.measurement.shape[1] // cases.truth.shape[1], cases.boundary)
    sizes = guidance.scale | dict.fromkeys(operator.tilts, tilt_size)
    guidance = DPS(cases.measurement, operator, sizes, guidance.penalty)
    return components | dict.fromkeys(operator.tilts, tilt), guidance, step


def _estimate(last: State) -> Estimate:
    tilts = [value for name, value in last.theta.items() if name.startswith("tilt")]
    return Estimate(last.theta["image"], last.theta["kernel"], torch.cat(tilts, dim=1))


def _in_pixels(x0: Tensor) -> Tensor:
    return TILT_BOUND * x0


def _first(cases: Cases) -> Tensor:
    return cases.measurement[:, : cases.truth.shape[1]]
