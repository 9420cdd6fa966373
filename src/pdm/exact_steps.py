"""Data steps with the right covariances: the Gaussian conditional of the image given the kernel, and the reverse.

A prior's denoised estimate is the truth less an error, whose power spectrum `models.Errors` holds. With it the
measurement y = k * x + n decides how far to follow the data at each frequency, and a linear solve takes the place of a
thousand gradient steps. Circular boundaries have a closed form; the others are solved by conjugate gradients, which
that closed form preconditions. Images are in the basis of `to_opponent`, in which colours' errors are apart.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from pdm import checks

BOUNDARIES = ("circular", "reflect", "zero", "valid")
Linear = Callable[[Tensor], Tensor]
OPPONENT = torch.tensor([[1.0, 1, 1], [1, -1, 0], [1, 1, -2]]) / torch.tensor([[3.0], [2], [6]]).sqrt()


def to_opponent(x: Tensor) -> Tensor:
    """Red, green, blue to luminance and two opponent colours, an orthonormal basis; other than 3 channels stay."""
    return torch.einsum("oc,bchw->bohw", OPPONENT.to(x), x) if x.shape[1] == 3 else x


def from_opponent(x: Tensor) -> Tensor:
    """Undo `to_opponent`."""
    return torch.einsum("oc,bohw->bchw", OPPONENT.to(x), x) if x.shape[1] == 3 else x


def resized(power: Tensor, size: tuple[int, int]) -> Tensor:
    """A power spectrum at the frequencies of another size: *C h w//2+1 to *C H W//2+1, interpolated in its logarithm.

    Frequencies are cycles a pixel, so the spectrum of a stationary field keeps its values.
    """
    height, half = power.shape[-2:]
    if size == (height, 2 * (half - 1)):
        return power
    log = F.pad(power.log().flatten(0, -3)[None], (0, 0, 0, 1), mode="circular")  # the row after the last is the first
    row = (torch.fft.fftfreq(size[0]) % 1) * height
    column = torch.fft.rfftfreq(size[1]) * 2 * (half - 1)
    grid = torch.stack(torch.broadcast_tensors(2 * column / (half - 1) - 1, 2 * row[:, None] / height - 1), dim=-1)
    found = F.grid_sample(log, grid[None].to(log), "bilinear", "border", align_corners=True)
    return found[0].exp().unflatten(0, power.shape[:-2])


class Convolution:
    """x -> k * x as `operators.blur`, for one kernel each, B 1 h w, with its exact adjoint.

    `size` is the image's, H W; with the boundary "valid" the measurement is smaller, H-h+1 W-w+1.
    """

    def __init__(self, kernel: Tensor, size: tuple[int, int], boundary: str = "reflect") -> None:
        self.sides = _sides(kernel.shape[-2:], checks.choice("boundary", boundary, BOUNDARIES))
        self.size, self.canvas, self.boundary = size, kernel.shape[-2:], boundary
        self.frame = [n + p + q for n, (p, q) in zip(size, self.sides, strict=True)]
        self.shape = [next_fast_len(n, real=True) for n in self.frame]
        self.spectrum = torch.fft.rfft2(kernel, s=self.shape)

    def __call__(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(_pad(x, self.sides, self.boundary), s=self.shape)
        return _valid(torch.fft.irfft2(spectrum * self.spectrum, s=self.shape), self.frame, self.canvas)

    def adjoint(self, u: Tensor) -> Tensor:
        """What makes <A x, u> = <x, adjoint(u)> for all x: B C H W of what a measurement's shape has."""
        spectrum = torch.fft.rfft2(_embed(u, self.shape, self.canvas)) * self.spectrum.conj()
        whole = torch.fft.irfft2(spectrum, s=self.shape)[..., : self.frame[0], : self.frame[1]]
        return _unpad(whole, self.sides, self.boundary, self.size)


class KernelConvolution:
    """k -> k * x for one image each, B C H W: the same product, linear in the kernel on a canvas h w."""

    def __init__(self, image: Tensor, canvas: tuple[int, int], boundary: str = "reflect") -> None:
        sides = _sides(canvas, checks.choice("boundary", boundary, BOUNDARIES))
        padded = _pad(image, sides, boundary)
        self.canvas, self.frame = canvas, padded.shape[-2:]
        self.shape = [next_fast_len(n, real=True) for n in self.frame]
        self.spectrum = torch.fft.rfft2(padded, s=self.shape)

    def __call__(self, kernel: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(kernel, s=self.shape) * self.spectrum
        return _valid(torch.fft.irfft2(spectrum, s=self.shape), self.frame, self.canvas)

    def adjoint(self, u: Tensor) -> Tensor:
        """B 1 h w of B C and what a measurement's size is."""
        spectrum = (torch.fft.rfft2(_embed(u, self.shape, self.canvas)) * self.spectrum.conj()).sum(1, keepdim=True)
        return torch.fft.irfft2(spectrum, s=self.shape)[..., : self.canvas[0], : self.canvas[1]]


def conjugate_gradients(apply: Linear, b: Tensor, precondition: Linear, iterations: int) -> Tensor:
    """Solve apply(x) = b, apply symmetric and positive, each sample B *S by itself, in so many iterations from 0."""
    x, residual = torch.zeros_like(b), b
    direction = z = precondition(residual)
    square = _dot(residual, z)
    for _ in range(iterations):
        image = apply(direction)
        length = square / _dot(direction, image).clamp(min=1e-30)
        x, residual = x + length * direction, residual - length * image
        z = precondition(residual)
        square, before = _dot(residual, z), square
        direction = z + square / before.clamp(min=1e-30) * direction
    return x


def filtered(x: Tensor, power: Tensor) -> Tensor:
    """x, B C H W, with each frequency multiplied by `power`, C H W//2+1: a circulant matrix times x."""
    return torch.fft.irfft2(torch.fft.rfft2(x) * power, s=x.shape[-2:])


def transfer(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """|K|^2 of a kernel B 1 h w at the frequencies of a size: B 1 H W//2+1. A kernel larger than that is wrapped."""
    h, w = kernel.shape[-2:]
    wrapped = F.pad(kernel, (0, -w % size[1], 0, -h % size[0]))
    wrapped = wrapped.unflatten(-1, (-1, size[1])).sum(-2).unflatten(-2, (-1, size[0])).sum(-3)
    return torch.fft.rfft2(wrapped).abs().square()


def image_step(
    x_hat: Tensor,
    y: Tensor,
    kernel: Tensor,
    error: Tensor,
    noise: Tensor | float,
    boundary: str = "reflect",
    iterations: int = 8,
) -> Tensor:
    """E[x | y, k] for x ~ N(x_hat, error): B C H W.

    x_hat + S A^T (A S A^T + R)^-1 (y - A x_hat), S the circulant matrix of `error` and R that of `noise`.
    Args: `x_hat` B C H W and `y`; `kernel` B 1 h w; `error`, the power spectrum of x - x_hat, C H W//2+1 or one each;
    `noise`, the variance of y's noise, or its power spectrum B C and the half plane of y's size: with the kernel's own
    uncertainty, `kernel_noise`, the step does not sharpen by what may not be there.
    """
    size, seen = x_hat.shape[-2:], y.shape[-2:]
    blur = Convolution(kernel, size, boundary)
    noise = torch.as_tensor(noise, dtype=y.dtype, device=y.device)
    noise = noise.reshape(1, 1, 1, 1) if noise.numel() == 1 else noise
    innovation = transfer(kernel, seen) * resized(error, seen) + noise
    residual = y - blur(x_hat)
    if boundary == "circular":
        u = filtered(residual, 1 / innovation)
    else:
        u = conjugate_gradients(
            lambda u: blur(filtered(blur.adjoint(u), error)) + filtered(u, noise),
            residual,
            lambda u: filtered(u, 1 / innovation),
            iterations,
        )
    return x_hat + filtered(blur.adjoint(u), error)


def kernel_noise(x_hat: Tensor, error: Tensor, kernel_error: Tensor) -> Tensor:
    """The power spectrum that an uncertain kernel adds to y's noise: S_k (|X_hat|^2 + S_x), B C H W//2+1.

    `kernel_error` is the power spectrum of k - k_hat in a plain transform, 1 H W//2+1 or one each.
    """
    return kernel_error * (torch.fft.rfft2(x_hat, norm="ortho").abs().square() + error)


def kernel_step(
    x_hat: Tensor,
    y: Tensor,
    kernel: Tensor,
    error: Tensor,
    sigma: float,
    mean: Tensor,
    root: Tensor,
    boundary: str = "reflect",
    iterations: int = 40,
) -> Tensor:
    """E[k | y, x_hat] for k ~ N(mean, root root^T): B 1 h w, of any sign.

    The image's error counts as noise, V = |K|^2 S_x + sigma^2 by the `kernel` at hand; x_hat is the denoised estimate
    *before* its data step, because an image that was deconvolved by a wrong kernel gives that kernel back.
    Args: as `image_step`; `mean` 1 h w or B 1 h w; `root` hw r.
    """
    innovation = transfer(kernel, y.shape[-2:]) * resized(error, y.shape[-2:]) + sigma**2
    canvas = tuple(mean.shape[-2:])
    blur = KernelConvolution(x_hat, canvas, boundary)
    mean = mean.expand(len(y), 1, *canvas)

    def spread(w: Tensor) -> Tensor:
        return (w @ root.T).view(-1, 1, *canvas)

    def gather(u: Tensor) -> Tensor:
        return blur.adjoint(filtered(u, 1 / innovation)).flatten(1) @ root

    b = gather(y - blur(mean))
    w = conjugate_gradients(lambda w: w + gather(blur(spread(w))), b, lambda w: w, iterations)
    return mean + spread(w)


def surprise(x_hat: Tensor, y: Tensor, kernel: Tensor, error: Tensor, sigma: float, boundary: str) -> Tensor:
    """-2 log N(y; k * x_hat, |K|^2 S_x + sigma^2) but for a constant, a mean over frequencies and channels: B.

    Among kernels for one measurement the least surprising one is the likeliest. Args: as `image_step`.
    """
    size = y.shape[-2:]
    innovation = transfer(kernel, size) * resized(error, size) + sigma**2
    residual = torch.fft.rfft2(y - Convolution(kernel, x_hat.shape[-2:], boundary)(x_hat), norm="ortho")
    each = residual.abs().square() / innovation + innovation.log()
    weight = torch.full((size[1] // 2 + 1,), 2.0, device=y.device)  # the other half plane has the same values
    weight[0] = 1
    if size[1] % 2 == 0:
        weight[-1] = 1
    return (each * weight).sum((1, 2, 3)) / (y[0].numel())


def centred(kernel: Tensor) -> Tensor:
    """Kernels B 1 h w made nonnegative and of sum 1, their centres of mass in the middle to a part of a pixel."""
    kernel = kernel.clamp(min=0)
    kernel = kernel / kernel.sum((1, 2, 3), keepdim=True).clamp(min=1e-12)
    (h, w), like = kernel.shape[-2:], {"dtype": kernel.dtype, "device": kernel.device}
    row, column = torch.arange(h, **like), torch.arange(w, **like)
    down = (kernel.sum((1, 3)) * (row - h // 2)).sum(1)[:, None, None]
    across = (kernel.sum((1, 2)) * (column - w // 2)).sum(1)[:, None, None]
    grid = torch.stack(
        torch.broadcast_tensors(2 * (column + across) / (w - 1) - 1, 2 * (row[:, None] + down) / (h - 1) - 1), dim=-1
    )
    moved = F.grid_sample(kernel, grid, align_corners=True)
    return moved / moved.sum((1, 2, 3), keepdim=True).clamp(min=1e-12)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.dim() - 1))


def _sides(canvas: tuple[int, int], boundary: str) -> list[tuple[int, int]]:
    """What the frame is padded by, before and after, along rows and columns."""
    return [(0, 0) if boundary == "valid" else (n - 1 - n // 2, n // 2) for n in canvas]


def _pad(x: Tensor, sides: list[tuple[int, int]], boundary: str) -> Tensor:
    if boundary == "valid":
        return x
    mode = {"zero": "constant"}.get(boundary, boundary)
    return F.pad(x, [*sides[1], *sides[0]], mode=mode)


def _unpad(x: Tensor, sides: list[tuple[int, int]], boundary: str, size: tuple[int, int]) -> Tensor:
    """The adjoint of `_pad`: what was copied beyond the frame is added to where it came from."""
    if boundary in ("valid", "zero"):
        (top, _), (left, _) = sides
        return x[..., top : top + size[0], left : left + size[1]]
    for dim, n, side in ((-2, size[0], sides[0]), (-1, size[1], sides[1])):
        place = F.pad(torch.arange(n, dtype=torch.float64)[None, None], side, mode=boundary)[0, 0].long().to(x.device)
        shape = list(x.shape)
        shape[dim] = n
        x = x.new_zeros(shape).index_add(dim, place, x)
    return x


def _valid(x: Tensor, frame, canvas) -> Tensor:
    return x[..., canvas[0] - 1 : frame[0], canvas[1] - 1 : frame[1]]


def _embed(u: Tensor, shape, canvas) -> Tensor:
    top, left = canvas[0] - 1, canvas[1] - 1
    return F.pad(u, (left, shape[1] - left - u.shape[-1], top, shape[0] - top - u.shape[-2]))
