"""The projections against an independent solver and their defining properties, the penalties against closed forms."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from pdm.constraints import l0, l1, project_simplex, projection, shift_and_divide, simplex
from pdm.data import motion_kernels


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bisected(v: np.ndarray) -> np.ndarray:
    """max(v - tau, 0) with the tau that makes the sum 1, found by halving."""
    low, high = v.min() - 1, v.max()  # sums of at least 1, and of 0
    for _ in range(200):
        tau = (low + high) / 2
        low, high = (tau, high) if np.maximum(v - tau, 0).sum() > 1 else (low, tau)
    return np.maximum(v - tau, 0)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 100.0])
def test_projection_agrees_with_bisection(scale):
    v = scale * normal(6, 1, 5, 7)
    projected = project_simplex(v)
    for sample, expected in zip(projected, v, strict=True):
        np.testing.assert_allclose(sample.numpy(), bisected(expected.numpy()), rtol=0, atol=1e-12 * max(scale, 1))


def test_projection_agrees_with_a_quadratic_program():
    for seed in range(3):
        v = 0.5 * normal(8, seed=seed).numpy()
        solved = minimize(
            lambda k, v=v: 0.5 * ((k - v) ** 2).sum(),
            np.full(8, 1 / 8),
            jac=lambda k, v=v: k - v,
            bounds=[(0, None)] * 8,
            constraints={"type": "eq", "fun": lambda k: k.sum() - 1, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        assert solved.success
        np.testing.assert_allclose(project_simplex(torch.from_numpy(v)[None])[0].numpy(), solved.x, atol=1e-6)


def test_projection_lies_in_the_simplex_is_idempotent_and_nearest():
    v = 0.3 * normal(4, 1, 4, 4)
    projected = project_simplex(v)
    assert projected.shape == v.shape and (projected >= 0).all()
    torch.testing.assert_close(projected.sum((1, 2, 3)), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(project_simplex(projected), projected, rtol=0, atol=1e-12)
    rng = np.random.default_rng(0)
    others = torch.from_numpy(np.concatenate([rng.dirichlet(np.full(16, a), 500) for a in (0.05, 0.3, 1.0)]))
    others = torch.cat([others, torch.eye(16, dtype=torch.float64)])
    for sample, nearest in zip(v.flatten(1), projected.flatten(1), strict=True):
        assert ((others - sample).norm(dim=1) >= (nearest - sample).norm() - 1e-12).all()
        assert (((sample - nearest) * (others - nearest)).sum(1) <= 1e-12).all()  # the obtuse angle of a projection


def test_projection_of_points_known_by_hand():
    cases = {(2.0, 0.0, 0.0): (1, 0, 0), (0.5, 0.5, 0.5): (1 / 3,) * 3, (0.9, 0.5, -3.0): (0.7, 0.3, 0)}
    v = torch.tensor(list(cases), dtype=torch.float64)
    torch.testing.assert_close(project_simplex(v), torch.tensor(list(cases.values()), dtype=torch.float64))


@pytest.mark.parametrize("constrain", [project_simplex, simplex, shift_and_divide, l1, l0])
def test_gradients_agree_with_finite_differences(constrain):
    x = (0.4 * normal(2, 1, 3, 4)).requires_grad_()
    assert torch.autograd.gradcheck(constrain, x)


@pytest.mark.parametrize("constrain", [project_simplex, simplex, shift_and_divide, l1, l0])
def test_each_sample_is_on_its_own(constrain):
    x = normal(3, 1, 6, 5) * torch.tensor([0.1, 1.0, 30.0])[:, None, None, None]
    together, apart = constrain(x), torch.cat([constrain(x[i : i + 1]) for i in range(3)])
    assert torch.equal(together, apart)


@pytest.mark.parametrize("constrain", [simplex, projection, shift_and_divide])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_kernels_are_nonnegative_with_sum_one(constrain, scale):
    kernel = constrain((scale * normal(5, 1, 8, 8) - 0.5).float())
    assert kernel.dtype == torch.float32 and (kernel >= 0).all()
    torch.testing.assert_close(kernel.sum((1, 2, 3)), torch.ones(5))


def test_simplex_is_shift_and_divide_within_the_range_and_not_beyond():
    x = normal(4, 1, 8, 8)
    inside = x.clamp(-1, 1)
    torch.testing.assert_close(simplex(inside), shift_and_divide(inside), rtol=0, atol=1e-14)
    assert ((simplex(x) - shift_and_divide(x)).abs().amax((1, 2, 3)) > 1e-4).all()


def test_the_projection_to_the_letter_keeps_peaks_alone_of_a_kernel_on_the_priors_scale():
    kernel = motion_kernels(1, 32, 0.5, torch.Generator().manual_seed(0))
    x = 2 * kernel / kernel.max() - 1
    found = projection(x)
    torch.testing.assert_close(found, project_simplex((x + 1) / 2))
    assert (found > 0).sum() < 0.5 * (kernel > 0).sum()
    scaled = projection(2 * kernel - 1)  # of sum 1 already, it is left as it is
    torch.testing.assert_close(scaled, kernel, atol=1e-6, rtol=0)


def test_simplex_finds_a_kernel_again_whatever_its_scale():
    kernel = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).square()
    kernel = kernel / kernel.sum((1, 2, 3), keepdim=True)
    for scale in (0.01, 1.0, 40.0):
        for constrain in (simplex, shift_and_divide):
            torch.testing.assert_close(constrain(2 * scale * kernel - 1), kernel, rtol=1e-9, atol=1e-12)


def test_simplex_is_the_nearest_kernel_to_the_divided_estimate():
    x = normal(3, 1, 4, 4)
    for sample, u in zip(simplex(x), (x + 1) / 2, strict=True):
        assert u.min() < 0 and u.sum() > 0.1 * u.clamp(min=0).sum()  # the case in which it divides by the signed sum
        np.testing.assert_allclose(sample.numpy(), bisected((u / u.sum()).numpy()), atol=1e-12)


def test_simplex_takes_off_haze_that_shift_and_divide_leaves():
    """One peak under zero-mean haze: the release's way keeps every positive half of it, the projection takes it off."""
    x = -1 + 0.02 * normal(1, 1, 16, 16)
    x[..., 8, 8] = 1
    truth = torch.zeros_like(x)
    truth[..., 8, 8] = 1
    near, far = (simplex(x) - truth).norm(), (shift_and_divide(x) - truth).norm()
    assert near < 0.5 * far


@pytest.mark.parametrize("constrain", [simplex, projection, shift_and_divide])
def test_an_empty_estimate_stays_finite(constrain):
    assert constrain(torch.full((1, 1, 4, 4), -1.0)).isfinite().all()
    assert constrain(torch.full((1, 1, 4, 4), -3.0)).isfinite().all()


def test_penalties_against_their_sums():
    x = torch.tensor([[[[1.0, -1.0], [0.0, -3.0]]], [[[-1.0, -1.0], [-1.0, -0.8]]]], dtype=torch.float64)
    # u is 1, 0, 1/2, -1 in the first and 0, 0, 0, 1/10 in the second
    torch.testing.assert_close(l1(x), torch.tensor([2.5, 0.1], dtype=torch.float64))
    counted = torch.tensor([2 / 1.01 + 0.25 / 0.26, 0.01 / 0.02], dtype=torch.float64)
    torch.testing.assert_close(l0(x), counted)
    torch.testing.assert_close(l0(x, width=1e-6), torch.tensor([3.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan"), float("inf")])
def test_l0_refuses_a_width_that_is_not_above_zero(width):
    with pytest.raises(ValueError, match="width"):
        l0(torch.zeros(1, 1, 2, 2), width)


def test_l1_of_a_normalised_kernel_has_nothing_to_say():
    """Why the penalty is taken before: afterwards it is 1 for every kernel, and its gradient is zero."""
    x = (0.4 * normal(3, 1, 6, 6)).requires_grad_()
    for constrain in (simplex, shift_and_divide):
        after = constrain(x).abs().flatten(1).sum(1)
        torch.testing.assert_close(after, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
        (gradient,) = torch.autograd.grad(after.sum(), x)
        assert gradient.abs().max() < 1e-12
    (gradient,) = torch.autograd.grad(l1(x).sum(), x)
    torch.testing.assert_close(gradient, 0.5 * (x.detach() + 1).sign(), rtol=0, atol=0)
