"""Tables on disk: a CSV, whole or not at all, and beside it where it came from."""

import json
import math
import re
from pathlib import Path

import pandas as pd

from pdm.paths import locked, results_dir, write_whole
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


def write_table(frame: pd.DataFrame, name: str, scale: str, seed: int | None = None) -> Path:
    """Write a DataFrame to `results/SCALE/tables/NAME.csv`, whole or not at all, and return the path.

    Numbers keep six significant digits; the index is written only where it has a name. Where it came from is written to
    `results/SCALE/provenance/NAME.json`: `provenance.describe`, `seed`, and for each row the values of the columns
    `BESIDE`, which the CSV leaves out.
    Raises: ValueError for an unknown scale, or a name that is not a plain file name.
    """
    _write_provenance(frame, name, scale, seed)
    return _write_csv(frame, _path(name, scale))


def update_table(frame: pd.DataFrame, name: str, scale: str, by: str, seed: int | None = None) -> Path:
    """Write `frame` into `results/SCALE/tables/NAME.csv` in place of the rows that have its values of column `by`.

    Rows of other values stay, so that several notebooks share a table, one after the other or at once; where these rows
    came from is written to `results/SCALE/provenance/NAME-VALUES.json`. Returns the path; raises as `write_table`.
    """
    path = _path(name, scale)
    _write_provenance(frame, "-".join([name, *sorted(map(str, frame[by].unique()))]), scale, seed)
    with locked(path):
        if path.is_file():
            others = pd.read_csv(path)
            frame = pd.concat([others[~others[by].isin(frame[by])], frame]).sort_values(by, kind="stable")
        return _write_csv(frame, path)


def write_sets(frame: pd.DataFrame, name: str, scale: str, seed: int | None = None) -> Path:
    """Write a table of data sets, column `dataset`: the rows of sets that are not in `frame` stay where they stand.

    So a machine that has not all the sets regenerates the rows of those it has. Returns the path; raises as
    `write_table`.
    """
    path, own = _path(name, scale), set(frame["dataset"])
    with locked(path):
        old = pd.read_csv(path).to_dict("records") if path.is_file() else []
        if {row["dataset"] for row in old} <= own:
            return write_table(frame, name, scale, seed)
        _write_provenance(frame, "-".join([name, *sorted(own)]), scale, seed)
        new, rows = frame[[column for column in frame if column not in BESIDE]].to_dict("records"), []
        for row in old:  # each of ours in the place of one of its set
            place = next((i for i, candidate in enumerate(new) if candidate["dataset"] == row["dataset"]), None)
            rows += [new.pop(place)] if place is not None else [row] * (row["dataset"] not in own)
        return _write_csv(pd.DataFrame([*rows, *new]), path)


def _write_csv(frame: pd.DataFrame, path: Path) -> Path:
    named_index = any(level is not None for level in frame.index.names)
    beside = [column for column in BESIDE if column in frame]
    write_whole(path, frame.drop(columns=beside).to_csv(float_format="%.6g", index=named_index, lineterminator="\n"))
    return path


def _write_provenance(frame: pd.DataFrame, name: str, scale: str, seed: int | None) -> None:
    rows = {column: [str(value) for value in frame[column]] for column in BESIDE if column in frame}
    origin = provenance.describe() | {"scale": scale, "seed": seed} | ({"rows": rows} if rows else {})
    write_whole(_path(name, scale, "provenance", "json"), json.dumps(origin, indent=1) + "\n")


def _path(name: str, scale: str, folder: str = "tables", suffix: str = "csv") -> Path:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"a table's name is letters, digits, '_', '-' and '.', not {name!r}")
    return results_dir(scale) / folder / f"{name}.{suffix}"
