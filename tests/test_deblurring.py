"""Every method under one signature, on tiny random networks and on cases whose answer is known."""

import math
import pickle
from dataclasses import replace

import pytest
import torch

from pdm import guidance
from pdm.constraints import l0
from pdm.data import gaussian_kernels
from pdm.models import Prediction
from pdm.operators import blur
from pdm.sampler import final
from pdm.schedule import Schedule
from pdm.study import deblurring, problem, score
from pdm.study.problem import blurred_cases


class Sure:
    """A prior that is sure of one signal, whatever it is shown: its noise is what leads there."""

    def __init__(self, schedule, signal):
        self.schedule, self.signal, self.shape, self.labels = schedule, signal, tuple(signal.shape), []

    def __call__(self, x, t):
        alpha_bar = self.schedule.alpha_bar[t]
        return Prediction((x - alpha_bar.sqrt().float() * self.signal) / (1 - alpha_bar).sqrt().float())


def test_cases_are_measurements_and_are_cut_together(cases):
    assert torch.equal(cases.measurement, problem.measure(cases.truth, cases.kernels, [3, 4]))
    second = cases[1:]
    assert len(pickle.dumps(cases[:1])) < 0.6 * len(pickle.dumps(cases))  # a part does not drag the rest along
    assert (len(second), second.names, second.seeds) == (1, ("b",), (4,))
    assert torch.equal(second.measurement, cases.measurement[1:])
    assert torch.equal(deblurring.blurred(cases).image, cases.measurement)
    with pytest.raises(ValueError, match=r"'seeds': 1.*wanted as many of each"):
        problem.Cases(cases.names, cases.truth, cases.measurement, cases.kernels, (3,))


def test_a_blind_method_needs_no_truth(cases, priors):
    found = deblurring.blind_dps(problem.unknown(cases.measurement, cases.seeds, canvas=16), steps=5)
    with_truth = deblurring.blind_dps(cases, steps=5)
    assert torch.equal(found.image, with_truth.image) and torch.equal(found.kernel, with_truth.kernel)
    for wrong, seeds, message in (
        (cases.measurement[0], [0], r"\(3, 32, 32\) and reaches to .*; wanted B C H W"),
        (127.5 * cases.measurement, [0, 1], "reaches to 1"),
        (cases.measurement * math.nan, [0, 1], "reaches to nan"),
        (cases.measurement, [0], r"'seeds': 1.*wanted as many of each"),
    ):
        with pytest.raises(ValueError, match=message):
            problem.unknown(wrong, seeds)


def test_blind_dps_is_algorithm_1_as_experiments_has_it(cases, priors):
    found = deblurring.blind_dps(cases, steps=5, label="faces", image_step=2.0, kernel_step=0.3)
    sizes = guidance.step_sizes(5, 2.0, 0.3)
    last = final(score.blind_dps(cases.measurement, priors["image"], priors["kernel"], cases.seeds, 5, sizes))
    assert torch.equal(found.image, last.theta["image"]) and torch.equal(found.kernel, last.theta["kernel"])
    assert ("image", "faces") in priors["asked"] and ("kernel", None) in priors["asked"]
    known = deblurring.dps(cases, steps=5)
    last = final(score.dps_known_kernel(cases.measurement, cases.kernels, priors["image"], cases.seeds, 5))
    assert torch.equal(known.image, last.theta["image"]) and known.kernel is None


def test_a_penalty_counts_before_the_kernel_is_normalised_and_not_after(cases, priors):
    plain = deblurring.blind_dps(cases, steps=5)
    before = deblurring.blind_dps(cases, steps=5, penalty="l1", weight=5.0)
    after = deblurring.blind_dps(cases, steps=5, penalty="l1", weight=5.0, penalty_after=True)
    assert not torch.allclose(before.kernel, plain.kernel, atol=1e-4)
    torch.testing.assert_close(
        after.kernel, plain.kernel, rtol=1e-3, atol=1e-5
    )  # its gradient is zero but for rounding
    other = deblurring.blind_dps(cases, steps=5, penalty="l0", weight=5.0)
    assert not torch.allclose(other.kernel, before.kernel, atol=1e-4)
    with pytest.raises(ValueError, match="no penalty is called 'l2'; there are l0, l1"):
        deblurring.blind_dps(cases, steps=5, penalty="l2")
    with pytest.raises(ValueError, match="no constraint is called 'sum'; there are projection, shift_and_divide"):
        deblurring.blind_dps(cases, steps=5, constraint="sum")


def test_without_a_kernel_prior_the_kernel_goes_down_the_gradient_from_a_gaussian(cases, monkeypatch):
    prior = Sure(Schedule.linear(), cases.truth[0])
    one = cases[:1]
    monkeypatch.setattr(deblurring, "load_prior", lambda name, label=None, device="cpu": prior)
    still = deblurring.uniform_kernel(one, steps=3, kernel_step=0.0, std=2.0)
    torch.testing.assert_close(still.kernel, gaussian_kernels(1, 16, 2.0), rtol=1e-4, atol=1e-7)
    moved = deblurring.uniform_kernel(one, steps=200, image_step=0.0, kernel_step=2e-5, std=2.0)
    assert moved.kernel.sum().item() == pytest.approx(1, abs=1e-5) and moved.kernel.min() >= 0

    def count(kernel):
        return l0(2 * kernel / kernel.max() - 1).item()

    def residual(kernel):
        return (one.measurement - blur(one.truth, kernel)).norm().item()

    assert residual(moved.kernel) < 0.5 * residual(still.kernel)  # the image is known: nothing else can lower it
    sparse = deblurring.uniform_kernel(one, steps=200, image_step=0.0, kernel_step=2e-5, weight=0.1, std=2.0)
    assert count(sparse.kernel) < 0.95 * count(moved.kernel)


def test_baselines_give_kernels_on_the_true_kernels_canvas(cases):
    for estimate in (deblurring.pan_blind(cases[:1]), deblurring.self_deblur_blind(cases[:1], steps=2)):
        assert estimate.image.shape == (1, 3, 32, 32) and estimate.kernel.shape == (1, 1, 16, 16)
        assert estimate.kernel.sum().item() == pytest.approx(1, abs=1e-4)
    delta = torch.zeros(1, 1, 15, 15)
    delta[..., 7, 7] = 1
    image = cases.truth[:1]
    torch.testing.assert_close(blur(image, deblurring._on_canvas(delta, 16)), image, rtol=0, atol=1e-5)
    dark, plain = (deblurring.pan_blind(cases[:1], dark_channel=v) for v in (True, False))
    assert not torch.equal(dark.kernel, plain.kernel)


def test_wieners_filter_undoes_a_known_blur():
    rows = torch.linspace(0, 2 * math.pi, 48)
    truth = (0.6 * torch.sin(rows)[:, None] * torch.cos(2 * rows)).expand(1, 3, 48, 48)
    cases = blurred_cases(truth, gaussian_kernels(1, 16, 2.0), [0])
    estimate = deblurring.wiener_known_kernel(cases).image
    assert estimate.shape == truth.shape and estimate.dtype == truth.dtype
    assert (estimate - truth).norm() < 0.7 * (cases.measurement - truth).norm()


def test_the_releases_batch_is_ours_for_one_image_and_no_larger_one(cases, priors):
    settings = {"steps": 5, "whole_batch": True}
    plain = deblurring.blind_dps(cases[:1], steps=5)
    alone, both = deblurring.blind_dps(cases[:1], **settings), deblurring.blind_dps(cases, **settings)
    torch.testing.assert_close(alone.image, plain.image, atol=1e-4, rtol=0)
    torch.testing.assert_close(alone.kernel, plain.kernel, atol=1e-5, rtol=0)
    assert (both.image[:1] - alone.image).abs().max() > 1e-3
    with pytest.raises(ValueError, match="whole_batch"):
        deblurring.blind_dps(cases, penalty="l1", **settings)


def test_the_operator_has_the_boundary_of_the_cases_unless_told(cases, priors):
    dark = blurred_cases(cases.truth, cases.kernels, cases.seeds, boundary="zero")
    assert torch.equal(dark.measurement, problem.measure(dark.truth, dark.kernels, dark.seeds, boundary="zero"))
    assert dark[:1].boundary == "zero" and dark[:1].sigma == dark.sigma
    truth = problem.Estimate(dark.truth, dark.kernels)
    noise = dark.measurement - problem.explained(truth, boundary=dark.boundary)
    assert noise.std().item() == pytest.approx(dark.sigma, rel=0.05)
    own, told = deblurring.blind_dps(dark, steps=5), deblurring.blind_dps(dark, steps=5, boundary="zero")
    assert torch.equal(own.image, told.image)
    assert not torch.equal(own.image, deblurring.blind_dps(dark, steps=5, boundary="reflect").image)


@pytest.mark.parametrize("method", [deblurring.dps, deblurring.uniform_kernel])
def test_the_boundary_reaches_every_method_by_diffusion(method, cases, priors):
    seen, dark = (method(replace(cases, boundary=boundary), steps=5).image for boundary in ("reflect", "zero"))
    assert not torch.equal(seen, dark)


def test_wieners_filter_continues_the_measurement_as_the_cases_do():
    truth = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0)) - 0.5
    wrapped = blurred_cases(truth, gaussian_kernels(1, 9, 1.0), [0], boundary="circular")
    errors = {}
    for boundary in ("circular", "zero"):
        estimate = deblurring.wiener_known_kernel(replace(wrapped, boundary=boundary)).image
        errors[boundary] = (estimate - truth).norm().item()
    assert errors["circular"] < errors["zero"]
