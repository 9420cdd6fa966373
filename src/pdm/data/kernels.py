"""Random blur kernels: what the kernel prior learns, and what measurements are made with.

A kernel is a B 1 S S float tensor, nonnegative, sum 1, whose centre (of mass, for motion) is the pixel
(S // 2, S // 2), the same that `pdm.operators.blur` takes for the origin.
"""

import math
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pdm import checks
from pdm.models.seeded import plain_torch

MOTION_INTENSITY = (0.2, 1.0)  # what the kernel prior is trained on: the paper's range
GAUSSIAN_STD = (0.1 / 64, 5.0 / 64)  # likewise, in units of the canvas: the paper's 0.1 to 5.0 on 64 pixels
POINTS = 16  # of a trajectory per pixel of the canvas: about two a pixel at the fastest, on any canvas


@plain_torch()
def motion_kernels(n: int, size: int, intensity: float | Tensor, generator: Generator) -> Tensor:
    """`n` motion-blur kernels: the paths of a shaken camera, drawn with light in proportion to time.

    A heading makes a random walk with now and then a jerk, a speed varies smoothly around its mean; both grow
    wilder with `intensity`, in (0, 1] (one, or n of them), and the path grows longer: 0.75 intensity canvas sides
    give or take a third. The path is drawn with bilinear weights from points a fraction of a pixel apart, so that it is
    anti-aliased, its centre of mass lies at the canvas's centre, and it is shrunk if it would leave the canvas.
    Returns: n 1 size size, float32.
    Raises: ValueError for an intensity outside (0, 1], n < 1 or size < 3.
    Source: the idea of a random trajectory is Boracchi & Foi, "Modeling the performance of image restoration from
    motion blur" (2012), and the scale of intensity follows the paper's; the generator is our own.
    """
    n, size = checks.count("n", n), checks.count("size", size, 3)
    intensity, generator = _one_each("intensity", intensity, n), checks.generator("generator", generator)
    if not (intensity <= 1).all():
        raise ValueError(f"intensity is {intensity.tolist()[:4]}; wanted values in (0, 1]")
    points = POINTS * size

    normal, uniform = (partial(draw, generator=generator, dtype=torch.float64) for draw in (torch.randn, torch.rand))
    wild = intensity[:, None]  # n 1
    turn = normal(n, points) * 2.5 * wild / math.sqrt(points)
    jerk = (uniform(n, points) < 2 * wild / points) * (uniform(n, points) - 0.5) * 2 * math.pi
    heading = 2 * math.pi * uniform(n, 1) + (turn + jerk).cumsum(1)
    pace = F.interpolate(normal(n, 1, 8), points, mode="linear", align_corners=True)[:, 0] * wild  # smooth
    step = pace.exp() / pace.exp().mean(1, keepdim=True)
    length = 0.75 * wild * size * (2 / 3 + 2 / 3 * uniform(n, 1)) / points
    path = torch.stack([heading.sin(), heading.cos()], dim=-1) * (length * step)[..., None]  # n points 2: row, column
    path = path.cumsum(1)
    path = path - path.mean(1, keepdim=True)
    room = (size - 1) // 2 - 1
    path = path * (room / path.abs().amax((1, 2), keepdim=True)).clamp(max=1)
    return _draw(path + size // 2, size).float()


def _draw(path: Tensor, size: int) -> Tensor:
    """The light of `path` (n points 2, in pixels) on a canvas, each point shared bilinearly: n 1 size size, sum 1."""
    corner = path.floor()
    share = path - corner
    canvas = path.new_zeros(len(path), size * size)
    for row, column in product((0, 1), repeat=2):
        weight = (share[..., 0] if row else 1 - share[..., 0]) * (share[..., 1] if column else 1 - share[..., 1])
        index = (corner[..., 0].long() + row) * size + corner[..., 1].long() + column
        canvas.scatter_add_(1, index, weight)
    return (canvas / path.shape[1]).reshape(-1, 1, size, size)


@plain_torch()
def gaussian_kernels(n: int, size: int, std: float | Tensor) -> Tensor:
    """`n` isotropic Gaussian kernels of standard deviation `std` pixels (one, or n of them), integrated over pixels.

    Returns: n 1 size size, float32, sum 1 (what falls beyond the canvas is put back in proportion).
    Raises: ValueError for a std that is not above 0, n < 1 or size < 3.
    """
    n, size = checks.count("n", n), checks.count("size", size, 3)
    std = _one_each("std", std, n)
    edges = torch.arange(size + 1, dtype=torch.float64) - 0.5 - size // 2
    profile = torch.erf(edges / (std[:, None] * math.sqrt(2))).diff(dim=1)  # n size
    kernel = profile[:, None, :, None] * profile[:, None, None, :]
    return (kernel / kernel.sum((2, 3), keepdim=True)).float()


@plain_torch()
def random_kernels(n: int, size: int, generator: Generator) -> Tensor:
    """`n` draws of what the kernel prior learns: five motion kernels to one Gaussian, as in the paper.

    Motion intensity is uniform in (0.2, 1.0); the Gaussian std is uniform over the paper's (0.1, 5.0) of a
    64-pixel canvas, scaled to this one. Returns: n 1 size size, in random order.
    """
    n, size, generator = checks.count("n", n), checks.count("size", size, 3), checks.generator("generator", generator)
    motion = torch.rand(n, generator=generator) < 5 / 6
    low, high = MOTION_INTENSITY
    kernels = motion_kernels(n, size, low + (high - low) * torch.rand(n, generator=generator), generator)
    low, high = (size * bound for bound in GAUSSIAN_STD)
    gaussian = gaussian_kernels(n, size, low + (high - low) * torch.rand(n, generator=generator))
    return torch.where(motion[:, None, None, None], kernels, gaussian)


def _one_each(name: str, value: float | Tensor, n: int) -> Tensor:
    """One value for all kernels, or n of them, finite and above 0: n, float64."""
    value = value if isinstance(value, Tensor) else torch.tensor([checks.number(name, value)], dtype=torch.float64)
    value = checks.tensor(name, value, "*S").detach().cpu().double().flatten()
    if len(value) not in (1, n) or not (value > 0).all():
        raise ValueError(f"{name} is {value.tolist()[:4]}; wanted one value above 0 for {n} kernels, or one each")
    return value.expand(n)
