"""SelfDeblur: blind deblurring by two untrained networks, one for the image and one for the kernel.

D. Ren, K. Zhang, Q. Wang, Q. Hu, W. Zuo, "Neural Blind Deconvolution Using Deep Priors", CVPR 2020. Nothing is learned
beforehand: the networks' weights are fitted to one measurement, and their shape is the prior (the image's after Ulyanov
et al., "Deep Image Prior", CVPR 2018).
"""

from collections.abc import Callable

import piq
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pdm.operators import blur


class Scale(nn.Module):
    """One scale of the image's network: down by two, whatever is `below`, up again, joined with a skip."""

    def __init__(self, channels: int, width: int, skip: int, below: nn.Module | None):
        super().__init__()
        self.skip = nn.Sequential(nn.Conv2d(channels, skip, 1), *_act(skip))
        self.down = nn.Sequential(*_conv(channels, width, stride=2), *_conv(width, width))
        self.below = below
        self.up = nn.Sequential(nn.BatchNorm2d(skip + width), *_conv(skip + width, width), *_conv(width, width, side=1))

    def forward(self, x: Tensor) -> Tensor:
        deep = self.down(x)
        deep = deep if self.below is None else self.below(deep)
        deep = F.interpolate(deep, x.shape[2:], mode="bilinear")
        if deep.requires_grad:  # the gradient comes as a slice of the joined one, a layout on which torch is slow
            deep.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
        return self.up(torch.cat([self.skip(x), deep], dim=1))


def _act(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.LeakyReLU(0.2)]


def _conv(channels: int, out: int, side: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, side, stride, side // 2, padding_mode="reflect"), *_act(out)]


def image_network(inputs: int, outputs: int, width: int = 64, scales: int = 4, skip: int = 16) -> nn.Module:
    """An encoder-decoder with skips: B inputs H W to B outputs H W in (0, 1).

    The authors' code has 128 channels on 5 scales; half of that and a scale fewer is what 64 pixels and a CPU bear.
    """
    below = None
    for level in reversed(range(scales)):
        below = Scale(inputs if level == 0 else width, width, skip, below)
    return nn.Sequential(below, nn.Conv2d(width, outputs, 1), nn.Sigmoid())


def kernel_network(inputs: int, size: int, width: int = 1000) -> nn.Module:
    """Fully connected: B inputs to B 1 size size, nonnegative and of sum 1 by a softmax over the canvas."""
    layers = (nn.Linear(inputs, width), nn.ReLU6(), nn.Linear(width, size**2), nn.Softmax(1))
    return nn.Sequential(*layers, nn.Unflatten(1, (1, size, size)))


def deblur(
    measurement: Tensor,
    kernel_size: int,
    seeds: list[int],
    steps: int = 2500,
    rate: float = 0.01,
    watch: Callable[[int, Tensor, Tensor], None] | None = None,
    precision: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Image and kernel from a blurred image: B C H W in [-1, 1] to B C H W and B 1 S S, S odd, sum 1.

    For each image by itself, Adam at `rate` (a hundredth of it for the kernel), halved at 0.4, 0.6 and 0.8 of the
    steps, minimises the squared error of the re-blurred image over the first fifth of them, and 1 - SSIM from then on
    (500 of 2,500 in the BlindDPS paper). The image's canvas is larger than the measurement by the kernel, so that
    nothing is assumed of what lies beyond the frame. Colour images are fitted as they are, where the authors fit the
    brightness alone.
    `watch(step, image, kernel)` sees every estimate; `precision` is that of the image's network but for its last layer.
    Raises: ValueError for a wrong shape, seed count or kernel size.
    """
    if measurement.ndim != 4 or not measurement.is_floating_point() or not measurement.isfinite().all():
        raise ValueError(f"the measurement is {tuple(measurement.shape)}; wanted finite B C H W in [-1, 1]")
    if kernel_size % 2 == 0 or not 3 <= kernel_size <= min(measurement.shape[2:]):
        raise ValueError(f"kernel_size is {kernel_size}; wanted an odd number, 3 to {min(measurement.shape[2:])}")
    if len(seeds) != len(measurement) or steps < 1:
        raise ValueError(f"{len(seeds)} seeds, {steps} steps for {len(measurement)} images; wanted one each, 1 or more")
    found = [
        _one(y[None], kernel_size, s, steps, rate, watch, precision) for y, s in zip(measurement, seeds, strict=True)
    ]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _one(
    y: Tensor, size: int, seed: int, steps: int, rate: float, watch: Callable | None, precision: torch.dtype
) -> tuple[Tensor, Tensor]:
    draw, target = Generator().manual_seed(seed), ((y + 1) / 2).clamp(0, 1)
    canvas = [n + size - 1 for n in y.shape[2:]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image_net, kernel_net = image_network(8, y.shape[1]), kernel_network(200, size)
    image_net.to(memory_format=torch.channels_last)
    image_code = (0.1 * torch.rand(1, 8, *canvas, generator=draw)).contiguous(memory_format=torch.channels_last)
    kernel_code = 0.1 * torch.rand(1, 200, generator=draw)
    groups = [{"params": image_net.parameters()}, {"params": kernel_net.parameters(), "lr": rate / 100}]
    optimizer = torch.optim.Adam(groups, lr=rate, fused=True)
    halve = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(steps * p) for p in (0.4, 0.6, 0.8)], 0.5)
    for step in range(steps):
        jitter = 1e-3 * torch.randn(image_code.shape, generator=draw)  # the paper perturbs the image's code
        with torch.autocast(y.device.type, precision, enabled=precision != torch.float32):
            features = image_net[0](image_code + jitter)
        image, kernel = image_net[1:](features.float()), kernel_net(kernel_code)
        again = blur(image, kernel, "valid")
        loss = (
            F.mse_loss(again, target) if step < steps / 5 else 1 - piq.ssim(again.clamp(0, 1), target, downsample=False)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        halve.step()
        if watch is not None:
            watch(step, image.detach(), kernel.detach())
    half = size // 2
    image = image.detach()[..., half : half + y.shape[2], half : half + y.shape[3]]
    return 2 * image - 1, kernel.detach()
