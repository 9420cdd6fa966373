"""Weights and cards: saved whole, loaded with their SHA-256 checked, on the device and in the precision that suit."""

import hashlib
import json
import os
import pickle
import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from pdm import checks
from pdm.models.conditional import ConditionalPrior
from pdm.models.errors import load_errors
from pdm.models.prior import NetworkPrior, Velocity
from pdm.models.unet import UNet, UNetConfig
from pdm.paths import PRIORS, write_whole
from pdm.schedule import Schedule


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from a `.pt` / `.pth` file that may hold tensors and nothing else.

    Raises: FileNotFoundError when there is no such file; ValueError when the file is truncated, of another format,
    or holds anything but named tensors (pickled code is refused, not run).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        wanted = "safetensors" if path.suffix == ".safetensors" else "a torch file of named tensors"
        raise ValueError(f"{path} cannot be read as {wanted}: it is truncated or something else") from error
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ValueError(f"{path} holds {type(weights).__name__}; wanted a mapping from parameter names to tensors")
    return weights


def load_adm(path: str | Path, config: UNetConfig) -> UNet:
    """Build the network of `config` and load a checkpoint into it, every name and shape accounted for.

    Raises: FileNotFoundError, or ValueError which names what is missing, unexpected or of another shape.
    """
    net, weights = UNet(config, "meta"), read_weights(path)
    wanted = {name: tuple(v.shape) for name, v in net.state_dict().items()}
    found = {name: tuple(v.shape) for name, v in weights.items()}
    if wanted != found:
        lines = [f"missing {n} {s}" for n, s in wanted.items() if n not in found]
        lines += [f"unexpected {n} {s}" for n, s in found.items() if n not in wanted]
        lines += [f"{n} is {found[n]}, wanted {s}" for n, s in wanted.items() if n in found and found[n] != s]
        more = f"\n  ... and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise ValueError(f"{path} is not a checkpoint of this network:\n  " + "\n  ".join(lines[:5]) + more)
    for name, value in weights.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise ValueError(f"{name} in {path} is {value.dtype} or holds NaN; wanted finite floating-point weights")
    with torch.inference_mode(False):  # for weights made in it could not be differentiated through
        net.load_state_dict({n: v.to(torch.float32, copy=True) for n, v in weights.items()}, assign=True)
    return net


def best_device() -> torch.device:
    """A CUDA device where there is one, else Apple's MPS, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


def best_precision(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 where the hardware multiplies it (CUDA from Ampere on, a CPU with AMX or AVX512-BF16), else float32.

    Elsewhere it is emulated: on a CPU hundreds of times slower than float32. The environment's PDM_PRECISION overrules
    it, so that machines of several kinds compute the same. Raises: ValueError if that is neither of the two.
    """
    if wanted := os.environ.get("PDM_PRECISION"):
        if wanted not in ("float32", "bfloat16"):
            raise ValueError(f"PDM_PRECISION is {wanted!r}; wanted float32 or bfloat16")
        return torch.float32 if wanted == "float32" else torch.bfloat16
    kind, fast = torch.device(device).type, False
    if kind == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == "cpu":  # by private functions, which another torch may lack: it gets float32
        asked = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
        fast = any(ask() for ask in asked if ask is not None)
    return torch.bfloat16 if fast else torch.float32


def save_prior(
    name: str, network: UNet, card: dict, folder: str | Path = PRIORS, dtype: torch.dtype = torch.float16
) -> Path:
    """Write `name`.safetensors in `dtype` and its card `name`.json, which names the file's SHA-256.

    Each file is written beside and renamed, the card last, so that a card never speaks of missing weights.
    """
    folder = checks.path("folder", folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder {folder} is a file; wanted a folder")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().to(dtype).contiguous() for k, v in network.state_dict().items()}
    data = safetensors.torch.save(weights)
    card = {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "network": network.config.as_dict()} | card
    text = json.dumps(card, indent=1) + "\n"
    write_whole(folder / f"{name}.safetensors", data)
    write_whole(folder / f"{name}.json", text)
    return folder / f"{name}.safetensors"


def prior_card(name: str, folder: str | Path = PRIORS) -> dict:
    """The card of a committed prior. Raises: ValueError, which lists the priors in `folder`, for another name."""
    path = checks.path("folder", folder) / f"{name}.json"
    if not path.is_file():
        known = sorted(p.stem for p in Path(folder).glob("*.json"))
        remedy = " (PDM_PRIORS names another folder)"
        if not known:
            remedy = (
                ". A checkout or the wheel carries the committed priors; PDM_PRIORS names the folder that holds them"
            )
        raise ValueError(f"no prior is called {name!r}; there are {', '.join(known) or 'none'} in {folder}{remedy}")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON card: {error}") from error
    if missing := {"sha256", "network"} - set(card):
        raise ValueError(f"the card {path} lacks {', '.join(sorted(missing))}")
    return card


def precision_for(card: dict, device: torch.device | str = "cpu") -> torch.dtype:
    """What a prior is computed in: what its card says, else the device's best. A network that predicts noise has to be
    exact to sqrt(alpha_bar_t), which bfloat16 is not where t is large; the released ones' cards say float32.
    """
    return getattr(torch, card["precision"]) if "precision" in card else best_precision(device)


def load_prior(
    name: str,
    label: str | int | Tensor | None = None,
    precision: torch.dtype | None = None,
    folder: str | Path = PRIORS,
    device: torch.device | str = "cpu",
) -> NetworkPrior | ConditionalPrior:
    """Load a prior by name to `device`, with its weights checked against the SHA-256 on its card.

    `label` is a class by name or number (None: any class); `precision` is `precision_for` by default. A prior whose
    card names a condition is a `ConditionalPrior`.
    Raises: FileNotFoundError without the weights; ValueError for an unknown name or label, a wrong SHA-256, or weights
    of another network.
    """
    card = prior_card(name, folder)
    path = Path(folder) / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"the weights of prior {name!r} are missing: no file {path}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != card["sha256"]:
        raise ValueError(f"{path} has the SHA-256 {digest}; its card wants {card['sha256']}")
    if isinstance(label, str):
        if label not in card.get("labels", []):
            raise ValueError(
                f"prior {name!r} has no class {label!r}; it has {', '.join(card.get('labels', [])) or 'none'}"
            )
        label = int(card["labels"].index(label))
    network = load_adm(path, UNetConfig(**card["network"]))
    velocity = Velocity(**card["velocity"]) if card.get("velocity") else None
    precision = precision_for(card, device) if precision is None else precision
    with torch.inference_mode(False):
        for layer in network.to(device).modules():
            if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                layer.to(precision)  # once, and not in every step, as autocast would
    if card.get("condition"):
        if velocity is None or card["condition"] != "blur_features":
            raise ValueError(f"the card of {name!r} has the condition {card['condition']!r}; wanted 'blur_features'")
        return ConditionalPrior(network, precision, velocity, _schedule(card))
    errors = load_errors(name, card, folder)
    return NetworkPrior(network, label, precision, velocity, _schedule(card), errors=errors)


def _schedule(card: dict) -> Schedule:
    """The schedule that a card names, by default the linear one of 1,000 steps."""
    text = card.get("schedule", "linear, 1000 steps")
    match = re.fullmatch(r"(linear|cosine), (\d+) steps", str(text))
    if match is None:
        raise ValueError(f"the card's schedule is {text!r}; wanted 'linear, N steps' or 'cosine, N steps'")
    return (Schedule.linear if match[1] == "linear" else Schedule.cosine)(int(match[2]))
