"""Results that are kept, so that an interrupted run does not compute them again."""

import contextlib
import hashlib
import json
import os
import pickle

from pdm.paths import results_dir
from pdm.study import provenance
from pdm.study.tables import _write


def finished(scale, key, compute):
    """Return `compute()`, kept in `results/SCALE/parts` so that an interrupted run does not compute it again.

    `key` is a dict of plain values that says all that the result depends on, "name" among them: a part is taken up
    where its key is the same, so that after a change of the code `results/SCALE/parts` is to be removed (`make test`
    and `make notebooks` do). The result is tensors, numbers and strings, in dicts and lists.
    Raises ValueError for an unknown scale or a key without a name; a file that cannot be read is computed again.
    """
    import torch  # here, for the command line below should start at once

    path = _part(scale, key)
    with contextlib.suppress(FileNotFoundError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError):
        return torch.load(path, weights_only=True)
    result = compute()
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(result, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return result


def is_finished(scale, key):
    """Return whether `finished` has a part of that key. Raises as `finished`."""
    return _part(scale, key).is_file()


def recorded(scale, key, compute):
    """Return `compute()`, figures without pictures, written to `results/SCALE/records`, which may be committed.

    It is kept as `finished` keeps it, too. A record is taken up in place of that only where the environment's PDM_GO_ON
    is set (`--go-on` of the command line), so that a long series of runs goes on where an earlier commit left it, and
    one that is to be regenerated is. The result is numbers, strings and None, in dicts with strings as keys and lists.
    Raises as `finished`.
    """
    path = _kept(scale, key, "records", "json")
    if is_recorded(scale, key):
        with contextlib.suppress(ValueError, KeyError):
            return json.loads(path.read_text())["result"]
    result = finished(scale, key | {"record": True}, compute)
    path.parent.mkdir(exist_ok=True)
    _write(path, json.dumps({"key": key, "result": result}) + "\n")
    return result


def recorded_rows(scale, key, compute):
    """Return the rows of `compute()`, dicts, as `recorded` keeps them: with columns that say where each was computed.

    Those are `commits` and `machines`, which `write_table` puts beside the table.
    """

    def with_origin():
        origin = provenance.here()
        return [row | {"commits": origin["commit"], "machines": origin["machine"]} for row in compute()]

    return recorded(scale, key, with_origin)


def is_recorded(scale, key):
    """Return whether `recorded` has a record to take up. Raises as `finished`."""
    return _kept(scale, key, "records", "json").is_file() and bool(os.environ.get("PDM_GO_ON"))


def _part(scale, key):
    return _kept(scale, key, "parts", "pt")


def _kept(scale, key, folder, suffix):
    if "name" not in key:
        raise ValueError(f"the key {key} has no name")
    text = json.dumps(key, sort_keys=True)
    return results_dir(scale) / folder / f"{key['name']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.{suffix}"


def digest(tensor):
    """Return a text for a tensor's values in the key of a part, the same on machines that round differently.

    It is their norm and their products with three waves of that length, to five digits: tensors that differ by more
    than rounding, in a single pixel even, have different ones.
    """
    import torch

    values = tensor.detach().cpu().double().flatten()
    norm, places = values.norm(), torch.arange(values.numel(), dtype=torch.float64)
    products = [(places * step).cos() @ values / norm for step in (0.1, 1.0, 2**0.5)]
    return " ".join([f"{norm:.5g}", *(f"{product:.5f}" for product in products)])
