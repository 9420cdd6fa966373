"""Convolution against scipy and torch, its origin by deltas, and the properties of a linear operator."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy.ndimage import map_coordinates
from scipy.signal import convolve2d

from pdm.operators import BOUNDARIES, blur, correlate, turbulence, warp

SIZES = [(3, 3), (4, 4), (1, 1), (5, 2), (2, 5), (9, 11)]  # odd, even, neither square; the last as large as the image


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def delta(h: int, w: int, row: int, column: int) -> torch.Tensor:
    kernel = torch.zeros(1, 1, h, w, dtype=torch.float64)
    kernel[..., row, column] = 1
    return kernel


def by_scipy(image: np.ndarray, kernel: np.ndarray, boundary: str) -> np.ndarray:
    """The full convolution of one channel, cut where the kernel's origin is (h // 2, w // 2)."""
    (height, width), (h, w) = image.shape, kernel.shape
    if boundary == "valid":
        return convolve2d(image, kernel, mode="valid")
    if boundary == "zero":
        full = convolve2d(image, kernel, mode="full", boundary="fill")
        return full[h // 2 : h // 2 + height, w // 2 : w // 2 + width]
    padded = np.pad(image, ((h - 1, h - 1), (w - 1, w - 1)), {"circular": "wrap", "reflect": "reflect"}[boundary])
    row, column = h - 1 + h // 2, w - 1 + w // 2
    return convolve2d(padded, kernel, mode="full")[row : row + height, column : column + width]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("method", ["fft", "direct"])
def test_blur_agrees_with_scipy(size, boundary, method):
    image, kernel = normal(2, 3, 9, 11), normal(2, 1, *size, seed=1)
    ours = blur(image, kernel, boundary, method)
    for b in range(2):
        for c in range(3):
            expected = by_scipy(image[b, c].numpy(), kernel[b, 0].numpy(), boundary)
            np.testing.assert_allclose(ours[b, c].numpy(), expected, rtol=0, atol=1e-12)


def test_scipys_own_wrapped_convolution_is_circular_blur():
    image, kernel = normal(1, 1, 9, 11), normal(1, 1, 5, 3, seed=1)
    expected = convolve2d(image[0, 0].numpy(), kernel[0, 0].numpy(), mode="same", boundary="wrap")
    np.testing.assert_allclose(blur(image, kernel, "circular")[0, 0].numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_fft_and_direct_agree_in_float32(boundary):
    image, kernel = normal(2, 3, 32, 40).float(), normal(2, 1, 16, 13, seed=1).softmax(3).float() / 16
    fft, direct = (blur(image, kernel, boundary, method) for method in ("fft", "direct"))
    assert fft.dtype == direct.dtype == torch.float32
    torch.testing.assert_close(fft, direct, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("method", ["fft", "direct"])
def test_a_delta_at_the_origin_is_the_identity(size, boundary, method):
    (h, w), image = size, normal(1, 2, 9, 11)
    out = blur(image, delta(h, w, h // 2, w // 2), boundary, method)
    if boundary == "valid":  # output (0, 0) is the first pixel all of whose neighbours are there
        image = image[..., h - 1 - h // 2 : 9 - h // 2, w - 1 - w // 2 : 11 - w // 2]
    torch.testing.assert_close(out, image, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("h", "w"), [(5, 5), (4, 6)])
def test_moving_the_delta_moves_the_image_the_same_way(h, w):
    image = normal(1, 1, 8, 9)
    for rows, columns in [(1, 0), (0, 1), (-2, 1), (1, -2)]:
        out = blur(image, delta(h, w, h // 2 + rows, w // 2 + columns), "circular")
        torch.testing.assert_close(out, image.roll((rows, columns), (2, 3)), rtol=0, atol=1e-12)
        filled = blur(image, delta(h, w, h // 2 + rows, w // 2 + columns), "zero")
        assert (filled.roll((-rows, -columns), (2, 3)) - image).abs().max() > 0.1  # what went over the edge is lost
        assert filled[0, 0, max(rows, 0), max(columns, 0)] == pytest.approx(
            image[0, 0, max(-rows, 0), max(-columns, 0)].item()
        )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("size", SIZES)
def test_correlate_is_torchs_convolution_of_the_same_size(size):
    image, kernel = normal(1, 3, 9, 11), normal(1, 1, *size, seed=1)
    expected = F.conv2d(image, kernel.expand(3, -1, -1, -1), padding="same", groups=3)
    torch.testing.assert_close(correlate(image, kernel), expected, rtol=0, atol=1e-12)


def test_correlate_with_other_boundaries_turns_the_kernel():
    image, kernel = normal(1, 1, 9, 11), normal(1, 1, 3, 5, seed=1)
    for boundary, mode in (("circular", "wrap"), ("reflect", "reflect")):
        padded = torch.from_numpy(np.pad(image[0, 0].numpy(), ((1, 1), (2, 2)), mode))[None, None]
        torch.testing.assert_close(correlate(image, kernel, boundary), F.conv2d(padded, kernel), rtol=0, atol=1e-12)
    assert (correlate(image, kernel) - blur(image, kernel, "zero")).abs().max() > 0.1


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("method", ["fft", "direct"])
def test_each_image_meets_its_own_kernel(boundary, method):
    image, kernel = normal(3, 2, 8, 8), normal(3, 1, 4, 3, seed=1)
    apart = torch.cat([blur(image[i : i + 1], kernel[i : i + 1], boundary, method) for i in range(3)])
    torch.testing.assert_close(blur(image, kernel, boundary, method), apart, rtol=0, atol=1e-12)
    shared = blur(image, kernel[:1], boundary, method)
    torch.testing.assert_close(shared, blur(image, kernel[:1].expand(3, -1, -1, -1), boundary, method))


@pytest.mark.parametrize("size", [(3, 3), (4, 2)])
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("method", ["fft", "direct"])
def test_gradients_in_both_arguments_agree_with_finite_differences(size, boundary, method):
    image, kernel = normal(2, 1, 5, 4).requires_grad_(), normal(2, 1, *size, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, k: blur(i, k, boundary, method), (image, kernel))


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_blur_is_linear_in_each_argument(boundary):
    (first, second), (one, two) = normal(2, 1, 2, 8, 8), normal(2, 1, 1, 3, 4, seed=1)
    images = blur(2 * first - 3 * second, one, boundary)
    torch.testing.assert_close(images, 2 * blur(first, one, boundary) - 3 * blur(second, one, boundary))
    kernels = blur(first, 2 * one - 3 * two, boundary)
    torch.testing.assert_close(kernels, 2 * blur(first, one, boundary) - 3 * blur(first, two, boundary))


@pytest.mark.parametrize("size", SIZES)
def test_a_constant_image_comes_through_where_nothing_is_lost(size):
    kernel = normal(1, 1, *size).abs()
    kernel = kernel / kernel.sum()
    image = torch.full((1, 1, 9, 11), 0.7, dtype=torch.float64)
    for boundary in ("circular", "reflect", "valid"):
        out = blur(image, kernel, boundary)
        torch.testing.assert_close(out, torch.full_like(out, 0.7))
    if max(size) > 1:
        assert blur(image, kernel, "zero").min() < 0.69


def test_circular_blur_keeps_the_sum_and_commutes_with_shifts():
    image, kernel = normal(1, 1, 8, 9), normal(1, 1, 4, 5, seed=1)
    out = blur(image, kernel, "circular")
    torch.testing.assert_close(out.sum(), image.sum() * kernel.sum())
    torch.testing.assert_close(blur(image.roll((3, 2), (2, 3)), kernel, "circular"), out.roll((3, 2), (2, 3)))


def test_blur_says_what_is_wrong():
    image, kernel = torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 3, 3)
    for wrong, message in [
        ((image[0], kernel), "wanted B C H W, floating point"),
        ((image.int(), kernel), "image is torch.int32"),
        ((image, kernel[:, 0]), "wanted B 1 h w"),
        ((image, torch.zeros(3, 1, 3, 3)), "wanted 2 1 h w"),
        ((image, torch.zeros(2, 3, 3, 3)), "wanted B 1 h w"),
        ((image, kernel * torch.nan), "kernel holds 18 values that are NaN"),
        ((image.bfloat16(), kernel.bfloat16()), "image is torch.bfloat16; wanted float32 or float64"),
        ((image, kernel.double()), "kernel is torch.float64"),
        ((image, torch.zeros(2, 1, 3, 9)), "larger than the image"),
        ((image, kernel, "mirror"), "boundary is 'mirror'"),
        ((image, kernel, "zero", "slow"), "method is 'slow'"),
    ]:
        with pytest.raises(ValueError, match=message):
            blur(*wrong)


# ---- warp and turbulence ----

WARPS = ("zero", "circular", "reflect")


def test_warp_with_zeros_beyond_the_frame_is_the_authors():
    given = load_file(Path(__file__).parent / "data" / "adm" / "release_tilt.safetensors")
    kept = {name: value.clone() for name, value in given.items()}
    torch.testing.assert_close(warp(given["image"], given["tilt"], "zero"), given["warped"], atol=1e-4, rtol=0)
    torch.testing.assert_close(warp(given["image"], given["tilt"], "zero"), given["warped"], atol=1e-4, rtol=0)
    assert all(torch.equal(given[name], kept[name]) for name in given)  # nothing was written to its arguments


@pytest.mark.parametrize("boundary", WARPS)
def test_warp_agrees_with_scipy(boundary):
    image, tilt = normal(2, 3, 9, 12), 3 * normal(2, 2, 9, 12, seed=1)
    rows, columns = np.mgrid[:9, :12]
    found = warp(image, tilt, boundary)
    mode = {"zero": "grid-constant", "circular": "grid-wrap", "reflect": "mirror"}[boundary]
    for b in range(2):
        places = [rows + tilt[b, 1].numpy(), columns + tilt[b, 0].numpy()]
        for c in range(3):
            expected = map_coordinates(image[b, c].numpy(), places, order=1, mode=mode)
            np.testing.assert_allclose(found[b, c].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("boundary", WARPS)
def test_no_tilt_is_the_identity_and_a_whole_pixel_a_shift(boundary):
    image, tilt = normal(1, 2, 6, 7), torch.zeros(1, 2, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(warp(image, tilt, boundary), image)
    tilt[:, 0], tilt[:, 1] = 2, -1
    expected = image.roll((1, -2), (2, 3))  # row + (-1), column + 2
    inner = (..., slice(1, None), slice(None, -2))
    torch.testing.assert_close(warp(image, tilt, boundary)[inner], expected[inner])
    if boundary == "circular":
        torch.testing.assert_close(warp(image, tilt, boundary), expected)


def test_one_tilt_serves_a_batch_and_a_batch_is_its_members():
    image, tilt = normal(3, 1, 6, 6), normal(3, 2, 6, 6, seed=1)
    torch.testing.assert_close(warp(image, tilt[:1]), warp(image, tilt[:1].expand(3, -1, -1, -1)))
    torch.testing.assert_close(warp(image, tilt)[1:2], warp(image[1:2], tilt[1:2]))


def test_turbulence_is_blur_after_warp():
    image, kernel, tilt = normal(2, 3, 8, 8), normal(2, 1, 3, 3, seed=1), normal(2, 2, 8, 8, seed=2)
    nothing = torch.zeros_like(tilt)
    torch.testing.assert_close(turbulence(image, kernel, nothing), blur(image, kernel))
    torch.testing.assert_close(turbulence(image, delta(3, 3, 1, 1), tilt), warp(image, tilt))
    torch.testing.assert_close(turbulence(image, kernel, tilt, "zero"), blur(warp(image, tilt, "zero"), kernel, "zero"))


@pytest.mark.parametrize("boundary", WARPS)
def test_gradients_of_turbulence_agree_with_finite_differences(boundary):
    image, kernel = normal(1, 1, 5, 6), normal(1, 1, 3, 3, seed=1)
    tilt = 0.3 + 0.1 * normal(1, 2, 5, 6, seed=2)  # inside a pixel, where bilinear interpolation is smooth
    arguments = [v.requires_grad_() for v in (image, kernel, tilt)]
    assert torch.autograd.gradcheck(lambda x, k, t: turbulence(x, k, t, boundary), arguments)


@pytest.mark.parametrize(
    ("image", "tilt", "boundary", "message"),
    [
        (
            torch.zeros(1, 3, 4, 4),
            torch.zeros(1, 2, 4, 5),
            "zero",
            r"tilt is .* of shape \(1, 2, 4, 5\), .*; wanted B 2 4 4",
        ),
        (torch.zeros(2, 3, 4, 4), torch.zeros(3, 2, 4, 4), "zero", "wanted 2 2 4 4, one per image"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4), "zero", "wanted B 2 4 4"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4).double(), "zero", "tilt is torch.float64"),
        (torch.zeros(3, 4, 4), torch.zeros(1, 2, 4, 4), "zero", "wanted B C H W, floating point"),
        (torch.zeros(1, 3, 1, 4), torch.zeros(1, 2, 1, 4), "zero", "sides of 2 or more"),
        (
            torch.zeros(1, 3, 4, 4),
            torch.zeros(1, 2, 4, 4),
            "valid",
            "boundary is 'valid'; wanted one of 'zero', 'circular'",
        ),
    ],
)
def test_warp_says_what_is_wrong(image, tilt, boundary, message):
    with pytest.raises(ValueError, match=message):
        warp(image, tilt, boundary)
