"""Where things lie: the one place that reads the environment's PDM_* folders.

A relative folder in the environment is the caller's: `python -m pdm.study.notebooks` resolves it where it was called
and hands it on in full (`resolved`), so that a notebook which runs elsewhere finds the same one.
"""

import os
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parents[1]  # the repository, where the package is installed from a checkout
IS_CHECKOUT = (ROOT / "pyproject.toml").is_file() and (ROOT / "src" / "pdm").is_dir()
HOME = ROOT if IS_CHECKOUT else Path.cwd()  # what is written goes here

SCALES = ("smoke", "pocket", "bench", "paper")

COMMITTED = ROOT / "data" if IS_CHECKOUT else PACKAGE / "_data"  # what the wheel carries
SPLITS = COMMITTED / "splits"
PRIORS = Path(os.environ.get("PDM_PRIORS") or COMMITTED / "priors")
CACHE = HOME / "data" / "cache"  # downloads, training checkpoints, the released networks


def resolved(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of the PDM_* folders that an environment names, as absolute paths."""
    names = ("PDM_DATA", "PDM_PRIORS", "PDM_IMAGES", "PDM_RESULTS")
    return {name: str(Path(environment[name]).expanduser().absolute()) for name in names if environment.get(name)}


def data_dir(root: str | Path | None = None) -> Path:
    """The folder of image sets: `root`, else the environment's PDM_DATA, else data/cache."""
    return Path(root or os.environ.get("PDM_DATA") or CACHE)


def results_dir(scale: str, results: str | Path | None = None) -> Path:
    """The folder `results/SCALE`, with `tables/` and `figures/` made in it.

    `results` is by default the environment's PDM_RESULTS, and that the folder `results` of the repository or, where the
    package is installed without one, of the working directory.
    Raises: ValueError for a scale that is not one of `SCALES`, or where a file stands in the folder's place.
    """
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}; the scales are {', '.join(SCALES)}")
    folder = Path(results or os.environ.get("PDM_RESULTS") or HOME / "results").resolve() / scale
    try:
        for part in ("tables", "figures"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{folder} cannot be made a folder: {error}") from error
    return folder
