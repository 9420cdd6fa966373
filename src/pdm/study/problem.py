"""A problem and an answer: what a method is given, what it is held against, and what it makes of it."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Generator, Tensor

from pdm import checks
from pdm.data import SIGMA, gaussian_kernels, motion_kernels, noisy, test_set
from pdm.operators import blur, turbulence

BOUNDARIES = ("reflect", "zero", "circular")
Batch = TypeVar("Batch", "Measurement", "Truth")


@dataclass(frozen=True, eq=False)
class Measurement:
    """What a method is given: B blurred images `y`, B C H W in [-1, 1] give or take the noise, and B `seeds`.

    With `frames` K of one scene y is B KC H W. `sigma` is the noise's standard deviation, `boundary` what lies beyond
    the frame, as in `operators.blur`, `canvas` the height and width that the kernel is looked for on. `known` holds
    what a reference method is told of the operator: "kernel", B 1 h w, and "tilt", B 2K H W in pixels.
    Raises: ValueError for another shape, values far outside [-1, 1] or not finite, seeds that are not B whole numbers.
    """

    y: Tensor
    seeds: tuple[int, ...]
    sigma: float = SIGMA
    boundary: str = "reflect"
    canvas: tuple[int, int] = (32, 32)
    frames: int = 1
    known: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self):
        y = checks.images("the measurement", self.y, reach=2)
        if y.min() > -0.1 and y.max() < 1.1 and y.max() > 0.5:
            warnings.warn("the measurement lies in [0, 1]; wanted [-1, 1]: 2 y - 1, if black is 0 in it", stacklevel=3)
        object.__setattr__(self, "seeds", tuple(checks.seeds(self.seeds, len(y))))
        if y.shape[1] % self.frames:
            raise ValueError(f"{self.frames} frames for y {tuple(y.shape)}; wanted KC channels")
        checks.choice("boundary", self.boundary, BOUNDARIES)

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def shape(self) -> tuple[int, ...]:
        """C H W of one image."""
        return (self.y.shape[1] // self.frames, *self.y.shape[2:])

    def told(self, name: str) -> Tensor:
        """A part of the truth that a reference method is told. Raises: ValueError where `known` does not hold it."""
        if name not in self.known:
            raise ValueError(f"the measurement's `known` holds {sorted(self.known)}; wanted {name!r} among them")
        return self.known[name]

    @property
    def first_frame(self) -> Tensor:
        """B C H W."""
        return self.y[:, : self.shape[0]]


@dataclass(frozen=True, eq=False)
class Truth:
    """What a measurement was made of: `image` B C H W in [-1, 1], `kernel` B 1 h w of sum 1, `tilt` B 2K H W, if any.

    Raises: ValueError for unequal numbers, a kernel that is negative or of another sum, an image outside [-1, 1].
    """

    image: Tensor
    kernel: Tensor
    tilt: Tensor | None = None

    def __post_init__(self):
        checks.images("the true image", self.image, reach=1.001), checks.kernels("the true kernel", self.kernel)
        if len({len(v) for v in self.components.values()}) != 1:
            shapes = {name: tuple(v.shape) for name, v in self.components.items()}
            raise ValueError(f"the truth has the shapes {shapes}; wanted B C H W, B 1 h w and B 2K H W")

    @property
    def components(self) -> dict[str, Tensor]:
        """The parts that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def _map(batch: Batch, change) -> Batch:
    """The same with every tensor, and the seeds, changed."""
    values = {name: change(v) for name, v in vars(batch).items() if isinstance(v, (Tensor, tuple)) and name != "canvas"}
    if isinstance(batch, Measurement):
        values["known"] = {name: change(v) for name, v in batch.known.items()}
    return replace(batch, **values)


@dataclass(frozen=True, eq=False)
class Cases:
    """B measurements with their names and truths; `title` is what a file of their results is called."""

    names: tuple[str, ...]
    measurement: Measurement
    truth: Truth
    title: str = ""

    def __post_init__(self):
        counts = {"names": len(self.names), "measurement": len(self.measurement), "truth": len(self.truth.image)}
        if len(set(counts.values())) != 1:
            raise ValueError(f"the cases have {counts}; wanted as many of each")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, which: slice) -> "Cases":
        def cut(value):  # a copy, for a view would be kept and sent with all that it is a view of
            return value[which].clone() if isinstance(value, Tensor) else value[which]

        return replace(
            self, names=self.names[which], measurement=_map(self.measurement, cut), truth=_map(self.truth, cut)
        )

    def given(self, known: Sequence[str] = (), device: torch.device | str = "cpu") -> Measurement:
        """The measurement on `device`, for a method that is told `known`, "kernel" or "tilt", of the truth."""
        told = {name: self.truth.components[name] for name in known if name in self.truth.components}
        return _map(replace(self.measurement, known=told), lambda v: v.to(device) if isinstance(v, Tensor) else v)


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a method makes of a batch: `values` by component, "image" B C H W, "kernel" B 1 h w, "tilt" B 2K H W.

    `forward` and `backward` count what it took: evaluations of each network for a sample, and gradients through them.
    Where the kernel's network is evaluated another number of times, they are the image's, and `kernel_forward` and
    `kernel_backward` the kernel's.
    `boundary` is what the method took to lie beyond the frame, where that is not the measurement's.
    """

    values: Mapping[str, Tensor]
    forward: int = 0
    backward: int = 0
    boundary: str | None = None
    kernel_forward: int | None = None
    kernel_backward: int = 0

    @property
    def image(self) -> Tensor:
        """B C H W."""
        return self.values["image"]

    @property
    def kernel(self) -> Tensor | None:
        """B 1 h w, where the method looks for one."""
        return self.values.get("kernel")

    @property
    def tilt(self) -> Tensor | None:
        """B 2K H W in pixels, where the method looks for one."""
        return self.values.get("tilt")

    def map(self, change) -> "Estimate":
        """The same with every tensor changed."""
        return replace(self, values={name: change(value) for name, value in self.values.items()})


def explained(values: Mapping[str, Tensor], frames: int = 1, boundary: str = "reflect") -> Tensor | None:
    """The measurement that image, kernel and tilt stand for, B KC H W; None where there is no kernel."""
    image, kernel, tilt = (values.get(name) for name in ("image", "kernel", "tilt"))
    if image is None or kernel is None:
        return None
    if tilt is None:
        return blur(image, kernel, boundary).repeat(1, frames, 1, 1)
    return torch.cat([turbulence(image, kernel, one, boundary) for one in tilt.split(2, dim=1)], dim=1)


def measured(
    image: Tensor,
    kernel: Tensor,
    seeds: Sequence[int],
    names: Sequence[str] | None = None,
    tilt: Tensor | None = None,
    sigma: float = SIGMA,
    boundary: str = "reflect",
    title: str = "",
) -> Cases:
    """Measure photographs, B C H W in [-1, 1]: tilted if there is a tilt, B 2K H W, blurred by B 1 h w, with noise.

    y = k * T(x) + n; the noise of each sample has a stream of its own, from its seed. The scene beyond the frame is by
    default the mirrored image: no dark rim gives the kernel away.
    Raises: ValueError as `Truth`, `Measurement`, `blur` and `add_noise`.
    """
    truth, frames = Truth(image, kernel, tilt), 1 if tilt is None else tilt.shape[1] // 2
    seeds = tuple(checks.seeds(seeds, len(image)))
    y = noisy(explained(truth.components, boundary=boundary), seeds, sigma)
    measurement = Measurement(y, seeds, sigma, boundary, tuple(kernel.shape[2:]), frames)
    return Cases(tuple(map(str, range(len(image))) if names is None else names), measurement, truth, title)


def deblurring_cases(
    domain: str, degradation: str, count: int, seed: int = 0, which: Sequence[int] | None = None
) -> Cases:
    """What the tables of blind deblurring are measured on: the first `count` of `data.test_set`, each with its seed.

    "motion" draws a kernel of intensity 0.5 for each from its seed, "gaussian" has a standard deviation of 1.5 pixels,
    both on a canvas of 32. `which` takes some of the images, with the seeds that they have among `count`.
    Raises: ValueError for another domain or degradation, NotAtHand where the set is not on this machine.
    """
    checks.choice("degradation", degradation, ("motion", "gaussian"))
    truth, names = test_set(domain, count)
    which = list(range(len(truth)) if which is None else which)
    seeds = [seed + i for i in which]
    if degradation == "motion":
        kernels = torch.cat([motion_kernels(1, 32, 0.5, Generator().manual_seed(s)) for s in seeds])
    else:
        kernels = gaussian_kernels(len(seeds), 32, 1.5)
    return measured(truth[which], kernels, seeds, [names[i] for i in which], title=f"{domain}-{degradation}")
