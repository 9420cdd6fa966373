"""From the range a prior was trained in to what the operator takes (line (3) of Algorithm 1), and penalties.

The kernel prior sees kernels as 2 u - 1, with u >= 0 scaled by its maximum; u is therefore (x + 1) / 2, of no known
sum. Everything here is per sample: no number of one sample reaches another.
"""

import torch
from torch import Tensor

from pdm import checks


def _kernel_scale(x: Tensor) -> Tensor:
    """u = (x + 1) / 2 of kernels B 1 h w."""
    return (checks.tensor("a kernel", x, "B 1 h w") + 1) / 2


def project_simplex(v: Tensor) -> Tensor:
    """The Euclidean projection of each B *S sample onto {k >= 0, sum k = 1}.

    It is relu(v - tau) with the one tau that makes the sum 1, found by sorting (Duchi et al. 2008, fig. 1);
    differentiable wherever the support does not change.
    """
    flat = checks.tensor("v", v, "B *S").flatten(1)
    ordered = flat.sort(dim=1, descending=True).values
    count = torch.arange(1, flat.shape[1] + 1, device=v.device, dtype=v.dtype)
    threshold = (ordered.cumsum(1) - 1) / count
    support = (ordered > threshold).sum(1, keepdim=True)
    tau = threshold.gather(1, support - 1)
    return (flat - tau).clamp(min=0).reshape(v.shape)


def projection(x: Tensor) -> Tensor:
    """P_C of Algorithm 1 to the letter: B 1 h w in model range -> the nearest kernel of sum 1 to u.

    It takes the scale of u, which the prior leaves open, for information: a kernel of maximum 1 becomes a few peaks.
    """
    return project_simplex(_kernel_scale(x))


def simplex(x: Tensor) -> Tensor:
    """The projection after the scale is gone: B 1 h w in model range -> the nearest kernel of sum 1 to u / sum(u).

    u is first divided by its signed sum, in which errors of both signs cancel, and what the projection
    subtracts is the haze that remains. Where no value of u is negative (an x0 clipped to [-1, 1]) it equals
    `shift_and_divide`.

    >>> simplex(torch.tensor([[[[1.0, 0.0, -1.0]]]]))
    tensor([[[[0.6667, 0.3333, 0.0000]]]])
    """
    u = _kernel_scale(x)
    signed, positive = (v.sum((1, 2, 3), keepdim=True) for v in (u, u.clamp(min=0)))
    return project_simplex(u / torch.maximum(signed, 0.1 * positive).clamp(min=1e-6))


def shift_and_divide(x: Tensor) -> Tensor:
    """What the authors' release does instead: clamp u at 0 and divide by the sum (here each sample's own).

    B 1 h w in model range -> nonnegative, sum 1.
    """
    u = _kernel_scale(x).clamp(min=0)
    return u / u.sum((1, 2, 3), keepdim=True).clamp(min=1e-6)


def l1(x: Tensor) -> Tensor:
    """Sum of |u| over each kernel *before* it is normalised, after which it is 1: B 1 h w in model range -> B."""
    return ((checks.tensor("x", x, "B *S") + 1) / 2).abs().flatten(1).sum(1)


def l0(x: Tensor, width: float = 0.1) -> Tensor:
    """A smooth count of the pixels of u that are not 0: sum of u^2 / (u^2 + width^2). B 1 h w in model range -> B.

    Raises: ValueError for a width that is not above 0.
    """
    checks.number("width", width, above=0)
    square = ((checks.tensor("x", x, "B *S") + 1) / 2).square().flatten(1)
    return (square / (square + width**2)).sum(1)


def to_model_range(kernel: Tensor) -> Tensor:
    """Kernels as their prior sees them: scaled so that the least possible value is -1 and the largest present 1.

    Raises: ValueError for a kernel that is nowhere above 0.
    """
    if not (checks.tensor("kernel", kernel, "B 1 h w").amax((-2, -1)) > 0).all():
        raise ValueError("a kernel is nowhere above 0, or NaN; wanted kernels of sum 1")
    return 2 * kernel / kernel.amax((-2, -1), keepdim=True) - 1


def from_model_range(x: Tensor) -> Tensor:
    """Undo `to_model_range` up to the scale, which it does not keep: [-1, 1] -> [0, 1]."""
    return (checks.tensor("x", x, "B *S", finite=False) + 1) / 2
