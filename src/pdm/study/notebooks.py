"""Run the notebooks in order, and say where their tables and figures go: `python -m pdm.study.notebooks --help`."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pdm.openmp import SPINS
from pdm.paths import HOME, SCALES, resolved, results_dir, sweep, write_whole


def select_notebooks(folder: str | Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks `NN_*.ipynb` of a folder in their order: those named, or all.

    A name may come with or without `.ipynb`. Raises: ValueError for a name that is not there.
    """
    found = {path.stem: path for path in sorted(Path(folder).resolve().glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise ValueError(f"no notebook NN_*.ipynb in {folder}")
    wanted = {Path(name).name.removesuffix(".ipynb") for name in names}
    if unknown := sorted(wanted - set(found)):
        raise ValueError(f"unknown notebook {', '.join(unknown)}; the notebooks are {', '.join(found)}")
    return [path for stem, path in found.items() if not wanted or stem in wanted]


def run_notebook(notebook: str | Path, folder: str | Path, parameters: Mapping[str, object]) -> float:
    """Execute one notebook in its own folder, write the executed copy to `folder`, and return the seconds.

    A run that fails raises what papermill raises and leaves what it got to as `NAME.failed.ipynb`.
    """
    import papermill  # here, so that a wrong argument is answered at once

    notebook, folder = Path(notebook).resolve(), Path(folder).resolve()
    failed = folder / f"{notebook.stem}.failed.ipynb"
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as elsewhere:  # of this run alone, for another may execute the same notebook
        partial = Path(elsewhere) / notebook.name
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
                write_whole(failed, partial.read_bytes())
            raise
        write_whole(folder / notebook.name, partial.read_bytes())
    failed.unlink(missing_ok=True)
    return time.perf_counter() - begin


def _plain(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")  # papermill formats its paths


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 if a notebook failed, 2 for a bad argument.

    A notebook that fails does not keep the others from running.
    """
    parser = argparse.ArgumentParser(prog="python -m pdm.study.notebooks", description="Run the notebooks in order.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks to run, by default all of them")
    parser.add_argument("--scale", default="pocket", help=f"{', '.join(SCALES)} (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="overrides the notebooks' own SEED")
    parser.add_argument("--notebooks-dir", default=HOME / "notebooks", help="default: notebooks/")
    parser.add_argument("--results", help="default: the environment's PDM_RESULTS, else results/")
    parser.add_argument("--go-on", action="store_true", help="take the records of results/SCALE/records, where it can")
    parser.add_argument("--pictures", action="store_true", help="regenerate figures that want methods run again, too")
    options = parser.parse_args(arguments)
    try:
        notebooks = select_notebooks(options.notebooks_dir, options.names)
        folder = results_dir(options.scale, options.results)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sweep(folder)  # what runs that were killed left unfinished
    os.environ |= resolved(os.environ) | {"PDM_RESULTS": str(folder.parent)}  # the kernels inherit it, elsewhere
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    for name, chosen in (("PDM_GO_ON", options.go_on), ("PDM_PICTURES", options.pictures)):
        os.environ |= {name: "1"} if chosen else {}
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
