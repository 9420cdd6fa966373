"""Quality against cost, for the tables of notebook 13: what evaluations are worth, and how methods differ in pairs."""

from collections.abc import Mapping
from dataclasses import dataclass
from timeit import repeat

import pandas as pd
import torch

from pdm import checks
from pdm.models import NetworkPrior
from pdm.study.method import Method
from pdm.study.statistics import aggregate, bootstrap, difference, picture

COLUMNS = (
    "dataset degradation method n forward backward kernel_forward cost psnr psnr_lo psnr_hi psnr_registered ssim "
    "lpips lpips_lo lpips_hi mnc mnc_lo mnc_hi pedestal n_registered diverged seconds_per_image speedup commits "
    "machines"
).split()
DIFFERENCES = ("psnr", "lpips", "mnc")


@dataclass(frozen=True)
class Shares:
    """What else an evaluation may be, in forward passes of the image prior: a gradient through it, one of the kernel's.

    Raises: ValueError for a share that is not above 0.
    """

    backward: float
    kernel: float

    def __post_init__(self):
        checks.number("backward", self.backward, above=0), checks.number("kernel", self.kernel, above=0)

    def cost(self, row: Mapping[str, object], paired: bool) -> float:
        """The cost of a row of `runner.restore`: its evaluations in forward passes of the image prior.

        `paired` says that a row which does not count the kernel prior's evaluations has as many as the image prior's,
        with gradients: Algorithm 1.
        """
        cost = row["forward"] + self.backward * row["backward"]
        if row.get("kernel_forward") is None:
            return cost * (1 + self.kernel) if paired else cost
        return cost + self.kernel * (row["kernel_forward"] + self.backward * row.get("kernel_backward", 0))


def shares(image: NetworkPrior, kernel: NetworkPrior, batch: int = 16, repeats: int = 5) -> Shares:
    """Measure `Shares` on a batch of noise, the least of `repeats` times each, on the CPU as it stands.

    Raises: ValueError for less than one sample or repeat.
    """
    batch, repeats = checks.count("batch", batch), checks.count("repeats", repeats)
    draw, plain = torch.Generator("cpu").manual_seed(0), {"dtype": torch.float32, "device": "cpu"}
    x, k = (torch.randn(batch, *prior.shape, generator=draw, **plain) for prior in (image, kernel))

    def guided() -> None:
        with torch.enable_grad():
            state = x.clone().requires_grad_()
            torch.autograd.grad(image(state, 300).x0.square().sum(), state)

    def forward(prior: NetworkPrior, value: torch.Tensor) -> None:
        with torch.no_grad():
            prior(value, 300)

    ways = (guided, lambda: forward(image, x), lambda: forward(kernel, k))
    both, alone, small = (min(repeat(way, number=1, repeat=repeats + 1)[1:]) for way in ways)
    return Shares(both / alone - 1, small / alone)


def summary(
    records: Mapping[str, dict],
    methods: Mapping[str, Method],
    worth: Shares,
    again: Mapping[str, dict] | None = None,
    race: Mapping[str, dict] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """A row a method of `recorded`, as `COLUMNS` has them: figures of `records`, cost, seconds and speed.

    `again` has the records of fewer images for methods whose own do not hold `psnr_registered` and `pedestal`. Seconds
    are those of the one run `race`, and the speed is over its reference with the same knowledge: "dps_known_kernel" for
    methods that are told the kernel, "blind_dps" for others. Raises: KeyError for a method that is missing in one.
    """
    table = aggregate(records, seed).set_index("method").drop(columns="seconds_per_image")  # of several runs
    for name, record in records.items():
        each, method = pd.DataFrame(record["rows"]), methods[name]
        mnc = each.mnc.astype(float)
        table.loc[name, ["mnc_lo", "mnc_hi"]] = bootstrap(mnc.to_numpy(), seed, groups=[picture(i) for i in each.image])
        first = max(record["rows"], key=lambda row: row["forward"])  # a batch that diverged counts nothing
        counts = {count: first.get(count) for count in ("forward", "backward", "kernel_forward")}
        blind = "kernel" in method.restore.priors
        table.loc[name, list(counts)] = list(counts.values())
        table.loc[name, "cost"] = worth.cost(first, blind)
        held = each if "psnr_registered" in each else pd.DataFrame((again or {}).get(name, {"rows": []})["rows"])
        further = held.reindex(columns=["psnr_registered", "pedestal"]).astype(float).mean()
        table.loc[name, list(further.index)] = further.to_numpy()
        table.loc[name, "n_registered"] = int(held.get("psnr_registered", pd.Series()).notna().sum())
        if race:
            seconds = pd.DataFrame(race[name]["rows"]).seconds.mean()
            reference = "dps_known_kernel" if method.restore.known else "blind_dps"
            table.loc[name, "seconds_per_image"] = seconds
            if table.loc[name, "cost"] > 0:  # the measurement takes no time
                table.loc[name, "speedup"] = pd.DataFrame(race[reference]["rows"]).seconds.mean() / seconds
    return table.reset_index()


def differences(records: Mapping[str, dict], reference: str, seed: int = 0) -> pd.DataFrame:
    """How each method of `recorded` differs from a reference on the same images, with intervals of 95%.

    Columns method, reference, n, metric, difference, lo, hi; a metric that either has not is left out.
    """
    rows = []
    for name, record in records.items():
        for metric in DIFFERENCES if name != reference else ():
            if all(any(row[metric] is not None for row in r["rows"]) for r in (record, records[reference])):
                apart, low, high = difference(record, records[reference], metric, seed)
                row = {"method": name, "reference": reference, "n": len(record["rows"]), "metric": metric}
                rows.append(row | {"difference": apart, "lo": low, "hi": high})
    return pd.DataFrame(rows)


def harmed(records: Mapping[str, dict], below: float = 1.0) -> pd.DataFrame:
    """How many images each method of `recorded` leaves more than `below` dB of PSNR under those of "blurred".

    Columns method, n, below, and worst: the least gain over the measurement, in dB. Raises: KeyError without "blurred",
    ValueError for other images than its.
    """
    psnr = {name: pd.DataFrame(r["rows"]).set_index("image").psnr.astype(float) for name, r in records.items()}
    base, rows = psnr.pop("blurred"), []
    for name, each in psnr.items():
        if list(each.index) != list(base.index):
            raise ValueError(f"{name} has {len(each)} images and blurred {len(base)}; wanted the same ones")
        gain = each - base
        rows.append({"method": name, "n": len(gain), "below": int((gain < -below).sum()), "worst": gain.min()})
    return pd.DataFrame(rows)
