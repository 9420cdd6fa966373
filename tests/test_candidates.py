"""Networks compared at equal time."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from pdm.models import UNet, UNetConfig, Velocity
from pdm.paper import candidates
from pdm.train import loop, objectives
from pdm.train.recipes import RECIPES


def test_a_candidate_trains_for_the_time_that_it_is_given(monkeypatch):
    recipe = RECIPES["kernel"]
    tiny = UNetConfig(8, 8, 1, 1, (1,), attention_resolution=0, num_head_channels=8)

    def lines(split):
        return lambda n, generator: (torch.randn(n, 1, 8, 1, generator=generator).expand(n, 1, 8, 8), None)

    narrow = replace(recipe, network=tiny, data=lines, batch=4, velocity=Velocity(0.0, 1.0))
    ticks = iter(range(10**6))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(ticks)))  # a batch takes a constant time
    images = {seconds: candidates.images_within(narrow, seconds) for seconds in (10, 30)}
    assert images[30] == pytest.approx(3 * images[10], abs=3)
    test, _ = lines("test")(16, torch.Generator().manual_seed(1))
    row = candidates.network_row("narrow", narrow, 10, test)
    assert row["network"] == "narrow" and images[10] <= row["images"] < images[10] + 4
    assert row["parameters_m"] == pytest.approx(
        sum(p.numel() for p in UNet(narrow.network).parameters()) / 1e6, abs=0.01
    )
    bands = [f"t_{a}_{b}" for a, b in pairwise(objectives.BANDS)]
    assert list(row)[-8:] == bands and all(0 < row[band] < 3 for band in bands)
