"""One training loop for every prior: denoising score matching, resumable to the bit."""

import io
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from pdm import checks
from pdm.models import UNet, UNetConfig, Velocity, best_precision
from pdm.models.seeded import plain_torch, seeded
from pdm.paths import write_whole
from pdm.train.objectives import Denoising

Batch = tuple[Tensor, Tensor | None]  # x0, B C *S in the model's range; labels, B, or None


@dataclass(frozen=True)
class Recipe:
    """All that a committed prior was trained with, but the seed.

    `data(split)` returns a function that draws a batch: (n, generator) -> (x0, labels), with split "train" or "test".
    `labels` are the class names, the last of which, "any", takes the place of a true one `drop_label` of the time.
    Time steps are 1000 u^`time_power`, u uniform: above 1, more of them where there is little noise.
    `objective(recipe)` is what is minimised, `Denoising` by default: a module that is called with the network, x0,
    labels and a generator, returns a loss a sample, and knows by its mode whether it trains or measures. Its state goes
    into the checkpoint. `velocity` is for `Denoising`; another objective may have None. `condition` is what the network
    sees beside x_t, by its name on the card.
    Raises: ValueError for numbers that no training can have, or `Denoising` without a velocity.
    """

    network: UNetConfig
    data: Callable[[str], Callable[[int, Generator], Batch]]
    images: int
    velocity: Velocity | None = field(default_factory=lambda: Velocity(mean=0.0, std=1.0))
    batch: int = 32
    rate: float = 4e-4
    ema: float = 0.9995
    time_power: float = 1.0
    labels: tuple[str, ...] = ()
    drop_label: float = 0.15
    sets: str = ""
    terms: str = ""
    objective: Callable[["Recipe"], nn.Module] | None = None
    condition: str | None = None

    def __post_init__(self) -> None:
        plain = {name: checks.count(name, getattr(self, name)) for name in ("images", "batch")}
        plain |= {name: checks.number(name, getattr(self, name), above=0) for name in ("rate", "time_power")}
        plain |= {name: checks.number(name, getattr(self, name), least=0) for name in ("ema", "drop_label")}
        for name, value in plain.items():  # NumPy's numbers become Python's, as checkpoints and cards hold them
            object.__setattr__(self, name, value)
        if self.ema >= 1 or self.drop_label > 1:
            raise ValueError(f"ema is {self.ema}, drop_label {self.drop_label}; wanted below 1, and 1 at most")
        if self.objective is None and self.velocity is None:
            raise ValueError("velocity is None; wanted a Velocity, which the objective Denoising predicts")


def velocity_of(recipe: Recipe) -> dict | None:
    """The recipe's velocity as plain JSON types."""
    return None if recipe.velocity is None else asdict(recipe.velocity)


@dataclass(frozen=True, eq=False)
class Start:
    """Weights to go on from, by their state dict and SHA-256, and the images that they have seen already."""

    weights: dict[str, Tensor]
    sha256: str
    seen: int
    curve: list[list[float]]


def learning_rate(seen: int, recipe: Recipe, start: int = 0) -> float:
    """Warm-up over 32,000 images or a twentieth of the run, then constant, then down to zero over the last quarter.

    The run is what lies between `start` images and the recipe's: one that goes on from weights warms up anew.
    """
    seen, images = checks.count("seen", seen, 0) - start, recipe.images - checks.count("start", start, 0)
    warm = max(1, min(32_000, images // 20))
    return recipe.rate * min(1.0, seen / warm, max(0.0, 4 * (1 - seen / images)))


def train(
    recipe: Recipe,
    checkpoint: str | Path,
    seed: int = 0,
    save_seconds: float = 240,
    held_out: int = 256,
    points: int = 60,
    start: Start | None = None,
) -> Iterator[dict]:
    """Train by `recipe`, and yield the state whenever a point of the loss curve is there, and at the end.

    The state is written to `checkpoint` every `save_seconds` and at the end, whole or not at all, and taken up from
    there if the file exists. Held-out loss is the averaged network's on `held_out` samples, with time steps
    (uniform ones) and noise that stay the same; training loss is over the recipe's time steps. `start` are weights to
    begin with in place of random ones; `recipe.images` counts theirs too.
    Yields: dict with `seen`, `curve` (rows of images seen, training loss, held-out loss), `seconds`, and `ema`, the
    averaged network, which goes on changing with the training.
    Raises: ValueError at once for wrong counts; with the first state, for a checkpoint of another run, or weights of
    another network.
    """
    seed, points = checks.count("seed", seed, 0), checks.count("points", points)
    held_out = checks.count("held_out", held_out, 64)
    checkpoint, save_seconds = checks.path("checkpoint", checkpoint), checks.number("save_seconds", save_seconds)
    return _plainly(_states(recipe, checkpoint, seed, save_seconds, held_out, points, start))


def _plainly(states: Iterator[dict]) -> Iterator[dict]:
    """The same states, each computed in plain torch, whatever modes the caller has set."""
    while True:
        with plain_torch():
            state = next(states, None)
        if state is None:
            return
        yield state


def _states(
    recipe: Recipe, checkpoint: Path, seed: int, save_seconds: float, held_out: int, points: int, start: Start | None
) -> Iterator[dict]:
    run = _Run(recipe, seed, start)
    if checkpoint.is_file():
        run.load(checkpoint)
    draw, draw_test = recipe.data("train"), recipe.data("test")
    fixed = Generator().manual_seed(seed + 1)
    test = [draw_test(64, fixed) for _ in range(held_out // 64)]
    saved = time.monotonic()
    while run.record["seen"] < recipe.images:
        before = run.record["seen"]
        run.step(draw)
        if before * points // recipe.images != run.record["seen"] * points // recipe.images:
            run.measure(test)
            yield run.record | {"ema": run.ema}
        if time.monotonic() - saved > save_seconds:
            run.save(checkpoint)
            saved = time.monotonic()
    run.save(checkpoint)
    yield run.record | {"ema": run.ema}


class _Run:
    """What a training carries from step to step: networks, optimizer, generator, and the record of its losses."""

    def __init__(self, recipe: Recipe, seed: int, start: Start | None):
        with seeded(seed):
            network = UNet(recipe.network)
        self.first = 0 if start is None else start.seen
        if start is not None:
            network.load_state_dict(start.weights)
        self.layout = torch.channels_last if recipe.network.dims == 2 else torch.contiguous_format
        self.network = network.to(memory_format=self.layout)
        self.ema = deepcopy(network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=0.01, fused=True)
        self.generator = Generator().manual_seed(seed + self.first)  # what was seen is not drawn again
        self.recipe, self.seed, self.precision = recipe, seed, best_precision()
        with seeded(seed):
            self.objective = (recipe.objective or Denoising)(recipe)
        self.made_with = {name: getattr(recipe, name) for name in ("batch", "rate", "ema", "time_power", "drop_label")}
        self.made_with |= {"network": recipe.network.as_dict(), "velocity": velocity_of(recipe), "seed": seed}
        self.made_with |= {"start": None if start is None else start.sha256}
        curve = [] if start is None else [list(row) for row in start.curve]
        self.record = {"seen": self.first, "curve": curve, "losses": [], "seconds": 0.0}

    def load(self, checkpoint: Path) -> None:
        try:
            kept = torch.load(checkpoint, weights_only=True)
        except Exception as error:  # torch raises a dozen kinds for a file that is cut or something else
            raise ValueError(f"{checkpoint} is no checkpoint that can be read; remove it to begin anew") from error
        came = kept.get("made_with") if isinstance(kept, dict) else None
        if came != self.made_with:
            wanted = f"wanted {self.made_with}; remove it to begin anew"
            raise ValueError(f"{checkpoint} is the checkpoint of another run, {came}; {wanted}")
        seen, images = kept["seen"], self.recipe.images
        if seen >= images + self.recipe.batch:  # the last batch may go beyond
            raise ValueError(f"{checkpoint} has seen {seen} images already; wanted {images} or less")
        for name in ("network", "ema", "optimizer", "objective"):
            getattr(self, name).load_state_dict(kept[name])
        self.generator.set_state(kept["generator"])
        self.record = {name: kept[name] for name in self.record}

    def save(self, checkpoint: Path) -> None:
        kept = {name: getattr(self, name).state_dict() for name in ("network", "ema", "optimizer", "objective")}
        kept |= {"generator": self.generator.get_state(), "made_with": self.made_with}
        data = io.BytesIO()
        torch.save(self.record | kept, data)
        write_whole(checkpoint, data.getvalue())

    def step(self, draw: Callable[[int, Generator], Batch]) -> None:
        """One batch: draw, diffuse, predict, descend, average."""
        begin, recipe, seen = time.monotonic(), self.recipe, self.record["seen"]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(seen + recipe.batch // 2, recipe, self.first)
        x0, labels = draw(recipe.batch, self.generator)
        if labels is not None:
            dropped = torch.rand(len(labels), generator=self.generator) < recipe.drop_label
            labels = torch.where(dropped, len(recipe.labels) - 1, labels)
        x0 = x0.float().contiguous(memory_format=self.layout)
        with self._autocast():
            loss = self.objective.train()(self.network, x0, labels, self.generator).mean()
        if not loss.isfinite():
            raise FloatingPointError(f"the loss is {loss.item()} after {seen} images")
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        count = (seen - self.first) // recipe.batch
        keep = min(recipe.ema, (1 + count) / (10 + count))
        with torch.no_grad():
            for average, weights in zip(self.ema.parameters(), self.network.parameters(), strict=True):
                average.lerp_(weights, 1 - keep)
        self.record["losses"].append(loss.item())
        self.record["seen"] = seen + recipe.batch
        self.record["seconds"] += time.monotonic() - begin

    @torch.no_grad()
    def measure(self, test: list[tuple]) -> None:
        """A point of the loss curve: the mean of the training losses since the last one, and the held-out loss."""
        fixed, losses = Generator().manual_seed(self.seed + 2), self.record["losses"]
        with self._autocast():
            kept = [self.objective.eval()(self.ema, x0, labels, fixed) for x0, labels in test]
        point = [self.record["seen"], sum(losses) / len(losses), torch.cat(kept).mean().item()]
        self.record = self.record | {"curve": [*self.record["curve"], point], "losses": []}

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", self.precision, enabled=self.precision != torch.float32)
