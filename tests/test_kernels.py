"""Random kernels: what every one of them has to be, and the moments of what they are drawn from."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from scipy.integrate import quad
from scipy.ndimage import label

from pdm.constraints import from_model_range, to_model_range
from pdm.data import TILT_BOUND, add_noise, gaussian_kernels, motion_kernels, random_kernels, tilt_fields

SIZES = [16, 32, 33, 64]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moments(kernels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The centre of mass, n 2 in pixels, and the variance along each axis, n 2."""
    kernels, pixel = kernels[:, 0].double(), torch.arange(kernels.shape[-1], dtype=torch.float64)
    profiles = torch.stack([kernels.sum(2), kernels.sum(1)], dim=1)  # n 2 S: rows, columns
    centre = (profiles * pixel).sum(2)
    return centre, (profiles * (pixel - centre[..., None]) ** 2).sum(2)


@pytest.mark.parametrize("size", [3, 4, *SIZES])
@pytest.mark.parametrize("intensity", [0.2, 1.0])
def test_motion_kernels_are_centred_kernels_that_stay_on_the_canvas(size, intensity):
    kernels = motion_kernels(100, size, intensity, seeded())
    assert kernels.shape == (100, 1, size, size) and kernels.dtype == torch.float32
    assert (kernels >= 0).all()
    torch.testing.assert_close(kernels.sum((1, 2, 3)), torch.ones(100))
    # Drawn to the nearest pixel, the centre of mass would be off by tenths; what is shared bilinearly keeps it exactly.
    centre, _ = moments(kernels)
    torch.testing.assert_close(centre, torch.full_like(centre, size // 2), rtol=0, atol=1e-4)


def test_a_long_path_is_shrunk_and_does_not_wrap_to_the_other_side():
    """Light put past an edge by a flat index would land on the far side and tear the path in two."""
    for size in SIZES:
        for kernel in motion_kernels(100, size, 1.0, seeded(1))[:, 0].numpy():
            assert label(kernel > 0, structure=np.ones((3, 3)))[1] == 1
        first, last = size // 2 - (size - 1) // 2, size // 2 + (size - 1) // 2
        outside = torch.ones(size, size, dtype=torch.bool)
        outside[first : last + 1, first : last + 1] = False
        assert motion_kernels(100, size, 1.0, seeded(1))[:, 0, outside].sum() == 0


def test_short_motion_is_a_straight_line_of_known_length():
    """A line of length L has the variance L^2 / 12; drawing it bilinearly adds 1/6 in each axis on average."""
    intensity, size = 0.05, 128
    _, variance = moments(motion_kernels(400, size, intensity, seeded()))
    length = (0.75 * intensity * size) ** 2 * (1 + (2 / 3) ** 2 / 12)  # mean square: within a third, uniformly
    assert variance.sum(1).mean().item() == pytest.approx(length / 12 + 2 / 6, rel=0.1)
    assert variance.mean(0).tolist() == pytest.approx([variance.mean().item()] * 2, rel=0.1)  # no direction preferred


def test_motion_spreads_with_intensity():
    spread, support = [], []
    for intensity in (0.1, 0.2, 0.4, 0.7, 1.0):
        kernels = motion_kernels(200, 64, intensity, seeded())
        spread.append(moments(kernels)[1].sum(1).sqrt().median().item())
        support.append((kernels > 0).sum((1, 2, 3)).float().median().item())
    assert spread == sorted(spread) and spread[-1] > 3 * spread[0]
    assert support == sorted(support) and support[-1] > 4 * support[0]


def test_motion_scales_with_the_canvas():
    small, large = (moments(motion_kernels(100, size, 0.5, seeded()))[1].sum(1) - 2 / 6 for size in (32, 128))
    assert (large / small).median().sqrt().item() == pytest.approx(4, rel=0.1)


def test_paths_are_thin_and_antialiased():
    """A path lights a band of two or three pixels along its length, most of them in part, none far above the rest."""
    kernels = motion_kernels(100, 64, 0.5, seeded())[:, 0]
    lit = (kernels > 0).sum((1, 2)).float()
    assert lit.median() < 0.05 * 64 * 64 and lit.min() > 10
    edges = [((k > 0) & (k < 0.5 * k.max())).sum() / (k > 0).sum() for k in kernels]
    assert torch.stack(edges).median() > 0.4
    assert (kernels.amax((1, 2)) < 0.5).all()


@pytest.mark.parametrize("draw", [lambda g: motion_kernels(4, 32, 0.5, g), lambda g: random_kernels(4, 32, g)])
def test_kernels_follow_their_generator_alone(draw):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw(seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(draw(seeded(3)), first)
    generator = seeded(3)
    assert torch.equal(draw(generator), first) and not torch.equal(draw(generator), first)
    assert not torch.equal(draw(seeded(4)), first)
    assert (first.diff(dim=0).abs().amax((1, 2, 3)) > 0).all()


def test_intensity_may_be_one_per_kernel():
    wide = moments(motion_kernels(60, 64, torch.tensor([0.1, 1.0]).repeat(30), seeded()))[1].sum(1)
    assert wide[1::2].median() > 9 * wide[::2].median()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("std", [0.1, 1.0, 2.5])
def test_gaussian_kernels_are_integrals_over_pixels(size, std):
    kernel = gaussian_kernels(1, size, std)[0, 0].double()
    lines = [
        quad(
            lambda x: math.exp(-((x / std) ** 2) / 2), i - size // 2 - 0.5, i - size // 2 + 0.5, points=[i - size // 2]
        )[0]
        for i in range(size)
    ]
    expected = np.outer(lines, lines)
    np.testing.assert_allclose(kernel.numpy(), expected / expected.sum(), rtol=1e-5, atol=1e-7)


def test_gaussian_kernels_have_the_variance_of_gaussian_and_pixel():
    std = torch.tensor([1.0, 1.25, 1.5, 2.0])
    for size in (32, 33, 64):
        kernels = gaussian_kernels(4, size, std)
        assert kernels.shape == (4, 1, size, size) and kernels.dtype == torch.float32
        torch.testing.assert_close(kernels.sum((1, 2, 3)), torch.ones(4))
        centre, variance = moments(kernels)
        torch.testing.assert_close(centre, torch.full_like(centre, size // 2), rtol=0, atol=1e-4)
        expected = (std.double() ** 2 + 1 / 12).sqrt()[:, None].expand(4, 2)
        torch.testing.assert_close(variance.sqrt(), expected, rtol=0, atol=1e-3)
        assert torch.equal(kernels, kernels.mT)


def test_gaussian_kernels_end_in_a_delta():
    kernel = gaussian_kernels(1, 32, 1e-3)[0, 0]
    assert kernel[16, 16] == 1 and kernel.sum() == 1


def test_random_kernels_are_five_motion_kernels_to_a_gaussian():
    n = 1500
    kernels = random_kernels(n, 32, seeded())
    assert kernels.shape == (n, 1, 32, 32) and (kernels >= 0).all()
    torch.testing.assert_close(kernels.sum((1, 2, 3)), torch.ones(n))
    gaussian = (kernels - kernels.mT).abs().amax((1, 2, 3)) < 1e-7  # a path is not symmetric about the diagonal
    error = math.sqrt(5 / 36 / n)
    assert gaussian.float().mean().item() == pytest.approx(1 / 6, abs=4 * error)
    runs = (gaussian[1:] != gaussian[:-1]).float().mean().item()  # in random order
    assert runs == pytest.approx(2 * 5 / 36, abs=0.06)
    # The std is uniform over 0.1 to 5.0 of 64 pixels, here 0.05 to 2.5 of 32.
    std = (moments(kernels[gaussian])[1].mean(1) - 1 / 12).clamp(min=0).sqrt()
    assert std.max() < 2.5 + 1e-3
    for quantile in (0.5, 0.75, 0.9):
        assert std.quantile(quantile).item() == pytest.approx(0.05 + 2.45 * quantile, abs=0.3)


def test_random_motion_has_the_papers_range_of_intensity():
    kernels = random_kernels(600, 64, seeded(1))
    motion = (kernels - kernels.mT).abs().amax((1, 2, 3)) > 1e-7
    drawn = moments(kernels[motion])[1].sum(1).sqrt()
    intensity = 0.2 + 0.8 * torch.rand(600, generator=seeded(2))
    known = moments(motion_kernels(600, 64, intensity, seeded(3)))[1].sum(1).sqrt()
    for quantile in (0.1, 0.5, 0.9):
        assert drawn.quantile(quantile).item() == pytest.approx(known.quantile(quantile).item(), rel=0.15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: motion_kernels(0, 32, 0.5, seeded()), "n is 0; wanted a whole number"),
        (lambda: motion_kernels(1, 2, 0.5, seeded()), "size is 2; wanted a whole number, 3 or more"),
        (lambda: motion_kernels(1, 32, 0.0, seeded()), "intensity"),
        (lambda: motion_kernels(1, 32, 1.1, seeded()), "intensity"),
        (lambda: motion_kernels(2, 32, torch.tensor([0.5, math.nan]), seeded()), "intensity"),
        (lambda: gaussian_kernels(1, 32, 0.0), "std"),
        (lambda: gaussian_kernels(1, 32, math.inf), "std"),
        (lambda: gaussian_kernels(0, 32, 1.0), "n is 0; wanted a whole number"),
        (lambda: random_kernels(0, 32, seeded()), "n is 0; wanted a whole number"),
        (lambda: add_noise(torch.zeros(1), -0.1, seeded()), "sigma"),
        (lambda: add_noise(torch.zeros(1), math.nan, seeded()), "sigma"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_model_range_is_full_per_kernel_and_keeps_all_but_the_scale():
    kernels = random_kernels(20, 32, seeded())
    x = to_model_range(kernels)
    assert torch.equal(x.amax((1, 2, 3)), torch.ones(20)) and x.min() == -1
    for constant in (0.5, 7.0):
        torch.testing.assert_close(to_model_range(constant * kernels), x)
    back = from_model_range(x)
    assert back.min() == 0 and back.max() == 1
    torch.testing.assert_close(back / back.sum((1, 2, 3), keepdim=True), kernels, rtol=1e-4, atol=1e-7)


def test_noise_has_the_std_that_was_asked_for_and_follows_its_generator():
    image = torch.rand(2, 3, 100, 100, generator=seeded()) * 2 - 1
    noise = add_noise(image, 0.02, seeded(1)) - image
    assert noise.std().item() == pytest.approx(0.02, rel=4 / math.sqrt(2 * noise.numel()))
    assert abs(noise.mean().item()) < 4 * 0.02 / math.sqrt(noise.numel())
    assert abs((noise[0] * noise[1]).mean().item()) < 4 * 0.02**2 / math.sqrt(noise[0].numel())
    assert torch.equal(add_noise(image, 0.02, seeded(1)), add_noise(image, 0.02, seeded(1)))
    torch.testing.assert_close(add_noise(image, 0.04, seeded(1)) - image, 2 * noise, rtol=0, atol=1e-6)
    assert not torch.equal(add_noise(image, 0.02, seeded(2)), add_noise(image, 0.02, seeded(1)))
    assert torch.equal(add_noise(image, 0.0, seeded(1)), image)
    assert add_noise(image.double(), 0.02, seeded(1)).dtype == torch.float64


# ---- tilt fields ----


def test_tilt_fields_have_the_variance_and_the_correlation_of_their_recipe():
    fields = tilt_fields(400, 64, torch.Generator().manual_seed(0))
    assert fields.shape == (400, 2, 64, 64) and fields.dtype == torch.float32
    assert fields.abs().max() <= TILT_BOUND
    strength = (0.15**2 + 0.15 * 0.6 + 0.6**2) / 3  # mean square of a uniform variable
    variance = 500 * (16 / 64) ** 2 * strength / (4 * math.pi)  # patches at a pixel x strength x the smoothing's share
    assert fields.square().mean().item() == pytest.approx(variance, rel=0.03)
    assert 0.4 < variance**0.5 < 1
    for shift in (1, 2, 3):
        for a, b in ((fields[..., shift:], fields[..., :-shift]), (fields[..., shift:, :], fields[..., :-shift, :])):
            correlation = (a * b).mean().item() / variance
            assert correlation == pytest.approx(math.exp(-(shift**2) / 4), abs=0.03)  # of a Gaussian with itself
    assert (fields[:, 0] * fields[:, 1]).mean().abs() < 0.01 * variance


def test_tilt_fields_are_as_strong_at_the_rim_as_within():
    fields = tilt_fields(600, 32, torch.Generator().manual_seed(1))
    power = fields.square().mean((0, 1))
    rim = torch.cat([power[0], power[-1], power[:, 0], power[:, -1]]).mean()
    assert rim.item() == pytest.approx(power[8:-8, 8:-8].mean().item(), rel=0.05)


def test_tilt_fields_equal_patches_that_are_added_one_by_one_in_distribution():
    """The recipe spelled out: each patch smoothed by itself, then added. Compared in variance and kurtosis."""
    generator = torch.Generator().manual_seed(2)
    options = {"patches": 6, "half_width": 2, "std": 1.0, "strength": (0.2, 0.9)}
    fields = tilt_fields(6000, 8, generator, **options)
    draw = np.random.default_rng(3)
    reach, slow = 4, []
    for _ in range(1500):
        side = 8 + 2 * reach
        around = side + 3
        field = np.zeros((side + 6, side + 6))
        for _ in range(round(6 * (around / 8) ** 2)):
            row, column = draw.integers(around, size=2)
            patch = np.zeros_like(field)
            patch[row : row + 4, column : column + 4] = draw.normal(size=(4, 4)) * draw.uniform(0.2, 0.9)
            field += scipy.ndimage.gaussian_filter(patch, 1.0)
        slow.append(field[3 + reach : -3 - reach, 3 + reach : -3 - reach])
    slow, fast = np.stack(slow).clip(-TILT_BOUND, TILT_BOUND), fields.numpy()
    for moment in (2, 4):
        assert (slow**moment).mean() == pytest.approx((fast**moment).mean(), rel=0.1)


@pytest.mark.parametrize(
    "wrong", [{"patches": 0}, {"half_width": 0}, {"std": 0.0}, {"strength": (0.5, 0.1)}, {"strength": (0.0, 0.1)}]
)
def test_tilt_fields_refuse_what_is_not_above_zero(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} is .*; wanted"):
        tilt_fields(1, 16, torch.Generator(), **wrong)
