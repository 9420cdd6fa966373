"""Group norm that is fast where torch's is slow: bfloat16, channels last, on the CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Normalised(torch.autograd.Function):
    """y = gain (x - mean) / std + offset, mean and std over the pixels and channels of each of `groups` groups.

    `apply(x, gain, offset, groups, eps)` takes x, B C H W, and a gain and offset of each sample's channels, B C. What
    has the size of x, and sums of 16 pixels, are in the precision of x; sums of those in float32. The variance is a
    difference of two means, so that digits are lost where a group's mean is many of its standard deviations.
    A second derivative is refused with a RuntimeError. Source: Wu and He, "Group Normalization" (2018).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, offset: Tensor, groups: int, eps: float) -> Tensor:
        count = x[0].numel() // groups
        mean = _over_groups(_sum(x), groups) / count  # B C
        variance = _over_groups(_sum(x * x), groups) / count - mean.square()
        rate = (variance.clamp(min=0) + eps).rsqrt()
        factor = gain * rate
        ctx.save_for_backward(x, gain, mean, rate)
        ctx.groups = groups
        return torch.addcmul(_like(offset - mean * factor, x), x, _like(factor, x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, mean, rate = ctx.saved_tensors
        count = x[0].numel() // ctx.groups
        d_offset = _sum(dy)
        d_gain = (_sum(dy * x) - mean * d_offset) * rate  # B C: the sum of dy (x - mean) / std
        # dx = rate (gain dy - <gain dy> - z <gain dy z>), z = (x - mean) rate, means over the group
        flat = _over_groups(gain * d_offset, ctx.groups) / count
        slope = _over_groups(gain * d_gain, ctx.groups) / count * rate.square()
        constant = slope * mean - flat * rate
        dx = torch.addcmul(_like(constant, x), x, _like(-slope, x))
        return torch.addcmul(dx, dy, _like(gain * rate, x)), d_gain, d_offset, None, None


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm`, and then, if given, y (1 + scale) + shift by a scale and shift of B C.

    For bfloat16 in channels-last layout on the CPU it computes by `Normalised` (notebook 10 says what that saves), for
    all else, or where `fast` is set to False, it is torch's; on a GPU in the precision of x, its sums in float32, where
    autocast would first make a float32 copy of x.
    """

    fast = True

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        if not (self.fast and _is_slow_in_torch(x)):
            y = self._by_torch(x)
            if scale is None or shift is None:
                return y
            scale, shift = (v.reshape(*v.shape, *[1] * (x.dim() - 2)) for v in (scale, shift))
            return y * (1 + scale) + shift
        gain, offset = self.weight.expand(len(x), -1), self.bias.expand(len(x), -1)
        if scale is not None and shift is not None:
            gain, offset = gain * (1 + scale.float()), offset * (1 + scale.float()) + shift.float()
        return Normalised.apply(x, gain, offset, self.num_groups, self.eps)

    def _by_torch(self, x: Tensor) -> Tensor:
        if x.device.type != "cuda":
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def _is_slow_in_torch(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.is_contiguous(memory_format=torch.channels_last)


def _sum(x: Tensor) -> Tensor:
    """Over pixels: B C H W to B C, in float32 or better.

    Sums of 16 pixels are rounded to the precision of x, for torch would first copy all of x to sum it in another.
    """
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)  # B HW C, which in channels-last layout is how x lies in memory
    if rows.shape[1] % 16 == 0:
        rows = rows.unflatten(1, (-1, 16)).sum(2)
    return rows.sum(1, dtype=torch.promote_types(x.dtype, torch.float32))


def _over_groups(sums: Tensor, groups: int) -> Tensor:
    """The sum over the channels of each group, at every channel: B C to B C."""
    if groups == sums.shape[1]:
        return sums
    return sums.unflatten(1, (groups, -1)).sum(2, keepdim=True).expand(-1, -1, sums.shape[1] // groups).flatten(1)


def _like(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype)[..., None, None]
