"""A kernel that is nearly right, and what the image prior makes of it."""

import pytest
import torch
from skimage import data as pictures
from test_few_steps import SIGMA, Field, committed, photographs, spectrum

from pdm import final
from pdm.convolutions import Convolution
from pdm.data import motion_kernels, noisy
from pdm.kernel_refinement import Refinement, refine_kernel
from pdm.metrics import mnc
from pdm.models import AnySize


def smoothed(kernel, times=2):
    """A kernel averaged over 3 x 3 pixels, as one that was found at a coarser scale."""
    for _ in range(times):
        kernel = torch.nn.functional.avg_pool2d(kernel, 3, 1, 1)
    return kernel / kernel.sum((1, 2, 3), keepdim=True)


def test_a_kernel_comes_nearer_on_a_photograph():
    """Of 156 x 156 pixels, which show a part of a larger scene."""
    image, _ = committed()
    scene = torch.from_numpy(pictures.coffee()[120:290, 220:390].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    kernel = motion_kernels(1, 15, 0.5, torch.Generator().manual_seed(6))
    y = noisy(Convolution(kernel, (170, 170), "valid")(scene), [0], SIGMA)
    begun = smoothed(kernel)
    states = list(refine_kernel(y, begun, AnySize(image), sigma=SIGMA, seeds=[0], boundary="valid"))
    plan = Refinement()
    assert len(states) == plan.begun + plan.rounds
    found = states[-1].theta["kernel"]
    assert found.min() >= 0 and (found.sum((1, 2, 3)) - 1).abs().max() < 1e-5
    assert mnc(found, kernel) > mnc(begun, kernel) + 0.05
    assert states[-1].theta["image"].shape == scene.shape


def test_frames_share_an_image():
    images, _, _ = photographs(1)
    image, _ = committed()
    kernels = motion_kernels(2, 32, 0.5, torch.Generator().manual_seed(5))
    y = noisy(Convolution(kernels, (64, 64))(images.repeat(2, 1, 1, 1)), range(2), SIGMA)
    plan = Refinement(begun=2, rounds=4)
    state = final(refine_kernel(y, smoothed(kernels), AnySize(image), plan, sigma=SIGMA, seeds=[1], frames=2))
    assert state.theta["image"].shape == images.shape and state.theta["kernel"].shape == kernels.shape


def test_bad_input():
    kernel = motion_kernels(2, 9, 0.5, torch.Generator().manual_seed(2))
    y, prior = torch.rand(2, 1, 32, 32), Field(spectrum())
    for change, message in [
        ({"kernel": kernel[:1]}, "1 kernels for 2 measurements"),
        ({"kernel": 2 * kernel}, "sum"),
        ({"seeds": [1]}, "1 seeds for 2"),
        ({"frames": 3, "seeds": [1]}, "one for 3 frames"),
        ({"sigma": 0.0}, "sigma"),
    ]:
        given = {"measurement": y, "kernel": kernel, "image": prior, "sigma": 0.1, "seeds": [1, 2]}
        with pytest.raises(ValueError, match=message):
            next(refine_kernel(**given | change))
    assert prior.calls == 0
    for wrong in ({"rounds": 0}, {"spread": 0.0}, {"first": 0.1, "last": 1.0}, {"haze": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Refinement(**wrong)
