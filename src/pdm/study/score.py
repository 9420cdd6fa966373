"""Methods on images: the pieces that the notebooks share, from a measurement to a row of a table."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import pandas as pd
from torch import Tensor

from pdm import metrics
from pdm.constraints import shift_and_divide
from pdm.data import SIGMA
from pdm.guidance import DPS, StepSize, step_sizes
from pdm.models import NetworkPrior
from pdm.operators import blur
from pdm.sampler import Component, State, sample

DIVERGED = 3.0  # a residual above this many times the norm of the noise


def blind_dps(
    measurement: Tensor,
    image_prior: NetworkPrior,
    kernel_prior: NetworkPrior,
    seeds: Sequence[int],
    steps: int = 1000,
    scale: Mapping[str, StepSize] | None = None,
) -> Iterator[State]:
    """Algorithm 1 on a batch of blurred images, B C H W in [-1, 1] but for noise: image and kernel are both unknown.

    Yields `steps` states; `theta` holds the estimates, the last state the final ones. Raises: ValueError for a
    measurement far outside [-1, 1] or not finite, and as `sample`.
    """
    _check_range(measurement)
    components = {
        "image": Component(image_prior, tuple(measurement.shape[1:])),
        "kernel": Component(kernel_prior, kernel_prior.shape, shift_and_divide),
    }
    guidance = DPS(measurement, blur, scale or step_sizes(steps))
    return sample(components, guidance, seeds, steps, device=measurement.device)


def dps_known_kernel(
    measurement: Tensor,
    kernel: Tensor,
    image_prior: NetworkPrior,
    seeds: Sequence[int],
    steps: int = 1000,
    scale: StepSize | None = None,
    boundary: str = "reflect",
) -> Iterator[State]:
    """The same with the kernel known, B 1 h w: the image alone is estimated, which bounds what blind methods can do."""
    _check_range(measurement)
    components = {"image": Component(image_prior, tuple(measurement.shape[1:]))}
    scale = {"image": step_sizes(steps)["image"] if scale is None else scale}
    guidance = DPS(measurement, partial(blur, kernel=kernel, boundary=boundary), scale)
    return sample(components, guidance, seeds, steps, device=measurement.device)


def has_diverged(ratio: Tensor) -> Tensor:
    """Whether a run ended above 3 times the norm of the noise, or with a residual that is no number."""
    return ~(ratio <= DIVERGED)


def _check_range(measurement: Tensor) -> None:
    if measurement.isfinite().all() and measurement.abs().max() > 2:
        low, high = measurement.min().item(), measurement.max().item()
        raise ValueError(f"the measurement lies in [{low:g}, {high:g}]; wanted [-1, 1], give or take the noise")


def residual_ratio(loss: Tensor, measurement: Tensor, sigma: float = SIGMA) -> Tensor:
    """The residual norm over what the noise alone explains, sigma sqrt(CHW): B. About 1 is a good fit, far above none.

    It needs no truth, so that it may tell a run that diverged, or choose among several. Raises: ValueError for a sigma
    that is not above 0.
    """
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}; wanted it above 0, for without noise no residual is explained")
    return loss / (sigma * math.sqrt(measurement[0].numel()))


def score(
    method: str,
    names: Sequence[str],
    estimate: Tensor,
    truth: Tensor,
    kernel: Tensor | None = None,
    true_kernel: Tensor | None = None,
    seconds: float = 0.0,
) -> pd.DataFrame:
    """One row an image with PSNR, SSIM, LPIPS (AlexNet) and, where a kernel was estimated, its MNC and MSE.

    `seconds` is what the whole batch took; each row gets its share.
    """
    estimate = estimate.clamp(-1, 1)
    rows = {
        "image": list(names),
        "method": method,
        "psnr": metrics.psnr(estimate, truth),
        "ssim": metrics.ssim(estimate, truth),
        "lpips": metrics.lpips(estimate, truth),
        "mnc": math.nan if kernel is None else metrics.mnc(kernel, true_kernel),
        "kernel_mse": math.nan if kernel is None else metrics.kernel_mse(kernel, true_kernel),
        "seconds": seconds / len(names),
    }
    return pd.DataFrame({k: v.double().numpy() if isinstance(v, Tensor) else v for k, v in rows.items()})
