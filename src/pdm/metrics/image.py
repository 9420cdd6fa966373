"""How far an image lies from the truth: PSNR and SSIM."""

import itertools

import piq
import torch
from torch import Tensor

from pdm import checks
from pdm.metrics.checks import Unmeasurable, images


@torch.no_grad()
def psnr(estimate: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images, 10 log10(peak^2 / MSE) with peak = 2, the width of [-1, 1].

    Both are B C H W in [-1, 1]; the estimate is clamped to this range first. Returns B values in dB, float64;
    higher is better, and equal images give infinity. The same number as on the [0, 1] scale with peak 1.
    Raises `ValueError` on a wrong shape, dtype or range, and on NaN or Inf. Source: Tables 1 and 3.
    """
    estimate, truth = (v.cpu().double() for v in images(estimate, truth))
    mse = (estimate - truth).square().flatten(1).mean(1)
    return 10 * torch.log10(2.0**2 / mse)


@torch.no_grad()
def psnr_registered(estimate: Tensor, truth: Tensor, reach: int = 8) -> Tensor:
    """PSNR of the inner field at the best shift: a blurred image tells neither image's nor kernel's place.

    Both are B C H W in [-1, 1]; what is compared is all of the truth but a rim of `reach` pixels, with the estimate
    moved by each whole shift of up to `reach` pixels either way. Returns B values in dB, float64, of the best shift of
    each. Raises `ValueError` as `psnr` does, and where the rim leaves nothing. So are images compared in Levin et al.,
    "Understanding and Evaluating Blind Deconvolution Algorithms", CVPR 2009.
    """
    estimate, truth = images(estimate, truth)
    reach = checks.count("reach", reach, 0)
    if 2 * reach >= min(truth.shape[2:]):
        raise Unmeasurable(f"reach is {reach}; wanted 0 or more, and less than half of {tuple(truth.shape[2:])}")
    height, width = (n - 2 * reach for n in truth.shape[2:])
    inner = truth[..., reach : reach + height, reach : reach + width]
    shifts = itertools.product(range(2 * reach + 1), repeat=2)
    return torch.stack([psnr(estimate[..., i : i + height, j : j + width], inner) for i, j in shifts]).amax(0)


@torch.no_grad()
def ssim(estimate: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of images on the [0, 1] scale, by `piq`, averaged over channels and pixels.

    Both are B C H W in [-1, 1], at least 11 x 11 pixels; the estimate is clamped to this range first. Returns
    B values in [-1, 1], float32, good to about 1e-5; 1 is perfect. The window is a Gaussian with sigma 1.5 on
    11 x 11 pixels that stays inside the image. A large image is not averaged down first, as piq would by
    default, so one definition holds at every size, and it is scikit-image's with `gaussian_weights` and
    without `use_sample_covariance`. Raises `ValueError` on a wrong shape, dtype or range, and on NaN or Inf.
    Source: Wang et al., IEEE Transactions on Image Processing 13, 2004.
    """
    estimate, truth = (v.cpu().float() for v in images(estimate, truth, least=11))
    return piq.ssim((estimate + 1) / 2, (truth + 1) / 2, data_range=1.0, reduction="none", downsample=False)
