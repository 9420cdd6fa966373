"""Priors: whatever predicts the noise in x_t. Networks with their committed weights, and priors known exactly."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pdm.models.unet import UNet
from pdm.schedule import Schedule


class Prediction(NamedTuple):
    """What a prior says of x_t: its noise, and, if it learned one, where between its bounds the variance lies."""

    noise: Tensor
    variance: Tensor | None = None


Prior = Callable[[Tensor, int], Prediction]
"""prior(x, t): x is B C *S at time step t (one for the whole batch); the noise has the shape of x."""


@dataclass(frozen=True)
class Velocity:
    """What a network may predict in place of noise: the velocity of the standardised data.

    With d = (x0 - mean) / std, x_t less its mean and divided by its standard deviation is u = sin d + cos noise, where
    the angle falls from 90 degrees at the clean signal to 0 at pure noise. The network sees u and predicts
    v = cos d - sin noise; then noise = cos u - sin v. Where the signal is faint, sin is small, and an error of the
    network hardly reaches the noise: a network that predicts noise itself has there to be exact to
    sqrt(alpha_bar), or the denoised estimate is lost.
    `mean` and `std` are of all values of the data, in the prior's range. Raises: ValueError for a std not above 0.
    Source: v-prediction of Salimans & Ho (2022), with the unit-variance scaling of EDM (Karras et al. 2022).
    """

    mean: float
    std: float

    def __post_init__(self):
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"mean and std are {self.mean}, {self.std}; wanted finite numbers, std above 0")

    def input(self, schedule: Schedule, x: Tensor, t: int | Tensor) -> Tensor:
        """u, what the network sees of x_t: of mean 0 and variance 1 at every time step."""
        alpha_bar = schedule.alpha_bar_at(t, x)
        spread = (alpha_bar * self.std**2 + 1 - alpha_bar).sqrt()
        return (x - (alpha_bar.sqrt() * self.mean).to(x.dtype)) / spread.to(x.dtype)

    def target(self, schedule: Schedule, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """v, what the network learns to predict: of variance 1 at every time step."""
        cos, sin = self._rotation(schedule, x0, t)
        return cos * (x0 - self.mean) / self.std - sin * noise

    def noise(self, schedule: Schedule, u: Tensor, v: Tensor, t: int | Tensor) -> Tensor:
        """The noise that a predicted velocity stands for."""
        cos, sin = self._rotation(schedule, u, t)
        return cos * u - sin * v

    def _rotation(self, schedule: Schedule, like: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = schedule.alpha_bar_at(t, like)
        signal, noise = alpha_bar.sqrt() * self.std, (1 - alpha_bar).sqrt()
        length = (signal**2 + noise**2).sqrt()
        return (noise / length).to(like.dtype), (signal / length).to(like.dtype)


class NetworkPrior:
    """A frozen U-Net as a prior; lower precision and memory layout live here and nowhere else.

    `label` is the class of every sample, or B of them; a network with classes takes the last class, which stands
    for "any", when it is None. `precision` is what convolutions and products are computed in.
    `velocity` tells how to read a network that was trained on velocities of the linear schedule; without it, as with
    the released checkpoints, the network predicts noise. Twice as many output channels as inputs mean that the
    second half predicts the variance.
    Raises: ValueError for a label that the network does not know, or other numbers of channels.
    """

    def __init__(
        self,
        network: UNet,
        label: int | Tensor | None = None,
        precision: torch.dtype = torch.float32,
        velocity: Velocity | None = None,
    ):
        config = network.config
        if config.out_channels not in (config.in_channels, 2 * config.in_channels):
            wanted = f"{config.in_channels} or {2 * config.in_channels}"
            raise ValueError(f"the network has {config.out_channels} outputs; wanted {wanted}")
        if config.num_classes is None and label is not None:
            raise ValueError(f"label {label} was given to a network without classes")
        if config.num_classes is not None:
            if isinstance(label, str):
                raise ValueError(f"label is {label!r}; wanted whole numbers from 0 to {config.num_classes - 1}")
            label = torch.as_tensor(config.num_classes - 1 if label is None else label)
            if label.is_floating_point() or label.dim() > 1 or ((label < 0) | (label >= config.num_classes)).any():
                raise ValueError(f"label is {label.tolist()}; wanted whole numbers from 0 to {config.num_classes - 1}")
        on_cpu = next(network.parameters()).device.type == "cpu"  # a GPU's group norm would copy to and fro
        layout = torch.channels_last if config.dims == 2 and on_cpu else torch.contiguous_format
        self.network = network.eval().requires_grad_(False).to(memory_format=layout)
        self.label, self.precision, self.layout, self.velocity = label, precision, layout, velocity
        self.schedule = Schedule.linear()

    @property
    def shape(self) -> tuple[int, ...]:
        """C *S of the samples that the network was trained on."""
        config = self.network.config
        return (config.in_channels, *[config.image_size] * config.dims)

    def with_label(self, label: int | Tensor | None) -> "NetworkPrior":
        """The same network, conditioned on another class."""
        return NetworkPrior(self.network, label, self.precision, self.velocity)

    def __call__(self, x: Tensor, t: int) -> Prediction:
        self.schedule.alpha_bar_at(t, x)  # refuses a time step that there is not
        if self.label is not None and self.label.numel() not in (1, len(x)):
            raise ValueError(f"{self.label.numel()} labels for {len(x)} samples; wanted one, or one each")
        times = torch.full((len(x),), t, device=x.device)
        label = None if self.label is None else self.label.to(x.device).expand(len(x))
        seen = x if self.velocity is None else self.velocity.input(self.schedule, x, t)
        with torch.autocast(x.device.type, self.precision, enabled=self.precision != torch.float32):
            out = self.network(seen.contiguous(memory_format=self.layout), times, label).to(x.dtype)
        out, *variance = out.split(x.shape[1], dim=1)
        noise = out if self.velocity is None else self.velocity.noise(self.schedule, seen, out, t)
        return Prediction(noise, *variance)
