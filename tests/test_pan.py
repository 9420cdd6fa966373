"""Pan's methods: each step against what it is the minimum of, and the whole where its paper says that it works."""

import pytest
import torch
from skimage import data

from pdm import metrics
from pdm.baselines import pan
from pdm.data import add_noise, gaussian_kernels, motion_kernels
from pdm.operators import blur


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def camera() -> torch.Tensor:
    """A grey photograph, 1 1 256 256 in [-1, 1]."""
    return torch.nn.functional.avg_pool2d(torch.from_numpy(data.camera()).float()[None, None] / 127.5 - 1, 2)


@pytest.fixture(scope="module")
def scene(camera) -> dict:
    """The photographer's head and camera, 1 1 128 128, blurred."""
    truth, kernel = camera[..., 10:138, 50:178], motion_kernels(1, 17, 0.6, seeded(1))
    return {"truth": truth, "kernel": kernel, "y": add_noise(blur(truth, kernel), 0.01, seeded())}


@pytest.mark.parametrize("settings", [pan.PAN_L0, pan.PAN_DCP])
def test_a_photograph_with_a_moderate_kernel_and_little_noise_is_deblurred(settings, scene):
    image, kernel = pan.deblur(scene["y"], 21, settings)
    assert image.shape == scene["y"].shape and kernel.shape == (1, 1, 21, 21)
    assert kernel.sum().item() == pytest.approx(1) and kernel.min() >= 0
    assert metrics.mnc(kernel, scene["kernel"]).item() > 0.8
    edges = [pan._slopes(v).abs().mean().item() for v in (scene["y"], image, scene["truth"])]
    assert edges[0] < edges[1] < 1.2 * edges[2]  # sharper than the measurement, and not by ringing


@pytest.mark.parametrize("settings", [pan.PAN_L0, pan.PAN_DCP])
@pytest.mark.parametrize("contrast", [0.0, 0.02])
def test_a_picture_without_edges_has_a_kernel_all_the_same(contrast, settings):
    """The l0 terms leave nothing of so faint a picture, and with it no slope to find a kernel by."""
    faint = contrast * torch.randn(1, 1, 64, 64, generator=seeded(2))
    image, kernel = pan.deblur(faint, 31, settings)
    assert image.isfinite().all() and kernel.min() >= 0
    assert kernel.sum().item() == pytest.approx(1)


def test_an_image_is_restored_when_its_kernel_is_known(scene):
    y, before = (scene["y"] + 1) / 2, metrics.psnr(scene["y"], scene["truth"]).item()
    for restored in (pan.deconvolve_l0(y, scene["kernel"], 2e-3), pan.deconvolve_tv(y, scene["kernel"], 1e-3)):
        assert metrics.psnr(2 * restored - 1, scene["truth"]).item() > before + 1.5


def test_the_image_step_is_least_squares():
    """With a weight that leaves no gradient and one that leaves all of them, l0 deconvolution is known."""
    y, kernel = torch.rand(1, 1, 16, 16, generator=seeded()), torch.ones(1, 1, 1, 1)
    torch.testing.assert_close(pan.deconvolve_l0(y, kernel, 1e-9), y, atol=1e-3, rtol=0)
    flat = pan.deconvolve_l0(0.4 + 0.2 * y, kernel, 1.0)  # no slope reaches the first threshold, sqrt(1/2)
    assert flat.std() < 0.05 * (0.2 * y).std()
    assert flat.mean().item() == pytest.approx((0.4 + 0.2 * y).mean().item(), abs=0.01)


def test_the_kernel_step_finds_the_kernel_of_a_sharp_image(camera):
    kernel = motion_kernels(1, 15, 0.8, seeded(3))
    y = blur(camera, kernel, "circular")
    slopes = [pan._slopes((v + 1) / 2) for v in (y, camera)]
    found = pan._kernel_step(*slopes, (15, 15), ridge=0.01)
    assert metrics.mnc(found, kernel).item() > 0.99
    torch.testing.assert_close(found, kernel, atol=0.02, rtol=0)  # in its place


def test_the_darkest_pixel_of_each_window_is_put_to_zero():
    x = torch.rand(1, 3, 12, 12, generator=seeded()) + 0.1
    found = pan._without_dark(x, 5, 0.3**2)
    expected = x.clone()
    for i in range(12):
        for j in range(12):
            top, left = max(0, i - 2), max(0, j - 2)
            window = x[0, :, top : i + 3, left : j + 3]
            c, a, b = (int(v) for v in (window == window.min()).nonzero()[0])
            if window.min() < 0.3:
                expected[0, c, top + a, left + b] = 0
    assert torch.equal(found, expected)


def test_islands_without_light_go_and_the_rest_is_centred():
    kernel = torch.zeros(1, 1, 11, 11)
    kernel[..., 2:5, 2] = 1
    kernel[..., 9, 9] = 0.05
    cleaned = pan._without_islands(kernel / kernel.sum())
    assert cleaned[..., 9, 9] == 0 and (cleaned[..., 2:5, 2] > 0).all()
    assert pan._centred(cleaned)[0, 0, 4:7, 5].tolist() == pytest.approx([1 / 3] * 3)


def test_a_batch_gives_what_its_members_give(camera):
    crops = torch.cat([camera[..., :64, :64], camera[..., 64:128, 96:160]]).expand(-1, 3, -1, -1)
    y = blur(crops, gaussian_kernels(2, 9, 1.5))
    both, alone = pan.deblur(y, 9), pan.deblur(y[1:], 9)
    for one, other in zip(both, alone, strict=True):
        assert torch.equal(one[1:], other)


@pytest.mark.parametrize("shape", [(9, 1), (1, 9), (9, 3), (3, 9)])
def test_a_kernel_that_is_no_square_comes_back_as_it_was_asked_for(camera, shape):
    y = blur(camera[..., 64:192, :128], torch.ones(1, 1, *shape) / (shape[0] * shape[1]))
    image, kernel = pan.deblur(y.double(), shape)
    assert kernel.shape == (1, 1, *shape) and kernel.sum().item() == pytest.approx(1) and kernel.min() >= 0
    assert image.shape == y.shape and image.dtype == kernel.dtype == torch.float64
    turned = pan.deblur(y.mT, shape[::-1])[1].mT
    assert metrics.mnc(kernel, turned).item() > 0.9  # the method has no preferred axis


def test_a_single_column_is_resized_as_a_single_row():
    column = torch.rand(1, 1, 7, 1, generator=seeded())
    assert torch.equal(pan._resize(column, [9, 1]), pan._resize(column.mT.contiguous(), [1, 9]).mT)
    assert pan._resize(column, [9, 1]).sum() > 0


@pytest.mark.parametrize(
    ("y", "size", "message"),
    [
        (torch.zeros(1, 1, 16, 16), 17, r"kernel_size is 17; wanted odd \(height, width\) up to \(16, 16\)"),
        (torch.zeros(1, 1, 16, 8), (7, 9), r"kernel_size is \(7, 9\); .* up to \(16, 8\)"),
        (torch.zeros(1, 1, 16, 16), 2, "kernel_size is 2"),
        (torch.zeros(1, 1, 16, 16), 1, "kernel_size is 1"),
        (torch.zeros(1, 16, 16), 5, "measurement is .* wanted B C H W"),
        (torch.full((1, 1, 16, 16), torch.nan), 5, "measurement holds 256 values that are NaN"),
        (torch.full((1, 1, 16, 16), 255.0), 5, r"measurement lies in \[255, 255\]"),
    ],
)
def test_what_cannot_be_deblurred_is_refused(y, size, message):
    with pytest.raises(ValueError, match=message):
        pan.deblur(y, size)
