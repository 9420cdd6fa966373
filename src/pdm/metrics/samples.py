"""What samples of a prior are like: copies of the training set or not, statistics of kernels and tilts."""

import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import ks_2samp
from torch import Tensor

from pdm import checks


@torch.no_grad()
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
        checks.tensor(name, images, "N C H W", least=2)
        if images.shape[1:] != samples.shape[1:] or len(images) < (2 if name == "train" else 1):
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


@torch.no_grad()
def kernel_statistics(kernels: Tensor) -> pd.DataFrame:
    """Figures that a kernel can be told by: N 1 h w, nonnegative, taken to sum 1; a row each.

    `support`: pixels above a hundredth of the largest; `spread`: root mean square distance from the centre of mass,
    in pixels; `total_variation`; `peak`: the largest value; `fine_power`: the share of the power spectrum, its mean
    left out, above half the Nyquist frequency. Raises: ValueError for kernels that are negative or nowhere above 0.
    """
    if not (checks.tensor("kernels", kernels, "N 1 h w") >= 0).all() or not (kernels.amax((1, 2, 3)) > 0).all():
        raise ValueError("kernels are negative or 0 everywhere; wanted N 1 h w, nonnegative and not all 0")
    k = kernels[:, 0].cpu().double()
    k = k / k.sum((1, 2), keepdim=True)
    variance = torch.zeros(len(k), dtype=torch.float64, device="cpu")
    for marginal in (k.sum(2), k.sum(1)):  # along rows, along columns
        place = torch.arange(marginal.shape[1], dtype=torch.float64, device="cpu")
        variance += marginal @ place**2 - (marginal @ place) ** 2
    rows = {
        "support": (k > 0.01 * k.amax((1, 2), keepdim=True)).double().sum((1, 2)),
        "spread": variance.clamp(min=0).sqrt(),
        "total_variation": _total_variation(k),
        "peak": k.amax((1, 2)),
        "fine_power": _fine_power(k),
    }
    return pd.DataFrame({name: value.numpy() for name, value in rows.items()})


@torch.no_grad()
def tilt_statistics(fields: Tensor) -> pd.DataFrame:
    """Figures that a tilt field can be told by: N 2 h w in pixels; a row each.

    `rms`, in pixels; `correlation_length`: the lag in pixels at which the correlation has fallen to 1/e, if it falls
    as a Gaussian from what it is at one pixel; `total_variation`, a pixel; `largest` displacement along an axis;
    `fine_power`: as for kernels. Raises: ValueError for another shape.
    """
    f = checks.tensor("fields", fields, "N 2 h w", least=2).cpu().double()
    power = f.square().mean((1, 2, 3))
    pairs = ((f[..., 1:], f[..., :-1]), (f[..., 1:, :], f[..., :-1, :]))
    correlation = sum((a * b).mean((1, 2, 3)) for a, b in pairs) / 2 / power.clamp(min=1e-300)
    rows = {
        "rms": power.sqrt(),
        "correlation_length": (-1 / correlation.clamp(1e-3, 1 - 1e-6).log()).sqrt(),
        "total_variation": sum(_total_variation(f[:, i]) for i in (0, 1)) / f[0].numel(),
        "largest": f.abs().amax((1, 2, 3)),
        "fine_power": (_fine_power(f[:, 0]) + _fine_power(f[:, 1])) / 2,
    }
    return pd.DataFrame({name: value.numpy() for name, value in rows.items()})


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
        means = {"samples": samples[name].mean(), "generator": reference[name].mean()}
        rows.append({"statistic": name} | means | {"ks": test.statistic, "p": test.pvalue})
    return pd.DataFrame(rows)


def _total_variation(x: Tensor) -> Tensor:
    """N h w to N: the sum of absolute differences of neighbours."""
    return x.diff(dim=1).abs().sum((1, 2)) + x.diff(dim=2).abs().sum((1, 2))


def _fine_power(x: Tensor) -> Tensor:
    """N h w to N: the share of the power, the mean left out, at frequencies above half of Nyquist's on an axis."""
    power = torch.fft.fft2(x - x.mean((1, 2), keepdim=True)).abs().square()
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64, device="cpu").abs() for n in x.shape[1:])
    fine = torch.maximum(rows[:, None], columns[None]) > 0.25
    return (power * fine).sum((1, 2)) / power.sum((1, 2)).clamp(min=1e-300)
