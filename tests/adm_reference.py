"""Numbers computed once with the authors' public release: two tiny networks and a trajectory of its sampler.

The files' metadata say how they were made; `release_trajectory` is 20 of 1000 steps with both networks, batch 1.
"""

import ast
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from pdm.models import NetworkPrior, UNet, UNetConfig

FOLDER = Path(__file__).parent / "data" / "adm"


def reference(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a reference file by name, and its metadata."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()


def tiny_prior(name: str) -> NetworkPrior:
    """The network `tiny_image` or `tiny_kernel`, which predict noise and variance, with the release's weights."""
    tensors, of = reference(name)
    config = UNetConfig(
        image_size=int(of["size"]),
        model_channels=int(of["ch"]),
        in_channels=int(of["cin"]),
        out_channels=2 * int(of["cin"]),
        channel_mult=ast.literal_eval(of["mult"]),
        num_res_blocks=int(of.get("nres", 1)),
        attention_resolution=int(of["attn"]),
        num_head_channels=int(of["hc"]),
    )
    network = UNet(config)
    weights = "weights."
    network.load_state_dict({k.removeprefix(weights): v for k, v in tensors.items() if k.startswith(weights)})
    return NetworkPrior(network)
