"""What the notebooks share: steps, residuals, and rows of tables, on tiny random networks."""

import math

import pytest
import torch
from conftest import tiny

from pdm import metrics
from pdm.models import GaussianMixture
from pdm.operators import blur
from pdm.sampler import Component, State, final, sample
from pdm.schedule import Schedule, ddim_step
from pdm.study import deblurring, priors, progress, score, tables
from pdm.study.problem import Estimate


def test_step_sizes_add_up_to_the_same_whatever_the_number_of_steps():
    schedule = Schedule.linear()
    constant = deblurring.step_sizes(250, 0.3, 0.2, constant=True)
    assert constant == pytest.approx({"image": 1.2, "kernel": 0.8})
    sums = []
    for steps in (100, 1000):
        size = deblurring.step_sizes(steps)["image"]
        values = [float(size(t)) if callable(size) else size for t, _ in schedule.pairs(steps)]
        assert values == sorted(values)  # sqrt(alpha_bar) grows on the way down
        sums.append(sum(values))
    assert sums[0] == pytest.approx(sums[1], rel=0.02)


def test_the_step_of_the_kernel_fades_with_the_last_of_the_noise():
    kept, fading = (deblurring.step_sizes(500, fade=fade)["kernel"] for fade in (0, 100))
    assert [fading(t) / kept(t) for t in (999, 100, 50, 10)] == pytest.approx([1, 1, 0.5, 0.1])
    assert fading(0) == 0 < kept(0)
    assert kept(300) == pytest.approx(1.2 * Schedule.linear().alpha_bar[300].sqrt().item())
    with pytest.raises(ValueError, match="fade is -1"):
        deblurring.step_sizes(500, fade=-1)


def test_the_residual_of_noise_alone_is_about_one_times_the_noise(cases):
    y, truth = cases.measurement.y, cases.truth
    ratio = score.residual_ratio((y - blur(truth.image, truth.kernel)).flatten(1).norm(dim=1), y, 0.02)
    assert ratio.tolist() == pytest.approx([1, 1], abs=0.06)
    assert not score.has_diverged(ratio).any()
    assert score.has_diverged(torch.tensor([2.9, 3.1, math.nan, math.inf])).tolist() == [False, True, True, True]


def test_figures_are_what_the_metrics_say_and_none_where_there_is_nothing_to_say(cases):
    truth = cases.truth
    near = Estimate({"image": truth.image + 0.02, "kernel": truth.kernel})
    rows = score.figures(near, cases)
    assert [row["psnr"] for row in rows] == pytest.approx(metrics.psnr(truth.image + 0.02, truth.image).tolist())
    assert [row["mnc"] for row in rows] == pytest.approx([1, 1]) and all(row["tilt_epe"] is None for row in rows)
    assert [row["diverged"] for row in rows] == [False, False]
    alone = score.figures(Estimate({"image": truth.image}), cases)[0]
    assert (alone["mnc"], alone["kernel_mse"], alone["residual_ratio"], alone["diverged"]) == (None,) * 4
    assert score.figures(Estimate({"image": truth.image * math.nan}), cases)[0]["diverged"] is True
    other_canvas = Estimate({"image": truth.image, "kernel": truth.kernel[..., 1:, 1:]})
    assert score.figures(other_canvas, cases)[0]["kernel_mse"] is None


def test_the_states_kept_are_evenly_spaced_and_the_last_is_among_them():
    states = [State(t, t - 1, {}, {}, {}) for t in range(99, -1, -1)]
    kept = progress.keep(iter(states), 5, 100)
    assert [s.t for s in kept] == [80, 60, 40, 20, 0]
    assert progress.keep(iter(states), 1, 100)[-1].t == 0
    assert len(list(progress.progress(iter(states), 100))) == 100


def test_without_noise_no_residual_is_expected():
    with pytest.raises(ValueError, match="sigma is 0"):
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
