"""Priors: whatever predicts the noise in x_t. Networks with their committed weights, and priors known exactly."""

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from pdm.schedule import Schedule, Velocity
from pdm.unet import UNet, UNetConfig, load_adm

__all__ = [
    "PRIORS",
    "EmpiricalPrior",
    "FlatPrior",
    "GaussianMixture",
    "NetworkPrior",
    "Prediction",
    "Prior",
    "best_device",
    "best_precision",
    "load_prior",
    "precision_for",
    "prior_card",
    "save_prior",
]

PRIORS = Path(os.environ.get("PDM_PRIORS") or Path(__file__).resolve().parents[2] / "data" / "priors")


class Prediction(NamedTuple):
    """What a prior says of x_t: its noise, and, if it learned one, where between its bounds the variance lies."""

    noise: Tensor
    variance: Tensor | None = None


Prior = Callable[[Tensor, int], Prediction]
"""prior(x, t): x is B C *S at time step t (one for the whole batch); the noise has the shape of x."""


def best_device() -> torch.device:
    """A CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def best_precision(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 where the hardware multiplies it (CUDA from Ampere on, a CPU with AMX or AVX512-BF16), else float32.

    Elsewhere it is emulated: on a CPU hundreds of times slower than float32. The environment's PDM_PRECISION overrules
    it, so that machines of several kinds compute the same. Raises: ValueError if that is neither of the two.
    """
    if wanted := os.environ.get("PDM_PRECISION"):
        if wanted not in ("float32", "bfloat16"):
            raise ValueError(f"PDM_PRECISION is {wanted!r}; wanted float32 or bfloat16")
        return getattr(torch, wanted)
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


class NetworkPrior:
    """A frozen U-Net as a prior; lower precision and memory layout live here and nowhere else.

    `label` is the class of every sample, or B of them; a network with classes takes the last class, which stands
    for "any", when it is None. `precision` is what convolutions and products are computed in.
    `velocity` tells how to read a network that was trained on velocities of the linear schedule; without it, as with
    the released checkpoints, the network predicts noise. Twice as many output channels as inputs mean that the
    second half predicts the variance.
    Raises: ValueError for a label that the network does not know, or other numbers of channels.
    """

    def __init__(
        self,
        network: UNet,
        label: int | Tensor | None = None,
        precision: torch.dtype = torch.float32,
        velocity: Velocity | None = None,
    ):
        config = network.config
        if config.out_channels not in (config.in_channels, 2 * config.in_channels):
            wanted = f"{config.in_channels} or {2 * config.in_channels}"
            raise ValueError(f"the network has {config.out_channels} outputs; wanted {wanted}")
        if config.num_classes is None and label is not None:
            raise ValueError(f"label {label} was given to a network without classes")
        if config.num_classes is not None:
            if isinstance(label, str):
                raise ValueError(f"label is {label!r}; wanted whole numbers from 0 to {config.num_classes - 1}")
            label = torch.as_tensor(config.num_classes - 1 if label is None else label)
            if label.is_floating_point() or label.dim() > 1 or ((label < 0) | (label >= config.num_classes)).any():
                raise ValueError(f"label is {label.tolist()}; wanted whole numbers from 0 to {config.num_classes - 1}")
        on_cpu = next(network.parameters()).device.type == "cpu"  # a GPU's group norm would copy to and fro
        layout = torch.channels_last if config.dims == 2 and on_cpu else torch.contiguous_format
        self.network = network.eval().requires_grad_(False).to(memory_format=layout)
        self.label, self.precision, self.layout, self.velocity = label, precision, layout, velocity
        self.schedule = Schedule.linear()

    @property
    def shape(self) -> tuple[int, ...]:
        """C *S of the samples that the network was trained on."""
        config = self.network.config
        return (config.in_channels, *[config.image_size] * config.dims)

    def with_label(self, label: int | Tensor | None) -> "NetworkPrior":
        """The same network, conditioned on another class."""
        return NetworkPrior(self.network, label, self.precision, self.velocity)

    def __call__(self, x: Tensor, t: int) -> Prediction:
        self.schedule.alpha_bar_at(t, x)  # refuses a time step that there is not
        if self.label is not None and self.label.numel() not in (1, len(x)):
            raise ValueError(f"{self.label.numel()} labels for {len(x)} samples; wanted one, or one each")
        times = torch.full((len(x),), t, device=x.device)
        label = None if self.label is None else self.label.to(x.device).expand(len(x))
        seen = x if self.velocity is None else self.velocity.input(self.schedule, x, t)
        with torch.autocast(x.device.type, self.precision, enabled=self.precision != torch.float32):
            out = self.network(seen.contiguous(memory_format=self.layout), times, label).to(x.dtype)
        out, *variance = out.split(x.shape[1], dim=1)
        noise = out if self.velocity is None else self.velocity.noise(self.schedule, seen, out, t)
        return Prediction(noise, *variance)


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of Gaussians diffused by `schedule`, its score known in closed form.

    `means` is K *S, `weights` K (sum 1), `std` the standard deviation in every direction, of all components.
    At time t a component is N(sqrt(alpha_bar) mean, alpha_bar std^2 + 1 - alpha_bar), and the noise predicted is
    -sqrt(1 - alpha_bar) times the score. Raises: ValueError for weights that are none or a std not above 0.
    """

    schedule: Schedule
    means: Tensor
    weights: Tensor
    std: float

    def __post_init__(self):
        _check_weights(self.weights, self.means)
        if not (math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"std is {self.std}; wanted it above 0")

    def __call__(self, x: Tensor, t: int) -> Prediction:
        if x.shape[1:] != self.means.shape[1:]:
            raise ValueError(
                f"samples have the shape {tuple(x.shape[1:])}; wanted the means', {tuple(self.means.shape[1:])}"
            )
        alpha_bar = self.schedule.alpha_bar_at(t, x).to(x.dtype)
        variance = alpha_bar * self.std**2 + 1 - alpha_bar
        pull = alpha_bar.sqrt() * self.means[None] - x[:, None]  # B K *S
        log = self.weights.log() - (pull**2).flatten(2).sum(2) / (2 * variance.reshape(-1, 1))  # B K
        share = log.softmax(1).reshape(*log.shape, *[1] * (x.dim() - 1))
        return Prediction(-(1 - alpha_bar).sqrt() * (share * pull).sum(1) / variance)


@dataclass(frozen=True, eq=False)
class EmpiricalPrior:
    """Finitely many signals with their probabilities, diffused by `schedule`: a prior that knows nothing else.

    `points` is K *S, `weights` K (sum 1). At time t it is a mixture of N(sqrt(alpha_bar) point, 1 - alpha_bar), so that
    E[x0 | x_t] is the points' mean, each weighted by its posterior. Raises: ValueError for weights that are none.
    """

    schedule: Schedule
    points: Tensor
    weights: Tensor

    def __post_init__(self):
        _check_weights(self.weights, self.points)

    def log_posterior(self, x: Tensor, t: int) -> Tensor:
        """log p(point | x_t), by Bayes: B K; of a point that has a weight finite, and with finite gradients, even
        where its posterior underflows.
        """
        if x.shape[1:] != self.points.shape[1:]:
            raise ValueError(f"samples have the shape {tuple(x.shape[1:])}; wanted {tuple(self.points.shape[1:])}")
        alpha_bar = self.schedule.alpha_bar_at(t, x).to(x.dtype)
        pull = alpha_bar.sqrt() * self.points[None] - x[:, None]  # B K *S
        square = pull.square().flatten(2).sum(2)  # B K
        return (self.weights.log() - square / (2 * (1 - alpha_bar.reshape(-1, 1)))).log_softmax(1)

    def posterior(self, x: Tensor, t: int) -> Tensor:
        """p(point | x_t): B K."""
        return self.log_posterior(x, t).exp()

    def mean(self, x: Tensor, t: int) -> Tensor:
        """E[x0 | x_t]: B *S."""
        return torch.tensordot(self.posterior(x, t), self.points, dims=1)

    def __call__(self, x: Tensor, t: int) -> Prediction:
        alpha_bar = self.schedule.alpha_bar_at(t, x).to(x.dtype)
        return Prediction((x - alpha_bar.sqrt() * self.mean(x, t)) / (1 - alpha_bar).sqrt())


@dataclass(frozen=True)
class FlatPrior:
    """A uniform prior: it knows nothing, and its denoised estimate is what it is given (Algorithm 3 of the paper)."""

    schedule: Schedule

    def __call__(self, x: Tensor, t: int) -> Prediction:
        alpha_bar = self.schedule.alpha_bar_at(t, x)
        return Prediction(((1 - alpha_bar.sqrt()) / (1 - alpha_bar).sqrt()).to(x.dtype) * x)


def _check_weights(weights: Tensor, points: Tensor) -> None:
    if weights.shape != points.shape[:1] or not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(f"weights {weights.tolist()}; wanted {len(points)}, nonnegative, of sum 1")
    if not points.isfinite().all():
        raise ValueError("a mean holds NaN or infinite values; wanted finite ones")


def save_prior(
    name: str, network: UNet, card: dict, folder: str | Path = PRIORS, dtype: torch.dtype = torch.float16
) -> Path:
    """Write `name`.safetensors in `dtype` and its card `name`.json, which names the file's SHA-256.

    Each file is written beside and renamed, the card last, so that a card never speaks of missing weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().to(dtype).contiguous() for k, v in network.state_dict().items()}
    data = safetensors.torch.save(weights)
    card = {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "network": network.config.as_dict()} | card
    text = json.dumps(card, indent=1) + "\n"
    for file, content in ((f"{name}.safetensors", data), (f"{name}.json", text.encode())):
        beside = folder / f".{file}.part"
        beside.write_bytes(content)
        os.replace(beside, folder / file)
    return folder / f"{name}.safetensors"


def prior_card(name: str, folder: str | Path = PRIORS) -> dict:
    """The card of a committed prior. Raises: ValueError, which lists the priors there are, for another name."""
    path = Path(folder) / f"{name}.json"
    if not path.is_file():
        known = sorted(p.stem for p in Path(folder).glob("*.json"))
        raise ValueError(f"no prior is called {name!r}; there are {', '.join(known) or 'none'}")
    try:
        card = json.loads(path.read_text())
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
) -> NetworkPrior:
    """Load a prior by name to `device`, with its weights checked against the SHA-256 on its card.

    `label` is a class by name or number (None: any class); `precision` is `precision_for` by default.
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
        label = card["labels"].index(label)
    network = load_adm(path, UNetConfig(**card["network"])).to(device)
    velocity = Velocity(**card["velocity"]) if card.get("velocity") else None
    precision = precision_for(card, device) if precision is None else precision
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            layer.to(precision)  # once, and not in every step, as autocast would
    return NetworkPrior(network, label, precision, velocity)
