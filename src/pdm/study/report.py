"""Tables in README.md and results/bench/results.md, written from the committed CSVs: `python -m pdm.study.report`.

A table stands between two comments, the first of which names the CSV and its columns:

    <!-- table quickstart: image method psnr lpips -->
    <!-- end -->

`where column=value` after the name keeps the rows of one value: `<!-- table deblurring where dataset=faces: ... -->`.
"""

import argparse
import re
import sys
from pathlib import Path

import pandas as pd

from pdm.paths import ROOT, write_whole

FILES = (ROOT / "README.md", ROOT / "results" / "bench" / "results.md")
TABLES = ROOT / "results" / "bench" / "tables"
BLOCK = re.compile(r"(<!-- table (\w+)(?: where (\w+)=(\S+))?: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
FORMATS = {"psnr": "{:.2f}", "fd_vgg": "{:.2f}", "kernel_mse": "{:.2e}"}
FORMATS |= {"seconds": "{:.0f}", "seconds_per_image": "{:.0f}"}


def rendered(text: str, tables: str | Path = TABLES) -> str:
    """Return a Markdown text with every table in it as the CSVs in the folder `tables` have it.

    Raises: ValueError for a table, column or value that is not there.
    """

    def block(found):
        head, name, column, value, columns, end = found.groups()
        return head + "\n" + markdown(Path(tables) / f"{name}.csv", columns.split(), column, value) + "\n" + end

    return BLOCK.sub(block, text)


def markdown(path: Path, columns: list[str], where: str | None = None, value: str | None = None) -> str:
    """Return columns of a CSV as a Markdown table; with `where`, of the rows that have `value` in that column.

    Numbers have three digits after the point, columns of whole ones none, those of `FORMATS` their own; small ones have
    an exponent, NaN is left empty, and what is true or false is yes or no.
    Raises: ValueError for a table, column or value that is not there.
    """
    if not path.is_file():
        raise ValueError(f"no table {path.stem!r} in {path.parent}")
    frame = pd.read_csv(path)
    if missing := sorted({*columns, *([where] if where else [])} - set(frame)):
        raise ValueError(f"the table {path.stem!r} has no column {', '.join(missing)}; it has {', '.join(frame)}")
    frame = frame if where is None else frame[frame[where].astype(str) == value]
    if frame.empty:
        raise ValueError(f"the table {path.stem!r} has no row with {where} {value!r}")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    cells = [[_cell(column, value, _is_whole(frame[column])) for value in frame[column]] for column in columns]
    lines += ["| " + " | ".join(row) + " |" for row in zip(*cells, strict=True)]
    return "\n".join(lines) + "\n"


def _is_whole(values):
    return values.dtype.kind in "iuf" and bool((values.dropna() % 1 == 0).all())


def _cell(column, value, whole):
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return f"`{value}`" if column in ("method", "setting") else value
    if value != value:  # NaN
        return ""
    plain = "{:.0f}" if whole else "{:.3f}" if value == 0 or abs(value) >= 0.01 else "{:.2e}"
    return FORMATS.get(column, plain).format(value)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 where a text or a table is missing."""
    about = "Write the tables of README.md and results/bench/results.md again, from the committed CSVs."
    argparse.ArgumentParser(prog="python -m pdm.study.report", description=about).parse_args(arguments)
    for path in FILES:
        try:
            text = path.read_text(encoding="utf-8")
            new = rendered(text)
        except (OSError, ValueError) as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            return 2
        if new != text:
            write_whole(path, new)
            print(f"{path} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
