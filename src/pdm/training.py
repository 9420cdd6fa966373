"""One training loop for every prior, and the recipes of the committed ones.

`python -m pdm.training image` trains the image prior and writes it to data/priors; killed, it goes on from the last
checkpoint when it is called again.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from pdm import datasets
from pdm.degradations import random_kernels, to_model_range
from pdm.priors import PRIORS, best_precision, save_prior
from pdm.schedule import Schedule, Velocity
from pdm.unet import UNet, UNetConfig

__all__ = ["RECIPES", "Recipe", "denoising_loss", "learning_rate", "train"]

CHECKPOINTS = Path(__file__).resolve().parents[2] / "data" / "cache" / "training"
Batch = tuple[Tensor, Tensor | None]  # x0, B C *S in the model's range; labels, B, or None


@dataclass(frozen=True)
class Recipe:
    """All that a committed prior was trained with, but the seed.

    `data(split)` returns a function that draws a batch: (n, generator) -> (x0, labels), with split "train" or "test".
    `labels` are the class names, the last of which, "any", takes the place of a true one `drop_label` of the time.
    """

    network: UNetConfig
    data: Callable[[str], Callable[[int, Generator], Batch]]
    images: int
    velocity: Velocity = field(default_factory=lambda: Velocity(mean=0.0, std=1.0))
    batch: int = 32
    rate: float = 4e-4
    ema: float = 0.9995
    labels: tuple[str, ...] = ()
    drop_label: float = 0.15
    sets: str = ""
    terms: str = ""


def denoising_loss(
    network: UNet, schedule: Schedule, velocity: Velocity, x0: Tensor, labels: Tensor | None, t: Tensor, noise: Tensor
) -> Tensor:
    """Mean squared error of the predicted velocity: B. The noise's is sin^2 of it, so that it is denoising score
    matching (Ho et al. 2020, eq. 14) in a weight over time steps that lets none of them be forgotten.
    """
    u = velocity.input(schedule, schedule.diffuse(x0, noise, t), t)
    return (network(u, t, labels).float() - velocity.target(schedule, x0, noise, t)).square().flatten(1).mean(1)


def learning_rate(seen: int, recipe: Recipe) -> float:
    """Warm-up over 32,000 images or a twentieth of the run, then constant, then down to zero over the last quarter."""
    warm = max(1, min(32_000, recipe.images // 20))
    return recipe.rate * min(1.0, seen / warm, max(0.0, 4 * (1 - seen / recipe.images)))


def train(
    recipe: Recipe,
    checkpoint: str | Path,
    seed: int = 0,
    save_seconds: float = 240,
    held_out: int = 256,
    points: int = 60,
) -> Iterator[dict]:
    """Train by `recipe`, and yield the state whenever a point of the loss curve is there; the last has "ema".

    The state is written to `checkpoint` every `save_seconds` and at the end, beside and then renamed, and taken up
    from there if the file exists. Held-out loss is the averaged network's on `held_out` samples, time steps and noise
    that stay the same.
    Yields: dict with `seen`, `curve` (rows of images seen, training loss, held-out loss), `seconds`, `ema` (a UNet).
    Raises: ValueError for a checkpoint of another network.
    """
    checkpoint = Path(checkpoint)
    if recipe.images < 1 or recipe.batch < 1:
        raise ValueError(f"{recipe.images} images in batches of {recipe.batch}; wanted 1 or more")
    if held_out < 64:
        raise ValueError(f"held_out is {held_out}; wanted 64 or more")
    generator = torch.Generator().manual_seed(seed)
    torch_seed = torch.Generator().manual_seed(seed + 1)
    schedule, precision = Schedule.linear(), best_precision()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(recipe.network)
    layout = torch.channels_last if recipe.network.dims == 2 else torch.contiguous_format
    network = network.to(memory_format=layout)
    ema = deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=0.01, fused=True)
    state = {"seen": 0, "curve": [], "losses": [], "seconds": 0.0}
    made_with = {"network": recipe.network.as_dict(), "velocity": asdict(recipe.velocity), "seed": seed}
    if checkpoint.is_file():
        try:
            kept = torch.load(checkpoint, weights_only=True)
        except Exception as error:  # torch raises a dozen kinds for a file that is cut or something else
            raise ValueError(
                f"{checkpoint} cannot be read as a training checkpoint; remove it to start anew"
            ) from error
        if not isinstance(kept, dict) or kept.get("made_with") != made_with:
            kept = kept if isinstance(kept, dict) else {}
            raise ValueError(
                f"{checkpoint} is the checkpoint of another run, {kept.get('made_with')}; wanted {made_with}"
            )
        network.load_state_dict(kept["network"])
        ema.load_state_dict(kept["ema"])
        optimizer.load_state_dict(kept["optimizer"])
        generator.set_state(kept["generator"])
        state = {k: kept[k] for k in state}

    def save():
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        beside = checkpoint.with_name(f".{checkpoint.name}.part")
        kept = {"network": network.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state | kept | {"generator": generator.get_state(), "made_with": made_with}, beside)
        os.replace(beside, checkpoint)

    draw, draw_test = recipe.data("train"), recipe.data("test")
    test = [(x0, y, *_noise(x0, torch_seed)) for x0, y in (draw_test(64, torch_seed) for _ in range(held_out // 64))]
    since = time.monotonic()
    while state["seen"] < recipe.images:
        start = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(state["seen"] + recipe.batch // 2, recipe)
        x0, labels = draw(recipe.batch, generator)
        if labels is not None:
            dropped = torch.rand(len(labels), generator=generator) < recipe.drop_label
            labels = torch.where(dropped, len(recipe.labels) - 1, labels)
        t, noise = _noise(x0, generator)
        x0, noise = x0.contiguous(memory_format=layout), noise.contiguous(memory_format=layout)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = denoising_loss(network, schedule, recipe.velocity, x0, labels, t, noise).mean()
        if not loss.isfinite():
            raise FloatingPointError(f"the loss is {loss.item()} after {state['seen']} images")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step = state["seen"] // recipe.batch
        keep = min(recipe.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - keep)
        state["losses"].append(loss.item())
        before, state["seen"] = state["seen"], state["seen"] + recipe.batch
        state["seconds"] += time.monotonic() - start
        if before * points // recipe.images != state["seen"] * points // recipe.images:
            with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
                kept = [denoising_loss(ema, schedule, recipe.velocity, x, y, t, n) for x, y, t, n in test]
            state["curve"].append(
                [state["seen"], sum(state["losses"]) / len(state["losses"]), torch.cat(kept).mean().item()]
            )
            state["losses"] = []
            yield state | {"ema": ema}
        if time.monotonic() - since > save_seconds:
            save()
            since = time.monotonic()
    save()
    yield state | {"ema": ema}


def _noise(x0: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    t = torch.randint(1000, (len(x0),), generator=generator)
    return t, torch.randn(x0.shape, generator=generator)


def _kernel_data(split: str) -> Callable[[int, Generator], Batch]:
    """Kernels made on the fly; train and test differ by their seed alone, for the generator does not repeat itself."""
    return lambda n, generator: (to_model_range(random_kernels(n, 32, generator)), None)


IMAGE_LABELS = ("faces", "cats", "photos", "any")


def _image_data(split: str) -> Callable[[int, Generator], Batch]:
    """Faces, cats and crops of photos in equal shares, flipped half the time; the test photos are `datasets.photos`."""
    faces, cats = (datasets.load(name, split).pixels for name in ("faces", "cats"))
    pictures = datasets.training_pictures() if split == "train" else datasets.photos().pixels

    def draw(n: int, generator: Generator) -> Batch:
        labels = torch.randint(3, (n,), generator=generator)
        x0 = torch.empty(n, 3, 64, 64)
        for label, pixels in ((0, faces), (1, cats), (2, pictures)):
            count = int((labels == label).sum())
            if count and isinstance(pixels, list):
                x0[labels == label] = datasets.random_crops(pixels, count, 64, generator)
            elif count:
                chosen = torch.randint(len(pixels), (count,), generator=generator)
                x0[labels == label] = pixels[chosen].float() / 127.5 - 1
        flip = torch.rand(n, generator=generator) < 0.5
        return torch.where(flip[:, None, None, None], x0.flip(-1), x0), labels

    return draw


RECIPES = {
    "kernel": Recipe(
        UNetConfig(32, 32, 1, 1, channel_mult=(1, 2, 4), attention_resolution=8, num_head_channels=32, patch=2),
        _kernel_data,
        images=120_000,
        velocity=Velocity(-0.98, 0.14),
        batch=32,
        sets="generated: pdm.degradations.random_kernels on a 32x32 canvas",
        terms="MIT, as the code",
    ),
    "image": Recipe(
        UNetConfig(
            64, 48, channel_mult=(1, 2, 4), attention_resolution=8, num_head_channels=48, num_classes=4, patch=2
        ),
        _image_data,
        images=120_000,
        velocity=Velocity(-0.11, 0.49),
        batch=16,
        labels=IMAGE_LABELS,
        sets="LFW deep-funneled faces, AFHQ v1 cats, BSDS500 / ImageNet / Sun-Hays 80 / Urban100 photographs, at 64x64",
        terms="research use: the photographs are for non-commercial research, the cats CC BY-NC 4.0",
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """The command line: train one committed prior to the end of its recipe, then write weights and card."""
    parser = argparse.ArgumentParser(prog="python -m pdm.training", description=main.__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--images", type=int, help="images to see in all (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=PRIORS, help="where weights and card go")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS)
    chosen = parser.parse_args(arguments)
    recipe = RECIPES[chosen.name]
    if chosen.images is not None:
        recipe = replace(recipe, images=chosen.images)
    for state in train(recipe, chosen.checkpoints / f"{chosen.name}.pt", chosen.seed):
        seen, loss, test_loss = state["curve"][-1]
        print(f"{seen:>9} images  loss {loss:.4f}  held out {test_loss:.4f}  {state['seconds']:.0f} s", flush=True)
    card = {
        "data": recipe.sets,
        "terms": recipe.terms,
        "labels": list(recipe.labels),
        "schedule": "linear, 1000 steps",
        "images_seen": state["seen"],
        "velocity": asdict(recipe.velocity),
        "loss": "mean squared error of the predicted velocity, time steps uniform",
        "curve": {
            "columns": ["images", "train", "held_out"],
            "rows": [[n, round(a, 5), round(b, 5)] for n, a, b in state["curve"]],
        },
        "batch": recipe.batch,
        "rate": recipe.rate,
        "ema": recipe.ema,
        "seed": chosen.seed,
        "seconds": round(state["seconds"]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {str(best_precision()).removeprefix('torch.')}",
        "torch": torch.__version__,
    }
    print(save_prior(chosen.name, state["ema"], card, chosen.folder))


if __name__ == "__main__":
    main()
