"""What the notebooks share: steps, residuals, and rows of tables, on tiny random networks."""

import math

import pytest
import torch

from pdm import data, guidance
from pdm.data import add_noise, motion_kernels
from pdm.models import GaussianMixture, NetworkPrior, UNet, UNetConfig
from pdm.operators import blur
from pdm.sampler import Component, State, final, sample, stream
from pdm.schedule import Schedule, ddim_step
from pdm.study import priors, problem, progress, score, tables


def tiny(size: int, channels: int, **others) -> NetworkPrior:
    torch.manual_seed(0)
    config = {"channel_mult": (1,), "attention_resolution": 0, "num_head_channels": 8, "patch": 4} | others
    network = UNet(UNetConfig(size, 8, channels, channels, **config))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return NetworkPrior(network)


@pytest.fixture(scope="module")
def scene() -> dict:
    generator = torch.Generator().manual_seed(1)
    truth = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8, generator=generator) * 1.6 - 0.8, 32)
    kernels = motion_kernels(2, 16, 0.5, generator)
    return {"truth": truth, "kernels": kernels, "priors": (tiny(32, 3), tiny(16, 1))}


def state(loss: torch.Tensor, image: torch.Tensor, kernel: torch.Tensor) -> State:
    return State(0, -1, {}, {}, {"image": image, "kernel": kernel}, loss)


def test_a_measurement_is_the_blur_and_a_noise_of_each_ones_seed(scene):
    both = problem.measure(scene["truth"], scene["kernels"], [3, 4], sigma=0.1)
    alone = problem.measure(scene["truth"][1:], scene["kernels"][1:], [4], sigma=0.1)
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-6)
    expected = add_noise(blur(scene["truth"], scene["kernels"])[0], 0.1, stream(3, "measurement"))
    torch.testing.assert_close(both[0], expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="1 seeds for 2 images"):
        problem.measure(scene["truth"], scene["kernels"], [3])


def test_step_sizes_add_up_to_the_same_whatever_the_number_of_steps():
    schedule = Schedule.linear()
    constant = guidance.step_sizes(250, 0.3, 0.2, constant=True)
    assert constant == pytest.approx({"image": 1.2, "kernel": 0.8})
    sums = []
    for steps in (100, 1000):
        size = guidance.step_sizes(steps)["image"]
        values = [float(size(t)) if callable(size) else size for t, _ in schedule.pairs(steps)]
        assert values == sorted(values)  # sqrt(alpha_bar) grows on the way down
        sums.append(sum(values))
    assert sums[0] == pytest.approx(sums[1], rel=0.02)


def test_the_step_of_the_kernel_fades_with_the_last_of_the_noise():
    kept, fading = (guidance.step_sizes(500, fade=fade)["kernel"] for fade in (0, 100))
    assert [fading(t) / kept(t) for t in (999, 100, 50, 10)] == pytest.approx([1, 1, 0.5, 0.1])
    assert fading(0) == 0 < kept(0)
    assert kept(300) == pytest.approx(1.2 * Schedule.linear().alpha_bar[300].sqrt().item())
    with pytest.raises(ValueError, match="fade is -1; wanted 0 or more"):
        guidance.step_sizes(500, fade=-1)


def test_the_residual_of_noise_alone_is_about_one_times_the_noise(scene):
    measurement = problem.measure(scene["truth"], scene["kernels"], [3, 4])
    residual = (measurement - blur(scene["truth"], scene["kernels"])).flatten(1).norm(dim=1)
    ratio = score.residual_ratio(residual, measurement)
    assert ratio.tolist() == pytest.approx([1, 1], abs=0.06)
    assert not score.has_diverged(ratio).any()
    assert score.has_diverged(torch.tensor([2.9, 3.1, math.nan, math.inf])).tolist() == [False, True, True, True]


def test_the_states_kept_are_evenly_spaced_and_the_last_is_among_them():
    states = [State(t, t - 1, {}, {}, {}) for t in range(99, -1, -1)]
    kept = progress.keep(iter(states), 5, 100)
    assert [s.t for s in kept] == [80, 60, 40, 20, 0]
    assert progress.keep(iter(states), 1, 100)[-1].t == 0
    assert len(list(progress.progress(iter(states), 100))) == 100


def test_blind_estimates_are_the_same_in_a_batch_and_alone(scene):
    measurement = problem.measure(scene["truth"], scene["kernels"], [3, 4])
    both = final(score.blind_dps(measurement, *scene["priors"], [3, 4], 3))
    alone = final(score.blind_dps(measurement[1:], *scene["priors"], [4], 3))
    for name in ("image", "kernel"):
        torch.testing.assert_close(both.theta[name][1:], alone.theta[name], rtol=0, atol=1e-3)
    assert both.theta["kernel"].sum((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-5)
    for call in (score.blind_dps, score.dps_known_kernel):
        with pytest.raises(ValueError, match=r"wanted \[-1, 1\]"):
            next(iter(call(100 * measurement, *scene["priors"], [3, 4], 3)))


def test_rows_hold_every_metric_and_a_share_of_the_time(scene):
    truth, kernels = scene["truth"], scene["kernels"]
    table = score.score("perfect", ["a", "b"], 2 * truth - truth, truth, kernels, kernels, seconds=3.0)
    assert list(table.columns) == ["image", "method", "psnr", "ssim", "lpips", "mnc", "kernel_mse", "seconds"]
    assert table.psnr.tolist() == [math.inf] * 2 and table.lpips.abs().max() < 1e-6
    assert table.mnc.tolist() == pytest.approx([1, 1]) and table.seconds.tolist() == [1.5, 1.5]
    assert score.score("image alone", ["a", "b"], truth, truth)[["mnc", "kernel_mse"]].isna().all(axis=None)


def test_the_noise_is_not_made_of_the_numbers_that_a_kernel_or_a_tilt_of_the_same_seed_is():
    noise = data.noisy(torch.zeros(1, 3, 64, 64), [7], 1.0).flatten()
    white = torch.randn(40_000, generator=torch.Generator().manual_seed(7))
    assert torch.isin(noise, white).float().mean() < 0.01


def test_without_noise_no_residual_is_expected():
    with pytest.raises(ValueError, match="sigma is 0; wanted it above 0"):
        score.residual_ratio(torch.ones(1), torch.zeros(1, 3, 8, 8), 0)


def test_a_target_is_met_within_its_bounds():
    row = tables.target_row("06", "MNC", 0.91, least=0.9)
    assert row == {"notebook": "06", "claim": "MNC", "measured": 0.91, "wanted": ">= 0.9", "met": True}
    assert not tables.target_row("06", "MNC", 0.89, least=0.9)["met"]
    assert tables.target_row("03", "ratio", 1.0, 0.95, 1.05)["wanted"] == ">= 0.95 and <= 1.05"
    assert not tables.target_row("03", "ratio", math.nan, most=1.05)["met"]
    with pytest.raises(ValueError, match="wanted a bound"):
        tables.target_row("03", "ratio", 1.0)


def test_a_draw_depends_on_its_seed_alone():
    prior = tiny(32, 3)
    both, alone = priors.sample_prior(prior, [5, 6], 3), priors.sample_prior(prior, [6], 3)
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-3)
    assert both.abs().max() <= 1 and (both[0] - both[1]).abs().max() > 0.01


def test_a_draw_keeps_the_spread_of_a_narrow_gaussian():
    class Narrow(GaussianMixture):
        shape = (2,)

    std = 0.05
    prior = Narrow(Schedule.linear(), torch.zeros(1, 2), torch.ones(1), std)
    found = priors.sample_prior(prior, range(2000), 50)
    even = final(sample({"x": Component(prior, (2,))}, None, range(2000), 50, step=ddim_step()))
    assert found.std().item() == pytest.approx(std, rel=0.1)
    assert even.theta["x"].std() < 0.9 * found.std()


def test_a_draw_wants_a_step_at_least():
    with pytest.raises(ValueError, match="wanted whole numbers"):
        priors.sample_prior(tiny(32, 3), [5], 0)
