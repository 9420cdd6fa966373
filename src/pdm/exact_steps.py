"""Data steps with the right covariances: the Gaussian conditional of the image given the kernel, and the reverse.

A prior's denoised estimate is the truth less an error, whose power spectrum `models.Errors` holds. With it the
measurement y = k * x + n decides how far to follow the data at each frequency, and a linear solve takes the place of a
thousand gradient steps. Circular boundaries have a closed form; the others are solved by conjugate gradients, which
that closed form preconditions. Images are in the basis of `to_opponent`, in which colours' errors are apart.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pdm import checks
from pdm.convolutions import Convolution, KernelConvolution, fitting, pixels

Linear = Callable[[Tensor], Tensor]
PROBLEM = "x_hat B C H W, kernel B 1 h w, y B C Y X, error C H V"  # what steps are given, for `fitting`
SIGNS = torch.tensor([[1, 1, 1], [1, -1, 0], [1, 1, -2]], dtype=torch.float32, device="cpu")
OPPONENT = SIGNS / SIGNS.square().sum(1, keepdim=True).sqrt()
EMPTY = 1e-4  # a channel that is nowhere above this holds nothing; a step of 8 bits is 0.008


def to_opponent(x: Tensor) -> Tensor:
    """Red, green, blue to luminance and two opponent colours, an orthonormal basis; other than 3 channels stay.

    Args: `x` B C H W. Returns: B C H W. Raises: ValueError for another shape, or values that are not finite.
    """
    (x,) = fitting("x B C h w", x)
    return torch.einsum("oc,bchw->bohw", OPPONENT.to(x), x) if x.shape[1] == 3 else x


def from_opponent(x: Tensor) -> Tensor:
    """Undo `to_opponent`, with its arguments and errors."""
    (x,) = fitting("x B C h w", x)
    return torch.einsum("oc,bohw->bchw", OPPONENT.to(x), x) if x.shape[1] == 3 else x


def resized(power: Tensor, size: Sequence[int]) -> Tensor:
    """A power spectrum at the frequencies of another size: C h w//2+1 to C H W//2+1, or B of them.

    It is interpolated in its logarithm. Frequencies are cycles a pixel, so the spectrum of a stationary field keeps its
    values; a spectrum of that many frequencies is returned as it is, of an odd width too.
    Raises: ValueError for other shapes, fewer than 2 frequencies a side, or values not above 0.
    """
    (power,), size = fitting("power C H V", power), pixels("size", size)
    height, half = power.shape[-2:]
    if (size[0], size[1] // 2 + 1) == (height, half):
        return power
    log = F.pad(power.log().flatten(0, -3)[None], (0, 0, 0, 1), mode="circular")  # the row after the last is the first
    row = (torch.fft.fftfreq(size[0], dtype=torch.float32, device="cpu") % 1) * height
    column = torch.fft.rfftfreq(size[1], dtype=torch.float32, device="cpu") * 2 * (half - 1)
    grid = torch.stack(torch.broadcast_tensors(2 * column / (half - 1) - 1, 2 * row[:, None] / height - 1), dim=-1)
    found = F.grid_sample(log, grid[None].to(log), "bilinear", "border", align_corners=True)
    return found[0].exp().unflatten(0, power.shape[:-2])


def conjugate_gradients(
    apply: Linear, b: Tensor, precondition: Linear, iterations: int, start: Tensor | None = None, frames: int = 1
) -> Tensor:
    """Solve apply(x) = b, apply symmetric and positive, each sample B *S by itself, in so many iterations from `start`.

    Without one it is 0. The `frames` of a sample, as `image_step` has them, are one system.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        each = (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.dim() - 1))
        return each if frames == 1 else _joint(each, frames)

    x, residual = (torch.zeros_like(b), b) if start is None else (start, b - apply(start))
    direction = z = precondition(residual)
    square = dot(residual, z)
    for _ in range(iterations):
        image = apply(direction)
        length = square / dot(direction, image).clamp(min=1e-30)
        x, residual = x + length * direction, residual - length * image
        z = precondition(residual)
        square, before = dot(residual, z), square
        direction = z + square / before.clamp(min=1e-30) * direction
    return x


def filtered(x: Tensor, power: Tensor) -> Tensor:
    """x, B C H W, with each frequency multiplied by `power`, C H W//2+1: a circulant matrix times x."""
    return torch.fft.irfft2(torch.fft.rfft2(x) * power, s=x.shape[-2:])


def transfer(kernel: Tensor, size: Sequence[int]) -> Tensor:
    """|K|^2 of a kernel B 1 h w at the frequencies of a size: B 1 H W//2+1. A kernel larger than that is wrapped.

    Raises: ValueError for another shape or size.
    """
    (kernel,), size = fitting("kernel B 1 h w", kernel), pixels("size", size)
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
    frames: int = 1,
) -> Tensor:
    """E[x | y, k] for x ~ N(x_hat, error): B C H W.

    x_hat + S A^T (A S A^T + R)^-1 (y - A x_hat), S the circulant matrix of `error` and R that of `noise`.
    With several `frames` of one scene each, B holds all first frames, then all second ones, and A has them one below
    the other: x_hat must be the same in all frames of a scene, and so is what is returned.
    Args: `x_hat` B C H W and `y`; `kernel` B 1 h w; `error`, the power spectrum of x - x_hat, C H W//2+1 or one each;
    `noise`, the variance of y's noise, or its power spectrum B C and the half plane of y's size: with the kernel's own
    uncertainty, `kernel_noise`, the step does not sharpen by what may not be there.
    Raises: ValueError for shapes, numbers of samples or dtypes that do not fit, values that are not finite, spectra and
    noise not above 0, fewer than 0 iterations, samples that are no multiple of `frames`, and as `Convolution`.
    """
    spectra = [noise] if isinstance(noise, Tensor) and noise.numel() != 1 else []
    shapes = PROBLEM + ", noise C Y U" * len(spectra)
    x_hat, kernel, y, error, *spectra = fitting(shapes, x_hat, kernel, y, error, *spectra, boundary=boundary)
    if not spectra:
        checks.number("noise", noise.item() if isinstance(noise, Tensor) else noise, above=0)
        spectra = [torch.as_tensor(noise, dtype=y.dtype, device=y.device).reshape(1, 1, 1, 1)]
    checks.count("iterations", iterations, 0)
    if len(y) % checks.count("frames", frames):
        raise ValueError(f"there are {len(y)} samples for {frames} frames each; wanted as many of each frame")
    size, seen = x_hat.shape[-2:], y.shape[-2:]
    blur = Convolution(kernel, size, boundary)

    def back(u: Tensor) -> Tensor:  # S A^T u
        each = blur.adjoint(u)
        return filtered(each if frames == 1 else _joint(each, frames), error)

    innovation = transfer(kernel, seen) * resized(error, seen) + spectra[0]
    residual = y - blur(x_hat)
    if boundary == "circular" and frames == 1:
        u = filtered(residual, 1 / innovation)
    else:
        u = conjugate_gradients(
            lambda u: blur(back(u)) + filtered(u, spectra[0]),
            residual,
            lambda u: filtered(u, 1 / innovation),
            iterations,
            frames=frames,
        )
    return x_hat + back(u)


def kernel_noise(x_hat: Tensor, error: Tensor, kernel_error: Tensor) -> Tensor:
    """The power spectrum that an uncertain kernel adds to y's noise: S_k (|X_hat|^2 + S_x), B C H W//2+1.

    `kernel_error` is the power spectrum of k - k_hat in a plain transform, 1 H W//2+1 or one each; `x_hat` and `error`
    are as `image_step`'s. Raises: ValueError for what does not fit them, and spectra not above 0.
    """
    shapes = "x_hat B C H W, error C H V, kernel_error 1 H V"
    x_hat, error, kernel_error = fitting(shapes, x_hat, error, kernel_error)
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
    start: Tensor | None = None,
) -> Tensor:
    """E[k | y, x_hat] for k ~ N(mean, root root^T): B 1 h w, of any sign.

    The image's error counts as noise, V = |K|^2 S_x + sigma^2 by the `kernel` at hand; x_hat is the denoised estimate
    *before* its data step, because an image that was deconvolved by a wrong kernel gives that kernel back.
    Args: as `image_step`; `mean` 1 h w or B 1 h w; `root` hw r, or for pixels that are independent their standard
    deviations B 1 h w; the kernel at hand may have another size; `start`, a kernel on the canvas for the solve to begin
    at in place of the mean: near the answer it saves most iterations.
    Raises: as `image_step`; for a sigma not above 0.
    """
    of_root = "root 1 h w" if isinstance(root, Tensor) and root.dim() > 2 else "root hw r"
    shapes = f"x_hat B C H W, mean 1 h w, y B C Y X, error C H V, kernel B 1 rows columns, {of_root}"
    values = (x_hat, mean, y, error, kernel, root)
    x_hat, mean, y, error, kernel, root = fitting(shapes, *values, boundary=boundary)
    checks.count("iterations", iterations, 0), checks.number("sigma", sigma, above=0)
    if start is not None:
        mean, root, start = fitting(f"mean 1 h w, {of_root}, start B 1 h w", mean, root, start)
    innovation = transfer(kernel, y.shape[-2:]) * resized(error, y.shape[-2:]) + sigma**2
    canvas, samples = pixels("mean", mean.shape[-2:]), max(len(mean), len(y))
    blur = KernelConvolution(x_hat, canvas, boundary)
    mean = mean.expand(samples, 1, *canvas)

    spread, coordinates, power = _root(root, canvas)

    def gather(u: Tensor) -> Tensor:
        return coordinates(blur.adjoint(filtered(u, 1 / innovation)))

    b, first = gather(y - blur(mean)), None
    if start is not None:  # where it is, if the root's columns are orthogonal
        first = coordinates(start - mean) / power.clamp(min=1e-12)
    w = conjugate_gradients(lambda w: w + gather(blur(spread(w))), b, lambda w: w, iterations, first)
    return mean + spread(w)


def surprise(
    x_hat: Tensor, y: Tensor, kernel: Tensor, error: Tensor, sigma: float, boundary: str, log_weight: float = 1.0
) -> Tensor:
    """-2 log N(y; k * x_hat, |K|^2 S_x + sigma^2) but for a constant, a mean over frequencies and channels: B.

    Channels in which y is 0, a grey photo's colours, tell nothing and do not count.

    Among kernels for one measurement the least surprising one is the likeliest, if x_hat knows of y nothing but what
    the prior told. One that was fitted to y lies nearer to it than the variance says, and then the logarithm of the
    variance counts for too much; `log_weight` is its weight. Args and errors: as `kernel_step`.
    """
    x_hat, kernel, y, error = fitting(PROBLEM, x_hat, kernel, y, error, boundary=boundary)
    checks.number("sigma", sigma, above=0), checks.number("log_weight", log_weight, least=0)
    size = y.shape[-2:]
    innovation = transfer(kernel, size) * resized(error, size) + sigma**2
    residual = torch.fft.rfft2(y - Convolution(kernel, x_hat.shape[-2:], boundary)(x_hat), norm="ortho")
    each = residual.abs().square() / innovation + log_weight * innovation.log()
    weight = torch.full((size[1] // 2 + 1,), 2.0, dtype=y.dtype, device=y.device)  # both half planes are alike
    weight[0] = 1
    if size[1] % 2 == 0:
        weight[-1] = 1
    held = (y.abs().amax((-2, -1)) > EMPTY).to(y)
    return ((each * weight).sum((2, 3)) * held).sum(1) / (held.sum(1).clamp(min=1) * size[0] * size[1])


def centred(kernel: Tensor) -> Tensor:
    """Kernels B 1 h w made nonnegative and of sum 1, their centres of mass in the middle to a part of a pixel.

    Raises: ValueError for another shape, a side of 1 pixel, or values that are not finite.
    """
    (kernel,) = fitting("kernel B 1 H W", kernel)
    kernel = kernel.clamp(min=0)
    kernel = kernel / kernel.sum((1, 2, 3), keepdim=True).clamp(min=1e-12)
    h, w = kernel.shape[-2:]
    row, column = (torch.arange(n, dtype=kernel.dtype, device=kernel.device) for n in (h, w))
    down = (kernel.sum((1, 3)) * (row - h // 2)).sum(1)[:, None, None]
    across = (kernel.sum((1, 2)) * (column - w // 2)).sum(1)[:, None, None]
    grid = torch.stack(
        torch.broadcast_tensors(2 * (column + across) / (w - 1) - 1, 2 * (row[:, None] + down) / (h - 1) - 1), dim=-1
    )
    moved = F.grid_sample(kernel, grid, align_corners=True)
    return moved / moved.sum((1, 2, 3), keepdim=True).clamp(min=1e-12)


def _root(root: Tensor, canvas: tuple[int, int]) -> tuple[Linear, Linear, Tensor]:
    """A covariance's root as a map from coordinates to kernels, its transpose, and the power of each coordinate."""
    if root.dim() == 2:
        return lambda w: (w @ root.T).view(-1, 1, *canvas), lambda k: k.flatten(1) @ root, root.square().sum(0)
    deviation = root.flatten(1)  # of each pixel
    return (
        lambda w: (w * deviation).view(-1, 1, *canvas),
        lambda k: k.flatten(1) * deviation,
        deviation.square(),
    )


def _joint(values: Tensor, frames: int) -> Tensor:
    """For each frame the sum over all frames of its scene: the samples are all first frames, then all second ones."""
    return values.unflatten(0, (frames, -1)).sum(0).repeat(frames, *[1] * (values.dim() - 1))
