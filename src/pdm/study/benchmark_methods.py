"""Methods on the public benchmarks, case by case, and the rows of their tables."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache as once
from functools import partial

import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from pdm import photo, photo_kernels
from pdm.baselines.pan import PAN_DCP, PAN_L0, deblur
from pdm.models import prior_card
from pdm.photo_kernels import SEARCH, Priors
from pdm.study import cache, provenance
from pdm.study.benchmarks import Case, Protocol, scores
from pdm.study.deblurring import blind_dps
from pdm.study.problem import Measurement
from pdm.study.statistics import bootstrap

Found = tuple[Tensor, Tensor | None]  # an image H W in [0, 1], and a kernel h w
SIGMA = 0.02  # that Algorithm 1 assumes, in [-1, 1]
VERSION = 2  # raised when a method's numbers change


def blurred(case: Case) -> Found:
    """The measurement itself."""
    return case.y, None


def known_kernel(case: Case) -> Found:
    """`photo.restore` with the benchmark's kernel."""
    found = photo.restore(_model_range(case.y), _priors(), kernel=case.kernel[None, None])
    return _unit(found.image[0]), None


def restore(case: Case) -> Found:
    """`photo.restore`, blind."""
    found = photo.restore(_model_range(case.y), _priors(), search=SEARCH)
    return _unit(found.image[0]), found.kernel[0]


def pan(case: Case, dark_channel: bool) -> Found:
    """Pan's methods, told the kernel's size as is usual on these benchmarks."""
    size = tuple(n + 1 - n % 2 for n in case.kernel.shape)
    image, kernel = deblur(_model_range(case.y)[None], size, PAN_DCP if dark_channel else PAN_L0)
    return _unit(image[0, 0]), kernel[0, 0]


def algorithm_1(case: Case, steps: int = 1000) -> Found:
    """Algorithm 1 at 64x64, the size of its priors: the picture is averaged down, and what it gives interpolated."""
    small = F.interpolate(_model_range(case.y)[None], (64, 64), mode="area").expand(1, 3, 64, 64)
    priors = {"image": _priors().image.prior, "kernel": _priors().kernel}
    image = blind_dps(Measurement(small, seeds=(0,), sigma=SIGMA), priors, steps=steps).image
    large = F.interpolate(image.mean(1, keepdim=True), tuple(case.y.shape), mode="bicubic", align_corners=False)
    return _unit(large[0, 0]), None


METHODS: dict[str, Callable[[Case], Found]] = {
    "blurred": blurred,
    "known_kernel": known_kernel,
    "restore": restore,
    "pan_l0": partial(pan, dark_channel=False),
    "pan_dcp": partial(pan, dark_channel=True),
    "blind_dps": algorithm_1,
}


def row(name: str, case: Case, protocol: Protocol, scale: str) -> dict:
    """One case by one method: `scores`, its name and group, and seconds; kept as `cache.recorded` keeps it."""
    key = {"id": f"benchmark {name}", "version": VERSION, "protocol": list(protocol), "case": case.name}
    key |= {"inputs": {part: cache.digest(getattr(case, part)) for part in ("y", "truth", "kernel")}}
    if name in ("restore", "known_kernel", "blind_dps"):
        sources = ("image", "kernel", "kernel_given_y") if name == "restore" else ("image", "kernel")
        cards = {source: prior_card(source) for source in sources}
        key |= {"weights": {source: [card["sha256"], ""] for source, card in cards.items()}}
        key |= {"errors": {source: card.get("errors", {}).get("sha256") for source, card in cards.items()}}
        key |= {"settings": _settings(name)}

    def compute() -> dict:
        begin = time.perf_counter()
        image, kernel = METHODS[name](case)
        seconds = time.perf_counter() - begin
        told = {"case": case.name, "group": case.group} | scores(image, case, protocol, kernel)
        return told | {"seconds": seconds} | provenance.here()

    return cache.recorded(scale, key, compute, case.name)


def table(rows: dict[str, Sequence[dict]], seed: int = 0, groups: bool = False) -> pd.DataFrame:
    """A row a method, or a method and a group, of `row`s by method's name.

    `error_ratio` is the mean of the squared error over that of "known_kernel", `success_2` the share of cases where it
    is 2 or less, `below_input` how many have a lower PSNR than "blurred". The interval is over pictures.
    Raises: KeyError without these two.
    """
    frames = {name: pd.DataFrame(found).set_index("case") for name, found in rows.items()}
    known, base, out = frames["known_kernel"], frames["blurred"], []
    for name, frame in frames.items():
        for group, part in frame.groupby("group") if groups else [("", frame)]:
            ratio = part.ssd / known.ssd[part.index]
            picture = [case.rpartition("_kernel")[0] or case.rpartition("_flit")[0] or case for case in part.index]
            low, high = bootstrap(part.psnr.to_numpy(), seed, groups=picture)
            found = {"group": group} if groups else {}
            found |= {"method": name, "n": len(part), "psnr": part.psnr.mean(), "psnr_lo": low, "psnr_hi": high}
            found |= {"least": part.psnr.min(), "below_input": int((part.psnr < base.psnr[part.index] - 1e-9).sum())}
            found |= {"ssim": part.ssim.mean(), "error_ratio": ratio.mean(), "success_2": (ratio <= 2).mean()}
            found |= {"mnc": part.mnc.astype(float).mean(), "seconds_per_image": part.seconds.mean()}
            found |= {column + "s": " ".join(sorted(set(part[column]))) for column in ("commit", "machine")}
            out.append(found)
    return pd.DataFrame(out)


@once
def _priors() -> Priors:
    return Priors.load()


def _settings(name: str) -> dict:
    """What a method's numbers depend on: constants of `photo` and of the search."""
    if name == "blind_dps":
        return {"sigma": SIGMA}
    found = {n: getattr(photo, n) for n in ("CLIPPED", "CHURN", "LEAST_NOISE")} | {"evaluations": 12}
    if name == "known_kernel":
        return found
    searched = {n: getattr(photo_kernels, n) for n in ("REACH", "WINDOW")} | {"search": asdict(SEARCH)}
    return found | {"LEAST_SIGMA": photo.LEAST_SIGMA, "FED_BACK": photo.FED_BACK} | searched


def _model_range(values: Tensor) -> Tensor:
    return 2 * values[None].float() - 1


def _unit(values: Tensor) -> Tensor:
    return ((values + 1) / 2).clamp(0, 1)
