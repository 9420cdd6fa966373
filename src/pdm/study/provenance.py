"""Where a table came from: commit, weights, packages and machine."""

import contextlib
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from pdm.models import best_device, best_precision
from pdm.paths import PRIORS, ROOT, write_whole

PACKAGES = ("parallel-diffusion", "torch", "torchvision", "numpy", "scipy", "pandas", "scikit-image", "lpips", "piq")
INPUTS = ("src", "notebooks", "data", "pyproject.toml")  # what a table depends on
REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # as a hook of some repository has them; not of ours


def commit() -> str:
    """The commit of this repository that is checked out, with "+" where code, notebooks or data differ from it.

    "unknown" without git, or where the folder is no repository of its own that tracks the package: sources that lie
    inside another repository have none of its commits.
    """
    try:
        top = Path(_git("rev-parse", "--show-toplevel").decode().strip())
        _git("ls-files", "--error-unmatch", "src/pdm/__init__.py")
        if top.resolve() != ROOT:
            return "unknown"
        head = _git("rev-parse", "HEAD").decode()
        return head[:12] + ("+" if _git("status", "--porcelain", "--", *INPUTS) else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def earlier(revision: str, name: str, folder: str | Path) -> Path:
    """Write the card and the weights that the prior `name` had at a commit of the history to `folder`, and return it.

    Raises: ValueError where the history does not hold them, as in a shallow clone or without git.
    """
    for kind in ("json", "safetensors"):
        path = f"{revision}:data/priors/{name}.{kind}"
        try:
            data = _git("show", path)
        except (OSError, subprocess.SubprocessError) as error:
            raise ValueError(f"no {path} in the history of {ROOT}; wanted a full clone") from error
        write_whole(Path(folder) / f"{name}.{kind}", data)
    return Path(folder)


def describe() -> dict:
    """A dict of plain values: commit, SHA-256 of the committed weights, Python, packages, machine and precision."""
    cards = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(PRIORS.glob("*.json"))}
    return {
        "commit": RUNNING,
        "weights": {name: card["sha256"] for name, card in cards.items()},
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": machine(),
        "precision": str(best_precision(best_device())).removeprefix("torch."),
    }


def machine() -> dict:
    """A dict of plain values: system, processor, its cores, and the names of its GPUs."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count(), "gpus": devices}


def here() -> dict:
    """A dict of the code's `commit` and the name of the `machine`'s GPU or, if it has none, its processor."""
    found = machine()
    return {"commit": RUNNING, "machine": (found["gpus"] or [found["processor"]])[0]}


def _git(*arguments: str) -> bytes:
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    own = {name: value for name, value in os.environ.items() if name not in REPOSITORY}
    return subprocess.run(command, check=True, capture_output=True, timeout=60, env=own).stdout


def _version(name: str) -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return "none"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


RUNNING = commit()  # when this module was imported: of the code that runs, whatever came after
