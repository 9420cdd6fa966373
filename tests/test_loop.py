"""The training loop against exactly known optima, closed forms, and itself interrupted."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pdm.models import GaussianMixture, NetworkPrior, UNet, UNetConfig, Velocity
from pdm.models.seeded import seeded
from pdm.schedule import Schedule
from pdm.train import loop, objectives
from pdm.train.loop import Recipe, Start, learning_rate, train
from pdm.train.objectives import BANDS, band_losses, denoising_loss

SCHEDULE = Schedule.linear()
LINE = UNetConfig(8, 32, 1, 1, channel_mult=(1,), attention_resolution=0, num_head_channels=32, dims=1)
NARROW = replace(LINE, model_channels=4)  # where nothing has to be learned
MEANS, WEIGHTS, STD = torch.tensor([-0.8, 0.8])[:, None, None].expand(2, 1, 8), torch.tensor([0.5, 0.5]), 0.1


@pytest.fixture(autouse=True)
def one_thread_of_float32(monkeypatch):
    monkeypatch.setattr(loop, "best_precision", lambda: torch.float32)
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
    state = run(replace(TOY, images=9_600, batch=64, rate=2e-3, ema=0.98), tmp_path / "toy.pt", seed=1)
    generator = torch.Generator().manual_seed(77)
    x0, _ = two_levels("test")(600, generator)
    exact, network, constant, velocity = [], [], [], []
    for t in range(25, 1000, 50):
        noise = torch.randn(x0.shape, generator=generator)
        alpha_bar = SCHEDULE.alpha_bar[t].float()
        x = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
        best = SCHEDULE.noise_from(x, GaussianMixture(SCHEDULE, MEANS, WEIGHTS, STD)(x, t).x0, t)
        predicted, _ = NetworkPrior(state["ema"], velocity=TOY.velocity).predict(x, t)
        for errors, estimate in ((exact, best), (network, predicted), (constant, noise.mean())):
            errors.append((estimate - noise).square().mean())
        velocity.append(network[-1] / alpha_bar)  # sin^2 is alpha_bar for data of variance 1
    exact, network, constant = (torch.stack(errors).mean() for errors in (exact, network, constant))
    velocity = torch.stack(velocity).mean().item()
    assert exact < network < exact + 0.2 * (constant - exact)
    assert state["curve"][-1][1:] == pytest.approx([velocity] * 2, rel=0.5)  # the recorded losses mean the same
    assert state["seen"] == state["curve"][-1][0] == 9_600
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
    trained, tested, loss = [], [], objectives.denoising_loss

    def watch(network, schedule, velocity, x0, labels, t, noise):
        (trained if torch.is_grad_enabled() else tested).append((x0[:, 0, 0], labels))
        return loss(network, schedule, velocity, x0, labels, t, noise)

    monkeypatch.setattr(objectives, "denoising_loss", watch)
    return trained, tested


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_labels_are_dropped_as_often_as_the_recipe_says_and_otherwise_kept(share, tmp_path, monkeypatch):
    def labelled(split):
        def draw(n, generator):
            labels = torch.randint(2, (n,), generator=generator)
            return labels[:, None, None].expand(n, 1, 8).float(), labels  # every pixel says the true label

        return draw

    config = replace(NARROW, num_classes=3)
    recipe = Recipe(config, labelled, images=1600, batch=32, labels=("a", "b", "any"), drop_label=share)
    trained, tested = spy(monkeypatch)
    run(recipe, tmp_path / "toy.pt", points=1)
    truth, seen = (torch.cat(v) for v in zip(*trained, strict=True))
    dropped = seen == 2
    assert len(seen) == 1600
    assert dropped.float().mean().item() == pytest.approx(share, abs=4 * (share * (1 - share) / 1600) ** 0.5)
    assert torch.equal(seen[~dropped], truth[~dropped].long())
    assert all(torch.equal(truth.long(), labels) for truth, labels in tested)


def test_the_losses_of_the_bands_are_those_of_a_denoiser_that_is_known():
    """A network that says nothing of a velocity of data with its variance: the noise it means is cos u."""
    prior = NetworkPrior(UNet(NARROW), velocity=Velocity(0.0, 0.5))  # zero-initialised
    x0 = 0.5 * torch.randn(4000, 1, 8, generator=torch.Generator().manual_seed(1))
    found = band_losses(prior, x0, seed=2, batch=100)
    for loss, low, high in zip(found, BANDS, BANDS[1:], strict=False):
        alpha_bar = SCHEDULE.alpha_bar[low:high]
        assert loss == pytest.approx((0.25 * alpha_bar / (0.25 * alpha_bar + 1 - alpha_bar)).mean().item(), rel=0.08)
    assert band_losses(prior, x0[:80], seed=2) == band_losses(prior, x0[:80], seed=2, batch=10)
    for wrong in ({"bands": (0,)}, {"bands": (5, 5)}, {"bands": (0, 1001)}, {"x0": x0[:0]}, {"batch": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="wanted"):
            band_losses(**{"prior": prior, "x0": x0} | wrong)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_time_steps_lie_as_the_recipe_says(power, tmp_path, monkeypatch):
    seen, loss = [], objectives.denoising_loss

    def watch(network, schedule, velocity, x0, labels, t, noise):
        if torch.is_grad_enabled():
            seen.append(t)
        return loss(network, schedule, velocity, x0, labels, t, noise)

    monkeypatch.setattr(objectives, "denoising_loss", watch)
    run(replace(TOY, network=NARROW, images=6400, batch=128, time_power=power), tmp_path / "toy.pt", points=1)
    t = torch.cat(seen)
    assert t.min() >= 0 and t.max() <= 999
    for quantile in (0.1, 0.5, 0.9):
        assert t.double().quantile(quantile).item() == pytest.approx(1000 * quantile**power, abs=30)


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
        patch.setattr(loop, "learning_rate", killed)
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
    before, write = (tmp_path / "toy.pt").read_bytes(), Path.write_bytes

    def die(path, data):
        write(path, data[:1000])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", die)
    with pytest.raises(OSError, match="disk full"):
        next(states)
    assert (tmp_path / "toy.pt").read_bytes() == before
    monkeypatch.setattr(Path, "write_bytes", write)
    assert run(TOY, tmp_path / "toy.pt")["seen"] == 320
    assert [p.name for p in tmp_path.iterdir()] == ["toy.pt"]  # nothing unfinished is left


@pytest.mark.parametrize("change", [{"model_channels": 16}, {"image_size": 16}, {"num_head_channels": 16}])
def test_a_checkpoint_of_another_network_is_refused(change, tmp_path):
    run(TOY, tmp_path / "toy.pt")
    before = (tmp_path / "toy.pt").read_bytes()
    with pytest.raises(ValueError, match=r"toy\.pt is the checkpoint of another run.*'model_channels': 32"):
        run(replace(TOY, network=replace(LINE, **change)), tmp_path / "toy.pt")
    assert (tmp_path / "toy.pt").read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"batch": 16}, {"rate": 1e-3}, {"ema": 0.9}, {"time_power": 2.0}, {"drop_label": 0.5}]
)
def test_a_checkpoint_of_another_recipe_is_refused(change, tmp_path):
    run(TOY, tmp_path / "toy.pt")
    with pytest.raises(ValueError, match=r"toy\.pt is the checkpoint of another run"):
        run(replace(TOY, images=640, **change), tmp_path / "toy.pt")
    with pytest.raises(ValueError, match=r"toy\.pt has seen 320 images already; wanted 160 or less"):
        run(replace(TOY, images=160), tmp_path / "toy.pt")


def test_a_finished_run_whose_last_batch_went_beyond_is_taken_up_as_finished(tmp_path):
    first, again = (run(replace(TOY, images=310), tmp_path / "toy.pt") for _ in range(2))
    assert first["seen"] == again["seen"] == 320 and first["seconds"] == again["seconds"]


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


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode", "float64", "meta device"])
def test_the_callers_modes_change_nothing(mode, tmp_path):
    plain = run(TOY, tmp_path / "plain.pt")
    dtype, state = torch.get_default_dtype(), torch.random.get_rng_state()
    around = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(mode, nullcontext)
    with around(), torch.device("meta") if mode == "meta device" else nullcontext():
        try:
            torch.set_default_dtype(torch.float64 if mode == "float64" else dtype)
            states = train(TOY, tmp_path / "other.pt", save_seconds=0, held_out=64, points=10)
            next(states), next(states), states.close()
            assert torch.get_default_dtype() == (torch.float64 if mode == "float64" else dtype)
            other = run(TOY, tmp_path / "other.pt")
        finally:
            torch.set_default_dtype(dtype)
    assert same(other["ema"].state_dict(), plain["ema"].state_dict()) and other["curve"] == plain["curve"]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_weights_are_drawn_by_their_seed_and_no_other_device_is_seeded(monkeypatch):
    torch.manual_seed(3)
    wanted, state = UNet(LINE).state_dict(), torch.random.get_rng_state()

    def touched(*_):
        raise AssertionError("the generators of a GPU were touched")

    for name in ("manual_seed", "manual_seed_all", "set_rng_state", "get_rng_state"):
        monkeypatch.setattr(torch.cuda, name, touched)
    with seeded(np.int64(3)):
        found = UNet(LINE).state_dict()
    assert same(found, wanted) and torch.equal(torch.random.get_rng_state(), state)
    for wrong in (-1, 0.5, True, None):
        with pytest.raises(ValueError, match=r"seed is .*; wanted a whole number, 0 or more"), seeded(wrong):
            pass


@pytest.mark.parametrize("wrong", [{"images": 0}, {"batch": 1.5}, {"rate": -1}, {"ema": 1.0}, {"drop_label": 2}])
def test_a_recipe_that_cannot_be_is_refused_with_its_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(TOY, **wrong)


def test_wrong_counts_are_refused_before_any_work_and_numpys_are_plain(tmp_path):
    for wrong in ({"seed": -1}, {"held_out": 63}, {"points": 0}, {"save_seconds": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            train(TOY, tmp_path / "toy.pt", **wrong)
    with pytest.raises(ValueError, match="velocity is None"):
        replace(TOY, velocity=None)
    kept = run(replace(TOY, images=np.int64(320), batch=np.int64(32)), tmp_path / "toy.pt", seed=np.int64(0))
    assert same(run(TOY, tmp_path / "toy.pt")["ema"].state_dict(), kept["ema"].state_dict())  # one and the same run


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    broken = replace(TOY, data=lambda split: lambda n, generator: (torch.full((n, 1, 8), torch.inf), None))
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) after 0 images"):
        run(broken, tmp_path / "toy.pt")
    assert not (tmp_path / "toy.pt").exists()


# ---- going on from weights ----


def start_of(state: dict, sha256: str = "abc") -> Start:
    return Start(state["ema"].state_dict(), sha256, state["seen"], state["curve"])


def test_going_on_begins_with_the_weights_and_counts_their_images(tmp_path):
    first = run(TOY, tmp_path / "first.pt", points=2)
    longer = replace(TOY, images=640, rate=1e-9)  # so slow that the weights stay what they were
    second = run(longer, tmp_path / "second.pt", start=start_of(first), points=4)
    assert second["seen"] == 640
    assert second["curve"][:2] == first["curve"]
    assert [row[0] for row in second["curve"]] == [160, 320, 480, 640]
    for name, weights in second["ema"].state_dict().items():
        torch.testing.assert_close(weights, first["ema"].state_dict()[name], rtol=0, atol=1e-6)


def test_going_on_draws_other_samples_and_warms_up_anew(tmp_path, monkeypatch):
    first_seen, _ = spy(monkeypatch)
    first = run(TOY, tmp_path / "first.pt")
    drawn = [x for x, _ in first_seen]
    first_seen.clear()
    run(replace(TOY, images=640), tmp_path / "second.pt", start=start_of(first))
    assert not any(torch.equal(x, y) for x, _ in first_seen for y in drawn)
    longer = replace(TOY, images=640, rate=3e-4)
    assert learning_rate(320, longer, 320) == learning_rate(640, longer, 320) == 0
    assert learning_rate(480, longer, 320) == 3e-4


def test_going_on_interrupted_gives_the_same_and_belongs_to_its_weights(tmp_path):
    start, longer = start_of(run(TOY, tmp_path / "first.pt")), replace(TOY, images=640)
    whole = run(longer, tmp_path / "whole.pt", start=start)
    states = train(longer, tmp_path / "part.pt", save_seconds=0, held_out=64, points=10, start=start)
    next(states), next(states), states.close()
    resumed = run(longer, tmp_path / "part.pt", start=start)
    assert same(resumed["ema"].state_dict(), whole["ema"].state_dict())
    assert resumed["curve"] == whole["curve"]
    for other in (None, replace(start, sha256="def")):
        with pytest.raises(ValueError, match=r"part\.pt is the checkpoint of another run"):
            run(longer, tmp_path / "part.pt", start=other)
