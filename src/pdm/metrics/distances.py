"""How far two sets of samples lie apart: Frechet distance and KID, nearest neighbours, tests of statistics."""

import torch
from piq.feature_extractors import InceptionV3
from torch import Tensor
from torchvision.transforms.functional import normalize

from pdm import checks
from pdm.metrics.checks import Unmeasurable
from pdm.metrics.perceptual import IMAGENET_MEAN, IMAGENET_STD, vgg16_features
from pdm.models.seeded import plain_torch


@torch.no_grad()
def features(images: Tensor, batch: int = 50) -> Tensor:
    """What VGG16 sees in each image, its last feature maps averaged over the picture: N 3 H W in [-1, 1] to N 512.

    Float64, on the CPU. Images may leave [-1, 1] by a hundredth, and are clamped to it. A Frechet distance on these is
    not the FID of the literature, which takes the Inception network at 299 pixels and tens of thousands of images.
    Raises: ValueError unless there are images in this range; Unmeasurable unless in colour, of 32 pixels or more.
    """
    checks.images("images", images, "N C H W")
    if images.shape[1] != 3 or min(images.shape[2:]) < 32:
        raise Unmeasurable(f"images have the shape {tuple(images.shape)}; wanted N 3 H W, of 32 pixels or more")
    network, batches = vgg16_features(), images.split(checks.count("batch", batch))
    parts = [network(normalize((x.cpu().float().clamp(-1, 1) + 1) / 2, IMAGENET_MEAN, IMAGENET_STD)) for x in batches]
    return torch.cat([part.mean((2, 3)) for part in parts]).double()


@torch.no_grad()
def inception_features(images: Tensor, batch: int = 50, device: torch.device | str = "cpu") -> Tensor:
    """What the Inception network of the literature's FID sees: N 3 H W in [-1, 1] to N 2048, float64, on the CPU.

    By piq, which downloads the weights; images may leave [-1, 1] by a hundredth, are clamped to it and scaled to 299
    pixels. `frechet_distance` of these is the FID, which needs thousands of images.
    Raises: ValueError for another shape or range.
    """
    checks.images("images", images, "N 3 H W")
    batches = images.split(checks.count("batch", batch))
    with plain_torch():
        network = InceptionV3().eval().to(device)
    parts = [network((x.to(device).float().clamp(-1, 1) + 1) / 2)[0] for x in batches]
    return torch.cat([part.flatten(1).cpu() for part in parts]).double()


@torch.no_grad()
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


@torch.no_grad()
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
    for name, v in (("x", x), ("y", y)):
        if len(checks.tensor(name, v, "N d")) < 2:
            raise ValueError(f"{name} are features of shape {tuple(v.shape)}; wanted N d, N 2 or more")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y are features of {x.shape[1]} and of {y.shape[1]} dimensions; wanted one number")
    return x.cpu().double(), y.cpu().double()
