"""Tables 1 to 3 at the paper's own size: its images, kernels, settings and metrics, on the released checkpoints.

`python -m pdm.paper.tables IMAGES` restores the photographs in IMAGES/ffhq with the priors that PDM_PRIORS names
(`pdm.paper.checkpoints` writes them), on a GPU if there is one, or on the workers that EXECUTOR names. With
`--trial` it takes a few steps on images that it makes itself, and says what one costs.
"""

import argparse
import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Generator, Tensor
from torch.utils.flop_counter import FlopCounterMode

from pdm import metrics
from pdm.data import gaussian_kernels, motion_kernels, tilt_fields
from pdm.models import best_device, prior_card
from pdm.paper.checkpoints import EXPERIMENTS, Experiment, images
from pdm.paper.cost import held_mb
from pdm.study import deblurring, runner, statistics, tables, turbulence
from pdm.study.method import Method
from pdm.study.problem import Cases, measured

_FIRST = statistics.COLUMNS.index("fd_vgg")
COLUMNS = ["column", *statistics.COLUMNS[:_FIRST], "fid", *statistics.COLUMNS[_FIRST:], "tilt_epe"]
PAPER_TILTS = {"patches": 500, "half_width": 32, "std": 1.0, "strength": (0.1, 0.4)}


def cases(experiment: Experiment, truth: Tensor, names: Sequence[str], seed: int = 0) -> Cases:
    """What the experiment does to photographs, N 3 H W: kernel, tilt and noise of each by a seed of its own."""
    seeds, size, strength = range(seed, seed + len(truth)), experiment.kernel, experiment.strength
    draws = [Generator().manual_seed(s) for s in seeds]
    if experiment.degradation == "motion":
        kernels = torch.cat([motion_kernels(1, size, strength, draw) for draw in draws])
    else:
        kernels = gaussian_kernels(len(truth), size, strength)
    tilts = None
    if experiment.degradation == "turbulence":
        tilts = torch.cat([tilt_fields(1, truth.shape[-1], draw, **PAPER_TILTS) for draw in draws])
    return measured(truth, kernels, seeds, names, tilts, experiment.sigma, title=experiment.column)


def methods(experiment: Experiment, steps: int = 1000, batch: int = 4) -> list[Method]:
    """The measurement itself, BlindDPS by the paper's settings, and by those that the authors' release runs with.

    The paper's step is constant, its penalty on the kernel before that is projected to the simplex; the release's step
    is sqrt(alpha_bar_t) to the end, its kernel divided by its sum, and its penalty has no effect. The released networks
    say their variance, which both take.
    """
    step = experiment.step
    both = {"steps": steps, "variance": "learned"}
    paper = both | {"image_step": step, "kernel_step": step, "constant": True, "constraint": "simplex"}
    release = both | {"image_step": 1.0, "kernel_step": 1.0, "fade": 0}
    if experiment.degradation == "turbulence":
        function = turbulence.blind
        paper, release = paper | {"tilt_step": step}, release | {"tilt_step": 1.0}
    else:
        function = deblurring.blind_dps
        paper |= {"penalty": experiment.penalty, "weight": experiment.weight}
    found = [Method("blurred", deblurring.blurred)]
    found += [Method("blind_dps", function, paper, batch=batch)]
    return [*found, Method("blind_dps_release", function, release, batch=batch)]


def table(
    experiment: Experiment,
    root: str | Path,
    count: int | None = None,
    steps: int = 1000,
    batch: int = 4,
    seed: int = 0,
    scale: str = "paper",
) -> pd.DataFrame:
    """One column of Tables 1 to 3, as rows: each method's figures on the first `count` images of its data set's folder.

    Finished batches are kept in results/`scale`/parts. `fid` is the literature's, on Inception features.
    Raises: ValueError where PDM_PRIORS has not that column's image network, for a folder that is missing or holds too
    few images, and as `runner.run`.
    """
    source = prior_card("image").get("source")
    if experiment.prior is None or source != experiment.prior:
        wanted = experiment.prior or "a network that was not released"
        raise ValueError(
            f"{experiment.column} wants {wanted}; the image prior is {source or 'another'}. `python -m "
            "pdm.paper.checkpoints` writes the released ones, and PDM_PRIORS names their folder"
        )
    photographs = images(experiment, root, count)
    these = cases(experiment, photographs.images, photographs.names, seed)
    device, fids = best_device(), []
    reference = metrics.inception_features(these.truth.image, device=device)  # first, for it may want a download
    compared = methods(experiment, steps, batch)
    rows = statistics.aggregate(runner.recorded(compared, these, scale))
    for part in runner.run(compared, these, scale).values():
        finite, fid = part["image"].flatten(1).isfinite().all(1), math.nan
        if finite.sum() > 1:
            found = metrics.inception_features(part["image"][finite].clamp(-1, 1), device=device)
            fid = metrics.frechet_distance(found, reference[finite])
        fids.append(fid)
    names = {"column": experiment.column, "dataset": experiment.dataset, "degradation": experiment.degradation}
    return rows.assign(fid=fids, scale=scale, **names).reindex(columns=COLUMNS)


def trial(size: int = 256, count: int = 2, steps: int = 2, seed: int = 0) -> pd.DataFrame:
    """What a guided step costs at the paper's size, by trying: a row for two components and, at 256, one for three.

    On photographs of noise, which restore to nothing. An image and step take `seconds`, loading left out; `tflop` are
    the networks' operations in it, twice those forward, for the way back to their inputs has as many; `peak_gb` is the
    most memory that the process, or on a GPU the device, has held.
    """
    generator, device, rows = Generator().manual_seed(seed), best_device(), []
    truth = torch.rand(count, 3, size, size, generator=generator) * 2 - 1
    for experiment in (EXPERIMENTS[0], EXPERIMENTS[4])[: 2 if size == 256 else 1]:  # tilts are of 256 pixels
        these = cases(experiment, truth, [str(i) for i in range(count)], seed)
        *_, method = methods(experiment, steps, count)
        _, least, most = (_seconds(experiment, these, n) for n in (1, 1, 1 + steps))  # the first to warm up
        row = {"components": len(method.restore.priors), "size": size, "batch": count, "steps": steps}
        row |= {"seconds": (most - least) / count / steps, "peak_gb": _peak_gb(device)}
        rows.append(row | {"tflop": _tflop(method, these[:1], device), "device": device.type})
    return pd.DataFrame(rows)


def _seconds(experiment: Experiment, these: Cases, steps: int) -> float:
    *_, method = methods(experiment, steps, len(these))
    return sum(row["seconds"] for row in runner.restore(method, these)["rows"])


@torch.no_grad()
def _tflop(method: Method, case: Cases, device: torch.device) -> float:
    with FlopCounterMode(display=False) as counter:
        for name, prior in method.load(device).items():
            prior(case.truth.components[name].to(device), 500)
    return 2 * counter.get_total_flops() / 1e12


def _peak_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    with contextlib.suppress(ImportError):
        return held_mb() / 1000
    return math.nan


def main(arguments: list[str] | None = None) -> None:
    """Make Tables 1 to 3 at the paper's size, or try what a step costs."""
    parser = argparse.ArgumentParser(prog="python -m pdm.paper.tables", description=main.__doc__)
    parser.add_argument("images", type=Path, nargs="?", help="folder of the folder ffhq")
    parser.add_argument("--trial", action="store_true", help="steps on images of noise, and what they cost")
    parser.add_argument("--size", type=int, default=256, help="of the images of noise, in pixels")
    parser.add_argument("--count", type=int, help="images (default: the paper's number, or 2)")
    parser.add_argument("--steps", type=int, help="default: 1,000, or 2")
    parser.add_argument("--batch", type=int, default=4, help="images at a time on one device")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    if chosen.trial:
        rows = trial(chosen.size, chosen.count or 2, chosen.steps or 2, chosen.seed)
        print(rows.to_csv(index=False), end="")
        return
    if chosen.images is None:
        parser.error("wanted the folder of the images, or --trial")
    for experiment in EXPERIMENTS:
        if experiment.prior is None:
            print(f"{experiment.column}: its image network is not among the released files; left out")
            continue
        rows = table(experiment, chosen.images, chosen.count, chosen.steps or 1000, chosen.batch, chosen.seed)
        print(tables.update_table(rows, "paper", "paper", "column", chosen.seed))


if __name__ == "__main__":
    main()
