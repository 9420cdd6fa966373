"""How far a tilt field lies from the true one."""

import torch
from torch import Tensor

from pdm.metrics.checks import one_shape


@torch.no_grad()
def end_point_error(estimate: Tensor, truth: Tensor) -> Tensor:
    """Mean length of the difference of two tilt fields, B 2K H W in pixels, over pixels and K frames: B values.

    That of the zero field is the mean displacement. Raises `ValueError` on a wrong shape and on NaN or Inf.
    Source: Otte and Nagel, ECCV 1994, as the optical-flow literature has it.
    """
    one_shape(estimate, truth, "B 2K H W")
    if estimate.shape[1] % 2:
        raise ValueError(f"estimate and truth have the shape {tuple(estimate.shape)}; wanted B 2K H W")
    difference = (estimate.cpu().double() - truth.cpu().double()).unflatten(1, (-1, 2))
    return difference.norm(dim=2).flatten(1).mean(1)
