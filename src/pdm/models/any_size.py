"""An image prior for pictures of any size: whole where they are small, in overlapping tiles where they are large."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from pdm import checks
from pdm.models.prior import NetworkPrior, Prediction


class AnySize:
    """A `NetworkPrior` of one class that takes pictures of any height and width.

    Its network is convolutional except for attention, whose time grows with the square of the pixels. A
    picture with a side of more than `tile` pixels is cut into tiles that overlap by twice `margin`, and each pixel is
    taken from the tile in which it lies deepest. `chunk` tiles go through the network at a time, which bounds memory.
    Sides that the network's stride does not divide are continued by their mirror image inside. Where an overlap is cut
    is drawn anew at each evaluation from the time step, so that no seam stays in one place.
    Raises: ValueError for a prior with a class for each sample or a condition, for a tile that is no multiple of the
    stride or hardly larger than two margins, and for a picture with a side below the stride.
    """

    def __init__(self, prior: NetworkPrior, tile: int = 192, margin: int = 8, chunk: int = 4) -> None:
        stride = prior.network.config.stride
        if prior.condition is not None or (prior.label is not None and prior.label.numel() != 1):
            raise ValueError("the prior has a class or a condition for each sample; wanted one for all")
        if checks.count("tile", tile) % stride or tile <= 2 * checks.count("margin", margin, 0) + 2 * stride:
            raise ValueError(f"tile is {tile}; wanted a multiple of {stride} above {2 * margin + 2 * stride}")
        self.prior, self.tile, self.margin, self.chunk = prior, tile, margin, checks.count("chunk", chunk)
        self.schedule, self.stride = prior.schedule, stride

    def repeated(self, times: int) -> "AnySize":
        """The same prior: its class is one for all samples."""
        return self

    def error(self, t: int, size: Sequence[int]) -> Tensor:
        """As `NetworkPrior.error`."""
        return self.prior.error(t, size)

    def __call__(self, x: Tensor, t: int) -> Prediction:
        checks.tensor("x", x, "B C H W", least=self.stride, finite=False)
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="reflect")
        if max(padded.shape[-2:]) <= self.tile:
            return Prediction(self.prior(padded, t).x0[..., :height, :width])
        rows, columns = (cuts(n, self.tile, self.margin, self.stride, t) for n in padded.shape[-2:])
        places = [(i, row, column) for i in range(len(x)) for row in rows for column in columns]
        out = torch.empty_like(padded)
        for first in range(0, len(places), self.chunk):
            some = places[first : first + self.chunk]
            tiles = torch.stack([padded[i, :, a:b, c:d] for i, (a, b, _, _), (c, d, _, _) in some])
            for (i, (a, _, top, bottom), (c, _, left, right)), x0 in zip(some, self.prior(tiles, t).x0, strict=True):
                out[i, :, top:bottom, left:right] = x0[:, top - a : bottom - a, left - c : right - c]
        return Prediction(out[..., :height, :width])


def cuts(length: int, tile: int, margin: int, stride: int, t: int) -> list[tuple[int, int, int, int]]:
    """Tiles of a side of `length` pixels: of each, its begin and end, and those of what is taken from it.

    All have one length, at most `tile`, and lie at multiples of the stride. What is taken lies `margin` from a tile's
    own ends at least, except at the picture's. `t` moves the cuts within the overlaps.
    """
    if length <= tile:
        return [(0, length, 0, length)]
    overlap = 2 * margin + stride  # the stride more, because begins are rounded to it
    count = -(-(length - overlap) // (tile - overlap))
    size = stride * -(-(length + (count - 1) * overlap) // (count * stride))
    begins = [stride * round(i * (length - size) / (count - 1) / stride) for i in range(count)]
    inner = []
    for left, right in pairwise(begins):
        free = left + size - right - 2 * margin  # of the overlap
        inner.append(right + margin + (t * 7919) % (free + 1))
    ends = [0, *inner, length]
    return [(a, a + size, ends[i], ends[i + 1]) for i, a in enumerate(begins)]
