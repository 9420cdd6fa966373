"""From figures of images to rows of a table: means with intervals, paired differences."""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pdm import checks
from pdm.study.score import METRICS

COLUMNS = (  # of a table of methods, in their order; `tables.write_table` keeps the last three beside the CSV
    "dataset degradation method n psnr psnr_lo psnr_hi ssim lpips lpips_lo lpips_hi fd_vgg kid kernel_mse mnc "
    "diverged seconds_per_image steps scale seeds commits machines"
).split()
DISTANCES = ("fd_vgg", "kid")


def aggregate(records: Mapping[str, dict], seed: int = 0) -> pd.DataFrame:
    """A row a method of `recorded`: means over all its images, the diverged ones too, and how many those are.

    `psnr` and `lpips` have a bootstrap interval of 95%, columns `_lo` and `_hi`. A Frechet distance is larger for fewer
    images. A method that leaves an image without figures has them over the others.
    """
    rows = []
    for name, record in records.items():
        table, row = pd.DataFrame(record["rows"]), {"method": name, "n": len(record["rows"])}
        table = table.astype(dict.fromkeys((*METRICS, "seconds"), float))  # None is NaN there
        groups = [picture(image) for image in table.image]
        for metric in METRICS:
            row[metric] = table[metric].mean()
            if metric in ("psnr", "lpips"):
                row[f"{metric}_lo"], row[f"{metric}_hi"] = bootstrap(table[metric].to_numpy(), seed, groups=groups)
        row |= {distance: record[distance] for distance in DISTANCES}  # None for a few images
        row["mnc_median"] = table.mnc.median()
        told = table.diverged.dropna()  # a method without a kernel has no residual to tell by
        row |= {"diverged": int(told.sum()) if len(told) else None, "seconds_per_image": table.seconds.mean()}
        row |= {"seeds": f"{table.seed.min()} to {table.seed.max()}"}
        row |= {"commits": " ".join(sorted(set(table.commit))), "machines": ", ".join(sorted(set(table.machine)))}
        rows.append(row | {"steps": int(table.forward.iloc[0])})
    return pd.DataFrame(rows).astype({"diverged": "Int64"})


def bootstrap(
    values: np.ndarray, seed: int = 0, draws: int = 2000, groups: Sequence | None = None
) -> tuple[float, float]:
    """The interval of 95% of the mean of `values` over resamples of them, NaN left out; NaN where there are none.

    What belongs to one of `groups`, a name for each value, is drawn together: crops of one photograph are not
    independent, and an interval that took them for so would be too narrow.
    """
    seed, draws, finite = checks.count("seed", seed, 0), checks.count("draws", draws), np.isfinite(values)
    if not finite.any():
        return math.nan, math.nan
    _, group = np.unique(np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True)
    sums, counts = (np.bincount(group[finite], weight) for weight in (values[finite], np.ones(finite.sum())))
    sums, counts = sums[counts > 0], counts[counts > 0]
    drawn = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def difference(one: dict, other: dict, metric: str, seed: int = 0) -> tuple[float, float, float]:
    """How much larger a figure is by one method of `recorded` than by another on the same images.

    Returns: the mean difference and its bootstrap interval of 95%, as `aggregate` has intervals, over the images on
    which both have the figure. Raises: ValueError for other images.
    """
    tables = [pd.DataFrame(record["rows"]).set_index("image")[metric].astype(float) for record in (one, other)]
    if list(tables[0].index) != list(tables[1].index):
        raise ValueError(f"{len(tables[0])} and {len(tables[1])} images; wanted the same ones")
    apart = tables[0] - tables[1]
    low, high = bootstrap(apart.to_numpy(), seed, groups=[picture(image) for image in apart.index])
    return float(apart.mean()), low, high


def picture(name: str) -> str:
    """The photograph that an image is of: crops are called PICTURE_TOP_LEFT_SIDE."""
    return re.sub(r"(_\d+){3}$", "", name)
