"""What a training minimises: denoising score matching, and what the networks of pairs learn by."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn
from torchvision.transforms.functional import normalize

from pdm import checks
from pdm.metrics.perceptual import IMAGENET_MEAN, IMAGENET_STD, vgg16_features
from pdm.models import NetworkPrior, UNet, Velocity
from pdm.schedule import Schedule

if TYPE_CHECKING:
    from pdm.train.loop import Recipe

BANDS = (0, 25, 75, 150, 250, 400, 550, 750, 1000)  # edges of the bands of time steps that losses are given for


class Denoising(nn.Module):
    """The objective of a prior: `denoising_loss` at random time steps, the recipe's in training, else uniform ones."""

    def __init__(self, recipe: "Recipe"):
        super().__init__()
        self.recipe, self.schedule = recipe, Schedule.linear()

    def forward(self, network: UNet, x0: Tensor, labels: Tensor | None, generator: Generator) -> Tensor:
        uniform = torch.rand(len(x0), generator=generator, dtype=torch.float64, device="cpu")
        t = (1000 * uniform ** (self.recipe.time_power if self.training else 1.0)).long()
        noise = _normal(x0, generator)
        return denoising_loss(network, self.schedule, self.recipe.velocity, x0, labels, t, noise)


class ConditionalDenoising(Denoising):
    """`Denoising` of the first channels, as many as the network predicts; the others are its condition."""

    def forward(self, network: UNet, x0: Tensor, labels: Tensor | None, generator: Generator) -> Tensor:
        x0, condition = x0.tensor_split([network.config.out_channels], dim=1)

        def conditional(u: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            return network(torch.cat([u, condition], dim=1), t, labels)

        return super().forward(conditional, x0, labels, generator)


def denoising_loss(
    network: Callable[..., Tensor],
    schedule: Schedule,
    velocity: Velocity,
    x0: Tensor,
    labels: Tensor | None,
    t: Tensor,
    noise: Tensor,
) -> Tensor:
    """Mean squared error of the predicted velocity: B. The noise's is sin^2 of it, so that it is denoising score
    matching (Ho et al. 2020, eq. 14) in a weight over time steps that lets none of them be forgotten.
    Raises: ValueError for x0 that is not floating point, or noise of another shape.
    """
    if not x0.is_floating_point() or noise.shape != x0.shape:
        came = f"x0 is {x0.dtype} of shape {tuple(x0.shape)}, the noise has {tuple(noise.shape)}"
        raise ValueError(f"{came}; wanted floating point, B C *S, and noise of that shape")
    u = velocity.input(schedule, schedule.diffuse(x0, noise, t), t)
    return (network(u, t, labels).float() - velocity.target(schedule, x0, noise, t)).square().flatten(1).mean(1)


@torch.no_grad()
def band_losses(
    prior: NetworkPrior, x0: Tensor, seed: int = 0, bands: Sequence[int] = BANDS, batch: int | None = None
) -> list[float]:
    """Mean squared error of the predicted noise in each band of time steps: one value less than `bands` has edges.

    `x0` is N C *S in the prior's range; the prior's label, if it has one, holds for all of it. Every sample is seen
    once a band, each batch (of 25, or an eighth of them) at a time step of its own, evenly spread over the band. Sets
    of equal size meet the same time steps and the same noise: their losses differ by what the network knows of them.
    Raises: ValueError for edges that do not increase, or no samples.
    """
    x0 = checks.tensor("x0", x0, "N C *S").detach().float()
    bands = [checks.count("an edge", edge, 0, 1000) for edge in bands]
    if len(bands) < 2 or any(high <= low for low, high in pairwise(bands)):
        raise ValueError(f"the bands have the edges {bands}; wanted two or more that increase")
    schedule, generator, losses = prior.schedule, Generator("cpu").manual_seed(checks.count("seed", seed, 0)), []
    batch = min(25, max(1, len(x0) // 8)) if batch is None else checks.count("batch", batch)
    for low, high in pairwise(bands):
        parts, errors = x0.split(batch), []
        for i, part in enumerate(parts):
            t = low + int((high - low) * (i + 0.5) / len(parts))
            noise = _normal(part, generator)
            predicted, _ = prior.predict(schedule.diffuse(part, noise, t), t)
            errors.append((predicted - noise).square().flatten(1).mean(1))
        losses.append(torch.cat(errors).mean().item())
    return losses


def _normal(like: Tensor, generator: Generator) -> Tensor:
    """Standard normal numbers, drawn in float32 on the CPU, in the shape and the dtype of `like` and on its device."""
    return torch.randn(like.shape, generator=generator, dtype=torch.float32, device="cpu").to(like)


Degrade = Callable[[Tensor, Generator], Tensor]


def charbonnier(x: Tensor, epsilon: float = 1e-3) -> Tensor:
    """sqrt(x^2 + epsilon^2), a smooth |x|, averaged over each sample: B *S, floating point, to B."""
    return (x.square() + epsilon**2).sqrt().flatten(1).mean(1)


class Regression(nn.Module):
    """Charbonnier's penalty on x0 - restored, for pairs that `degrade(x0, generator)` makes on the fly."""

    def __init__(self, recipe: "Recipe", degrade: Degrade):
        super().__init__()
        self.degrade = degrade

    def forward(self, network: nn.Module, x0: Tensor, labels: Tensor | None, generator: Generator) -> Tensor:
        return charbonnier(_restored(network, self.degrade, x0, generator) - x0)


class Adversarial(nn.Module):
    """0.5 |d|^2 + 0.006 |VGG(x0) - VGG(restored)|^2 + 0.01 adversarial: equation (3) of DeblurGAN-v2.

    The adversarial term is the relativistic least squares of equation (2): a restored image is to look more real to the
    critic than real ones do on average. The critic learns at each step of training, from the batch that the network
    is trained on; measuring leaves it as it is, and measures all but the adversarial term.
    """

    def __init__(self, recipe: "Recipe", degrade: Degrade):
        super().__init__()
        self.degrade = degrade
        self.critic = _critic(recipe.network.in_channels)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), recipe.rate / 2, (0.5, 0.99))
        self.seen = (vgg16_features()[:15],)  # to the third convolution of the third stage; in a tuple, for its
        # weights are ImageNet's and not part of our state

    def get_extra_state(self) -> dict:
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict) -> None:
        self.optimizer.load_state_dict(state)

    def forward(self, network: nn.Module, x0: Tensor, labels: Tensor | None, generator: Generator) -> Tensor:
        restored = _restored(network, self.degrade, x0, generator)
        loss = 0.5 * (restored - x0).square().flatten(1).mean(1)
        loss = loss + 0.006 * (self._features(restored) - self._features(x0)).square().flatten(1).mean(1)
        if not self.training:
            return loss
        real, fake = self.critic(x0).float(), self.critic(restored.detach()).float()
        critic_loss = ((real - fake.mean() - 1).square().mean() + (fake - real.mean() + 1).square().mean()) / 2
        self.optimizer.zero_grad()
        critic_loss.backward()
        self.optimizer.step()
        self.critic.requires_grad_(False)
        real, fake = self.critic(x0).float(), self.critic(restored).float()
        self.critic.requires_grad_(True)
        fooled = (fake - real.mean() - 1).square().flatten(1).mean(1) + (real - fake.mean() + 1).square().mean()
        return loss + 0.01 * fooled / 2

    def _features(self, x: Tensor) -> Tensor:
        return self.seen[0](normalize((x + 1) / 2, IMAGENET_MEAN, IMAGENET_STD)).float()


def _restored(network: nn.Module, degrade: Degrade, x0: Tensor, generator: Generator) -> Tensor:
    """What the network makes of x0 degraded; the degradation is data, of full precision whatever the network's is."""
    with torch.autocast("cpu", enabled=False):
        measurement = degrade(x0, generator)
    t = torch.zeros(len(measurement), dtype=torch.long, device=measurement.device)
    return measurement + network(measurement, t, None).float()


def _critic(channels: int, width: int = 48) -> nn.Sequential:
    """Three convolutions that halve, then one value for each patch of the image: B C H W to B 1 H/8 W/8."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for level in (1, 2):
        layers += [nn.Conv2d(width * level, 2 * width * level, 4, 2, 1), nn.InstanceNorm2d(2 * width * level)]
        layers += [nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, 1, 1))
