"""The sampler more than once on the same measurement: again from its own estimate, or from several seeds.

Both are legitimate for a blind method, because neither looks at the truth; both cost network evaluations, which `steps`
or `chains` count.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pdm import checks
from pdm.constraints import to_model_range
from pdm.sampler import NoiseStreams, State, final
from pdm.schedule import Schedule
from pdm.study.deblurring import Priors, Process, Settings, blind_dps, blind_process
from pdm.study.method import method
from pdm.study.problem import Estimate, Measurement, explained

APART = 10_000  # between the seeds of one pass or chain and the next


@method("restarted", priors=("image", "kernel"), settings=Settings)
def restarted(
    measurement: Measurement, priors: Priors, steps: int = 1000, restarts: int = 3, back_to: int = 200, **settings
) -> Estimate:
    """Algorithm 1 with restarts, as `passes`; the rest as `deblurring.Settings`.

    Where t is large the denoised kernel is a mean of many, wider than any of them, and the image is drawn sharper than
    it is to make up for it. Early on the two estimates settle on that compromise. A little noise undoes the compromise
    but not the image, so that each pass finds the kernel by a better image, and the image by a better kernel.
    Raises: ValueError as `passes`.
    """
    chosen = Settings(**settings)
    states = passes(measurement, lambda n: blind_process(measurement, priors, n, chosen), steps, restarts, back_to)
    return Estimate(final(states).theta, steps, steps, chosen.boundary)


def passes(
    measurement: Measurement, process: Callable[[int], Process], steps: int, restarts: int, back_to: int
) -> Iterator[State]:
    """Sample once, then `restarts` times: diffuse all estimates to time `back_to`, and come down from there again.

    `process(n)` is what `sample` runs, with step sizes for n steps. `steps` are those of all passes together, each as
    dense as the others; pass j has the measurement's seeds and 10,000 j. Yields: the states of all passes.
    Raises: ValueError, before the first step, for fewer than 0 restarts, a time that is not 1 to 999, or fewer steps
    than passes. A sample whose kernel is 0 everywhere has no pass to go on with, and is NaN from there.
    Source: Xu et al., "Restart sampling for improving generative processes" (2023), there for samples of a prior.
    """
    if restarts < 0 or not 1 <= back_to <= 999:
        raise ValueError(f"{restarts} restarts at t = {back_to}; wanted 0 or more, at 1 to 999")
    density = steps / (1000 + restarts * (back_to + 1))  # steps a time step
    again = max(1, round(density * (back_to + 1)))
    first = steps - restarts * again
    if not 1 <= first <= 1000:
        raise ValueError(
            f"{steps} steps for 1 + {restarts} passes from 999 and {back_to}; wanted at least one each and "
            f"at most {1000 + restarts * (back_to + 1)}"
        )
    run = process(max(1, round(1000 * density)))
    times = torch.linspace(back_to, 0, again, dtype=torch.float64).round().int().tolist()
    return _passes(measurement, run, first, times, restarts)


def _passes(measurement: Measurement, run: Process, first: int, times: list[int], restarts: int) -> Iterator[State]:
    schedule, lost = Schedule.linear(), torch.zeros(len(measurement), dtype=torch.bool, device=measurement.y.device)
    for last in run.states(measurement, first):
        yield last
    for j in range(1, restarts + 1):
        noise = NoiseStreams([seed + APART * j for seed in measurement.seeds])
        lost = lost | ~(last.theta["kernel"].amax((1, 2, 3)) > 0)
        if lost.all():
            raise FloatingPointError("every kernel is 0 or NaN; wanted one to go on from")
        kernel = _filled(last.theta, lost, 1.0)["kernel"]
        found = _filled(last.x0 | {"kernel": to_model_range(kernel)}, lost, 0.0)
        white = {n: noise(n, run.components[n].shape).to(v.device) for n, v in found.items()}
        start = {n: schedule.diffuse(v, white[n], times[0]) for n, v in found.items()}
        again = run._replace(components={n: replace(c, start=start[n]) for n, c in run.components.items()})
        for last in again.states(replace(measurement, seeds=noise.seeds), times):
            x, x0, theta = (_filled(values, lost, torch.nan) for values in (last.x, last.x0, last.theta))
            last = replace(last, x=x, x0=x0, theta=theta)
            yield last


def _filled(values: dict[str, Tensor], which: Tensor, value: float) -> dict[str, Tensor]:
    """The values, B C H W each, with the samples `which`, B, filled."""
    return {n: v.masked_fill(which.view(-1, 1, 1, 1), value) for n, v in values.items()}


@method("best_of", priors=("image", "kernel"))
def best_of(measurement: Measurement, priors: Priors, chains: int = 4, steps: int = 1000) -> Estimate:
    """Algorithm 1 from several seeds, and of each image the run that explains its measurement best.

    A run can settle on a kernel of the wrong kind, round where the truth is a path; the residual, which needs no truth,
    often tells. Chain j has the measurement's seeds and 10,000 j. Raises: ValueError for less than one chain.
    """
    found, residuals = [], []
    for j in range(checks.count("chains", chains)):
        seeds = tuple(seed + APART * j for seed in measurement.seeds)
        found.append(blind_dps(replace(measurement, seeds=seeds), priors, steps).values)
        residual = measurement.y - explained(found[-1], boundary=measurement.boundary)
        residuals.append(residual.flatten(1).norm(dim=1))
    least = torch.stack(residuals).argmin(0).tolist()
    chosen = {name: torch.stack([found[j][name][i] for i, j in enumerate(least)]) for name in found[0]}
    return Estimate(chosen, chains * steps, chains * steps)
