"""Networks compared at equal time."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from pdm.models import UNet
from pdm.paper import candidates
from pdm.train import loop, objectives
from pdm.train.recipes import RECIPES


def test_a_candidate_trains_for_the_time_that_it_is_given(monkeypatch):
    recipe = RECIPES["kernel"]
    narrow = replace(recipe, network=replace(recipe.network, model_channels=8, num_head_channels=8), batch=4)
    ticks = iter(range(10**6))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(ticks)))  # a batch takes a constant time
    images = {seconds: candidates.images_within(narrow, seconds) for seconds in (10, 30)}
    assert images[30] == pytest.approx(3 * images[10], abs=3)
    test, _ = recipe.data("test")(16, torch.Generator().manual_seed(1))
    row = candidates.network_row("narrow", narrow, 10, test)
    assert row["network"] == "narrow" and images[10] <= row["images"] < images[10] + 4
    assert row["parameters_m"] == pytest.approx(
        sum(p.numel() for p in UNet(narrow.network).parameters()) / 1e6, abs=0.01
    )
    bands = [f"t_{a}_{b}" for a, b in pairwise(objectives.BANDS)]
    assert list(row)[-8:] == bands and all(0 < row[band] < 2 for band in bands)
