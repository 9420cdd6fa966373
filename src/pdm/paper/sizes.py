"""What a photo's size costs in time and memory, and what the image prior is worth on pictures larger than its own."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor

from pdm import checks, photo
from pdm.data import motion_kernels
from pdm.models import AnySize, NetworkPrior
from pdm.models.any_size import cuts
from pdm.paper.cost import held_mb
from pdm.photo_kernels import Priors

EVALUATIONS = 12


def cost(side: int, evaluations: int = EVALUATIONS) -> dict[str, float]:
    """Restore a photo of noise, `side` pixels square, with a known kernel: `pixels`, seconds, and memory at its peak.

    `seconds_per_evaluation` holds a network's evaluation and the data step after it. It runs in a process of its own,
    because `peak_mb` is the most that the process ever held, Python and torch among it.
    Raises: ValueError for a side below 64 pixels; ImportError where the system does not tell (Windows).
    """
    checks.count("side", side, 64), checks.count("evaluations", evaluations)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        return apart.submit(_cost, side, evaluations, torch.get_num_threads()).result()


def _cost(side: int, evaluations: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    draw, priors = torch.Generator().manual_seed(0), Priors.load()
    y, kernel = torch.rand(3, side, side, generator=draw) * 2 - 1, motion_kernels(1, 32, 0.5, draw)
    photo.restore(y[:, :64, :64], priors, kernel=kernel, sigma=0.02, evaluations=1)  # so that the first is not slower
    begun = time.perf_counter()
    photo.restore(y, priors, kernel=kernel, sigma=0.02, evaluations=evaluations)
    seconds = time.perf_counter() - begun
    row = {"pixels": side**2, "seconds": seconds, "seconds_per_evaluation": seconds / evaluations}
    return row | {"peak_mb": held_mb()}


def exponent(rows: Sequence[Mapping[str, float]], least: int = 256**2) -> float:
    """The power of the pixels with which the seconds of `cost`'s rows grow, fitted from `least` pixels on.

    Raises: ValueError for fewer than two such rows.
    """
    taken = [(math.log(row["pixels"]), math.log(row["seconds"])) for row in rows if row["pixels"] >= least]
    if len(taken) < 2:
        raise ValueError(f"{len(taken)} rows have {least} pixels or more; wanted two at least")
    return float(np.polyfit(*zip(*taken, strict=True), 1)[0])


@torch.no_grad()
def seams(
    pictures: Tensor, prior: NetworkPrior, sides: Sequence[int], steps: Sequence[int], seed: int = 0
) -> Iterator[dict[str, object]]:
    """Denoise the same noisy pictures N 3 H W in crops of each of `sides` pixels, in four ways: a row of each.

    The ways are the network on a crop as a `whole`, on `tiles` of the size that it was trained at, `both` averaged, and
    `shipped`, `AnySize` as it stands. `loss` is the mean squared error of x0. `seam` is the mean square of the error's
    step across the cuts between tiles, over that between all other neighbours: 1 where none shows, None without cuts.
    Raises: ValueError for a side that does not divide the pictures', or is none of the network's stride.
    """
    checks.tensor("pictures", pictures, "N 3 H W")
    stride, size = prior.network.config.stride, tuple(pictures.shape[-2:])
    for side in sides:
        if checks.count("side", side, 64) % stride or any(n % side for n in size):
            raise ValueError(f"side is {side}; wanted a multiple of {stride} that divides {size}")
    tiled = {"tiles": AnySize(prior, prior.shape[-1]), "shipped": AnySize(prior)}
    for t in steps:
        noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(seed)).to(pictures)
        noisy = prior.schedule.diffuse(pictures, noise, t)
        for side in sides:
            truth, x_t = (_crops(v, side) for v in (pictures, noisy))
            x0 = {"whole": torch.cat([prior(one[None], t).x0 for one in x_t])}
            x0 |= {way: denoise(x_t, t).x0 for way, denoise in tiled.items()}
            x0["both"] = (x0["whole"] + x0["tiles"]) / 2
            for way, estimate in x0.items():
                error, apart = estimate - truth, tiled.get(way)
                seam = None if apart is None else _seam(error, apart, t)
                yield {"pixels": side**2, "way": way, "t": t, "loss": error.square().mean().item(), "seam": seam}


def _crops(pictures: Tensor, side: int) -> Tensor:
    """Pictures N C H W cut into squares that do not overlap."""
    squares = pictures.unfold(-2, side, side).unfold(-2, side, side)  # N C rows columns side side
    return squares.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def _seam(error: Tensor, prior: AnySize, t: int) -> float | None:
    side = error.shape[-1]
    ends = [end for *_, end in cuts(side, prior.tile, prior.margin, prior.stride, t)[:-1]]
    if not ends:
        return None
    across = torch.cat([error.diff(dim=-1), error.diff(dim=-2).mT]).square().mean((0, 1, 2))  # by the column's place
    at = torch.zeros(side - 1, dtype=torch.bool)
    at[[end - 1 for end in ends]] = True
    return (across[at].mean() / across[~at].mean()).item()
