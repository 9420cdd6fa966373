"""The VP process against loops in numpy, Bayes' rule in float64, and laws that every reverse step has to keep."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from pdm.models import Velocity
from pdm.schedule import Schedule, ancestral_step, ddim_step

JUMPS = [(999, 998), (999, 947), (500, 499), (500, 20), (2, 1), (1, 0), (999, 0)]


def scalar(value: float) -> torch.Tensor:
    return torch.full((1, 1), value, dtype=torch.float64)


def coefficients(step, schedule, t, s, predicted=None):
    """A step is linear in x_t, x0 and z: its three coefficients, as numbers."""
    unit = [[scalar(float(i == j)) for j in range(3)] for i in range(3)]
    return [step(schedule, x, x0, t, s, z, predicted).item() for x, x0, z in unit]


def bayes(schedule, t, s):
    """q(x_s | x_t, x0) by Bayes' rule from q(x_s | x0) and q(x_t | x_s): coefficients of x_t and x0, variance."""
    at, to = (np.prod(1 - schedule.betas.numpy()[: i + 1]) for i in (t, s))
    alpha = np.prod(1 - schedule.betas.numpy()[s + 1 : t + 1])
    assert at == pytest.approx(alpha * to, rel=1e-12)
    precision = 1 / (1 - to) + alpha / (1 - alpha)
    return math.sqrt(alpha) / (1 - alpha) / precision, math.sqrt(to) / (1 - to) / precision, 1 / precision


def test_linear_betas_and_their_products():
    schedule = Schedule.linear()
    assert len(schedule) == 1000 and schedule.betas.dtype == torch.float64
    assert schedule.betas[0].item() == pytest.approx(1e-4, rel=1e-12)
    assert schedule.betas[-1].item() == pytest.approx(2e-2, rel=1e-12)
    product, expected = 1.0, []
    for i in range(1000):
        product *= 1 - (1e-4 + (2e-2 - 1e-4) * i / 999)
        expected.append(product)
    np.testing.assert_allclose(schedule.alpha_bar.numpy(), [*expected, 1.0], rtol=1e-11)
    assert schedule.alpha_bar[-1] == 1


def test_linear_betas_of_another_length_diffuse_as_far():
    short = Schedule.linear(100)
    assert short.betas[[0, -1]].tolist() == pytest.approx([1e-3, 0.2], rel=1e-12)
    log_alpha_bar = [s.alpha_bar[-2].log().item() for s in (short, Schedule.linear())]
    assert log_alpha_bar[0] == pytest.approx(log_alpha_bar[1], rel=0.1)


@pytest.mark.parametrize("steps", [10, 1000])
def test_cosine_is_that_of_nichol_and_dhariwal(steps):
    def f(fraction):
        return math.cos((fraction + 0.008) / (1 + 0.008) * math.pi / 2) ** 2

    schedule = Schedule.cosine(steps)
    betas = [min(1 - f((i + 1) / steps) / f(i / steps), 0.999) for i in range(steps)]
    np.testing.assert_allclose(schedule.betas.numpy(), betas, rtol=1e-9)
    ideal = [f((i + 1) / steps) / f(0) for i in range(steps - 1)]  # the clip touches the last alone
    np.testing.assert_allclose(schedule.alpha_bar[:-2].numpy(), ideal, rtol=1e-9)


def test_pairs_of_twenty_steps_are_those_of_the_release():
    times = [999, 946, 894, 841, 789, 736, 684, 631, 578, 526, 473, 421, 368, 315, 263, 210, 158, 105, 53, 0]
    pairs = Schedule.linear().pairs(20)
    assert [t for t, _ in pairs] == times and [s for _, s in pairs] == [*times[1:], -1]


def test_pairs_of_one_two_and_all_steps():
    schedule = Schedule.linear()
    assert schedule.pairs(1) == [(999, -1)]
    assert schedule.pairs(2) == [(999, 0), (0, -1)]
    assert schedule.pairs() == schedule.pairs(1000) == [(t, t - 1) for t in range(999, -1, -1)]


def test_pairs_of_any_steps_are_an_even_unbroken_descent():
    schedule = Schedule.linear()
    for steps in [2, 3, 7, 20, 333, 501, 999, 1000]:
        pairs = schedule.pairs(steps)
        assert len(pairs) == steps and pairs[0][0] == 999 and pairs[-2][1] == 0 and pairs[-1] == (0, -1)
        assert all(before[1] == after[0] for before, after in pairwise(pairs))
        jumps = [t - s for t, s in pairs[:-1]]
        assert min(jumps) >= 1 and max(jumps) - min(jumps) <= 1


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.0, True, "20"])
def test_pairs_refuse_other_steps(steps):
    with pytest.raises(ValueError, match="1 to 1000"):
        Schedule.linear().pairs(steps)


@pytest.mark.parametrize(
    "betas",
    [
        torch.tensor([0.1, 0.2]),
        torch.tensor([[0.1]], dtype=torch.float64),
        torch.tensor([], dtype=torch.float64),
        torch.tensor([0.1, 1.0], dtype=torch.float64),
        torch.tensor([0.0, 0.1], dtype=torch.float64),
        torch.tensor([0.1, math.nan], dtype=torch.float64),
    ],
)
def test_schedule_refuses_other_betas(betas):
    with pytest.raises(ValueError, match="betas"):
        Schedule(betas)


def test_a_schedule_has_at_least_one_step():
    for make in (Schedule.linear, Schedule.cosine):
        with pytest.raises(ValueError, match="steps is 0"):
            make(0)


def test_alpha_bar_at_takes_a_time_or_one_per_sample_and_stays_float64():
    schedule, like = Schedule.linear(), torch.zeros(3, 2, 4, 4)
    assert schedule.alpha_bar_at(torch.tensor([7, 0, -1]), like).shape == (3, 1, 1, 1)
    values = schedule.alpha_bar_at(torch.tensor([7, 0, -1]), like).flatten().tolist()
    assert values == [schedule.alpha_bar_at(t, like).item() for t in (7, 0, -1)]
    assert schedule.alpha_bar_at(7, like).dtype == torch.float64
    for t in (-2, 1000, 1.0, torch.tensor([0, 1000, 0]), torch.zeros(1, 1, dtype=torch.long)):
        with pytest.raises(ValueError, match="time step"):
            schedule.alpha_bar_at(t, like)


def test_diffuse_makes_the_marginals_of_the_chain():
    """sqrt(1 - beta) x + sqrt(beta) z, step by step, has the mean and variance that diffuse jumps to."""
    schedule = Schedule.linear()
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(schedule.betas.tolist()):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        if t in (0, 10, 500, 999):
            assert schedule.diffuse(scalar(1.0), scalar(0.0), t).item() == pytest.approx(mean, rel=1e-10)
            assert schedule.diffuse(scalar(0.0), scalar(1.0), t).item() ** 2 == pytest.approx(variance, rel=1e-10)


def test_diffuse_and_tweedie_are_inverse_given_the_noise_one_time_per_sample():
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 1, 5, 5, generator=generator, dtype=torch.float64)
    schedule, t = Schedule.linear(), torch.tensor([0, 10, 500, 999])
    x = schedule.diffuse(x0, noise, t)
    torch.testing.assert_close(schedule.tweedie(x, noise, t), x0, rtol=0, atol=1e-10)
    assert torch.equal(x[2:3], schedule.diffuse(x0[2:3], noise[2:3], 500))
    assert schedule.diffuse(x0.float(), noise.float(), t).dtype == torch.float32


@pytest.mark.parametrize("t", [0, 1, 100, 500, 999])
def test_tweedie_is_the_posterior_mean_of_a_gaussian(t):
    mean, std = 0.7, 0.3
    schedule = Schedule.linear()
    alpha_bar = schedule.alpha_bar[t].item()
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None].requires_grad_()
    log_density = -((x - math.sqrt(alpha_bar) * mean) ** 2) / (alpha_bar * std**2 + 1 - alpha_bar) / 2
    (score,) = torch.autograd.grad(log_density.sum(), x)
    estimate = schedule.tweedie(x.detach(), -math.sqrt(1 - alpha_bar) * score, t)
    precision = 1 / std**2 + alpha_bar / (1 - alpha_bar)  # of x0 given x_t
    expected = (mean / std**2 + math.sqrt(alpha_bar) / (1 - alpha_bar) * x.detach()) / precision
    torch.testing.assert_close(estimate, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("t", "s"), JUMPS)
@pytest.mark.parametrize("step", [ancestral_step(), ddim_step(1.0)], ids=["ancestral", "ddim(1)"])
def test_ancestral_and_ddim_of_eta_one_are_the_exact_posterior(step, t, s):
    schedule = Schedule.linear()
    of_x, of_x0, of_z = coefficients(step, schedule, t, s)
    assert (of_x, of_x0, of_z**2) == pytest.approx(bayes(schedule, t, s), rel=1e-8)


def test_a_single_ancestral_step_has_the_coefficients_of_algorithm_1():
    schedule = Schedule.linear()
    for i in (1, 7, 999):
        beta, at, before = schedule.betas[i].item(), schedule.alpha_bar[i].item(), schedule.alpha_bar[i - 1].item()
        of_x, of_x0, _ = coefficients(ancestral_step(), schedule, i, i - 1)
        assert of_x == pytest.approx(math.sqrt(1 - beta) * (1 - before) / (1 - at), rel=1e-9)
        assert of_x0 == pytest.approx(math.sqrt(before) * beta / (1 - at), rel=1e-9)
        assert coefficients(ancestral_step("large"), schedule, i, i - 1)[2] == pytest.approx(math.sqrt(beta), rel=1e-9)


@pytest.mark.parametrize(("t", "s"), JUMPS)
def test_learned_variance_runs_from_small_to_large_on_a_log_scale(t, s):
    schedule = Schedule.linear()
    small, large = (coefficients(ancestral_step(v), schedule, t, s) for v in ("small", "large"))
    assert small[:2] == large[:2] and small[2] < large[2]
    for predicted, expected in ((-1, small[2]), (1, large[2]), (0, math.sqrt(small[2] * large[2]))):
        learned = coefficients(ancestral_step("learned"), schedule, t, s, scalar(predicted))
        assert learned == pytest.approx([*small[:2], expected], rel=1e-9)


@pytest.mark.parametrize("step", [ancestral_step(), *(ddim_step(eta) for eta in (0.0, 0.3, 1.0))])
@pytest.mark.parametrize(("t", "s"), JUMPS)
def test_given_the_true_x0_a_step_keeps_the_marginals(step, t, s):
    schedule = Schedule.linear()
    at, to = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    of_x, of_x0, of_z = coefficients(step, schedule, t, s)
    assert of_x * math.sqrt(at) + of_x0 == pytest.approx(math.sqrt(to), rel=1e-9)
    assert of_x**2 * (1 - at) + of_z**2 == pytest.approx(1 - to, rel=1e-9)


def test_the_noise_of_ddim_is_eta_times_the_posteriors():
    schedule = Schedule.linear()
    for t, s in JUMPS:
        full = coefficients(ancestral_step(), schedule, t, s)[2]
        for eta in (0.0, 0.3):
            assert coefficients(ddim_step(eta), schedule, t, s)[2] == pytest.approx(eta * full, rel=1e-9, abs=1e-15)


def test_ddim_of_eta_zero_maps_a_point_mass_exactly():
    generator = torch.Generator().manual_seed(1)
    x0, noise, z = torch.randn(3, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    schedule = Schedule.linear()
    for t, s in [*JUMPS, (999, -1), (0, -1)]:
        moved = ddim_step()(schedule, schedule.diffuse(x0, noise, t), x0, t, s, z)
        torch.testing.assert_close(moved, schedule.diffuse(x0, noise, s), rtol=0, atol=1e-10)


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_the_last_step_gives_x0_without_noise(variance):
    generator = torch.Generator().manual_seed(2)
    x, x0, z, predicted = torch.randn(4, 2, 1, 3, 3, generator=generator)
    for t in (0, 999):
        for step in (ancestral_step(variance), ddim_step(0.0), ddim_step(1.0)):
            torch.testing.assert_close(step(Schedule.linear(), x, x0, t, -1, z, predicted), x0)


def test_steps_keep_float32():
    x, x0, z, predicted = torch.randn(4, 2, 1, 3, 3, generator=torch.Generator().manual_seed(3))
    for step in (ancestral_step(), ancestral_step("large"), ancestral_step("learned"), ddim_step(0.5)):
        assert step(Schedule.linear(), x, x0, 500, 400, z, predicted).dtype == torch.float32


def test_steps_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="variance is 'medium'"):
        ancestral_step("medium")
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="eta"):
            ddim_step(eta)
    with pytest.raises(ValueError, match="learned"):
        ancestral_step("learned")(Schedule.linear(), scalar(0), scalar(0), 5, 4, scalar(0))


# ---- what a network may predict in place of noise ----


@pytest.mark.parametrize("t", [0, 300, 700, 999])
def test_velocity_and_noise_are_one_another(t):
    generator = torch.Generator().manual_seed(t)
    x0 = 0.3 + 0.2 * torch.randn(20_000, 1, dtype=torch.float64, generator=generator)
    noise = torch.randn(20_000, 1, dtype=torch.float64, generator=generator)
    schedule, velocity = Schedule.linear(), Velocity(0.3, 0.2)
    u = velocity.input(schedule, schedule.diffuse(x0, noise, t), t)
    v = velocity.target(schedule, x0, noise, t)
    torch.testing.assert_close(velocity.noise(schedule, u, v, t), noise)
    assert u.var().item() == pytest.approx(1, abs=0.05)
    assert v.var().item() == pytest.approx(1, abs=0.05)
    assert (u * v).mean().item() == pytest.approx(0, abs=0.05)  # what is to be learned is not in the input already


def test_velocity_of_standard_data_is_that_of_salimans_and_ho():
    x0, noise = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    schedule = Schedule.cosine()
    expected = (1 - schedule.alpha_bar[400]).sqrt() * x0 - schedule.alpha_bar[400].sqrt() * noise
    torch.testing.assert_close(Velocity(0.0, 1.0).target(schedule, x0, noise, 400), expected)


def test_an_error_in_the_velocity_never_leaves_the_denoised_estimate_worse_than_the_data_is_wide():
    schedule, velocity = Schedule.linear(), Velocity(0.0, 0.2)
    u, v = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 0.1, dtype=torch.float64)
    for t in (0, 300, 700, 999):
        error = velocity.noise(schedule, u, v, t) - velocity.noise(schedule, u, 0 * v, t)
        x0_error = schedule.tweedie(torch.zeros_like(u), error, t).abs().item()
        assert x0_error <= 0.1 * 0.2 * 1.001
