"""How far a kernel lies from the true one, MSE and MNC; and how much of it is haze."""

import torch
from torch import Tensor

from pdm import checks
from pdm.metrics.checks import Unmeasurable, one_shape


@torch.no_grad()
def kernel_mse(estimate: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error over the pixels of a kernel, as it stands: nothing is aligned, cropped or rescaled.

    Both are B 1 h w; the truth is nonnegative with sum 1. Returns B values >= 0, float64; 0 is perfect. A
    blind method may shift its kernel and shift its image back; such a shift counts here, and not in `mnc`.
    Raises `ValueError` on a wrong shape, dtype, range or sum, and on NaN or Inf. Source: Table 2.
    """
    estimate, truth = _on_cpu(estimate, truth)
    one_shape(estimate, truth)
    return (estimate - truth).square().flatten(1).mean(1)


@torch.no_grad()
def mnc(estimate: Tensor, truth: Tensor) -> Tensor:
    """Maximum of the normalised cross-correlation of two kernels over all shifts; 1 is perfect.

    max_gamma sum_tau k(tau) k_hat(tau + gamma) / (||k|| ||k_hat||), the kernels being zero outside their
    canvas: a linear correlation, by FFT in float64. Both are B 1 h w, on canvases that may differ in size;
    the truth is nonnegative with sum 1. Returns B values, float64, in [0, 1] for a nonnegative estimate,
    whatever its scale and place. Raises `ValueError` on a wrong shape, dtype, range or sum, on NaN or Inf,
    and on an estimate that is zero. Source: Hu and Yang, Good Regions to Deblur, ECCV 2012; Table 2.
    """
    estimate, truth = _on_cpu(estimate, truth)
    peak = estimate.abs().amax((1, 2, 3), keepdim=True)
    if (peak == 0).any():
        raise Unmeasurable("an estimated kernel is zero everywhere; wanted one with a norm > 0")
    estimate = estimate / peak  # so that no square under- or overflows
    size = [n + m - 1 for n, m in zip(estimate.shape[2:], truth.shape[2:], strict=True)]  # no wrap-around
    spectrum = torch.fft.rfft2(truth, s=size).conj() * torch.fft.rfft2(estimate, s=size)
    correlation = torch.fft.irfft2(spectrum, s=size)  # B 1 h+h'-1 w+w'-1, one pixel per shift
    norms = truth.flatten(1).norm(dim=1) * estimate.flatten(1).norm(dim=1)  # B
    return (correlation.flatten(1).amax(1) / norms).clamp(max=1)  # Cauchy-Schwarz holds up to rounding


@torch.no_grad()
def pedestal(estimate: Tensor, share: float = 0.02) -> Tensor:
    """The mass of a kernel that lies below `share` of its peak, of all its mass: haze, which MNC does not see.

    It costs the image contrast. The estimate is B 1 h w; values below 0 count by their size. Returns B values in
    [0, 1], float64; of a motion path it is below 0.003. Raises `ValueError` on a wrong shape or dtype, on NaN or Inf,
    a share below 0, and an estimate that is zero.
    """
    mass = checks.tensor("estimate", estimate, "B 1 h w").cpu().double().abs().flatten(1)
    peak = mass.amax(1, keepdim=True)
    if (peak == 0).any():
        raise Unmeasurable("an estimated kernel is zero everywhere; wanted one with a peak")
    return torch.where(mass < checks.number("share", share, least=0) * peak, mass, 0).sum(1) / mass.sum(1)


def _on_cpu(estimate: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both kernels on the CPU in float64; the truth must be a kernel, and the estimate is what it is."""
    checks.tensor("estimate", estimate, "B 1 h w"), checks.kernels("truth", truth)
    if len(estimate) != len(truth):
        raise ValueError(f"{len(estimate)} kernels in estimate and {len(truth)} in truth; wanted pairs")
    return estimate.cpu().double(), truth.cpu().double()
