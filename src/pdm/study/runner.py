"""Methods on images, and the tables that come of it: resumable, and over any executor."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from pdm import metrics
from pdm.data import SIGMA
from pdm.models import best_device, precision_for, prior_card
from pdm.study import cache, provenance
from pdm.study.dask import connected
from pdm.study.problem import Cases, Estimate, explained
from pdm.study.score import has_diverged, residual_ratio, score
from pdm.study.statistics import DISTANCES, METRICS

ESTIMATES = ("image", "kernel", "tilt")


@dataclass(frozen=True, eq=False)
class Method:
    """A row's method: `restore(cases, **settings)`, a function of `pdm.study.deblurring` or one like them.

    `priors` are the names of the committed weights that it takes: with another SHA-256 it is another method.
    `batch` cases are restored at a time, on a GPU if there is one and the method takes priors: by default 16, or 128
    there, where a step of the small networks takes no longer for them than for half as many.
    Raises: ValueError for a name that no file can have, or less than one case at a time.
    """

    name: str
    restore: Callable[..., Estimate]
    settings: Mapping[str, object] = field(default_factory=dict)
    priors: tuple[str, ...] = ()
    batch: int | None = None

    def __post_init__(self):
        if self.batch is None:
            object.__setattr__(self, "batch", 128 if self.priors and best_device().type == "cuda" else 16)
        if not self.name or "/" in self.name or self.batch < 1:
            raise ValueError(f"method {self.name!r} in batches of {self.batch}; wanted a name without /, 1 or more")

    def key(self, cases: Cases) -> dict:
        """All that the result depends on but the code, for `cache.finished`; what a table calls it is no part."""
        cards = {name: prior_card(name) for name in self.priors}
        weights = {name: [card["sha256"], str(precision_for(card, best_device()))] for name, card in cards.items()}
        names = ("truth", "measurement", "kernels") + ("tilts",) * (cases.tilts is not None)
        data = {n: cache.digest(getattr(cases, n)) for n in names}
        made = {} if (cases.sigma, cases.boundary) == (SIGMA, "reflect") else {"made": [cases.sigma, cases.boundary]}
        function = {"name": self.restore.__name__, "function": f"{self.restore.__module__}.{self.restore.__qualname__}"}
        settings = {"settings": dict(self.settings), "seeds": list(cases.seeds), "names": list(cases.names)}
        return function | settings | weights | data | made


def restore(method: Method, cases: Cases) -> dict:
    """One batch by one method: `rows`, a dict an image, and the estimates `image`, `kernel` and `tilt`.

    A method that raises because something is not finite is tried on each image by itself; an image on which it
    still does is a row without figures that counts as diverged. `diverged` is true where the residual of the
    estimates, |y - k * x|, ends above 3 times the norm of the noise, or an estimate is not finite, or a kernel nowhere
    above 0; a method without a kernel has no residual. What lies beyond the frame is as the method takes it.
    """
    device = best_device() if method.priors else "cpu"
    begin = time.perf_counter()
    estimate = _attempt(method, cases.to(device)).to("cpu")
    seconds = (time.perf_counter() - begin) / len(cases)
    origin = provenance.here() | {"seconds": seconds}
    rows = [_row(method, cases[i : i + 1], _one(estimate, i)) | origin for i in range(len(cases))]
    return {"rows": rows} | {name: getattr(estimate, name) for name in ESTIMATES}


def _restore_as(key: dict, method: Method, cases: Cases) -> dict:
    """`restore`, by a worker whose weights and precision are those of the key that its result will be kept by."""
    own = method.key(cases)
    if own != key:
        differ = ", ".join(f"{name} is {own.get(name)} for {key[name]}" for name in key if own.get(name) != key[name])
        raise ValueError(f"a worker would compute something else than was asked for: {differ}")
    return restore(method, cases)


def _row(method: Method, case: Cases, estimate: Estimate) -> dict:
    """The figures of one image, NaN where it has none."""
    row = {
        "image": case.names[0],
        "seed": case.seeds[0],
        **dict.fromkeys(METRICS, math.nan),
        "residual_ratio": math.nan,
    }
    row |= {"steps": int(method.settings.get("steps", 0)), "diverged": True}
    finite = all(v.isfinite().all() for v in (estimate.image, estimate.kernel, estimate.tilt) if v is not None)
    if not finite or (estimate.kernel is not None and not estimate.kernel.max() > 0):
        return row
    true_kernel = None if estimate.kernel is None else case.kernels
    scored = score(method.name, case.names, estimate.image, case.truth, estimate.kernel, true_kernel)
    row |= scored.drop(columns="method").iloc[0].to_dict()
    if estimate.tilt is not None:
        row["tilt_epe"] = metrics.end_point_error(estimate.tilt, case.tilts).item()
    boundary = method.settings.get("boundary") or case.boundary
    found = explained(estimate, case.measurement.shape[1] // case.truth.shape[1], boundary)
    if found is not None and case.sigma > 0:
        residual = (case.measurement - found).flatten(1).norm(dim=1)
        ratio = residual_ratio(residual, case.measurement, case.sigma)
        return row | {"residual_ratio": ratio.item(), "diverged": bool(has_diverged(ratio))}
    return row | {"diverged": False}


def run(methods: Sequence[Method], cases: Cases, scale: str, executor: Executor | None = None) -> dict[str, dict]:
    """Every method on every case: by method's name what `restore` returns, its batches joined.

    Each batch is kept in results/`scale`/parts as it finishes, so that a run that was interrupted goes on where it
    stopped and gives the same. With an `executor` the batches are handed to it, and what comes back is kept here;
    without one, to the Dask scheduler that the environment's EXECUTOR names, if it does.
    Raises: ValueError for two methods of one name, and what a method raises that is no matter of numbers.
    """
    _named_apart(methods)
    units = [(m, cases[i : i + m.batch]) for m in methods for i in range(0, len(cases), m.batch)]
    keys = [method.key(part) for method, part in units]
    both = {str(key): (unit, key) for unit, key in zip(units, keys, strict=True)}  # one of those that are the same
    left = [(unit, key) for unit, key in both.values() if not cache.is_finished(scale, key)]
    if left and executor is not None:
        _spread(left, scale, executor)
    elif left and os.environ.get("EXECUTOR"):
        with connected(os.environ["EXECUTOR"]) as executor:
            _spread(left, scale, executor)
    parts: dict[str, list[dict]] = {m.name: [] for m in methods}
    for unit, key in zip(units, keys, strict=True):
        parts[unit[0].name].append(cache.finished(scale, key, lambda unit=unit: restore(*unit)))
    return {name: _joined(found) for name, found in parts.items()}


def _named_apart(methods: Sequence[Method]) -> None:
    if len({m.name for m in methods}) != len(methods):
        raise ValueError(f"methods are called {[m.name for m in methods]}; wanted a name each")


def _spread(left: list[tuple], scale: str, executor: Executor) -> None:
    """Have an executor restore batches, given with their keys, and keep each as it comes; what fails is raised last."""
    futures = {executor.submit(_restore_as, key, *unit): key for unit, key in left}
    failed = None
    for future in as_completed(futures):
        try:
            cache.finished(scale, futures[future], future.result)
        except Exception as error:  # the others are still to be kept
            failed = failed or error
    if failed is not None:
        raise failed


def recorded(methods: Sequence[Method], cases: Cases, scale: str) -> dict[str, dict]:
    """What `run` finds, without pictures: by method's name `rows`, a dict an image, and `fd_vgg` and `kid`.

    Those are the Frechet distance and KID between the images and their truths on features of VGG16, NaN for fewer than
    8 images. Each method's are kept as `cache.recorded` keeps them. Raises: as `run`.
    """

    def compute(method: Method) -> dict:
        result = run([method], cases, scale)[method.name]
        return {"rows": result["rows"]} | _distances(result["image"], cases.truth)

    _named_apart(methods)
    keys = {method.name: method.key(cases) for method in methods}
    if os.environ.get("EXECUTOR"):  # all at once, for its workers to share; else each is recorded as it is done
        run([m for m in methods if not cache.is_recorded(scale, keys[m.name])], cases, scale)
    return {m.name: cache.recorded(scale, keys[m.name], partial(compute, m)) for m in methods}


def pictures(methods: Sequence[Method], cases: Cases, which: Sequence[int], scale: str) -> dict[str, dict]:
    """What `run` returns, of some of the cases: from the batches that hold them, restored again if they are not kept.

    Raises: as `run`, and IndexError where there is no such case.
    """
    _named_apart(methods)
    found: dict[str, list[dict]] = {m.name: [] for m in methods}
    for method in methods:
        for i in (range(len(cases))[i] for i in which):
            first = i - i % method.batch
            batch = run([method], cases[first : first + method.batch], scale)[method.name]
            one = {name: None if batch[name] is None else batch[name][i - first, None] for name in ESTIMATES}
            found[method.name].append({"rows": [batch["rows"][i - first]]} | one)
    return {name: _joined(parts) for name, parts in found.items()}


def _distances(images: Tensor, truth: Tensor) -> dict[str, float]:
    finite = images.flatten(1).isfinite().all(1)
    if len(images) < 8 or finite.sum() < 2:
        return dict.fromkeys(DISTANCES, math.nan)
    pair = metrics.features(images[finite]), metrics.features(truth[finite])
    return {"fd_vgg": metrics.frechet_distance(*pair), "kid": metrics.kernel_distance(*pair, paired=True)}


def _attempt(method: Method, cases: Cases) -> Estimate:
    try:
        return method.restore(cases, **method.settings)
    except FloatingPointError:
        if len(cases) == 1:
            nothing = (torch.full_like(v, math.nan) for v in (cases.truth, cases.kernels, cases.tilts) if v is not None)
            return Estimate(*nothing)
    parts = [_attempt(method, cases[i : i + 1]) for i in range(len(cases))]
    return Estimate(*(_cat([getattr(part, name) for part in parts]) for name in ESTIMATES))


def _one(estimate: Estimate, i: int) -> Estimate:
    values = (getattr(estimate, name) for name in ESTIMATES)
    return Estimate(*(None if v is None else v[i, None] for v in values))


def _cat(values: list[Tensor | None]) -> Tensor | None:
    return None if any(v is None for v in values) else torch.cat(values)


def _joined(parts: list[dict]) -> dict:
    rows = [row for part in parts for row in part["rows"]]
    return {"rows": rows} | {name: _cat([part[name] for part in parts]) for name in ESTIMATES}
