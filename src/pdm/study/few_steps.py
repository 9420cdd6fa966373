"""Rows of notebook 13: restoration in tens of network evaluations, as methods under the signature of `deblurring`."""

from collections.abc import Mapping

from pdm.few_steps import Plan, restore_blind, restore_known
from pdm.models import ConditionalPrior, NetworkPrior
from pdm.sampler import final
from pdm.study.method import method
from pdm.study.problem import Estimate, Measurement

Priors = Mapping[str, NetworkPrior | ConditionalPrior]


@method("known_few", priors=("image",), known=("kernel",), errors=("image",))
def known_few(measurement: Measurement, priors: Priors, evaluations: int = 12, churn: float = 1.0) -> Estimate:
    """The image with the kernel known, in `evaluations`."""
    kernel, given = measurement.told("kernel"), {"sigma": measurement.sigma, "boundary": measurement.boundary}
    states = restore_known(
        measurement.y, kernel, priors["image"], evaluations, churn=churn, seeds=measurement.seeds, **given
    )
    return Estimate({"image": final(states).theta["image"]}, evaluations)


@method("blind_few", priors=("image", "kernel"), settings=Plan, errors=("image", "kernel"))
def blind_few(measurement: Measurement, priors: Priors, **settings) -> Estimate:
    """Image and kernel by a `Plan`, with the prior of all kernels."""
    return _blind(measurement, priors, priors["kernel"], Plan(**settings))


@method("blind_few_given_y", priors=("image", "kernel", "kernel_given_y"), settings=Plan, errors=("image", "kernel"))
def blind_few_given_y(measurement: Measurement, priors: Priors, **settings) -> Estimate:
    """Image and kernel by a `Plan`, with the prior of the kernels that the measurement's spectrum speaks for."""
    return _blind(measurement, priors, priors["kernel_given_y"].given(measurement.y), Plan(**settings))


def _blind(measurement: Measurement, priors: Priors, kernel: NetworkPrior, plan: Plan) -> Estimate:
    given = {"sigma": measurement.sigma, "boundary": measurement.boundary, "seeds": measurement.seeds}
    states = restore_blind(measurement.y, priors["image"], kernel, priors["kernel"].errors, plan, **given)
    return Estimate(final(states).theta, plan.evaluations[0])
