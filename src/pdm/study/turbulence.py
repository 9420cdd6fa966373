"""Table 3: seeing through turbulent air. Image, kernel and tilts through the same loop as image and kernel.

Each method has the signature of those of `pdm.study.deblurring`, and takes measurements of K frames.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pdm.baselines.ilvr import ILVR
from pdm.data import TILT_BOUND
from pdm.guidance import DPS, StepSize
from pdm.models import FlatPrior
from pdm.operators import Frames
from pdm.sampler import Component, State, final
from pdm.schedule import Schedule, ancestral_step
from pdm.study import deblurring
from pdm.study.deblurring import Priors, Process, Settings, blind_process, step_sizes
from pdm.study.method import method
from pdm.study.problem import Estimate, Measurement
from pdm.study.restarts import passes


@method("turbulence", priors=("image", "kernel", "tilt"), settings=Settings)
def blind(
    measurement: Measurement,
    priors: Priors,
    steps: int = 1000,
    tilt_step: float = 0.6,
    restarts: int = 0,
    back_to: int = 200,
    **settings,
) -> Estimate:
    """Algorithm 2, with a tilt for each frame and a step for every tilt, of the shape that the image's step has.

    `restarts` from `back_to` are ours, as `restarts.passes` counts them; the rest as `deblurring.Settings`.
    """
    chosen, tilt = Settings(**settings), Component(priors["tilt"], priors["tilt"].shape, _in_pixels)

    def process(n: int) -> Process:
        size = step_sizes(n, tilt_step, constant=chosen.constant)["image"]
        return _process(measurement, priors, n, chosen, tilt, size)

    return _estimate(passes(measurement, process, steps, restarts, back_to), steps, chosen.boundary)


@method("uniform_tilt", priors=("image", "kernel"), settings=Settings)
def uniform_tilt(
    measurement: Measurement, priors: Priors, steps: int = 1000, tilt_step: float = 0.01, **settings
) -> Estimate:
    """The same without a prior over tilts: they begin at zero and go down the gradient, within their bound."""

    def bounded(schedule, x, x0, t, s, z, variance):
        return x.clamp(-1, 1)

    chosen, shape = Settings(**settings), (2, *measurement.shape[1:])
    tilt = Component(FlatPrior(Schedule.linear()), shape, _in_pixels, start=torch.zeros(shape), step=bounded)
    process = _process(measurement, priors, steps, chosen, tilt, tilt_step * 1000 / steps)
    return _estimate(process.states(measurement, steps), steps, chosen.boundary)


@method("turbulence_as_blur", priors=("image", "kernel"))
def blur_only(measurement: Measurement, priors: Priors, steps: int = 1000) -> Estimate:
    """Algorithm 1 on the first frame, which takes the turbulence for a blur."""
    return deblurring.blind_dps(replace(measurement, y=measurement.first_frame, frames=1), priors, steps)


@method("known_operator", priors=("image",), known=("kernel", "tilt"))
def known_operator(measurement: Measurement, priors: Priors, steps: int = 1000, image_step: float = 1.0) -> Estimate:
    """`deblurring.dps`, the image alone, with kernel and tilts known."""
    return deblurring.dps(measurement, priors, steps, image_step)


@method("ilvr", priors=("image",))
def ilvr(measurement: Measurement, priors: Priors, steps: int = 1000, factor: int = 4) -> Estimate:
    """ILVR on the first frame, by the same image prior; a factor of 4 of 64 pixels is the paper's 16 of 256."""
    guidance = ILVR(measurement.first_frame, factor, measurement.seeds)
    process = Process({"image": Component(priors["image"], measurement.shape)}, guidance, ancestral_step())
    return Estimate(final(process.states(measurement, steps)).theta, steps)


def _process(
    measurement: Measurement, priors: Priors, steps: int, settings: Settings, tilt: Component, tilt_size: StepSize
) -> Process:
    """Algorithm 1's process, and a tilt for each frame."""
    components, guidance, step = blind_process(measurement, priors, steps, settings)
    operator = Frames(measurement.frames, settings.boundary or measurement.boundary)
    sizes = guidance.scale | dict.fromkeys(operator.tilts, tilt_size)
    guidance = DPS(measurement.y, operator, sizes, guidance.penalty)
    return Process(components | dict.fromkeys(operator.tilts, tilt), guidance, step)


def _estimate(states: Iterator[State], steps: int, boundary: str | None) -> Estimate:
    theta = final(states).theta
    tilts = torch.cat([value for name, value in theta.items() if name.startswith("tilt")], dim=1)
    return Estimate({"image": theta["image"], "kernel": theta["kernel"], "tilt": tilts}, steps, steps, boundary)


def _in_pixels(x0: Tensor) -> Tensor:
    return TILT_BOUND * x0
