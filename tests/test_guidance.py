"""Line (5): its gradients against finite differences in float64, and what follows from the norm not being squared."""

import math
from functools import partial

import pytest
import torch

from pdm.constraints import l0, l1, simplex
from pdm.guidance import DPS, operator_parameters, sqrt_alpha_bar
from pdm.models import GaussianMixture
from pdm.operators import blur
from pdm.sampler import State
from pdm.schedule import Schedule

SCHEDULE = Schedule.linear()
T = 400
ONE = {"image": 1.0, "kernel": 1.0}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(*shape: int, seed: int) -> GaussianMixture:
    means = 0.5 * normal(2, *shape, seed=seed)
    return GaussianMixture(SCHEDULE, means, torch.tensor([0.4, 0.6], dtype=torch.float64), 0.6)


PRIORS = {"image": mixture(1, 5, 5, seed=1), "kernel": mixture(1, 3, 3, seed=2)}
CONSTRAIN = {"image": lambda x0: x0, "kernel": simplex}
START = {"image": normal(2, 1, 5, 5, seed=3), "kernel": normal(2, 1, 3, 3, seed=4)}
MEASUREMENT = normal(2, 1, 5, 5, seed=5)


def state_at(x: dict[str, torch.Tensor], t: int = T) -> State:
    """Lines (1) to (3) on the tiny problem, with a graph from x to theta."""
    x = {n: v.detach().requires_grad_() for n, v in x.items()}
    x0 = {n: PRIORS[n](v, t).x0 for n, v in x.items()}
    return State(t, t - 1, x, x0, {n: CONSTRAIN[n](v) for n, v in x0.items()})


def guide(guidance: DPS, x=None, t: int = T):
    return guidance(state_at(START if x is None else x, t), {})


def finite_differences(objective, x: dict[str, torch.Tensor], h: float = 1e-5) -> dict[str, torch.Tensor]:
    """Central differences of a function of the state, component by component and number by number."""
    gradients = {}
    for name, value in x.items():
        slopes = []
        for i in range(value.numel()):
            shift = torch.zeros(value.numel(), dtype=torch.float64)
            shift[i] = h
            up, down = (objective(x | {name: value + sign * shift.reshape(value.shape)}) for sign in (1, -1))
            slopes.append((up - down) / (2 * h))
        gradients[name] = torch.tensor(slopes, dtype=torch.float64).reshape(value.shape)
    return gradients


def objective(x, weights=None) -> float:
    """sum_b || y_b - operator(theta)_b || + weights R, written without the class."""
    state, total = state_at(x), 0.0
    predicted = blur(**state.theta)
    for b in range(2):
        total += math.sqrt(((MEASUREMENT[b] - predicted[b]) ** 2).sum().item())
    for name, (penalty, weight) in (weights or {}).items():
        total += weight * penalty(state.x0[name]).sum().item()
    return total


def test_gradients_agree_with_finite_differences():
    delta, loss = guide(DPS(MEASUREMENT, blur, ONE))
    for name, expected in finite_differences(objective, START).items():
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(delta[name], expected, rtol=1e-5, atol=1e-8)
    assert loss.shape == (2,) and loss.sum().item() == pytest.approx(objective(START), rel=1e-12)


@pytest.mark.parametrize("penalty", [l0, l1])
def test_gradients_with_a_penalty_agree_with_finite_differences(penalty):
    weights = {"kernel": (penalty, 0.7), "image": (l0, 0.2)}
    delta, loss = guide(DPS(MEASUREMENT, blur, ONE, weights))
    for name, expected in finite_differences(lambda x: objective(x, weights), START).items():
        torch.testing.assert_close(delta[name], expected, rtol=1e-5, atol=1e-8)
    assert loss.sum().item() == pytest.approx(objective(START), rel=1e-12)  # the residual without its penalties


def test_a_penalty_moves_its_own_component_by_its_own_gradient():
    plain, _ = guide(DPS(MEASUREMENT, blur, ONE))
    delta, _ = guide(DPS(MEASUREMENT, blur, ONE, {"kernel": (l1, 3.0)}))
    assert torch.equal(delta["image"], plain["image"])
    state = state_at(START)
    (alone,) = torch.autograd.grad(3.0 * l1(state.x0["kernel"]).sum(), state.x["kernel"])
    assert alone.abs().max() > 0.1
    torch.testing.assert_close(delta["kernel"], plain["kernel"] + alone)
    none, _ = guide(DPS(MEASUREMENT, blur, ONE, {"kernel": (l1, 0.0)}))
    torch.testing.assert_close(none["kernel"], plain["kernel"])


@pytest.mark.parametrize("c", [0.1, 10.0])
def test_the_norm_is_not_squared(c):
    """In units c times as large, loss and gradient are c times as large; a square would make both c^2."""
    plain, loss = guide(DPS(MEASUREMENT, blur, ONE))
    scaled, scaled_loss = guide(DPS(c * MEASUREMENT, lambda image, kernel: c * blur(image, kernel), ONE))
    torch.testing.assert_close(scaled_loss, c * loss)
    for name in plain:
        torch.testing.assert_close(scaled[name], c * plain[name])


def test_the_gradient_does_not_fade_as_the_residual_does():
    """With a single identity operator the gradient of the norm is a unit vector times the slope of Tweedie."""
    prior = GaussianMixture(SCHEDULE, torch.zeros(1, 1, 4, 4).double(), torch.ones(1).double(), 1.0)  # slope sqrt(a)
    for far in (1e-3, 10.0):
        x = normal(3, 1, 4, 4).requires_grad_()
        x0 = prior(x, T).x0
        y = x0.detach() + far * normal(3, 1, 4, 4, seed=1)
        delta, loss = DPS(y, lambda image: image, {"image": 1.0})(State(T, T - 1, {"image": x}, {}, {"image": x0}), {})
        slope = SCHEDULE.alpha_bar[T].sqrt()
        torch.testing.assert_close(delta["image"].flatten(1).norm(dim=1), slope.expand(3))
        torch.testing.assert_close(delta["image"], slope * (x0 - y).detach() / loss[:, None, None, None])


def test_the_step_is_a_number_or_a_function_of_time_for_each_component():
    plain, _ = guide(DPS(MEASUREMENT, blur, ONE), t=37)
    scaled, _ = guide(DPS(MEASUREMENT, blur, {"image": 0.3, "kernel": lambda t: t / 100}), t=37)
    torch.testing.assert_close(scaled["image"], 0.3 * plain["image"])
    torch.testing.assert_close(scaled["kernel"], 0.37 * plain["kernel"])
    zero, _ = guide(DPS(MEASUREMENT, blur, {"image": 0.0, "kernel": 1.0}))
    assert (zero["image"] == 0).all()


def test_each_sample_descends_its_own_residual():
    delta, loss = guide(DPS(MEASUREMENT, blur, ONE, {"kernel": (l0, 1.0)}))
    for b in range(2):
        alone = DPS(MEASUREMENT[b : b + 1], blur, ONE, {"kernel": (l0, 1.0)})
        one, one_loss = guide(alone, {n: v[b : b + 1] for n, v in START.items()})
        torch.testing.assert_close(one_loss, loss[b : b + 1], rtol=1e-12, atol=0)
        for name in delta:
            torch.testing.assert_close(one[name], delta[name][b : b + 1], rtol=1e-10, atol=1e-14)


def test_displacement_and_loss_carry_no_graph():
    delta, loss = guide(DPS(MEASUREMENT, blur, ONE))
    assert not loss.requires_grad and not any(v.requires_grad for v in delta.values())


def test_sqrt_alpha_bar_is_its_name():
    product = 1.0
    for t in range(1000):
        product *= 1 - (1e-4 + (2e-2 - 1e-4) * t / 999)
        if t in (0, 1, 500, 999):
            assert sqrt_alpha_bar(SCHEDULE)(t) == pytest.approx(math.sqrt(product), rel=1e-9)
            assert sqrt_alpha_bar(SCHEDULE, 0.3)(t) == pytest.approx(0.3 * math.sqrt(product), rel=1e-9)


def test_operator_parameters_are_those_without_a_default():
    kernel = torch.ones(1, 1, 1, 1)
    assert operator_parameters(blur) == {"image", "kernel"}
    assert operator_parameters(partial(blur, kernel=kernel)) == {"image"}
    assert operator_parameters(partial(blur, boundary="zero")) == {"image", "kernel"}
    assert operator_parameters(lambda image, kernel, tilt, boundary="zero": image) == {"image", "kernel", "tilt"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPS(MEASUREMENT.int(), blur, ONE), "int32.*wanted B .S, floating point"),
        (lambda: DPS(MEASUREMENT[:0], blur, ONE), "the measurement is"),
        (lambda: DPS(MEASUREMENT.numpy(), blur, ONE), "the measurement is a ndarray"),
        (lambda: guide(DPS(MEASUREMENT[0], blur, ONE)), r"\(1, 5, 5\); the operator gives \(2, 1, 5, 5\)"),
        (lambda: DPS(MEASUREMENT * math.nan, blur, ONE), "50 values"),
        (lambda: DPS(MEASUREMENT, blur, {"image": 1.0}), "steps are given for"),
        (lambda: DPS(MEASUREMENT, blur, ONE | {"tilt": 1.0}), "steps are given for"),
        (lambda: DPS(MEASUREMENT, blur, ONE, {"tilt": (l1, 1.0)}), "penalties are given for"),
        (lambda: DPS(MEASUREMENT, blur, ONE | {"image": -1.0}), "step or weight of image"),
        (lambda: DPS(MEASUREMENT, blur, ONE | {"image": math.inf}), "step or weight of image"),
        (lambda: DPS(MEASUREMENT, blur, ONE, {"kernel": (l1, math.nan)}), "penalty on kernel"),
        (lambda: guide(DPS(MEASUREMENT, partial(blur, boundary="valid"), ONE)), "the operator gives"),
        (lambda: guide(DPS(MEASUREMENT[:1], blur, ONE)), "the operator gives"),
    ],
)
def test_errors_name_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
