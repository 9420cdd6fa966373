"""Methods on images: the pieces that the notebooks share, from a measurement to a row of a table."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from pdm import metrics
from pdm.constraints import shift_and_divide
from pdm.degradations import SIGMA, add_noise
from pdm.guidance import DPS, StepSize, sqrt_alpha_bar
from pdm.operators import blur
from pdm.priors import NetworkPrior
from pdm.sampler import Component, State, sample, stream
from pdm.schedule import Schedule, ddim_step
from pdm.training import BANDS, band_losses

__all__ = [
    "DIVERGED",
    "band_rows",
    "blind_dps",
    "dps_known_kernel",
    "draw",
    "has_diverged",
    "kept",
    "measure",
    "noisy",
    "progress",
    "residual_ratio",
    "score",
    "step_sizes",
    "target",
]

DIVERGED = 3.0  # a residual above this many times the norm of the noise


def measure(
    images: Tensor, kernels: Tensor, seeds: Sequence[int], sigma: float = SIGMA, boundary: str = "reflect"
) -> Tensor:
    """y = k * x + n with a noise stream per sample: B C H W and B 1 h w to B C H W.

    The scene beyond the frame is by default the mirrored image: no dark rim gives the kernel away.
    Raises: ValueError as `blur` and `add_noise`, and unless there is one seed per image.
    """
    if len(seeds) != len(images):
        raise ValueError(f"{len(seeds)} seeds for {len(images)} images; wanted one each")
    blurred = blur(images, kernels, boundary)
    return noisy(blurred, seeds, sigma)


def noisy(clean: Tensor, seeds: Sequence[int], sigma: float = SIGMA) -> Tensor:
    """Measurements with their noise, B *S, from a stream of each sample's own that nothing else draws from."""
    return torch.stack([add_noise(y, sigma, stream(seed, "measurement")) for y, seed in zip(clean, seeds, strict=True)])


def step_sizes(
    steps: int, image: float = 1.0, kernel: float = 0.6, constant: bool = False, fade: int = 100
) -> dict[str, StepSize]:
    """Step sizes of image and kernel, given for 1,000 steps: a sqrt(alpha_bar_t), or `constant` a.

    Fewer steps want larger ones, in proportion: it is their sum over the process that moves an estimate. The constant
    is the paper's, the factor sqrt(alpha_bar_t) the authors' release's; notebook 08 compares the two. The kernel's is
    times min(1, t / `fade`) too unless it is constant, and not with `fade` 0: the residual's curvature is many times
    larger in the kernel than in the image, so that a step which does not shrink with the noise makes it shiver.
    Raises: ValueError for a negative `fade`.
    """
    if fade < 0:
        raise ValueError(f"fade is {fade}; wanted 0 or more time steps")
    schedule = Schedule.linear()
    sizes = {name: a * 1000 / steps for name, a in (("image", image), ("kernel", kernel))}
    if constant:
        return sizes
    size = {name: sqrt_alpha_bar(schedule, a) for name, a in sizes.items()}
    return size | {"kernel": lambda t: size["kernel"](t) * min(1.0, t / fade if fade else 1.0)}


def blind_dps(
    measurement: Tensor,
    image_prior: NetworkPrior,
    kernel_prior: NetworkPrior,
    seeds: Sequence[int],
    steps: int = 1000,
    scale: Mapping[str, StepSize] | None = None,
) -> Iterator[State]:
    """Algorithm 1 on a batch of blurred images, B C H W in [-1, 1] but for noise: image and kernel are both unknown.

    Yields `steps` states; `theta` holds the estimates, the last state the final ones. Raises: ValueError for a
    measurement far outside [-1, 1] or not finite, and as `sample`.
    """
    _check_range(measurement)
    components = {
        "image": Component(image_prior, tuple(measurement.shape[1:])),
        "kernel": Component(kernel_prior, kernel_prior.shape, shift_and_divide),
    }
    guidance = DPS(measurement, blur, scale or step_sizes(steps))
    return sample(components, guidance, seeds, steps, device=measurement.device)


def dps_known_kernel(
    measurement: Tensor,
    kernel: Tensor,
    image_prior: NetworkPrior,
    seeds: Sequence[int],
    steps: int = 1000,
    scale: StepSize | None = None,
    boundary: str = "reflect",
) -> Iterator[State]:
    """The same with the kernel known, B 1 h w: the image alone is estimated, which bounds what blind methods can do."""
    _check_range(measurement)
    components = {"image": Component(image_prior, tuple(measurement.shape[1:]))}
    scale = {"image": step_sizes(steps)["image"] if scale is None else scale}
    guidance = DPS(measurement, partial(blur, kernel=kernel, boundary=boundary), scale)
    return sample(components, guidance, seeds, steps, device=measurement.device)


def band_rows(name: str, domain: str, split: str, prior: NetworkPrior, x0: Tensor) -> list[dict]:
    """Rows of the table of losses by noise band, `training.band_losses` of N C *S samples."""
    losses = band_losses(prior, x0)
    key = {"prior": name, "domain": domain, "split": split}
    return [key | {"t_low": a, "t_high": b, "loss": v} for (a, b), v in zip(pairwise(BANDS), losses, strict=True)]


def draw(prior: NetworkPrior, seeds: Sequence[int], steps: int = 100) -> Tensor:
    """Samples of a prior by deterministic DDIM, one a seed, in the prior's range clipped to [-1, 1]: B C *S.

    Time steps are 999 u^2, u evenly spaced: dense where there is little noise and fine detail is made. Evenly spaced
    steps want twice as many for the same power there. Source: Song et al. 2021, DDIM, the quadratic choice of D.2.
    """
    times = (999 * torch.linspace(1, 0, steps, dtype=torch.float64).square()).round().int().unique().flip(0).tolist()
    *_, last = sample({"x": Component(prior, prior.shape)}, None, seeds, times, step=ddim_step())
    return last.theta["x"]


def has_diverged(ratio: Tensor) -> Tensor:
    """Whether a run ended above 3 times the norm of the noise, or with a residual that is no number."""
    return ~(ratio <= DIVERGED)


def target(notebook: str, claim: str, measured: float, least: float = -math.inf, most: float = math.inf) -> dict:
    """A row of the table of targets: what was measured, and whether it lies where it was wanted, in `least` to `most`.

    Raises: ValueError where neither bound is given.
    """
    if not (math.isfinite(least) or math.isfinite(most)):
        raise ValueError(f"{claim!r} is to lie between {least} and {most}; wanted a bound")
    bounds = [f"{sign} {bound:g}" for sign, bound in ((">=", least), ("<=", most)) if math.isfinite(bound)]
    row = {"notebook": notebook, "claim": claim, "measured": float(measured), "wanted": " and ".join(bounds)}
    return row | {"met": bool(least <= measured <= most)}


def _check_range(measurement: Tensor) -> None:
    if measurement.isfinite().all() and measurement.abs().max() > 2:
        low, high = measurement.min().item(), measurement.max().item()
        raise ValueError(f"the measurement lies in [{low:g}, {high:g}]; wanted [-1, 1], give or take the noise")


def residual_ratio(loss: Tensor, measurement: Tensor, sigma: float = SIGMA) -> Tensor:
    """The residual norm over what the noise alone explains, sigma sqrt(CHW): B. About 1 is a good fit, far above none.

    It needs no truth, so that it may tell a run that diverged, or choose among several. Raises: ValueError for a sigma
    that is not above 0.
    """
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}; wanted it above 0, for without noise no residual is explained")
    return loss / (sigma * math.sqrt(measurement[0].numel()))


def progress(states: Iterator[State], steps: int, description: str = "") -> Iterator[State]:
    """Pass states on under a progress bar that shows the mean residual norm."""
    with tqdm(total=steps, desc=description, file=sys.stdout, mininterval=1.0, ncols=88) as bar:
        for state in states:
            bar.update()
            if state.loss is not None:
                bar.set_postfix_str(f"residual {state.loss.mean():.2f}", refresh=False)
            yield state


def kept(states: Iterator[State], count: int, steps: int) -> list[State]:
    """Run to the end and keep about `count` states, evenly spaced and the last among them."""
    every = max(1, steps // count)
    return [state for i, state in enumerate(states, 1) if (steps - i) % every == 0]


def score(
    method: str,
    names: Sequence[str],
    estimate: Tensor,
    truth: Tensor,
    kernel: Tensor | None = None,
    true_kernel: Tensor | None = None,
    seconds: float = 0.0,
) -> pd.DataFrame:
    """One row an image with PSNR, SSIM, LPIPS (AlexNet) and, where a kernel was estimated, its MNC and MSE.

    `seconds` is what the whole batch took; each row gets its share.
    """
    estimate = estimate.clamp(-1, 1)
    rows = {
        "image": list(names),
        "method": method,
        "psnr": metrics.psnr(estimate, truth),
        "ssim": metrics.ssim(estimate, truth),
        "lpips": metrics.lpips(estimate, truth),
        "mnc": math.nan if kernel is None else metrics.mnc(kernel, true_kernel),
        "kernel_mse": math.nan if kernel is None else metrics.kernel_mse(kernel, true_kernel),
        "seconds": seconds / len(names),
    }
    return pd.DataFrame({k: v.double().numpy() if isinstance(v, Tensor) else v for k, v in rows.items()})
