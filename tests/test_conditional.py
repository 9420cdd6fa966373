"""What a measurement's spectrum tells of its kernel, and the prior that sees it."""

import json
from dataclasses import replace

import pytest
import torch

from pdm.constraints import to_model_range
from pdm.data import gaussian_kernels, motion_kernels
from pdm.models import NetworkPrior, UNet, UNetConfig, Velocity, blur_features, load_prior, power_spectrum, save_prior
from pdm.models.conditional import ConditionalPrior
from pdm.operators import blur
from pdm.schedule import Schedule
from pdm.train import loop, recipes, sources
from pdm.train.objectives import ConditionalDenoising, Denoising
from pdm.train.recipes import RECIPES, train_prior

CARD = {"velocity": {"mean": 0.0, "std": 1.0}, "condition": "blur_features"}


def scenes(n: int, size: int) -> torch.Tensor:
    """Random fields with the spectrum of photographs, 1 / frequency^2 in power."""
    frequency = (torch.fft.fftfreq(size)[:, None] ** 2 + torch.fft.rfftfreq(size) ** 2).sqrt().clamp(min=1 / size)
    white = torch.fft.rfft2(torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(0)))
    field = torch.fft.irfft2(white / frequency, s=(size, size))
    return field / field.std()


def tiny(**changes) -> UNet:
    torch.manual_seed(0)
    config = UNetConfig(32, 8, 4, 1, (1, 2), attention_resolution=0, num_head_channels=8, patch=2)
    network = UNet(replace(config, **changes))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def test_the_spectrum_of_gradients_is_the_kernel_s():
    kernel = gaussian_kernels(1, 15, 1.5)
    power = power_spectrum(blur(scenes(8, 256), kernel, "circular")).mean(0)[0]
    wrapped = torch.zeros(64, 64)
    wrapped[:15, :15] = kernel[0, 0]
    truth = torch.fft.fft2(wrapped).abs().square()
    middle = truth > 0.01  # below, what the taper leaks
    middle[:2, :2] = False
    ratio = (power / truth)[middle]
    assert ratio.std() / ratio.mean() < 0.25


def test_neither_contrast_nor_brightness_changes_the_spectrum_and_size_only_averages():
    y = scenes(2, 128)
    torch.testing.assert_close(power_spectrum(0.5 * y + 0.2), power_spectrum(y), rtol=1e-3, atol=1e-4)
    assert power_spectrum(y).shape == power_spectrum(y[..., :64, :100]).shape == (2, 1, 64, 64)
    parts = [y[..., i : i + 64, j : j + 64] for i in (0, 32, 64) for j in (0, 32, 64)]
    mean = torch.stack([power_spectrum(part) * (part - part.mean((-2, -1), keepdim=True)).var() for part in parts])
    assert torch.corrcoef(torch.stack([mean.mean(0).flatten(), power_spectrum(y).flatten()]))[0, 1] > 0.9


def test_the_autocorrelation_of_the_kernel_is_seen():
    kernels = motion_kernels(6, 32, 0.5, torch.Generator().manual_seed(3))
    y = blur(scenes(1, 512).expand(6, -1, -1, -1), kernels, "circular")
    seen = blur_features(power_spectrum(y))[:, 0]
    spectrum = torch.fft.rfft2(kernels[:, 0], s=(64, 64)).abs().square()
    truth = torch.fft.fftshift(torch.fft.irfft2(spectrum), dim=(-2, -1))[:, 16:48, 16:48]
    match = torch.corrcoef(torch.cat([seen.clamp(max=1).flatten(1), truth.flatten(1)]))[:6, 6:]
    assert match.argmax(1).tolist() == list(range(6))


def test_a_photo_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="64"):
        power_spectrum(torch.zeros(1, 3, 63, 64))


@pytest.mark.parametrize(
    "power, message",
    [
        (torch.full((1, 1, 64, 64), -1.0), "power has the minimum -1; wanted .* 0 or more"),
        (torch.ones(1, 1, 64, 33), r"power is .*64, 33\).*wanted B 1 64 64"),
        (torch.ones(1, 3, 64, 64), "wanted B 1 64 64"),
        (torch.ones(1, 1, 64, 64).half(), "torch.float16.*float32 or float64"),
    ],
)
def test_what_is_no_power_spectrum_is_refused(power, message):
    with pytest.raises(ValueError, match=message):
        blur_features(power)


def test_a_photo_without_contrast_has_a_spectrum_of_nothing():
    power = power_spectrum(torch.zeros(1, 3, 64, 64))
    assert not power.any() and blur_features(power).isfinite().all()


def test_the_condition_is_seen_by_the_network_and_by_no_other_sample():
    prior = ConditionalPrior(tiny(), torch.float32, Velocity(0.0, 1.0), Schedule.linear())
    y, x = scenes(2, 64), torch.randn(2, 1, 32, 32)
    given = prior.given(y)
    assert given.shape == (1, 32, 32)
    both = given(x, 300).x0
    for i in range(2):
        torch.testing.assert_close(both[i, None], prior.given(y[i, None])(x[i, None], 300).x0)
    assert not torch.allclose(both, prior.given(y.flip(0))(x, 300).x0)
    one_for_all = prior.given(y[:1])(x, 300).x0
    torch.testing.assert_close(one_for_all[0], both[0])
    with pytest.raises(ValueError, match="3 samples"):
        given(torch.randn(3, 1, 32, 32), 300)


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="wanted 4 or 8"):
        NetworkPrior(tiny())
    with pytest.raises(ValueError, match="wanted 2 or 4"):
        NetworkPrior(tiny(), condition=torch.zeros(1, 2, 32, 32))


@pytest.mark.parametrize(
    "condition, message",
    [(torch.full((2, 3, 32, 32), torch.nan), "condition holds"), (torch.zeros(3, 32, 32), "condition is")],
)
def test_a_condition_that_is_none_is_refused(condition, message):
    with pytest.raises(ValueError, match=message):
        NetworkPrior(tiny(), None, condition=condition)


def test_a_card_tells_that_a_prior_is_conditional(tmp_path):
    save_prior("k", tiny(), CARD, tmp_path)
    assert isinstance(load_prior("k", folder=tmp_path), ConditionalPrior)
    save_prior("k", tiny(), CARD | {"condition": "something"}, tmp_path)
    with pytest.raises(ValueError, match="condition 'something'; wanted 'blur_features'"):
        load_prior("k", folder=tmp_path)


def test_only_the_kernel_is_noised_in_training():
    objective, recipe = ConditionalDenoising(RECIPES["kernel_given_y"]), RECIPES["kernel_given_y"]
    seen = []

    class Spy(torch.nn.Module):
        config = recipe.network

        def forward(self, x, t, labels):
            seen.append(x)
            return x[:, :1]

    x0 = torch.randn(8, 4, 32, 32)
    loss = objective(Spy(), x0, None, torch.Generator().manual_seed(0))
    assert loss.shape == (8,)
    torch.testing.assert_close(seen[0][:, 1:], x0[:, 1:])
    plain = Denoising(recipe)(lambda x, t, labels: x, x0[:, :1], None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, plain)


def test_the_source_pairs_kernels_with_what_they_blur(monkeypatch):
    monkeypatch.setattr(sources, "images", lambda split: lambda n, g: (scenes(n, 64).expand(-1, 3, -1, -1), None))
    x0, labels = sources.blurred_kernels("train")(6, torch.Generator().manual_seed(1))
    assert x0.shape == (6, 4, 32, 32) and labels is None
    assert x0[:, 0].amax((1, 2)).tolist() == [1.0] * 6 and x0[:, 0].min() == -1
    assert x0[:, 1:].abs().max() <= 3


def test_training_begins_with_the_kernel_prior_and_leaves_the_condition_out_at_first(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "best_precision", lambda: torch.float32)
    recipe = RECIPES["kernel_given_y"]
    narrow = replace(recipe.network, model_channels=8, num_head_channels=8)

    def few(split):
        return lambda n, g: (torch.cat([sources.kernels(n, g), torch.randn(n, 3, 32, 32, generator=g)], 1), None)

    monkeypatch.setitem(RECIPES, "kernel_given_y", replace(recipe, network=narrow, batch=16, data=few))
    kernel = UNet(replace(narrow, in_channels=1))
    for parameter in kernel.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    card = {"images_seen": 100, "velocity": {"mean": -0.98, "std": 0.14}, "curve": {"rows": []}, "runs": []}
    save_prior("kernel", kernel, card, tmp_path, torch.float32)
    start, config = recipes.widened(recipes.start_from("kernel", tmp_path), kernel.config.as_dict(), 4)
    assert config == narrow.as_dict()
    wide = UNet(narrow)
    wide.load_state_dict(start.weights)
    x, t = torch.randn(2, 4, 32, 32), torch.tensor([5, 500])
    torch.testing.assert_close(wide(x, t), kernel(x[:, :1], t))
    for _ in train_prior("kernel_given_y", 132, folder=tmp_path, checkpoints=tmp_path):
        pass
    card = json.loads((tmp_path / "kernel_given_y.json").read_text(encoding="utf-8"))
    assert card["condition"] == "blur_features" and card["runs"][-1]["began_with"] == "kernel"
    prior = load_prior("kernel_given_y", folder=tmp_path, precision=torch.float32)
    kernels = to_model_range(motion_kernels(2, 32, 0.5, torch.Generator().manual_seed(0)))
    assert prior.given(scenes(2, 64))(kernels, 100).x0.shape == (2, 1, 32, 32)
