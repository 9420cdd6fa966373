"""What the priors and the networks of pairs see in training: images, kernels, tilt fields, digits, blur and turbulence.

A source gives, for the split "train" or "test", a function that draws a batch: (n, generator) -> (x0, labels or None).
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from pdm import data
from pdm.constraints import to_model_range
from pdm.data import (
    SIGMA,
    TILT_BOUND,
    add_noise,
    gaussian_kernels,
    motion_kernels,
    pictures_of,
    random_kernels,
    tilt_fields,
)
from pdm.operators import blur, turbulence
from pdm.train.loop import Batch


def generated(make: Callable[[int, Generator], Tensor]) -> Callable[[str], Callable[[int, Generator], Batch]]:
    """Data made on the fly; train and test differ by their seed alone, for the generator does not repeat itself."""
    return lambda split: lambda n, generator: (make(n, generator), None)


def kernels(n: int, generator: Generator) -> Tensor:
    """Blur kernels on a canvas of 32 pixels, in the prior's range."""
    return to_model_range(random_kernels(n, 32, generator))


def tilts(n: int, generator: Generator) -> Tensor:
    """Tilt fields of 64 pixels, in the prior's range."""
    return tilt_fields(n, 64, generator) / TILT_BOUND


def images(split: str) -> Callable[[int, Generator], Batch]:
    """Faces, cats and crops of photographs in equal shares, flipped half the time."""
    faces, cats = (data.load(name, split).pixels for name in ("faces", "cats"))
    pictures = pictures_of(split)

    def draw(n: int, generator: Generator) -> Batch:
        labels = torch.randint(3, (n,), generator=generator)
        x0 = torch.empty(n, 3, 64, 64)
        for label, pixels in ((0, faces), (1, cats), (2, pictures)):
            count = int((labels == label).sum())
            if count and isinstance(pixels, list):
                x0[labels == label] = data.random_crops(pixels, count, 64, generator)
            elif count:
                chosen = torch.randint(len(pixels), (count,), generator=generator)
                x0[labels == label] = pixels[chosen].float() / 127.5 - 1
        flip = torch.rand(n, generator=generator) < 0.5
        return torch.where(flip[:, None, None, None], x0.flip(-1), x0), labels

    return draw


def digits(split: str) -> Callable[[int, Generator], Batch]:
    """Handwritten digits with their labels."""
    found = data.load("digits", split)
    labels = torch.tensor(found.labels)

    def draw(n: int, generator: Generator) -> Batch:
        chosen = torch.randint(len(found), (n,), generator=generator)
        return found.pixels[chosen].float() / 127.5 - 1, labels[chosen]

    return draw


def random_blur(x0: Tensor, generator: Generator) -> Tensor:
    """Half motion, half Gaussian kernels, and noise of 0.02: what the supervised networks of the paper have seen."""
    n = len(x0)
    motion = motion_kernels(n, 32, 0.2 + 0.8 * torch.rand(n, generator=generator), generator)
    gaussian = gaussian_kernels(n, 32, 0.05 + 2.45 * torch.rand(n, generator=generator))
    chosen = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
    return add_noise(blur(x0, torch.where(chosen, motion, gaussian)), SIGMA, generator)


def random_turbulence(x0: Tensor, generator: Generator) -> Tensor:
    """One frame through turbulent air, as `pdm.turbulence` makes them but for a blur of any strength around its own."""
    n = len(x0)
    blurs = gaussian_kernels(n, 32, 0.3 + 0.7 * torch.rand(n, generator=generator))
    return add_noise(turbulence(x0, blurs, tilt_fields(n, 64, generator)), SIGMA, generator)
