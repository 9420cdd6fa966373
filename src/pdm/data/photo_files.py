"""A photo's file and what it holds besides pixels: read, and written again with another image in it."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pdm import checks
from pdm.paths import write_whole


@dataclass(frozen=True, eq=False)
class Photo:
    """What a file holds: `image` C H W in [-1, 1], C 1 if it is grey and 3 if it has colours, upright by its EXIF tag.

    `alpha` is H W uint8 where it is transparent in parts. `bits` a channel are 8 or 16, `icc` is its colour profile and
    `exif` its tags, both bytes or None.
    """

    image: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    icc: bytes | None = None
    exif: bytes | None = None


def read_photo(path: str | Path) -> Photo:
    """Read a photo of any format that Pillow reads, the first frame of several.

    Colours of 16 bits are read as 8, because Pillow has them so; grey keeps its 16. A palette, CMYK and others become
    RGB, and lose a profile that no longer fits. Raises: ValueError for a file that is missing, cut short or no photo.
    """
    path = checks.path("path", path)
    try:
        with Image.open(path) as opened:
            icc, own = opened.info.get("icc_profile"), opened.mode
            upright = ImageOps.exif_transpose(opened)  # which reads the pixels
            exif = upright.getexif().tobytes() if upright.getexif() else None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no photo that can be read: {error}") from error
    if upright.mode == "F":
        raise ValueError(f"{path} holds fractions without a range; wanted 8 or 16 bits a channel")
    if upright.mode.startswith("I"):
        values = np.array(upright).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"{path} holds {values.min()} to {values.max()}; wanted 8 or 16 bits a channel")
        return Photo(_model_range(values[None], 65535), None, 16, icc, exif)
    alpha = None
    if upright.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info:
        alpha = torch.from_numpy(np.array(upright.convert("RGBA").getchannel("A")))
    grey = upright.mode in ("1", "L", "LA", "La")
    pixels = np.array(upright.convert("L" if grey else "RGB"))
    kept = icc if own in ("L", "LA", "RGB", "RGBA") else None
    return Photo(_model_range(pixels[None] if grey else pixels.transpose(2, 0, 1), 255), alpha, 8, kept, exif)


def writes(path: str | Path, photo: Photo | None = None) -> str:
    """The format that a path's suffix stands for, such as "PNG".

    Raises: ValueError for a suffix that no format has or one that cannot hold the photo's transparency, and a place
    that is in no folder.
    """
    path = checks.path("path", path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise ValueError(f"path is {str(path)!r}; wanted a suffix that pictures are written by, such as .png or .jpg")
    if not next(folder for folder in path.absolute().parents if folder.exists()).is_dir():
        raise ValueError(f"path is {str(path)!r}, in what is no folder; wanted a file's place")
    if photo is not None and photo.alpha is not None and kind in ("JPEG", "BMP", "PPM"):
        raise ValueError(f"{kind} holds no transparency, which this photo has; wanted a path that ends in .png or .tif")
    return kind


def write_photo(path: str | Path, image: Tensor, photo: Photo | None = None, quality: int = 95) -> None:
    """Write an image, C H W in [-1, 1] give or take, with the transparency, bits, profile and tags of `photo`.

    The file is written whole or not at all. Sixteen bits are kept for grey in PNG and TIFF; JPEG has `quality`.
    Raises: ValueError as `writes`, and for an image of other than 1 or 3 channels or another size than the photo.
    """
    kind = writes(path, photo)
    checks.tensor("image", image, "C H W")
    quality, photo = checks.count("quality", quality, 1, 100), photo or Photo(image)
    if len(image) not in (1, 3) or image.shape[-2:] != photo.image.shape[-2:]:
        wanted = " x ".join(map(str, photo.image.shape[-2:]))
        raise ValueError(f"image has the shape {tuple(image.shape)}; wanted 1 or 3 channels of {wanted} pixels")
    deep = photo.bits == 16 and len(image) == 1 and photo.alpha is None and kind in ("PNG", "TIFF")
    most = 65535 if deep else 255
    values = ((image.detach().cpu().double().clamp(-1, 1) + 1) * most / 2).round().numpy()
    values = (values[0] if len(image) == 1 else values.transpose(1, 2, 0)).astype(np.uint16 if deep else np.uint8)
    picture = Image.fromarray(values)
    if photo.alpha is not None:
        picture.putalpha(Image.fromarray(photo.alpha.numpy()))
    more = {"icc_profile": photo.icc, "exif": photo.exif} | ({"quality": quality} if kind in ("JPEG", "WEBP") else {})
    file = io.BytesIO()
    picture.save(file, kind, **{name: value for name, value in more.items() if value is not None})
    write_whole(path, file.getvalue())


def _model_range(values: np.ndarray, most: int) -> Tensor:
    return torch.from_numpy(values.astype(np.float32) * (2 / most) - 1)
