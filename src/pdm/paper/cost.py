"""What a guided step costs and where its time goes: F.2 of the paper at our size."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps

import torch
from torch import Generator, Tensor
from torch.utils.flop_counter import FlopCounterMode

from pdm.constraints import shift_and_divide
from pdm.data import gaussian_kernels
from pdm.guidance import DPS, step_sizes
from pdm.models import NetworkPrior, best_precision, load_prior
from pdm.models.group_norm import GroupNorm
from pdm.operators import blur, turbulence
from pdm.sampler import Component, sample

COMPONENTS = ("image", "kernel", "tilt")


@dataclass(frozen=True)
class Setting:
    """One way to take a guided step: the first 1 to 3 of image, kernel and tilt on images of `size` pixels a side.

    With the image alone the kernel is known. The networks are the committed ones, on larger images too, for they are
    convolutions. `precision` is a torch dtype by name, by default `best_precision()`. `fast_norm` False takes torch's
    group norm. `plain` is the obvious way: float32, torch's default layout, weights that require gradients, direct
    convolution. Raises: ValueError for another number of components.
    """

    components: int = 2
    batch: int = 8
    size: int = 64
    precision: str = ""
    fast_norm: bool = True
    plain: bool = False

    def __post_init__(self):
        if not 1 <= self.components <= len(COMPONENTS):
            raise ValueError(f"{self.components} components; wanted 1 to {len(COMPONENTS)}")
        precision = "float32" if self.plain else self.precision or str(best_precision()).removeprefix("torch.")
        object.__setattr__(self, "precision", precision)


def _priors(setting: Setting) -> dict[str, NetworkPrior]:
    names = COMPONENTS[: setting.components]
    priors = {name: load_prior(name, precision=getattr(torch, setting.precision)) for name in names}
    for prior in priors.values():
        if setting.plain:
            prior.layout = torch.contiguous_format
            prior.network.to(memory_format=torch.contiguous_format).requires_grad_(True)
        for layer in prior.network.modules():
            if isinstance(layer, GroupNorm):
                layer.fast = setting.fast_norm
    return priors


def _states(
    setting: Setting, seed: int, around: Callable[[str, Callable], Callable] = lambda name, f: f, steps: int = 1000
):
    """Guided steps on a batch of noise, for what one costs does not depend on what the images show.

    `around(name, function)` may wrap a prior ("network"), the operator ("operator") or the guidance ("guidance").
    """
    shape = {"image": (3, setting.size, setting.size), "kernel": (1, 32, 32), "tilt": (2, setting.size, setting.size)}
    constrain = {"kernel": shift_and_divide}
    components = {
        name: Component(around("network", prior), shape[name], constrain.get(name, lambda x0: x0))
        for name, prior in _priors(setting).items()
    }
    direct = partial(blur, method="direct" if setting.plain else "fft")
    known = partial(direct, kernel=gaussian_kernels(1, 32, 1.5))
    operator = {1: known, 2: direct, 3: turbulence}[setting.components]
    sizes = {name: step_sizes(1000).get(name, 0.6) for name in components}
    y = torch.randn(setting.batch, *shape["image"], generator=Generator().manual_seed(seed))
    guidance = DPS(y, around("operator", operator), sizes)
    called = _Called(guidance.names, around("guidance", guidance.__call__))
    return sample(components, called, range(seed, seed + setting.batch), steps)


@dataclass(frozen=True)
class _Called:
    """A guidance by its names and what is called."""

    names: frozenset[str]
    call: Callable

    def __call__(self, state, proposal) -> tuple[dict[str, Tensor], Tensor]:
        return self.call(state, proposal)


def step_seconds(setting: Setting, repeats: int = 5, seed: int = 0) -> float:
    """Median wall time of a guided step, divided by the batch, after one to warm up."""
    states, times = _states(setting, seed), []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        next(states)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:]) / setting.batch


def run_seconds(setting: Setting, steps: int, seed: int = 0) -> float:
    """Wall time of a whole run of `steps` guided steps, the loading of its networks with it, divided by the batch."""
    begin = time.perf_counter()
    for _ in _states(setting, seed, steps=steps):
        pass
    return (time.perf_counter() - begin) / setting.batch


def shares(setting: Setting, repeats: int = 5, seed: int = 0) -> dict[str, float]:
    """The parts of a step's time, of sum 1: "networks" and "operator" forward, "backward" through both, and "rest"."""
    spent = {"network": 0.0, "operator": 0.0, "guidance": 0.0}

    def timed(name: str, function: Callable) -> Callable:
        @wraps(function)  # the operator's signature names the components
        def call(*args, **kwargs):
            begin = time.perf_counter()
            result = function(*args, **kwargs)
            spent[name] += time.perf_counter() - begin
            return result

        return call

    states = _states(setting, seed, timed)
    next(states)
    spent.update(dict.fromkeys(spent, 0.0))
    begin = time.perf_counter()
    for _ in range(repeats):
        next(states)
    total = time.perf_counter() - begin
    parts = {"networks": spent["network"], "operator": spent["operator"]}
    parts["backward"] = spent["guidance"] - spent["operator"]
    parts["rest"] = total - sum(parts.values())
    return {name: seconds / total for name, seconds in parts.items()}


def step_flops(setting: Setting) -> float:
    """Floating-point operations of a step, divided by the batch: convolutions and products, forward and backward."""
    states = _states(setting, 0)
    with FlopCounterMode(display=False) as counter:
        next(states)
    return counter.get_total_flops() / setting.batch


def ceiling(side: int = 4096, repeats: int = 3) -> float:
    """Operations a second of the best of `repeats` products of two bfloat16 matrices: what the machine can reach."""
    a, b = (torch.randn(side, side).bfloat16() for _ in range(2))
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - begin)
    return 2 * side**3 / min(times[1:])


def blur_seconds(kernel: int, method: str, size: int = 64, batch: int = 8, repeats: int = 5) -> float:
    """Median time of a blur and its gradients in both arguments, divided by the batch."""
    generator = Generator().manual_seed(0)
    image = torch.randn(batch, 3, size, size, generator=generator).requires_grad_()
    kernels = torch.rand(batch, 1, kernel, kernel, generator=generator).requires_grad_()
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        torch.autograd.grad(blur(image, kernels, method=method).square().sum(), (image, kernels))
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:]) / batch
