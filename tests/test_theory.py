"""Finite sums against brute force, and Bayes' rule by drawing."""

import math
from itertools import product

import pytest
import torch

from pdm.models import EmpiricalPrior, GaussianMixture
from pdm.paper import theory
from pdm.schedule import Schedule

SCHEDULE = Schedule.linear()
SIGMA = 0.3


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def circular(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Circular convolution of lines: B n and B n."""
    return torch.fft.irfft(torch.fft.rfft(image) * torch.fft.rfft(kernel), n=image.shape[-1])


@pytest.fixture
def scene() -> dict:
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64), torch.tensor([0.25, 0.75], dtype=torch.float64)
    images = EmpiricalPrior(SCHEDULE, normal(3, 6), weights[0])
    kernels = EmpiricalPrior(SCHEDULE, normal(2, 6, seed=1).softmax(1), weights[1])
    return {"images": images, "kernels": kernels, "y": normal(6, seed=2)}


def at_means(y, x, k, t, images, kernels, sigma) -> torch.Tensor:
    """What Theorem 1 puts in place of the sum."""
    return theory.log_gaussian(y, circular(images.mean(x, t), kernels.mean(k, t)), sigma)


def density(y: torch.Tensor, mean: torch.Tensor, variance: float) -> float:
    """A Gaussian's density, pixel by pixel."""
    value = 1.0
    for a, b in zip(y.tolist(), mean.tolist(), strict=True):
        value *= math.exp(-((a - b) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    return value


def by_bayes(prior: EmpiricalPrior, x: torch.Tensor, t: int) -> list[float]:
    alpha_bar = SCHEDULE.alpha_bar[t].item()
    pairs = zip(prior.points, prior.weights.tolist(), strict=True)
    terms = [w * density(x, math.sqrt(alpha_bar) * p, 1 - alpha_bar) for p, w in pairs]
    return [term / sum(terms) for term in terms]


@pytest.mark.parametrize("t", [50, 400, 900])
def test_an_empirical_prior_is_a_mixture_of_points_with_no_width(t, scene):
    prior, x = scene["images"], 0.7 * normal(4, 6, seed=3)
    for i in range(4):
        assert prior.posterior(x, t)[i].tolist() == pytest.approx(by_bayes(prior, x[i], t))
    narrow = GaussianMixture(SCHEDULE, prior.points, prior.weights, 1e-6)
    torch.testing.assert_close(prior(x, t).x0, narrow(x, t).x0)
    assert torch.equal(prior(x, t).x0, prior.mean(x, t))


def test_the_likelihood_is_the_sum_over_all_pairs(scene):
    images, kernels, y, t = scene["images"], scene["kernels"], scene["y"], 500
    x, k = normal(2, 6, seed=3), normal(2, 6, seed=4)
    table = theory.measurements(images.points, kernels.points, circular)
    assert table.shape == (3, 2, 6)
    found = theory.log_likelihood(y, x, k, t, images, kernels, table, SIGMA).exp()
    for b in range(2):
        shares = by_bayes(images, x[b], t), by_bayes(kernels, k[b], t)
        expected = 0.0
        for i, j in product(range(3), range(2)):
            seen = circular(images.points[i : i + 1], kernels.points[j : j + 1])[0]
            expected += shares[0][i] * shares[1][j] * density(y, seen, SIGMA**2)
        assert found[b].item() == pytest.approx(expected)
    near = at_means(y, x, k, t, images, kernels, SIGMA).exp()
    means = [
        sum(w * p for w, p in zip(by_bayes(v, at, t), v.points, strict=True))
        for v, at in ((images, x[0]), (kernels, k[0]))
    ]
    seen = circular(means[0][None], means[1][None])[0]
    assert near[0].item() == pytest.approx(density(y, seen, SIGMA**2))


def test_the_joint_posterior_is_what_draws_that_gave_y_are(scene):
    images, kernels = scene["images"], scene["kernels"]
    table = theory.measurements(images.points, kernels.points, circular)
    y = table[0, 1] + 0.1
    found = theory.joint_posterior(y, images, kernels, table, sigma=0.5)
    terms = torch.tensor(
        [
            [wi * wj * density(y, table[i, j], 0.25) for j, wj in enumerate(kernels.weights.tolist())]
            for i, wi in enumerate(images.weights.tolist())
        ]
    )
    torch.testing.assert_close(found, (terms / terms.sum()).double())
    assert found.sum().item() == pytest.approx(1)


def test_near_the_clean_signal_the_approximation_is_exact_and_the_bound_is_nothing(scene):
    images, kernels, y = scene["images"], scene["kernels"], scene["y"]
    x, k = images.points[1:2], kernels.points[:1]
    table = theory.measurements(images.points, kernels.points, circular)
    one = theory.log_likelihood(y, x, k, 0, images, kernels, table, SIGMA)
    other = at_means(y, x, k, 0, images, kernels, SIGMA)
    torch.testing.assert_close(one, other)

    def norm(signals):
        return torch.fft.rfft(signals).abs().amax(1)

    matrix = torch.stack([circular(row[None], kernels.points[:1])[0] for row in torch.eye(6, dtype=torch.float64)])
    assert norm(kernels.points[:1]).item() == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item())
    bounds = [theory.misfit_bound(x, k, t, images, kernels, norm).item() for t in (0, 300, 900)]
    assert bounds[0] == pytest.approx(0, abs=1e-12) and bounds[1] < bounds[2]


def halved(kernels: torch.Tensor) -> torch.Tensor:
    return kernels / 2


@pytest.mark.parametrize("constrain", [lambda k: k, halved])
@pytest.mark.parametrize("t", [200, 500, 900])
@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_the_jensen_gap_is_within_its_bound(t, sigma, constrain, scene):
    images, kernels, y = scene["images"], scene["kernels"], scene["y"]

    def operator(image, kernel):
        return circular(image, constrain(kernel))

    def norm(signals):
        return torch.fft.rfft(signals).abs().amax(1)

    x, k = SCHEDULE.diffuse(images.points, normal(3, 6, seed=5), t), normal(3, 6, seed=6)
    table = theory.measurements(images.points, kernels.points, operator)
    means = operator(images.mean(x, t), kernels.mean(k, t))
    shares = images.posterior(x, t)[:, :, None] * kernels.posterior(k, t)[:, None]
    misfit = (shares * (table[None] - means[:, None, None]).norm(dim=-1)).sum((1, 2))
    bound = theory.misfit_bound(x, k, t, images, kernels, norm, constrain)
    assert (misfit <= bound + 1e-12).all()
    true = theory.log_likelihood(y, x, k, t, images, kernels, table, sigma).exp()
    gap = (true - theory.log_gaussian(y, means, sigma).exp()).abs()
    assert (gap <= theory.lipschitz_constant(6, sigma) * bound).all()


def test_no_slope_of_a_gaussian_is_steeper_than_its_lipschitz_constant():
    for size, sigma in ((1, 0.3), (3, 0.7)):
        r = torch.linspace(0, 5 * sigma, 100_001, dtype=torch.float64)
        along = torch.cat([r[:, None], torch.zeros(len(r), size - 1, dtype=torch.float64)], 1)
        values = theory.log_gaussian(torch.zeros(size, dtype=torch.float64), along, sigma).exp()
        steepest = (values.diff() / r.diff()).abs().max().item()
        assert steepest == pytest.approx(theory.lipschitz_constant(size, sigma), rel=1e-6)
    assert theory.paper_constant(1, 1.0) == pytest.approx(math.exp(-0.5) / math.sqrt(2 * math.pi))


def test_gradients_are_finite_where_a_posterior_underflows(scene):
    images, kernels = scene["images"], scene["kernels"]
    table = theory.measurements(images.points, kernels.points, circular)
    x, k = (v[:1].clone().requires_grad_() for v in (images.points, kernels.points))
    assert images.posterior(x, 0).min() == 0 and images.log_posterior(x, 0).isfinite().all()
    value = theory.log_likelihood(scene["y"], x, k, 0, images, kernels, table, SIGMA)
    assert all(g.isfinite().all() for g in torch.autograd.grad(value.sum(), (x, k)))


def test_what_is_no_prior_is_refused(scene):
    with pytest.raises(ValueError, match="of sum 1"):
        EmpiricalPrior(SCHEDULE, normal(2, 6), torch.tensor([0.5, 0.6]))
    with pytest.raises(ValueError, match=r"samples have the shape \(5,\); wanted \(6,\)"):
        scene["images"](normal(2, 5), 10)
