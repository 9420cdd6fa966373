"""Gaussian scale-space, and what of it the reverse process walks through: Figs. 1(c) and C.1 of the paper.

Blur and spectra are taken in the cosine basis (DCT-II), which continues a picture by its mirror image: a Gaussian of
standard deviation s multiplies the wave of frequency f, in cycles a pixel, by exp(-2 pi^2 s^2 f^2), and white noise of
variance 1 has the power 1 at every frequency.
"""

import math
from dataclasses import replace

import torch
from scipy.fft import dctn
from torch import Tensor

from pdm import checks, metrics
from pdm.constraints import to_model_range
from pdm.data import gaussian_kernels
from pdm.sampler import NoiseStreams, final
from pdm.schedule import Schedule
from pdm.study.deblurring import Priors, Process, Settings, blind_process
from pdm.study.method import method
from pdm.study.problem import Estimate, Measurement, Truth

COURSES = ("ancestral", "renoised", "levels", "late")
STDS = torch.cat([torch.zeros(1), torch.logspace(-1, 1.3, 70)])  # pixels: 0, and 0.1 to 20


def _cosines(x: Tensor) -> Tensor:
    return torch.from_numpy(dctn(x.detach().double().cpu().numpy(), axes=(-2, -1), norm="ortho"))


def _frequency(height: int, width: int) -> Tensor:
    """Of each cosine, in cycles a pixel: H W."""
    down, across = (torch.arange(n, dtype=torch.float64) / (2 * n) for n in (height, width))
    return (down[:, None].square() + across.square()).sqrt()


def closest_blur(estimate: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The Gaussian blur of the truth that comes closest to an estimate: B C H W each, B values each.

    Returns: its standard deviation in pixels, on a grid of 71 from 0 to 20; its distance to the estimate; and that of
    the truth itself; root mean square over pixels. Raises: ValueError for unequal shapes.
    """
    if estimate.shape != truth.shape or estimate.dim() != 4:
        raise ValueError(f"shapes {tuple(estimate.shape)} and {tuple(truth.shape)}; wanted B C H W twice")
    found, true = _cosines(estimate), _cosines(truth)
    passed = torch.exp(-2 * (math.pi * STDS.double()[:, None, None] * _frequency(*truth.shape[-2:])).square())  # S H W
    # |found - g true|^2 = |found|^2 - 2 g found true + g^2 true^2, summed over the channels before the grid
    cross, power = (found * true).sum(1), true.square().sum(1)  # B H W
    change = [(g**2 * power - 2 * g * cross).sum((1, 2)) for g in passed]
    square = found.square().sum((1, 2, 3))[:, None] + torch.stack(change, dim=1)  # B S
    distance = (square.clamp(min=0) / truth[0].numel()).sqrt()
    best = distance.argmin(1)
    return STDS[best], distance.gather(1, best[:, None])[:, 0].float(), distance[:, 0].float()


def radial_power(x: Tensor, bins: int = 16) -> tuple[Tensor, Tensor]:
    """Mean power of the cosines of like frequency, over channels: B C H W to `bins` frequencies, and B `bins`.

    The rings end at 0.5 cycles a pixel, and the mean of the picture is left out. Raises: ValueError for fewer than 2
    bins, or so many that one is empty.
    """
    ring = (_frequency(*x.shape[-2:]) * 2 * bins).floor().long()
    ring[0, 0] = bins  # the mean
    if bins < 2 or len(ring[ring < bins].unique()) != bins:
        raise ValueError(f"{bins} bins for pictures of {tuple(x.shape[-2:])}; wanted 2 or more, none empty")
    power = _cosines(x).square().mean(1)  # B H W
    means = [power[:, ring == i].mean(1) for i in range(bins)]
    return (torch.arange(bins) + 0.5) / (2 * bins), torch.stack(means, dim=1)


def predicted_std(frequency: Tensor, power: Tensor, schedule: Schedule, t: int) -> float:
    """The blur, in pixels, of a denoised estimate at time t, from the spectrum of what is denoised alone.

    Wiener's filter passes half of a wave whose power in x_t equals the noise's, alpha_bar P(f) = 1 - alpha_bar; a
    Gaussian passes half at f = sqrt(log 2 / 2) / (pi std). NaN where the noise drowns all waves or none.
    """
    alpha_bar = schedule.alpha_bar[t].item()
    ratio = (power * alpha_bar / (1 - alpha_bar)).log()
    below = (ratio < 0).nonzero()
    if len(below) == 0 or below[0] == 0:
        return math.nan
    i = int(below[0])
    share = (ratio[i - 1] / (ratio[i - 1] - ratio[i])).item()
    cut = frequency[i - 1].item() + share * (frequency[i] - frequency[i - 1]).item()
    return math.sqrt(math.log(2) / 2) / (math.pi * cut)


def pyramid_stds(levels: int = 8, ratio: float = math.sqrt(2)) -> list[float]:
    """How much each level of an image pyramid blurs, in pixels of the finest, coarse to fine.

    A level's pixel is f = ratio^level of the finest wide, a box of standard deviation f / sqrt(12), and the finest has
    its own: sqrt((f^2 - 1) / 12).
    """
    return [math.sqrt((ratio ** (2 * level) - 1) / 12) for level in range(levels - 1, -1, -1)]


def renoise(schedule: Schedule, x, x0: Tensor, t: int, s: int, z: Tensor, variance=None) -> Tensor:
    """x_s = sqrt(alpha_bar_s) x0_hat + sqrt(1 - alpha_bar_s) z: of x_t nothing is kept but the denoised estimate."""
    return schedule.diffuse(x0, z, s)


@method("scale_course", priors=("image", "kernel"), settings=Settings)
def restore(
    measurement: Measurement,
    priors: Priors,
    steps: int = 1000,
    course: str = "ancestral",
    levels: int = 8,
    late: int = 400,
    **settings,
) -> Estimate:
    """Algorithm 1, and three other ways down the scales.

    `course` is "ancestral", as `deblurring.blind_dps`; "renoised", the same time steps by `renoise`; "levels", as
    many of those steps but at no more than `levels` time steps, evenly spaced, as a pyramid has levels; or "late", the
    ancestral steps from t = `late` on, beginning at the measurement and a round kernel of 2 pixels. The rest as
    `deblurring.Settings`. Raises: ValueError for another course.
    """
    chosen = Settings(**settings)
    checks.choice("course", course, COURSES)
    components, guidance, step = blind_process(measurement, priors, steps, chosen)
    schedule = Schedule.linear()
    times = [t for t, _ in schedule.pairs(steps)]
    if course == "levels":
        evenly = [t for t, _ in schedule.pairs(levels)]
        times = [evenly[i * levels // steps] for i in range(steps)]
    if course == "late":
        times = [t for t in times if t <= late]
        blurry = to_model_range(gaussian_kernels(len(measurement), components["kernel"].shape[-1], 2.0))
        noise = NoiseStreams(measurement.seeds)
        guess = {"image": measurement.y.clamp(-1, 1), "kernel": blurry}
        start = {n: schedule.diffuse(v, noise(f"start of {n}", v.shape[1:]).to(v), times[0]) for n, v in guess.items()}
        components = {n: replace(c, start=start[n]) for n, c in components.items()}
    step = renoise if course in ("renoised", "levels") else step
    last = final(Process(components, guidance, step).states(measurement, times))
    return Estimate(last.theta, len(times), len(times), chosen.boundary)


@method("trajectory", priors=("image", "kernel"))
def trajectory(
    measurement: Measurement,
    priors: Priors,
    truth: Truth | None = None,
    steps: int = 1000,
    every: int = 10,
    shown: int = 3,
) -> dict[str, Tensor]:
    """How image and kernel come out of the noise in Algorithm 1, at each `every`-th step, against their `truth`.

    Returns: `t`, S time steps; for "image" and "kernel" S B values each of `*_mse` to the truth, and of `closest_blur`,
    `*_std`, `*_distance` and `*_rms`; `image` and `kernel`, the denoised estimates of the first `shown`, S B C h w.
    """
    rows: list[dict[str, Tensor]] = []
    truths = {name: value for name, value in truth.components.items() if name != "tilt"}
    states = blind_process(measurement, priors, steps, Settings()).states(measurement, steps)
    for i, state in enumerate(states):
        if i % every and i != steps - 1:
            continue
        row = {"t": torch.tensor(state.t)}
        for name, true in truths.items():
            estimate = state.theta[name].cpu()
            values = zip(("std", "distance", "rms"), closest_blur(estimate, true), strict=True)
            row |= {f"{name}_{key}": value for key, value in values}
            row |= {f"{name}_mse": (estimate - true).square().flatten(1).mean(1), name: estimate[:shown].clone()}
        row["kernel_mnc"] = metrics.mnc(state.theta["kernel"].cpu(), truth.kernel).float()
        rows.append(row)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
