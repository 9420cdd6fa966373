"""Every method under one signature, on tiny random networks and on cases whose answer is known."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from pdm.constraints import l0, shift_and_divide
from pdm.data import gaussian_kernels
from pdm.guidance import DPS
from pdm.models import Prediction
from pdm.operators import blur
from pdm.paper.departures import blind_dps_whole_batch
from pdm.sampler import Component, final, sample
from pdm.schedule import Schedule
from pdm.study import deblurring
from pdm.study.deblurring import step_sizes
from pdm.study.problem import Measurement, measured


class Sure:
    """A prior that is sure of one signal, whatever it is shown."""

    def __init__(self, schedule, signal):
        self.schedule, self.signal, self.shape = schedule, signal, tuple(signal.shape)

    def __call__(self, x, t):
        return Prediction(self.signal + 0 * x)


def test_a_blind_method_looks_at_nothing_but_the_measurement(cases, priors):
    found = deblurring.blind_dps(Measurement(cases.measurement.y, (3, 4), canvas=(16, 16)), priors, 5)
    with_truth = deblurring.blind_dps(cases.given(["kernel"]), priors, 5)
    assert torch.equal(found.image, with_truth.image) and torch.equal(found.kernel, with_truth.kernel)
    assert (found.forward, found.backward) == (5, 5)


def test_blind_dps_is_the_loop_with_the_constraint_and_the_step_sizes(cases, priors):
    found = deblurring.blind_dps(cases.measurement, priors, 5, image_step=2.0, kernel_step=0.3)
    components = {
        "image": Component(priors["image"], (3, 32, 32)),
        "kernel": Component(priors["kernel"], (1, 16, 16), shift_and_divide),
    }
    guidance = DPS(cases.measurement.y, blur, step_sizes(5, 2.0, 0.3))
    last = final(sample(components, guidance, [3, 4], 5))
    assert torch.equal(found.image, last.theta["image"]) and torch.equal(found.kernel, last.theta["kernel"])
    known = deblurring.dps(cases.given(["kernel"]), priors, 5)
    guidance = DPS(cases.measurement.y, partial(blur, kernel=cases.truth.kernel), {"image": step_sizes(5)["image"]})
    last = final(sample({"image": components["image"]}, guidance, [3, 4], 5))
    assert torch.equal(known.image, last.theta["image"]) and known.kernel is None
    with pytest.raises(ValueError, match="wanted 'kernel' among them"):
        deblurring.dps(cases.measurement, priors, 5)


def test_blind_estimates_are_the_same_in_a_batch_and_alone(cases, priors):
    both, alone = (deblurring.blind_dps(c.measurement, priors, 3) for c in (cases, cases[1:]))
    for name in ("image", "kernel"):
        torch.testing.assert_close(both.values[name][1:], alone.values[name], rtol=0, atol=1e-3)
    assert both.kernel.sum((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_a_caller_sees_every_state(cases, priors):
    process = deblurring.blind_process(cases.measurement, priors, 4, deblurring.Settings())
    assert [state.s for state in process.states(cases.measurement, 4)] == [666, 333, 0, -1]


def test_a_penalty_counts_before_the_kernel_is_normalised_and_not_after(cases, priors):
    plain = deblurring.blind_dps(cases.measurement, priors, 5)
    before = deblurring.blind_dps(cases.measurement, priors, 5, penalty="l1", weight=5.0)
    after = deblurring.blind_dps(cases.measurement, priors, 5, penalty="l1", weight=5.0, penalty_after=True)
    assert not torch.allclose(before.kernel, plain.kernel, atol=1e-4)
    torch.testing.assert_close(
        after.kernel, plain.kernel, rtol=1e-3, atol=1e-5
    )  # its gradient is zero but for rounding
    other = deblurring.blind_dps(cases.measurement, priors, 5, penalty="l0", weight=5.0)
    assert not torch.allclose(other.kernel, before.kernel, atol=1e-4)
    with pytest.raises(ValueError, match="penalty is 'l2'; wanted one of 'l1', 'l0'"):
        deblurring.blind_dps(cases.measurement, priors, 5, penalty="l2")


def test_without_a_kernel_prior_the_kernel_goes_down_the_gradient_from_a_gaussian(cases):
    one = cases[:1]
    sure = {"image": Sure(Schedule.linear(), cases.truth.image[0])}
    seen = one.measurement
    still = deblurring.uniform_kernel(seen, sure, steps=3, kernel_step=0.0, std=2.0)
    torch.testing.assert_close(still.kernel, gaussian_kernels(1, 16, 2.0), rtol=1e-4, atol=1e-7)
    moved = deblurring.uniform_kernel(seen, sure, steps=200, image_step=0.0, kernel_step=2e-5, std=2.0)
    assert moved.kernel.sum().item() == pytest.approx(1, abs=1e-5) and moved.kernel.min() >= 0

    def count(kernel):
        return l0(2 * kernel / kernel.max() - 1).item()

    def residual(kernel):
        return (one.measurement.y - blur(one.truth.image, kernel)).norm().item()

    assert residual(moved.kernel) < 0.5 * residual(still.kernel)  # the image is known: nothing else can lower it
    sparse = deblurring.uniform_kernel(
        one.measurement, sure, steps=200, image_step=0.0, kernel_step=2e-5, weight=0.1, std=2.0
    )
    assert count(sparse.kernel) < 0.95 * count(moved.kernel)


def test_baselines_give_kernels_on_the_true_kernels_canvas(cases):
    for estimate in (
        deblurring.pan(cases[:1].measurement),
        deblurring.self_deblur_blind(cases[:1].measurement, steps=2),
    ):
        assert estimate.image.shape == (1, 3, 32, 32) and estimate.kernel.shape == (1, 1, 16, 16)
        assert estimate.kernel.sum().item() == pytest.approx(1, abs=1e-4)
    delta = torch.zeros(1, 1, 15, 15)
    delta[..., 7, 7] = 1
    image = cases.truth.image[:1]
    torch.testing.assert_close(blur(image, deblurring._on_canvas(delta, (16, 16))), image, rtol=0, atol=1e-5)
    dark, plain = (deblurring.pan(cases[:1].measurement, dark_channel=v) for v in (True, False))
    assert not torch.equal(dark.kernel, plain.kernel)


def test_wieners_filter_undoes_a_known_blur():
    rows = torch.linspace(0, 2 * math.pi, 48)
    truth = (0.6 * torch.sin(rows)[:, None] * torch.cos(2 * rows)).expand(1, 3, 48, 48)
    cases = measured(truth, gaussian_kernels(1, 16, 2.0), [0])
    estimate = deblurring.wiener_known_kernel(cases.given(["kernel"])).image
    assert estimate.shape == truth.shape and estimate.dtype == truth.dtype
    assert (estimate - truth).norm() < 0.7 * (cases.measurement.y - truth).norm()


def test_the_releases_batch_is_ours_for_one_image_and_no_larger_one(cases, priors):
    one = cases[:1].measurement
    plain, alone = deblurring.blind_dps(one, priors, 5), blind_dps_whole_batch(one, priors, 5)
    both = blind_dps_whole_batch(cases.measurement, priors, 5)
    torch.testing.assert_close(alone.image, plain.image, atol=1e-4, rtol=0)
    torch.testing.assert_close(alone.kernel, plain.kernel, atol=1e-5, rtol=0)
    assert (both.image[:1] - alone.image).abs().max() > 1e-3


def test_the_operator_has_the_boundary_of_the_measurement_unless_told(cases, priors):
    dark = measured(cases.truth.image, cases.truth.kernel, [3, 4], boundary="zero").measurement
    assert not torch.equal(dark.y, cases.measurement.y)
    own, told = deblurring.blind_dps(dark, priors, 5), deblurring.blind_dps(dark, priors, 5, boundary="zero")
    assert torch.equal(own.image, told.image) and (own.boundary, told.boundary) == (None, "zero")
    assert not torch.equal(own.image, deblurring.blind_dps(dark, priors, 5, boundary="reflect").image)


@pytest.mark.parametrize("method", [deblurring.dps, deblurring.uniform_kernel])
def test_the_boundary_reaches_every_method_by_diffusion(method, cases, priors):
    given = cases.given(["kernel"])
    seen, dark = (method(replace(given, boundary=b), priors, steps=5).image for b in ("reflect", "zero"))
    assert not torch.equal(seen, dark)


def test_wieners_filter_continues_the_measurement_as_the_cases_do():
    truth = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0)) - 0.5
    wrapped = measured(truth, gaussian_kernels(1, 9, 1.0), [0], boundary="circular")
    errors = {}
    for boundary in ("circular", "zero"):
        estimate = deblurring.wiener_known_kernel(replace(wrapped.given(["kernel"]), boundary=boundary)).image
        errors[boundary] = (estimate - truth).norm().item()
    assert errors["circular"] < errors["zero"]
