"""Priors: whatever estimates x0 from x_t. Here networks; `models.analytic` has those that are known exactly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pdm import checks
from pdm.models.errors import Errors
from pdm.models.unet import UNet
from pdm.schedule import Schedule, rounded

AT_ONCE = 32 * 64 * 64  # pixels that go through a network at a time on a CPU, where larger batches are slower a sample


class Prediction(NamedTuple):
    """What a prior makes of x_t: E[x0 | x_t], and, if it learned one, where between its bounds the variance lies.

    `Schedule.noise_from` and `Schedule.score_from` derive the noise and the score from x0.
    """

    x0: Tensor
    variance: Tensor | None = None


Prior = Callable[[Tensor, int], Prediction]
"""prior(x, t): x is B *S at time step t (one for the whole batch), and so is x0.

Its attribute `schedule` is the process that it is made for; the sampler asks for it. A function without one is taken
at its word.
"""


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

    def __post_init__(self) -> None:
        checks.number("mean", self.mean), checks.number("std", self.std, above=0)

    def input(self, schedule: Schedule, x: Tensor, t: int | Tensor) -> Tensor:
        """u, what the network sees of x_t: of mean 0 and variance 1 at every time step."""
        alpha_bar = schedule.alpha_bar_at(t, x)
        spread = (alpha_bar * self.std**2 + 1 - alpha_bar).sqrt()
        return (x - rounded(alpha_bar.sqrt() * self.mean, x)) / rounded(spread, x)

    def target(self, schedule: Schedule, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """v, what the network learns to predict: of variance 1 at every time step."""
        cos, sin = self._rotation(schedule, x0, noise, t)
        return cos * (x0 - self.mean) / self.std - sin * noise

    def noise(self, schedule: Schedule, u: Tensor, v: Tensor, t: int | Tensor) -> Tensor:
        """The noise that a predicted velocity stands for."""
        cos, sin = self._rotation(schedule, u, v, t)
        return cos * u - sin * v

    def _rotation(self, schedule: Schedule, like: Tensor, other: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = schedule._alike(like, other, t)
        signal, noise = alpha_bar.sqrt() * self.std, (1 - alpha_bar).sqrt()
        length = (signal**2 + noise**2).sqrt()
        return rounded(noise / length, like), rounded(signal / length, like)


class NetworkPrior:
    """A frozen U-Net as a prior; lower precision and memory layout live here and nowhere else.

    `label` is the class of every sample, or B of them; a network with classes takes the last class, which stands
    for "any", when it is None. `precision` is what convolutions and products are computed in.
    `velocity` tells how to read a network that was trained on velocities; without it, as with the released checkpoints,
    the network predicts noise. Twice as many output channels as inputs mean that the second half predicts the variance.
    `schedule` is the process that the network was trained on, by default the linear one of 1,000 steps.
    `condition`, B c *S or one for all samples, is what the network sees beside x_t in channels of its own. `errors` are
    those of its estimates, where they were measured.
    Raises: ValueError for a label that the network does not know, a condition of another shape or that is not finite,
    or other numbers of channels.
    """

    def __init__(
        self,
        network: UNet,
        label: int | Tensor | None = None,
        precision: torch.dtype = torch.float32,
        velocity: Velocity | None = None,
        schedule: Schedule | None = None,
        condition: Tensor | None = None,
        errors: Errors | None = None,
    ) -> None:
        config = network.config
        if condition is not None:
            checks.tensor("condition", condition, "B C H W" if config.dims == 2 else "B C L")
        channels = config.in_channels - (0 if condition is None else condition.shape[1])
        if channels < 1 or config.out_channels not in (channels, 2 * channels):
            wanted = f"{channels} or {2 * channels}"
            raise ValueError(f"the network has {config.out_channels} outputs; wanted {wanted}")
        if config.num_classes is None and label is not None:
            raise ValueError(f"label {label} was given to a network without classes")
        self.label: Tensor | None = None
        if config.num_classes is not None:
            last = config.num_classes - 1
            wrong = f"label is {label!r}; wanted whole numbers from 0 to {last}"
            if isinstance(label, str):
                raise ValueError(wrong)
            classes = torch.as_tensor(last if label is None else label, device="cpu")
            if classes.is_floating_point() or classes.dim() > 1 or not ((classes >= 0) & (classes <= last)).all():
                raise ValueError(wrong)
            self.label = classes
        on_cpu = next(network.parameters()).device.type == "cpu"  # a GPU's group norm would copy to and fro
        layout = torch.channels_last if config.dims == 2 and on_cpu else torch.contiguous_format
        with torch.inference_mode(False):
            if any(p.is_inference() for p in network.parameters()):
                weights = {name: checks.for_autograd(v) for name, v in network.state_dict().items()}
                network.load_state_dict(weights, assign=True)
            self.network = network.eval().requires_grad_(False).to(memory_format=layout)
        self.precision, self.layout, self.velocity = precision, layout, velocity
        self.schedule, self.condition, self.channels = schedule or Schedule.linear(), condition, channels
        self.errors = errors

    @property
    def shape(self) -> tuple[int, ...]:
        """C *S of the samples that the network was trained on."""
        config = self.network.config
        return (self.channels, *[config.image_size] * config.dims)

    def with_label(self, label: int | Tensor | None) -> "NetworkPrior":
        """The same network, conditioned on another class."""
        return self._with(label, self.condition)

    def repeated(self, times: int) -> "NetworkPrior":
        """The same prior for `times` copies of each sample, side by side: its labels and conditions repeated."""
        label, condition = (
            value if value is None or value.dim() == 0 or len(value) == 1 else value.repeat_interleave(times, 0)
            for value in (self.label, self.condition)
        )
        return self._with(label, condition)

    def _with(self, label: int | Tensor | None, condition: Tensor | None) -> "NetworkPrior":
        return NetworkPrior(self.network, label, self.precision, self.velocity, self.schedule, condition, self.errors)

    def error(self, t: int, size: Sequence[int]) -> Tensor:
        """The power spectrum of x0 - x0_hat(x_t) at an image's size: C H W//2+1, or B of them with a label each.

        Images' is in the basis of `exact_steps.to_opponent`. Raises: ValueError for a prior without measured errors.
        """
        if self.errors is None:
            raise ValueError("the prior has no error spectra; wanted one that `python -m pdm.train spectra` measured")
        if self.label is None or self.label.numel() == 1:
            return self.errors.at(t, size, -1 if self.label is None else int(self.label))
        return torch.stack([self.errors.at(t, size, label) for label in self.label.tolist()])

    def predict(self, x: Tensor, t: int) -> tuple[Tensor, Tensor | None]:
        """The noise in x_t, B C *S, as the network tells it, and its variance, if it predicts one."""
        checks.tensor("x", x, "B C H W" if self.network.config.dims == 2 else "B C L", finite=False)
        self.schedule.alpha_bar_at(t, x)  # refuses a time step that does not exist
        if self.label is not None and self.label.numel() not in (1, len(x)):
            raise ValueError(f"{self.label.numel()} labels for {len(x)} samples; wanted one, or one each")
        if self.condition is not None and len(self.condition) not in (1, len(x)):
            raise ValueError(f"{len(self.condition)} conditions for {len(x)} samples; wanted one, or one each")
        times = torch.full((len(x),), t, device=x.device)
        label = None if self.label is None else self.label.to(x.device).expand(len(x))
        seen = x if self.velocity is None else self.velocity.input(self.schedule, x, t)
        whole = seen
        if self.condition is not None:
            whole = torch.cat([seen, self.condition.to(seen).expand(len(x), *self.condition.shape[1:])], dim=1)
        dtype = next(self.network.out.parameters()).dtype  # float32, or what the user made of it
        with torch.autocast(x.device.type, self.precision, enabled=self.precision != torch.float32):
            inputs = [whole.to(dtype).contiguous(memory_format=self.layout), times, *([] if label is None else [label])]
            few = max(1, AT_ONCE // x[0, 0].numel()) if x.device.type == "cpu" else len(x)
            parts = zip(*(value.split(few) for value in inputs), strict=True)
            out = torch.cat([self.network(*part) for part in parts]).to(x.dtype)
        out, *variance = out.split(x.shape[1], dim=1)
        noise = out if self.velocity is None else self.velocity.noise(self.schedule, seen, out, t)
        return noise, variance[0] if variance else None

    def __call__(self, x: Tensor, t: int) -> Prediction:
        noise, variance = self.predict(x, t)
        return Prediction(self.schedule.tweedie(x, noise, t), variance)
