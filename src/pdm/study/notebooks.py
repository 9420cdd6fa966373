"""Run the notebooks in order, and say where their tables and figures go: `python -m pdm.study.notebooks --help`."""

import argparse
import os
import sys
import time
from pathlib import Path

from pdm import paths
from pdm.paths import ROOT, SCALES, results_dir


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
    parser = argparse.ArgumentParser(prog="python -m pdm.study.notebooks", description="Run the notebooks in order.")
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
    os.environ |= paths.resolved(os.environ)
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
