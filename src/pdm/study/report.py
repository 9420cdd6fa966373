"""Tables in README.md and results/bench/results.md, written from the committed CSVs: `python -m pdm.study.report`.

A table stands between two comments, the first of which names the CSV and its columns:

    <!-- table quickstart: image method psnr lpips -->
    <!-- end -->

`where column=value` after the name keeps the rows of one value: `<!-- table deblurring where dataset=faces: ... -->`.
"""

import argparse
import os
import re
from pathlib import Path

from pdm.paths import ROOT

FILES = (ROOT / "README.md", ROOT / "results" / "bench" / "results.md")
TABLES = ROOT / "results" / "bench" / "tables"
BLOCK = re.compile(r"(<!-- table (\w+)(?: where (\w+)=(\S+))?: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
FORMATS = {
    "psnr": "{:.2f}",
    "fd_vgg": "{:.2f}",
    "kernel_mse": "{:.2e}",
    "seconds": "{:.0f}",
    "seconds_per_image": "{:.0f}",
}


def rendered(text, tables=TABLES):
    """Return a Markdown text with every table in it as the CSVs in the folder `tables` have it.

    Raises ValueError for a table, column or value that is not there.
    """

    def block(found):
        head, name, column, value, columns, end = found.groups()
        return head + "\n" + markdown(Path(tables) / f"{name}.csv", columns.split(), column, value) + "\n" + end

    return BLOCK.sub(block, text)


def markdown(path, columns, where=None, value=None):
    """Return columns of a CSV as a Markdown table; with `where`, of the rows that have `value` in that column.

    Numbers have three digits after the point, columns of whole ones none, those of `FORMATS` their own; small ones have
    an exponent, NaN is left empty, and what is true or false is yes or no.
    Raises ValueError for a table, column or value that is not there.
    """
    import pandas as pd

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


def main(arguments=None):
    """Write the tables of README.md and results/bench/results.md anew."""
    argparse.ArgumentParser(prog="python -m pdm.study.report", description=main.__doc__).parse_args(arguments)
    for path in FILES:
        text = path.read_text()
        if (new := rendered(text)) != text:
            partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            partial.write_text(new)
            os.replace(partial, path)
            print(f"{path.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
