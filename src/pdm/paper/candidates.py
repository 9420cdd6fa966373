"""Which network for a prior? Candidates, each trained for the same time, so that a faster one sees more images."""

import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from pdm import checks
from pdm.models import NetworkPrior, best_precision
from pdm.train.loop import Recipe, train
from pdm.train.objectives import BANDS, band_losses
from pdm.train.recipes import RECIPES, network

IMAGE_NETWORKS = {  # candidates for the image prior: what varies in width, depth, patches and attention
    "width 48": RECIPES["image"].network,
    "width 32": network(64, 32, 3, num_classes=4),
    "width 64, multiples 1 2 2": network(64, 64, 3, num_classes=4, channel_mult=(1, 2, 2)),
    "width 48, 2 blocks a level": network(64, 48, 3, num_classes=4, num_res_blocks=2),
    "width 48, attention at 16": network(64, 48, 3, num_classes=4, attention_resolution=16),
    "width 96, patch 4": network(64, 96, 3, num_classes=4, channel_mult=(1, 2), patch=4),
}


def images_within(recipe: Recipe, seconds: float, seed: int = 0) -> int:
    """How many images a training by `recipe` sees in that time on this machine, by the pace of a trial.

    The trial takes an eighth of the time, because the first batches are no measure of a machine that has other work
    too. Raises: ValueError for seconds that are not above 0.
    """
    seconds = checks.number("seconds", seconds, above=0)

    def pace(images: int) -> float:  # images a second in the second half
        with tempfile.TemporaryDirectory() as folder:
            trial = replace(recipe, images=images)
            states = train(trial, Path(folder) / "trial.pt", seed, held_out=64, points=2)
            (half, begun), *_, (whole, ended) = ((state["seen"], state["seconds"]) for state in states)
        return (whole - half) / (ended - begun)

    few = 24 * recipe.batch
    steady = pace(max(few, int(pace(few) * seconds / 8)))
    return max(recipe.batch, int(seconds * steady))


def network_row(name: str, recipe: Recipe, seconds: float, test: Tensor) -> dict:
    """Train by `recipe` from nothing for about so many seconds: a row that says how far its network got.

    The losses, columns `t_LOW_HIGH`, are `band_losses` on the images `test`, N C *S, at the label "any"; `held_out` is
    the last of the loss curve.
    """
    checks.tensor("test", test, "N C *S")
    recipe = replace(recipe, images=images_within(recipe, seconds))
    with tempfile.TemporaryDirectory() as folder:
        *_, state = train(recipe, Path(folder) / "candidate.pt", points=4)
    prior = NetworkPrior(state["ema"], None, best_precision(), recipe.velocity)
    losses = {f"t_{a}_{b}": v for (a, b), v in zip(pairwise(BANDS), band_losses(prior, test), strict=True)}
    millions = sum(p.numel() for p in state["ema"].parameters()) / 1e6
    row = {"network": name, "parameters_m": round(millions, 2), "images": state["seen"], "seconds": state["seconds"]}
    return row | {"held_out": state["curve"][-1][2]} | losses
