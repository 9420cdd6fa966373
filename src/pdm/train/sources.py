"""What the priors and the networks of pairs see in training: images, kernels, tilt fields, digits, blur and turbulence.

A source gives, for the split "train" or "test", a function that draws a batch: (n, generator) -> (x0, labels or None).
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from pdm import checks, data
from pdm.constraints import to_model_range
from pdm.models import blur_features, power_spectrum
from pdm.operators import blur, turbulence
from pdm.train.loop import Batch


def generated(make: Callable[[int, Generator], Tensor]) -> Callable[[str], Callable[[int, Generator], Batch]]:
    """Data made on the fly; train and test differ by their seed alone, for the generator does not repeat itself."""
    return lambda split: lambda n, generator: (make(n, generator), None)


def kernels(n: int, generator: Generator) -> Tensor:
    """Blur kernels on a canvas of 32 pixels, in the prior's range."""
    return to_model_range(data.random_kernels(n, 32, generator))


def blurred_kernels(split: str) -> Callable[[int, Generator], Batch]:
    """Kernels in the prior's range with the `blur_features` of what they blur: B 4 32 32.

    A batch's measurements are single images or, four times in ten, the mean spectrum of 2, 4 or 8 of them, as a larger
    photograph has; their noise is log-uniform from 0.005 to 0.04.
    """
    draw_images = images(split)

    def draw(n: int, generator: Generator) -> Batch:
        several = int(torch.randint(10, (1,), generator=generator))
        kernel = data.random_kernels(checks.count("n", n), 32, generator)
        sigma = 0.005 * 8 ** _uniform(n, generator)[:, None, None, None]
        power = torch.zeros(n, 1, 64, 64, dtype=torch.float32)
        for _ in range((1, 2, 4, 8)[max(0, several - 6)]):
            y = blur(draw_images(n, generator)[0], kernel)
            power += power_spectrum(y + sigma * torch.randn(y.shape, generator=generator, dtype=torch.float32))
        power = power / power.mean((-2, -1), keepdim=True)
        return torch.cat([to_model_range(kernel), blur_features(power)], dim=1), None

    return draw


def tilts(n: int, generator: Generator) -> Tensor:
    """Tilt fields of 64 pixels, in the prior's range."""
    return data.tilt_fields(n, 64, generator) / data.TILT_BOUND


def images(split: str) -> Callable[[int, Generator], Batch]:
    """Faces, cats and crops of photographs in equal shares, flipped half the time."""
    faces, cats = (data.load(name, split).pixels for name in ("faces", "cats"))
    pictures = data.pictures_of(split)

    def draw(n: int, generator: Generator) -> Batch:
        labels = torch.randint(3, (checks.count("n", n),), generator=generator)
        x0 = torch.empty(n, 3, 64, 64, dtype=torch.float32)
        for label, pixels in enumerate((faces, cats, pictures)):
            count = int((labels == label).sum())
            if count and isinstance(pixels, list):
                x0[labels == label] = data.random_crops(pixels, count, 64, generator)
            elif count:
                chosen = torch.randint(len(pixels), (count,), generator=generator)
                x0[labels == label] = pixels[chosen].float() / 127.5 - 1
        flip = _uniform(n, generator) < 0.5
        return torch.where(flip[:, None, None, None], x0.flip(-1), x0), labels

    return draw


def digits(split: str) -> Callable[[int, Generator], Batch]:
    """Handwritten digits with their labels."""
    found = data.load("digits", split)
    labels = torch.tensor(found.labels)

    def draw(n: int, generator: Generator) -> Batch:
        chosen = torch.randint(len(found), (checks.count("n", n),), generator=generator)
        return found.pixels[chosen].float() / 127.5 - 1, labels[chosen]

    return draw


def random_blur(x0: Tensor, generator: Generator) -> Tensor:
    """Half motion, half Gaussian kernels, and noise of 0.02: what the supervised networks of the paper have seen.

    B 3 H W in [-1, 1] to the same shape. Raises: ValueError for images of another shape or range.
    """
    n = len(checks.images("x0", x0))
    motion = data.motion_kernels(n, 32, 0.2 + 0.8 * _uniform(n, generator), generator)
    gaussian = data.gaussian_kernels(n, 32, 0.05 + 2.45 * _uniform(n, generator))
    chosen = _uniform(n, generator)[:, None, None, None] < 0.5
    return data.add_noise(blur(x0, torch.where(chosen, motion, gaussian).to(x0)), data.SIGMA, generator)


def random_turbulence(x0: Tensor, generator: Generator) -> Tensor:
    """One frame through turbulent air, as the measurements of Table 3, with a blur of any strength around theirs.

    B 3 64 64 in [-1, 1] to the same shape. Raises: ValueError for images of another shape or range.
    """
    n = len(checks.images("x0", x0, "B C 64 64"))
    blurs = data.gaussian_kernels(n, 32, 0.3 + 0.7 * _uniform(n, generator))
    fields = data.tilt_fields(n, 64, generator)
    return data.add_noise(turbulence(x0, blurs.to(x0), fields.to(x0)), data.SIGMA, generator)


def _uniform(n: int, generator: Generator) -> Tensor:
    """n numbers in [0, 1), float32 on the CPU."""
    checks.generator("generator", generator)
    return torch.rand(n, generator=generator, dtype=torch.float32, device="cpu")
