"""A problem and an answer: photographs with what became of them, and what a method makes of that."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pdm.data import SIGMA, noisy
from pdm.operators import blur, turbulence


def measure(
    images: Tensor, kernels: Tensor, seeds: Sequence[int], sigma: float = SIGMA, boundary: str = "reflect"
) -> Tensor:
    """y = k * x + n with a noise stream per sample: B C H W and B 1 h w to B C H W.

    The scene beyond the frame is by default the mirrored image: no dark rim gives the kernel away.
    Raises: ValueError as `blur` and `add_noise`, and unless there is one seed per image.
    """
    if len(seeds) != len(images):
        raise ValueError(f"{len(seeds)} seeds for {len(images)} images; wanted one each")
    blurred = blur(images, kernels, boundary)
    return noisy(blurred, seeds, sigma)


@dataclass(frozen=True, eq=False)
class Cases:
    """Photographs and what became of them, B of each: `truth` B C H W, `kernels` B 1 h w, `seeds`.

    `measurement` is B C H W, or B KC H W for K frames seen through as many `tilts`, B 2K H W in pixels; there are none
    where the air was calm. `sigma` is the noise's standard deviation, and `boundary` what lies beyond the frame, as in
    `operators.blur`, which methods by diffusion take over. A blind method reads `measurement`, `seeds` and `boundary`.
    Raises: ValueError for unequal numbers or another boundary.
    """

    names: tuple[str, ...]
    truth: Tensor
    measurement: Tensor
    kernels: Tensor
    seeds: tuple[int, ...]
    tilts: Tensor | None = None
    sigma: float = SIGMA
    boundary: str = "reflect"

    def __post_init__(self):
        counts = {name: len(value) for name, value in self._parts().items() if value is not None}
        if len(set(counts.values())) != 1:
            raise ValueError(f"the cases have {counts}; wanted as many of each")
        if self.boundary not in ("reflect", "zero", "circular"):
            raise ValueError(f"boundary is {self.boundary!r}; wanted reflect, zero or circular")

    def _parts(self) -> dict:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("sigma", "boundary")}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, which: slice) -> "Cases":
        parts = {n: v[which] for n, v in self._parts().items() if v is not None}
        # A copy, for a view would be kept and sent with all that it is a view of.
        return replace(self, **{n: v.clone() if isinstance(v, Tensor) else v for n, v in parts.items()})

    def to(self, device: torch.device | str) -> "Cases":
        """The same with all tensors on `device`, where a method of networks then computes."""
        return replace(self, **{n: v.to(device) for n, v in self._parts().items() if isinstance(v, Tensor)})


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a method makes of a batch: image, B C H W; kernel, B 1 h w, and tilts, B 2K H W, if it looks for any."""

    image: Tensor
    kernel: Tensor | None = None
    tilt: Tensor | None = None

    def to(self, device: torch.device | str) -> "Estimate":
        """The same with all tensors on `device`."""
        return Estimate(*(None if v is None else v.to(device) for v in (self.image, self.kernel, self.tilt)))


def explained(estimate: Estimate, frames: int = 1, boundary: str = "reflect") -> Tensor | None:
    """The measurement that an estimate stands for, B KC H W; None where the method has no kernel to explain it by."""
    if estimate.kernel is None:
        return None
    if estimate.tilt is None:
        return blur(estimate.image, estimate.kernel, boundary).repeat(1, frames, 1, 1)
    views = [turbulence(estimate.image, estimate.kernel, tilt, boundary) for tilt in estimate.tilt.split(2, dim=1)]
    return torch.cat(views, dim=1)


def blurred_cases(
    truth: Tensor,
    kernels: Tensor,
    seeds: Sequence[int],
    names: Sequence[str] | None = None,
    sigma: float = SIGMA,
    boundary: str = "reflect",
) -> Cases:
    """Blur photographs and add noise, as `experiments.measure`; the seeds are the noise's and the methods'."""
    names = [str(i) for i in range(len(truth))] if names is None else names
    seen = measure(truth, kernels, seeds, sigma, boundary)
    return Cases(tuple(names), truth, seen, kernels, tuple(seeds), sigma=sigma, boundary=boundary)


def unknown(measurement: Tensor, seeds: Sequence[int], canvas: int = 32) -> Cases:
    """Measurements, B C H W in [-1, 1], whose truth nobody has: images and kernels are NaN, for blind methods alone.

    Raises: ValueError for a measurement of another shape, far outside [-1, 1] or not finite, or seeds that are not B.
    """
    if measurement.dim() != 4 or not measurement.abs().max() <= 2:
        reach = f"reaches to {measurement.abs().max():g} in size" if measurement.numel() else "is empty"
        raise ValueError(f"the measurement is {tuple(measurement.shape)} and {reach}; wanted B C H W in [-1, 1]")
    kernels = torch.full((len(measurement), 1, canvas, canvas), float("nan"))
    names = tuple(str(i) for i in range(len(measurement)))
    return Cases(names, torch.full_like(measurement, float("nan")), measurement, kernels, tuple(seeds))


def turbulent_cases(
    truth: Tensor,
    kernels: Tensor,
    tilts: Tensor,
    seeds: Sequence[int],
    names: Sequence[str] | None = None,
    sigma: float = SIGMA,
) -> Cases:
    """K frames of each photograph through one kernel and K tilts, B 2K H W in pixels, with noise."""
    names = [str(i) for i in range(len(truth))] if names is None else names
    clean = explained(Estimate(truth, kernels, tilts))
    return Cases(tuple(names), truth, noisy(clean, seeds, sigma), kernels, tuple(seeds), tilts, sigma)
