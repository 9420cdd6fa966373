"""Where a table came from: commit, weights, packages and machine."""

import contextlib
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from pdm.paths import ROOT

PACKAGES = ("parallel-diffusion", "torch", "torchvision", "numpy", "scipy", "pandas", "scikit-image", "lpips", "piq")
INPUTS = ("src", "notebooks", "data", "pyproject.toml")  # what a table depends on


def commit(repository=ROOT):
    """The commit that is checked out, with "+" where code, notebooks or data differ from it; "unknown" without git."""
    try:
        head = _git(repository, "rev-parse", "HEAD")
        return head[:12] + ("+" if _git(repository, "status", "--porcelain", "--", *INPUTS) else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def running():
    """`commit` of this repository when this module was imported: of the code that runs, whatever came after."""
    return _AT_IMPORT


def earlier(revision, name, folder, repository=ROOT):
    """Write the card and the weights that the prior `name` had at a commit of the history to `folder`, and return it.

    Raises ValueError where the history does not hold them, as in a shallow clone or without git.
    """
    for kind in ("json", "safetensors"):
        path = f"{revision}:data/priors/{name}.{kind}"
        command = ["git", "-C", str(repository), "show", path]
        try:
            data = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
        except (OSError, subprocess.SubprocessError) as error:
            raise ValueError(f"no {path} in the history of {repository}; wanted a full clone") from error
        (Path(folder) / f"{name}.{kind}").write_bytes(data)
    return Path(folder)


def describe():
    """A dict of plain values: commit, SHA-256 of the committed weights, Python, packages, machine and precision."""
    from pdm.models import best_device, best_precision
    from pdm.paths import PRIORS

    cards = {path.stem: json.loads(path.read_text()) for path in sorted(PRIORS.glob("*.json"))}
    return {
        "commit": running(),
        "weights": {name: card["sha256"] for name, card in cards.items()},
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": machine(),
        "precision": str(best_precision(best_device())).removeprefix("torch."),
    }


def machine():
    """A dict of plain values: system, processor, its cores, and the names of its GPUs."""
    import torch  # here, for the command line of `reproduce` should start at once

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count(), "gpus": devices}


def here():
    """A dict of the code's `commit` and the name of the `machine`'s GPU or, if it has none, its processor."""
    found = machine()
    return {"commit": running(), "machine": (found["gpus"] or [found["processor"]])[0]}


def _git(repository, *arguments):
    command = ["git", "--no-optional-locks", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _processor():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


_AT_IMPORT = commit(ROOT)
