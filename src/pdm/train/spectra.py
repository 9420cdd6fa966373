"""Measure a prior's error spectra on its training data: `python -m pdm.train spectra NAME`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Generator, Tensor

from pdm import checks
from pdm.constraints import from_model_range, to_model_range
from pdm.data import random_kernels
from pdm.exact_steps import to_opponent
from pdm.models import NetworkPrior, load_prior
from pdm.models.errors import Errors, save_errors
from pdm.paths import TRAINED
from pdm.train import sources

TIMES = (999, 900, 800, 700, 600, 500, 400, 350, 300, 250, 200, 160, 120, 90, 60, 40, 25, 15, 8, 4, 1)
RANK = 512  # of the kernels' covariance: all but a thousandth of their variance


def measure_spectra(name: str, samples: int = 256, seed: int = 0, folder: str | Path = TRAINED) -> Iterator[str]:
    """Measure the `Errors` of the prior "image" or "kernel", write them beside its card, and say what is done.

    `samples` are of each class. Images: power of x0 - x0_hat in the opponent basis, for each class and for the prior
    without a label. Kernels: of kernels of sum 1, the estimate too, in a plain transform, and the mean and a root of
    the covariance of 20,000 kernels. Raises: ValueError for another name; as `load_prior`.
    """
    checks.choice("name", name, ("image", "kernel")), checks.count("samples", samples)
    prior, draw = load_prior(name, folder=folder), Generator().manual_seed(checks.count("seed", seed, 0))
    if name == "kernel":
        kernels = random_kernels(samples, 32, draw)
        power = [kernel_errors(prior, kernels, t, draw) for t in TIMES]
        yield f"{len(TIMES)} time steps"
        mean, root = moments(random_kernels(20_000, 32, draw))
        errors = Errors(torch.tensor(TIMES), torch.stack(power)[None], mean, root)
    else:
        classes = []
        for label, x0 in enumerate(by_class(samples, draw)):
            given = prior.with_label(label)  # the last one is any class
            classes.append(torch.stack([image_errors(given, x0, t, draw) for t in TIMES]))
            yield f"class {label}: {len(TIMES)} time steps"
        errors = Errors(torch.tensor(TIMES), torch.stack(classes))
    save_errors(name, errors, {"samples": samples, "seed": seed}, folder)


def by_class(samples: int, draw: Generator) -> list[Tensor]:
    """Training images of the three classes, and of all of them: each `samples` 3 64 64."""
    source, found = sources.images("train"), {0: [], 1: [], 2: []}
    while min(len(images) for images in found.values()) < samples:
        x0, labels = source(64, draw)
        for image, label in zip(x0, labels.tolist(), strict=True):
            found[label].append(image)
    classes = [torch.stack(images[:samples]) for images in found.values()]
    return [*classes, torch.cat([c[: -(-samples // 3)] for c in classes])[:samples]]


@torch.no_grad()
def image_errors(prior: NetworkPrior, x0: Tensor, t: int, draw: Generator) -> Tensor:
    """The mean power of x0 - x0_hat(x_t) at one time step: C h w//2+1."""
    error = to_opponent(x0 - _denoised(prior, x0, t, draw))
    return torch.fft.rfft2(error, norm="ortho").abs().square().mean(0)


@torch.no_grad()
def kernel_errors(prior: NetworkPrior, kernels: Tensor, t: int, draw: Generator) -> Tensor:
    """The mean power of k - k_hat(k_t), both of sum 1, in a plain transform: 1 h w//2+1."""
    u = from_model_range(_denoised(prior, to_model_range(kernels), t, draw))
    error = kernels - u / u.sum((1, 2, 3), keepdim=True)
    return torch.fft.rfft2(error).abs().square().mean(0)


def moments(kernels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of kernels N 1 h w, 1 h w, and a root of their covariance, hw r: its first `RANK` directions."""
    flat = kernels.flatten(1).double()
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    root = vectors[:, -RANK:] * values[-RANK:].clamp(min=0).sqrt()
    return mean.view(1, *kernels.shape[-2:]).float(), root.float()


def _denoised(prior: Callable, x0: Tensor, t: int, draw: Generator) -> Tensor:
    noisy = prior.schedule.diffuse(x0, torch.randn(x0.shape, generator=draw), t)
    return torch.cat([prior(x, t).x0.clamp(-1, 1) for x in noisy.split(32)])
