"""Results that are kept, so that an interrupted run does not compute them again.

Parts are unfinished work: keyed by all that a result depends on and by the code, so that edited code never returns
yesterday's part. Records are the figures of finished work, and may be committed: keyed by the method's id and version.
"""

import ast
import contextlib
import hashlib
import inspect
import io
import json
import math
import os
import pickle
import textwrap
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from pdm.paths import PACKAGE, results_dir, write_whole
from pdm.study import provenance


@lru_cache(maxsize=1)
def fingerprint(package: Path = PACKAGE) -> str:
    """A hash of a package's code: of what its modules define, without docstrings and comments, in whatever module.

    An edit changes it; moving a function to another module, or the module to another folder, does not.
    """
    parts = [part for path in package.rglob("*.py") for part in _definitions(path.read_text(encoding="utf-8"))]
    return hashlib.sha256("\n".join(sorted(set(parts))).encode()).hexdigest()[:16]


def _definitions(source: str) -> list[str]:
    """The top-level statements of a text as syntax trees without docstrings; of imports within pdm the names alone."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    found = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pdm":
            found += [f"{alias.name} as {alias.asname}" for alias in node.names if alias.asname]
        else:
            found.append(ast.dump(node))
    return found


def code_of(function: Callable) -> str:
    """The fingerprint of the code that a function runs by: the package's and, of a function from elsewhere, its own.

    Raises: ValueError for a function without source, which could be edited without a trace.
    """
    if function.__module__.split(".")[0] == "pdm":
        return fingerprint()
    try:
        own = _definitions(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError) as error:
        raise ValueError(f"{function.__qualname__} has no source; wanted a function from a file or a cell") from error
    return hashlib.sha256("\n".join([fingerprint(), *own]).encode()).hexdigest()[:16]


def finished(scale: str, key: dict, compute: Callable[[], object], code: str = "") -> object:
    """`compute()`, kept in results/SCALE/parts so that an interrupted run does not compute it again.

    `key` is a dict of plain values that says all that the result depends on, "id" among them; the code, `code` or by
    default the package's, is added. The result is tensors, numbers, strings and None, in dicts and lists.
    Raises: ValueError for an unknown scale or a key without an id; a file that cannot be read is computed again.
    """
    path = _part(scale, key, code)
    with contextlib.suppress(FileNotFoundError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError):
        return torch.load(path, weights_only=True)
    buffer, result = io.BytesIO(), compute()
    torch.save(result, buffer)
    write_whole(path, buffer.getvalue())
    return result


def is_finished(scale: str, key: dict, code: str = "") -> bool:
    """Whether `finished` has a part of that key. Raises: as `finished`."""
    return _part(scale, key, code).is_file()


def recorded(scale: str, key: dict, compute: Callable[[], object], title: str = "", code: str = "") -> object:
    """`compute()`, figures without pictures, written to results/SCALE/records, which may be committed.

    It is kept as `finished` keeps it, too. A record is taken up in place of that only where the environment's PDM_GO_ON
    is set (`--go-on` of the command line), so that a long series of runs goes on where an earlier commit left it, and
    one that is to be regenerated is. `title` is for people: the file is named by the key's id, it, and the key's hash.
    The result is numbers, strings and None, in dicts with strings as keys and lists; NaN is written as null.
    Raises: as `finished`.
    """
    if (kept := record(scale, key)) is not None and os.environ.get("PDM_GO_ON"):
        return kept
    result = _strict(finished(scale, key | {"record": True}, compute, code))
    write_record(results_dir(scale) / "records", key, result, title)
    return result


def record(scale: str, key: dict) -> object | None:
    """What was recorded under a key, or else under one that is `same`; None where nothing was that can be read.

    Raises: as `finished`.
    """
    folder = results_dir(scale) / "records"
    for path in (*folder.glob(f"*-{_hash(key)}.json"), *sorted(folder.glob(f"{key['id']}-*.json"))):
        with contextlib.suppress(ValueError, KeyError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            if same(key, kept["key"]):
                return kept["result"]
    return None


def same(key: dict, kept: dict) -> bool:
    """Whether a key is a record's but for the precision of its networks, which another machine may not have."""

    def plain(key: dict) -> dict:
        settings = {name: value for name, value in key.get("settings", {}).items() if name != "precision"}
        return key | {"settings": settings, "weights": {name: sha for name, (sha, _) in key.get("weights", {}).items()}}

    return plain(json.loads(json.dumps(key))) == plain(kept)


def write_record(folder: Path, key: dict, result: object, title: str = "") -> Path:
    """Write a record as strict JSON, in place of one of that key under another title; return its path."""
    name = "-".join(part for part in (key["id"], title.replace("/", " ").replace(" ", "_"), _hash(key)) if part)
    path = folder / f"{name}.json"
    write_whole(path, json.dumps({"key": key, "result": _strict(result)}, allow_nan=False, ensure_ascii=False) + "\n")
    for other in set(folder.glob(f"*-{_hash(key)}.json")) - {path}:
        other.unlink(missing_ok=True)
    return path


def recorded_rows(scale: str, key: dict, compute: Callable[[], list[dict]], title: str = "") -> list[dict]:
    """The rows of `compute()`, dicts, as `recorded` keeps them: with columns that say where each was computed.

    Those are `commits` and `machines`, which `write_table` puts beside the table.
    """
    here = provenance.here()
    origin = {"commits": here["commit"], "machines": here["machine"]}
    return recorded(scale, key, lambda: [row | origin for row in compute()], title)


def digest(tensor: Tensor) -> str:
    """A text for a tensor's values in a key, the same on machines that round differently.

    It is their norm and their products with three waves of that length, to five digits: tensors that differ by more
    than rounding, in a single pixel even, have different ones.
    """
    values = tensor.detach().cpu().double().flatten()
    norm, places = values.norm(), torch.arange(values.numel(), dtype=torch.float64)
    products = [(places * step).cos() @ values / norm for step in (0.1, 1.0, 2**0.5)]
    return " ".join([f"{norm:.5g}", *(f"{product:.5f}" for product in products)])


def _part(scale: str, key: dict, code: str) -> Path:
    keyed = key | {"code": code or fingerprint()}
    return results_dir(scale) / "parts" / f"{key.get('id', '')}-{_hash(keyed)}.pt"


def _hash(key: dict) -> str:
    if not key.get("id"):
        raise ValueError(f"the key {key} has no id")
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


def _strict(value: object) -> object:
    """The same with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _strict(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
