"""How far an estimate lies from the truth, and how far two sets of samples lie apart.

Metrics measure and never guide: no gradient flows through them. Those of `image`, `perceptual`, `kernel` and `tilt`
return one value per sample, on the CPU. Images are B C H W in [-1, 1]; an estimate that leaves this range is clamped to
it first, as it would be to be shown. Kernels are B 1 h w, nonnegative, with sum 1; an estimated kernel is taken as it
stands.
"""

from pdm.metrics.checks import Unmeasurable
from pdm.metrics.distances import features, frechet_distance, inception_features, kernel_distance
from pdm.metrics.image import psnr, psnr_registered, ssim
from pdm.metrics.kernel import kernel_mse, mnc, pedestal
from pdm.metrics.perceptual import lpips, vgg16_features
from pdm.metrics.samples import kernel_statistics, nearest, tilt_statistics, two_sample_test
from pdm.metrics.tilt import end_point_error

__all__ = [
    "Unmeasurable",
    "end_point_error",
    "features",
    "frechet_distance",
    "inception_features",
    "kernel_distance",
    "kernel_mse",
    "kernel_statistics",
    "lpips",
    "mnc",
    "nearest",
    "pedestal",
    "psnr",
    "psnr_registered",
    "ssim",
    "tilt_statistics",
    "two_sample_test",
    "vgg16_features",
]
