"""Measurement operators: plain differentiable functions, whose arguments have the names of the components."""

from inspect import Parameter, Signature

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from pdm import checks

BOUNDARIES = ("zero", "circular", "reflect", "valid")


def blur(image: Tensor, kernel: Tensor, boundary: str = "reflect", method: str = "fft") -> Tensor:
    """Convolve each image with its own kernel: y[n] = sum_m kernel[m] image[n - (m - c)].

    It is true convolution (the kernel is flipped, where a network's "convolution" is not), and the kernel's origin c
    is the pixel (h // 2, w // 2): the middle of an odd kernel, the first pixel past the middle of an even one.
    `boundary` is what lies around the image: "zero"; "circular", the image repeated; "reflect", the image mirrored
    with its outermost pixels not repeated; or "valid", nothing, so that only pixels that see no boundary are returned.
    `method` "fft" or "direct" gives the same to rounding.

    Args: `image` B C H W; `kernel` B 1 h w, or 1 1 h w for all; same floating dtype.
    Returns: B C H W, or B C H-h+1 W-w+1 for "valid".
    Raises: ValueError for other shapes or dtypes, a kernel larger than the image, an unknown boundary or method.

    >>> blur(torch.eye(3)[None, None], torch.full((1, 1, 1, 3), 1 / 3), "zero")[0, 0, 1]
    tensor([0.3333, 0.3333, 0.3333])
    """
    checks.choice("boundary", boundary, BOUNDARIES)
    checks.choice("method", method, ("fft", "direct"))
    image, kernel = _pair(image, "kernel", kernel, "1 h w")
    h, w = kernel.shape[-2:]
    if h > image.shape[2] or w > image.shape[3]:
        raise ValueError(f"the kernel is larger than the image: {(h, w)} on an image of {tuple(image.shape[2:])}")
    if boundary != "valid":
        edges = (w - 1 - w // 2, w // 2, h - 1 - h // 2, h // 2)
        image = F.pad(image, edges, "constant" if boundary == "zero" else boundary)
    return (_convolve_fft if method == "fft" else _convolve_direct)(image, kernel)


def correlate(image: Tensor, kernel: Tensor, boundary: str = "zero") -> Tensor:
    """Correlate instead, as the authors' release does: `blur` by the kernel turned by 180 degrees; padding="same"."""
    return blur(image, checks.tensor("kernel", kernel).flip(-2, -1), boundary)


def warp(image: Tensor, tilt: Tensor, boundary: str = "reflect") -> Tensor:
    """Displace each pixel's view: y[row, column] = image[row + tilt_1, column + tilt_0], bilinear between pixels.

    `boundary`, for views that leave the image, is "zero", "circular" or "reflect" as in `blur`; there is no "valid",
    for what a tilt leaves out depends on the tilt. With "zero" it is the authors' warp. No argument is written to.

    Args: `image` B C H W; `tilt` B 2 H W, or 1 2 H W for all, in pixels; channel 0 along columns, 1 along rows.
    Returns: B C H W. Raises: ValueError for other shapes or dtypes, a side of 1 pixel, or an unknown boundary.

    >>> warp(torch.arange(9.0).reshape(1, 1, 3, 3), torch.ones(1, 2, 3, 3))[0, 0, 0]  # one pixel down, one right
    tensor([4., 5., 4.])
    """
    checks.choice("boundary", boundary, BOUNDARIES[:3])
    checks.tensor("image", image, least=2)
    height, width = image.shape[2:]
    image, tilt = _pair(image, "tilt", tilt, f"2 {height} {width}")
    column = torch.arange(width, dtype=tilt.dtype, device=tilt.device) + tilt[:, 0]  # B H W
    row = torch.arange(height, dtype=tilt.dtype, device=tilt.device)[:, None] + tilt[:, 1]
    if boundary == "circular":
        image, column, row = F.pad(image, (0, 1, 0, 1), "circular"), column % width, row % height
    sides = zip((column, row), (image.shape[3] - 1, image.shape[2] - 1), strict=True)
    grid = torch.stack([2 * place / last - 1 for place, last in sides], dim=-1)  # torch counts from -1 to 1
    padding = "reflection" if boundary == "reflect" else "zeros"
    return F.grid_sample(image, grid.expand(len(image), -1, -1, -1), "bilinear", padding, align_corners=True)


def turbulence(image: Tensor, kernel: Tensor, tilt: Tensor, boundary: str = "reflect") -> Tensor:
    """What is seen through turbulent air: `blur` by the kernel of the image after its `warp` by the tilt.

    Args, result and errors: theirs. Source: the forward model of Algorithm 2.
    """
    return blur(warp(image, tilt, boundary), kernel, boundary)


def _convolve_fft(image: Tensor, kernel: Tensor) -> Tensor:
    """The valid part of a convolution: B C H W and B 1 h w to B C H-h+1 W-w+1. Wrapped-around pixels are cut off."""
    (height, width), (h, w) = image.shape[-2:], kernel.shape[-2:]
    size = (next_fast_len(height, real=True), next_fast_len(width, real=True))
    spectrum = torch.fft.rfft2(image, s=size) * torch.fft.rfft2(kernel, s=size)
    return torch.fft.irfft2(spectrum, s=size)[..., h - 1 : height, w - 1 : width]


def _convolve_direct(image: Tensor, kernel: Tensor) -> Tensor:
    """The same by a grouped convolution, one group a sample and channel."""
    b, c = image.shape[:2]
    weight = kernel.flip(-2, -1).expand(b, -1, -1, -1).repeat_interleave(c, 0)  # BC 1 h w
    out = F.conv2d(image.reshape(1, b * c, *image.shape[-2:]), weight, groups=b * c)
    return out.reshape(b, c, *out.shape[-2:])


def _pair(image: Tensor, name: str, value: Tensor, shape: str) -> tuple[Tensor, Tensor]:
    """An image B C H W and what is applied to it, one for each or one for all; ValueError for anything else."""
    checks.tensor("image", image)
    if image.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"image is {image.dtype}; wanted float32 or float64")
    checks.tensor(name, value, f"B {shape}")
    if len(value) not in (1, len(image)):
        raise ValueError(f"{name} has the shape {tuple(value.shape)}; wanted {len(image)} {shape}, one per image")
    if value.dtype != image.dtype:
        raise ValueError(f"{name} is {value.dtype}; wanted the image's dtype, {image.dtype}")
    return checks.for_autograd(image), checks.for_autograd(value)


class Frames:
    """The operator of K = `count` frames: `image`, `kernel`, `tilt_0`, `tilt_1`, ... by name to B KC H W (Remark 1)."""

    def __init__(self, count: int, boundary: str = "reflect") -> None:
        self.boundary = checks.choice("boundary", boundary, BOUNDARIES[:3])
        self.tilts = [f"tilt_{i}" for i in range(checks.count("count", count))]
        names = ["image", "kernel", *self.tilts]
        self.__signature__ = Signature([Parameter(name, Parameter.KEYWORD_ONLY) for name in names])

    def __call__(self, image: Tensor, kernel: Tensor, **tilts: Tensor) -> Tensor:
        return torch.cat([turbulence(image, kernel, tilts[name], self.boundary) for name in self.tilts], dim=1)
