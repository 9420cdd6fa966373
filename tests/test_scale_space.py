"""Gaussian scale-space: against direct convolution, waves of known frequency, and Algorithm 1 itself."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.ndimage import gaussian_filter

from pdm.data import motion_kernels
from pdm.models import load_prior
from pdm.paper import scale_space
from pdm.paper.scale_space import closest_blur, predicted_std, pyramid_stds, radial_power, renoise
from pdm.schedule import Schedule
from pdm.study import deblurring
from pdm.study.problem import measured

SCHEDULE = Schedule.linear()


def pictures(n=2, size=32, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def cases(n=2):
    truth = torch.nn.functional.avg_pool2d(pictures(n, 128), 2)
    kernels = motion_kernels(n, 32, 0.5, torch.Generator().manual_seed(1))
    return measured(truth, kernels, range(n))


def gaussian_blur(x, std):
    """By the Fourier transform of the picture with its mirror images, in which no cosine is taken."""
    height, width = x.shape[-2:]
    mirrored = torch.cat([x, x.flip(-1)], dim=-1).double()
    mirrored = torch.cat([mirrored, mirrored.flip(-2)], dim=-2)
    down, across = (torch.fft.fftfreq(2 * n, dtype=torch.float64) for n in (height, width))
    passed = torch.exp(-2 * (math.pi * std) ** 2 * (down[:, None].square() + across.square()))
    return torch.fft.ifft2(torch.fft.fft2(mirrored) * passed).real[..., :height, :width].to(x)


@pytest.mark.parametrize("std", [1.5, 2.0, 5.0])
def test_a_convolution_with_a_gaussian_is_found(std):
    """The step of the grid is a factor of 1.07."""
    x = pictures(1)
    blurred = gaussian_filter(x.numpy(), (0, 0, std, std), mode="reflect", truncate=8)
    (found,), (distance,), _ = closest_blur(torch.from_numpy(blurred), x)
    assert found.item() == pytest.approx(std, rel=0.04) and distance < 0.02
    torch.testing.assert_close(gaussian_blur(x, std), torch.from_numpy(blurred), atol=2e-3, rtol=0)


@pytest.mark.parametrize("index", [0, 20, 45])
def test_the_closest_blur_of_a_blurred_picture_is_its_own(index):
    x, std = pictures(), scale_space.STDS[index].item()
    found, distance, rms = closest_blur(gaussian_blur(x, std), x)
    assert found.tolist() == pytest.approx([std] * 2) and distance.max() < 1e-5
    torch.testing.assert_close(rms, (gaussian_blur(x, std) - x).square().mean((1, 2, 3)).sqrt())


def test_distances_are_those_of_the_blurred_pictures():
    x, estimate = pictures(), gaussian_blur(pictures(), 1.0) + 0.1 * pictures(seed=5)
    found, distance, _ = closest_blur(estimate, x)
    for i in range(2):
        blurred = gaussian_blur(x[i, None], found[i].item())
        assert distance[i].item() == pytest.approx((estimate[i] - blurred[0]).square().mean().sqrt().item(), rel=1e-4)
        for other in (0.5 * found[i].item(), 2 * found[i].item()):
            worse = (estimate[i] - gaussian_blur(x[i, None], other)[0]).square().mean().sqrt()
            assert worse > distance[i]


def test_white_noise_has_the_power_1_at_all_frequencies():
    noise = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    frequency, power = radial_power(noise, 8)
    assert frequency.tolist() == pytest.approx([(i + 0.5) / 16 for i in range(8)])
    torch.testing.assert_close(power.mean(0), torch.ones(8, dtype=power.dtype), atol=0.06, rtol=0)


def test_a_wave_has_its_power_at_its_frequency():
    place = (torch.arange(32) + 0.5) / 32
    wave = torch.cos(math.pi * 12 * place).expand(1, 1, 32, 32)  # 12 / 64 cycles a pixel
    _, power = radial_power(wave, 8)
    assert power[0].argmax() == 3 and power[0, :3].max() < 1e-9  # 0.1875 begins the ring 0.1875 to 0.25


@pytest.mark.parametrize("bins", [1, 200])
def test_rings_that_are_none_are_refused(bins):
    with pytest.raises(ValueError, match="bins"):
        radial_power(pictures(), bins)


def test_the_predicted_blur_passes_half_where_signal_equals_noise():
    frequency = torch.linspace(0.01, 0.49, 400)
    power = 0.02 / frequency**2
    for t in (100, 300, 500):
        noise = ((1 - SCHEDULE.alpha_bar[t]) / SCHEDULE.alpha_bar[t]).item()
        cut = math.sqrt(0.02 / noise)  # where the power is the noise's
        std = predicted_std(frequency, power, SCHEDULE, t)
        if not 0.02 < cut < 0.48:
            assert math.isnan(std)
            continue
        assert math.exp(-2 * (math.pi * std * cut) ** 2) == pytest.approx(0.5, abs=0.01)
    assert math.isnan(predicted_std(frequency, power, SCHEDULE, 999))


def test_a_pyramid_of_eight_levels_ends_at_the_picture_itself():
    stds = pyramid_stds()
    assert len(stds) == 8 and stds[-1] == 0 and stds == sorted(stds, reverse=True)
    assert stds[0] == pytest.approx(math.sqrt((2**7 - 1) / 12))


def test_renoising_gives_the_forward_process():
    x0, z = pictures(), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(renoise(SCHEDULE, None, x0, 500, 400, z), SCHEDULE.diffuse(x0, z, 400))
    assert torch.equal(renoise(SCHEDULE, None, x0, 10, -1, z), x0)


@pytest.fixture(scope="module")
def networks():
    return {"image": load_prior("image", "photos"), "kernel": load_prior("kernel")}


@pytest.mark.parametrize("boundary", ["reflect", "zero"])
def test_the_ancestral_course_is_algorithm_1(boundary, networks):
    seen = replace(cases().measurement, boundary=boundary)
    found, expected = (method(seen, networks, 2) for method in (scale_space.restore, deblurring.blind_dps))
    assert torch.equal(found.image, expected.image) and torch.equal(found.kernel, expected.kernel)


@pytest.mark.parametrize(
    ("course", "steps", "times"),
    [
        ("levels", 6, [999, 999, 999, 0, 0, 0]),
        ("late", 5, [250, 0]),
        ("renoised", 3, [999, 500, 0]),
    ],
)
def test_a_course_visits_its_time_steps(course, steps, times, networks, monkeypatch):
    taken, run = [], deblurring.sample

    def watched(*args, **others):
        for state in run(*args, **others):
            taken.append(state.t)
            yield state

    monkeypatch.setattr(deblurring, "sample", watched)
    found = scale_space.restore(cases(1).measurement, networks, steps, course, levels=2, late=400)
    assert taken == times and found.forward == len(times)
    assert found.kernel.sum().item() == pytest.approx(1, abs=1e-5)


def test_another_course_is_refused(networks):
    with pytest.raises(ValueError, match="course is 'sideways'"):
        scale_space.restore(cases(1).measurement, networks, 2, course="sideways")


def test_a_trajectory_ends_where_the_method_does(networks):
    these = cases()
    path = scale_space.trajectory(these.measurement, networks, these.truth, 4, every=2, shown=1)
    last = deblurring.blind_dps(these.measurement, networks, 4)
    assert path["t"].tolist() == [999, 333, 0] and path["image"].shape == (3, 1, 3, 64, 64)
    torch.testing.assert_close(path["image_mse"][-1], (last.image - these.truth.image).square().mean((1, 2, 3)))
    torch.testing.assert_close(path["kernel_mse"][-1], (last.kernel - these.truth.kernel).square().mean((1, 2, 3)))
    assert path["kernel_std"].shape == (3, 2) and (path["image_distance"] <= path["image_rms"] + 1e-6).all()


@pytest.mark.parametrize("times", [[3, 5], [1000], [-1], [2.5], []])
def test_time_steps_that_rise_or_are_none_are_refused(times):
    with pytest.raises(ValueError, match="time step"):
        SCHEDULE.pairs(times)


def test_pairs_of_given_time_steps():
    assert SCHEDULE.pairs([9, 9, 4]) == [(9, 9), (9, 4), (4, -1)]
