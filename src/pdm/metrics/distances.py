"""How far two sets of samples lie apart: Frechet distance and KID, nearest neighbours, tests of statistics."""

from collections.abc import Mapping

import pandas as pd
import torch
import torch.nn.functional as F
from piq.feature_extractors import InceptionV3
from scipy.stats import ks_2samp
from torch import Tensor

from pdm.metrics import vgg16_features

__all__ = [
    "features",
    "frechet_distance",
    "inception_features",
    "kernel_distance",
    "kernel_statistics",
    "nearest",
    "tilt_statistics",
    "two_sample_test",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
def features(images: Tensor, batch: int = 50) -> Tensor:
    """What VGG16 sees in each image, its last feature maps averaged over the picture: N 3 H W in [-1, 1] to N 512.

    Float64, on the CPU. Images are clamped to [-1, 1] first. A Frechet distance on these is not the FID of the
    literature, which takes the Inception network at 299 pixels and tens of thousands of images.
    Raises: ValueError unless there are colour images of 32 pixels or more, finite.
    """
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 32 or len(images) < 1:
        raise ValueError(f"images have the shape {tuple(images.shape)}; wanted N 3 H W, of 32 pixels or more")
    if not images.isfinite().all():
        raise ValueError("the images hold NaN or Inf; wanted finite values")
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    network = vgg16_features()
    parts = [network(((x.cpu().float().clamp(-1, 1) + 1) / 2 - mean) / std) for x in images.split(batch)]
    return torch.cat([part.mean((2, 3)) for part in parts]).double()


@torch.no_grad()
def inception_features(images: Tensor, batch: int = 50, device: torch.device | str = "cpu") -> Tensor:
    """What the Inception network of the literature's FID sees: N 3 H W in [-1, 1] to N 2048, float64, on the CPU.

    By piq, which downloads the weights; images are clamped to [-1, 1] and scaled to 299 pixels. `frechet_distance` of
    these is the FID, which wants thousands of images. Raises: ValueError for other shapes or values not finite.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.isfinite().all():
        raise ValueError(f"images of shape {tuple(images.shape)}; wanted N 3 H W, finite")
    network = InceptionV3().to(device).eval()
    parts = [network((x.to(device).float().clamp(-1, 1) + 1) / 2)[0] for x in images.split(batch)]
    return torch.cat([part.flatten(1).cpu() for part in parts]).double()


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Frechet distance of two Gaussians with the means and covariances of two sets of features, N d and M d.

    |mean difference|^2 + tr(A + B - 2 (A B)^1/2). The trace of the root is the sum of the singular values of the
    centred sets' products, X Y^T / sqrt((N - 1)(M - 1)), which holds where there are fewer samples than features too;
    the iteration of piq does not converge there. Fewer samples give a larger distance: compare equal numbers.
    Raises: ValueError unless both are finite, of one d and have two rows or more.
    Source: Heusel et al. 2017.
    """
    x, y = _check_features(x, y)
    centred = [(v - v.mean(0)) / (len(v) - 1) ** 0.5 for v in (x, y)]
    small = [torch.linalg.qr(v, mode="r").R for v in centred]  # X = Q R, and Q does not change singular values
    spread = sum(v.square().sum() for v in centred) - 2 * torch.linalg.svdvals(small[0] @ small[1].T).sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + spread).item()


def kernel_distance(x: Tensor, y: Tensor, paired: bool = False) -> float:
    """KID, the unbiased squared maximum mean discrepancy for the kernel (x.y / d + 1)^3.

    `paired` says that row i of both is of one picture, as an estimate and its truth are: no two independent draws, so
    that such pairs are left out between the sets as they are within each; with them a perfect estimate is below 0.
    Raises: as `frechet_distance`, and for paired sets of unequal size.
    Source: Binkowski et al. 2018, with the constants of piq; Gretton et al. 2012, lemma 6 and eq. 4.
    """
    x, y = _check_features(x, y)
    if paired and len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} features; wanted pairs")

    def mean(a: Tensor, b: Tensor, without_pairs: bool) -> Tensor:
        values = (a @ b.T / a.shape[1] + 1) ** 3
        if without_pairs:
            return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))
        return values.mean()

    return (mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, paired)).item()


def _check_features(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    for v in (x, y):
        if v.ndim != 2 or len(v) < 2 or not v.isfinite().all():
            raise ValueError(f"features have the shape {tuple(v.shape)}; wanted N d, N 2 or more, finite")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape[1]} and of {y.shape[1]} dimensions; wanted one number")
    return x.double(), y.double()


def nearest(samples: Tensor, train: Tensor, test: Tensor) -> dict[str, float]:
    """Whether samples of a prior are copies of what it was trained on, by their nearest images: N C H W each.

    Distances are root mean squares over pixels averaged 2 to 1, the less of the image and its mirror image.
    Returns: `share` of the samples with a training image nearer than any test image, and `share_se`, its standard
    error; `chance`, that share if all images were independent draws from one distribution of which the prior knew no
    member; `to_train` and `test_to_train`, the median distances of samples and of test images to their nearest training
    image; `ratio` and `test_ratio`, of the distances to the nearest and to the second nearest training image, their
    first percentile: a copy has a ratio near 0 whatever else is in the sets. (Smooth samples lie nearer to everything,
    so that distances alone tell little, and `share` rises by 1 - `chance` of the copies only.)
    Raises: ValueError for sets of unlike shapes or with no image, or one training image, in them.
    """
    sets = {"samples": samples, "train": train, "test": test}
    for name, images in sets.items():
        if images.ndim != 4 or images.shape[1:] != samples.shape[1:] or len(images) < (2 if name == "train" else 1):
            raise ValueError(f"{name} have the shape {tuple(images.shape)}; wanted N {tuple(samples.shape[1:])}")
    small = {name: F.avg_pool2d(images.float(), 2) for name, images in sets.items()}

    def least(one: str, other: str, count: int) -> Tensor:
        pool = [v.flatten(1) for v in (small[other], small[other].flip(-1))]
        parts = small[one].flatten(1).split(200)
        rows = [torch.minimum(*(torch.cdist(p, v) for v in pool)).topk(count, largest=False).values for p in parts]
        return torch.cat(rows) / pool[0].shape[1] ** 0.5

    found = {name: least(name, "train", 2) for name in ("samples", "test")}
    share = (found["samples"][:, 0] < least("samples", "test", 1)[:, 0]).double().mean().item()
    row = {"share": share, "share_se": (share * (1 - share) / len(samples)) ** 0.5}
    row |= {"chance": len(train) / (len(train) + len(test))}
    for name, prefix in (("samples", ""), ("test", "test_")):
        row[f"{prefix}to_train"] = found[name][:, 0].median().item()
        row[f"{prefix}ratio"] = (found[name][:, 0] / found[name][:, 1].clamp(min=1e-12)).quantile(0.01).item()
    return row


def kernel_statistics(kernels: Tensor) -> pd.DataFrame:
    """Figures that a kernel can be told by: N 1 h w, nonnegative, taken to sum 1; a row each.

    `support`: pixels above a hundredth of the largest; `spread`: root mean square distance from the centre of mass,
    in pixels; `total_variation`; `peak`: the largest value; `fine_power`: the share of the power spectrum, its mean
    left out, above half the Nyquist frequency. Raises: ValueError for kernels that are negative or nowhere above 0.
    """
    if (
        kernels.ndim != 4
        or kernels.shape[1] != 1
        or not (kernels >= 0).all()
        or not (kernels.amax((1, 2, 3)) > 0).all()
    ):
        raise ValueError(f"kernels of shape {tuple(kernels.shape)}; wanted N 1 h w, nonnegative and not all 0")
    k = kernels[:, 0].double()
    k = k / k.sum((1, 2), keepdim=True)
    places = [
        torch.arange(n, dtype=torch.float64).reshape(shape)
        for n, shape in zip(k.shape[1:], ((-1, 1), (1, -1)), strict=True)
    ]
    variance = sum((k * p**2).sum((1, 2)) - (k * p).sum((1, 2)) ** 2 for p in places)
    rows = {
        "support": (k > 0.01 * k.amax((1, 2), keepdim=True)).double().sum((1, 2)),
        "spread": variance.clamp(min=0).sqrt(),
        "total_variation": _total_variation(k),
        "peak": k.amax((1, 2)),
        "fine_power": _fine_power(k),
    }
    return _frame(rows)


def tilt_statistics(fields: Tensor) -> pd.DataFrame:
    """Figures that a tilt field can be told by: N 2 h w in pixels; a row each.

    `rms`, in pixels; `correlation_length`: the lag in pixels at which the correlation has fallen to 1/e, if it falls
    as a Gaussian from what it is at one pixel; `total_variation`, a pixel; `largest` displacement along an axis;
    `fine_power`: as for kernels. Raises: ValueError for another shape.
    """
    if fields.ndim != 4 or fields.shape[1] != 2:
        raise ValueError(f"fields have the shape {tuple(fields.shape)}; wanted N 2 h w")
    f = fields.double()
    power = f.square().mean((1, 2, 3))
    pairs = ((f[..., 1:], f[..., :-1]), (f[..., 1:, :], f[..., :-1, :]))
    correlation = sum((a * b).mean((1, 2, 3)) for a, b in pairs) / 2 / power
    rows = {
        "rms": power.sqrt(),
        "correlation_length": (-1 / correlation.clamp(1e-3, 1 - 1e-6).log()).sqrt(),
        "total_variation": sum(_total_variation(f[:, i]) for i in (0, 1)) / f[0].numel(),
        "largest": f.abs().amax((1, 2, 3)),
        "fine_power": (_fine_power(f[:, 0]) + _fine_power(f[:, 1])) / 2,
    }
    return _frame(rows)


def two_sample_test(samples: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Kolmogorov and Smirnov's test of each column: rows statistic, both means, the distance `ks` and its `p`.

    `ks` is the largest gap between the two distribution functions; a small `p` says that it is not chance.
    Raises: ValueError for unlike columns.
    """
    if list(samples) != list(reference):
        raise ValueError(f"columns {list(samples)} and {list(reference)}; wanted the same")
    rows = []
    for name in samples:
        test = ks_2samp(samples[name], reference[name])
        means: Mapping[str, float] = {"samples": samples[name].mean(), "generator": reference[name].mean()}
        rows.append({"statistic": name, **means, "ks": test.statistic, "p": test.pvalue})
    return pd.DataFrame(rows)


def _total_variation(x: Tensor) -> Tensor:
    """N h w to N: the sum of absolute differences of neighbours."""
    return x.diff(dim=1).abs().sum((1, 2)) + x.diff(dim=2).abs().sum((1, 2))


def _fine_power(x: Tensor) -> Tensor:
    """N h w to N: the share of the power, the mean left out, at frequencies above half of Nyquist's on an axis."""
    power = torch.fft.fft2(x - x.mean((1, 2), keepdim=True)).abs().square()
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64).abs() for n in x.shape[1:])
    fine = torch.maximum(rows[:, None], columns[None]) > 0.25
    return (power * fine).sum((1, 2)) / power.sum((1, 2)).clamp(min=1e-300)


def _frame(rows: Mapping[str, Tensor]) -> pd.DataFrame:
    return pd.DataFrame({name: value.numpy() for name, value in rows.items()})
