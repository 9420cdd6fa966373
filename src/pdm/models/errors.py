"""How far a prior's denoised estimates lie from the truth, as power spectra: what exact data steps need to know."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from pdm import checks
from pdm.exact_steps import resized
from pdm.paths import write_whole


@dataclass(frozen=True, eq=False)
class Errors:
    """E |F(x0 - x0_hat(x_t))|^2 of a prior, by class, time step, channel and frequency.

    `power` is L T C h w//2+1, L classes: of orthonormal transforms in the basis of `exact_steps.to_opponent`, or plain
    ones of kernels of sum 1. `times` are the T time steps, falling. `mean`, 1 h w, and `root`, hw r, are the mean and a
    root of the covariance of the data itself, where no spectrum tells it (kernels of sum 1); None elsewhere.
    Raises: ValueError for shapes that do not fit, or power that is not above 0.
    """

    times: Tensor
    power: Tensor
    mean: Tensor | None = None
    root: Tensor | None = None

    def __post_init__(self) -> None:
        checks.tensor("power", self.power, "L T C h w")
        if len(self.times) != self.power.shape[1] or len(self.times) < 2 or not (self.times.diff() < 0).all():
            raise ValueError(f"times are {self.times.tolist()} for power {tuple(self.power.shape)}; wanted T, falling")
        if not (self.power > 0).all():
            raise ValueError(f"power has the minimum {self.power.min():g}; wanted values above 0")

    def at(self, t: int, size: tuple[int, int], label: int = -1) -> Tensor:
        """The power spectrum at time step t and an image's size, C H W//2+1, interpolated in the logarithm."""
        times = self.times.double()
        i = int((times[1:-1] >= t).sum())
        share = float(((times[i] - t) / (times[i] - times[i + 1])).clamp(0, 1))
        between = self.power[label, i] ** (1 - share) * self.power[label, i + 1] ** share
        return resized(between, size)


def save_errors(name: str, errors: Errors, about: dict, folder: str | Path) -> None:
    """Write `name`.errors.safetensors beside the prior's card, and its SHA-256 and `about` into the card."""
    folder = checks.path("folder", folder)
    tensors = {key: v.to(torch.float32 if key == "times" else torch.float16) for key, v in _parts(errors).items()}
    tensors["power"] = errors.power.log().half()  # the logarithm, because half precision ends at 6e-8
    data = safetensors.torch.save({key: v.contiguous() for key, v in tensors.items()})
    card = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    card["errors"] = {"sha256": hashlib.sha256(data).hexdigest()} | about
    write_whole(folder / f"{name}.errors.safetensors", data)
    write_whole(folder / f"{name}.json", json.dumps(card, indent=1) + "\n")


def load_errors(name: str, card: dict, folder: str | Path) -> Errors | None:
    """The errors of a prior; None where its card has none. Raises: ValueError for a file that is not the card's."""
    if "errors" not in card:
        return None
    path = Path(folder) / f"{name}.errors.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"the errors of prior {name!r} are missing: no file {path}")
    data = path.read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != card["errors"]["sha256"]:
        raise ValueError(f"{path} has the SHA-256 {digest}; its card wants {card['errors']['sha256']}")
    tensors = {key: v.float() for key, v in safetensors.torch.load(data).items()}
    return Errors(**tensors | {"power": tensors["power"].exp()})


def _parts(errors: Errors) -> dict[str, Tensor]:
    return {name: value for name, value in vars(errors).items() if value is not None}
