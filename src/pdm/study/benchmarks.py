"""The public benchmarks of blind deblurring, and the protocol that their published figures follow.

`levin` is Levin, Weiss, Durand and Freeman (CVPR 2009): four photographs taken through eight kernels. `lai` is Lai,
Huang, Hu, Ahuja and Yang (CVPR 2016), of which the synthetic uniform part is read. Both are grey.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import numpy as np
import torch
from PIL import Image
from scipy.fft import next_fast_len
from scipy.io import loadmat
from skimage.metrics import structural_similarity
from torch import Tensor

from pdm import checks, metrics
from pdm.operators import blur

LUMA = (0.299, 0.587, 0.114)


class Case(NamedTuple):
    """One measurement of a benchmark: `y` and `truth` H W in [0, 1], `kernel` h w of sum 1 with y = kernel * truth.

    The kernel's place is known to whole pixels at best. `group` is what the benchmark's tables tell apart.
    """

    name: str
    group: str
    y: Tensor
    truth: Tensor
    kernel: Tensor


class Protocol(NamedTuple):
    """How an estimate is held against the truth: a rim that is left out, and shifts up to `reach` pixels in `step`."""

    rim: int
    reach: int
    step: float = 0.25


LEVIN, LAI = Protocol(15, 5), Protocol(15, 10)


def levin(folder: str | Path) -> Iterator[Case]:
    """The 32 cases, from `levin.npz` or from the authors' files `im05_flit01.mat` and so on in a folder.

    A file has x, y and f; f is turned by 180 degrees where that explains y better. `group` is the kernel's number.
    Raises: ValueError for a folder that has neither, or an array of another shape.
    """
    folder = checks.path("folder", folder)
    if (folder / "levin.npz").is_file():
        held = np.load(folder / "levin.npz")
        for i, j in np.ndindex(*held["x"].shape[:2]):
            half = (held["k"].shape[-1] - held["size"][j]) // 2
            kernel = held["k"][j][half : half + held["size"][j], half : half + held["size"][j]]
            yield _case(f"im{i + 1}_kernel{j + 1}", f"kernel {j + 1}", held["y"][i, j], held["x"][i, j], kernel)
        return
    files = sorted(path for path in folder.glob("*.mat") if re.fullmatch(r"im\d+_flit\d+", path.stem))
    if not files:
        raise ValueError(f"folder {folder} holds neither levin.npz nor im05_flit01.mat; wanted one of them")
    for path in files:
        held = loadmat(path)
        if not {"x", "y", "f"} <= held.keys():
            raise ValueError(f"{path.name} holds {sorted(held)}; wanted x, y and f")
        place = f"kernel {int(path.stem.rpartition('flit')[2])}"
        cases = [_case(path.stem, place, held["y"], held["x"], f) for f in (held["f"], held["f"][::-1, ::-1])]
        yield min(cases, key=_misfit)


def lai(folder: str | Path) -> Iterator[Case]:
    """The cases of `lai.zip` in a folder: blurred_y/NAME_KERNEL.png with sharp/NAME.png and kernels/KERNEL.png.

    The truth is the luma of the photograph. The authors' blur is a correlation, so that kernels are turned.
    Raises: ValueError where there is no such file, or a part of it is missing.
    """
    path = checks.path("folder", folder) / "lai.zip"
    if not path.is_file():
        raise ValueError(f"no file {path}; wanted a zip of blurred_y, sharp and kernels")
    with ZipFile(path) as held:
        names = held.namelist()
        for name in sorted(n for n in names if n.startswith("blurred_y/")):
            stem, picture, kernel = re.fullmatch(r"blurred_y/((\w+)_(kernel_\d+))\.png", name).groups()
            parts = name, f"sharp/{picture}.png", f"kernels/{kernel}.png"
            if missing := set(parts) - set(names):
                raise ValueError(f"{path.name} lacks {sorted(missing)}")
            y, truth, k = (_grey(held, part) for part in parts)
            yield _case(stem, picture.split("_")[0], y, truth, k[::-1, ::-1])


def scores(estimate: Tensor, case: Case, protocol: Protocol, kernel: Tensor | None = None) -> dict[str, float | None]:
    """`psnr`, `ssim`, `ssd` and `mnc` of an estimate H W in [0, 1], give or take, at the shift that suits it best.

    The sum of squared differences is least over all shifts of the protocol, by bilinear interpolation, on the truth
    without its rim; PSNR is of that and SSIM of the same crop. `mnc` is of `kernel`, h w, if there is one.
    Raises: ValueError for an estimate of another size than the truth, or values that are not finite.
    """
    estimate, truth = (v.double().cpu() for v in (estimate, case.truth))
    checks.tensor("estimate", estimate, " ".join(map(str, truth.shape)))
    ssd, (down, across) = best_shift(estimate, truth, protocol)
    inner, moved = _without(truth, protocol.rim), shifted(estimate, down, across, protocol)
    ssim = float(structural_similarity(moved.numpy(), inner.numpy(), data_range=1.0))
    mnc = None if kernel is None else metrics.mnc(kernel[None, None], case.kernel[None, None]).item()
    return {"psnr": 10 * math.log10(inner.numel() / max(ssd, 1e-12)), "ssim": ssim, "ssd": ssd, "mnc": mnc}


def best_shift(estimate: Tensor, truth: Tensor, protocol: Protocol) -> tuple[float, tuple[float, float]]:
    """The least sum of squared differences over the protocol's shifts, and the shift: pixels down and across.

    The estimate at (row + down, column + across) is held against the truth at (row, column), both H W float64. Its
    products with the truth at all whole shifts are one correlation, by FFT; those between are interpolated like it.
    Raises: ValueError for pictures that are too small for the rim.
    """
    rim, reach, step = protocol
    if min(truth.shape) <= 2 * rim or reach > rim:
        raise ValueError(f"the truth is {tuple(truth.shape)}; wanted more than two rims of {rim}, and shifts within it")
    inner, wide = _without(truth, rim), _without(estimate, rim - reach)
    shape = [next_fast_len(n, real=True) for n in wide.shape]
    spectrum = torch.fft.rfft2(wide, s=shape) * torch.fft.rfft2(inner, s=shape).conj()
    products = torch.fft.irfft2(spectrum, s=shape)[: 2 * reach + 1, : 2 * reach + 1]
    best, place = math.inf, (0.0, 0.0)
    for down in np.arange(0, 1, step).tolist():
        for across in np.arange(0, 1, step).tolist():
            energy = _sums(_between(wide, down, across).square(), inner.shape)
            ssd = energy - 2 * _between(products, down, across) + inner.square().sum()
            least = int(ssd.argmin())
            if (value := ssd.flatten()[least].item()) < best:
                row, column = divmod(least, ssd.shape[1])
                best, place = value, (row - reach + down, column - reach + across)
    return max(best, 0.0), place


def shifted(estimate: Tensor, down: float, across: float, protocol: Protocol) -> Tensor:
    """The part of an estimate that a shift lays over the truth without its rim."""
    height, width = (n - 2 * protocol.rim for n in estimate.shape)
    rows, columns = math.floor(down), math.floor(across)
    wide = _between(_without(estimate, protocol.rim - protocol.reach), down - rows, across - columns)
    return wide[rows + protocol.reach :, columns + protocol.reach :][:height, :width]


def _without(values: Tensor, rim: int) -> Tensor:
    return values[rim : values.shape[0] - rim, rim : values.shape[1] - rim]


def _between(values: Tensor, down: float, across: float) -> Tensor:
    """Bilinear interpolation at a fraction of a pixel from each; a row or column fewer where there is a fraction."""
    values = (1 - down) * values[:-1] + down * values[1:] if down else values
    return (1 - across) * values[:, :-1] + across * values[:, 1:] if across else values


def _sums(values: Tensor, size: torch.Size) -> Tensor:
    """Sums over all windows of a size."""
    total = torch.nn.functional.pad(values.cumsum(0).cumsum(1), (1, 0, 1, 0))
    h, w = size
    return total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]


def _case(name: str, group: str, y: np.ndarray, truth: np.ndarray, kernel: np.ndarray) -> Case:
    y, truth, kernel = (torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32)) for v in (y, truth, kernel))
    if y.dim() != 2 or y.shape != truth.shape or kernel.dim() != 2:
        shapes = [tuple(v.shape) for v in (y, truth, kernel)]
        raise ValueError(f"{name}: y, truth and kernel have the shapes {shapes}; wanted H W, H W and h w")
    return Case(name, group, y, truth, kernel / kernel.sum())


def _misfit(case: Case) -> float:
    """How badly the kernel explains y, at the best shift."""
    found = blur(case.truth[None, None], case.kernel[None, None])[0, 0]
    return best_shift(found.double(), case.y.double(), LEVIN)[0]


def _grey(held: ZipFile, name: str) -> np.ndarray:
    """A picture of a zip in [0, 1], its luma if it has colours."""
    with held.open(name) as file, Image.open(file) as picture:
        values = np.asarray(picture, dtype=np.float64) / 255
    return values if values.ndim == 2 else values[..., :3] @ np.array(LUMA) if values.shape[2] >= 3 else values[..., 0]
