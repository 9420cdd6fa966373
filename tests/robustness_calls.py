"""A valid call of every public function, and what its arguments are: the table of test_robustness.py.

A function with methods stands there as a call of each. `EXEMPT` says why a name has no call.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from conftest import tiny
from PIL import Image

from pdm import (
    blind_steps,
    constraints,
    convolutions,
    data,
    exact_steps,
    few_steps,
    guidance,
    kernel_refinement,
    metrics,
    operators,
    photo,
    photo_kernels,
)
from pdm.baselines import diffpir, fast_em, gibbs_ddrm, ilvr, pan, self_deblur, supervised, wiener
from pdm.data import photo_files
from pdm.models import (
    AnySize,
    ConditionalPrior,
    EmpiricalPrior,
    Errors,
    FlatPrior,
    GaussianMixture,
    NetworkPrior,
    UNet,
    UNetConfig,
    Velocity,
    blur_features,
    errors,
    files,
    power_spectrum,
)
from pdm.models.seeded import seeded
from pdm.sampler import Component, NoiseStreams, State, final, sample, stream
from pdm.schedule import Schedule, ancestral_step, ddim_step
from pdm.study import progress, score, statistics

NETWORK = {"evaluations": 0}  # of the tiny networks, counted where they begin to compute


def evaluated(*_) -> None:
    NETWORK["evaluations"] += 1


def network(size: int, channels: int) -> NetworkPrior:
    with torch.random.fork_rng():
        prior = tiny(size, channels)
    prior.schedule = Schedule.cosine(8)  # so that all of its steps are few
    prior.network.input_blocks[0].register_forward_pre_hook(evaluated)
    return prior


@cache
def place() -> Path:
    """A folder with a picture, a folder of them, splits, a prior and its card, in names beyond ASCII."""
    if "ROBUSTNESS_PLACE" in os.environ:
        return Path(os.environ["ROBUSTNESS_PLACE"])
    kept.append(tempfile.TemporaryDirectory())
    folder = Path(kept[0].name)
    for name in ("elsewhere", "pictures", "priors", "saved"):
        (folder / name).mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (70, 80, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(folder / "pictures" / name)
    (folder / "text.txt").write_text("café", encoding="utf-8")
    for name in ("priors", "saved"):
        files.save_prior("small", SMALL, {"licence": "für Forschung"}, folder / name)
    errors.save_errors("small", ERRORS, {"samples": 2}, folder / "priors")
    return folder


def generator() -> torch.Generator:
    return torch.Generator("cpu").manual_seed(0)


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(), dtype=torch.float32, device="cpu") * 1.6 - 0.8


def kernel(*shape: int) -> torch.Tensor:
    k = torch.rand(*shape, generator=generator(), dtype=torch.float32) + 0.1
    return k / k.sum((1, 2, 3), keepdim=True)


kept: list[tempfile.TemporaryDirectory] = []
with torch.random.fork_rng():
    SMALL = UNet(UNetConfig(8, 4, 1, 1, channel_mult=(1,), attention_resolution=4, num_head_channels=4))
PRIORS = {"image": network(16, 3), "kernel": network(8, 1)}
LINEAR = Schedule.linear()
MIXTURE = GaussianMixture(LINEAR, rand(2, 1, 4, 4), torch.tensor([0.5, 0.5]), 0.5)
EMPIRICAL = EmpiricalPrior(LINEAR, rand(2, 1, 4, 4), torch.tensor([0.5, 0.5]))
VELOCITY = Velocity(0.1, 0.5)
ERRORS = Errors(torch.tensor([300, 1]), rand(2, 2, 1, 8, 5).abs() + 0.1, rand(1, 4, 4), rand(16, 3))
MEASURED = NetworkPrior(SMALL, errors=ERRORS)
OF_KERNELS = Errors(ERRORS.times, ERRORS.power, kernel(1, 1, 8, 8)[0], 0.1 * rand(64, 3))
FEW = NetworkPrior(PRIORS["kernel"].network, schedule=PRIORS["kernel"].schedule, errors=OF_KERNELS)
with torch.random.fork_rng():
    SEEING = UNet(UNetConfig(32, 4, 4, 1, channel_mult=(1,), attention_resolution=0, num_head_channels=4, patch=4))
SEEING.input_blocks[0].register_forward_pre_hook(evaluated)
CONDITIONAL = ConditionalPrior(SEEING, torch.float32, VELOCITY, Schedule.cosine(8))


@dataclass(frozen=True)
class Call:
    """A function, its arguments made anew for each call, and their kinds by name.

    `words` may stand for an argument's name in an error. `exact_dtype`: float64 tensors need not work. `nan`: a
    formula of each sample, to which the sampler hands those that it has lost, so that NaN comes of NaN.
    """

    function: Callable
    arguments: Callable[[], dict]
    kinds: dict[str, str]
    tolerance: float = 1e-4
    words: tuple[str, ...] = ()
    exact_dtype: bool = False
    nan: bool = False


def call(function: Callable, kinds: str, arguments: Callable[[], dict], **options) -> Call:
    """Kinds as "image:tensor n:whole"."""
    return Call(function, arguments, dict(pair.split(":") for pair in kinds.split()), **options)


def images(*names: str, side: int = 16, **more) -> Callable[[], dict]:
    """Images of these names with other arguments, of which functions are called."""

    def make() -> dict:
        drawn = {n: (1 - 0.2 * i) * rand(2, 3, side, side) for i, n in enumerate(names)}
        return drawn | {n: v() if callable(v) else v for n, v in more.items()}

    return make


def run(measurement, seeds, steps, start):
    """Algorithm 1 on tiny networks."""
    components = {
        "image": Component(PRIORS["image"], (3, 16, 16), start=start),
        "kernel": Component(PRIORS["kernel"], (1, 8, 8), constraints.shift_and_divide),
    }
    guide = guidance.DPS(measurement, operators.blur, {"image": 0.3, "kernel": 0.1})
    return final(sample(components, guide, seeds, steps)).theta


def problem(boundary="reflect", **more) -> Callable[[], dict]:
    """What exact data steps are given: images of 12 x 10 pixels, kernels of 5 x 3, and what else is named."""

    def make() -> dict:
        side = (8, 8) if boundary == "valid" else (12, 10)
        given = {"x_hat": rand(2, 3, 12, 10), "y": 0.5 * rand(2, 3, *side), "kernel": kernel(2, 1, 5, 3)}
        given |= {"error": rand(3, 12, 6).square() + 0.1, "boundary": boundary}
        return given | {n: v() if callable(v) else v for n, v in more.items()}

    return make


def saved_errors(name, folder):
    errors.save_errors(name, ERRORS, {"samples": 2}, folder)
    return errors.load_errors(name, files.prior_card(name, folder), folder)


def drawn(seed):
    with seeded(seed):
        return torch.rand(3)


def states():
    return (State(t, t - 1, {"x": rand(1, 1)}, {}, {}, rand(1)) for t in (3, 2, 1, 0))


FAST = blind_steps.Plan(rounds=1, first=1.0, kernel_times=(0, 7), finish=2)
ONCE = kernel_refinement.Refinement(begun=1, rounds=1)
PAIR = "estimate:tensor truth:tensor"
KERNELS = {"estimate": lambda: kernel(2, 1, 7, 5), "truth": lambda: kernel(2, 1, 7, 5).flip(-1)}
MODEL_RANGE = lambda: {"x": rand(2, 1, 7, 5)}  # noqa: E731
SAMPLES = lambda **more: lambda: {"x": rand(2, 1, 4, 4), **more}  # noqa: E731
TIMES = "x:tensor t:whole"
STEP = "x_hat:tensor y:tensor kernel:tensor error:tensor"
CALLS = {
    # ---- schedule, sampler, guidance ----
    "schedule.Schedule": call(
        lambda betas: Schedule(betas).alpha_bar,
        "betas:tensor",
        lambda: {"betas": torch.linspace(0.01, 0.1, 9, dtype=torch.float64)},
    ),
    "schedule.Schedule.linear": call(Schedule.linear, "steps:whole", lambda: {"steps": 50}),
    "schedule.Schedule.cosine": call(Schedule.cosine, "steps:whole", lambda: {"steps": 50}),
    "schedule.Schedule.pairs": call(LINEAR.pairs, "steps:whole", lambda: {"steps": 5}),
    "schedule.Schedule.pairs.__times__": call(
        LINEAR.pairs, "steps:seeds", lambda: {"steps": [9, 5]}, words=("time step",)
    ),
    "schedule.Schedule.alpha_bar_at": call(
        LINEAR.alpha_bar_at, "t:whole like:tensor", lambda: {"t": 3, "like": rand(2, 3)}, words=("time step", "samples")
    ),
    **{
        f"schedule.Schedule.{method.__name__}": call(
            method,
            f"{names[0]}:tensor {names[1]}:tensor t:whole",
            partial(lambda names: {names[0]: rand(2, 3, 4, 4), names[1]: 0.5 * rand(2, 3, 4, 4), "t": 300}, names),
            words=("time step", "samples"),
            nan=True,
        )
        for method, names in {
            LINEAR.diffuse: ("x0", "noise"),
            LINEAR.tweedie: ("x", "noise"),
            LINEAR.noise_from: ("x", "x0"),
            LINEAR.score_from: ("x", "x0"),
        }.items()
    },
    "schedule.ancestral_step": call(
        lambda variance: ancestral_step(variance)(LINEAR, rand(1, 3), rand(1, 3), 9, 5, rand(1, 3)),
        "variance:choice",
        lambda: {"variance": "large"},
    ),
    "schedule.ddim_step": call(
        lambda eta: ddim_step(eta)(LINEAR, rand(1, 3), rand(1, 3), 9, 5, rand(1, 3)),
        "eta:number",
        lambda: {"eta": 0.5},
    ),
    "sampler.sample": call(
        run,
        "measurement:tensor seeds:seeds steps:whole start:tensor",
        images("measurement", "start", seeds=lambda: [3, 4], steps=2),
        words=("image",),
    ),
    "sampler.stream": call(
        lambda seed: torch.rand(3, generator=stream(seed, "a"), dtype=torch.float32, device="cpu"),
        "seed:whole",
        lambda: {"seed": 7},
    ),
    "sampler.NoiseStreams": call(
        lambda seeds: NoiseStreams(seeds)("a", (2, 3)), "seeds:seeds", lambda: {"seeds": [1, 2]}
    ),
    "guidance.sqrt_alpha_bar": call(
        lambda scale: guidance.sqrt_alpha_bar(LINEAR, scale)(3), "scale:number", lambda: {"scale": 0.5}
    ),
    "guidance.DPS": call(
        lambda measurement, scale: guidance.DPS(measurement, lambda image: image, {"image": scale}).measurement,
        "measurement:tensor scale:number",
        images("measurement", scale=0.5),
        words=("step",),
    ),
    # ---- operators and constraints ----
    "operators.blur": call(
        operators.blur,
        "image:tensor kernel:tensor boundary:choice method:choice",
        images("image", kernel=lambda: kernel(2, 1, 5, 3), boundary="reflect", method="direct"),
    ),
    "operators.blur.__fft__": call(
        operators.blur, "image:tensor kernel:tensor", images("image", kernel=lambda: kernel(2, 1, 5, 3))
    ),
    "operators.correlate": call(
        operators.correlate, "image:tensor kernel:tensor", images("image", kernel=lambda: kernel(2, 1, 5, 3))
    ),
    "operators.warp": call(
        operators.warp,
        "image:tensor tilt:tensor boundary:choice",
        images("image", tilt=lambda: rand(2, 2, 16, 16), boundary="circular"),
    ),
    "operators.turbulence": call(
        operators.turbulence,
        "image:tensor kernel:tensor tilt:tensor boundary:choice",
        images("image", kernel=lambda: kernel(2, 1, 5, 3), tilt=lambda: rand(2, 2, 16, 16), boundary="zero"),
    ),
    "operators.Frames": call(
        lambda image, kernel, tilt_0, count: operators.Frames(count)(image=image, kernel=kernel, tilt_0=tilt_0),
        "image:tensor kernel:tensor tilt_0:tensor count:whole",
        images("image", kernel=lambda: kernel(2, 1, 5, 3), tilt_0=lambda: rand(2, 2, 16, 16), count=1),
        words=("tilt",),
    ),
    **{
        f"constraints.{f.__name__}": call(f, "x:tensor", MODEL_RANGE, words=("kernel",))
        for f in (
            constraints.projection,
            constraints.simplex,
            constraints.shift_and_divide,
            constraints.l1,
        )
    },
    "constraints.from_model_range": call(constraints.from_model_range, "x:tensor", MODEL_RANGE, nan=True),
    "constraints.project_simplex": call(constraints.project_simplex, "v:tensor", lambda: {"v": rand(2, 1, 7, 5)}),
    "constraints.l0": call(
        constraints.l0, "x:tensor width:number", lambda: {"x": rand(2, 1, 7, 5), "width": 0.1}, words=("kernel",)
    ),
    "constraints.to_model_range": call(
        constraints.to_model_range, "kernel:tensor", lambda: {"kernel": kernel(2, 1, 7, 5)}
    ),
    # ---- few steps ----
    "few_steps.times": call(
        lambda count, first, last: few_steps.times(LINEAR, count, first, last),
        "count:whole first:number last:number",
        lambda: {"count": 3, "first": 5.0, "last": 0.1},
        words=("evaluations", "ratio"),
    ),
    "few_steps.time_of": call(lambda ratio: few_steps.time_of(LINEAR, ratio), "ratio:number", lambda: {"ratio": 0.5}),
    "blind_steps.cleared": call(
        blind_steps.cleared, "kernel:tensor haze:number", lambda: {"kernel": kernel(2, 1, 7, 5), "haze": 0.3}
    ),
    "few_steps.restore_known": call(
        lambda measurement, kernel, evaluations, sigma, seeds, start, boundary: (
            final(
                few_steps.restore_known(
                    measurement, kernel, FEW, evaluations, sigma=sigma, seeds=seeds, start=start, boundary=boundary
                )
            ).x
        ),
        "measurement:tensor kernel:tensor evaluations:whole sigma:number seeds:seeds start:tensor boundary:choice",
        lambda: {
            "measurement": rand(2, 1, 8, 8),
            "kernel": kernel(2, 1, 3, 3),
            "evaluations": 2,
            "sigma": 0.1,
            "seeds": [3, 4],
            "start": rand(2, 1, 8, 8),
            "boundary": "reflect",
        },
        tolerance=1e-3,
        words=("input", "image"),
    ),
    "blind_steps.restore_blind": call(
        lambda measurement, sigma, seeds, boundary: (
            final(
                blind_steps.restore_blind(
                    measurement, FEW, FEW, OF_KERNELS, FAST, sigma=sigma, seeds=seeds, boundary=boundary
                )
            ).theta
        ),
        "measurement:tensor sigma:number seeds:seeds boundary:choice",
        lambda: {"measurement": rand(2, 1, 8, 8), "sigma": 0.1, "seeds": [3, 4], "boundary": "reflect"},
        words=("input", "image"),
    ),
    "kernel_refinement.refine_kernel": call(
        lambda measurement, kernel, sigma, seeds, boundary: (
            final(
                kernel_refinement.refine_kernel(
                    measurement, kernel, FEW, ONCE, sigma=sigma, seeds=seeds, boundary=boundary
                )
            ).theta
        ),
        "measurement:tensor kernel:tensor sigma:number seeds:seeds boundary:choice",
        lambda: {
            "measurement": rand(2, 1, 8, 8),
            "kernel": kernel(2, 1, 3, 3),
            "sigma": 0.1,
            "seeds": [3, 4],
            "boundary": "reflect",
        },
        tolerance=1e-3,
        words=("input", "image"),
    ),
    # ---- exact data steps ----
    "convolutions.Convolution": call(
        lambda x, kernel, size, boundary: convolutions.Convolution(kernel, size, boundary)(x),
        "x:tensor kernel:tensor size:seeds boundary:choice",
        lambda: {"x": rand(2, 3, 12, 10), "kernel": kernel(2, 1, 5, 3), "size": [12, 10], "boundary": "reflect"},
        nan=True,
    ),
    "convolutions.Convolution.adjoint": call(
        lambda u, kernel, size, boundary: convolutions.Convolution(kernel, size, boundary).adjoint(u),
        "u:tensor kernel:tensor size:seeds boundary:choice",
        lambda: {"u": rand(2, 3, 12, 10), "kernel": kernel(2, 1, 5, 3), "size": [12, 10], "boundary": "circular"},
        nan=True,
    ),
    "convolutions.KernelConvolution": call(
        lambda image, kernel, canvas, boundary: convolutions.KernelConvolution(image, canvas, boundary)(kernel),
        "image:tensor kernel:tensor canvas:seeds boundary:choice",
        lambda: {"image": rand(2, 3, 12, 10), "kernel": kernel(2, 1, 5, 3), "canvas": [5, 3], "boundary": "zero"},
        nan=True,
    ),
    "convolutions.KernelConvolution.adjoint": call(
        lambda image, u, canvas, boundary: convolutions.KernelConvolution(image, canvas, boundary).adjoint(u),
        "image:tensor u:tensor canvas:seeds boundary:choice",
        lambda: {"image": rand(2, 3, 12, 10), "u": rand(2, 3, 8, 8), "canvas": [5, 3], "boundary": "valid"},
        nan=True,
    ),
    **{
        f"exact_steps.{f.__name__}": call(f, "x:tensor", lambda: {"x": rand(2, 3, 12, 10)})
        for f in (exact_steps.to_opponent, exact_steps.from_opponent)
    },
    "exact_steps.resized": call(
        exact_steps.resized,
        "power:tensor size:seeds",
        lambda: {"power": rand(2, 3, 12, 6).square() + 0.1, "size": [9, 13]},
    ),
    "exact_steps.transfer": call(
        exact_steps.transfer, "kernel:tensor size:seeds", lambda: {"kernel": kernel(2, 1, 5, 3), "size": [4, 8]}
    ),
    "exact_steps.image_step": call(
        exact_steps.image_step,
        f"{STEP} noise:number boundary:choice iterations:whole",
        problem(noise=0.1, iterations=4),
        tolerance=1e-3,
    ),
    "exact_steps.image_step.__noise__": call(
        exact_steps.image_step,
        f"{STEP} noise:tensor",
        problem("valid", noise=lambda: rand(2, 3, 8, 5).square() + 0.1, iterations=4),
        tolerance=1e-3,
    ),
    "exact_steps.kernel_noise": call(
        exact_steps.kernel_noise,
        "x_hat:tensor error:tensor kernel_error:tensor",
        lambda: {
            "x_hat": rand(2, 3, 12, 10),
            "error": rand(3, 12, 6).square() + 0.1,
            "kernel_error": rand(1, 12, 6).square() + 0.1,
        },
    ),
    "convolutions.continued": call(
        convolutions.continued,
        "y:tensor canvas:seeds boundary:choice",
        lambda: {"y": rand(2, 3, 9, 8), "canvas": [5, 4], "boundary": "valid"},
    ),
    "exact_steps.kernel_step": call(
        exact_steps.kernel_step,
        f"{STEP} sigma:number mean:tensor root:tensor boundary:choice iterations:whole start:tensor",
        problem(
            sigma=0.3,
            mean=lambda: kernel(1, 1, 5, 3)[0],
            root=lambda: 0.1 * rand(15, 4),
            iterations=4,
            start=lambda: kernel(2, 1, 5, 3),
        ),
        tolerance=1e-3,
    ),
    "exact_steps.surprise": call(
        exact_steps.surprise, f"{STEP} sigma:number boundary:choice", problem("circular", sigma=0.3)
    ),
    "exact_steps.centred": call(exact_steps.centred, "kernel:tensor", lambda: {"kernel": kernel(2, 1, 7, 5)}),
    # ---- data ----
    "data.images.ImageSet": call(
        lambda pixels: data.ImageSet("a", "all", pixels, ("a", "b")).images,
        "pixels:tensor",
        lambda: {"pixels": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)},
        words=("images",),
        exact_dtype=True,
    ),
    "data.images.area_average": call(
        data.area_average, "picture:tensor size:whole", lambda: {"picture": rand(3, 9, 12), "size": 4}
    ),
    "data.images.picture": call(
        data.picture,
        "path:path size:whole",
        lambda: {"path": place() / "pictures" / "a.png", "size": 64},
        words=("image",),
    ),
    "data.photo_files.read_photo": call(
        lambda path: photo_files.read_photo(path).image,
        "path:path",
        lambda: {"path": place() / "pictures" / "a.png"},
        words=("photo",),
    ),
    "data.photo_files.write_photo": call(
        lambda path, image, quality: photo_files.write_photo(path, image, None, quality),
        "path:path image:tensor quality:whole",
        lambda: {"path": place() / "saved" / "a.jpg", "image": 0.3 * rand(3, 8, 9), "quality": 90},
        words=("suffix", "folder"),
    ),
    "data.photo_files.writes": call(
        photo_files.writes, "path:path", lambda: {"path": place() / "a.png"}, words=("suffix", "folder")
    ),
    "data.images.folder": call(
        data.folder,
        "path:path size:whole count:whole",
        lambda: {"path": place() / "pictures", "size": 64, "count": 1},
        words=("text.txt",),
    ),
    "data.images.photograph": call(data.photograph, "name:choice", lambda: {"name": "cat"}),
    "data.images.random_crops": call(
        lambda picture, **rest: data.random_crops([picture], **rest),
        "picture:tensor n:whole size:whole generator:generator",
        lambda: {
            "picture": rand(3, 20, 22).mul(100).abs().byte(),
            "n": 2,
            "size": 8,
            "generator": generator(),
        },
        exact_dtype=True,
    ),
    "data.kernels.motion_kernels": call(
        data.motion_kernels,
        "n:whole size:whole intensity:number generator:generator",
        lambda: {"n": 2, "size": 9, "intensity": 0.5, "generator": generator()},
    ),
    "data.kernels.motion_kernels.__each__": call(
        data.motion_kernels,
        "intensity:tensor",
        lambda: {"n": 2, "size": 9, "intensity": torch.tensor([0.25, 0.5]), "generator": generator()},
    ),
    "data.kernels.gaussian_kernels": call(
        data.gaussian_kernels, "n:whole size:whole std:number", lambda: {"n": 2, "size": 9, "std": 1.5}
    ),
    "data.kernels.gaussian_kernels.__each__": call(
        data.gaussian_kernels, "std:tensor", lambda: {"n": 2, "size": 9, "std": torch.tensor([0.5, 1.5])}
    ),
    "data.kernels.random_kernels": call(
        data.random_kernels,
        "n:whole size:whole generator:generator",
        lambda: {"n": 2, "size": 9, "generator": generator()},
    ),
    "data.tilts.tilt_fields": call(
        data.tilt_fields,
        "n:whole size:whole generator:generator patches:whole half_width:whole std:number",
        lambda: {"n": 2, "size": 9, "generator": generator(), "patches": 50, "half_width": 2, "std": 1.0},
    ),
    "data.noise.add_noise": call(
        data.add_noise,
        "image:tensor sigma:number generator:generator",
        images("image", sigma=0.1, generator=generator),
    ),
    "data.noise.noisy": call(
        data.noisy, "clean:tensor seeds:seeds sigma:number", images("clean", seeds=lambda: [3, 4], sigma=0.1)
    ),
    "data.splits.photos": call(data.photos, "size:whole", lambda: {"size": 8}),
    "data.splits.load": call(
        lambda name, split: data.load(name, split).names[:9],
        "name:choice split:choice",
        lambda: {"name": "photos", "split": "test"},
    ),
    "data.splits.digits": call(
        lambda split: data.digits(split).pixels[:9], "split:choice", lambda: {"split": "test"}, words=("digits",)
    ),
    "data.splits.image_set": call(
        data.image_set,
        "domain:choice split:choice n:whole seed:whole",
        lambda: {"domain": "wheels", "split": "test", "n": 2, "seed": 0},
    ),
    "data.splits.test_set": call(data.test_set, "domain:choice n:whole", lambda: {"domain": "photos", "n": 2}),
    "data.splits.at_hand": call(data.at_hand, "domains:choice", lambda: {"domains": ["photos"]}, words=("domain",)),
    # ---- metrics ----
    "metrics.distances.features": call(
        metrics.features, "images:tensor batch:whole", images("images", side=32, batch=2), tolerance=1e-3
    ),
    **{
        f"metrics.distances.{f.__name__}": call(
            f, "x:tensor y:tensor", lambda: {"x": rand(6, 4), "y": rand(6, 4) ** 2}, tolerance=1e-3
        )
        for f in (metrics.frechet_distance, metrics.kernel_distance)
    },
    "metrics.image.psnr": call(metrics.psnr, PAIR, images("estimate", "truth")),
    "metrics.image.psnr_registered": call(
        metrics.psnr_registered, f"{PAIR} reach:whole", images("estimate", "truth", reach=2)
    ),
    "metrics.image.ssim": call(metrics.ssim, PAIR, images("estimate", "truth", side=20), words=("images",)),
    "metrics.perceptual.lpips": call(
        metrics.lpips,
        f"{PAIR} net:choice",
        images("estimate", "truth", side=32, net="alex"),
        tolerance=1e-3,
        words=("images",),
    ),
    "metrics.kernel.kernel_mse": call(metrics.kernel_mse, PAIR, images(**KERNELS)),
    "metrics.kernel.mnc": call(metrics.mnc, PAIR, images(**KERNELS), words=("kernel",)),
    "metrics.kernel.pedestal": call(
        metrics.pedestal, "estimate:tensor share:number", lambda: {"estimate": kernel(2, 1, 7, 5), "share": 0.3}
    ),
    "metrics.tilt.end_point_error": call(
        metrics.end_point_error, PAIR, images(estimate=lambda: rand(2, 2, 8, 6), truth=lambda: rand(2, 2, 8, 6) ** 2)
    ),
    "metrics.samples.nearest": call(
        metrics.nearest, "samples:tensor train:tensor test:tensor", images("samples", "train", "test", side=8)
    ),
    "metrics.samples.kernel_statistics": call(
        metrics.kernel_statistics, "kernels:tensor", lambda: {"kernels": kernel(2, 1, 7, 5)}
    ),
    "metrics.samples.tilt_statistics": call(
        metrics.tilt_statistics, "fields:tensor", lambda: {"fields": rand(2, 2, 8, 6)}
    ),
    # ---- models ----
    "models.analytic.GaussianMixture": call(MIXTURE, TIMES, SAMPLES(t=300), words=("samples", "time step"), nan=True),
    "models.analytic.GaussianMixture.__init__": call(
        lambda means, weights, std: GaussianMixture(LINEAR, means, weights, std)(rand(2, 1, 4, 4), 300),
        "means:tensor weights:tensor std:number",
        lambda: {"means": rand(2, 1, 4, 4), "weights": torch.tensor([0.25, 0.75]), "std": 0.5},
        words=("mean", "samples"),
    ),
    "models.analytic.EmpiricalPrior": call(EMPIRICAL, TIMES, SAMPLES(t=300), words=("samples", "time step"), nan=True),
    "models.analytic.EmpiricalPrior.__init__": call(
        lambda points, weights: EmpiricalPrior(LINEAR, points, weights)(rand(2, 1, 4, 4), 300),
        "points:tensor weights:tensor",
        lambda: {"points": rand(2, 1, 4, 4), "weights": torch.tensor([0.25, 0.75])},
        words=("mean", "samples"),
    ),
    **{
        f"models.analytic.EmpiricalPrior.{f.__name__}": call(
            f, TIMES, SAMPLES(t=300), words=("samples", "time step"), nan=True
        )
        for f in (EMPIRICAL.log_posterior, EMPIRICAL.posterior, EMPIRICAL.mean)
    },
    "models.analytic.FlatPrior": call(
        FlatPrior(LINEAR), TIMES, SAMPLES(t=300), words=("samples", "time step"), nan=True
    ),
    "models.prior.NetworkPrior": call(
        PRIORS["image"], TIMES, images("x", t=3), words=("input", "time step", "labels", "samples"), nan=True
    ),
    "models.prior.NetworkPrior.predict": call(
        PRIORS["image"].predict, TIMES, images("x", t=3), words=("input", "time step", "labels", "samples"), nan=True
    ),
    "models.prior.NetworkPrior.error": call(
        MEASURED.error, "t:whole size:seeds", lambda: {"t": 100, "size": [10, 13]}, words=("label",)
    ),
    "models.any_size.AnySize": call(
        lambda x, t, tile, margin, chunk: AnySize(PRIORS["image"], tile, margin, chunk)(x, t),
        "x:tensor t:whole tile:whole margin:whole chunk:whole",
        images("x", t=3, tile=64, margin=2, chunk=2),
        words=("input", "time step"),
        nan=True,
    ),
    "models.errors.Errors": call(
        lambda times, power, mean, root: Errors(times, power, mean, root).at(100, (8, 8)),
        "times:tensor power:tensor mean:tensor root:tensor",
        lambda: {"times": torch.tensor([300.0, 1.0]), **{n: getattr(ERRORS, n) for n in ("power", "mean", "root")}},
    ),
    "models.errors.Errors.at": call(
        ERRORS.at, "t:whole size:seeds label:whole", lambda: {"t": 100, "size": [10, 13], "label": 1}
    ),
    "models.errors.save_errors": call(
        saved_errors,
        "name:choice folder:path",
        lambda: {"name": "small", "folder": place() / "saved"},
    ),
    "models.errors.load_errors": call(
        lambda folder: errors.load_errors("small", files.prior_card("small", place() / "priors"), folder),
        "folder:path",
        lambda: {"folder": place() / "priors"},
        words=("prior",),
    ),
    "models.conditional.power_spectrum": call(power_spectrum, "y:tensor", images("y", side=64), tolerance=1e-3),
    "models.conditional.blur_features": call(
        blur_features, "power:tensor", lambda: {"power": rand(2, 1, 64, 64).square()}, tolerance=1e-3
    ),
    "models.conditional.ConditionalPrior.given": call(
        lambda y: CONDITIONAL.given(y)(rand(2, 1, 32, 32), 3), "y:tensor", images("y", side=64), tolerance=1e-3
    ),
    "models.seeded.seeded": call(drawn, "seed:whole", lambda: {"seed": 3}),
    "models.prior.Velocity": call(
        lambda mean, std: Velocity(mean, std).input(LINEAR, rand(1, 2), 3),
        "mean:number std:number",
        lambda: {"mean": 0.1, "std": 0.5},
    ),
    **{
        f"models.prior.Velocity.{f.__name__}": call(
            partial(f, LINEAR),
            " ".join(f"{n}:tensor" for n in names) + " t:whole",
            partial(lambda names: {n: rand(2, 1, 4, 4) for n in names} | {"t": 300}, names),
            words=("samples", "time step"),
            nan=True,
        )
        for f, names in {
            VELOCITY.input: ("x",),
            VELOCITY.target: ("x0", "noise"),
            VELOCITY.noise: ("u", "v"),
        }.items()
    },
    "models.unet.UNet": call(
        PRIORS["image"].network,
        "x:tensor t:tensor",
        lambda: {"x": rand(2, 3, 16, 16), "t": torch.tensor([3.0, 400.0])},
        words=("input", "time steps"),
        exact_dtype=True,
        nan=True,
    ),
    "models.files.read_weights": call(
        files.read_weights,
        "path:path",
        lambda: {"path": place() / "priors" / "small.safetensors"},
        words=("checkpoint", "cannot be read"),
    ),
    "models.files.load_adm": call(
        lambda path: files.load_adm(path, SMALL.config).state_dict(),
        "path:path",
        lambda: {"path": place() / "priors" / "small.safetensors"},
        words=("checkpoint", "cannot be read"),
    ),
    "models.files.save_prior": call(
        lambda name, folder: files.save_prior(name, SMALL, {"licence": "für Forschung"}, folder).name,
        "name:choice folder:path",
        lambda: {"name": "new", "folder": place() / "saved"},
    ),
    "models.files.prior_card": call(
        files.prior_card,
        "name:choice folder:path",
        lambda: {"name": "small", "folder": place() / "priors"},
        words=("prior",),
    ),
    "models.files.load_prior": call(
        lambda name, folder: files.load_prior(name, folder=folder)(rand(1, 1, 8, 8), 3),
        "name:choice folder:path",
        lambda: {"name": "small", "folder": place() / "priors"},
        words=("prior",),
    ),
    # ---- baselines ----
    "baselines.pan.deblur": call(
        lambda **a: pan.deblur(**a, settings=pan.Settings(0.0, 0.1, 1e-3, 0.1, rounds=1)),
        "measurement:tensor kernel_size:whole",
        lambda: {"measurement": rand(1, 1, 12, 12), "kernel_size": 3},
        tolerance=1e-3,
    ),
    "baselines.self_deblur.deblur": call(
        self_deblur.deblur,
        "measurement:tensor kernel_size:whole seeds:seeds steps:whole rate:number",
        lambda: {"measurement": rand(1, 1, 12, 12), "kernel_size": 7, "seeds": [3], "steps": 1, "rate": 0.01},
        tolerance=1e-3,
    ),
    "baselines.supervised.restore": call(
        partial(supervised.restore, PRIORS["image"]),
        "measurement:tensor",
        images("measurement"),
        words=("input",),
    ),
    "baselines.wiener.wiener": call(
        wiener.wiener,
        "measurement:tensor kernel:tensor balance:number boundary:choice",
        images("measurement", kernel=lambda: kernel(2, 1, 7, 1), balance=0.02, boundary="circular"),
    ),
    "baselines.diffpir.WhiteErrors.error": call(
        lambda lam, channels, size: diffpir.WhiteErrors(FEW, lam, channels).error(3, size),
        "lam:number channels:whole size:seeds",
        lambda: {"lam": 3.0, "channels": 2, "size": [8, 6]},
    ),
    "baselines.diffpir.diffpir": call(
        lambda measurement, kernel, evaluations, lam, zeta, sigma, seeds: (
            final(diffpir.diffpir(measurement, kernel, FEW, evaluations, lam, zeta, sigma=sigma, seeds=seeds)).x
        ),
        "measurement:tensor kernel:tensor evaluations:whole lam:number zeta:number sigma:number seeds:seeds",
        lambda: {
            "measurement": rand(2, 1, 8, 8),
            "kernel": kernel(2, 1, 3, 3),
            "evaluations": 2,
            "lam": 300.0,
            "zeta": 0.3,
            "sigma": 0.1,
            "seeds": [3, 4],
        },
        tolerance=0.05,
        words=("input", "image", "churn"),
    ),
    "baselines.fast_em.fast_em": call(
        lambda measurement, evaluations, sigma, seeds, boundary: (
            final(
                fast_em.fast_em(
                    measurement, FEW, FEW, evaluations, sigma=sigma, seeds=seeds, boundary=boundary, inner=1
                )
            ).theta
        ),
        "measurement:tensor evaluations:whole sigma:number seeds:seeds boundary:choice",
        lambda: {
            "measurement": rand(2, 1, 8, 8),
            "evaluations": 2,
            "sigma": 0.1,
            "seeds": [3, 4],
            "boundary": "reflect",
        },
        words=("input", "image", "steps"),
    ),
    "baselines.fast_em.kernel_map": call(
        lambda **a: fast_em.kernel_map(**a, prior=FEW, inner=1),
        "x_hat:tensor y:tensor k:tensor sigma:number boundary:choice spread:number level:number iterations:whole",
        lambda: {
            "x_hat": rand(2, 1, 12, 10),
            "y": rand(2, 1, 12, 10),
            "k": kernel(2, 1, 8, 8),
            "sigma": 0.1,
            "boundary": "reflect",
            "spread": 0.01,
            "level": 0.1,
            "iterations": 2,
        },
        words=("ratio", "input"),
    ),
    "baselines.gibbs_ddrm.gibbs_ddrm": call(
        lambda measurement, evaluations, repeats, sigma, seeds, boundary: (
            final(
                gibbs_ddrm.gibbs_ddrm(
                    measurement, FEW, (4, 4), evaluations, repeats, sigma=sigma, seeds=seeds, boundary=boundary, std=0.5
                )
            ).theta
        ),
        "measurement:tensor evaluations:whole repeats:whole sigma:number seeds:seeds boundary:choice",
        lambda: {
            "measurement": rand(2, 1, 8, 8),
            "evaluations": 2,
            "repeats": 1,
            "sigma": 0.1,
            "seeds": [3, 4],
            "boundary": "reflect",
        },
        tolerance=1e-3,
        words=("input", "image", "steps"),
    ),
    "baselines.gibbs_ddrm.passes": call(
        lambda evaluations, repeats, begins: gibbs_ddrm.passes(LINEAR, evaluations, repeats, begins),
        "evaluations:whole repeats:whole begins:number",
        lambda: {"evaluations": 7, "repeats": 2, "begins": 0.5},
    ),
    "baselines.gibbs_ddrm.langevin": call(
        lambda **a: gibbs_ddrm.langevin(**a, draws=[0.0]),
        "x:tensor y:tensor kernel:tensor sigma:number rate:number weight:number boundary:choice",
        lambda: {
            "x": rand(2, 1, 12, 10),
            "y": rand(2, 1, 12, 10),
            "kernel": kernel(2, 1, 5, 3),
            "sigma": 0.1,
            "rate": 1e-4,
            "weight": 0.1,
            "boundary": "zero",
        },
    ),
    "baselines.ilvr.low_pass": call(ilvr.low_pass, "x:tensor factor:whole", images("x", factor=2)),
    "baselines.ilvr.ILVR": call(
        lambda measurement, factor, seeds: ilvr.ILVR(measurement, factor, seeds)(
            State(9, 5, {}, {"image": measurement}, {}), {"image": measurement}
        ),
        "measurement:tensor factor:whole seeds:seeds",
        images("measurement", factor=2, seeds=lambda: [3, 4]),
        words=("x",),
    ),
    # ---- one photo ----
    "photo.noise_level": call(photo.noise_level, "photo:tensor", lambda: {"photo": rand(3, 12, 13)}),
    "photo_kernels.liveliest": call(
        photo_kernels.liveliest, "y:tensor side:whole", lambda: {"y": rand(1, 3, 12, 13), "side": 8}, words=("y",)
    ),
    "photo.seen": call(
        lambda frame: photo.seen(frame, (3, 5), (10, 12)), "frame:tensor", lambda: {"frame": rand(1, 3, 12, 16)}
    ),
    "photo_kernels.extent": call(
        photo_kernels.extent, "kernel:tensor share:number", lambda: {"kernel": kernel(1, 1, 7, 5), "share": 0.1}
    ),
    "photo_kernels.enlarged": call(
        photo_kernels.enlarged, "kernel:tensor scale:number", lambda: {"kernel": kernel(1, 1, 8, 8), "scale": 2.0}
    ),
    "photo_kernels.shrunk": call(
        photo_kernels.shrunk, "y:tensor scale:number", lambda: {"y": rand(1, 3, 12, 13), "scale": 2.0}
    ),
    "photo.to_linear": call(photo.to_linear, "photo:tensor", lambda: {"photo": rand(3, 8, 9)}),
    "photo.from_linear": call(photo.from_linear, "image:tensor", lambda: {"image": rand(3, 8, 9)}),
    # ---- study ----
    "study.score.has_diverged": call(score.has_diverged, "ratio:tensor", lambda: {"ratio": torch.tensor([1.0, 5.0])}),
    "study.score.residual_ratio": call(
        score.residual_ratio,
        "loss:tensor measurement:tensor sigma:number",
        images("measurement", loss=lambda: torch.ones(2), sigma=0.1),
        nan=True,
    ),
    "study.progress.keep": call(
        lambda count, steps: [s.t for s in progress.keep(states(), count, steps)],
        "count:whole steps:whole",
        lambda: {"count": 2, "steps": 4},
    ),
    "study.progress.progress": call(
        lambda steps: [s.t for s in progress.progress(states(), steps)], "steps:whole", lambda: {"steps": 4}
    ),
    "study.statistics.bootstrap": call(
        lambda seed, draws: statistics.bootstrap(np.arange(5.0), seed, draws),
        "seed:whole draws:whole",
        lambda: {"seed": 0, "draws": 20},
    ),
}

EXEMPT = dict.fromkeys(
    (
        "sampler.State",
        "models.prior.Prediction",
        "baselines.pan.Settings",
        "sampler.Guidance",
        "models.conditional.ConditionalPrior",
        "data.photo_files.Photo",
    ),
    "a record or a protocol",
)
EXEMPT |= dict.fromkeys(
    ("exact_steps.conjugate_gradients", "exact_steps.filtered"), "an inner step, whose caller has checked"
)
EXEMPT |= dict.fromkeys(("convolutions.fitting", "convolutions.pixels"), "the checks themselves")
EXEMPT |= dict.fromkeys(("sampler.Component", "sampler.final", "guidance.DPS.fits"), "in sampler.sample")
EXEMPT |= dict.fromkeys(
    (
        "blind_steps.Plan",
        "few_steps.Known",
        "few_steps.posed",
        "few_steps.PriorWithErrors",
        "few_steps.refined",
        "blind_steps.alternated",
        "blind_steps.choice",
        "blind_steps.surprises",
        "few_steps.Known.each",
        "kernel_refinement.Refinement",
        "kernel_refinement.Refinement.deviation",
        "few_steps.ratio_of",
    ),
    "in few_steps.restore_known and blind_steps.restore_blind",
)
EXEMPT |= dict.fromkeys(
    ("baselines.diffpir.WhiteErrors", "few_steps.inflated", "few_steps.finite", "baselines.gibbs_ddrm.updates"),
    "in the calls that take them",
)
EXEMPT |= dict.fromkeys(
    ("few_steps.PriorWithErrors", "few_steps.PriorWithErrors.error", "few_steps.ratio_of"),
    "a protocol; a time step of ours",
)
EXEMPT |= dict.fromkeys(
    ("few_steps.masked", "few_steps.Known.told"), "in few_steps.restore_known, tests/test_few_steps.py"
)
EXEMPT |= dict.fromkeys(
    (
        "photo_kernels.Priors",
        "photo_kernels.Priors.load",
        "photo_kernels.KernelEstimate",
        "photo_kernels.kernel_steps",
        "photo_kernels.quarter_steps",
        "photo.Restored",
        "photo.restore",
        "photo.restore_steps",
        "photo_kernels.Search",
    ),
    "takes the committed priors, tests/test_photo.py",
)
EXEMPT |= dict.fromkeys(("schedule.rounded",), "an inner step, which the formulas call")
EXEMPT |= dict.fromkeys(("guidance.operator_parameters",), "takes a function alone")
EXEMPT |= dict.fromkeys(
    ("metrics.checks.Unmeasurable", "metrics.checks.one_shape", "metrics.checks.images"), "the checks themselves"
)
EXEMPT |= dict.fromkeys(
    ("data.splits.fetch_archive", "data.splits.fetch_faces", "metrics.distances.inception_features"), "downloads"
)
EXEMPT |= dict.fromkeys(
    ("data.splits.faces", "data.splits.cats", "data.splits.training_pictures", "data.splits.pictures_of"),
    "reads sets that are not on every machine; tests/test_images.py makes some",
)
EXEMPT |= dict.fromkeys(
    (
        "data.images.NotAtHand",
        "data.splits.quickstart_images",
        "metrics.perceptual.vgg16_features",
        "models.seeded.plain_torch",
        "models.files.best_device",
        "models.unet.UNetConfig.as_dict",
    ),
    "takes no argument",
)
EXEMPT |= dict.fromkeys(
    (
        "metrics.samples.two_sample_test",
        "study.score.figures",
        "study.statistics.aggregate",
        "study.statistics.difference",
        "study.statistics.picture",
    ),
    "takes tables or records, checked where they are made",
)
EXEMPT |= dict.fromkeys(
    (
        "models.files.best_precision",
        "models.files.precision_for",
        "models.prior.NetworkPrior.with_label",
        "models.prior.NetworkPrior.repeated",
        "models.any_size.AnySize.repeated",
        "models.any_size.AnySize.error",
        "models.any_size.cuts",
    ),
    "takes a device, a card or a label: tests/test_prior.py",
)
EXEMPT |= dict.fromkeys(
    (
        "models.group_norm.GroupNorm",
        "models.group_norm.GroupNorm.forward",
        "models.unet.fold_patches",
        "models.unet.unfold_patches",
        "models.unet.timestep_embedding",
        "models.group_norm.Normalised",
        "models.group_norm.Normalised.forward",
        "models.group_norm.Normalised.backward",
        "models.unet.UNetConfig",
        "models.unet.UNet.forward",
        *(f"models.unet.{n}{m}" for n in ("ResBlock", "AttentionBlock", "Stage") for m in ("", ".forward")),
        "baselines.self_deblur.Scale",
        "baselines.self_deblur.Scale.forward",
        "baselines.self_deblur.image_network",
        "baselines.self_deblur.kernel_network",
        "baselines.pan.estimate_kernel",
        "baselines.pan.deconvolve_l0",
        "baselines.pan.deconvolve_tv",
    ),
    "a part of a network or of a method, whose caller has checked",
)
