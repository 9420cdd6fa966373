"""A blurred photo of any size: the kernel is found on its liveliest part, the image is restored whole."""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pdm import checks
from pdm.blind_steps import Plan, restore_blind
from pdm.convolutions import Convolution, fitting, pixels
from pdm.exact_steps import centred, resized
from pdm.few_steps import restore_known
from pdm.models import AnySize, ConditionalPrior, NetworkPrior, load_prior
from pdm.sampler import State

# Tried on parts of eight BSDS photographs of the training set, blurred by random motion.
PLAN = Plan(rounds=20, chains=4, finish=1)
SCALES = (4, 2, 1)  # how much a photo is averaged down by, in turn
REGION, COARSE = 192, 128  # pixels a side that the kernel is found on, at the finest scale and above
WIDE = 13  # pixels: a kernel that spans more does not fit the canvas at the next finer scale
EVALUATIONS = 12
WINDOW = 64  # pixels a side that a measurement's spectrum takes
REACH = 8  # pixels around a clipped one that are left out of account
CLIPPED = 1 - 2 / 255  # a colour that is as bright as the camera can hold, give or take one step of 8 bits
LEAST_SIGMA = 0.02  # what is assumed at least, for what a camera does besides blur and noise


class Priors(NamedTuple):
    """What is known of photographs, of kernels, and of the kernels that blurred one photograph."""

    image: AnySize
    kernel: NetworkPrior
    kernel_given_y: ConditionalPrior

    @classmethod
    def load(cls) -> "Priors":
        """The committed ones."""
        image, kernel, given_y = load_prior("image", label="photos"), load_prior("kernel"), load_prior("kernel_given_y")
        return cls(AnySize(image), kernel, given_y)


@dataclass(frozen=True, eq=False)
class Restored:
    """A photo restored: `image` C H W in [-1, 1], the `kernel` 1 h w of sum 1 that blurred it, and how far to trust it.

    `sigma` is the noise's standard deviation in the photo, estimated where it was not given, and `residual` the root
    mean square of photo - kernel * image in units of it.
    """

    image: Tensor
    kernel: Tensor
    sigma: float
    residual: float


def restore(photo: Tensor, *args, progress: Callable[[State], None] | None = None, **options) -> Restored:
    """Run `restore_steps`, with its arguments and errors, to its end; `progress` is called with each state."""
    steps = restore_steps(photo, *args, **options)
    while True:
        try:
            state = next(steps)
        except StopIteration as end:
            return end.value
        if progress is not None:
            progress(state)


def restore_steps(
    photo: Tensor,
    priors: Priors | None = None,
    *,
    sigma: float | None = None,
    kernel: Tensor | None = None,
    linear: bool = False,
    seed: int = 0,
) -> Generator[State, None, Restored]:
    """The states on the way to a restored photo: first those that find the kernel, then those of the whole image.

    The kernel is found by `restore_blind` on the part with the most gradient, the image by `restore_known`. A photo is
    a crop: its image reaches beyond it by the kernel's half, and there is no false boundary.
    Args: `photo` C H W in [-1, 1], grey or in three colours, 64 pixels a side at least; `priors`, the committed ones if
    None; `sigma`, the noise's standard deviation; `kernel` 1 1 h w or 1 h w of sum 1, if it is known; `linear`, whether
    the blur is of light and the photo's values are sRGB; `seed` of the noise. Returns: `Restored`.
    Raises: ValueError before the first evaluation.
    """
    (photo,) = fitting("photo C H W", checks.tensor("photo", photo, "C H W", WINDOW))
    if len(photo) not in (1, 3):
        raise ValueError(f"photo has {len(photo)} channels; wanted 1 or 3")
    if sigma is not None:
        checks.number("sigma", sigma, above=0)
    if kernel is not None:
        of_three = isinstance(kernel, Tensor) and kernel.dim() == 3
        kernel = checks.kernels("kernel", kernel[None] if of_three else kernel)
        if kernel.shape[-2] > photo.shape[-2] or kernel.shape[-1] > photo.shape[-1]:
            raise ValueError(f"the kernel has {tuple(kernel.shape[-2:])} pixels; wanted at most the photo's")
    priors, seeds = priors or Priors.load(), checks.seeds([seed])
    y = _colours(to_linear(photo) if linear else photo)[None]
    clipped = (photo >= CLIPPED).any(0)[None, None]
    found = noise_level(photo) if sigma is None else sigma
    assumed = max(found, LEAST_SIGMA)
    error = None
    if kernel is None:
        kernel, misfit = yield from _kernel_steps(y, clipped, priors, assumed, seeds)
        error, assumed = priors.kernel.errors.at(PLAN.kernel_times[0], kernel.shape[-2:]).to(y), max(assumed, misfit)
    size = [n + k - 1 for n, k in zip(y.shape[-2:], kernel.shape[-2:], strict=True)]
    told = {"sigma": assumed, "seeds": seeds, "boundary": "valid"}
    told |= {"clipped": clipped} if clipped.any() else {}
    if error is not None:
        told |= {"churn": 1.0, "kernel_error": PLAN.remaining * resized(error, size)}
    last = restore_known(y, kernel, priors.image, EVALUATIONS, **told)
    for state in last:
        yield state
    frame = state.theta["image"]
    residual = _rms((y - Convolution(kernel, size, "valid")(frame)) * ~clipped) / found
    image = seen(frame, kernel.shape[-2:], photo.shape[-2:])[0]
    image = (from_linear(image) if linear else image).clamp(-1, 1)
    return Restored(image.mean(0, keepdim=True) if len(photo) == 1 else image, kernel[0], found, residual)


def _kernel_steps(
    y: Tensor, clipped: Tensor, priors: Priors, sigma: float, seeds: list[int]
) -> Generator[State, None, tuple[Tensor, float]]:
    """Find the kernel, coarse to fine: at the first scale where it is too wide for the next one, or the finest.

    Returns it at the photo's scale, and the root mean square of what it leaves unexplained.
    """
    for scale in SCALES:
        small, region = F.avg_pool2d(y, scale), REGION if scale == 1 else COARSE
        if min(small.shape[-2:]) < WINDOW:
            continue
        part = liveliest(small, region, F.max_pool2d(clipped.float(), scale) > 0)
        given, errors = priors.kernel_given_y.given(small), priors.kernel.errors
        told = {"sigma": sigma, "seeds": seeds, "boundary": "valid"}
        for state in restore_blind(part, priors.image, given, errors, PLAN, **told):
            yield state
        kernel = state.theta["kernel"]
        if scale == 1 or extent(kernel) > WIDE:
            break
    blur = Convolution(kernel, state.theta["image"].shape[-2:], "valid")
    return enlarged(kernel, scale), _rms(part - blur(state.theta["image"]))


def extent(kernel: Tensor, share: float = 0.1) -> int:
    """Pixels that a kernel 1 1 h w spans, along rows or columns, by what is above a share of its peak.

    Raises: ValueError for another shape, or a share of the peak's own or more.
    """
    kernel = checks.kernels("kernel", kernel)
    if not 0 <= checks.number("share", share) < 1:
        raise ValueError(f"share is {share}; wanted 0 to 1, below 1")
    above = kernel[0, 0] > share * kernel.max()
    spans = [above.any(dim).nonzero() for dim in (0, 1)]
    return max(int(place.max() - place.min()) + 1 for place in spans)


def enlarged(kernel: Tensor, scale: int) -> Tensor:
    """A kernel 1 1 h w of a picture averaged down by `scale`, as that of the picture; cut to where it is not 0.

    Raises: ValueError for another shape or scale.
    """
    kernel = checks.kernels("kernel", kernel)
    if checks.count("scale", scale) == 1:
        return kernel
    large = centred(F.interpolate(kernel, scale_factor=scale, mode="bilinear"))
    middle = large.shape[-1] // 2
    reach = max(int((p - middle).abs().max()) for p in (large[0, 0] > 1e-3 * large.max()).nonzero().T)
    cut = slice(max(0, middle - reach), middle + reach + 1)
    cut_out = large[..., cut, cut]
    return cut_out / cut_out.sum()


def states(known: bool = False) -> int:
    """How many states `restore_steps` yields at most, with the kernel known or not."""
    return EVALUATIONS if known else len(SCALES) * (PLAN.rounds + PLAN.polish + PLAN.finish) + EVALUATIONS


def _colours(image: Tensor) -> Tensor:
    """A grey image, 1 H W, as three equal colours; one of three colours as it is."""
    return image.expand(3, -1, -1) if len(image) == 1 else image


def noise_level(photo: Tensor) -> float:
    """The noise's standard deviation in C H W: the median of the finest Haar wavelets (Donoho and Johnstone 1994).

    Raises: ValueError for another shape, sides below 2, or values that are not finite.
    """
    (photo,) = fitting("photo C h W", checks.tensor("photo", photo, "C H W", 2))
    down = photo[..., 1:, :] - photo[..., :-1, :]
    diagonal = (down[..., 1:] - down[..., :-1])[..., ::2, ::2] / 2
    return max(diagonal.abs().flatten(1).median(dim=1).values.mean().item() / 0.6745, 1e-3)


def liveliest(y: Tensor, side: int, clipped: Tensor | None = None) -> Tensor:
    """The square part of B C H W, at most `side` pixels a side, with the most gradient away from clipped pixels.

    Raises: ValueError for another shape, or sides below 2.
    """
    checks.tensor("y", y, least=2), checks.count("side", side)
    height, width = (min(side, n) for n in y.shape[-2:])
    grey = y.mean((0, 1))
    energy = F.pad(grey.diff(dim=0).abs(), (0, 0, 0, 1)) + F.pad(grey.diff(dim=1).abs(), (0, 1))
    if clipped is not None:  # what surrounds them is wrong by a kernel's reach too
        near = F.max_pool2d(clipped[0].float(), 2 * REACH + 1, 1, REACH)[0] > 0
        energy = energy * torch.where(near, 1e-3, 1.0)
    total = F.pad(energy.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return y[..., row : row + height, column : column + width]


def seen(frame: Tensor, canvas: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Of a frame that reaches beyond what is seen by a kernel's half, the part that is seen: `size` of its pixels.

    Raises: ValueError for a size or canvas that is none, or a frame too small for them.
    """
    canvas, size = pixels("canvas", canvas), pixels("size", size)
    wanted = [n + k - 1 for n, k in zip(size, canvas, strict=True)]
    checks.tensor("frame", frame, f"B C {wanted[0]} {wanted[1]}")
    top, left = (n - 1 - n // 2 for n in canvas)
    return frame[..., top : top + size[0], left : left + size[1]]


def _rms(values: Tensor) -> float:
    """Root mean square."""
    return math.sqrt(values.square().mean().item())


def to_linear(photo: Tensor) -> Tensor:
    """sRGB values in [-1, 1] as amounts of light in [-1, 1] (IEC 61966-2-1). Raises: ValueError unless C H W."""
    checks.tensor("photo", photo, "C H W")
    value = (photo + 1) / 2
    return 2 * torch.where(value <= 0.04045, value / 12.92, ((value.clamp(min=0) + 0.055) / 1.055) ** 2.4) - 1


def from_linear(image: Tensor) -> Tensor:
    """Undo `to_linear`, with its errors; what lies outside [-1, 1] is moved to its ends."""
    checks.tensor("image", image, "C H W")
    value = ((image + 1) / 2).clamp(0, 1)
    return 2 * torch.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055) - 1
