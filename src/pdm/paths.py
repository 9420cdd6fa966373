"""Where things lie: the one place that reads the environment's PDM_* folders, and how a file is written whole.

A relative folder in the environment is the caller's: `python -m pdm.study.notebooks` resolves it where it was called
and hands it on in full (`resolved`), so that a notebook which runs elsewhere finds the same one.
"""

import contextlib
import hashlib
import os
import platform
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parents[1]  # the repository, where the package is installed from a checkout
IS_CHECKOUT = (ROOT / "pyproject.toml").is_file() and (ROOT / "src" / "pdm").is_dir()
HOME = ROOT if IS_CHECKOUT else Path.cwd()  # what is written goes here

SCALES = ("smoke", "pocket", "bench", "paper")
FOLDERS = ("PDM_DATA", "PDM_PRIORS", "PDM_IMAGES", "PDM_RESULTS")


def resolved(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of the PDM_* folders that an environment names, as absolute paths."""
    return {name: str(Path(environment[name]).expanduser().absolute()) for name in FOLDERS if environment.get(name)}


COMMITTED = ROOT / "data" if IS_CHECKOUT else PACKAGE / "_data"  # what the wheel carries
SPLITS = COMMITTED / "splits"
PRIORS = Path(resolved(os.environ).get("PDM_PRIORS", COMMITTED / "priors"))
TRAINED = PRIORS if IS_CHECKOUT or os.environ.get("PDM_PRIORS") else HOME / "data" / "priors"  # what training writes
CACHE = HOME / "data" / "cache"  # downloads, training checkpoints, the released networks


def data_dir(root: str | Path | None = None) -> Path:
    """The folder of image sets: `root`, else the environment's PDM_DATA, else data/cache."""
    return Path(root or resolved(os.environ).get("PDM_DATA", CACHE))


def results_dir(scale: str, results: str | Path | None = None) -> Path:
    """The folder `results/SCALE`, with `tables/` and `figures/` made in it.

    `results` is by default the environment's PDM_RESULTS, and that the folder `results` of the repository or, where the
    package is installed without one, of the working directory.
    Raises: ValueError for a scale that is not one of `SCALES`, or where a file stands in the folder's place.
    """
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}; the scales are {', '.join(SCALES)}")
    folder = Path(results or resolved(os.environ).get("PDM_RESULTS", HOME / "results")).resolve() / scale
    try:
        for part in ("tables", "figures"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{folder} cannot be made a folder: {error}") from error
    return folder


def write_whole(path: str | Path, data: bytes | str) -> None:
    """Write a file whole or not at all, text as UTF-8, and make its folder where there is none.

    It is written beside, to a name that no other process, thread or call has, and takes its place at the end. A process
    that is killed meanwhile leaves the old file and an unfinished one, which `sweep` removes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.tmp")
    try:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sweep(folder: str | Path) -> None:
    """Remove the unfinished files in `folder`, at any depth, of processes of this machine that are no more."""
    ours = re.compile(rf"\..+\.{re.escape(platform.node())}-(\d+)-\w+\.tmp")
    if os.name == "nt":  # to ask for a process there is to end it
        return
    for path in Path(folder).rglob(".*.tmp"):
        if found := ours.fullmatch(path.name):
            try:
                os.kill(int(found[1]), 0)
            except ProcessLookupError:
                path.unlink(missing_ok=True)
            except PermissionError:  # it is there, and another user's
                pass


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Have `path` to oneself among the threads and processes of one user on this machine, for a `with` statement.

    The lock is a file in the folder for temporary ones, and falls with the process that holds it. Not reentrant.
    """
    folder = Path(tempfile.gettempdir()) / f"pdm-locks-{getattr(os, 'getuid', lambda: 'user')()}"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / f"{hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()[:32]}.lock"):
        yield
