"""What a row of a table is restored by: a function with an id and a version, its settings, and its priors by name."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch

from pdm.models import NetworkPrior, best_device, load_prior, precision_for, prior_card
from pdm.study import cache
from pdm.study.problem import Cases, Estimate


def method(
    id: str,
    version: int = 1,
    priors: Sequence[str] = (),
    known: Sequence[str] = (),
    settings: type | None = None,
    errors: Sequence[str] = (),
) -> Callable[[Callable], Callable]:
    """Name a function of (measurement, priors, **settings) that returns an `Estimate`, so that its results can be kept.

    `version` is raised when its numbers change. `priors` are the keys of the mapping of priors that it takes, `known`
    the parts of the truth that it is told, `settings` a dataclass of what its `**settings` may hold, `errors` the
    priors whose error spectra its result depends on.
    Raises: ValueError for a function without a fixed name: a lambda, or one made inside another function.
    """

    def mark(function: Callable) -> Callable:
        if "<" in function.__qualname__:
            raise ValueError(f"{function.__qualname__} has no fixed name; wanted a function at the top of a module")
        function.id, function.version, function.settings = id, version, settings
        function.priors, function.known, function.errors = tuple(priors), tuple(known), tuple(errors)
        return function

    return mark


@dataclass(frozen=True, eq=False)
class Method:
    """A row's method: `restore`, a function that `method` has named, with its settings.

    `label` is the image prior's class, and `weights` the name of a prior's weights where it is not the prior's own.
    `batch` cases are restored at a time, on a GPU if there is one and the method takes priors: by default 16, or 128
    there, where a step of the small networks takes no longer for them than for half as many.
    Raises: ValueError for an empty name or one with "/", a function without an id, settings that it does not take, or
    less than one case at a time.
    """

    name: str
    restore: Callable[..., Estimate]
    settings: Mapping[str, object] = field(default_factory=dict)
    label: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    batch: int | None = None

    def __post_init__(self):
        if not hasattr(self.restore, "id"):
            name = getattr(self.restore, "__qualname__", repr(self.restore))
            raise ValueError(f"{name} has no id; wanted a function that `pdm.study.method.method` names")
        if self.batch is None:
            on_gpu = bool(self.restore.priors) and best_device().type == "cuda"
            object.__setattr__(self, "batch", 128 if on_gpu else 16)
        if not self.name or "/" in self.name or self.batch < 1:
            raise ValueError(f"method {self.name!r} in batches of {self.batch}; wanted a name without /, 1 or more")
        object.__setattr__(self, "settings", {name: _plain(name, v) for name, v in self.settings.items()})
        kinds = inspect.signature(self.restore).parameters.values()
        taken = {p.name for p in kinds if p.kind is p.POSITIONAL_OR_KEYWORD} - {"measurement", "priors"}
        through = {f.name for f in fields(self.restore.settings)} if self.restore.settings else set()
        if unknown := set(self.settings) - taken - through:
            known = sorted(taken | through)
            raise ValueError(f"{self.restore.id} takes no {', '.join(sorted(unknown))}; it takes {known}")
        if through:  # its own checks, before any work
            self.restore.settings(**{name: v for name, v in self.settings.items() if name in through})
        if wrong := set(self.weights) - set(self.restore.priors):
            raise ValueError(f"weights are given for {sorted(wrong)}; {self.restore.id} takes {self.restore.priors}")

    def sources(self) -> dict[str, str]:
        """Which weights each prior has, by name."""
        return {name: self.weights.get(name, name) for name in self.restore.priors}

    def load(self, device: torch.device | str = "cpu") -> dict[str, NetworkPrior]:
        """The priors, on a device; the label is the image prior's."""
        label = {"image": self.label}
        return {name: load_prior(source, label.get(name), device=device) for name, source in self.sources().items()}

    def key(self, cases: Cases) -> dict:
        """All that a result depends on but the code, in plain values; a table's name for the method is no part."""
        cards = {name: prior_card(source) for name, source in self.sources().items()}
        weights = {name: [card["sha256"], str(precision_for(card, best_device()))] for name, card in cards.items()}
        data = {"measurement": cases.measurement.y, **cases.truth.components}
        inputs = {name: cache.digest(value) for name, value in data.items()}
        inputs |= {"sigma": cases.measurement.sigma, "boundary": cases.measurement.boundary}
        inputs |= {"seeds": list(cases.measurement.seeds), "names": list(cases.names)}
        errors = {name: cards[name].get("errors", {}).get("sha256") for name in self.restore.errors}
        weights |= {f"{name} errors": [sha, ""] for name, sha in errors.items()}
        named = {"id": self.restore.id, "version": self.restore.version, "label": self.label}
        return named | {"settings": dict(self.settings), "weights": weights, "inputs": inputs}


def _plain(name: str, value: object) -> object:
    """A setting as a plain value: NumPy's numbers become Python's."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is not None and not isinstance(value, (str, bool, int, float)):
        raise ValueError(f"setting {name} is a {type(value).__name__}; wanted a number, a text or None")
    return value
