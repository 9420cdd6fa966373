"""Every method of the tables under one signature: `method(cases, **settings)` returns an `Estimate`.

Settings are plain values, a prior's name among them, so that a table's row can be told by them and a worker elsewhere
can be handed them.
"""

from functools import partial

import numpy as np
import torch
from skimage.restoration import wiener
from torch import Tensor

from pdm.baselines.pan import PAN_DCP, PAN_L0
from pdm.baselines.pan import deblur as pan_deblur
from pdm.baselines.self_deblur import deblur as self_deblur
from pdm.baselines.supervised import restore
from pdm.constraints import l0, l1, project_simplex, projection, shift_and_divide, simplex
from pdm.data import gaussian_kernels
from pdm.guidance import DPS, step_sizes
from pdm.models import FlatPrior, NetworkPrior, load_prior
from pdm.operators import blur
from pdm.paper.departures import WholeBatchDPS, divide_by_batch_sum
from pdm.sampler import Component, final, sample
from pdm.schedule import Schedule, Step, ancestral_step
from pdm.study.problem import Cases, Estimate
from pdm.study.score import dps_known_kernel

CONSTRAINTS = {"shift_and_divide": shift_and_divide, "simplex": simplex, "projection": projection}
PENALTIES = {"l1": l1, "l0": l0}
Problem = tuple[dict[str, Component], DPS, Step]  # what `sample` runs: components, guidance, and line (4)


def blurred(cases: Cases) -> Estimate:
    """The measurement, or its first frame, as it is."""
    return Estimate(cases.measurement[:, : cases.truth.shape[1]])


def blind_dps(cases: Cases, steps: int = 1000, label: str | Tensor | None = None, **settings) -> Estimate:
    """Algorithm 1 in `steps` steps; label and settings as `blind_problem`."""
    components, guidance, step = blind_problem(cases, steps, label, **settings)
    last = final(sample(components, guidance, cases.seeds, steps, step=step, device=cases.measurement.device))
    kernel = shift_and_divide(last.x0["kernel"]) if settings.get("whole_batch") else last.theta["kernel"]
    return Estimate(last.theta["image"], kernel)


def blind_problem(
    cases: Cases,
    steps: int = 1000,
    label: str | Tensor | None = None,
    image_step: float = 1.0,
    kernel_step: float = 0.6,
    constant: bool = False,
    fade: int = 100,
    constraint: str = "shift_and_divide",
    penalty: str | None = None,
    weight: float = 0.0,
    penalty_after: bool = False,
    whole_batch: bool = False,
    boundary: str | None = None,
    variance: str = "small",
) -> Problem:
    """What `sample` runs Algorithm 1 with, for step sizes that suit `steps` steps: components, guidance, and line (4).

    `label` is the image prior's, or its number for each case; step sizes as `experiments.step_sizes`; `variance` of
    line (4). `penalty` "l1" or "l0" with its `weight` is on the kernel before it is normalised, or, with
    `penalty_after`, on what the normalisation leaves of it, as in the authors' release. `constraint` is
    "shift_and_divide", "simplex" or "projection"; with `whole_batch` sum and norm run over the batch, as in the
    release. `boundary` is what the method takes to lie beyond the frame, by default what does.
    Raises: ValueError for another name, or `whole_batch` with simplex or a penalty.
    """
    if whole_batch and (penalty is not None or constraint != "shift_and_divide"):
        raise ValueError(f"whole_batch with constraint {constraint!r} and penalty {penalty!r}; wanted neither")
    constrain = divide_by_batch_sum if whole_batch else _choice("constraint", constraint, CONSTRAINTS)
    terms = {}
    if penalty is not None:
        term = _choice("penalty", penalty, PENALTIES)
        after = lambda x: term(2 * constrain(x) - 1)  # noqa: E731
        terms = {"kernel": (after if penalty_after else term, weight)}
    kernel_prior = prior_for(cases, "kernel")
    components = {
        "image": Component(prior_for(cases, "image", label), tuple(cases.truth.shape[1:])),
        "kernel": Component(kernel_prior, kernel_prior.shape, constrain),
    }
    operator = partial(blur, boundary=cases.boundary if boundary is None else boundary)
    sizes = step_sizes(steps, image_step, kernel_step, constant, fade)
    one_norm = WholeBatchDPS(cases.measurement, operator, sizes) if whole_batch else None
    return components, one_norm or DPS(cases.measurement, operator, sizes, terms), ancestral_step(variance)


def dps(cases: Cases, steps: int = 1000, label: str | None = None, image_step: float = 1.0) -> Estimate:
    """The image alone with the kernel known: what no blind method can be asked to beat."""
    scale = step_sizes(steps, image_step)["image"]
    prior, y = prior_for(cases, "image", label), cases.measurement
    last = final(dps_known_kernel(y, cases.kernels, prior, cases.seeds, steps, scale, cases.boundary))
    return Estimate(last.theta["image"])


def uniform_kernel(
    cases: Cases,
    steps: int = 1000,
    label: str | None = None,
    image_step: float = 1.0,
    kernel_step: float = 1e-5,
    weight: float = 0.0,
    std: float = 3.0,
) -> Estimate:
    """Algorithm 3: the image keeps its diffusion prior, and the kernel has none.

    The kernel starts as a Gaussian of standard deviation `std` pixels and goes down the gradient of the residual and of
    `weight` l0, its `kernel_step` given for 1,000 steps and constant, projected to the simplex at every step.
    """
    start = gaussian_kernels(1, cases.kernels.shape[-1], std)[0]

    def projected(schedule, x, x0, t, s, z, variance):
        return project_simplex(x)

    def sparse(kernel: Tensor) -> Tensor:
        return l0(2 * kernel / kernel.detach().amax((1, 2, 3), keepdim=True) - 1)

    components = {
        "image": Component(prior_for(cases, "image", label), tuple(cases.measurement.shape[1:])),
        "kernel": Component(
            FlatPrior(Schedule.linear()), tuple(start.shape), project_simplex, clip=None, start=start, step=projected
        ),
    }
    sizes = {"image": step_sizes(steps, image_step)["image"], "kernel": kernel_step * 1000 / steps}
    operator = partial(blur, boundary=cases.boundary)
    guidance = DPS(cases.measurement, operator, sizes, {"kernel": (sparse, weight)})
    last = final(sample(components, guidance, cases.seeds, steps, device=cases.measurement.device))
    return Estimate(last.theta["image"], last.theta["kernel"])


def pan_blind(cases: Cases, dark_channel: bool = False) -> Estimate:
    """Pan's method with l0 gradients, or with the dark channel too; the kernel on the canvas of the true one."""
    image, kernel = pan_deblur(cases.measurement, _odd(cases.kernels), PAN_DCP if dark_channel else PAN_L0)
    return Estimate(image, _on_canvas(kernel, cases.kernels.shape[-1]))


def self_deblur_blind(cases: Cases, steps: int = 2500, precision: str = "float32") -> Estimate:
    """SelfDeblur, `precision` by name; the kernel on the canvas of the true one."""
    dtype = getattr(torch, precision)
    image, kernel = self_deblur(cases.measurement, _odd(cases.kernels), list(cases.seeds), steps, precision=dtype)
    return Estimate(image, _on_canvas(kernel, cases.kernels.shape[-1]))


def supervised(cases: Cases, name: str = "deblur_regression") -> Estimate:
    """A network that was trained on pairs, by the name of its weights; it looks for no kernel and sees one frame."""
    return Estimate(restore(prior_for(cases, name), cases.measurement[:, : cases.truth.shape[1]]))


def wiener_known_kernel(cases: Cases, balance: float = 0.02) -> Estimate:
    """Wiener's filter with the kernel known, by scikit-image, on the measurement continued beyond its frame.

    `balance` weighs the Laplacian of the estimate against the residual; 0.02 stands between what motion
    kernels and what Gaussian kernels want at this noise.
    """
    half, rows = cases.kernels.shape[-1] // 2, []
    mode = {"reflect": "reflect", "zero": "constant", "circular": "wrap"}[cases.boundary]
    for y, kernel in zip(cases.measurement.double().numpy(), cases.kernels.double().numpy(), strict=True):
        wide = np.pad(y, ((0, 0), (half, half), (half, half)), mode)
        restored = [wiener(channel, kernel[0], balance, clip=False) for channel in wide]
        rows.append(np.stack(restored)[:, half:-half, half:-half])
    return Estimate(torch.from_numpy(np.stack(rows)).to(cases.measurement.dtype))


def prior_for(cases: Cases, name: str, label: str | Tensor | None = None) -> NetworkPrior:
    """A prior by name, on the device that the cases are on. Raises: as `load_prior`."""
    return load_prior(name, label, device=cases.measurement.device)


def _choice(what: str, name: str, choices: dict):
    if name not in choices:
        raise ValueError(f"no {what} is called {name!r}; there are {', '.join(sorted(choices))}")
    return choices[name]


def _odd(kernels: Tensor) -> int:
    """The largest odd size that the canvas of these kernels holds."""
    return kernels.shape[-1] - 1 + kernels.shape[-1] % 2


def _on_canvas(kernel: Tensor, size: int) -> Tensor:
    """A kernel B 1 S S on a canvas of `size` pixels, its centre S // 2 on the centre size // 2."""
    before = size // 2 - kernel.shape[-1] // 2
    after = size - kernel.shape[-1] - before
    return torch.nn.functional.pad(kernel, (before, after, before, after))
