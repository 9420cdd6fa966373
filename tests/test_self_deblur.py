"""SelfDeblur: its networks' shapes and ranges, what it minimises, and that it repeats."""

import piq
import pytest
import torch

from pdm.baselines import self_deblur
from pdm.data import gaussian_kernels
from pdm.operators import blur


def scene(n: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(n, 3, 8, 8, generator=generator) * 1.8 - 0.9, 32)
    return blur(image, gaussian_kernels(n, 7, 1.2))


def test_the_networks_give_an_image_between_zero_and_one_and_a_kernel_of_sum_one():
    torch.manual_seed(0)
    for size in ((37, 50), (95, 95)):  # any side
        image = self_deblur.image_network(8, 3, width=16, scales=3)(torch.rand(1, 8, *size))
        assert image.shape == (1, 3, *size) and 0 < image.min() and image.max() < 1
    kernel = self_deblur.kernel_network(20, (9, 5), width=30)(torch.rand(2, 20))
    assert kernel.shape == (2, 1, 9, 5) and kernel.min() > 0
    assert kernel.sum((1, 2, 3)).tolist() == pytest.approx([1, 1])


def test_what_is_minimised_is_the_squared_error_and_then_one_minus_ssim():
    y, seen = scene(), []
    self_deblur.deblur(y, 7, [0], steps=60, watch=lambda step, image, kernel: seen.append((image, kernel)))
    target = (y + 1) / 2
    again = [blur(image, kernel, "valid") for image, kernel in seen]
    assert all(a.shape == y.shape for a in again)
    errors = [(a - target).square().mean().item() for a in again]
    likeness = [piq.ssim(a.clamp(0, 1), target, downsample=False).item() for a in again]
    assert errors[11] < 0.5 * errors[0]
    assert likeness[-1] > likeness[11] + 0.05


def test_a_run_repeats_and_does_not_see_its_batch_or_the_global_seed():
    y = scene(2)
    state = torch.random.get_rng_state()
    both = self_deblur.deblur(y, 7, [3, 4], steps=3)
    torch.manual_seed(5)
    alone = self_deblur.deblur(y[1:], 7, [4], steps=3)
    for one, other in zip(both, alone, strict=True):
        torch.testing.assert_close(one[1:], other, rtol=0, atol=1e-5)
    assert both[0].shape == y.shape and both[0].abs().max() <= 1
    torch.random.set_rng_state(state)


@pytest.mark.parametrize(
    ("size", "seeds", "steps", "message"),
    [
        (8, [0], 3, r"kernel_size is 8; wanted odd \(height, width\) up to \(32, 32\)"),
        (33, [0], 3, "kernel_size is 33"),
        (7, [0, 1], 3, r"seeds are \[0, 1\]; wanted 1 of them"),
        (7, [0], 0, "steps is 0; wanted a whole number, 1 or more"),
    ],
)
def test_what_cannot_be_run_is_refused(size, seeds, steps, message):
    with pytest.raises(ValueError, match=message):
        self_deblur.deblur(scene(), size, seeds, steps)


def test_gradients_devices_and_dtypes_of_the_caller_change_nothing():
    y = scene()
    plain = self_deblur.deblur(y, (7, 3), [0], steps=12)
    assert plain[1].shape == (1, 1, 7, 3) and plain[0].shape == y.shape
    with torch.inference_mode():
        again = self_deblur.deblur(y.double(), (7, 3), [0], steps=12)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5)


def test_in_half_precision_the_last_layer_stays_in_full():
    measurement = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    image, kernel = self_deblur.deblur(measurement, 5, [0], steps=2, precision=torch.bfloat16)
    assert image.dtype == kernel.dtype == torch.float32 and image.isfinite().all()
    assert not torch.equal(image, image.bfloat16().float())
