"""A problem and an answer: measurements, truths, and what is refused at the door."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from pdm.data import add_noise, gaussian_kernels, motion_kernels, noisy
from pdm.operators import blur
from pdm.sampler import stream
from pdm.study.problem import Estimate, Measurement, Truth, deblurring_cases, explained, measured


def test_cases_are_measurements_and_are_cut_together(cases):
    second = cases[1:]
    assert len(pickle.dumps(cases[:1])) < 0.6 * len(pickle.dumps(cases))  # a part does not drag the rest along
    assert (len(second), second.names, second.measurement.seeds) == (1, ("b",), (4,))
    assert torch.equal(second.measurement.y, cases.measurement.y[1:])
    with pytest.raises(ValueError, match=r"'names': 1.*wanted as many of each"):
        replace(cases, names=("a",))


def test_a_measurement_is_the_blur_and_a_noise_of_each_ones_seed(cases):
    image, kernel = cases.truth.image, cases.truth.kernel
    both = measured(image, kernel, [3, 4], sigma=0.1).measurement.y
    alone = measured(image[1:], kernel[1:], [4], sigma=0.1).measurement.y
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-6)
    expected = add_noise(blur(image, kernel)[0], 0.1, stream(3, "measurement"))
    torch.testing.assert_close(both[0], expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"seeds are \[3\]; wanted 2 of them"):
        measured(image, kernel, [3])


def test_a_method_is_told_what_it_asks_for_and_no_more(cases):
    assert cases.given().known == {} and cases.measurement.known == {}
    told = cases.given(["kernel", "tilt"])
    assert set(told.known) == {"kernel"} and torch.equal(told.known["kernel"], cases.truth.kernel)
    assert told.canvas == (16, 16) and told.shape == (3, 32, 32)
    both = replace(cases, measurement=told)
    assert torch.equal(both[1:].measurement.known["kernel"], cases.truth.kernel[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.zeros(3, 32, 32)}, r"\(3, 32, 32\), on cpu; wanted B C H W, floating point"),
        ({"y": torch.full((2, 3, 8, 8), 100.0)}, r"lies in \[100, 100\]; wanted values in \[-1, 1\]"),
        ({"y": torch.full((2, 3, 8, 8), math.nan)}, "384 values that are NaN"),
        ({"y": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "uint8"),
        ({"y": torch.zeros(0, 3, 8, 8)}, "wanted B C H W, floating point"),
        ({"y": [1.0]}, "the measurement is a list"),
        ({"seeds": (0,)}, r"seeds are \[0\]; wanted 2 of them"),
        ({"seeds": (0, -1)}, "seeds"),
        ({"boundary": "nonsense"}, "boundary is 'nonsense'"),
        ({"frames": 2}, "2 frames"),
    ],
)
def test_a_measurement_that_is_none_is_refused(cases, change, message):
    with pytest.raises(ValueError, match=message):
        replace(cases.measurement, **change)


def test_pictures_in_zero_to_one_are_warned_of():
    with pytest.warns(UserWarning, match=r"lies in \[0, 1\]; wanted \[-1, 1\]"):
        Measurement(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), (0,))


def test_seeds_may_be_numpys(cases):
    found = replace(cases.measurement, seeds=tuple(np.array([3, 4])))
    assert found.seeds == (3, 4) and type(found.seeds[0]) is int


@pytest.mark.parametrize(
    ("factor", "message"), [(2.0, r"sums \[1\.99"), (255.0, "sums"), (-1.0, "minimum -"), (0.0, r"sums \[0.0")]
)
def test_a_true_kernel_has_sum_one(cases, factor, message):
    with pytest.raises(ValueError, match=message):
        Truth(cases.truth.image, factor * cases.truth.kernel)


def test_a_true_image_of_another_range_is_refused(cases):
    with pytest.raises(ValueError, match=r"the true image lies in .*; wanted values in \[-1, 1\]"):
        Truth(127.5 * cases.truth.image, cases.truth.kernel)


def test_an_estimate_explains_a_measurement_where_it_has_a_kernel(cases):
    truth = cases.truth
    noise = cases.measurement.y - explained(truth.components)
    assert noise.std().item() == pytest.approx(0.02, rel=0.05)
    assert explained({"image": truth.image}) is None
    estimate = Estimate({"image": truth.image}, 7, 3)
    assert estimate.kernel is None and estimate.tilt is None
    assert (estimate.map(lambda v: 2 * v).image == 2 * truth.image).all() and estimate.map(abs).forward == 7


def test_the_noise_is_not_made_of_the_numbers_that_a_kernel_or_a_tilt_of_the_same_seed_is():
    noise = noisy(torch.zeros(1, 3, 64, 64), [7], 1.0).flatten()
    white = torch.randn(40_000, generator=torch.Generator().manual_seed(7))
    assert torch.isin(noise, white).float().mean() < 0.01


def test_the_cases_of_tables_have_a_seed_each_and_some_of_them_the_same():
    whole, some = deblurring_cases("photos", "motion", 6, 10), deblurring_cases("photos", "motion", 6, 10, [4, 1])
    assert whole.title == "photos-motion" and whole.measurement.seeds == tuple(range(10, 16))
    assert some.names == (whole.names[4], whole.names[1]) and some.measurement.seeds == (14, 11)
    torch.testing.assert_close(some.measurement.y, whole.measurement.y[[4, 1]])
    kernel = motion_kernels(1, 32, 0.5, torch.Generator().manual_seed(14))
    torch.testing.assert_close(whole.truth.kernel[4:5], kernel)
    gaussian = deblurring_cases("photos", "gaussian", 2).truth.kernel
    torch.testing.assert_close(gaussian, gaussian_kernels(2, 32, 1.5))
    for wrong in (("birds", "motion"), ("photos", "tilt")):
        with pytest.raises(ValueError, match=r"birds|degradation"):
            deblurring_cases(*wrong, 2)
