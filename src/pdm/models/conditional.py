"""A prior of kernels given what a blurred image tells of them without a search: its whitened power spectrum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pdm import checks
from pdm.convolutions import fitting
from pdm.models.prior import NetworkPrior, Velocity
from pdm.models.unet import UNet
from pdm.schedule import Schedule

WINDOW, CANVAS = 64, 32  # pixels a side: of the parts that a measurement is cut into, and of the kernel's canvas


def power_spectrum(y: Tensor) -> Tensor:
    """The power spectrum of a measurement's gradients: B C H W, sides of 64 at least, to B 1 64 64, of mean 1.

    Gradients whiten photographs, whose power falls as 1 / frequency^2, so that what is left is about |K|^2. It is the
    mean over the channels and over windows of 64 pixels that overlap by half, each tapered by a sine. The frequency 0
    stands first. Raises: ValueError for another shape, a side below 64, or values that are not finite.
    """
    (y,) = fitting("y B C H W", checks.tensor("y", y, least=WINDOW))
    windows = y.unfold(2, WINDOW, WINDOW // 2).unfold(3, WINDOW, WINDOW // 2)  # B C rows columns 64 64
    place = torch.arange(WINDOW, dtype=y.dtype, device=y.device)
    taper, gradient = (torch.sin(torch.pi * (place + shift) / WINDOW) for shift in (0.5, 0))
    tapered = (windows - windows.mean((-2, -1), keepdim=True)) * taper[:, None] * taper
    power = torch.fft.fft2(tapered).abs().square().mean((1, 2, 3))[:, None]
    power = power * (gradient[:, None].square() + gradient.square())
    return power / power.mean((-2, -1), keepdim=True).clamp(min=1e-12)


def blur_features(power: Tensor) -> Tensor:
    """What the network sees of a `power_spectrum` B 1 64 64: autocorrelation, cepstrum and logarithm, B 3 32 32.

    The first two lie on the kernel's canvas, shift 0 at its centre; a path of motion is visible in both.
    Raises: ValueError for another shape, or values that are not finite or below 0.
    """
    (power,) = fitting(f"power B 1 {WINDOW} {WINDOW}", power)
    if power.min() < 0:
        raise ValueError(f"power has the minimum {power.min():g}; wanted a power spectrum, 0 or more")
    log = (power + 1e-3).log()
    log = log - log.mean((-2, -1), keepdim=True)
    middle = slice((WINDOW - CANVAS) // 2, (WINDOW + CANVAS) // 2)
    shifted = [torch.fft.fftshift(torch.fft.ifft2(v).real, dim=(-2, -1))[..., middle, middle] for v in (power, log)]
    coarse = torch.nn.functional.avg_pool2d(torch.fft.fftshift(log, dim=(-2, -1)), 2)
    return torch.cat([8 * shifted[0], 10 * shifted[1], coarse / 2], dim=1).clamp(-3, 3)


@dataclass(frozen=True, eq=False)
class ConditionalPrior:
    """A network that denoises kernels given `blur_features`; `given(y)` makes a prior of it."""

    network: UNet
    precision: torch.dtype
    velocity: Velocity
    schedule: Schedule

    def given(self, y: Tensor) -> NetworkPrior:
        """The prior of the kernels that blurred y, B C H W: B samples, or one for all. Raises: as `power_spectrum`."""
        features = blur_features(power_spectrum(y))
        return NetworkPrior(self.network, None, self.precision, self.velocity, self.schedule, features)
