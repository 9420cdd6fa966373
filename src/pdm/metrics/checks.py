"""What every metric asks of its arguments."""

from torch import Tensor


def _check_pair(estimate: Tensor, truth: Tensor) -> None:
    for name, value in (("estimate", estimate), ("truth", truth)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            came = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} is {came}; wanted a floating-point tensor")
        if value.ndim != 4 or value.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; wanted four dimensions, none of them 0")
        if not value.isfinite().all():
            raise ValueError(f"{name} holds NaN or Inf; wanted finite values")


def _check_one_shape(estimate: Tensor, truth: Tensor) -> None:
    if estimate.shape != truth.shape:
        came = f"estimate {tuple(estimate.shape)} and truth {tuple(truth.shape)}"
        raise ValueError(f"{came} differ in shape; wanted one shape for both")


def _check_images(estimate: Tensor, truth: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    """Both images, clamped to [-1, 1]; the truth may leave this range by rounding alone."""
    _check_pair(estimate, truth)
    _check_one_shape(estimate, truth)
    if truth.abs().max() > 1.001:
        raise ValueError(f"truth spans [{truth.min():.4g}, {truth.max():.4g}]; wanted values in [-1, 1]")
    if min(truth.shape[2:]) < least:
        raise ValueError(f"images are {tuple(truth.shape[2:])} pixels; wanted at least {least} x {least}")
    return estimate.clamp(-1, 1), truth.clamp(-1, 1)
