"""What the metrics ask of a pair."""

from torch import Tensor

from pdm import checks


class Unmeasurable(ValueError):
    """A sound pair that has no value of a metric, because of its size or its channels: an empty cell of a table."""


def one_shape(estimate: Tensor, truth: Tensor, shape: str = "B C H W") -> None:
    """Two finite tensors of one shape."""
    checks.tensor("estimate", estimate, shape), checks.tensor("truth", truth, shape)
    if estimate.shape != truth.shape:
        came = f"estimate {tuple(estimate.shape)} and truth {tuple(truth.shape)}"
        raise ValueError(f"{came} differ in shape; wanted one shape for both")


def images(estimate: Tensor, truth: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    """Both images, clamped to [-1, 1]; the truth may leave this range by rounding alone."""
    one_shape(estimate, truth)
    checks.images("truth", truth, reach=1.001)
    if min(truth.shape[2:]) < least:
        raise Unmeasurable(f"images are {tuple(truth.shape[2:])} pixels; wanted at least {least} x {least}")
    return estimate.clamp(-1, 1), truth.clamp(-1, 1)
