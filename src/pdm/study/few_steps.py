"""Rows of notebook 13: restoration in tens of network evaluations, as methods under the signature of `deblurring`."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch

from pdm.baselines import gibbs_ddrm as gibbs
from pdm.baselines.diffpir import diffpir
from pdm.baselines.fast_em import fast_em
from pdm.blind_steps import Plan, cleared, restore_blind
from pdm.constraints import to_model_range
from pdm.exact_steps import surprise, to_opponent
from pdm.few_steps import restore_known
from pdm.models import ConditionalPrior, NetworkPrior
from pdm.sampler import NoiseStreams, final
from pdm.study.deblurring import Settings, blind_process
from pdm.study.method import method
from pdm.study.problem import Estimate, Measurement

Priors = Mapping[str, NetworkPrior | ConditionalPrior]

planned = partial(method, version=3, settings=Plan, errors=("image", "kernel"))

# Plans were chosen on 32 to 64 blurred training photographs, the rivals' settings on 4 to 8 training faces.
PLANS = {
    "blind_fastest": {"rounds": 20},
    "blind_fast": {"rounds": 30, "chains": 2},
    "blind_best": {"rounds": 30, "chains": 6},
}
RIVALS = {
    "diffpir_known": {"evaluations": 100},
    "fast_em": {"level": 0.2},
    "gibbs_ddrm": {},
}


@method("known_few", priors=("image",), known=("kernel",), errors=("image",))
def known_few(measurement: Measurement, priors: Priors, evaluations: int = 12, churn: float = 0.85) -> Estimate:
    """The image with the kernel known, in `evaluations`."""
    kernel = measurement.told("kernel")
    states = restore_known(measurement.y, kernel, priors["image"], evaluations, churn=churn, **_given(measurement))
    return Estimate({"image": final(states).theta["image"]}, evaluations, kernel_forward=0)


@method("diffpir", priors=("image",), known=("kernel",))
def diffpir_known(
    measurement: Measurement, priors: Priors, evaluations: int = 100, lam: float = 1.0, zeta: float = 0.8
) -> Estimate:
    """DiffPIR with the kernel known."""
    kernel = measurement.told("kernel")
    states = diffpir(measurement.y, kernel, priors["image"], evaluations, lam, zeta, **_given(measurement))
    return Estimate({"image": final(states).theta["image"]}, evaluations, kernel_forward=0)


@method("constant_kernel", priors=("image", "kernel"), errors=("image", "kernel"))
def constant_kernel(measurement: Measurement, priors: Priors, evaluations: int = 12) -> Estimate:
    """The image by the mean of all kernels that the prior knows, whatever was measured: the floor of MNC.

    Raises: ValueError for a kernel prior without measured errors.
    """
    if priors["kernel"].errors is None:
        raise ValueError("the kernel prior has no errors; wanted those that `python -m pdm.train spectra` measured")
    mean = priors["kernel"].errors.mean.to(measurement.y).expand(len(measurement), 1, -1, -1)
    states = restore_known(measurement.y, mean, priors["image"], evaluations, **_given(measurement))
    return Estimate(final(states).theta, evaluations, kernel_forward=0)


@planned("blind_few", priors=("image", "kernel"))
def blind_few(measurement: Measurement, priors: Priors, **settings) -> Estimate:
    """Image and kernel by a `Plan`, with the prior of all kernels."""
    return _blind(measurement, priors, priors["kernel"], Plan(**settings))


@planned("blind_few_given_y", priors=("image", "kernel", "kernel_given_y"))
def blind_few_given_y(measurement: Measurement, priors: Priors, **settings) -> Estimate:
    """Image and kernel by a `Plan`, with the prior of the kernels that the measurement's spectrum speaks for."""
    return _blind(measurement, priors, priors["kernel_given_y"].given(measurement.y), Plan(**settings))


@planned("blind_few_guided", priors=("image", "kernel", "kernel_given_y"))
def blind_few_guided(
    measurement: Measurement, priors: Priors, steps: int = 60, back_to: int = 200, **settings
) -> Estimate:
    """`blind_few_given_y`, then Algorithm 1 from its estimates with noise of time `back_to`, in `steps` steps."""
    first, noise = blind_few_given_y(measurement, priors, **settings), NoiseStreams(measurement.seeds)
    run = blind_process(measurement, priors, round(1000 * steps / (back_to + 1)), Settings())
    found = {"image": first.image.clamp(-1, 1), "kernel": to_model_range(first.kernel)}
    start = {
        n: priors[n].schedule.diffuse(v, noise(f"guided {n}", tuple(v.shape[1:])).to(v), back_to)
        for n, v in found.items()
    }
    again = run._replace(components={n: replace(c, start=start[n]) for n, c in run.components.items()})
    times = torch.linspace(back_to, 0, steps, dtype=torch.float64).round().int().tolist()
    last = final(again.states(measurement, times))
    kernel_forward = first.kernel_forward + steps
    return Estimate(last.theta, first.forward + steps, steps, kernel_forward=kernel_forward, kernel_backward=steps)


@planned("blind_few_marginal", priors=("image", "kernel", "kernel_given_y"))
def blind_few_marginal(
    measurement: Measurement, priors: Priors, steps: int = 20, rate: float = 0.05, t: int = 60, **settings
) -> Estimate:
    """`blind_few_given_y`, then the kernel by the gradient of the marginal likelihood, and the image by that kernel.

    The likelihood's negative logarithm is `exact_steps.surprise` of the image, diffused to `t` and denoised; Adam moves
    the logarithm of the kernel.
    """
    first, noise = blind_few_given_y(measurement, priors, **settings), NoiseStreams(measurement.seeds)
    image, given = priors["image"], _given(measurement)
    x = first.image.clamp(-1, 1)
    with torch.no_grad():
        x_hat = image(image.schedule.diffuse(x, noise("marginal", tuple(x.shape[1:])).to(x), t), t).x0.clamp(-1, 1)
    fixed = to_opponent(x_hat), to_opponent(measurement.y)
    error = image.error(t, x.shape[-2:]).to(x)
    with torch.enable_grad():
        log = (first.kernel + 1e-4).log().requires_grad_()
        adam = torch.optim.Adam([log], rate)
        for _ in range(steps):
            adam.zero_grad()
            kernel = log.flatten(1).softmax(1).view_as(log)
            surprise(*fixed, kernel, error, measurement.sigma, measurement.boundary).sum().backward()
            adam.step()
    plan = Plan(**settings)
    kernel = cleared(log.detach().flatten(1).softmax(1).view_as(log), plan.haze)
    last = {"churn": plan.churn, "first": 1.0, "start": x}
    states = restore_known(measurement.y, kernel, image, plan.finish, **last, **given)
    forward = first.forward + 1 + plan.finish
    return Estimate(final(states).theta, forward, kernel_forward=first.kernel_forward)


@method("fast_em", priors=("image", "kernel"))
def fast_em_blind(
    measurement: Measurement,
    priors: Priors,
    evaluations: int = 100,
    inner: int = 10,
    level: float = 0.1,
    spread: float = 3.2e-3,
) -> Estimate:
    """Fast Diffusion EM."""
    told = {"inner": inner, "level": level, "spread": spread}
    states = fast_em(measurement.y, priors["image"], priors["kernel"], evaluations, **told, **_given(measurement))
    return Estimate(final(states).theta, evaluations, evaluations, kernel_forward=evaluations * inner)


@method("gibbs_ddrm", priors=("image",))
def gibbs_ddrm_blind(
    measurement: Measurement,
    priors: Priors,
    evaluations: int = 100,
    repeats: int = 3,
    begins: float = 0.3,
    iterations: int = 50,
    rate: float = 7.5e-12,
    weight: float = 1.2e4,
    std: float = 1.0,
) -> Estimate:
    """GibbsDDRM's kernel update."""
    told = {"iterations": iterations, "rate": rate, "weight": weight, "std": std}
    first = measurement.y, priors["image"], measurement.canvas, evaluations, repeats, begins
    states = gibbs.gibbs_ddrm(*first, **told, **_given(measurement))
    return Estimate(
        final(states).theta, gibbs.passes(priors["image"].schedule, evaluations, repeats, begins), kernel_forward=0
    )


def _blind(measurement: Measurement, priors: Priors, kernel: NetworkPrior, plan: Plan) -> Estimate:
    image, errors = priors["image"], priors["kernel"].errors
    states = restore_blind(measurement.y, image, kernel, errors, plan, **_given(measurement))
    forward, kernel_forward = plan.evaluations
    return Estimate(final(states).theta, forward, kernel_forward=kernel_forward)


def _given(measurement: Measurement) -> dict:
    return {"sigma": measurement.sigma, "boundary": measurement.boundary, "seeds": measurement.seeds}
