"""The noise of a measurement, from a stream of each sample's own."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from pdm import checks
from pdm.sampler import stream

SIGMA = 0.02  # noise of the paper, on the [-1, 1] scale


def add_noise(image: Tensor, sigma: float, generator: Generator) -> Tensor:
    """y + n, n ~ N(0, sigma^2), with sigma on the [-1, 1] scale of the image.

    A paper that counts in [0, 1] calls the same noise sigma / 2. The noise is drawn in float32, whatever the image is.
    Raises: ValueError for a negative sigma, or an image that is not floating point or not finite.
    """
    sigma = checks.number("sigma", sigma, least=0)
    checks.tensor("image", image, "*S"), checks.generator("generator", generator)
    noise = torch.randn(image.shape, generator=generator, dtype=torch.float32, device="cpu")
    return image + sigma * noise.to(image)


def noisy(clean: Tensor, seeds: Sequence[int], sigma: float = SIGMA) -> Tensor:
    """Measurements with their noise, B *S, from a stream of each sample's own that nothing else draws from."""
    seeds = checks.seeds(seeds, len(checks.tensor("clean", clean, "B *S")))
    return torch.stack([add_noise(y, sigma, stream(seed, "measurement")) for y, seed in zip(clean, seeds, strict=True)])
