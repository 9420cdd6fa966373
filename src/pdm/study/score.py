"""How good an estimate is: one image's figures, and whether the run diverged."""

import math
from collections.abc import Callable

from torch import Tensor

from pdm import checks, metrics
from pdm.study.problem import Cases, Estimate, explained

DIVERGED = 3.0  # a residual above this many times the norm of the noise
METRICS = ("psnr", "ssim", "lpips", "kernel_mse", "mnc", "tilt_epe")
FURTHER = ("psnr_registered", "pedestal", "residual_ratio")  # no columns of the tables of all methods


def figures(estimate: Estimate, cases: Cases) -> list[dict[str, float | bool | None]]:
    """A dict an image of `METRICS`, `FURTHER` and `diverged`; None where the image has no such figure.

    A metric that an image is too small for, or that has nothing to compare, is None. `diverged` says whether the
    residual |y - k * x| ends above 3 times the norm of the noise, or an estimate is not finite, or a kernel nowhere
    above 0; None where there is no kernel and so no residual.
    """
    return [_row(estimate.map(lambda v, i=i: v[i, None]), cases[i : i + 1]) for i in range(len(cases))]


def _row(estimate: Estimate, case: Cases) -> dict[str, float | bool | None]:
    row: dict[str, float | bool | None] = dict.fromkeys((*METRICS, *FURTHER))
    kernel, tilt = estimate.kernel, estimate.tilt
    if not all(v.isfinite().all() for v in estimate.values.values()) or not (kernel is None or kernel.max() > 0):
        return row | {"diverged": True}
    truth, image = case.truth, estimate.image.clamp(-1, 1)
    row |= {name: _had(getattr(metrics, name), image, truth.image) for name in (*METRICS[:3], "psnr_registered")}
    if kernel is not None:
        one_canvas = kernel.shape == truth.kernel.shape
        row["kernel_mse"] = _had(metrics.kernel_mse, kernel, truth.kernel) if one_canvas else None
        row["mnc"] = _had(metrics.mnc, kernel, truth.kernel)
        row["pedestal"] = metrics.pedestal(kernel).item()
    if tilt is not None and truth.tilt is not None:
        row["tilt_epe"] = _had(metrics.end_point_error, tilt, truth.tilt)
    seen = case.measurement
    found = explained(estimate.values, seen.frames, estimate.boundary or seen.boundary)
    if found is None or not seen.sigma > 0:
        return row | {"diverged": None}
    ratio = residual_ratio((seen.y - found).flatten(1).norm(dim=1), seen.y, seen.sigma)
    return row | {"residual_ratio": ratio.item(), "diverged": bool(has_diverged(ratio))}


def _had(metric: Callable[[Tensor, Tensor], Tensor], estimate: Tensor, truth: Tensor) -> float | None:
    """One image's metric; None where the pair is sound and the metric is not defined for it."""
    try:
        return metric(estimate, truth).double().item()
    except metrics.Unmeasurable:
        return None


def has_diverged(ratio: Tensor) -> Tensor:
    """Whether a run ended above 3 times the norm of the noise, or with a residual that is no number."""
    return ~(checks.tensor("ratio", ratio, "*S", finite=False) <= DIVERGED)


def residual_ratio(loss: Tensor, measurement: Tensor, sigma: float) -> Tensor:
    """The residual norm over what the noise alone explains, sigma sqrt(CHW): B. About 1 is a good fit, far above none.

    It needs no truth, so that it may tell a run that diverged, or choose among several. Raises: ValueError for a sigma
    that is not above 0.
    """
    checks.number("sigma", sigma, above=0), checks.tensor("loss", loss, "B", finite=False)
    checks.tensor("measurement", measurement, "B *S", finite=False)
    return loss / (sigma * math.sqrt(measurement[0].numel()))
