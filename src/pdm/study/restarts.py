"""The sampler more than once on the same measurement: again from its own estimate, or from several seeds.

Both are legitimate for a blind method, for neither looks at the truth; both cost network evaluations, which `steps` or
`chains` count.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pdm.constraints import to_model_range
from pdm.sampler import NoiseStreams, State, final, sample
from pdm.schedule import Schedule
from pdm.study.deblurring import Problem, blind_dps, blind_problem
from pdm.study.problem import Cases, Estimate, explained

APART = 10_000  # between the seeds of one pass or chain and the next


def restarted(
    cases: Cases,
    steps: int = 1000,
    label: str | Tensor | None = None,
    restarts: int = 3,
    back_to: int = 200,
    **settings,
) -> Estimate:
    """Algorithm 1 with restarts, as `run_passes`; label and settings as `restoration.blind_problem`.

    Where t is large the denoised kernel is a mean of many, wider than any of them, and the image is drawn sharper than
    it is to make up for it. Image and kernel settle on that together. A little noise lets go of the agreement but not
    of the picture, so that each pass finds the kernel by a better image, and the image by a better kernel.
    Raises: ValueError as `run_passes`, and for `whole_batch`.
    """
    if settings.get("whole_batch"):
        raise ValueError("whole_batch is True; wanted False, for one norm over the batch has no restarts")
    last = run_passes(cases, partial(blind_problem, cases, label=label, **settings), steps, restarts, back_to)
    return Estimate(last.theta["image"], last.theta["kernel"])


def run_passes(cases: Cases, problem: Callable[[int], Problem], steps: int, restarts: int, back_to: int) -> State:
    """Sample once, then `restarts` times: diffuse all estimates to time `back_to`, and come down from there again.

    `problem(steps=n)` gives what `sample` runs, with step sizes for n steps. `steps` are those of all passes together,
    each as dense as the others; pass j has the cases' seeds and 10,000 j. Returns: the last state.
    Raises: ValueError for fewer than 0 restarts, a time that is not 1 to 999, or fewer steps than passes.
    Source: Xu et al., "Restart sampling for improving generative processes" (2023), there for samples of a prior.
    """
    if restarts < 0 or not 1 <= back_to <= 999:
        raise ValueError(f"{restarts} restarts at t = {back_to}; wanted 0 or more, at 1 to 999")
    density = steps / (1000 + restarts * (back_to + 1))  # steps a time step
    again = max(1, round(density * (back_to + 1)))
    first = steps - restarts * again
    if first < 1:
        raise ValueError(f"{steps} steps for 1 + {restarts} passes; wanted one each at least")
    device, schedule = cases.measurement.device, Schedule.linear()
    components, guidance, step = problem(steps=max(1, round(1000 * density)))
    last = final(sample(components, guidance, cases.seeds, first, step=step, device=device))
    times = torch.linspace(back_to, 0, again, dtype=torch.float64).round().int().tolist()
    for j in range(1, restarts + 1):
        noise = NoiseStreams([seed + APART * j for seed in cases.seeds])
        if not (last.theta["kernel"].amax((1, 2, 3)) > 0).all():
            raise FloatingPointError("a kernel is 0 everywhere; wanted one to go on from")
        found = last.x0 | {"kernel": to_model_range(last.theta["kernel"])}
        start = {n: schedule.diffuse(v, noise(n, components[n].shape).to(device), back_to) for n, v in found.items()}
        again_from = {n: replace(c, start=start[n]) for n, c in components.items()}
        last = final(sample(again_from, guidance, steps=times, step=step, noise=noise, device=device))
    return last


def best_of(cases: Cases, chains: int = 4, steps: int = 1000, label: str | None = None) -> Estimate:
    """Algorithm 1 from several seeds, and of each image the run that explains its measurement best.

    A run can settle on a kernel of the wrong kind, round where the truth is a path; the residual, which needs no truth,
    often tells. Chain j has the cases' seeds and 10,000 j. Raises: ValueError for less than one chain.
    """
    if chains < 1:
        raise ValueError(f"chains is {chains}; wanted 1 or more")
    found, residuals = [], []
    for j in range(chains):
        chain = replace(cases, seeds=tuple(seed + APART * j for seed in cases.seeds))
        found.append(blind_dps(chain, steps, label))
        residual = cases.measurement - explained(found[-1], boundary=cases.boundary)
        residuals.append(residual.flatten(1).norm(dim=1))
    least = torch.stack(residuals).argmin(0).tolist()
    chosen = [(found[j].image[i], found[j].kernel[i]) for i, j in enumerate(least)]
    return Estimate(*(torch.stack(values) for values in zip(*chosen, strict=True)))
