"""Wiener's filter: its closed form, kernels of any shape, and what it gains."""

import pytest
import torch

from pdm import data, metrics
from pdm.baselines.wiener import wiener
from pdm.operators import blur


def kernel(height: int, width: int) -> torch.Tensor:
    """A Gaussian of an eighth of each side, its centre at h // 2, w // 2."""
    rows, columns = (
        torch.exp(-32 * ((torch.arange(n) - n // 2) / max(n, 8)).double().square()) for n in (height, width)
    )
    k = rows[:, None] * columns
    return (k / k.sum())[None, None]


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    return data.quickstart_images().images[:1].double()


def test_of_one_pixel_it_is_the_closed_form(truth):
    """argmin |x - y|^2 + balance |laplace x|^2, periodic: in the frequency domain a quotient (skimage's Laplacian)."""
    laplace = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    for row, column, value in ((0, 0, 4), (0, 1, -1), (1, 0, -1), (0, -1, -1), (-1, 0, -1)):
        laplace[..., row, column] = value
    power = torch.fft.rfft2(laplace).abs().square()
    expected = torch.fft.irfft2(torch.fft.rfft2(truth) / (1 + 0.1 * power), s=(64, 64))
    torch.testing.assert_close(wiener(truth, kernel(1, 1), 0.1), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(31, 1), (1, 31), (31, 7), (8, 8), (6, 9)])
@pytest.mark.parametrize("boundary", ["reflect", "zero", "circular"])
def test_kernels_of_any_shape_give_an_image_of_the_measurements_size(truth, shape, boundary):
    k = kernel(*shape)
    y = data.add_noise(blur(truth, k, boundary), 0.02, torch.Generator().manual_seed(1))
    restored = wiener(y, k, boundary=boundary)
    assert restored.shape == y.shape and restored.dtype == y.dtype
    inner = (..., slice(16, -16), slice(16, -16))
    before, after = (metrics.psnr(v[inner], truth[inner]).item() for v in (y, restored))
    assert after > before  # in its place, not a pixel aside
    torch.testing.assert_close(wiener(y.mT, k.mT, boundary=boundary).mT, restored, rtol=0, atol=1e-9)


def test_a_kernel_for_each_measurement_is_wanted(truth):
    with pytest.raises(ValueError, match=r"kernel has the shape \(1, 1, 3, 3\); wanted 2 1 h w"):
        wiener(truth.expand(2, -1, -1, -1), kernel(3, 3))
    with pytest.raises(ValueError, match=r"kernel has minimum .* and sums"):
        wiener(truth, 2 * kernel(3, 3))
