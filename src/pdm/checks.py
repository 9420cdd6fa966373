"""Checks at the door: each gives its argument back in plain form, or raises ValueError that names it."""

import math
import operator
import os
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path

import torch
from torch import Tensor


def tensor(name: str, value: Tensor, shape: str = "B C H W", least: int = 1, finite: bool = True) -> Tensor:
    """A finite floating-point tensor as it came, without its gradient's history being touched.

    `shape` has a word a dimension: a number for a size, else a name for any size above 0; "*S" stands for any number
    of dimensions. The last two sides are at least `least`; `finite` False lets NaN and infinite values pass.
    """
    wanted = f"wanted {shape}, floating point" + " and finite" * finite + f", sides of {least} or more" * (least > 1)
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}; wanted a torch tensor {shape}")
    sizes, came = shape.removesuffix("*S").split(), tuple(value.shape)
    fixed = all(not size.isdigit() or int(size) == n for size, n in zip(sizes, came, strict=False))
    enough = len(came) >= len(sizes) if shape.endswith("*S") else len(came) == len(sizes)
    if not value.is_floating_point() or value.is_meta or not fixed or not enough or 0 in came:
        raise ValueError(f"{name} is {value.dtype} of shape {came}, on {value.device}; {wanted}")
    if least > 1 and min(came[-2:]) < least:
        raise ValueError(f"{name} has the shape {came}; {wanted}")
    if finite and not value.isfinite().all():
        bad = (~value.isfinite()).sum()
        raise ValueError(f"{name} holds {bad} values that are NaN or infinite; wanted finite ones")
    return value


def images(name: str, value: Tensor, shape: str = "B C H W", least: int = 1, reach: float = 1.01) -> Tensor:
    """Images whose range is [-1, 1], which they may leave by as much as `reach` says."""
    low, high = (v.item() for v in tensor(name, value, shape, least).detach().aminmax())
    if max(-low, high) > reach:
        raise ValueError(f"{name} lies in [{low:.4g}, {high:.4g}]; wanted values in [-1, 1]")
    return value


def kernels(name: str, value: Tensor) -> Tensor:
    """Blur kernels, B 1 h w: nonnegative and of sum 1, both to rounding."""
    least, sums = tensor(name, value, "B 1 h w").min().item(), value.detach().double().sum((1, 2, 3))
    if least < -1e-6 or (sums - 1).abs().max() > 1e-3:
        raise ValueError(f"{name} has minimum {least:.4g} and sums {sums.tolist()[:4]}; wanted >= 0 and sum 1")
    return value


def count(name: str, value: int, least: int = 1, most: float = math.inf) -> int:
    """A whole number of Python, NumPy or a tensor of one element, from `least` to `most`; True is none."""
    try:
        whole = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None or not least <= whole <= most:
        bounds = f"{least} or more" if most == math.inf else f"{least} to {most}"
        raise ValueError(f"{name} is {value!r}; wanted a whole number, {bounds}")
    return whole


def number(name: str, value: float, above: float = -math.inf, least: float = -math.inf) -> float:
    """A finite real number, above one bound and at least another."""
    is_real = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_real or value <= above or value < least:
        bounds = f" above {above:g}" * (above > -math.inf) + f", {least:g} or more" * (least > -math.inf)
        raise ValueError(f"{name} is {value!r}; wanted a finite number{bounds}")
    return float(value)


def seeds(value: Iterable[int], samples: int | None = None) -> list[int]:
    """One whole number, 0 or more, for each sample."""
    try:
        whole = [count("a seed", seed, 0) for seed in value]
    except (TypeError, ValueError) as error:
        raise ValueError(f"seeds are {value!r}; wanted one whole number, 0 or more, per sample") from error
    if not whole or samples not in (None, len(whole)):
        many = "one" if samples is None else f"{samples} of them, one"
        raise ValueError(f"seeds are {whole}; wanted {many} whole number, 0 or more, per sample")
    return whole


def choice(name: str, value: str, choices: Sequence[str]) -> str:
    """One of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r}; wanted one of {', '.join(map(repr, choices))}")
    return value


def generator(name: str, value: torch.Generator) -> torch.Generator:
    """A random generator on the CPU, whose numbers are the same on every machine."""
    if not isinstance(value, torch.Generator) or value.device.type != "cpu":
        raise ValueError(f"{name} is {value!r}; wanted a torch.Generator on the CPU")
    return value


def sides(name: str, value: int | Sequence[int], most: Sequence[int]) -> tuple[int, int]:
    """The odd sides (height, width) of a kernel within an image's sides `most`; one number is a square's."""
    try:
        pair = tuple(count(name, side) for side in (value if isinstance(value, Sequence) else (value, value)))
    except ValueError:
        pair = ()
    wanted = f"odd (height, width) up to {tuple(most)}, a number for a square, and not one pixel alone"
    if len(pair) != 2 or pair == (1, 1) or any(n % 2 == 0 or n > m for n, m in zip(pair, most, strict=True)):
        raise ValueError(f"{name} is {value!r}; wanted {wanted}")
    return pair


def path(name: str, value: str | os.PathLike) -> Path:
    """A path, with the user's ~ resolved."""
    if not isinstance(value, (str, os.PathLike)) or not str(value) or "\0" in str(value):
        raise ValueError(f"{name} is {value!r}; wanted a path")
    return Path(value).expanduser()


def for_autograd(x: Tensor) -> Tensor:
    """x itself, or a copy that autograd can save, where x was made in inference mode and the mode is over."""
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x
