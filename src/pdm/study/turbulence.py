"""Table 3: seeing through turbulent air. Image, kernel and tilts through the same loop as image and kernel.

Each method has the signature of those of `pdm.study.deblurring`, and takes cases with tilts, of K frames.
"""

from dataclasses import replace

import torch
from torch import Tensor

from pdm.baselines.ilvr import ILVR
from pdm.data import TILT_BOUND
from pdm.guidance import DPS, StepSize, step_sizes
from pdm.models import FlatPrior
from pdm.operators import Frames
from pdm.sampler import Component, State, final, sample
from pdm.schedule import Schedule
from pdm.study.deblurring import Problem, blind_dps, blind_problem, prior_for
from pdm.study.problem import Cases, Estimate, explained
from pdm.study.restarts import run_passes


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
    last = final(sample(components, guidance, cases.seeds, steps, step=step, device=cases.measurement.device))
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
    last = final(sample(components, guidance, cases.seeds, steps, device=cases.measurement.device))
    return Estimate(last.theta["image"])


def ilvr(cases: Cases, steps: int = 1000, label: str | None = None, factor: int = 4) -> Estimate:
    """ILVR on the first frame, by the same image prior; a factor of 4 of 64 pixels is the paper's 16 of 256."""
    components = {"image": Component(prior_for(cases, "image", label), tuple(cases.truth.shape[1:]))}
    guidance = ILVR(_first(cases), factor, cases.seeds)
    last = final(sample(components, guidance, cases.seeds, steps, device=cases.measurement.device))
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
