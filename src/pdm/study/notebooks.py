"""Run the notebooks in order, and say where their tables and figures go: `python -m pdm.reproduce --help`."""

import argparse
import contextlib
import hashlib
import json
import os
import pickle
import re
import sys
import time
from pathlib import Path

from pdm import provenance

SCALES = ("smoke", "pocket", "bench", "paper")
ROOT = Path(__file__).resolve().parents[2]  # the repository, which is installed editable
BESIDE = ("commits", "seeds", "machines", "sampler")  # columns of a table that go into its provenance


def results_dir(scale, results=None):
    """Return the folder `results/SCALE`, with `tables/` and `figures/` made in it.

    `results` defaults to the environment variable PDM_RESULTS, and that to `results` in the repository.
    Raises ValueError for a scale that is not one of `SCALES`.
    """
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}; the scales are {', '.join(SCALES)}")
    folder = Path(results or os.environ.get("PDM_RESULTS") or ROOT / "results").resolve() / scale
    for part in ("tables", "figures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    return folder


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


def select_notebooks(folder, names=()):
    """Return the notebooks `NN_*.ipynb` of a folder in their order: those named, or all.

    A name may come with or without `.ipynb`. Raises ValueError for a name that is not there.
    """
    found = {path.stem: path for path in sorted(Path(folder).resolve().glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise ValueError(f"no notebook NN_*.ipynb in {folder}")
    wanted = {Path(name).name.removesuffix(".ipynb") for name in names}
    if unknown := sorted(wanted - set(found)):
        raise ValueError(f"unknown notebook {', '.join(unknown)}; the notebooks are {', '.join(found)}")
    return [path for stem, path in found.items() if not wanted or stem in wanted]


def run_notebook(notebook, folder, parameters):
    """Execute one notebook in its own folder, write the executed copy to `folder`, and return the seconds.

    A run that fails raises what papermill raises and leaves what it got to as `NAME.failed.ipynb`.
    """
    import papermill  # here, since a kernel that only writes tables should not wait for it

    notebook, folder = Path(notebook).resolve(), Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{notebook.stem}.partial.ipynb"
    failed = folder / f"{notebook.stem}.failed.ipynb"
    partial.unlink(missing_ok=True)  # of a run that was killed
    begin = time.perf_counter()
    try:
        papermill.execute_notebook(
            _plain(notebook),
            _plain(partial),
            parameters=parameters,
            cwd=notebook.parent,
            progress_bar=sys.stderr.isatty(),
        )
    except BaseException:  # an interrupt too: the partial copy is worth a look
        if partial.exists():
            os.replace(partial, failed)
        raise
    os.replace(partial, folder / notebook.name)
    failed.unlink(missing_ok=True)
    return time.perf_counter() - begin


def _plain(path):
    return str(path).replace("{", "{{").replace("}", "}}")  # papermill formats its paths


def main(arguments=None):
    """Run the command line and return its exit code: 0, 1 if a notebook failed, 2 for a bad argument.

    A notebook that fails does not keep the others from running.
    """
    parser = argparse.ArgumentParser(prog="python -m pdm.reproduce", description="Run the notebooks in order.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks to run, by default all of them")
    parser.add_argument("--scale", default="pocket", help=f"{', '.join(SCALES)} (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="overrides the notebooks' own SEED")
    parser.add_argument("--notebooks-dir", default=ROOT / "notebooks", help="default: notebooks/")
    parser.add_argument("--results", help="default: the environment's PDM_RESULTS, else results/")
    parser.add_argument("--go-on", action="store_true", help="take the records of results/SCALE/records, where it can")
    options = parser.parse_args(arguments)
    try:
        notebooks = select_notebooks(options.notebooks_dir, options.names)
        folder = results_dir(options.scale, options.results)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.environ["PDM_RESULTS"] = str(folder.parent)  # the kernels inherit it, and write where we do
    os.environ |= {"PDM_GO_ON": "1"} if options.go_on else {}
    parameters = {"SCALE": options.scale} | ({} if options.seed is None else {"SEED": options.seed})
    failed = []
    for notebook in notebooks:
        print(f"{notebook.stem} ...", flush=True)
        try:
            seconds = run_notebook(notebook, folder / "notebooks", parameters)
        except Exception as error:  # a failing cell, a kernel that died, a file that is no notebook
            print(f"{notebook.stem} failed: {type(error).__name__}: {error}", file=sys.stderr)
            failed.append(notebook.stem)
            continue
        print(f"{notebook.stem} {seconds:.1f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
