"""Every public function under bad input and strange states of the process: it works, or it says what is wrong.

float64, non-contiguous, channels-last and differentiable tensors, NumPy's scalars and each state of the process must
work and give what the plain call gives. Whatever else comes in works or raises ValueError or TypeError in words that
name the argument, before a network is evaluated; no finite input gives NaN, and no NaN travels on.
`PDM_WRITE_ROBUSTNESS=1 pytest tests/test_robustness.py` writes results/bench/tables/robustness.csv.
"""

import contextlib
import dataclasses
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from robustness_calls import CALLS, EXEMPT, NETWORK, place

import pdm
from pdm import paths

NAN, INF = float("nan"), float("inf")
MODULES = [f"pdm.{m}" for m in ("schedule", "sampler", "guidance", "operators", "constraints")]
MODULES += [f"pdm.{m}" for m in ("convolutions", "exact_steps", "few_steps", "blind_steps")]
MODULES += [f"pdm.{m}" for m in ("kernel_refinement", "photo_kernels", "photo")]
MODULES += [f"pdm.study.{m}" for m in ("score", "progress", "statistics")]
PACKAGES = ("data", "metrics", "models", "baselines")
CSV = paths.ROOT / "results" / "bench" / "tables" / "robustness.csv"


# ---- what is done to an argument: kind of argument -> kind of perturbation -> a function of the value ----


def strided(x: torch.Tensor) -> torch.Tensor:
    """The same values, every second element in memory along the last axis."""
    return torch.stack([x, x], -1)[..., 0]


def last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else strided(x)


def with_value(value: float, x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[(0,) * x.ndim] = value
    return x


def cropped(height: int, width: int, x: torch.Tensor) -> torch.Tensor:
    """The corner of an image, of a kernel at the sum that it had."""
    if x.ndim < 2:
        return x[:width]
    part = x[..., :height, :width]
    is_kernel = x.ndim == 4 and x.shape[1] == 1 and ((x.sum((1, 2, 3)) - 1).abs() < 1e-3).all()
    return part / part.sum((1, 2, 3), keepdim=True) if is_kernel else part


TENSOR_WORKS = {
    "non-contiguous": strided,
    "channels_last": last,
    "requires_grad": lambda x: x.clone().requires_grad_(),
}
DTYPES = {str(d).removeprefix("torch."): d for d in (torch.uint8, torch.int64, torch.float16, torch.bfloat16)}
DTYPES["complex64"] = torch.complex64
TENSOR_MAY = {
    **{name: partial(lambda d, x: x.to(d), d) for name, d in DTYPES.items()},
    "NaN": partial(with_value, NAN),
    "Inf": partial(with_value, INF),
    "empty": lambda x: x[:0],
    "meta device": lambda x: x.to("meta"),
    "rank less one": lambda x: x[0],
    "rank plus one": lambda x: x[None],
    "non-square": lambda x: cropped(x.shape[-2] if x.ndim > 1 else 1, max(1, x.shape[-1] - 2), x),
    **{f"size {n}": partial(cropped, n, n) for n in (1, 2, 3)},
    "no tensor": lambda x: "a word",
    "None": lambda x: None,
}
WHOLE_MAY = {"negative": -1, "zero": 0, "bool": True, "fraction": 1.5, "string": "3", "None": None, "NaN": NAN}
MUST = {
    "tensor": TENSOR_WORKS,
    "whole": {"NumPy scalar": np.int64},
    "number": {"NumPy scalar": np.float64},
    "seeds": {"NumPy scalar": lambda s: [np.int64(v) for v in s], "NumPy array": np.array, "tuple": tuple},
    "path": {"string": str, "relative path": lambda p: Path(os.path.relpath(p))},
    "choice": {},
    "generator": {},
}
MAY = {
    "tensor": TENSOR_MAY,
    "whole": {name: partial(lambda v, _: v, v) for name, v in WHOLE_MAY.items()},
    "number": {name: partial(lambda v, _: v, v) for name, v in {**WHOLE_MAY, "Inf": INF}.items()},
    "seeds": {
        "negative": lambda s: [-1, *s[1:]],
        "bool": lambda s: [True, *s[1:]],
        "fraction": lambda s: [0.5, *s[1:]],
        "string": lambda s: "seeds"[: len(s)],
        "None": lambda s: None,
        "empty": lambda s: [],
        "one too many": lambda s: [*s, 7],
    },
    "path": {
        "None": lambda p: None,
        "number": lambda p: 3,
        "empty": lambda p: "",
        "zero byte": lambda p: "a\0b",
        "missing": lambda p: Path(p) / "missing" / "x.png",
        "wrong kind": lambda p: Path(p).parent if Path(p).is_file() else place() / "text.txt",
    },
    "choice": {"string": lambda c: "nonsense", "None": lambda c: None, "number": lambda c: 3},
    "generator": {"None": lambda g: None, "number": lambda g: 3, "string": lambda g: "3"},
}


# ---- states of the process ----


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def elsewhere():
    before = Path.cwd()
    os.chdir(place() / "elsewhere")
    try:
        yield
    finally:
        os.chdir(before)


STATES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default dtype float64": default_dtype,
    "default device meta": default_device,
    "working directory": elsewhere,
}


# ---- one case ----


def values(result, depth: int = 0) -> list:
    """The numbers and words of a result, arrays in float64, in one order."""
    if isinstance(result, torch.Tensor) and result.is_meta:
        return ["meta", str(result.shape)]
    if isinstance(result, torch.Tensor):
        result = result.detach().to("cpu", torch.promote_types(result.dtype, torch.float32)).numpy()
    if isinstance(result, (np.ndarray, np.number, float, int)) and not isinstance(result, bool):
        array = np.asarray(result)
        return [array.astype(np.float64) if array.dtype.kind in "fiu" else array.tolist()]
    if isinstance(result, pd.DataFrame):
        return values({name: result[name].to_numpy() for name in result}, depth)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    if isinstance(result, dict):
        return [v for name, part in result.items() for v in [name, *values(part, depth + 1)]]
    if isinstance(result, (list, tuple)):
        return [v for part in result for v in values(part, depth + 1)]
    return [result] if isinstance(result, (str, bool, type(None))) else []


def same(one: list, other: list, tolerance: float) -> bool:
    """Whether two results agree; a value of another shape or word never does."""
    if len(one) != len(other):
        return False
    for a, b in zip(one, other, strict=True):
        if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
            if a is not b and a != b:
                return False
        elif a.shape != b.shape or not np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True):
            return False
    return True


def finite(result: list) -> bool:
    return all(np.isfinite(v).all() for v in result if isinstance(v, np.ndarray))


def attempt(call, arguments: dict, state=contextlib.nullcontext) -> tuple[list | None, Exception | None, int]:
    """The values that a call gives or what it raises, and how often it evaluated a network."""
    before = NETWORK["evaluations"]
    try:
        with state():
            return values(call.function(**arguments)), None, NETWORK["evaluations"] - before
    except Exception as error:
        return None, error, NETWORK["evaluations"] - before


def clear(error: Exception, call, name: str, is_path: bool) -> str:
    """Why an error is not clear: empty if it is."""
    kinds = (ValueError, TypeError, FileNotFoundError) if is_path else (ValueError, TypeError)
    if not isinstance(error, kinds):
        return f"{type(error).__name__}: {error}"
    words = [name, *call.arguments(), *call.words]
    if not any(re.search(rf"(?i)(?<![a-z]){re.escape(word)}", str(error)) for word in words):
        return f"{type(error).__name__} names no argument: {error}"
    return ""


def outcome(call, name: str, kind: str, changed: dict, must: bool, plain: list, state=None) -> str:
    """ "works", "clear error", or what is wrong with a case."""
    result, error, evaluations = attempt(call, changed, state or contextlib.nullcontext)
    if error is not None:
        if must:
            return f"{type(error).__name__}: {error}"
        why = clear(error, call, name, call.kinds.get(name) == "path")
        return why or ("clear error" if not evaluations else f"refused after {evaluations} evaluations: {error}")
    if must and not same(result, plain, call.tolerance):
        return "another result than the plain call's"
    if finite(plain) and not finite(result) and not (call.nan and kind in ("NaN", "Inf")):
        return "NaN or Inf in the result"
    return "works"


@cache
def outcomes(key: str) -> dict[tuple[str, str], str]:
    """(argument, perturbation) -> outcome, for one function of the table."""
    call = CALLS[key]
    plain, error, _ = attempt(call, call.arguments())
    if error is not None:
        raise error
    assert plain, f"{key}: the plain call gives nothing to compare"
    found = {}
    tensors = [n for n, kind in call.kinds.items() if kind == "tensor"]

    def run(name: str, kind: str, must: bool, change) -> None:
        arguments = call.arguments()
        try:
            for each in tensors if name == "all" else [name]:
                arguments[each] = change(arguments[each])
        except (
            IndexError,
            RuntimeError,
            TypeError,
        ):  # a tensor without such a dimension, or values without such a dtype
            return
        found[name, kind] = outcome(call, name, kind, arguments, must, plain)

    for name, kind in call.kinds.items():
        for perturbation, change in MUST[kind].items():
            run(name, perturbation, True, change)
        for perturbation, change in MAY[kind].items():
            run(name, perturbation, False, change)
    if tensors:
        run("all", "float64", not call.exact_dtype, torch.Tensor.double)
    if len(tensors) > 1:
        for perturbation, change in TENSOR_MAY.items():
            if perturbation not in ("no tensor", "None"):
                run("all", perturbation, False, change)
    for perturbation, state in STATES.items():
        found["process", perturbation] = outcome(call, "process", perturbation, call.arguments(), True, plain, state)
    with torch.inference_mode():
        inference = call.arguments()
    found["process", "inference tensors"] = outcome(call, "process", "", inference, True, plain)
    before = torch.random.get_rng_state()
    call.function(**call.arguments())
    kept = torch.equal(before, torch.random.get_rng_state()) and torch.get_default_dtype() == torch.float32
    found["process", "global random state"] = "works" if kept else "the global random state was changed"
    return found


# ---- the tests ----


@pytest.mark.parametrize("key", CALLS)
def test_bad_input_is_used_rightly_or_refused_in_words(key):
    wrong = {case: o for case, o in outcomes(key).items() if o not in ("works", "clear error")}
    assert not wrong, "\n".join(f"{key} {name}, {kind}: {o}" for (name, kind), o in wrong.items())


READ = ("data.splits.load", "models.files.prior_card", "models.files.load_prior", "models.files.save_prior")
READ += ("models.errors.save_errors",)


@cache
def under_locale_c() -> dict[tuple[str, str], str]:
    """Functions that read text, by a process whose locale knows ASCII only."""
    lines = ["import sys", f"sys.path.insert(0, {str(Path(__file__).parent)!r})", "from test_robustness import *"]
    lines += [f"assert values(CALLS[{key!r}].function(**CALLS[{key!r}].arguments()))" for key in READ]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "ROBUSTNESS_PLACE": str(place())}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], env=os.environ | plain, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1] if done.returncode else "works"
    return {(key, "locale C"): last for key in READ}


def test_text_is_read_in_a_locale_without_utf_8():
    assert set(under_locale_c().values()) == {"works"}


def public_names() -> set[str]:
    """MODULE.NAME without "pdm.", of public functions, classes and their methods."""
    modules = list(MODULES)
    for package in PACKAGES:
        folder = importlib.import_module(f"pdm.{package}").__path__
        modules += [f"pdm.{package}.{m.name}" for m in pkgutil.iter_modules(folder)]
    names = set()
    for module in modules:
        for name, value in vars(importlib.import_module(module)).items():
            value = inspect.unwrap(value) if callable(value) else value
            if name.startswith("_") or getattr(value, "__module__", None) != module:
                continue
            if inspect.isfunction(value) or inspect.isclass(value):
                names.add(f"{module}.{name}".removeprefix("pdm."))
            if inspect.isclass(value):
                methods = {n for n, v in vars(value).items() if not n.startswith("_") and callable(getattr(value, n))}
                own = (
                    methods - {f.name for f in dataclasses.fields(value)}
                    if dataclasses.is_dataclass(value)
                    else methods
                )
                names |= {f"{module}.{name}.{n}".removeprefix("pdm.") for n in own}
    return names


def test_no_public_function_is_missing():
    names, listed = public_names(), set(CALLS) | set(EXEMPT)
    assert not names - listed, "neither in the table nor exempt"
    assert not {n for n in listed - names if not any(n.startswith(f"{m}.__") for m in names)}, "there are no such names"
    assert not set(CALLS) & set(EXEMPT)
    top = {n for n in pdm.__all__ if inspect.isfunction(getattr(pdm, n)) or inspect.isclass(getattr(pdm, n))}
    full = {f"{getattr(pdm, n).__module__}.{n}".removeprefix("pdm.") for n in top}
    assert not {n for n in full if n not in listed and not n.startswith("photo.")}


def table() -> pd.DataFrame:
    """A row a perturbation: cases, and how many work, are refused in clear words, or fail."""
    every = [(kind, o) for key in CALLS for (_, kind), o in outcomes(key).items()]
    every += [(kind, o) for (_, kind), o in under_locale_c().items()]
    counts = Counter(every)
    rows = []
    for kind in sorted({kind for kind, _ in every}):
        of = {o: n for (k, o), n in counts.items() if k == kind}
        works, refused = of.get("works", 0), of.get("clear error", 0)
        cases = sum(of.values())
        rows.append(
            {"kind": kind, "cases": cases, "works": works, "clear_error": refused, "failures": cases - works - refused}
        )
    return pd.DataFrame(rows)


def test_the_committed_table_is_of_these_cases():
    now = table()
    if os.environ.get("PDM_WRITE_ROBUSTNESS") == "1":
        now.to_csv(CSV, index=False)
    committed = pd.read_csv(CSV, keep_default_na=False)
    assert list(committed.kind) == list(now.kind)
    assert committed.cases.sum() >= 1000 and not committed.failures.any() and not now.failures.any()
