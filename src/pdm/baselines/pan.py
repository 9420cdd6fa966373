"""Blind deblurring by sparse gradients and dark channels, coarse to fine.

J. Pan, Z. Hu, Z. Su, M.-H. Yang, "Deblurring Text Images via L0-Regularized Intensity and Gradient Prior", CVPR 2014,
here without its intensity term, which is for text; J. Pan, D. Sun, H. Pfister, M.-H. Yang, "Blind Image Deblurring
Using Dark Channel Prior", CVPR 2016. Both alternate between a sharp image and a kernel on a pyramid of scales.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from skimage.filters import threshold_otsu
from skimage.restoration import denoise_bilateral
from torch import Tensor

from pdm import checks
from pdm.models.seeded import plain_torch


@dataclass(frozen=True)
class Settings:
    """Weights of the terms, for images in [0, 1]; those of PAN_L0 and PAN_DCP are the BlindDPS paper's.

    `dark` and `gradient` weigh the l0 norms of the dark channel and of the gradients while the kernel is estimated;
    `tv` and `l0` are of the two final deconvolutions. `rounds` alternations a scale, `window` pixels a side of the dark
    channel, `ridge` the weight of |k|^2 in the kernel step.
    """

    dark: float
    gradient: float
    tv: float
    l0: float
    rounds: int = 5
    window: int = 35
    ridge: float = 2.0


Pair = tuple[Tensor, Tensor]  # image and kernel
FAINT = 1e-4  # what differs by less is rounding, and no kernel can be found by it
PAN_L0 = Settings(dark=0.0, gradient=4e-3, tv=1e-3, l0=2e-3)
PAN_DCP = Settings(dark=4e-3, gradient=4e-3, tv=1e-3, l0=5e-4)


@plain_torch()
@torch.no_grad()
def deblur(measurement: Tensor, kernel_size: int | tuple[int, int], settings: Settings = PAN_L0) -> Pair:
    """Image and kernel from a blurred image: B C H W in [-1, 1] to B C H W and B 1 h w, sum 1.

    `kernel_size` is (h, w), both odd, or a number for a square. Scales are a factor sqrt(2) apart, the coarsest with a
    kernel of five pixels or so. Colour images are averaged to grey for the kernel. It computes on the CPU in float32.
    Raises: ValueError for a kernel larger than the image or of even sides, or a measurement far outside [-1, 1].
    """
    checks.images("measurement", measurement, reach=2.0)
    size = checks.sides("kernel_size", kernel_size, measurement.shape[2:])
    parts = [_one(y[None].cpu(), size, settings) for y in measurement]  # thresholds are an image's own
    return tuple(torch.cat(part).to(measurement) for part in zip(*parts, strict=True))


def _one(measurement: Tensor, size: tuple[int, int], settings: Settings) -> Pair:
    y = (measurement.float() + 1) / 2
    kernel = estimate_kernel(y.mean(1, keepdim=True), size, settings)
    tv, l0 = deconvolve_tv(y, kernel, settings.tv), deconvolve_l0(y, kernel, settings.l0)
    image = tv - _smoothed(tv - l0)  # ringing is what the smooth part of their difference shows
    return (2 * image - 1).clamp(-1, 1), kernel


def _smoothed(x: Tensor) -> Tensor:
    """A bilateral filter over each channel: B C H W."""
    smooth = partial(denoise_bilateral, sigma_color=0.1, sigma_spatial=3)
    maps = [smooth((m - m.min()).double().numpy()) + m.min().item() for m in x.flatten(0, 1)]
    return torch.from_numpy(np.stack(maps)).reshape(x.shape).float()


def estimate_kernel(grey: Tensor, sides: tuple[int, int], settings: Settings) -> Tensor:
    """The kernel by alternation on a pyramid, each scale's as long as slopes are left: 1 1 H W in [0, 1] to 1 1 h w."""
    count = 1 + max(0, int(np.log(5 / max(sides)) / np.log(0.5**0.5)))
    factors = [0.5 ** (level / 2) for level in reversed(range(count))]
    sizes = [[min(n, max(3, round(n * factor) // 2 * 2 + 1)) for n in sides] for factor in factors]
    sizes[-1] = list(sides)
    kernel, dark, gradient = None, settings.dark, settings.gradient
    for scale, size in zip(factors, sizes, strict=True):
        y = _resize(grey, [max(k, round(n * scale)) for k, n in zip(size, grey.shape[2:], strict=True)])
        kernel = _two_dots(len(y), size) if kernel is None else _normalised(_resize(kernel, size))
        slopes, threshold = _inner(_slopes(y)), None
        for _ in range(settings.rounds):
            sharp = deconvolve_l0(y, kernel, gradient, dark, max(3, round(settings.window * scale)))
            strong, threshold = _strong_slopes(sharp, max(size), threshold)
            if strong.abs().max() < FAINT:
                break
            step = _kernel_step(slopes, strong, size, settings.ridge)
            kernel = step if step.any() else kernel  # a step to nothing above 0 is none
            dark, gradient = (v and max(v / 1.1, 1e-4) for v in (dark, gradient))
        kernel = _centred(kernel)
    kernel = torch.where(kernel < kernel.amax((2, 3), keepdim=True) / 20, 0, kernel)
    return _normalised(kernel)


# ---- the image, with the kernel given ----


def deconvolve_l0(y: Tensor, kernel: Tensor, gradient: float, dark: float = 0.0, window: int = 35) -> Tensor:
    """argmin over x of |k * x - y|^2 + gradient |grad x|_0 + dark |dark channel of x|_0: B C H W; with `dark`, B is 1.

    By half-quadratic splitting: gradients that are weaker than a threshold are put to zero, and so are dark pixels, the
    image follows in closed form by FFT, and the threshold falls by half. Source: Pan et al. 2016, eqs. 8 to 13.
    """

    def solve(image: Callable, start: Tensor) -> Tensor:
        x, pull, target = start, 0.0, start
        if dark:
            square = start.square()
            split = threshold_otsu(square.numpy()) if square.max() - square.min() > FAINT else 0.0
            pull = dark / max(1e-3, float(split))
        while True:
            if dark:
                target = _without_dark(x, window, dark / pull)
            weight = 2 * gradient
            while weight < 1e5:
                slopes = _slopes(x)
                weak = slopes.square().sum((0, 2), keepdim=True) < gradient / weight
                x = image(torch.where(weak, 0, slopes), weight, target, pull)
                weight *= 2
            pull *= 2
            if not dark or pull > 8:
                return x

    return _deconvolve(y, kernel, solve)


def deconvolve_tv(y: Tensor, kernel: Tensor, weight: float, rounds: int = 15) -> Tensor:
    """argmin over x of |k * x - y|^2 / 2 + weight |grad x|_1, anisotropic: B C H W.

    By half-quadratic splitting with soft thresholds. Source: Wang, Yang, Yin and Zhang 2008.
    """

    def solve(image: Callable, start: Tensor) -> Tensor:
        x, rho = start, 1.0
        for _ in range(rounds):
            slopes = _slopes(x)
            x = image(slopes.sign() * (slopes.abs() - weight / rho).clamp(min=0), rho, start, 0.0)
            rho *= 2**0.5
        return x

    return _deconvolve(y, kernel, solve)


def _deconvolve(y: Tensor, kernel: Tensor, solve: Callable) -> Tensor:
    """Run `solve(image step, start)` on a y that was continued until it is periodic, and cut the result."""
    height, width = y.shape[2:]
    y = _periodic(y, max(kernel.shape[2:]))
    shape = y.shape[2:]
    k = _transfer(kernel, shape)  # B 1 H W/2+1
    data, power = k.conj() * torch.fft.rfft2(y), k.abs().square()
    impulse = torch.zeros(1, 1, *shape)
    impulse[..., 0, 0] = 1
    d = torch.fft.rfft2(_slopes(impulse))  # 2 1 1 H W/2+1, the slopes in the frequency domain

    def image(slopes: Tensor, weight: float, target: Tensor, pull: float) -> Tensor:
        """The image step: least squares in |k * x - y|^2 + weight |grad x - slopes|^2 + pull |x - target|^2."""
        pulled = (d.conj() * torch.fft.rfft2(slopes)).sum(0)
        top = data + weight * pulled + (pull * torch.fft.rfft2(target) if pull else 0)
        return torch.fft.irfft2(top / (power + weight * d.abs().square().sum(0) + pull), s=shape)

    return solve(image, y)[..., :height, :width]


def _without_dark(x: Tensor, window: int, threshold: float) -> Tensor:
    """x with the darkest pixel of each window put to zero where its square is below the threshold."""
    before, after = (window - 1) // 2, window // 2
    grey, channel = x.min(1, keepdim=True)
    padded = F.pad(-grey, (before, after, before, after), value=-torch.inf)
    least, across = F.max_pool2d(padded, (1, window), stride=1, return_indices=True)
    least, down = F.max_pool2d(least, (window, 1), stride=1, return_indices=True)
    place = across.flatten(2).gather(2, down.flatten(2))  # of each window's darkest pixel, in the padded image
    row, column = place // padded.shape[-1] - before, place % padded.shape[-1] - before
    below = (least.square() < threshold).to(x.dtype).flatten(2)
    dark = torch.zeros_like(grey).flatten(2).scatter_add_(2, row * x.shape[-1] + column, below)
    dark = dark.reshape(grey.shape) > 0
    return torch.where(dark & (torch.arange(x.shape[1])[:, None, None] == channel), 0, x)


# ---- the kernel, with the image given ----


def _kernel_step(blurred: Tensor, sharp: Tensor, size: list[int], ridge: float, rounds: int = 21) -> Tensor:
    """argmin over k of |sharp slopes * k - blurred slopes|^2 + ridge |k|^2 on a canvas, then cleaned: B 1 h w.

    By conjugate gradients, since the canvas is smaller than the image. What is below a twentieth of the largest value
    goes, and so do islands with less than a tenth of the light. Source: Pan et al. 2014; Cho and Lee 2009.
    """
    shape, (h, w) = blurred.shape[3:], size
    s = torch.fft.rfft2(sharp)  # 2 B 1 H W/2+1
    power = s.abs().square().sum(0)

    def canvas(spectrum: Tensor) -> Tensor:
        return torch.fft.irfft2(spectrum, s=shape).roll((h // 2, w // 2), (2, 3))[..., :h, :w]

    def apply(k: Tensor) -> Tensor:
        return canvas(power * _transfer(k, shape)) + ridge * k

    right = canvas((s.conj() * torch.fft.rfft2(blurred)).sum(0))
    k = torch.zeros_like(right)
    residual = direction = right
    energy = residual.square().sum((2, 3), keepdim=True)
    for _ in range(rounds):
        image = apply(direction)
        rate = energy / (direction * image).sum((2, 3), keepdim=True).clamp(min=1e-20)
        k, residual = k + rate * direction, residual - rate * image
        before, energy = energy, residual.square().sum((2, 3), keepdim=True)
        direction = residual + energy / before.clamp(min=1e-20) * direction
    k = torch.where(k < 0.05 * k.amax((2, 3), keepdim=True), 0, k)
    return _normalised(_without_islands(_normalised(k)))


def _strong_slopes(x: Tensor, size: int, threshold: Tensor | None) -> tuple[Tensor, Tensor]:
    """Slopes of x above a threshold: 2 B 1 H W, and the next threshold, a tenth lower.

    The first threshold leaves at least twice the kernel's side of pixels in each of four directions (Cho and Lee 2009).
    """
    slopes = _inner(_slopes(x))
    power = slopes.square().sum(0)  # B 1 H W
    if threshold is None:
        turn = (torch.atan2(slopes[0], slopes[1]) % torch.pi / (torch.pi / 4)).long().clamp(max=3)
        wanted = max(1, min(2 * size, power[0].numel() // 8))
        least = [torch.where(turn == i, power, 0).flatten(1).topk(wanted).values[:, -1] for i in range(4)]
        threshold = torch.stack(least).amin(0)[:, None, None, None]
    return torch.where(power < threshold, 0, slopes), threshold / 1.1


def _without_islands(kernel: Tensor, least: float = 0.1) -> Tensor:
    """Kernels without connected regions (eight neighbours) that hold less than `least` of the light."""
    cleaned = kernel.clone()
    for k in cleaned[:, 0]:
        regions, count = scipy.ndimage.label(k.numpy() > 0, np.ones((3, 3)))
        light = scipy.ndimage.sum_labels(k.numpy(), regions, range(1, count + 1))
        if count > 1 and (light >= least).any():
            k[torch.from_numpy(np.isin(regions, 1 + np.flatnonzero(light < least)))] = 0
    return cleaned


def _centred(kernel: Tensor) -> Tensor:
    """Kernels moved by whole pixels until the centre of mass is the canvas's centre."""
    moved, places = [], [torch.arange(n, dtype=kernel.dtype) - n // 2 for n in kernel.shape[2:]]
    for k in kernel:
        down, right = (int((k[0].sum(1 - axis) * place).sum().round()) for axis, place in enumerate(places))
        moved.append(torch.from_numpy(scipy.ndimage.shift(k.numpy(), (0, -down, -right), order=0)))
    return _normalised(torch.stack(moved))


def _normalised(kernel: Tensor) -> Tensor:
    kernel = kernel.clamp(min=0)
    return kernel / kernel.sum((2, 3), keepdim=True).clamp(min=1e-12)


def _two_dots(n: int, size: list[int]) -> Tensor:
    """Where the coarsest scale begins: half the light in the centre, half beside it, or above where that is outside."""
    kernel, (row, column) = torch.zeros(n, 1, *size), (side // 2 for side in size)
    kernel[..., row, column] = kernel[..., row - (column == 0), column - (column > 0)] = 0.5
    return kernel


def _resize(x: Tensor, size: list[int]) -> Tensor:
    if x.shape[3] == 1 < x.shape[2]:  # torch 2.14 gives zeros for a single column
        return _resize(x.mT.contiguous(), size[::-1]).mT.contiguous()
    return x if list(x.shape[2:]) == size else F.interpolate(x, size, mode="bilinear", antialias=True)


def _slopes(x: Tensor) -> Tensor:
    """Differences to the next pixel, down and right, periodic: B C H W to 2 B C H W."""
    return torch.stack([x.roll(-1, 2) - x, x.roll(-1, 3) - x])


def _inner(slopes: Tensor) -> Tensor:
    """Slopes without those across the image's edge, which are of no image."""
    return F.pad(slopes[..., :-1, :-1], (0, 1, 0, 1))


def _transfer(kernel: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A kernel in the frequency domain, its centre (h // 2, w // 2) at the origin: B 1 h w to B 1 H W/2+1."""
    h, w = kernel.shape[2:]
    padded = F.pad(kernel, (0, shape[1] - w, 0, shape[0] - h))
    return torch.fft.rfft2(padded.roll((-(h // 2), -(w // 2)), (2, 3)))


def _periodic(x: Tensor, extra: int) -> Tensor:
    """x continued by `extra` pixels below and to the right that lead smoothly back to its first row and column."""
    way = (torch.arange(1, extra + 1, dtype=x.dtype) / (extra + 1))[:, None]
    way = way * way * (3 - 2 * way)
    x = torch.cat([x, x[..., -1:, :] * (1 - way) + x[..., :1, :] * way], dim=2)
    way = way[:, 0]
    return torch.cat([x, x[..., -1:] * (1 - way) + x[..., :1] * way], dim=3)
