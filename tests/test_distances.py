"""Distances between sets: closed forms, SciPy, and sets that are equal or shifted."""

import math

import numpy as np
import pandas as pd
import piq
import pytest
import scipy.linalg
import torch

from pdm.data import gaussian_kernels, motion_kernels, tilt_fields
from pdm.metrics import (
    features,
    frechet_distance,
    kernel_distance,
    kernel_statistics,
    nearest,
    tilt_statistics,
    two_sample_test,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- Frechet distance and KID ----


def test_frechet_distance_of_two_gaussians_is_the_closed_form():
    x, y = normal(40_000, 4), 2 * normal(40_000, 4, seed=1) + 3
    assert frechet_distance(x, y) == pytest.approx(4 * (3**2 + (2 - 1) ** 2), rel=0.01)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 0.5) == pytest.approx(4 * 0.25)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 12), (20, 30, 64)])
def test_frechet_distance_agrees_with_scipys_matrix_root(n, m, d):
    mix = normal(d, d, seed=2)
    x, y = (normal(n, d) @ mix).relu(), normal(m, d, seed=1) @ mix + 0.1
    a, b = (np.cov(v.numpy(), rowvar=False) for v in (x, y))
    root = scipy.linalg.sqrtm(scipy.linalg.sqrtm(a) @ b @ scipy.linalg.sqrtm(a))
    gap = (x.mean(0) - y.mean(0)).square().sum().item()
    assert frechet_distance(x, y) == pytest.approx(gap + np.trace(a + b - 2 * root).real, rel=1e-4)


def test_kernel_distance_is_the_unbiased_discrepancy_written_out():
    x, y = normal(7, 3), normal(5, 3, seed=1) + 1

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    def within(v):
        n = len(v)
        return sum(kernel(v[i], v[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    across = sum(kernel(a, b) for a in x for b in y) / 35
    assert kernel_distance(x, y) == pytest.approx((within(x) + within(y) - 2 * across).item(), rel=1e-6)
    apart = sum(kernel(x[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
    paired = (within(x[:5]) + within(y) - 2 * apart).item()
    assert kernel_distance(x[:5], y, paired=True) == pytest.approx(paired, rel=1e-6)
    with pytest.raises(ValueError, match="7 and 5 features; wanted pairs"):
        kernel_distance(x, y, paired=True)


def test_kernel_distance_of_equal_numbers_is_piqs():
    x, y = normal(40, 6).abs(), normal(40, 6, seed=1).abs() + 0.3
    assert kernel_distance(x, y) == pytest.approx(piq.KID()(x, y).item(), rel=1e-6)


def test_kernel_distance_of_a_perfect_estimate_to_its_truths_is_zero_and_not_below():
    truth = normal(64, 8).abs()
    assert kernel_distance(truth, truth, paired=True) == pytest.approx(0, abs=1e-12)
    assert kernel_distance(truth, truth) < -0.01


def test_kernel_distance_of_one_distribution_is_zero_in_the_mean():
    values = [kernel_distance(normal(60, 8, seed=i), normal(60, 8, seed=100 + i)) for i in range(60)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(60)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(1, 4), torch.zeros(3, 4), r"\(1, 4\); wanted N d, N 2 or more"),
        (torch.zeros(3, 4), torch.zeros(3, 5), "of 4 and of 5 dimensions"),
        (torch.full((3, 4), torch.nan), torch.zeros(3, 4), "finite"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(x, y, message):
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match=message):
            distance(x, y)


def test_features_do_not_depend_on_the_batch_and_tell_pictures_apart():
    images = normal(5, 3, 64, 64).float().clamp(-1, 1)
    whole = features(images)
    assert whole.shape == (5, 512) and whole.dtype == torch.float64
    torch.testing.assert_close(features(images, batch=2), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features(images + 0.01 * (images == 1)), whole)  # clamped
    assert (whole[0] - whole[1]).abs().max() > 0.01
    for wrong, message in (
        (images[:, :1], "wanted N 3 H W"),
        (images[..., :16], "32 pixels"),
        (images / 0, "NaN or inf"),
        (127.5 * images + 127.5, r"images lies in \[0, 255\]; wanted values in \[-1, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            features(wrong)


# ---- nearest neighbours ----


def test_copies_of_training_images_are_found_mirrored_ones_too():
    train, test, fresh = (normal(60, 3, 8, 8, seed=i).float() for i in range(3))
    copies = torch.cat([train[:10], train[10:20].flip(-1)])
    found = nearest(copies, train, test)
    assert found["share"] == 1 and found["to_train"] < 1e-3 < 0.3 < found["test_to_train"]
    few = nearest(torch.cat([train[:3], fresh]), train, test)
    assert few["ratio"] < 0.1 < 0.8 < few["test_ratio"] and few["to_train"] > 0.9 * few["test_to_train"]
    free = nearest(fresh, train, test)
    assert free["ratio"] == pytest.approx(free["test_ratio"], abs=0.05)
    smooth = nearest(0.5 * fresh, train, test)  # nearer to everything, and no copy
    assert smooth["to_train"] < 0.9 * smooth["test_to_train"] and smooth["ratio"] > 0.8
    assert free["share_se"] == pytest.approx((free["share"] * (1 - free["share"]) / len(fresh)) ** 0.5)
    assert free["chance"] == 0.5
    assert free["share"] == pytest.approx(0.5, abs=0.2)
    assert free["to_train"] == pytest.approx(free["test_to_train"], rel=0.1)
    assert nearest(fresh, torch.cat([train, fresh + 1]), test)["chance"] == pytest.approx(2 / 3)


def test_sets_of_unlike_images_are_refused():
    with pytest.raises(ValueError, match=r"train have the shape \(2, 1, 8, 8\); wanted N \(3, 8, 8\)"):
        nearest(torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8))


# ---- statistics ----


def test_statistics_of_a_gaussian_kernel_are_its_own():
    found = kernel_statistics(gaussian_kernels(2, 33, torch.tensor([1.5, 3.0])))
    variance = torch.tensor([1.5, 3.0]) ** 2 + 1 / 12  # integrated over pixels
    assert found["spread"].tolist() == pytest.approx((2 * variance).sqrt().tolist(), rel=1e-3)
    assert found["peak"][0] == pytest.approx(1 / (2 * math.pi * 1.5**2), rel=0.05)
    radius = math.sqrt(2 * math.log(100))  # where a Gaussian falls to a hundredth, in its std
    assert found["support"].tolist() == pytest.approx([math.pi * (radius * s) ** 2 for s in (1.5, 3.0)], rel=0.08)
    assert found["fine_power"].max() < 1e-3
    dot = torch.zeros(1, 1, 9, 9)
    dot[..., 4, 4] = 5.0
    assert kernel_statistics(dot).iloc[0].tolist()[:4] == pytest.approx([1, 0, 4, 1])


def test_statistics_of_a_tilt_field_are_those_of_its_generator():
    fields = tilt_fields(64, 64, torch.Generator().manual_seed(0), std=1.5)
    found = tilt_statistics(fields)
    assert found["rms"].mean() == pytest.approx(fields.square().mean().sqrt().item(), rel=0.02)
    assert found["correlation_length"].mean() == pytest.approx(3.0, rel=0.05)  # exp(-lag^2 / (2 std)^2)
    assert found["largest"].max() <= 2.5


def test_the_two_sample_test_tells_generators_apart_and_one_from_itself_not():
    def kernels(intensity, seed):
        return kernel_statistics(motion_kernels(300, 32, intensity, torch.Generator().manual_seed(seed)))

    same, other = two_sample_test(kernels(0.5, 0), kernels(0.5, 1)), two_sample_test(kernels(0.5, 0), kernels(0.8, 1))
    assert list(same.columns) == ["statistic", "samples", "generator", "ks", "p"]
    assert same.p.min() > 0.01
    assert other.set_index("statistic").p["spread"] < 1e-6
    with pytest.raises(ValueError, match="wanted the same"):
        two_sample_test(pd.DataFrame({"a": [1.0]}), pd.DataFrame({"b": [1.0]}))


@pytest.mark.parametrize("wrong", [torch.zeros(1, 1, 4, 4), -torch.ones(1, 1, 4, 4), torch.ones(1, 4, 4)])
def test_what_is_no_kernel_or_no_field_has_no_statistics(wrong):
    with pytest.raises(ValueError, match="wanted N 1 h w"):
        kernel_statistics(wrong)
    with pytest.raises(ValueError, match="wanted N 2 h w"):
        tilt_statistics(wrong)
