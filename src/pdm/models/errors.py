"""How far a prior's denoised estimates lie from the truth, as power spectra: what exact data steps need to know."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from pdm import checks
from pdm.convolutions import fitting, pixels
from pdm.exact_steps import resized
from pdm.paths import write_whole


@dataclass(frozen=True, eq=False)
class Errors:
    """E |F(x0 - x0_hat(x_t))|^2 of a prior, by class, time step, channel and frequency.

    `power` is L T C h w//2+1, L classes: of orthonormal transforms in the basis of `exact_steps.to_opponent`, or plain
    ones of kernels of sum 1. `times` are the T time steps, falling. `mean`, 1 h w, and `root`, hw r, are the mean and a
    root of the covariance of the data itself, where no spectrum tells it (kernels of sum 1); None elsewhere.
    Raises: ValueError for shapes or dtypes that do not fit, fewer than 2 time steps, values that are not finite, power
    that is not above 0, or a mean without a root.
    """

    times: Tensor
    power: Tensor
    mean: Tensor | None = None
    root: Tensor | None = None

    def __post_init__(self) -> None:
        moments = [v for v in (self.mean, self.root) if v is not None]
        if len(moments) == 1:
            raise ValueError("of mean and root one is None; wanted both, or neither")
        fitting("power L T C rows V" + ", mean 1 h w, root hw r" * bool(moments), self.power, *moments)
        real = isinstance(self.times, Tensor) and not self.times.is_complex()  # whole numbers too
        times = checks.tensor("times", self.times.double() if real else self.times, "T")
        if len(times) != self.power.shape[1] or len(times) < 2 or not (times.diff() < 0).all():
            raise ValueError(f"times are {times.tolist()} for power {tuple(self.power.shape)}; wanted T, falling")

    def at(self, t: int, size: Sequence[int], label: int = -1) -> Tensor:
        """The power spectrum at time step t and an image's size, C H W//2+1, interpolated in the logarithm.

        Beyond the first and the last of `times` it is theirs. `label` is a class; the last one, -1, stands for any.
        Raises: ValueError for a time step below -1 (clean), a class that there is not, or no size.
        """
        t, size = checks.count("t", t, -1), pixels("size", size)
        label = checks.count("label", label, -len(self.power), len(self.power) - 1)
        times = self.times.detach().double()
        i = int((times[1:-1] >= t).sum())
        share = float(((times[i] - t) / (times[i] - times[i + 1])).clamp(0, 1))
        between = self.power[label, i] ** (1 - share) * self.power[label, i + 1] ** share
        return resized(between, size)


def save_errors(name: str, errors: Errors, about: dict, folder: str | Path) -> None:
    """Write `name`.errors.safetensors beside the prior's card, and its SHA-256 and `about` into the card.

    Raises: ValueError where `folder` has no card of that name.
    """
    path = checks.path("folder", folder) / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"name is {name!r}; wanted a prior whose card is in the folder: no file {path}")
    tensors = {key: v.to(torch.float32 if key == "times" else torch.float16) for key, v in _parts(errors).items()}
    tensors["power"] = errors.power.detach().log().half()  # the logarithm, because half precision ends at 6e-8
    data = safetensors.torch.save({key: v.contiguous() for key, v in tensors.items()})
    card = json.loads(path.read_text(encoding="utf-8"))
    card["errors"] = {"sha256": hashlib.sha256(data).hexdigest()} | about
    write_whole(path.with_name(f"{name}.errors.safetensors"), data)
    write_whole(path, json.dumps(card, indent=1) + "\n")


def load_errors(name: str, card: dict, folder: str | Path) -> Errors | None:
    """The errors of a prior; None where its card has none.

    Raises: FileNotFoundError without the file that the card names; ValueError for a card without its SHA-256, or a file
    that is not the card's or holds something else.
    """
    if "errors" not in card:
        return None
    path = checks.path("folder", folder) / f"{name}.errors.safetensors"
    if not isinstance(card["errors"], dict) or "sha256" not in card["errors"]:
        raise ValueError(f"the card of prior {name!r} has the errors {card['errors']!r}; wanted their sha256")
    if not path.is_file():
        raise FileNotFoundError(f"the errors of prior {name!r} are missing: no file {path}")
    data = path.read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != card["errors"]["sha256"]:
        raise ValueError(f"{path} has the SHA-256 {digest}; its card wants {card['errors']['sha256']}")
    tensors = {key: v.float() for key, v in safetensors.torch.load(data).items()}
    if set(tensors) not in ({"times", "power"}, {"times", "power", "mean", "root"}):
        raise ValueError(f"{path} holds {sorted(tensors)}; wanted times and power, or mean and root with them")
    return Errors(**tensors | {"power": tensors["power"].exp()})


def _parts(errors: Errors) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in vars(errors).items() if value is not None}
