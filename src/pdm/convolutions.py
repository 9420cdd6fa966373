"""k * x as a linear map of the image and as one of the kernel, with exact adjoints; what their arguments must be."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from pdm import checks

BOUNDARIES = ("circular", "reflect", "zero", "valid")


class Convolution:
    """x -> k * x as `operators.blur`, for one kernel each, B 1 h w, with its exact adjoint.

    `size` is the image's, H W; with the boundary "valid" the measurement is smaller, H-h+1 W-w+1.
    Raises: ValueError for other shapes or dtypes, an unknown boundary, or a kernel that is too large for it: than the
    image with "valid" and "reflect", than two of them with "circular". NaN in x gives NaN.
    """

    def __init__(self, kernel: Tensor, size: Sequence[int], boundary: str = "reflect") -> None:
        (self.kernel,) = fitting("kernel B 1 h w", kernel)
        self.size, self.canvas, self.boundary = pixels("size", size), pixels("kernel", kernel.shape[-2:]), boundary
        self.sides = _sides(self.canvas, self.size, boundary)
        self.frame = [n + p + q for n, (p, q) in zip(self.size, self.sides, strict=True)]
        self.shape = [next_fast_len(n, real=True) for n in self.frame]
        self.spectrum = torch.fft.rfft2(self.kernel, s=self.shape)

    def __call__(self, x: Tensor) -> Tensor:
        _, x = fitting(f"kernel B 1 h w, x B C {self.size[0]} {self.size[1]}", self.kernel, x, finite=False)
        spectrum = torch.fft.rfft2(_pad(x, self.sides, self.boundary), s=self.shape)
        return _valid(torch.fft.irfft2(spectrum * self.spectrum, s=self.shape), self.frame, self.canvas)

    def adjoint(self, u: Tensor) -> Tensor:
        """What makes <A x, u> = <x, adjoint(u)> for all x: B C H W of what a measurement's shape has."""
        height, width = _measured(self.frame, self.canvas)
        _, u = fitting(f"kernel B 1 h w, u B C {height} {width}", self.kernel, u, finite=False)
        spectrum = torch.fft.rfft2(_embed(u, self.shape, self.canvas)) * self.spectrum.conj()
        whole = torch.fft.irfft2(spectrum, s=self.shape)[..., : self.frame[0], : self.frame[1]]
        return _unpad(whole, self.sides, self.boundary, self.size)


class KernelConvolution:
    """k -> k * x for one image each, B C H W: the same product, linear in the kernel on a canvas h w.

    Raises: as `Convolution`.
    """

    def __init__(self, image: Tensor, canvas: Sequence[int], boundary: str = "reflect") -> None:
        (self.image,) = fitting("image B C H W", image)
        self.canvas = pixels("canvas", canvas)
        sides = _sides(self.canvas, pixels("image", image.shape[-2:]), boundary)
        padded = _pad(self.image, sides, boundary)
        self.frame = list(padded.shape[-2:])
        self.shape = [next_fast_len(n, real=True) for n in self.frame]
        self.spectrum = torch.fft.rfft2(padded, s=self.shape)

    def __call__(self, kernel: Tensor) -> Tensor:
        h, w = self.canvas
        _, kernel = fitting(f"image B C H W, kernel B 1 {h} {w}", self.image, kernel, finite=False)
        spectrum = torch.fft.rfft2(kernel, s=self.shape) * self.spectrum
        return _valid(torch.fft.irfft2(spectrum, s=self.shape), self.frame, self.canvas)

    def adjoint(self, u: Tensor) -> Tensor:
        """B 1 h w of B C and what a measurement's size is."""
        height, width = _measured(self.frame, self.canvas)
        _, u = fitting(f"image B C H W, u B C {height} {width}", self.image, u, finite=False)
        spectrum = (torch.fft.rfft2(_embed(u, self.shape, self.canvas)) * self.spectrum.conj()).sum(1, keepdim=True)
        return torch.fft.irfft2(spectrum, s=self.shape)[..., : self.canvas[0], : self.canvas[1]]


def continued(y: Tensor, canvas: Sequence[int], boundary: str) -> Tensor:
    """What is seen, B C H W, as large as the image that a kernel h w makes it of: y itself but for "valid".

    There the image reaches beyond what is seen, and y is continued by its mirror image.
    Raises: ValueError as `Convolution`.
    """
    (y,), canvas = fitting("y B C H W", y), pixels("canvas", canvas)
    sides = _sides(canvas, pixels("y", y.shape[-2:]), "reflect" if boundary == "valid" else boundary)
    return _pad(y, sides, "reflect") if boundary == "valid" else y


def fitting(shapes: str, *values: Tensor, boundary: str | None = None, finite: bool = True) -> list[Tensor]:
    """Tensors that fit one another, as autograd can save them: "x B C H W, error C H V" binds a size to each letter.

    B, the number of samples, is one number or 1, and may stand before three other letters. With a `boundary`, Y X is
    what an image H W gives with a kernel h w; hw is h times w. H V and Y U, with V = W // 2 + 1 and U = X // 2 + 1, are
    the half planes of power spectra, whose values are above 0. H W and H V are 2 or more.
    Raises: ValueError for what does not fit, or dtypes other than one, float32 or float64.
    """
    if boundary is not None:
        checks.choice("boundary", boundary, BOUNDARIES)
    sizes: dict[str, int] = {}
    samples, kinds = {}, {}
    for (name, *letters), value in zip(map(str.split, shapes.split(", ")), values, strict=True):
        if len(letters) == 3 and isinstance(value, Tensor) and value.dim() == 4:
            letters = ["B", *letters]
        shape = " ".join(str(sizes.get(letter, letter)) for letter in letters)
        checks.tensor(name, value, shape, 2 if letters[-1] in ("W", "V") else 1, finite)
        if letters[-1] in ("V", "U") and value.min() <= 0:
            raise ValueError(f"{name} has the minimum {value.min():g}; wanted a power spectrum, above 0")
        kinds[name] = f"{value.dtype} on {value.device}"
        if letters[0] == "B":
            samples[name] = len(value)
        sizes |= {letter: n for letter, n in zip(letters, value.shape, strict=True) if letter != "B"}
        if letters[-1] == "W":
            sizes["V"] = sizes["W"] // 2 + 1
        if letters[-1] == "w":
            sizes["hw"] = sizes["h"] * sizes["w"]
        if boundary is not None and {"W", "w"} <= sizes.keys() and "Y" not in sizes:
            size, canvas = (sizes["H"], sizes["W"]), (sizes["h"], sizes["w"])
            frame = [n + sum(side) for n, side in zip(size, _sides(canvas, size, boundary), strict=True)]
            sizes["Y"], sizes["X"] = _measured(frame, canvas)
            sizes["U"] = sizes["X"] // 2 + 1
    if len(set(kinds.values())) > 1 or not all("float32" in kind or "float64" in kind for kind in kinds.values()):
        raise ValueError(f"dtypes are {kinds}; wanted one, float32 or float64, and one device")
    if len(set(samples.values()) - {1}) > 1:
        raise ValueError(f"samples are {samples}; wanted as many everywhere, or one for all")
    return [checks.for_autograd(value) for value in values]


def pixels(name: str, value: Sequence[int]) -> tuple[int, int]:
    """A size: height and width in whole pixels. Raises: ValueError for anything else."""
    try:
        pair = tuple(checks.count(name, n) for n in value)
    except (TypeError, ValueError):
        pair = ()
    if len(pair) != 2:
        raise ValueError(f"{name} is {value!r}; wanted (height, width) in whole pixels, 1 or more")
    return pair


def _sides(canvas: tuple[int, int], size: tuple[int, int], boundary: str) -> list[tuple[int, int]]:
    """What an image is padded by, before and after, along rows and columns; ValueError for too large a canvas."""
    checks.choice("boundary", boundary, BOUNDARIES)
    times = {"zero": math.inf, "circular": 2}.get(boundary, 1)
    if canvas[0] > times * size[0] or canvas[1] > times * size[1]:
        wanted = f"at most {times} x the image's sides with the boundary {boundary!r}"
        raise ValueError(f"the kernel's canvas is {canvas} for an image of {size}; wanted {wanted}")
    return [(0, 0) if boundary == "valid" else (n - 1 - n // 2, n // 2) for n in canvas]


def _measured(frame: Sequence[int], canvas: tuple[int, int]) -> tuple[int, int]:
    return frame[0] - canvas[0] + 1, frame[1] - canvas[1] + 1


def _pad(x: Tensor, sides: list[tuple[int, int]], boundary: str) -> Tensor:
    if boundary == "valid":
        return x
    mode = {"zero": "constant"}.get(boundary, boundary)
    return F.pad(x, [*sides[1], *sides[0]], mode=mode)


def _unpad(x: Tensor, sides: list[tuple[int, int]], boundary: str, size: tuple[int, int]) -> Tensor:
    """The adjoint of `_pad`: what was copied beyond the frame is added to where it came from."""
    if boundary in ("valid", "zero"):
        (top, _), (left, _) = sides
        return x[..., top : top + size[0], left : left + size[1]]
    for dim, n, side in ((-2, size[0], sides[0]), (-1, size[1], sides[1])):
        row = torch.arange(n, dtype=torch.float64, device="cpu")[None, None]
        place = F.pad(row, side, mode=boundary)[0, 0].long().to(x.device)
        shape = list(x.shape)
        shape[dim] = n
        x = x.new_zeros(shape).index_add(dim, place, x)
    return x


def _valid(x: Tensor, frame: list[int], canvas: tuple[int, int]) -> Tensor:
    return x[..., canvas[0] - 1 : frame[0], canvas[1] - 1 : frame[1]]


def _embed(u: Tensor, shape: list[int], canvas: tuple[int, int]) -> Tensor:
    top, left = canvas[0] - 1, canvas[1] - 1
    return F.pad(u, (left, shape[1] - left - u.shape[-1], top, shape[0] - top - u.shape[-2]))
