"""Networks trained on pairs: what they minimise, that they learn it, and that an interruption costs nothing."""

from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch

from pdm.baselines import supervised
from pdm.models import NetworkPrior, UNet, UNetConfig
from pdm.train import loop
from pdm.train.loop import Recipe, train
from pdm.train.objectives import Adversarial, Regression, charbonnier
from pdm.train.recipes import RECIPES
from pdm.train.sources import random_blur, random_turbulence

TINY = UNetConfig(16, 8, 3, 3, channel_mult=(1,), attention_resolution=0, num_head_channels=8, patch=2)


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr(loop, "best_precision", lambda: torch.float32)


def flat_images(split: str):
    def draw(n: int, generator: torch.Generator):
        return (torch.rand(n, 3, 1, 1, generator=generator) - 0.5).expand(n, 3, 16, 16).clone(), None

    return draw


def darker(x0: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return x0 - 0.4 + 0.01 * torch.randn(x0.shape, generator=generator)


def recipe(objective: type, images: int = 64) -> Recipe:
    return Recipe(
        TINY,
        flat_images,
        images,
        velocity=None,
        batch=8,
        rate=2e-3,
        ema=0.9,
        objective=partial(objective, degrade=darker),
    )


def test_charbonniers_penalty_is_the_absolute_value_away_from_zero():
    x = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    torch.testing.assert_close(charbonnier(x, 1e-3), torch.tensor([3.5, 1e-3]), rtol=1e-6, atol=1e-6)


def test_what_is_restored_is_the_measurement_and_what_the_network_adds():
    network = UNet(TINY)
    y = 0.3 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(supervised.restore(NetworkPrior(network), y), y)  # its last layer begins at zero
    torch.nn.init.constant_(network.out[-1].bias, 0.25)
    torch.testing.assert_close(supervised.restore(NetworkPrior(network), y), y + 0.25)


@pytest.mark.parametrize("objective", [Regression, Adversarial])
def test_a_degradation_that_can_be_undone_is_undone(objective, tmp_path):
    states = list(train(recipe(objective, 960), tmp_path / "net.pt", held_out=64, points=4))
    x0, _ = flat_images("test")(16, torch.Generator().manual_seed(9))
    y = darker(x0, torch.Generator().manual_seed(10))
    restored = supervised.restore(NetworkPrior(states[-1]["ema"]), y)
    assert (restored - x0).abs().mean() < 0.5 * (y - x0).abs().mean()
    assert states[-1]["curve"][-1][2] < 0.5 * states[0]["curve"][0][2]


@pytest.mark.parametrize("degrade", [random_blur, random_turbulence])
def test_the_pairs_do_not_depend_on_the_precision_of_the_network(degrade):
    x0, seen = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), []

    def watched(x0: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(degrade(x0, generator))
        return seen[-1]

    objective, network = Regression(recipe(Regression), watched), UNet(replace(TINY, image_size=64))
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            objective(network, x0, None, torch.Generator().manual_seed(1))
    assert torch.equal(*seen)


def test_interrupted_and_resumed_the_critic_goes_on_as_it_was(tmp_path):
    options = {"held_out": 64, "points": 4}
    *_, whole = train(recipe(Adversarial), tmp_path / "whole.pt", **options)
    states = train(recipe(Adversarial), tmp_path / "cut.pt", save_seconds=0, **options)
    list(islice(states, 2))
    states.close()
    *_, resumed = train(recipe(Adversarial), tmp_path / "cut.pt", **options)
    assert resumed["curve"] == whole["curve"]
    for one, other in zip(whole["ema"].parameters(), resumed["ema"].parameters(), strict=True):
        assert torch.equal(one, other)
    kept = torch.load(tmp_path / "cut.pt", weights_only=True)["objective"]
    assert not any("seen" in name for name in kept)  # VGG16 is not ours to keep


def test_the_critic_learns_in_training_and_is_left_alone_by_measuring():
    torch.manual_seed(0)
    objective, network = Adversarial(recipe(Adversarial), darker), UNet(TINY)
    x0, _ = flat_images("train")(8, torch.Generator().manual_seed(1))
    before = [p.clone() for p in objective.critic.parameters()]
    plain = objective.eval()(network, x0, None, torch.Generator().manual_seed(2))
    assert all(torch.equal(a, b) for a, b in zip(before, objective.critic.parameters(), strict=True))
    loss = objective.train()(network, x0, None, torch.Generator().manual_seed(2))
    assert not any(
        torch.equal(a, b) for a, b in zip(before[::2], list(objective.critic.parameters())[::2], strict=True)
    )
    assert loss.shape == plain.shape == (8,) and (loss > plain).all()
    held = [None if p.grad is None else p.grad.clone() for p in objective.critic.parameters()]
    loss.mean().backward()  # the network's step: none of it may reach the critic
    assert network.out[-1].weight.grad.abs().sum() > 0
    for was, p in zip(held, objective.critic.parameters(), strict=True):
        assert torch.equal(was, p.grad)


@pytest.mark.parametrize("name", [f"{a}_{b}" for a in ("deblur", "turbulence") for b in ("regression", "adversarial")])
def test_the_recipes_pairs_are_blurred_and_noisy(name):
    objective = RECIPES[name].objective(replace(RECIPES[name], network=TINY))
    x0 = torch.nn.functional.interpolate(torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5, 64)
    y = objective.degrade(x0, torch.Generator().manual_seed(1))
    assert y.shape == x0.shape and (y - x0).flatten(1).norm(dim=1).min() > 0.5 * 0.02 * 110
    flat = torch.zeros(40, 3, 64, 64)
    assert objective.degrade(flat, torch.Generator().manual_seed(1)).std().item() == pytest.approx(0.02, rel=0.05)
