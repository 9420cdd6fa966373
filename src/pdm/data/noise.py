"""The noise of a measurement, from a stream of each sample's own."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from pdm.sampler import stream

SIGMA = 0.02  # noise of the paper, on the [-1, 1] scale


def add_noise(image: Tensor, sigma: float, generator: Generator) -> Tensor:
    """y + n, n ~ N(0, sigma^2), with sigma on the [-1, 1] scale of the image.

    A paper that counts in [0, 1] calls the same noise sigma / 2. Raises: ValueError for a negative sigma.
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma is {sigma}; wanted 0 or more, on the scale of an image in [-1, 1]")
    if not image.is_floating_point():
        raise ValueError(f"the image is {image.dtype}; wanted floating point, in [-1, 1]")
    noise = torch.randn(image.shape, generator=generator, dtype=image.dtype)
    return image + sigma * noise.to(image.device)


def noisy(clean: Tensor, seeds: Sequence[int], sigma: float = SIGMA) -> Tensor:
    """Measurements with their noise, B *S, from a stream of each sample's own that nothing else draws from."""
    return torch.stack([add_noise(y, sigma, stream(seed, "measurement")) for y, seed in zip(clean, seeds, strict=True)])
