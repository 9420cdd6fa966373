"""Restoration learned from pairs: one network from a degraded image to the image, whatever the degradation was.

Two objectives for the same network. `Regression` is the plain one, and stands for networks such as MPRNet (S. W. Zamir
et al., "Multi-Stage Progressive Image Restoration", CVPR 2021), whose Charbonnier penalty it has. `Adversarial` adds a
perceptual and an adversarial term, and stands for DeblurGAN-v2 (O. Kupyn et al., "DeblurGAN-v2: Deblurring
(Orders-of-Magnitude) Faster and Better", ICCV 2019), whose loss and weights it has, with VGG16 in place of VGG19 and
one critic of patches in place of two. Neither is either paper's network: ours is the U-Net of the priors.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from pdm.metrics import vgg16_features
from pdm.priors import NetworkPrior
from pdm.training import Recipe

__all__ = ["Adversarial", "Regression", "charbonnier", "restore"]

Degrade = Callable[[Tensor, Generator], Tensor]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
def restore(restorer: NetworkPrior, measurement: Tensor) -> Tensor:
    """What the network makes of measurements, B C H W in [-1, 1]: it predicts what is to be added to them.

    `restorer` is what `priors.load_prior` makes of its weights, which are no prior's: for the precision it computes in.
    """
    return measurement + restorer(measurement, 0).noise


def charbonnier(x: Tensor, epsilon: float = 1e-3) -> Tensor:
    """sqrt(x^2 + epsilon^2), a smooth |x|, averaged over each sample: B *S to B."""
    return (x.square() + epsilon**2).sqrt().flatten(1).mean(1)


class Regression(nn.Module):
    """Charbonnier's penalty on x0 - restored, for pairs that `degrade(x0, generator)` makes on the fly."""

    def __init__(self, recipe: Recipe, degrade: Degrade):
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

    def __init__(self, recipe: Recipe, degrade: Degrade, perceptual: float = 0.006, adversarial: float = 0.01):
        super().__init__()
        self.degrade, self.perceptual, self.adversarial = degrade, perceptual, adversarial
        self.critic = _critic(recipe.network.in_channels)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), recipe.rate / 2, (0.5, 0.99))
        self.seen = (vgg16_features()[:15],)  # to the third convolution of the third stage; in a tuple, for its
        # weights are ImageNet's and not part of our state
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def get_extra_state(self) -> dict:
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict) -> None:
        self.optimizer.load_state_dict(state)

    def forward(self, network: nn.Module, x0: Tensor, labels: Tensor | None, generator: Generator) -> Tensor:
        restored = _restored(network, self.degrade, x0, generator)
        loss = 0.5 * (restored - x0).square().flatten(1).mean(1)
        loss = loss + self.perceptual * (self._features(restored) - self._features(x0)).square().flatten(1).mean(1)
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
        return loss + self.adversarial * fooled / 2

    def _features(self, x: Tensor) -> Tensor:
        return self.seen[0](((x + 1) / 2 - self.mean) / self.std).float()


def _restored(network: nn.Module, degrade: Degrade, x0: Tensor, generator: Generator) -> Tensor:
    """What the network makes of x0 degraded; the degradation is data, of full precision whatever the network's is."""
    with torch.autocast("cpu", enabled=False):
        measurement = degrade(x0, generator)
    t = torch.zeros(len(measurement), dtype=torch.long)
    return measurement + network(measurement, t, None).float()


def _critic(channels: int, width: int = 48) -> nn.Sequential:
    """Three convolutions that halve, then one value for each patch of the image: B C H W to B 1 H/8 W/8."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for level in (1, 2):
        layers += [nn.Conv2d(width * level, 2 * width * level, 4, 2, 1), nn.InstanceNorm2d(2 * width * level)]
        layers += [nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, 1, 1))
