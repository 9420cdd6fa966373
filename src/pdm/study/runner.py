"""Methods on cases: resumable, and over any executor."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import Executor, as_completed
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from pdm import metrics
from pdm.models import best_device
from pdm.study import cache, provenance
from pdm.study.dask import connected
from pdm.study.method import Method
from pdm.study.problem import Cases, Estimate
from pdm.study.score import figures
from pdm.study.statistics import DISTANCES

COMPONENTS = ("image", "kernel", "tilt")
COUNTS = ("forward", "backward", "kernel_forward", "kernel_backward")


def restore(method: Method, cases: Cases) -> dict:
    """One batch by one method: `rows`, a dict an image, and the estimates `image`, `kernel` and `tilt`.

    A row has the image's name and seed, `score.figures`, the estimate's `COUNTS`, the seconds that it took, and the
    commit and machine. A method that raises because something is not finite is tried on each image by
    itself; an image on which it still does is a row without figures that counts as diverged.
    """
    device = best_device() if method.restore.priors else "cpu"
    begin = time.perf_counter()
    estimate = _attempt(method, cases, device).map(lambda value: value.to("cpu"))
    seconds = (time.perf_counter() - begin) / len(cases)
    cost = {name: getattr(estimate, name) for name in COUNTS} | {"seconds": seconds}
    named = [{"image": name, "seed": s} for name, s in zip(cases.names, cases.measurement.seeds, strict=True)]
    rows = [a | b | cost | provenance.here() for a, b in zip(named, figures(estimate, cases), strict=True)]
    return {"rows": rows} | {name: estimate.values.get(name) for name in COMPONENTS}


def _attempt(method: Method, cases: Cases, device: torch.device | str) -> Estimate:
    try:
        given = cases.given(method.restore.known, device)
        return method.restore(given, method.load(device), **method.settings)
    except FloatingPointError:
        if len(cases) == 1:
            return Estimate({name: torch.full_like(v, torch.nan) for name, v in cases.truth.components.items()})
    parts = [_attempt(method, cases[i : i + 1], device) for i in range(len(cases))]
    shared = set.intersection(*(set(part.values) for part in parts))
    values = {name: torch.cat([part.values[name] for part in parts]) for name in shared}
    most = max(parts, key=lambda part: part.forward)
    counts = {name: getattr(most, name) for name in COUNTS}
    return Estimate(values, boundary=parts[0].boundary, **counts)


def run(methods: Sequence[Method], cases: Cases, scale: str, executor: Executor | None = None) -> dict[str, dict]:
    """Every method on every case: by method's name what `restore` returns, its batches joined.

    Each batch is kept in results/`scale`/parts as it finishes, so that a run that was interrupted goes on where it
    stopped and gives the same. With an `executor` the batches are handed to it, and what comes back is kept here;
    without one, to the Dask scheduler that the environment's EXECUTOR names, if it does.
    Raises: ValueError for two methods of one name, or two functions of one id, and what a method raises that is no
    matter of numbers.
    """
    _told_apart(methods)
    units = [(m, cases[i : i + m.batch]) for m in methods for i in range(0, len(cases), m.batch)]
    keys = [(method.key(part), cache.code_of(method.restore)) for method, part in units]
    both = {str(key): (unit, key) for unit, key in zip(units, keys, strict=True)}  # one of those that are the same
    left = [(unit, key) for unit, key in both.values() if not cache.is_finished(scale, *key)]
    if left:
        with nullcontext(executor) if executor else connected(os.environ.get("EXECUTOR")) as workers:
            if workers is not None:
                _spread(left, scale, workers)
    parts: dict[str, list[dict]] = {m.name: [] for m in methods}
    for unit, (key, code) in zip(units, keys, strict=True):
        parts[unit[0].name].append(cache.finished(scale, key, lambda unit=unit: restore(*unit), code))
    return {name: _joined(found) for name, found in parts.items()}


def recorded(methods: Sequence[Method], cases: Cases, scale: str) -> dict[str, dict]:
    """What `run` finds, without pictures: by method's name `rows`, a dict an image, and `fd_vgg` and `kid`.

    Those are the Frechet distance and KID between the images and their truths on features of VGG16, None for fewer than
    8 images. Each method's are kept as `cache.recorded` keeps them. Raises: as `run`.
    """

    def compute(method: Method) -> dict:
        result = run([method], cases, scale)[method.name]
        return {"rows": result["rows"]} | _distances(result["image"], cases.truth.image)

    _told_apart(methods)
    keys = {method.name: method.key(cases) for method in methods}
    if os.environ.get("EXECUTOR"):  # all at once, for its workers to share; else each is recorded as it is done
        go_on = os.environ.get("PDM_GO_ON")
        run([m for m in methods if not (go_on and cache.record(scale, keys[m.name]))], cases, scale)
    return {
        m.name: cache.recorded(scale, keys[m.name], partial(compute, m), cases.title, cache.code_of(m.restore))
        for m in methods
    }


def pictures(methods: Sequence[Method], cases: Cases, which: Sequence[int], scale: str) -> dict[str, dict]:
    """What `run` returns, of some of the cases: from the batches that hold them, restored again if they are not kept.

    Raises: as `run`, and IndexError where there is no such case.
    """
    _told_apart(methods)
    found: dict[str, list[dict]] = {m.name: [] for m in methods}
    for each in methods:
        for i in (range(len(cases))[i] for i in which):
            first = i - i % each.batch
            batch = run([each], cases[first : first + each.batch], scale)[each.name]
            one = {name: None if batch[name] is None else batch[name][i - first, None] for name in COMPONENTS}
            found[each.name].append({"rows": [batch["rows"][i - first]]} | one)
    return {name: _joined(parts) for name, parts in found.items()}


def _told_apart(methods: Sequence[Method]) -> None:
    if len({m.name for m in methods}) != len(methods):
        raise ValueError(f"methods are called {[m.name for m in methods]}; wanted a name each")
    functions = {(m.restore.id, f"{m.restore.__module__}.{m.restore.__qualname__}") for m in methods}
    if len(functions) != len({id for id, _ in functions}):
        raise ValueError(f"functions of one id: {sorted(functions)}; wanted an id each")


def _restore_as(key: dict, code: str, method: Method, cases: Cases) -> dict:
    """`restore`, by a worker whose weights, precision and code are those of the key that its result is kept by."""
    own, wanted = method.key(cases) | {"code": cache.code_of(method.restore)}, key | {"code": code}
    if own != wanted:
        differ = [f"{name} is {own.get(name)} for {value}" for name, value in wanted.items() if own.get(name) != value]
        raise ValueError(f"a worker would compute something else than was asked for: {', '.join(differ)}")
    return restore(method, cases)


def _spread(left: list[tuple], scale: str, executor: Executor) -> None:
    """Have an executor restore batches, given with their keys, and keep each as it comes; what fails is raised last."""
    futures = {executor.submit(_restore_as, *key, *unit): key for unit, key in left}
    for future in as_completed(futures):
        key, code = futures[future]
        if future.exception() is None:
            cache.finished(scale, key, future.result, code)
    for future in futures:
        future.result()


def _distances(images: Tensor, truth: Tensor) -> dict[str, float | None]:
    finite = images.flatten(1).isfinite().all(1)
    if len(images) < 8 or finite.sum() < 2 or images.shape[1] != 3 or min(images.shape[2:]) < 32:
        return dict.fromkeys(DISTANCES)
    pair = metrics.features(images[finite].clamp(-1, 1)), metrics.features(truth[finite])
    return {"fd_vgg": metrics.frechet_distance(*pair), "kid": metrics.kernel_distance(*pair, paired=True)}


def _joined(parts: list[dict]) -> dict:
    rows = [row for part in parts for row in part["rows"]]
    values = {name: [part[name] for part in parts] for name in COMPONENTS}
    joined = {name: None if any(v is None for v in several) else torch.cat(several) for name, several in values.items()}
    return {"rows": rows} | joined
