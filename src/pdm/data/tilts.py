"""Random tilt fields: B 2 H W, the displacement of each pixel in pixels, along columns and along rows."""

import math

import torch
from torch import Generator, Tensor

from pdm import checks
from pdm.models.seeded import plain_torch

TILT_BOUND = 2.5  # pixels: displacements are clipped there, as in the release


@plain_torch()
def tilt_fields(
    n: int,
    size: int,
    generator: Generator,
    patches: int = 500,
    half_width: int | None = None,
    std: float = 1.0,
    strength: tuple[float, float] = (0.15, 0.6),
) -> Tensor:
    """`n` tilt fields: random patches of smoothed white noise, added up at random places.

    The paper's, for 256 pixels, are M = 500 patches of half-width 32, smoothed by a Gaussian of std 1 pixel, each
    with a strength uniform in (0.1, 0.4). On 64 pixels the half-width becomes 8, an eighth of the side as there
    (`half_width` None), so that a pixel lies in 31 patches as there; the smoothing stays 1 pixel, below which a grid
    shows nothing; and the strength grows by half, so that displacements of 0.6 pixels root mean square are seen.
    `patches` counts those whose centre lies in the field; around it lie as many in proportion, lest the rim be calm.

    White noise adds up to white noise: the sum over patches of G * (strength noise) is drawn at once, as
    G * (sqrt(sum over the patches at a pixel of strength^2) noise), which has the same distribution.
    Returns: n 2 size size, float32, in pixels, clipped to +-TILT_BOUND; channel 0 along columns, 1 along rows.
    Raises: ValueError for n < 1, size < 3, or a parameter that is not above 0.
    """
    n, size, patches = checks.count("n", n), checks.count("size", size, 3), checks.count("patches", patches)
    half = checks.count("half_width", max(1, size // 8) if half_width is None else half_width)
    std, (low, high) = checks.number("std", std, above=0), (checks.number("strength", v, above=0) for v in strength)
    if low > high:
        raise ValueError(f"strength is {strength}; wanted a lower and a higher value")
    checks.generator("generator", generator)
    reach = math.ceil(4 * std)
    side = size + 2 * reach  # smoothing looks that far beyond the field
    around = side + 2 * half - 1  # corners of patches that touch it
    count = round(patches * (around / size) ** 2)
    place = torch.randint(around**2, (n, count), generator=generator)
    power = (low + (high - low) * torch.rand(n, count, generator=generator)).square()
    corners = torch.zeros(n, around**2).scatter_add_(1, place, power).reshape(n, 1, around, around)
    variance = torch.nn.functional.avg_pool2d(corners, 2 * half, stride=1) * (2 * half) ** 2  # n 1 side side
    noise = variance.sqrt() * torch.randn(n, 2, side, side, generator=generator)
    offset = torch.arange(-reach, reach + 1)
    profile = torch.exp(-0.5 * (offset / std) ** 2)
    profile = (profile / profile.sum()).expand(2, 1, 1, -1)
    smooth = torch.nn.functional.conv2d(noise, profile, groups=2)
    smooth = torch.nn.functional.conv2d(smooth, profile.transpose(-1, -2), groups=2)
    return smooth.clamp(-TILT_BOUND, TILT_BOUND)
