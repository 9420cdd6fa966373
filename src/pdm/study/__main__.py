"""The public benchmarks: `python -m pdm.study levin FOLDER` and `python -m pdm.study lai FOLDER`."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from pdm.paths import SCALES
from pdm.study import benchmarks
from pdm.study.benchmark_methods import METHODS, row, table
from pdm.study.tables import write_table

READERS = {"levin": (benchmarks.levin, benchmarks.LEVIN), "lai": (benchmarks.lai, benchmarks.LAI)}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 2 for a folder that holds no benchmark."""
    about = "Score methods by a benchmark's published protocol; the table goes to results/SCALE/tables."
    parser = argparse.ArgumentParser(prog="python -m pdm.study", description=about)
    parser.add_argument("benchmark", choices=sorted(READERS))
    parser.add_argument("folder", type=Path, help="with levin.npz or the authors' im05_flit01.mat, or lai.zip")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--cases", type=int, help="the first so many only; no table is written")
    parser.add_argument("--scale", choices=SCALES, default="bench")
    parser.add_argument("--go-on", action="store_true", help="take what results/SCALE/records holds")
    chosen = parser.parse_args(arguments)
    read, protocol = READERS[chosen.benchmark]
    try:
        cases = list(read(chosen.folder))[: chosen.cases]
    except ValueError as error:
        parser.error(str(error))
    names = list(dict.fromkeys(["blurred", "known_kernel", *chosen.methods]))
    with _going_on(chosen.go_on):
        rows = {name: [row(name, case, protocol, chosen.scale) for case in tqdm(cases, desc=name)] for name in names}
    found = table(rows, groups=chosen.benchmark == "lai")
    if chosen.cases is None:
        print(write_table(found, chosen.benchmark, chosen.scale))
    print(found.drop(columns=["commits", "machines"]).round(3).to_string(index=False))
    return 0


@contextmanager
def _going_on(wanted: bool) -> Iterator[None]:
    """Have records taken up, as `cache.recorded` is told by the environment, and leave that as it was."""
    before = os.environ.get("PDM_GO_ON")
    if wanted:
        os.environ["PDM_GO_ON"] = "1"
    try:
        yield
    finally:
        if wanted:
            os.environ.pop("PDM_GO_ON")
        if before is not None:
            os.environ["PDM_GO_ON"] = before


if __name__ == "__main__":
    sys.exit(main())
