"""A blurred photo of any size, or several frames of one scene: what blurred it is found, and the image restored."""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pdm import checks
from pdm.convolutions import Convolution, fitting, pixels
from pdm.exact_steps import resized
from pdm.few_steps import restore_known
from pdm.photo_kernels import SEARCH, WINDOW, KernelEstimate, Priors, Search, extent, kernel_steps, quarter_steps
from pdm.sampler import State

CLIPPED = 1 - 2 / 255  # a colour that is as bright as the camera can hold, give or take one step of 8 bits
LEAST_NOISE = 0.005  # what is assumed at least: 8 bits round by 0.0023, and JPEG does more
NO_BLUR = "no blur was found"
ATTEMPT = 10_000  # between the seeds of two attempts
CHURN = 1.0  # the share of fresh noise in each step; less of it is worse on large photographs
FED_BACK = 0.5  # of what a kernel leaves unexplained, the share that counts as noise; all of it smooths too much
LEAST_SIGMA = 0.02  # what is assumed at least where the kernel is sought


@dataclass(frozen=True, eq=False)
class Restored:
    """A photo restored, and how far to trust it.

    `image` is C H W in [-1, 1]. `kernel`, of sum 1, is what blurred the photo, 1 h w, or each of F frames, F 1 h w.
    `sigma` is the noise's standard deviation, estimated where it was not given, and `residual` the root mean square of
    photo - kernel * image in units of it. `warnings` are sentences; where one says that the photo is handed back as it
    was, `image` is that and the kernel a single pixel.
    """

    image: Tensor
    kernel: Tensor
    sigma: float
    residual: float
    warnings: tuple[str, ...] = ()


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
    unharmed: bool = True,
    evaluations: int = 12,
    search: Search = SEARCH,
) -> Generator[State, None, Restored]:
    """The states on the way to a restored photo: first those that find the kernel, then those of the whole image.

    The kernel is found by `photo_kernels.kernel_steps` on the part with the most gradient, the image by
    `restore_known`. A photo is a crop: its image reaches beyond it by the kernel's half, so no boundary is false.
    Args: `photo` C H W in [-1, 1], grey or in three colours, 64 pixels a side at least, or frames of one scene
    F C H W whose kernels have their centres of mass at one place; `priors`, the committed ones if None; `sigma`, the
    noise's standard deviation; `kernel` F 1 h w or 1 h w of sum 1, if it is known; `linear`, whether the blur is of
    light and the photo's values are sRGB; `seed` of the noise; `unharmed`, whether a photo without blur, or whose
    kernel is not believed, is handed back as it is; `evaluations` of the image prior once the kernel is there;
    `search`, how it is sought. Returns: `Restored`.
    Raises: ValueError before the first evaluation.
    """
    frames, evaluations = _frames(photo, sigma), checks.count("evaluations", evaluations)
    y = frames.expand(-1, 3, -1, -1)
    kernel = None if kernel is None else _kernels(kernel, frames)
    priors, seeds = priors or Priors.load(), checks.seeds([seed])
    y = torch.stack([to_linear(frame) for frame in y]) if linear else y
    clipped = (frames >= CLIPPED).any(1, keepdim=True)
    noise = noise_level(frames[0]) if sigma is None else sigma
    grey = frames.shape[1] == 1
    loudness = math.sqrt(3) if grey else 1.0  # three equal channels have all their noise in the luminance
    assumed, told, warnings = loudness * noise, {"churn": CHURN}, _clipping(clipped)
    if sought := kernel is None:
        assumed = max(assumed, LEAST_SIGMA)
        for attempt in range(search.attempts):
            streams = [s + ATTEMPT * attempt for s in seeds]
            estimate = yield from kernel_steps(y, clipped, priors, assumed, streams, search)
            kernel, doubts = estimate.kernel, _doubts(estimate, noise, search)
            if not doubts or NO_BLUR in doubts:
                break
        warnings += doubts
        if doubts and unharmed:
            return _unharmed(photo, noise, warnings)
        warnings += _at_the_rim(kernel)
        alike = yield from quarter_steps(y, clipped, kernel, priors, assumed, seeds, search)
        if alike < search.alike:
            warnings += (f"the blur differs between the photo's quarters: their kernels correlate by {alike:.2f}",)
        assumed = max(loudness * noise, FED_BACK * estimate.misfit)
    size = [n + k - 1 for n, k in zip(y.shape[-2:], kernel.shape[-2:], strict=True)]
    if sought:
        error = priors.kernel.errors.at(search.plan.kernel_times[0], (32, 32)).to(y)
        told |= {"kernel_error": search.plan.remaining * resized(error, size)}
    told |= {"clipped": clipped} if clipped.any() else {}
    given = {"sigma": assumed, "seeds": seeds, "boundary": "valid", "frames": len(y)}
    for state in restore_known(y, kernel, priors.image, evaluations, **given, **told):
        yield state
    frame = state.theta["image"]
    blurred = Convolution(kernel, size, "valid")(frame.expand(len(y), -1, -1, -1))
    residual = _rms((y - blurred) * ~clipped) / noise
    image = seen(frame, kernel.shape[-2:], y.shape[-2:])[0]
    image = (from_linear(image) if linear else image).clamp(-1, 1)
    one = kernel if photo.dim() == 4 else kernel[0]
    return Restored(image.mean(0, keepdim=True) if grey else image, one, noise, residual, warnings)


def _frames(photo: Tensor, sigma: float | None) -> Tensor:
    """A photo as one frame F C H W, or several; checked, as is the noise."""
    letters = "F C H W" if isinstance(photo, Tensor) and photo.dim() == 4 else "C H W"
    (photo,) = fitting(f"photo {letters}", checks.tensor("photo", photo, letters, WINDOW))
    frames = photo if photo.dim() == 4 else photo[None]
    if frames.shape[1] not in (1, 3):
        raise ValueError(f"photo has {frames.shape[1]} channels; wanted 1 or 3")
    if sigma is not None:
        checks.number("sigma", sigma, above=0)
    return frames


def _kernels(kernel: Tensor, frames: Tensor) -> Tensor:
    """Known kernels, one for each frame; checked."""
    of_three = isinstance(kernel, Tensor) and kernel.dim() == 3
    kernel = checks.kernels("kernel", kernel[None] if of_three else kernel)
    if len(kernel) != len(frames):
        raise ValueError(f"there are {len(kernel)} kernels for {len(frames)} frames; wanted one each")
    if kernel.shape[-2] > frames.shape[-2] or kernel.shape[-1] > frames.shape[-1]:
        raise ValueError(f"the kernel has {tuple(kernel.shape[-2:])} pixels; wanted at most the photo's")
    return kernel


def _doubts(estimate: KernelEstimate, noise: float, search: Search) -> tuple[str, ...]:
    """Why a photo had better be left as it is."""
    if extent(estimate.kernel) <= search.narrow:
        return (NO_BLUR,)
    if estimate.innovation > search.doubtful:
        return (f"the search did not converge: it leaves {estimate.misfit / noise:.1f} times the noise unexplained",)
    if estimate.agreement < search.agreed:
        return (f"the search did not converge: kernels of two scales correlate by {estimate.agreement:.2f} at most",)
    return ()


def _unharmed(photo: Tensor, noise: float, warnings: tuple[str, ...]) -> Restored:
    """The photo itself, or the first frame, with kernels of one pixel."""
    several = photo.dim() == 4
    kernel = torch.ones(len(photo) if several else 1, 1, 1, 1, dtype=photo.dtype, device=photo.device)
    told = (*warnings, "the photo is handed back as it was")
    return Restored((photo[0] if several else photo).clone(), kernel if several else kernel[0], noise, 0.0, told)


def _clipping(clipped: Tensor) -> tuple[str, ...]:
    share = clipped.float().mean().item()
    return (f"{share:.1%} of the pixels are as bright as can be, and were left out of account",) if share > 1e-3 else ()


def _at_the_rim(kernel: Tensor) -> tuple[str, ...]:
    """A warning where more than a hundredth of a kernel lies in its outermost two pixels."""
    inner = kernel[..., 2:-2, 2:-2].sum((1, 2, 3))
    if min(kernel.shape[-2:]) > 4 and inner.min() < 0.99:
        return (f"the kernel reaches the rim of the {kernel.shape[-1]} pixels that were searched",)
    return ()


def _rms(values: Tensor) -> float:
    """Root mean square."""
    return math.sqrt(values.square().mean().item())


def noise_level(photo: Tensor) -> float:
    """The noise's standard deviation in C H W: of the finest Haar wavelets in the smoothest tenth of its blocks.

    Blocks have 16 pixels a side, or the photo's. The smoothest are taken because texture counts as noise (Liu, Tanaka
    and Okutomi 2013); where there is none, the level is up to a tenth too low. Their root mean square does not jump as
    a median does in 8 bits. Blocks of one colour, clipped ones, do not count.
    Raises: ValueError for another shape, sides below 2, or values that are not finite.
    """
    (photo,) = fitting("photo C h w", checks.tensor("photo", photo, "C H W", 2))
    down = photo[..., 1:, :] - photo[..., :-1, :]
    diagonal = (down[..., 1:] - down[..., :-1])[..., ::2, ::2] / 2
    power = F.avg_pool2d(diagonal.square().mean(0)[None], [min(8, n) for n in diagonal.shape[-2:]]).flatten()
    held = power[power > LEAST_NOISE**2]
    return held.quantile(0.1).sqrt().item() if len(held) else LEAST_NOISE


def seen(frame: Tensor, canvas: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Of a frame that reaches beyond what is seen by a kernel's half, the part that is seen: `size` of its pixels.

    Raises: ValueError for a size or canvas that is none, or a frame too small for them.
    """
    canvas, size = pixels("canvas", canvas), pixels("size", size)
    wanted = [n + k - 1 for n, k in zip(size, canvas, strict=True)]
    checks.tensor("frame", frame, f"B C {wanted[0]} {wanted[1]}")
    top, left = (n - 1 - n // 2 for n in canvas)
    return frame[..., top : top + size[0], left : left + size[1]]


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
