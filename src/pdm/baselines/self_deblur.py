"""SelfDeblur: blind deblurring by two untrained networks, one for the image and one for the kernel.

D. Ren, K. Zhang, Q. Wang, Q. Hu, W. Zuo, "Neural Blind Deconvolution Using Deep Priors", CVPR 2020. Nothing is learned
beforehand: the networks' weights are fitted to one measurement, and their shape is the prior (the image's after Ulyanov
et al., "Deep Image Prior", CVPR 2018).
"""

import math
from collections.abc import Callable, Sequence

import piq
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pdm import checks
from pdm.models.seeded import plain_torch, seeded
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


def kernel_network(inputs: int, size: tuple[int, int], width: int = 1000) -> nn.Module:
    """Fully connected: B inputs to B 1 h w, nonnegative and of sum 1 by a softmax over the canvas."""
    layers = (nn.Linear(inputs, width), nn.ReLU6(), nn.Linear(width, math.prod(size)), nn.Softmax(1))
    return nn.Sequential(*layers, nn.Unflatten(1, (1, *size)))


def deblur(
    measurement: Tensor,
    kernel_size: int | tuple[int, int],
    seeds: Sequence[int],
    steps: int = 2500,
    rate: float = 0.01,
    watch: Callable[[int, Tensor, Tensor], None] | None = None,
    precision: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Image and kernel from a blurred image: B C H W in [-1, 1] to B C H W and B 1 h w, sum 1.

    `kernel_size` is (h, w), both odd, or a number for a square. For each image by itself, Adam at `rate` (a hundredth
    of it for the kernel), halved at 0.4, 0.6 and 0.8 of the steps, minimises the squared error of the re-blurred image
    over the first fifth of them, and 1 - SSIM from then on (500 of 2,500 in the BlindDPS paper). The image's canvas is
    larger than the measurement by the kernel, so that nothing is assumed of what lies beyond the frame. Colour images
    are fitted as they are, where the authors fit the brightness alone.
    `watch(step, image, kernel)` sees every estimate; `precision` is that of the image's network but for its last layer.
    It computes on the CPU; the result is on the measurement's device, of its dtype.
    Raises: ValueError for a wrong shape, less than 11 pixels a side, 17 with the kernel's, another number of seeds, or
    even sides of the kernel.
    """
    checks.images("measurement", measurement, least=11, reach=2.0)
    size, seeds = checks.sides("kernel_size", kernel_size, measurement.shape[2:]), checks.seeds(seeds, len(measurement))
    steps, rate = checks.count("steps", steps), checks.number("rate", rate, above=0)
    if min(n + k - 1 for n, k in zip(measurement.shape[2:], size, strict=True)) < 17:
        raise ValueError(f"kernel_size is {size} on {tuple(measurement.shape[2:])} pixels; wanted 17 or more together")
    if precision not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"precision is {precision!r}; wanted torch.float32, torch.bfloat16 or torch.float16")
    y = measurement.detach().cpu().float()
    with plain_torch():
        parts = [_one(y[i : i + 1], size, seed, steps, rate, watch, precision) for i, seed in enumerate(seeds)]
    return tuple(torch.cat(part).to(measurement) for part in zip(*parts, strict=True))


def _one(
    y: Tensor, size: tuple[int, int], seed: int, steps: int, rate: float, watch: Callable | None, precision: torch.dtype
) -> tuple[Tensor, Tensor]:
    draw, target = Generator().manual_seed(seed), ((y + 1) / 2).clamp(0, 1)
    canvas = [n + k - 1 for n, k in zip(y.shape[2:], size, strict=True)]
    with seeded(seed):
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
        if step < steps / 5:
            loss = F.mse_loss(again, target)
        else:
            loss = 1 - piq.ssim(again.clamp(0, 1), target, downsample=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        halve.step()
        if watch is not None:
            watch(step, image.detach(), kernel.detach())
    top, left = (k // 2 for k in size)
    image = image.detach()[..., top : top + y.shape[2], left : left + y.shape[3]]
    return 2 * image - 1, kernel.detach()
