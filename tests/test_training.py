"""The training loop against exactly known optima, closed forms, and itself interrupted."""

import hashlib
import json
import os
from dataclasses import replace

import pytest
import torch

from pdm import datasets, training
from pdm.priors import GaussianMixture, NetworkPrior, load_prior
from pdm.schedule import Schedule, Velocity
from pdm.training import RECIPES, Recipe, denoising_loss, learning_rate, train
from pdm.unet import UNet, UNetConfig

SCHEDULE = Schedule.linear()
LINE = UNetConfig(8, 32, 1, 1, channel_mult=(1,), attention_resolution=0, num_head_channels=32, dims=1)
MEANS, WEIGHTS, STD = torch.tensor([-0.8, 0.8])[:, None, None].expand(2, 1, 8), torch.tensor([0.5, 0.5]), 0.1


@pytest.fixture(autouse=True)
def one_thread_of_float32(monkeypatch):
    monkeypatch.setattr(training, "best_precision", lambda: torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def two_levels(split: str):
    """Lines that lie around -0.8 or around 0.8 as a whole: the mixture whose best denoiser is known."""

    def draw(n: int, generator: torch.Generator):
        level = torch.randint(2, (n,), generator=generator)
        return MEANS[level] + STD * torch.randn(n, 1, 8, generator=generator), None

    return draw


TOY = Recipe(LINE, two_levels, images=320, batch=32)


def run(recipe: Recipe, checkpoint, **options) -> dict:
    return list(train(recipe, checkpoint, **{"held_out": 64, "points": 10} | options))[-1]


def same(one, other) -> bool:
    """Whether two trees of dicts and tensors are equal to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(v, other[k]) for k, v in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# ---- what is learned ----


def test_a_toy_is_learned_to_between_the_exact_optimum_and_the_best_constant(tmp_path):
    state = run(replace(TOY, images=12_800, batch=64, rate=2e-3, ema=0.99), tmp_path / "toy.pt", seed=1)
    generator = torch.Generator().manual_seed(77)
    x0, _ = two_levels("test")(600, generator)
    exact, network, constant, velocity = [], [], [], []
    for t in range(25, 1000, 50):
        noise = torch.randn(x0.shape, generator=generator)
        alpha_bar = SCHEDULE.alpha_bar[t].float()
        x = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
        best = GaussianMixture(SCHEDULE, MEANS, WEIGHTS, STD)(x, t).noise
        predicted = NetworkPrior(state["ema"], velocity=TOY.velocity)(x, t).noise
        for errors, estimate in ((exact, best), (network, predicted), (constant, noise.mean())):
            errors.append((estimate - noise).square().mean())
        velocity.append(network[-1] / alpha_bar)  # sin^2 is alpha_bar for data of variance 1
    exact, network, constant = (torch.stack(errors).mean() for errors in (exact, network, constant))
    velocity = torch.stack(velocity).mean().item()
    assert exact < network < exact + 0.2 * (constant - exact)
    assert state["curve"][-1][1:] == pytest.approx([velocity] * 2, rel=0.5)  # the recorded losses mean the same
    assert state["seen"] == state["curve"][-1][0] == 12_800
    assert len(state["curve"]) == 10


def test_the_loss_is_the_mean_square_of_what_is_left_of_the_velocity():
    x0, noise = torch.randn(2, 3, 1, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 400, 999])
    alpha_bar = SCHEDULE.alpha_bar[t].float()[:, None, None]
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    spread = (0.25 * alpha_bar + 1 - alpha_bar).sqrt()  # of x_t, for data of mean 0.3 and std 0.5
    u = (x_t - 0.3 * alpha_bar.sqrt()) / spread
    cos, sin = (1 - alpha_bar).sqrt() / spread, 0.5 * alpha_bar.sqrt() / spread
    v = (cos * u - noise) / sin  # from noise = cos u - sin v
    silent = UNet(LINE)  # zero-initialised
    for network, guess in ((silent, 0 * u), (lambda x, t, y: x, u)):
        loss = denoising_loss(network, SCHEDULE, Velocity(0.3, 0.5), x0, None, t, noise)
        torch.testing.assert_close(loss, (guess - v).square().mean((1, 2)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("images", [2_000, 120_000, 4_000_000])
def test_the_learning_rate_warms_up_stays_and_ends_at_zero(images):
    recipe = replace(TOY, images=images, rate=3e-4)
    warm, late = min(32_000, images / 20), 0.75 * images
    assert learning_rate(0, recipe) == 0
    assert learning_rate(images, recipe) == 0
    for share in (0.25, 0.5, 1.0):
        assert learning_rate(round(share * warm), recipe) == pytest.approx(share * 3e-4, rel=0.01)
        assert learning_rate(round(images - share * (images - late)), recipe) == pytest.approx(share * 3e-4)
    assert learning_rate(round((warm + late) / 2), recipe) == 3e-4


def spy(monkeypatch) -> tuple[list, list]:
    """The labels that the network sees while it trains, and while its held-out loss is measured."""
    trained, tested, loss = [], [], training.denoising_loss

    def watch(network, schedule, velocity, x0, labels, t, noise):
        (trained if torch.is_grad_enabled() else tested).append((x0[:, 0, 0], labels))
        return loss(network, schedule, velocity, x0, labels, t, noise)

    monkeypatch.setattr(training, "denoising_loss", watch)
    return trained, tested


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_labels_are_dropped_as_often_as_the_recipe_says_and_otherwise_kept(share, tmp_path, monkeypatch):
    def labelled(split):
        def draw(n, generator):
            labels = torch.randint(2, (n,), generator=generator)
            return labels[:, None, None].expand(n, 1, 8).float(), labels  # every pixel says the true label

        return draw

    config = replace(LINE, model_channels=4, num_classes=3)
    recipe = Recipe(config, labelled, images=1600, batch=32, labels=("a", "b", "any"), drop_label=share)
    trained, tested = spy(monkeypatch)
    run(recipe, tmp_path / "toy.pt", points=1)
    truth, seen = (torch.cat(v) for v in zip(*trained, strict=True))
    dropped = seen == 2
    assert len(seen) == 1600
    assert dropped.float().mean().item() == pytest.approx(share, abs=4 * (share * (1 - share) / 1600) ** 0.5)
    assert torch.equal(seen[~dropped], truth[~dropped].long())
    assert all(torch.equal(truth.long(), labels) for truth, labels in tested)


# ---- stopping and going on ----


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_interrupted_and_resumed_gives_the_same_to_the_bit(stop, tmp_path):
    whole = run(TOY, tmp_path / "whole.pt")
    states = train(TOY, tmp_path / "part.pt", save_seconds=0, held_out=64, points=10)
    for _ in range(stop + 1):  # the state of a step is written after it was yielded
        cut = next(states)
    states.close()
    kept = torch.load(tmp_path / "part.pt", weights_only=True)
    assert kept["seen"] == 32 * stop < cut["seen"]
    resumed = run(TOY, tmp_path / "part.pt")
    assert same(resumed["ema"].state_dict(), whole["ema"].state_dict())
    assert resumed["curve"] == whole["curve"]
    files = [torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "part")]
    for file in files:
        del file["seconds"]
    assert same(*files)
    assert not same(kept["ema"], files[0]["ema"])  # or the resumed one had nothing to do


def test_interrupted_between_two_points_the_curve_is_the_same_too(tmp_path):
    whole = run(TOY, tmp_path / "whole.pt", points=2)
    clock = iter(range(10**6))

    def killed(*arguments):
        if next(clock) == 3:
            raise KeyboardInterrupt
        return learning_rate(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "learning_rate", killed)
        run(TOY, tmp_path / "part.pt", points=2, save_seconds=0)
    resumed = run(TOY, tmp_path / "part.pt", points=2)
    assert same(resumed["ema"].state_dict(), whole["ema"].state_dict())
    assert resumed["curve"] == whole["curve"]


def test_a_finished_run_is_taken_up_and_left_as_it_is(tmp_path):
    done = run(TOY, tmp_path / "toy.pt")
    again = list(train(TOY, tmp_path / "toy.pt", held_out=64))
    assert len(again) == 1
    assert again[0]["curve"] == done["curve"]
    assert same(again[0]["ema"].state_dict(), done["ema"].state_dict())


def test_a_write_that_dies_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    states = train(TOY, tmp_path / "toy.pt", save_seconds=0, held_out=64, points=10)
    next(states), next(states)  # one checkpoint is there
    before, save = (tmp_path / "toy.pt").read_bytes(), torch.save

    def die(kept, path):
        save(kept, path)
        path.write_bytes(path.read_bytes()[:1000])
        raise OSError("disk full")

    monkeypatch.setattr(training.torch, "save", die)
    with pytest.raises(OSError, match="disk full"):
        next(states)
    assert (tmp_path / "toy.pt").read_bytes() == before
    monkeypatch.setattr(training.torch, "save", save)
    assert run(TOY, tmp_path / "toy.pt")["seen"] == 320
    assert [p.name for p in tmp_path.iterdir()] == ["toy.pt"]  # no .part is left


@pytest.mark.parametrize("change", [{"model_channels": 16}, {"image_size": 16}, {"num_head_channels": 16}])
def test_a_checkpoint_of_another_network_is_refused(change, tmp_path):
    run(TOY, tmp_path / "toy.pt")
    before = (tmp_path / "toy.pt").read_bytes()
    with pytest.raises(ValueError, match=r"toy\.pt is the checkpoint of another run.*'model_channels': 32"):
        run(replace(TOY, network=replace(LINE, **change)), tmp_path / "toy.pt")
    assert (tmp_path / "toy.pt").read_bytes() == before


def test_the_seed_decides_and_nothing_is_seeded_globally(tmp_path):
    state = torch.random.get_rng_state()
    weights = []
    for i, seed in enumerate((0, 0, 1)):
        torch.manual_seed(100 + i)
        before = torch.random.get_rng_state()
        weights.append(run(TOY, tmp_path / f"{i}.pt", seed=seed)["ema"].state_dict())
        assert torch.equal(torch.random.get_rng_state(), before)
    torch.random.set_rng_state(state)
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    broken = replace(TOY, data=lambda split: lambda n, generator: (torch.full((n, 1, 8), torch.inf), None))
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) after 0 images"):
        run(broken, tmp_path / "toy.pt")
    assert not (tmp_path / "toy.pt").exists()


# ---- the committed recipes ----


def tiny_kernel_run(tmp_path, monkeypatch, *arguments: str) -> dict:
    """`python -m pdm.training kernel` on a narrower network; returns the card."""
    recipe = RECIPES["kernel"]
    monkeypatch.setitem(RECIPES, "kernel", replace(recipe, network=replace(recipe.network, model_channels=8), batch=16))
    folders = ["--folder", str(tmp_path / "out"), "--checkpoints", str(tmp_path / "checkpoints")]
    training.main(["kernel", "--images", "32", *folders, *arguments])
    return json.loads((tmp_path / "out" / "kernel.json").read_text())


def test_the_command_line_leaves_a_prior_that_loads(tmp_path, monkeypatch, capsys):
    card = tiny_kernel_run(tmp_path, monkeypatch, "--seed", "5")
    path = tmp_path / "out" / "kernel.safetensors"
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (card["seed"], card["images_seen"], card["batch"]) == (5, 32, 16)
    assert [row[0] for row in card["curve"]["rows"]] == [16, 32]
    prior = load_prior("kernel", folder=tmp_path / "out", precision=torch.float32)
    kept = torch.load(tmp_path / "checkpoints" / "kernel.pt", weights_only=True)
    for name, weights in prior.network.state_dict().items():  # of the average, not of the network last trained
        torch.testing.assert_close(weights, kept["ema"][name], rtol=2**-11, atol=2**-25)
    assert not same(kept["ema"], kept["network"])
    x = torch.randn(2, *prior.shape)
    assert prior(x, 500).noise.shape == x.shape


def test_the_card_names_the_seed_that_the_weights_were_trained_with(tmp_path, monkeypatch):
    first = tiny_kernel_run(tmp_path, monkeypatch, "--seed", "0")
    try:
        second = tiny_kernel_run(tmp_path, monkeypatch, "--seed", "1")
    except ValueError:
        return  # refused, as the checkpoint of another network is
    assert second["seed"] == 0 or second["sha256"] != first["sha256"]


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


def fake_images(monkeypatch) -> None:
    """Faces, cats and photos that are told apart by their red, green and blue; red falls from left to right."""
    ramp = torch.arange(64, 0, -1, dtype=torch.uint8).expand(5, 3, 64, 64).clone()
    sets = {name: ramp + 60 * i for i, name in enumerate(("faces", "cats", "photos"))}
    of = {n: datasets.ImageSet(n, "test", v, tuple("abcde")) for n, v in sets.items()}
    monkeypatch.setattr(datasets, "load", lambda name, split: of[name])
    monkeypatch.setattr(datasets, "photos", lambda: of["photos"])
    monkeypatch.setattr(datasets, "training_pictures", lambda: list(sets["photos"]))


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
