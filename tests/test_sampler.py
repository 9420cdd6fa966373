"""The loop against the authors' release, against laws known in closed form, and its promises to its consumers."""

import math
import weakref
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from adm_reference import reference, tiny_prior

from pdm.baselines.ilvr import ILVR
from pdm.constraints import l1, shift_and_divide, simplex
from pdm.data import add_noise, gaussian_kernels
from pdm.guidance import DPS, sqrt_alpha_bar
from pdm.models import EmpiricalPrior, FlatPrior, GaussianMixture, NetworkPrior, Prediction, UNet, UNetConfig
from pdm.operators import blur, correlate
from pdm.sampler import Component, NoiseStreams, State, final, sample
from pdm.schedule import Schedule, ancestral_step, ddim_step

SCHEDULE = Schedule.linear()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mixture(*shape: int, seed: int) -> GaussianMixture:
    return GaussianMixture(SCHEDULE, 0.5 * normal(3, *shape, seed=seed), torch.tensor([0.2, 0.3, 0.5]), 0.3)


def analytic() -> dict[str, Component]:
    return {
        "image": Component(mixture(3, 8, 8, seed=1), (3, 8, 8)),
        "kernel": Component(mixture(1, 3, 3, seed=2), (1, 3, 3), simplex),
    }


def analytic_guidance(measurement: torch.Tensor) -> DPS:
    return DPS(measurement, blur, {"image": 0.3, "kernel": 0.3}, {"kernel": (l1, 0.1)})


def one_stream(n: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda name, shape: torch.randn(n, *shape, generator=generator)


def last(states):
    *_, state = states
    return state


class Counting:
    """A prior of standard normal x0 (its mean is then sqrt(alpha_bar) x_t) that notes the times it is asked."""

    def __init__(self):
        self.times = []

    def __call__(self, x, t):
        self.times.append(t)
        return Prediction(SCHEDULE.alpha_bar[t].sqrt().float() * x)


# ---------------------------------------------------------------------------------------------- the authors' release


@pytest.fixture(scope="module")
def networks():
    return {"image": tiny_prior("tiny_image"), "kernel": tiny_prior("tiny_kernel")}


@pytest.fixture
def released(networks):
    return {
        "image": Component(networks["image"], (3, 32, 32)),
        "kernel": Component(networks["kernel"], (1, 32, 32), shift_and_divide),
    }


def test_the_release_is_reproduced_step_by_step(released):
    expected, _ = reference("release_trajectory")
    turn = dict.fromkeys(released, -1)

    def noise(name, shape):
        turn[name] += 1
        assert shape == released[name].shape
        return expected[f"start.{name}"] if turn[name] == 0 else expected[f"noise.{name}"][turn[name] - 1][None]

    guidance = DPS(expected["y"], correlate, {n: sqrt_alpha_bar(SCHEDULE) for n in released})
    states = list(sample(released, guidance, steps=20, step=ancestral_step("learned"), noise=noise))
    assert [state.t for state in states] == expected["timesteps"].tolist()
    for i, state in enumerate(states):
        for name in released:
            torch.testing.assert_close(state.x[name], expected[f"trajectory.{name}"][i][None], rtol=0, atol=1e-4)
        inert = 1.0  # the release counts its l1 of the kernel, normalised and so always 1, in the loss
        assert state.loss.item() + inert == pytest.approx(expected["loss"][i].item(), abs=1e-4)


def test_the_releases_operator_is_correlate():
    expected, _ = reference("release_trajectory")
    out = correlate(expected["truth.image"], expected["truth.kernel"])
    torch.testing.assert_close(out, expected["forward"], rtol=0, atol=1e-6)


def test_networks_give_a_sample_the_same_in_every_batch(released):
    """To 1e-3, not bit for bit: a network's matrix products are ordered otherwise in another batch.

    Tweedie divides by sqrt(alpha_bar), 1/157 at the start, and so multiplies the rounding of float32.
    """
    measurement, seeds = 0.5 * normal(3, 3, 32, 32), (5, 9, 2)

    def run(which):
        guidance = DPS(measurement[which], correlate, {"image": 0.3, "kernel": 0.3})
        return last(sample(released, guidance, [seeds[i] for i in which], 4, step=ancestral_step("learned")))

    together = run([0, 1, 2])
    for i in range(3):
        alone = run([i])
        for name in released:
            torch.testing.assert_close(together.x[name][i : i + 1], alone.x[name], rtol=0, atol=1e-3)


# ------------------------------------------------------------------------------------------- laws in closed form


@pytest.mark.parametrize(
    ("step", "bias"), [(ancestral_step("small"), 0.05), (ancestral_step("large"), 0.02), (ddim_step(), 0.02)]
)
def test_a_mixture_is_sampled_with_its_weights_means_and_std(step, bias):
    """4 standard errors of 8,000 samples; `bias` is what 1,000 steps leave of the std, least for a small variance."""
    n, weights, means, std = 8000, (0.3, 0.7), (-0.6, 0.5), 0.1
    prior = GaussianMixture(SCHEDULE, torch.tensor(means)[:, None], torch.tensor(weights), std)
    x = last(sample({"x": Component(prior, (1,), clip=None)}, None, noise=one_stream(n, 0), step=step)).x["x"][:, 0]
    check_mode(x[x < 0], n, weights[0], means[0], std, bias)
    check_mode(x[x > 0], n, weights[1], means[1], std, bias)


def check_mode(x, n, weight, mean, std, bias):
    assert len(x) / n == pytest.approx(weight, abs=4 * math.sqrt(weight * (1 - weight) / n))
    assert x.mean().item() == pytest.approx(mean, abs=4 * std / math.sqrt(len(x)) + 1e-3)
    assert x.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * len(x)) + bias)


@pytest.mark.parametrize("steps", [1, 2, 20, 1000])
def test_without_guidance_a_gaussian_has_the_law_of_the_chain(steps):
    """Every step is affine in x, so that mean and variance of the chain follow by two scalar recursions."""
    centre, std, n = 0.4, 0.5, 20_000
    alpha_bar = [*SCHEDULE.alpha_bar.tolist()]
    times = [round(999 * (1 - i / (steps - 1))) if steps > 1 else 999 for i in range(steps)] + [-1]
    mean, variance = 0.0, 1.0
    for t, s in pairwise(times):
        at, to = alpha_bar[t], alpha_bar[s]
        gain = math.sqrt(at) * std**2 / (at * std**2 + 1 - at)  # E[x0 | x_t] = centre + gain (x_t - sqrt(at) centre)
        of_x = math.sqrt(at / to) * (1 - to) / (1 - at)
        of_x0 = math.sqrt(to) * (1 - at / to) / (1 - at)
        slope = of_x + of_x0 * gain
        mean = slope * mean + of_x0 * (centre - gain * math.sqrt(at) * centre)
        variance = slope**2 * variance + (1 - at / to) * (1 - to) / (1 - at)
    prior = GaussianMixture(SCHEDULE, torch.full((1, 1), centre), torch.ones(1), std)
    components = {"x": Component(prior, (1,), clip=None)}
    x = last(sample(components, None, noise=one_stream(n, 1), steps=steps)).x["x"]
    assert x.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(variance / n))
    assert x.std().item() == pytest.approx(math.sqrt(variance), rel=4 / math.sqrt(2 * n))
    if steps == 1000:  # and the chain's law is the prior's
        assert (mean, math.sqrt(variance)) == (pytest.approx(centre, abs=5e-3), pytest.approx(std, rel=0.01))


def test_with_a_known_kernel_the_residual_goes_to_the_noise():
    sigma, std = 0.02, 0.5
    prior = GaussianMixture(SCHEDULE, torch.zeros(1, 3, 12, 12), torch.ones(1), std)
    operator = partial(blur, kernel=gaussian_kernels(1, 5, 1.0), boundary="circular")
    measurement = add_noise(operator(std * normal(2, 3, 12, 12)), sigma, torch.Generator().manual_seed(1))
    components = {"image": Component(prior, (3, 12, 12), clip=None)}
    states = list(sample(components, DPS(measurement, operator, {"image": 1.0}), seeds=(0, 1)))
    noise = sigma * math.sqrt(3 * 12 * 12)
    assert (states[0].loss > 5 * noise).all()
    left = (measurement - operator(states[-1].x["image"])).flatten(1).norm(dim=1)
    assert (left > 0.7 * noise).all() and (left < 1.3 * noise).all()


def test_one_step_gives_the_denoised_start():
    start = normal(4, 1)
    prior = GaussianMixture(SCHEDULE, torch.full((1, 1), 0.4), torch.ones(1), 0.5)
    (state,) = sample({"x": Component(prior, (1,), clip=None)}, None, noise=lambda *_: start, steps=1)
    assert (state.t, state.s) == (999, -1) and torch.equal(state.x["x"], state.x0["x"])
    at = SCHEDULE.alpha_bar[999].item()
    gain = math.sqrt(at) * 0.25 / (at * 0.25 + 1 - at)
    torch.testing.assert_close(state.x["x"], 0.4 + gain * (start - math.sqrt(at) * 0.4), rtol=0, atol=1e-4)


# --------------------------------------------------------------------------------------- noise and batches


def product(image, kernel):
    return 64 * image * kernel


OPERATORS = {"product": (product, 8, 0.0), "fft": (blur, 3, 1e-4), "direct": (partial(blur, method="direct"), 3, 1e-4)}


@pytest.mark.parametrize(("operator", "side", "tolerance"), OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_is_the_same_in_every_batch(operator, side, tolerance, channels):
    """Bit for bit in all that is the loop's, the guidance's, the constraint's and the analytic priors'.

    A convolution's gradient in the kernel is ordered otherwise in another batch, which changes its last bits.
    """
    measurement, seeds = normal(3, channels, 8, 8), (5, 9, 2)
    shapes = {"image": (channels, 8, 8), "kernel": (1, side, side)}
    constrain = {"image": lambda x0: x0, "kernel": simplex}
    components = {n: Component(mixture(*shape, seed=1), shape, constrain[n]) for n, shape in shapes.items()}

    def run(which):
        guidance = DPS(measurement[which], operator, {"image": 0.3, "kernel": 0.3}, {"kernel": (l1, 0.1)})
        return sample(components, guidance, [seeds[i] for i in which], steps=50)

    together = list(run([0, 1, 2]))
    for i in range(3):
        for both, one in zip(together, run([i]), strict=True):
            pairs = [(both.loss, one.loss)]
            for values, expected in ((both.x, one.x), (both.x0, one.x0), (both.theta, one.theta)):
                pairs += [(values[n], expected[n]) for n in expected]
            for value, expected in pairs:
                torch.testing.assert_close(value[i : i + 1], expected, rtol=0, atol=tolerance)


def test_noise_depends_on_seed_and_name_alone():
    alone, many = NoiseStreams([9]), NoiseStreams([5, 9, 2])
    for _ in range(3):
        many("tilt", (2, 4, 4)), many("kernel", (1, 3, 3))  # other components draw in between
        noise = many("image", (3, 4, 4))
        assert noise.shape == (3, 3, 4, 4) and noise.dtype == torch.float32
        assert torch.equal(noise[1:2], alone("image", (3, 4, 4)))
    assert len(many) == 3


def test_streams_of_names_seeds_and_turns_differ_and_are_normal():
    streams = NoiseStreams([0, 1])
    draws = torch.cat([streams(name, (20_000,)) for name in ("image", "kernel", "image")])
    correlation = torch.corrcoef(draws) - torch.eye(6)
    assert correlation.abs().max() < 5 / math.sqrt(20_000)
    assert (draws.mean(1).abs() < 4 / math.sqrt(20_000)).all()
    assert ((draws.std(1) - 1).abs() < 4 / math.sqrt(40_000)).all()


def test_same_seeds_same_result_other_seeds_another_and_nothing_global():
    measurement = normal(1, 3, 8, 8)

    def run(seed):
        return last(sample(analytic(), analytic_guidance(measurement), [seed], steps=5)).x["image"]

    first, state = run(3), torch.get_rng_state()
    torch.manual_seed(123)
    assert torch.equal(run(3), first) and not torch.equal(run(4), first)
    torch.set_rng_state(state)
    run(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_component_leaves_the_others_as_they_were():
    components = analytic()
    both = last(sample(components, None, [7], steps=10))
    image = last(sample({"image": components["image"]}, None, [7], steps=10))
    assert torch.equal(both.x["image"], image.x["image"])


def test_a_seeded_start_is_the_first_of_the_streams():
    components, (state, *_) = analytic(), sample(analytic(), None, [3, 4], steps=1)
    streams = NoiseStreams([3, 4])
    for name, component in components.items():
        start = streams(name, component.shape)
        x0 = component.prior(start, 999).x0.clamp(-1, 1)
        assert torch.equal(state.x0[name], x0)


# ---------------------------------------------------------------------------------------------- the generator


def test_only_the_steps_that_are_consumed_are_taken():
    prior = Counting()
    states = sample({"x": Component(prior, (1,))}, None, [0], steps=20)
    assert prior.times == []
    taken = [next(states) for _ in range(3)]
    assert prior.times == [999, 946, 894] == [state.t for state in taken] and taken[-1].s == 841
    assert len(list(states)) == 17 and prior.times[-1] == 0


def test_states_are_detached_and_left_alone_by_later_steps():
    states, copies = [], []
    for state in sample(analytic(), analytic_guidance(normal(2, 3, 8, 8)), [0, 1], steps=4):
        states.append(state)
        copies.append({n: v.clone() for n, v in state.x.items()})
        values = [*state.x.values(), *state.x0.values(), *state.theta.values(), state.loss]
        assert not any(value.requires_grad for value in values) and state.loss.shape == (2,)
    for state, copy in zip(states, copies, strict=True):
        assert all(torch.equal(state.x[n], copy[n]) and not state.x[n].requires_grad for n in copy)


def test_without_guidance_there_is_no_loss_and_no_graph():
    class Watching(Counting):
        def __call__(self, x, t):
            assert not x.requires_grad and not torch.is_grad_enabled()
            return super().__call__(x, t)

    assert all(state.loss is None for state in sample({"x": Component(Watching(), (1,))}, None, [0], steps=3))


def test_the_guidance_is_what_is_subtracted_from_the_proposal():
    class Constant:
        names, needs_gradients = frozenset({"x"}), True

        def __call__(self, state, proposal):
            assert state.x["x"].requires_grad and not proposal["x"].requires_grad
            return {"x": torch.full_like(proposal["x"], 0.25)}, torch.zeros(len(proposal["x"]))

    components = {"x": Component(Counting(), (2,))}
    guided, free = (next(sample(components, g, [0, 1], steps=5)) for g in (Constant(), None))
    torch.testing.assert_close(guided.x["x"], free.x["x"] - 0.25)
    assert torch.equal(guided.x0["x"], free.x0["x"])


def test_clip_bounds_the_estimate_and_constrain_makes_theta_of_it():
    start, noise = normal(1, 50), lambda name, shape: 3 * start
    for clip, bound in (((-1.0, 1.0), 1.0), ((-0.01, 0.01), 0.01)):
        component = Component(lambda x, t: Prediction(100 * x), (50,), lambda x0: 5 * x0, clip)
        state = next(sample({"x": component}, None, noise=noise, steps=2))
        assert state.x0["x"].abs().max() == pytest.approx(bound)
        assert torch.equal(state.theta["x"], 5 * state.x0["x"])
    assert (
        next(sample({"x": Component(lambda x, t: Prediction(100 * x), (50,), clip=None)}, None, noise=noise))
        .x0["x"]
        .abs()
        .max()
        > 10
    )


def test_three_components_descend_one_residual():
    def operator(image, kernel, gain, boundary="circular"):
        return blur(gain * image, kernel, boundary)

    components = analytic() | {"gain": Component(mixture(1, 1, 1, seed=3), (1, 1, 1), lambda x0: 1 + x0 / 2)}
    truth = last(sample(components, None, [100, 101], steps=50)).theta
    measurement = operator(**truth)
    guidance = DPS(measurement, operator, dict.fromkeys(components, 0.3))
    guided = last(sample(components, guidance, [0, 1], steps=200))
    free = last(sample(components, None, [0, 1], steps=200))
    assert {n: v.shape for n, v in guided.x.items()} == {n: (2, *c.shape) for n, c in components.items()}
    residuals = [(measurement - operator(**state.theta)).flatten(1).norm(dim=1) for state in (guided, free)]
    assert (residuals[0] < 0.5 * residuals[1]).all()
    assert all(not torch.equal(guided.x[n], free.x[n]) for n in components)


# ---------------------------------------------------------------------------------------------- errors


def test_names_that_do_not_match_are_refused_before_the_first_step():
    components, guidance = analytic(), analytic_guidance(normal(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"named \['image'\]; the operator takes \['image', 'kernel'\]"):
        sample({"image": components["image"]}, guidance, [0])
    with pytest.raises(ValueError, match="components are named"):
        sample(components | {"tilt": components["kernel"]}, guidance, [0])


def test_other_mistakes_are_refused_before_the_first_step():
    components = analytic()
    with pytest.raises(ValueError, match="no components"):
        sample({}, None, [0])
    for wrong in ({}, {"seeds": [0], "noise": one_stream(1, 0)}):
        with pytest.raises(ValueError, match="either seeds or noise"):
            sample(components, None, **wrong)
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="steps"):
            sample(components, None, [0], steps=steps)
    for seeds in ([], [-1], [0.5]):
        with pytest.raises(ValueError, match="seeds"):
            sample(components, None, seeds)


def test_a_component_may_begin_elsewhere_and_go_its_own_way():
    start = normal(1, 3, 3, seed=5)

    def halve(schedule, x, x0, t, s, z, variance):
        return x / 2

    plain = analytic()["image"]
    moved = Component(FlatPrior(SCHEDULE), (1, 3, 3), clip=None, start=start, step=halve)
    states = list(sample({"image": plain, "other": moved}, None, [1, 2], 3))
    for state, share in zip(states, (1, 0.5, 0.25), strict=True):
        torch.testing.assert_close(state.x0["other"], share * start.expand(2, 1, 3, 3), rtol=1e-4, atol=1e-4)
    alone = last(sample({"image": plain}, None, [1, 2], 3))
    assert torch.equal(states[-1].x["image"], alone.x["image"])
    two = normal(2, 1, 3, 3, seed=6)
    first = next(sample({"other": replace(moved, start=two)}, None, [1, 2], 3))
    torch.testing.assert_close(first.x0["other"], two, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"the start has the shape \(1, 4, 4\); wanted \(1, 3, 3\)"):
        Component(FlatPrior(SCHEDULE), (1, 3, 3), start=torch.zeros(1, 4, 4))


def test_a_run_that_leaves_the_numbers_stops_there():
    def broken(x, t):
        return Prediction(x * (math.nan if t < 500 else 1))

    states = sample({"image": Component(broken, (3, 8, 8))}, None, [0], 4)
    assert [next(states).t, next(states).t] == [999, 666]
    with pytest.raises(FloatingPointError, match=r"'image' gave NaN or infinite estimates at t = 333"):
        next(states)


def test_a_lost_sample_is_nan_in_every_component_and_the_others_go_on():
    def breaking(prior, at):
        def broken(x, t):
            lost = torch.tensor([False, t == at])[:, None, None, None]
            return Prediction(prior(x, t).x0.masked_fill(lost, math.nan))

        return broken

    guidance, plain = analytic_guidance(normal(2, 3, 8, 8)), analytic()
    expected = list(sample(plain, guidance, [0, 1], 4))
    broken = plain | {"image": replace(plain["image"], prior=breaking(plain["image"].prior, expected[1].t))}
    for i, (state, whole) in enumerate(zip(sample(broken, guidance, [0, 1], 4), expected, strict=True)):
        pairs = [(state.loss, whole.loss)]
        for values, others in ((state.x, whole.x), (state.x0, whole.x0), (state.theta, whole.theta)):
            pairs += [(values[n], others[n]) for n in others]
        for value, other in pairs:
            torch.testing.assert_close(value[:1], other[:1], rtol=0, atol=1e-5)
            assert value[1].isnan().all() == (i > 0)


# ---------------------------------------------------------------------------------------------- schedules


def test_the_schedule_is_the_priors_and_another_is_refused():
    cosine, prior = Schedule.cosine(), GaussianMixture(Schedule.cosine(), torch.zeros(1, 2), torch.ones(1), 0.5)
    component = {"x": Component(prior, (2,), clip=None)}
    asked, given = (final(sample(component, None, [0], 5, schedule=s)).x["x"] for s in (None, Schedule.cosine()))
    assert torch.equal(asked, given)
    without = {"x": Component(lambda x, t: prior(x, t), (2,), clip=None)}  # a function has no schedule of its own
    assert torch.equal(final(sample(without, None, [0], 5, schedule=cosine)).x["x"], asked)
    assert not torch.equal(final(sample(without, None, [0], 5)).x["x"], asked)
    with pytest.raises(
        ValueError, match=r"the prior of 'x' has 1000 betas from 4.* the argument, 1000 betas from 0.0001"
    ):
        sample(component, None, [0], 5, schedule=SCHEDULE)
    other = Component(mixture(2, seed=1), (2,))
    with pytest.raises(ValueError, match=r"schedule of the prior of 'y' .* wanted that of the prior of 'x'"):
        sample(component | {"y": other}, None, [0], 5)


# ---------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("guided", [True, False])
def test_final_frees_the_earlier_states(guided):
    living, alive = [], []

    def watched(states):
        for state in states:
            alive.append(sum(ref() is not None for ref in living))
            values = [v for part in (state.x, state.x0, state.theta) for v in part.values()]
            living.extend(weakref.ref(v) for v in values)
            yield state
            del state, values

    guidance = analytic_guidance(normal(1, 3, 8, 8)) if guided else None
    last_state = final(watched(sample(analytic(), guidance, [0], 12)))
    assert last_state.s == -1 and len(alive) == 12
    assert max(alive) <= 6  # two components: x, x0 and theta of the state before, which `final` holds; no more
    mocked = (State(t, t - 1, {"x": torch.zeros(1)}, {}, {}) for t in range(9, -1, -1))
    living.clear(), alive.clear()
    final(watched(mocked))
    assert len(alive) == 10 and max(alive) <= 1


# ---------------------------------------------------------------------------------------------- the process's state


@contextmanager
def default(setter, value, before):
    setter(value)
    try:
        yield
    finally:
        setter(before)


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64": lambda: default(torch.set_default_dtype, torch.float64, torch.float32),
    "another device": lambda: default(torch.set_default_device, "meta", None),
}


def restored(weights):
    """A guided run with a network, exact priors, a known and an unknown kernel, all made where it is called."""
    y = torch.linspace(-1, 1, 192, dtype=torch.float32, device="cpu").reshape(1, 3, 8, 8)
    config = UNetConfig(8, 4, 3, 3, (1,), attention_resolution=8, num_head_channels=4)
    network = UNet(config)
    network.load_state_dict({n: v.clone() for n, v in weights.items()})
    flat = torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float32, device="cpu")
    one = torch.ones(1, dtype=torch.float32, device="cpu")
    kernels = EmpiricalPrior(Schedule.linear(), 2 * flat - 1, one)
    image = Component(NetworkPrior(network), (3, 8, 8))
    known = DPS(y, partial(blur, kernel=flat.clone()), {"image": 0.3})
    both = DPS(y, blur, {"image": 0.3, "kernel": 0.3}, {"kernel": (l1, 0.1)})
    kernel = Component(kernels, (1, 3, 3), simplex, start=torch.zeros(1, 3, 3, dtype=torch.float32, device="cpu"))
    runs = [sample({"image": image}, known, [0], 3), sample({"image": image, "kernel": kernel}, both, [0], 3)]
    runs.append(sample({"image": image}, ILVR(y, 2, [0]), [0], 3))
    return [final(run).x["image"] for run in runs]


@pytest.mark.parametrize("mode", MODES)
def test_the_processs_state_changes_nothing(mode):
    torch.manual_seed(0)
    network = UNet(UNetConfig(8, 4, 3, 3, (1,), attention_resolution=8, num_head_channels=4))
    weights = {n: v.detach() + 0.05 * normal(*v.shape, seed=1) for n, v in network.state_dict().items()}
    expected = restored(weights)
    with MODES[mode]():
        found = restored(weights)
    for value, other in zip(found, expected, strict=True):
        assert torch.equal(value, other)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_a_suspended_generator_leaves_the_callers_modes_alone(mode, guided):
    guidance = analytic_guidance(normal(1, 3, 8, 8)) if guided else None
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        for _ in sample(analytic(), guidance, [0], 3):
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


@pytest.mark.parametrize("shape", [(4,), (2, 4), (1, 2, 2, 2)])
def test_a_measurement_may_have_any_number_of_dimensions(shape):
    """The image is known but for its gain: y = gain image, which the residual of DPS finds."""
    image, gain = normal(*shape, seed=2), torch.tensor([0.8])
    prior = GaussianMixture(SCHEDULE, torch.zeros(1, 1), torch.ones(1), 0.5)
    gains = lambda gain: gain.reshape(-1, *[1] * len(shape)) * image  # noqa: E731
    states = sample({"gain": Component(prior, (1,), clip=None)}, DPS(gains(gain), gains, {"gain": 0.01}), [0], 1000)
    assert final(states).x["gain"].item() == pytest.approx(0.8, abs=0.05)
