"""Methods of blind deblurring under one signature: `method(measurement, priors, **settings)` returns an `Estimate`.

Settings are plain values, so that a table's row can be told by them and a worker elsewhere can be handed them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pdm import checks
from pdm.baselines.pan import PAN_DCP, PAN_L0
from pdm.baselines.pan import deblur as pan_deblur
from pdm.baselines.self_deblur import deblur as self_deblur
from pdm.baselines.supervised import restore
from pdm.baselines.wiener import wiener
from pdm.constraints import l0, l1, project_simplex, projection, shift_and_divide, simplex
from pdm.data import gaussian_kernels
from pdm.guidance import DPS, StepSize, sqrt_alpha_bar
from pdm.models import FlatPrior, NetworkPrior
from pdm.operators import blur
from pdm.sampler import Component, Guidance, State, final, sample
from pdm.schedule import Schedule, Step, ancestral_step
from pdm.study.method import method
from pdm.study.problem import BOUNDARIES, Estimate, Measurement, explained

CONSTRAINTS = {"shift_and_divide": shift_and_divide, "simplex": simplex, "projection": projection}
PENALTIES = {"l1": l1, "l0": l0}
Priors = Mapping[str, NetworkPrior]


def step_sizes(
    steps: int, image: float = 1.0, kernel: float = 0.6, constant: bool = False, fade: int = 100
) -> dict[str, StepSize]:
    """Step sizes of image and kernel, given for 1,000 steps: a sqrt(alpha_bar_t), or `constant` a.

    They are divided by `steps` / 1,000. The constant is the paper's, the factor sqrt(alpha_bar_t) the authors'
    release's; notebook 08 compares the two. Unless it is constant, the kernel's is times min(1, t / `fade`) too (not
    with `fade` 0), because a step that does not shrink with the noise overshoots. Raises: ValueError for a negative
    `fade`, or less than one step.
    """
    checks.number("fade", fade, least=0)
    steps, given = checks.count("steps", steps), {"image": image, "kernel": kernel}
    sizes = {name: checks.number(name, a, least=0) * 1000 / steps for name, a in given.items()}
    if constant:
        return sizes
    size = {name: sqrt_alpha_bar(Schedule.linear(), a) for name, a in sizes.items()}
    return {**size, "kernel": lambda t: size["kernel"](t) * min(1.0, t / fade if fade else 1.0)}


class Process(NamedTuple):
    """What `sample` runs: components, guidance, and line (4) of Algorithm 1."""

    components: dict[str, Component]
    guidance: Guidance
    step: Step

    def states(self, measurement: Measurement, steps: int | Sequence[int]) -> Iterator[State]:
        """The states of a run with the measurement's seeds."""
        return sample(*self[:2], measurement.seeds, steps, step=self.step, device=measurement.y.device)


@dataclass(frozen=True)
class Settings:
    """How Algorithm 1 is run.

    Step sizes as `step_sizes`; `variance` of line (4), as `schedule.ancestral_step`. `penalty` "l1" or "l0"
    with its `weight` is on the kernel before it is normalised, or, with `penalty_after`, on what the normalisation
    leaves of it, as in the authors' release. `constraint` is "shift_and_divide", "simplex" or "projection". `boundary`
    is what the method takes to lie beyond the frame, by default what does.
    Raises: ValueError for another name, or a weight without a penalty.
    """

    image_step: float = 1.0
    kernel_step: float = 0.6
    constant: bool = False
    fade: int = 100
    constraint: str = "shift_and_divide"
    penalty: str | None = None
    weight: float = 0.0
    penalty_after: bool = False
    boundary: str | None = None
    variance: str = "small"

    def __post_init__(self):
        checks.choice("constraint", self.constraint, list(CONSTRAINTS))
        if self.penalty is not None:
            checks.choice("penalty", self.penalty, list(PENALTIES))
        if self.boundary is not None:
            checks.choice("boundary", self.boundary, BOUNDARIES)
        if self.penalty is None and (self.weight or self.penalty_after):
            raise ValueError(f"weight {self.weight:g} is given without a penalty; wanted penalty 'l1' or 'l0'")
        step_sizes(1000, self.image_step, self.kernel_step, self.constant, self.fade)
        ancestral_step(self.variance)


def blind_process(measurement: Measurement, priors: Priors, steps: int, settings: Settings) -> Process:
    """Algorithm 1, with step sizes that suit `steps` steps."""
    constrain, terms = CONSTRAINTS[settings.constraint], {}
    if settings.penalty is not None:
        term = PENALTIES[settings.penalty]
        after = lambda x: term(2 * constrain(x) - 1)  # noqa: E731
        terms = {"kernel": (after if settings.penalty_after else term, settings.weight)}
    components = {
        "image": Component(priors["image"], measurement.shape),
        "kernel": Component(priors["kernel"], priors["kernel"].shape, constrain),
    }
    operator = partial(blur, boundary=settings.boundary or measurement.boundary)
    sizes = step_sizes(steps, settings.image_step, settings.kernel_step, settings.constant, settings.fade)
    return Process(components, DPS(measurement.y, operator, sizes, terms), ancestral_step(settings.variance))


def known_kernel_process(measurement: Measurement, priors: Priors, steps: int, image_step: float = 1.0) -> Process:
    """Diffusion posterior sampling of the image alone, by the kernel and tilts that the measurement's `known` holds."""
    measurement.told("kernel")

    def operator(image: Tensor) -> Tensor:
        return explained({**measurement.known, "image": image}, measurement.frames, measurement.boundary)

    guidance = DPS(measurement.y, operator, {"image": step_sizes(steps, image_step)["image"]})
    return Process({"image": Component(priors["image"], measurement.shape)}, guidance, ancestral_step())


@method("blurred")
def blurred(measurement: Measurement, priors: Priors | None = None) -> Estimate:
    """The measurement, or its first frame, as it is."""
    return Estimate({"image": measurement.first_frame})


@method("blind_dps", priors=("image", "kernel"), settings=Settings)
def blind_dps(measurement: Measurement, priors: Priors, steps: int = 1000, **settings) -> Estimate:
    """Algorithm 1 in `steps` steps; the rest as `Settings`."""
    chosen = Settings(**settings)
    last = final(blind_process(measurement, priors, steps, chosen).states(measurement, steps))
    return Estimate(last.theta, steps, steps, chosen.boundary)


@method("dps", priors=("image",), known=("kernel",))
def dps(measurement: Measurement, priors: Priors, steps: int = 1000, image_step: float = 1.0) -> Estimate:
    """The image alone with the kernel known: what no blind method can be asked to beat."""
    states = known_kernel_process(measurement, priors, steps, image_step).states(measurement, steps)
    return Estimate(final(states).theta, steps, steps)


@method("uniform_kernel", priors=("image",))
def uniform_kernel(
    measurement: Measurement,
    priors: Priors,
    steps: int = 1000,
    image_step: float = 1.0,
    kernel_step: float = 1e-5,
    weight: float = 0.0,
    std: float = 3.0,
) -> Estimate:
    """Algorithm 3: the image keeps its diffusion prior, and the kernel has none.

    The kernel starts as a Gaussian of standard deviation `std` pixels and goes down the gradient of the residual and of
    `weight` l0, its `kernel_step` given for 1,000 steps and constant, projected to the simplex at every step.
    """
    start = gaussian_kernels(1, measurement.canvas[1], std)[0]

    def projected(schedule, x, x0, t, s, z, variance):
        return project_simplex(x)

    def sparse(kernel: Tensor) -> Tensor:
        return l0(2 * kernel / kernel.detach().amax((1, 2, 3), keepdim=True) - 1)

    flat = FlatPrior(Schedule.linear())
    kernel = Component(flat, tuple(start.shape), project_simplex, clip=None, start=start, step=projected)
    components = {"image": Component(priors["image"], measurement.shape), "kernel": kernel}
    sizes = {"image": step_sizes(steps, image_step)["image"], "kernel": kernel_step * 1000 / steps}
    operator = partial(blur, boundary=measurement.boundary)
    guidance = DPS(measurement.y, operator, sizes, {"kernel": (sparse, weight)})
    states = Process(components, guidance, ancestral_step()).states(measurement, steps)
    return Estimate(final(states).theta, steps, steps)


@method("pan")
def pan(measurement: Measurement, priors: Priors | None = None, dark_channel: bool = False) -> Estimate:
    """Pan's method with l0 gradients, or with the dark channel too."""
    size = _odd(measurement.canvas)
    image, kernel = pan_deblur(measurement.y, size, PAN_DCP if dark_channel else PAN_L0)
    return Estimate({"image": image, "kernel": _on_canvas(kernel, measurement.canvas)})


@method("self_deblur")
def self_deblur_blind(
    measurement: Measurement, priors: Priors | None = None, steps: int = 2500, precision: str = "float32"
) -> Estimate:
    """SelfDeblur, `precision` by name; what it evaluates are networks of its own."""
    dtype, size = getattr(torch, precision), _odd(measurement.canvas)
    image, kernel = self_deblur(measurement.y, size, list(measurement.seeds), steps, precision=dtype)
    return Estimate({"image": image, "kernel": _on_canvas(kernel, measurement.canvas)}, steps, steps)


@method("supervised", priors=("network",))
def supervised(measurement: Measurement, priors: Priors) -> Estimate:
    """A network that was trained on pairs; it looks for no kernel and sees one frame."""
    return Estimate({"image": restore(priors["network"], measurement.first_frame)}, 1)


@method("wiener", known=("kernel",))
def wiener_known_kernel(measurement: Measurement, priors: Priors | None = None, balance: float = 0.02) -> Estimate:
    """Wiener's filter with the kernel known; `balance` as `baselines.wiener` has it."""
    kernel = measurement.told("kernel")
    return Estimate({"image": wiener(measurement.y, kernel, balance, measurement.boundary)})


def _odd(canvas: tuple[int, int]) -> tuple[int, int]:
    """The largest odd sides of a kernel that the canvas holds."""
    return tuple(side - 1 + side % 2 for side in canvas)


def _on_canvas(kernel: Tensor, canvas: tuple[int, int]) -> Tensor:
    """A kernel B 1 h w on a canvas of H W pixels, its centre h // 2 on the centre H // 2."""
    (h, w), (height, width) = kernel.shape[2:], canvas
    top, left = height // 2 - h // 2, width // 2 - w // 2
    return torch.nn.functional.pad(kernel, (left, width - w - left, top, height - h - top))
