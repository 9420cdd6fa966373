"""Tables on disk: a CSV, whole or not at all, and beside it where it came from."""

import json
import math
import os
import re

from pdm.paths import results_dir
from pdm.study import provenance


def target_row(notebook: str, claim: str, measured: float, least: float = -math.inf, most: float = math.inf) -> dict:
    """A row of the table of targets: what was measured, and whether it lies where it was wanted, in `least` to `most`.

    Raises: ValueError where neither bound is given.
    """
    if not (math.isfinite(least) or math.isfinite(most)):
        raise ValueError(f"{claim!r} is to lie between {least} and {most}; wanted a bound")
    bounds = [f"{sign} {bound:g}" for sign, bound in ((">=", least), ("<=", most)) if math.isfinite(bound)]
    row = {"notebook": notebook, "claim": claim, "measured": float(measured), "wanted": " and ".join(bounds)}
    return row | {"met": bool(least <= measured <= most)}


BESIDE = ("commits", "seeds", "machines", "sampler")  # columns of a table that go into its provenance


def write_table(frame, name, scale, seed=None):
    """Write a DataFrame to `results/SCALE/tables/NAME.csv`, whole or not at all, and return the path.

    Numbers keep six significant digits; the index is written only where it has a name. Where it came from is written to
    `results/SCALE/provenance/NAME.json`: `pdm.provenance.describe`, `seed`, and for each row the values of the columns
    `BESIDE`, which the CSV leaves out.
    Raises ValueError for an unknown scale, or a name that is not a plain file name.
    """
    _write_provenance(frame, name, scale, seed)
    return _write_csv(frame, name, scale)


def update_table(frame, name, scale, by, seed=None):
    """Write `frame` into `results/SCALE/tables/NAME.csv` in place of the rows that have its values of column `by`.

    Rows of other values stay, so that several notebooks share a table, one after the other; where these rows came from
    is written to `results/SCALE/provenance/NAME-VALUES.json`. Returns the path; raises as `write_table`.
    """
    import pandas as pd  # here, for the command line below should start at once

    _write_provenance(frame, "-".join([name, *sorted(frame[by].unique())]), scale, seed)
    path = results_dir(scale) / "tables" / f"{name}.csv"
    if path.is_file():
        others = pd.read_csv(path)
        frame = pd.concat([others[~others[by].isin(frame[by])], frame]).sort_values(by, kind="stable")
    return _write_csv(frame, name, scale)


def _write_csv(frame, name, scale):
    path = results_dir(scale) / "tables" / f"{_plain_name(name)}.csv"
    named_index = any(level is not None for level in frame.index.names)
    beside = [column for column in BESIDE if column in frame]
    _write(path, frame.drop(columns=beside).to_csv(float_format="%.6g", index=named_index))
    return path


def _write_provenance(frame, name, scale, seed):
    path = results_dir(scale) / "provenance" / f"{_plain_name(name)}.json"
    rows = {column: [str(value) for value in frame[column]] for column in BESIDE if column in frame}
    origin = provenance.describe() | {"scale": scale, "seed": seed} | ({"rows": rows} if rows else {})
    path.parent.mkdir(exist_ok=True)
    _write(path, json.dumps(origin, indent=1) + "\n")


def _plain_name(name):
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"a table's name is letters, digits, '_', '-' and '.', not {name!r}")
    return name


def _write(path, text):
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
