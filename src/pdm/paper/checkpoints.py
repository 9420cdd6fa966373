"""The paper's own size: the released checkpoints, 256x256 images, and the settings of its tables as data.

`python -m pdm.paper.checkpoints FOLDER` checks the three released files and writes them, with cards, to
data/cache/paper; with PDM_PRIORS naming that folder, `load_prior` and all that stands on it takes them in place of
the small ones, and `pdm.paper.tables` makes the tables.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pdm import checks, data
from pdm.models import UNet, UNetConfig, load_adm, save_prior
from pdm.models.seeded import seeded
from pdm.paths import CACHE

FOLDER = CACHE / "paper"


@dataclass(frozen=True)
class Checkpoint:
    """A released file, the network in it, and what it was trained on."""

    file: str
    network: UNetConfig
    data: str


def _released(size: int, width: int, channels: int, multiples: tuple[int, ...]) -> UNetConfig:
    return UNetConfig(size, width, channels, 2 * channels, multiples, attention_resolution=16)


WHERE = "the releases of DPS (image) and BlindDPS (kernel, tilt), on their authors' pages"
CHECKPOINTS = {
    "image": Checkpoint("ffhq_10m.pt", _released(256, 128, 3, (1, 1, 2, 2, 4, 4)), "FFHQ, 256x256"),
    "kernel": Checkpoint("kernel_checkpoint.pt", _released(64, 64, 1, (1, 2, 3, 4)), "60,000 kernels, 64x64"),
    "tilt": Checkpoint("tilt_checkpoint.pt", _released(256, 64, 2, (1, 1, 2, 2, 4, 4)), "50,000 tilt fields, 256x256"),
}


@dataclass(frozen=True)
class Experiment:
    """A column of Tables 1 to 3: its images, what is done to them, and the settings of BlindDPS.

    `prior` is the released image network of that data set; AFHQ-dog's and ImageNet's are not among the three files.
    """

    dataset: str
    degradation: str
    count: int
    penalty: str | None
    weight: float
    strength: float  # of the kernel: intensity of motion, or the Gaussian's standard deviation in pixels
    kernel: int = 64
    sigma: float = 0.02
    step: float = 0.3  # constant, for every component
    prior: str | None = None

    @property
    def column(self) -> str:
        """The column's name: data set and degradation."""
        return f"{self.dataset}-{self.degradation}"


EXPERIMENTS = (
    Experiment("ffhq", "motion", 1000, "l1", 1.0, 0.5, prior="ffhq_10m.pt"),
    Experiment("ffhq", "gaussian", 1000, "l1", 1.0, 3.0, prior="ffhq_10m.pt"),
    Experiment("afhq_dog", "motion", 500, "l0", 5.0, 0.5),
    Experiment("afhq_dog", "gaussian", 500, "l0", 5.0, 3.0),
    Experiment("ffhq", "turbulence", 1000, None, 0.0, 4.0, prior="ffhq_10m.pt"),
    Experiment("imagenet", "turbulence", 1000, None, 0.0, 2.0),
)


def import_checkpoints(
    source: str | Path, folder: str | Path = FOLDER, checkpoints: Mapping[str, Checkpoint] = CHECKPOINTS
) -> list[Path]:
    """Check the released files in `source`, every name and shape; write each with a card to `folder`, in float32.

    Raises: FileNotFoundError for a file that is not there, which says where it is to be had; ValueError, which says
    what differs, for one that is not of the released network.
    """
    source, written = checks.path("source", source), []
    missing = [c.file for c in checkpoints.values() if not (source / c.file).is_file()]
    if missing:
        raise FileNotFoundError(f"{source} lacks {', '.join(missing)}; they come with {WHERE}")
    # All of them, before any is written.
    networks = {name: load_adm(source / c.file, c.network) for name, c in checkpoints.items()}
    for name, network in networks.items():
        released = checkpoints[name]
        card = {"data": released.data, "labels": [], "schedule": "linear, 1000 steps", "source": released.file}
        card |= {"terms": "as its authors released it", "velocity": None, "precision": "float32"}
        written.append(save_prior(name, network, card, folder, torch.float32))
    return written


def random_checkpoints(folder: str | Path, seed: int = 0) -> None:
    """Networks of the released shapes with random weights, as priors: to try the path, not to restore anything."""
    for name, released in CHECKPOINTS.items():
        with seeded(seed):
            network = UNet(released.network)
        card = {"data": "none: random weights", "labels": [], "terms": "none", "velocity": None, "precision": "float32"}
        save_prior(name, network, card, folder)


def images(experiment: Experiment, root: str | Path, count: int | None = None, size: int = 256) -> data.ImageSet:
    """The first `count` (by default the paper's number) photographs of `root`/DATASET, their centre squares averaged.

    Raises: ValueError for a folder that is missing or holds fewer.
    """
    count = experiment.count if count is None else checks.count("count", count)
    found = data.folder(Path(root) / experiment.dataset, size, count)
    if len(found) < count:
        raise ValueError(f"{Path(root) / experiment.dataset} holds {len(found)} images; wanted {count}")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Check the released checkpoints and write them as priors, with cards."""
    parser = argparse.ArgumentParser(prog="python -m pdm.paper.checkpoints", description=main.__doc__)
    parser.add_argument("checkpoints", type=Path, help=f"folder with the released files, from {WHERE}")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they go (default: data/cache/paper)")
    chosen = parser.parse_args(arguments)
    for path in import_checkpoints(chosen.checkpoints, chosen.folder):
        print(path)


if __name__ == "__main__":
    main()
