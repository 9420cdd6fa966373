"""The committed recipes: their data, their networks, and the command that trains them."""

import hashlib
import json
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from pdm import data
from pdm.data import TILT_BOUND, splits
from pdm.models import UNet, Velocity, load_prior
from pdm.train import __main__ as command
from pdm.train import loop, recipes, sources
from pdm.train.recipes import RECIPES, train_prior


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr(loop, "best_precision", lambda: torch.float32)


def few_kernels(split: str):
    """A sixteenth of the samples that are asked for, over and over: to draw kernels is what costs most here."""

    def draw(n: int, generator: torch.Generator):
        return sources.kernels(-(-n // 16), generator).repeat_interleave(16, 0)[:n], None

    return draw


def tiny_kernel_run(tmp_path, monkeypatch, *arguments: str) -> dict:
    """`python -m pdm.train kernel` on a narrower network; returns the card."""
    recipe = RECIPES["kernel"]
    narrow = replace(recipe.network, model_channels=8, num_head_channels=8)
    monkeypatch.setitem(RECIPES, "kernel", replace(recipe, network=narrow, batch=16, data=few_kernels))
    folders = ["--folder", str(tmp_path / "out"), "--checkpoints", str(tmp_path / "checkpoints")]
    assert command.main(["kernel", "--images", "32", *folders, *arguments]) == 0
    return json.loads((tmp_path / "out" / "kernel.json").read_text())


def test_the_command_line_leaves_a_prior_that_loads(tmp_path, monkeypatch, capsys):
    card = tiny_kernel_run(tmp_path, monkeypatch, "--seed", "5")
    path = tmp_path / "out" / "kernel.safetensors"
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["images_seen"] == 32
    assert [(r["seed"], r["images"], r["batch"]) for r in card["runs"]] == [(5, 32, 16)]
    assert [row[0] for row in card["curve"]["rows"]] == [16, 32]
    prior = load_prior("kernel", folder=tmp_path / "out", precision=torch.float32)
    assert not list((tmp_path / "checkpoints").iterdir())
    x = torch.randn(2, *prior.shape)
    assert prior(x, 500).x0.shape == x.shape


def test_what_is_written_is_the_average_of_the_weights(tmp_path, monkeypatch):
    tiny_kernel_run(tmp_path, monkeypatch)
    folders = {"folder": tmp_path / "other", "checkpoints": tmp_path / "checkpoints"}
    *_, state = train_prior("kernel", 32, **folders)
    prior = load_prior("kernel", precision=torch.float32, folder=tmp_path / "other")
    written = prior.network.state_dict()
    for name, weights in state["ema"].state_dict().items():
        torch.testing.assert_close(written[name], weights, rtol=2**-11, atol=2**-25)


def test_a_finished_training_begins_anew_and_its_card_names_its_seed(tmp_path, monkeypatch):
    first, second, third = (tiny_kernel_run(tmp_path, monkeypatch, "--seed", seed) for seed in "010")
    assert [card["runs"][0]["seed"] for card in (first, second, third)] == [0, 1, 0]
    assert first["sha256"] == third["sha256"] != second["sha256"]


def test_going_on_adds_to_the_weights_and_to_the_card(tmp_path, monkeypatch):
    first = tiny_kernel_run(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"'kernel' has seen 32 images already"):
        list(train_prior("kernel", 32, folder=tmp_path / "out", checkpoints=tmp_path, go_on=True))
    second = tiny_kernel_run(tmp_path, monkeypatch, "--go-on", "--images", "64")
    assert (second["images_seen"], [run["images"] for run in second["runs"]]) == (64, [32, 32])
    assert second["curve"]["rows"][: len(first["curve"]["rows"])] == first["curve"]["rows"]
    assert second["sha256"] != first["sha256"]
    monkeypatch.setitem(RECIPES, "kernel", replace(RECIPES["kernel"], velocity=Velocity(0.0, 1.0)))
    with pytest.raises(ValueError, match=r"the weights of 'kernel' are not of the recipe's network"):
        list(train_prior("kernel", 96, folder=tmp_path / "out", checkpoints=tmp_path, go_on=True))


def test_a_network_that_is_to_fool_a_critic_begins_with_the_one_that_regression_made(tmp_path, monkeypatch):
    fake_images(monkeypatch)
    for name in ("deblur_regression", "deblur_adversarial"):
        narrow = replace(RECIPES[name].network, model_channels=8, num_head_channels=8)
        monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], network=narrow, rate=1e-9))
    monkeypatch.setattr(recipes, "train", partial(loop.train, held_out=64))  # VGG16 sees each of them
    folders = {"folder": tmp_path, "checkpoints": tmp_path / "checkpoints"}
    with pytest.raises(ValueError, match=r"no prior is called .deblur_regression."):
        list(train_prior("deblur_adversarial", 32, **folders))
    *_, before = train_prior("deblur_regression", 16, seed=1, **folders)
    *_, after = train_prior("deblur_adversarial", 32, **folders)
    for one, other in zip(after["ema"].parameters(), before["ema"].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=2**-10, atol=1e-6)  # at this rate it stays where it was
    card = json.loads((tmp_path / "deblur_adversarial.json").read_text())
    assert card["images_seen"] == 32 and [row[0] for row in card["curve"]["rows"]] == [32]
    assert [run.get("began_with") for run in card["runs"]] == [None, "deblur_regression"]
    with pytest.raises(ValueError, match=r"'deblur_regression' has seen 16 images already"):
        list(train_prior("deblur_adversarial", 16, **folders))


def test_numpys_numbers_are_taken_and_wrong_ones_refused_at_the_door(tmp_path, monkeypatch):
    card = tiny_kernel_run(tmp_path, monkeypatch)
    folders = {"folder": tmp_path / "numpy", "checkpoints": tmp_path / "checkpoints"}
    list(train_prior("kernel", np.int64(32), seed=np.int64(0), rate=np.float64(4e-4), **folders))
    same = json.loads((tmp_path / "numpy" / "kernel.json").read_text())
    assert same["sha256"] == card["sha256"] and same["images_seen"] == 32
    for wrong in ({"images": 0}, {"images": 2.5}, {"seed": -1}, {"seed": "0"}, {"rate": float("nan")}, {"rate": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            next(train_prior("kernel", folder=tmp_path / "wrong", checkpoints=tmp_path, **wrong))
    with pytest.raises(ValueError, match="name is 'dogs'; wanted one of"):
        recipes.is_trained("dogs")
    assert not (tmp_path / "wrong").exists()


def test_an_unknown_recipe_is_refused():
    with pytest.raises(
        ValueError, match=r"no recipe is called 'dogs'; there are deblur_adversarial, deblur_regression, digits, image"
    ):
        next(train_prior("dogs"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_network_fits_its_labels_and_its_size(name):
    recipe = RECIPES[name]
    assert len(recipe.labels) == (recipe.network.num_classes or 0)
    assert recipe.sets and recipe.terms
    with torch.device("meta"):
        net = UNet(recipe.network)
    assert sum(p.numel() for p in net.parameters()) * 2 < 30 * 2**20  # bytes in float16


@pytest.mark.parametrize("split", ["train", "test"])
def test_kernel_data_are_kernels_in_the_models_range(split):
    x0, labels = RECIPES["kernel"].data(split)(20, torch.Generator().manual_seed(3))
    assert labels is None
    assert x0.shape == (20, 1, 32, 32)
    assert torch.equal(x0.amax((1, 2, 3)), torch.ones(20))
    assert x0.amin() == -1


def test_tilt_data_are_fields_in_the_models_range_and_digits_have_their_labels():
    x0, labels = RECIPES["tilt"].data("train")(64, torch.Generator().manual_seed(3))
    assert labels is None and x0.shape == (64, 2, 64, 64)
    assert x0.abs().max() <= 1
    assert 0.4 < (TILT_BOUND * x0).square().mean().sqrt() < 1
    digits = data.digits("test")
    x0, labels = RECIPES["digits"].data("test")(50, torch.Generator().manual_seed(3))
    for image, label in zip(x0, labels, strict=True):
        (found,) = ((digits.images - image).abs().amax((1, 2, 3)) < 1e-6).nonzero()[:1, 0].tolist()
        assert digits.labels[found] == label


@pytest.mark.parametrize("name", ["kernel", "tilt", "digits"])
def test_a_recipes_velocity_holds_the_mean_and_spread_of_its_data(name):
    x0, _ = RECIPES[name].data("train")(400, torch.Generator().manual_seed(5))
    velocity = RECIPES[name].velocity
    assert velocity.mean == pytest.approx(x0.mean().item(), abs=0.03)
    assert velocity.std == pytest.approx(x0.std().item(), rel=0.1)


def fake_images(monkeypatch) -> None:
    """Faces, cats and photos that are told apart by their red, green and blue; red falls from left to right."""
    ramp = torch.arange(64, 0, -1, dtype=torch.uint8).expand(5, 3, 64, 64).clone()  # five of each
    sets = {name: ramp + 60 * i for i, name in enumerate(("faces", "cats", "photos"))}
    of = {n: data.ImageSet(n, "test", v, tuple("abcde")) for n, v in sets.items()}
    monkeypatch.setattr(data, "load", lambda name, split: of[name])
    monkeypatch.setattr(splits, "training_pictures", lambda: list(sets["photos"]))


def test_every_sixteenth_photograph_is_held_out(monkeypatch):
    fake_images(monkeypatch)
    levels = [torch.full((3, 64, 64), i, dtype=torch.uint8) for i in range(40)]
    monkeypatch.setattr(splits, "training_pictures", lambda: levels)
    for split, wanted in (("test", {0, 16, 32}), ("train", set(range(40)) - {0, 16, 32})):
        x0, labels = RECIPES["image"].data(split)(1500, torch.Generator().manual_seed(0))
        assert {round(v) for v in ((x0[labels == 2][:, 0, 0, 0] + 1) * 127.5).tolist()} == wanted


@pytest.mark.parametrize("split", ["train", "test"])
def test_image_data_are_a_third_each_with_their_own_label_and_mirrored_half_the_time(split, monkeypatch):
    fake_images(monkeypatch)
    x0, labels = RECIPES["image"].data(split)(900, torch.Generator().manual_seed(0))
    levels = (x0.mean((1, 2, 3)) + 1) * 127.5
    assert torch.equal(((levels - 32.5) / 60).round().long(), labels)
    assert labels.bincount() / 900 == pytest.approx([1 / 3] * 3, abs=0.07)
    for label in range(3):
        falls = (x0[labels == label][..., 0] > x0[labels == label][..., -1]).float().mean().item()
        assert falls == pytest.approx(0.5, abs=0.13)


@pytest.mark.skipif(not os.environ.get("PDM_DATA"), reason="PDM_DATA names no folder with faces and cats")
def test_image_data_come_from_the_real_sets():
    x0, labels = RECIPES["image"].data("test")(48, torch.Generator().manual_seed(0))
    assert x0.shape == (48, 3, 64, 64)
    assert set(labels.tolist()) == {0, 1, 2}
    assert x0.abs().max() <= 1
    assert x0.flatten(1).std(1).min() > 0.01


def test_image_sets_are_spread_over_their_set_and_never_of_another_split(monkeypatch):
    wheels = data.image_set("wheels", "test", 7)
    assert wheels.shape == (7, 3, 64, 64)
    assert torch.equal(wheels[0], data.photos().images[0]) and torch.equal(wheels[-1], data.photos().images[-1])
    assert len(data.image_set("wheels", "test", 1000)) == 112
    levels = [torch.full((3, 64, 64), i, dtype=torch.uint8) for i in range(40)]
    monkeypatch.setattr(splits, "training_pictures", lambda: levels)
    crops = ((data.image_set("photos", "test", 100)[:, 0, 0, 0] + 1) * 127.5).round()
    assert set(crops.tolist()) == {0, 16, 32}
    for arguments, message in (
        (("dogs", "test", 5), "wanted faces, cats, photos or wheels"),
        (("wheels", "train", 5), "has no split 'train'"),
        (("wheels", "all", 5), "split 'all'"),
        (("wheels", "test", 0), "n is 0; wanted"),
    ):
        with pytest.raises(ValueError, match=message):
            data.image_set(*arguments)


def test_what_a_table_is_measured_on_has_the_names_of_its_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PDM_DATA", str(tmp_path))
    images, names = data.test_set("photos", 16)
    every = data.photos()
    assert len(names) == 16 and torch.equal(images[4], every.images[every.names.index(names[4])])
    assert len({name.split("_")[0] for name in names}) == 7  # the wheels' pictures take turns
    assert data.at_hand(["faces", "photos", "cats"]) == ["photos"]
    shown = capsys.readouterr().out
    assert "without faces: " in shown and "without cats: " in shown
    with pytest.raises(ValueError, match="domain is 'dogs'; wanted one of 'faces', 'cats', 'photos'"):
        data.at_hand(["dogs"])


def test_weights_are_the_recipes_when_they_have_its_network_and_its_images(tmp_path, monkeypatch):
    assert not recipes.is_trained("kernel", tmp_path / "out")
    tiny_kernel_run(tmp_path, monkeypatch)
    assert not recipes.is_trained("kernel", tmp_path / "out")  # 32 images of the recipe's many
    monkeypatch.setitem(RECIPES, "kernel", replace(RECIPES["kernel"], images=32))
    assert recipes.is_trained("kernel", tmp_path / "out")
    monkeypatch.setitem(RECIPES, "kernel", replace(RECIPES["kernel"], network=RECIPES["image"].network))
    assert not recipes.is_trained("kernel", tmp_path / "out")
