"""What a guided step costs and where its time goes: F.2 of the paper at our size."""

import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from timeit import repeat, timeit

import torch
from torch import Generator
from torch.utils.flop_counter import FlopCounterMode

from pdm import checks
from pdm.constraints import shift_and_divide
from pdm.data import gaussian_kernels
from pdm.guidance import DPS
from pdm.models import NetworkPrior, best_precision, load_prior
from pdm.models.group_norm import GroupNorm
from pdm.operators import blur, turbulence
from pdm.sampler import Component, State, final, sample
from pdm.study.deblurring import step_sizes
from pdm.study.runner import COMPONENTS

WAITING = {  # ways for OpenMP's threads to wait, by the environment of the process, and nothing else of OpenMP's in it
    "as shipped": {},
    "GOMP_SPINCOUNT unset": {"GOMP_SPINCOUNT": "300000"},  # libgomp's own number, which keeps pdm from setting another
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},
}
NEIGHBOUR = """
import os, time
parent, end = os.getppid(), time.monotonic() + 1800
while os.getppid() == parent and time.monotonic() < end:
    for _ in range(10**6):
        pass
"""


@dataclass(frozen=True)
class Setting:
    """One way to take a guided step: the first 1 to 3 of image, kernel and tilt on images of `size` pixels a side.

    With the image alone the kernel is known. The networks are the committed ones, on larger images too, for they are
    convolutions. `precision` is a torch dtype by name, by default `best_precision()`. `fast_norm` False takes torch's
    group norm. `plain` is the obvious way: float32, torch's default layout, weights that require gradients, direct
    convolution. Raises: ValueError for another number of components, or a count that is none.
    """

    components: int = 2
    batch: int = 8
    size: int = 64
    precision: str = ""
    fast_norm: bool = True
    plain: bool = False

    def __post_init__(self):
        for name, most in (("components", len(COMPONENTS)), ("batch", math.inf), ("size", math.inf)):
            object.__setattr__(self, name, checks.count(name, getattr(self, name), 1, most))
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
) -> Iterator[State]:
    """Guided steps on a batch of noise, because what one costs does not depend on what the images show.

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
    seed = checks.count("seed", seed, 0)
    y = torch.randn(setting.batch, *shape["image"], generator=Generator("cpu").manual_seed(seed))
    guidance = around("guidance", DPS(y, around("operator", operator), sizes))
    return sample(components, guidance, range(seed, seed + setting.batch), steps)


def step_seconds(setting: Setting, repeats: int = 5, seed: int = 0, limit: float = math.inf) -> float:
    """Median wall time of a guided step, divided by the batch, after one to warm up.

    After `limit` seconds no step is begun, except the first that counts. Raises: ValueError for less than one repeat.
    """
    repeats, states, times = checks.count("repeats", repeats), _states(setting, seed), []
    while len(times) <= repeats and (len(times) < 2 or sum(times) <= limit):
        times.append(timeit(lambda: next(states), number=1))
    return statistics.median(times[1:]) / setting.batch


def busy(
    waiting: Sequence[str] = tuple(WAITING),
    neighbours: Sequence[int] = (0, 1, 2),
    setting: Setting | None = None,
    repeats: int = 15,
    limit: float = 25.0,
) -> list[dict]:
    """What a guided step of a batch takes beside so many other processes, each of which keeps a core busy.

    A row for each number of neighbours and each of WAITING: "neighbours", "setting", "seconds_per_step". Each is
    measured in a process of its own, as libgomp reads the environment once; `repeats` and `limit` as `step_seconds`.
    Raises: ValueError for another way of waiting, or a wrong count.
    """
    setting, rows = setting or Setting(), []
    waiting = [checks.choice("waiting", way, list(WAITING)) for way in waiting]
    repeats, limit = checks.count("repeats", repeats), checks.number("limit", limit, above=0)
    call = f"step_seconds(cost.{setting!r}, {repeats}, limit={limit})"
    for count in [checks.count("neighbours", count, 0) for count in neighbours]:
        with _neighbours(count):
            took = {way: setting.batch * _apart(call, WAITING[way]) for way in waiting}
        rows += [{"neighbours": count, "setting": way, "seconds_per_step": seconds} for way, seconds in took.items()]
    return rows


def peak_memory(setting: Setting, steps: int) -> dict:
    """The most memory that a process of its own holds in a run of so many guided steps, of which `final` keeps one.

    A row: "size", "batch", "steps", "peak_mb", Python and torch with it. Raises: ValueError for a wrong count;
    subprocess.CalledProcessError where the system does not tell (Windows).
    """
    steps = checks.count("steps", steps, 1, 1000)
    row = {"size": setting.size, "batch": setting.batch, "steps": steps}
    return row | {"peak_mb": _apart(f"_peak_mb(cost.{setting!r}, {steps})", {})}


def _peak_mb(setting: Setting, steps: int) -> float:
    final(_states(setting, 0, steps=steps))
    return held_mb()


def held_mb() -> float:
    """The most memory that this process has held. Raises: ImportError where the system does not tell (Windows)."""
    if sys.platform == "linux":  # whose ru_maxrss begins with the parent's
        kib = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[1]
        return int(kib) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


def _apart(call: str, waiting: Mapping[str, str]) -> float:
    """The number that a call of this module gives in a new process, with `waiting` in place of OpenMP's variables."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))} | waiting
    command = [sys.executable, "-c", f"from pdm.paper import cost; print(cost.{call})"]
    return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout)


@contextmanager
def _neighbours(count: int) -> Iterator[list[subprocess.Popen]]:
    """So many processes that compute without end, until the `with` statement does."""
    started = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def run_seconds(setting: Setting, steps: int, seed: int = 0) -> float:
    """Wall time of a whole run of `steps` guided steps, the loading of its networks with it, divided by the batch."""
    begin = time.perf_counter()
    final(_states(setting, seed, steps=checks.count("steps", steps, 1, 1000)))
    return (time.perf_counter() - begin) / setting.batch


def shares(setting: Setting, repeats: int = 5, seed: int = 0) -> dict[str, float]:
    """The parts of a step's time, of sum 1: "networks" and "operator" forward, "backward" through both, and "rest"."""
    spent: Counter[str] = Counter()
    states = _states(setting, seed, lambda name, inner: _Timed(name, inner, spent))
    next(states)
    spent.clear()
    total = timeit(lambda: next(states), number=checks.count("repeats", repeats))
    parts = {"networks": spent["network"], "operator": spent["operator"]}
    parts["backward"] = spent["guidance"] - spent["operator"]
    parts["rest"] = total - sum(parts.values())
    return {name: seconds / total for name, seconds in parts.items()}


class _Timed:
    """A prior, an operator or a guidance as it is, except that the seconds of its calls are added to `spent`."""

    def __init__(self, name: str, inner: Callable, spent: Counter[str]):
        self.name, self.spent, self.__wrapped__ = name, spent, inner  # `inspect` takes the signature from there

    def __getattr__(self, name: str):
        return getattr(self.__wrapped__, name)

    def __call__(self, *args, **kwargs):
        begin = time.perf_counter()
        result = self.__wrapped__(*args, **kwargs)
        self.spent[self.name] += time.perf_counter() - begin
        return result


def step_flops(setting: Setting) -> float:
    """Floating-point operations of a step, divided by the batch: convolutions and products, forward and backward."""
    states = _states(setting, 0)
    with FlopCounterMode(display=False) as counter:
        next(states)
    return counter.get_total_flops() / setting.batch


def ceiling(side: int = 4096, repeats: int = 3) -> float:
    """Operations a second of the best of `repeats` products of two bfloat16 matrices: what the machine can reach."""
    side, generator = checks.count("side", side), Generator("cpu").manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator, device="cpu").bfloat16() for _ in range(2))
    _, *times = repeat(lambda: a @ b, number=1, repeat=checks.count("repeats", repeats) + 1)  # the first to warm up
    return 2 * side**3 / min(times)


def blur_seconds(kernel: int, method: str, size: int = 64, batch: int = 8, repeats: int = 5) -> float:
    """Median time of a blur and its gradients in both arguments, divided by the batch."""
    generator = Generator("cpu").manual_seed(0)
    image = torch.randn(batch, 3, size, size, generator=generator).requires_grad_()
    kernels = torch.rand(batch, 1, kernel, kernel, generator=generator).requires_grad_()

    def step():
        torch.autograd.grad(blur(image, kernels, method=method).square().sum(), (image, kernels))

    _, *times = repeat(step, number=1, repeat=checks.count("repeats", repeats) + 1)  # the first to warm up
    return statistics.median(times) / batch
