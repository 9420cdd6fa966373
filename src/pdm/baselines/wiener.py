"""Wiener's filter: the image that a known kernel and a quadratic prior give in closed form."""

import numpy as np
import skimage.restoration
import torch
from torch import Tensor

from pdm import checks

MODES = {"reflect": "reflect", "zero": "constant", "circular": "wrap"}  # NumPy's names of the boundaries


@torch.no_grad()
def wiener(measurement: Tensor, kernel: Tensor, balance: float = 0.02, boundary: str = "reflect") -> Tensor:
    """Restore images with the kernel known, by scikit-image, on the measurement continued beyond its frame.

    Args: `measurement` B C H W in [-1, 1], of 3 pixels a side or more; `kernel` B 1 h w, nonnegative, sum 1; `balance`
    weighs the Laplacian of the estimate against the residual, and 0.02 stands between what motion kernels and what
    Gaussian kernels want at this noise; `boundary` "reflect", "zero" or "circular" is what lies beyond the frame.
    Returns: B C H W, not clamped, of the measurement's dtype and on its device.
    Raises: ValueError for other shapes, values or names, another number of kernels, or a balance not above 0.
    """
    checks.images("measurement", measurement, least=3, reach=2.0), checks.kernels("kernel", kernel)
    checks.choice("boundary", boundary, list(MODES)), checks.number("balance", balance, above=0)
    if len(kernel) != len(measurement):
        raise ValueError(f"kernel has the shape {tuple(kernel.shape)}; wanted {len(measurement)} 1 h w, one per image")
    (height, width), (h, w) = measurement.shape[2:], (n // 2 for n in kernel.shape[2:])
    rows = []
    for y, k in zip(measurement.cpu().double().numpy(), kernel.cpu().double().numpy(), strict=True):
        wide = np.pad(y, ((0, 0), (h, h), (w, w)), MODES[boundary])
        restored = [skimage.restoration.wiener(channel, k[0], balance, clip=False) for channel in wide]
        rows.append(np.stack(restored)[:, h : h + height, w : w + width])
    return torch.from_numpy(np.stack(rows)).to(measurement)
