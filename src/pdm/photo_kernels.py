"""What blurred a photo: kernels sought at several scales, refined at its own, the least surprising one taken."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pdm import checks
from pdm.blind_steps import Plan, choice, cleared, restore_blind, surprises
from pdm.convolutions import Convolution, fitting
from pdm.exact_steps import centred, to_opponent
from pdm.few_steps import Known, restore_known
from pdm.kernel_refinement import Refinement, refine_kernel
from pdm.models import AnySize, ConditionalPrior, NetworkPrior, load_prior
from pdm.sampler import NoiseStreams, State

WINDOW = 64  # pixels a side that a measurement's spectrum takes
REACH = 8  # pixels around a clipped one that are left out of account
SOUGHT, REFINED = Plan(rounds=20, chains=4, finish=1), Refinement()
FINISH = Refinement(first=1.0, spread=1.0, haze=0.03)  # of a kernel that is nearly right


@dataclass(frozen=True)
class Search:
    """How a photo's kernel is sought, and when it is believed.

    The photo is shrunk by each of `scales`, and `restore_blind` follows `plan` on `fine` pixels a side at its own
    scale, on `coarse` at the others. Kernels found are refined on `region` pixels a side, where they may grow by
    `margin` pixels to each. They are compared by `surprise` with the weight `log_weight`,
    and all that correlate with the least surprising one by `same` or more are averaged. `finish` refines the mean.
    A kernel that spans `narrow` pixels or less is no blur. One whose innovation has a mean square above `doubtful`, in
    units of its expected variance, is not believed, nor one that correlates by less than `agreed` with those of other
    scales. Then it is sought again from other noise, `attempts` times in all. Where kernels of two quarters of the
    photo correlate by less than `alike`, one does not suit it all.
    Settings were chosen on parts of eight BSDS photographs of the training set, blurred by random motion.
    """

    plan: Plan = SOUGHT
    refinement: Refinement = REFINED
    finish: Refinement = FINISH
    scales: tuple[float, ...] = (1.0, 1.41, 2.0)
    fine: int = 192
    coarse: int = 128
    region: int = 256
    margin: int = 4
    log_weight: float = 1.0
    same: float = 0.8
    narrow: int = 2
    doubtful: float = 2.0
    agreed: float = 0.8
    attempts: int = 1
    alike: float = 0.4

    def __post_init__(self) -> None:
        for name in ("fine", "coarse", "region"):
            checks.count(name, getattr(self, name), WINDOW)
        checks.count("margin", self.margin, 0), checks.count("narrow", self.narrow, 0)
        checks.count("attempts", self.attempts)
        if not self.scales or any(checks.number("scales", scale, least=1) != scale for scale in self.scales):
            raise ValueError(f"scales are {self.scales}; wanted factors of 1 or more")
        for name in ("log_weight", "same", "doubtful", "agreed", "alike"):
            checks.number(name, getattr(self, name), least=0)

    @property
    def states(self) -> int:
        """How many states `kernel_steps` and `quarter_steps` yield at most, if one attempt is enough."""
        sought = len(self.scales) * (self.plan.rounds + self.plan.polish + self.plan.finish)
        refined = 3 * self.refinement.begun + 2 * self.refinement.rounds
        return sought + refined + self.finish.begun + self.finish.rounds


SEARCH = Search()


class Priors(NamedTuple):
    """What is known of photographs, of kernels, and of the kernels that blurred one photograph."""

    image: AnySize
    kernel: NetworkPrior
    kernel_given_y: ConditionalPrior

    @classmethod
    def load(cls) -> "Priors":
        """The committed ones."""
        image, kernel, given_y = load_prior("image", label="photos"), load_prior("kernel"), load_prior("kernel_given_y")
        return cls(AnySize(image), kernel, given_y)


class KernelEstimate(NamedTuple):
    """Kernels F 1 h w, and what speaks for them.

    `misfit` is the root mean square of the measurement that they leave unexplained. `innovation` is the mean square of
    that in units of its expected variance: about 1 or less for a kernel that is right. `agreement` is how far the
    kernel that was chosen correlates with the likest one sought at another scale, 1 where there was none.
    """

    kernel: Tensor
    misfit: float
    innovation: float
    agreement: float


def kernel_steps(
    y: Tensor, clipped: Tensor, priors: Priors, sigma: float, seeds: Sequence[int], search: Search
) -> Generator[State, None, KernelEstimate]:
    """The states on the way to the kernels of F frames of one scene, F 3 H W, with their clipped pixels F 1 H W.

    At each scale `restore_blind` seeks them on the part with the most gradient. All that were found are refined on one
    part of the photo's own scale, so that they can be compared there.
    """
    frames, plan, refinement, found = len(y), search.plan, search.refinement, []
    told = {"sigma": sigma, "boundary": "valid", "frames": frames}
    for scale in search.scales:
        small = shrunk(y, scale)
        if min(small.shape[-2:]) < WINDOW:
            continue
        mask = F.interpolate(clipped.float(), tuple(small.shape[-2:])) > 0
        part = liveliest(small, search.fine if scale == 1 else search.coarse, mask)
        given = priors.kernel_given_y.given(small)
        for state in restore_blind(part, priors.image, given, priors.kernel.errors, plan, seeds=seeds, **told):
            yield state
        found.append(enlarged(state.theta["kernel"], scale))
    part, n = liveliest(y, search.region, clipped), len(found)
    kernels, each = _together(found, search.margin), part.repeat_interleave(n, 0)
    for state in refine_kernel(each, kernels, priors.image, refinement, seeds=[*seeds] * n, **told):
        yield state
    refined = state.theta["kernel"].unflatten(0, (frames, n))
    kernels = torch.cat([kernels.unflatten(0, (frames, n))[:, :1], refined], dim=1).flatten(0, 1)  # the first as found
    each, begun = part.repeat_interleave(n + 1, 0), refinement.begun
    for state in restore_known(each, kernels, priors.image, begun, churn=1.0, seeds=[*seeds] * (n + 1), **told):
        yield state
    x, known = state.theta["image"], Known(sigma, "valid", frames=frames)
    plan = replace(plan, log_weight=search.log_weight)
    best = choice(x, to_opponent(each), kernels, priors.image, NoiseStreams(seeds), plan, known)
    kernels, best = kernels.unflatten(0, (frames, n + 1)), int(best)
    kernel, agreement = _mean_of_like(kernels, best, search.same), _agreement(kernels, best)
    for state in refine_kernel(part, kernel, priors.image, search.finish, seeds=seeds, **told):
        yield state
    kernel = state.theta["kernel"]
    x, plan = state.theta["image"], replace(plan, log_weight=0.0)
    misfit = (part - Convolution(kernel, x.shape[-2:], "valid")(known.each(x))).square().mean().sqrt()
    innovation = surprises(x, to_opponent(part), kernel, priors.image, NoiseStreams(seeds), plan, known)
    return KernelEstimate(kernel, misfit.item(), innovation.item(), agreement)


def _mean_of_like(kernels: Tensor, best: int, least: float) -> Tensor:
    """Of kernels F n 1 h w the mean, centred, of those that correlate with the best one by `least` or more: F 1 h w."""
    like = torch.stack([_likeness(kernels[:, i], kernels[:, best]).min() for i in range(kernels.shape[1])]) >= least
    taken = kernels[:, like].flatten(0, 1)
    return cleared(centred(taken).unflatten(0, (len(kernels), -1)).mean(1), 0)


def _agreement(kernels: Tensor, best: int) -> float:
    """How far the best of kernels F n 1 h w correlates with the likest of another scale; the first two are of one."""
    others = [i for i in range(kernels.shape[1]) if i != best and {i, best} != {0, 1}]
    return max((_likeness(kernels[:, i], kernels[:, best]).min().item() for i in others), default=1.0)


def _together(kernels: Sequence[Tensor], margin: int) -> Tensor:
    """Kernels F 1 h w of several sizes on one canvas, all of the first frame first: F*n 1 h w."""
    side = max(max(k.shape[-2:]) for k in kernels) + 2 * margin
    side += 1 - side % 2
    return torch.stack([_on_canvas(k, side) for k in kernels], dim=1).flatten(0, 1)


def _on_canvas(kernel: Tensor, side: int) -> Tensor:
    """A kernel B 1 h w on a larger canvas, its middle pixel, h // 2 and w // 2, in the middle."""
    down, across = (side // 2 - n // 2 for n in kernel.shape[-2:])
    return F.pad(kernel, (across, side - kernel.shape[-1] - across, down, side - kernel.shape[-2] - down))


def shrunk(y: Tensor, scale: float) -> Tensor:
    """A picture B C H W made smaller by a factor of 1 or more. Raises: ValueError for another shape or factor."""
    (y,), scale = fitting("y B C H W", y), checks.number("scale", scale, least=1)
    if scale == 1:
        return y
    return F.interpolate(y, scale_factor=1 / scale, mode="bilinear", antialias=True)


def enlarged(kernel: Tensor, scale: float) -> Tensor:
    """Kernels B 1 h w of a picture that was `shrunk`, as those of the picture; cut to where they are not 0.

    Raises: ValueError for another shape or factor.
    """
    kernel = checks.kernels("kernel", kernel)
    if checks.number("scale", scale, least=1) == 1:
        return kernel
    sides = [int(scale * n) // 2 * 2 + 1 for n in kernel.shape[-2:]]
    places = [  # of each pixel in the small kernel, -1 to 1, the middle on the middle
        2 * ((torch.arange(side, dtype=kernel.dtype, device=kernel.device) - side // 2) / scale + n // 2) / (n - 1) - 1
        for side, n in zip(sides, kernel.shape[-2:], strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1], dim=-1)
    large = centred(F.grid_sample(kernel, grid.expand(len(kernel), -1, -1, -1), align_corners=True))
    reach = [_reach(large.amax(dim), n) for dim, n in (((0, 1, 3), sides[0]), ((0, 1, 2), sides[1]))]
    rows, columns = (slice(n // 2 - r, n // 2 + r + 1) for n, r in zip(sides, reach, strict=True))
    cut = large[..., rows, columns]
    return cut / cut.sum((1, 2, 3), keepdim=True)


def _reach(profile: Tensor, side: int) -> int:
    """How far from the middle a profile is above a thousandth of its peak."""
    (places,) = (profile > 1e-3 * profile.max()).nonzero(as_tuple=True)
    return int((places - side // 2).abs().max())


def extent(kernel: Tensor, share: float = 0.1) -> int:
    """Pixels that kernels B 1 h w span at most, along rows or columns, by what is above a share of their peaks.

    Raises: ValueError for another shape, or a share of the peak's own or more.
    """
    kernel = checks.kernels("kernel", kernel)
    if not 0 <= checks.number("share", share) < 1:
        raise ValueError(f"share is {share}; wanted 0 to 1, below 1")
    above = kernel > share * kernel.amax((-2, -1), keepdim=True)
    spans = [one.any(dim).nonzero() for one in above[:, 0] for dim in (0, 1)]
    return max(int(place.max() - place.min()) + 1 for place in spans)


def liveliest(y: Tensor, side: int, clipped: Tensor | None = None) -> Tensor:
    """The square part of B C H W, at most `side` pixels a side, with the most gradient away from clipped pixels.

    Raises: ValueError for another shape, or sides below 2.
    """
    checks.tensor("y", y, least=2), checks.count("side", side)
    height, width = (min(side, n) for n in y.shape[-2:])
    grey = y.mean((0, 1))
    energy = F.pad(grey.diff(dim=0).abs(), (0, 0, 0, 1)) + F.pad(grey.diff(dim=1).abs(), (0, 1))
    if clipped is not None:  # what surrounds them is wrong by a kernel's reach too
        near = F.max_pool2d(clipped.float().amax(0), 2 * REACH + 1, 1, REACH)[0] > 0
        energy = energy * torch.where(near, 1e-3, 1.0)
    total = F.pad(energy.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return y[..., row : row + height, column : column + width]


def quarter_steps(
    y: Tensor,
    clipped: Tensor,
    kernel: Tensor,
    priors: Priors,
    sigma: float,
    seeds: Sequence[int],
    search: Search,
) -> Generator[State, None, float]:
    """Refine kernels F 1 h w on each quarter of F frames F 3 H W, and return how alike they stay: 1, and less.

    That is the least normalised cross-correlation of two quarters' kernels. A picture of too few pixels to tell has no
    quarters: 1 at once.
    """
    height, width = (n // 2 for n in y.shape[-2:])
    if min(height, width) < search.coarse:
        return 1.0
    corners = [(slice(a, a + height), slice(b, b + width)) for a in (0, height) for b in (0, width)]
    parts = [liveliest(y[..., r, c], search.coarse, clipped[..., r, c]) for r, c in corners]
    measurement = torch.stack(parts, dim=1).flatten(0, 1)  # the four quarters of the first frame, then of the second
    kernels, frames = kernel.repeat_interleave(4, 0), len(y)
    told = {"sigma": sigma, "seeds": [*seeds] * 4, "boundary": "valid", "frames": frames}
    for state in refine_kernel(measurement, kernels, priors.image, search.refinement, **told):
        yield state
    refined = state.theta["kernel"].unflatten(0, (frames, 4))
    pairs = [(i, j) for i in range(4) for j in range(i)]
    return min(_likeness(refined[:, i], refined[:, j]).min().item() for i, j in pairs)


def _likeness(a: Tensor, b: Tensor) -> Tensor:
    """The largest normalised cross-correlation of kernels B 1 h w over all shifts, as `metrics.mnc`: B."""
    size = [2 * n - 1 for n in a.shape[-2:]]
    products = torch.fft.irfft2(torch.fft.rfft2(a, s=size) * torch.fft.rfft2(b, s=size).conj(), s=size)
    return products.flatten(1).amax(1) / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))
