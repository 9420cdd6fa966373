import sys; sys.path.insert(0, "/tmp/nb")
from lib import write
md, code = (lambda t: ("md", t)), (lambda t: ("code", t))

PARAMETERS = ("parameters", """
import os

SCALE = os.environ.get("SCALE", "pocket")
SEED = 0
RETRAIN = False  # True: train the committed weights anew, for hours; interrupted, it goes on when run again
""")

def imports(degradations, extra=""):
    return code(f"""
import tempfile
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from IPython.display import display

import pdm
from pdm import distributions, experiments, figures, recipes, reproduce
from pdm.degradations import {degradations}
from pdm.priors import NetworkPrior, best_precision, load_prior, prior_card
from pdm.schedule import Schedule
from pdm.training import train
{extra}
print(f"pdm {{pdm.__version__}}, torch {{torch.__version__}}, networks in {{best_precision()}}")
""")

def committed(name, what):
    return [
        md(f"""
## The committed prior

`RETRAIN` trains it again by `pdm.recipes`, and so does `bench` where the weights are missing; `python -m pdm.recipes {name}` is the same from a
command line. Its checkpoint is written every four minutes.
"""),
        code(f"""
if RETRAIN or (SCALE == "bench" and not recipes.is_trained("{name}")):
    for state in recipes.train_prior("{name}", seed=SEED):
        print("{{:>9.0f}} {what}  training {{:.4f}}  held out {{:.4f}}".format(*state["curve"][-1]))
card = prior_card("{name}")
shown = {{k: card[k] for k in ("data", "terms", "images_seen", "velocity", "schedule")}}
display(pd.Series(shown | card["network"], name="{name} prior").to_frame().style.set_properties(**{{"text-align": "left"}}))
display(pd.DataFrame(card["runs"]))
figures.loss_curve(card["curve"]["rows"])
"""),
    ]

def bands(name, make):
    return [
        md("""
## Losses by noise level

The squared error of the predicted noise in eight bands of time steps. Training never sees a sample twice, so that "train" and "test" are
two draws from one generator, with the same time steps and noise: what differs between them is chance, and shows how much of it there is.
"""),
        code(f"""
N = {{"smoke": 4, "pocket": 100}}.get(SCALE, 4000)
rows = []
for seed, split in ((SEED, "train"), (SEED + 10_000, "test")):
    x0 = {make}
    part = {{"name": "bands", "prior": "{name}", "split": split, "n": N, "seed": seed, **key}}
    rows += reproduce.finished(SCALE, part, partial(experiments.band_rows, "{name}", "generated", split, prior, x0))
losses = pd.DataFrame(rows)
reproduce.update_table(losses, "priors", SCALE, "prior")
display(losses.pivot(index=["t_low", "t_high"], columns="split", values="loss").round(4))
figures.bands(losses)
"""),
    ]

write("04_kernel_prior", [
md(r"""
# The kernel prior

The second of the two reverse diffusions runs over blur kernels. Its prior is a network like the image's, trained on kernels that a
generator makes on the fly: five paths of a shaken camera to one Gaussian, as in the paper, on a canvas of 32 pixels for its 64. This
notebook looks at what the generator makes, trains a small prior on it in a minute or two, and compares samples of the committed prior with the
generator's own, by eye and by numbers.
"""),
imports("from_model_range, gaussian_kernels, motion_kernels, random_kernels, to_model_range"),
PARAMETERS,
md(r"""
## What it learns

Motion kernels: rows from intensity 0.2 to 1.0. A heading makes a random walk with now and then a jerk, and the speed varies, so that light
gathers where the camera is slow.
"""),
code("""
draw = torch.Generator().manual_seed(SEED)
intensities = torch.linspace(0.2, 1.0, 5).repeat_interleave(12)
figures.sheet(motion_kernels(60, 32, intensities, draw), 12)
"""),
md(r"""
Gaussian kernels, of standard deviation 0.05 to 2.5 pixels: the paper's 0.1 to 5.0, which are of a canvas twice as wide.
"""),
code("""
figures.sheet(gaussian_kernels(12, 32, torch.linspace(0.05, 2.5, 12)), 12)
"""),
md(r"""
The network sees a kernel scaled so that its largest pixel is 1 and black is -1. The scale is lost by that, and is not missed: on the way to
the operator an estimate is shifted, clipped and divided by its sum.

## Denoising score matching, again in three lines

$x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$; the score is $-\mathbb E[\epsilon \mid x_t]/\sqrt{1-\bar\alpha_t}$; and the
conditional mean is what least squares finds (notebook 03 derives and tests it). In code, one step of training is the following, of
which `pdm.training.train` adds the averaging of weights, the learning rate and the checkpoint. The network predicts velocities;
for kernels that matters: nearly all of their pixels are black, and a network that predicts noise must reproduce what it sees there to a
thousandth or the estimate turns grey.
"""),
code("""
recipe, schedule = recipes.RECIPES["kernel"], Schedule.linear()
narrow = replace(recipe.network, model_channels=16, num_head_channels=16)
x0 = to_model_range(random_kernels(8, 32, draw))
t, noise = torch.randint(1000, (8,), generator=draw), torch.randn(x0.shape, generator=draw)
network = pdm.unet.UNet(narrow)
u = recipe.velocity.input(schedule, schedule.diffuse(x0, noise, t), t)  # x_t, scaled
loss = (network(u, t) - recipe.velocity.target(schedule, x0, noise, t)).square().mean()
loss.backward()
print(f"a network that knows nothing: {loss.item():.2f}")
"""),
md("""
## A small one, trained here and now

A quarter of the committed network's weights, and a small part of its training.
"""),
code("""
IMAGES = {"smoke": 64, "pocket": 12_000, "bench": 16_000, "paper": 16_000}[SCALE]
small = replace(recipe, images=IMAGES, network=narrow, rate=1e-3, ema=0.998)
with tempfile.TemporaryDirectory() as folder:
    *_, state = train(small, f"{folder}/kernel.pt", SEED, held_out=64, points=20)
print(f"{state['seen']} kernels in {state['seconds']:.0f} s")
figures.loss_curve(state["curve"])
"""),
code("""
STEPS = {"smoke": 2}.get(SCALE, 200)
live = NetworkPrior(state["ema"], None, best_precision(), recipe.velocity)
figures.sheet(from_model_range(experiments.draw(live, range(24), STEPS)), 12)
"""),
md("""
After a minute: light near the centre, in blobs and pieces, and grain all over the canvas. That a kernel is one stroke on black takes longer to learn.
"""),
*committed("kernel", "kernels"),
md("""
## Samples

Sixty-four, by 200 deterministic steps (DDIM), in the range that the network knows; white is the largest pixel. To the eye they are the same with 50.
"""),
code("""
prior = load_prior("kernel")
key = {"sha256": card["sha256"], "precision": str(best_precision()), "steps": STEPS}
COUNT = {"smoke": 8, "pocket": 128}.get(SCALE, 1000)


def drawn(first, count):
    part = {"name": "samples", "prior": "kernel", "first": first, "count": count, **key}
    return reproduce.finished(SCALE, part, partial(experiments.draw, prior, range(first, first + count), STEPS))


size = min(COUNT, 64)
samples = from_model_range(torch.cat([drawn(i, size) for i in range(0, COUNT, size)])[:COUNT])
figures.sheet(samples[:64])
"""),
md("""
Paths of all lengths and round Gaussians. What is wrong with them: strokes are patchier than the generator's and some fall into pieces, and long, thin ones are rare; a
faint haze, hardly seen here, lies over the canvas (`support` below counts it).

The same number of the generator's own:
"""),
code("""
reference = random_kernels(COUNT, 32, torch.Generator().manual_seed(SEED + 1))
figures.sheet(reference[:64])
"""),
md("""
In numbers: means of some figures over samples and over the generator's kernels, and Kolmogorov and Smirnov's test of each: `ks` is the largest gap
between the two distribution functions, `p` how often chance alone makes it as large.
"""),
code("""
ours, theirs = distributions.kernel_statistics(samples), distributions.kernel_statistics(reference)
statistics = distributions.two_sample_test(ours, theirs)
statistics.insert(0, "prior", "kernel")
reproduce.update_table(statistics, "prior_statistics", SCALE, "prior")
statistics.style.format(precision=4)
"""),
md("""
Samples can be told from the generator's kernels, above all by `support` and `spread`, which are too large. Both count faint light far from the centre: a thousand black pixels that are wrong by a
hundredth weigh as much as a path does. `total_variation` and `fine_power` come out within a tenth.
"""),
md(r"""
## What it makes of noise

Kernels, with noise, and the denoised estimates by Tweedie's formula: with much noise, the mean of all kernels.
"""),
code("""
x0 = to_model_range(random_kernels(5, 32, torch.Generator().manual_seed(SEED + 2)))
columns = {"kernel": from_model_range(x0)}
for t in (100, 250, 400, 600, 800):
    x_t = schedule.diffuse(x0, torch.randn(x0.shape, generator=draw), t)
    with torch.no_grad():
        estimate = schedule.tweedie(x_t, prior(x_t, t).noise, t)
    columns |= {f"noise, t = {t}": x_t - x_t.min(), f"estimate, {t}": from_model_range(estimate).clamp(0)}
figures.grid(columns, [""] * 5)
"""),
*bands("kernel", "to_model_range(random_kernels(N, 32, torch.Generator().manual_seed(seed)))"),
md("""
## What this notebook claims

While the small network trains its held-out loss falls. The committed prior's losses on two draws of kernels differ by no more than chance. At `bench` they lie below those of
the first version of this prior (80,000 kernels, the same network) in every band of noise.
"""),
code("""
wide = losses.pivot(index="t_low", columns="split", values="loss")
assert losses.loss.gt(0).all() and statistics.ks.between(0, 1).all()
if SCALE != "smoke":
    assert state["curve"][-1][2] < state["curve"][0][2]
    assert (wide.test / wide.train - 1).abs().max() < (0.05 if SCALE == "bench" else 0.5)
first = reproduce.ROOT / "results" / "bench" / "tables" / "priors_first.csv"
if SCALE == "bench":
    before = pd.read_csv(first).query("prior == 'kernel' and split == 'test'").set_index("t_low").loss
    assert (wide.test < before).all()
"""),
])

write("05_tilt_prior", [
md(r"""
# The tilt prior

Seen through turbulent air, a scene is not only blurred: each of its points is displaced. The displacements are a *tilt field*, two channels
the size of the image, and they are the third unknown of Algorithm 2. This notebook shows the fields that the prior learns and how their
parameters follow from the paper's, trains a small prior, and compares samples of the committed one with the generator's.
"""),
imports("TILT_BOUND, tilt_fields"),
PARAMETERS,
md(r"""
## What it learns

The paper adds up 500 patches of smoothed white noise at random places: for 256 pixels of half-width 32, smoothed by a Gaussian of standard
deviation 1 pixel, of a strength uniform in (0.1, 0.4); displacements are clipped at 2.5 pixels. For 64 pixels here

| | paper, 256 pixels | here, 64 pixels | why |
|---|---|---|---|
| half-width of a patch | 32 | 8 | an eighth of the side, so that each pixel lies in 31 patches, as there |
| smoothing, std | 1 pixel | 1 pixel | less than a pixel is no smoothing |
| strength | 0.1 to 0.4 | 0.15 to 0.6 | displacements of 0.6 pixels root mean square (0.4 by the paper's), so that they are seen |
| bound | 2.5 pixels | 2.5 pixels | |

so that a field is coarser against the picture than the paper's. Sums of white noise are white noise: the patches need not be smoothed and added
one by one (see `degradations.tilt_fields`). Arrows show every fourth displacement, four times as long as it is;
colour is its length, white 0 and dark 2.5 pixels.
"""),
code("""
draw = torch.Generator().manual_seed(SEED)
examples = tilt_fields(4, 64, draw)
print(f"root mean square {examples.square().mean().sqrt():.2f} pixels, largest {examples.abs().max():.2f}")
figures.fields(examples)
"""),
md(r"""
## A small one, trained here and now

By denoising score matching, as notebooks 03 and 04 derive it. A field is nearly Gaussian and looks the same everywhere, so that there is
little to learn: how neighbours go together, and that some regions are calmer than others. The network sees displacements divided by their
bound.
"""),
code("""
recipe, schedule = recipes.RECIPES["tilt"], Schedule.linear()
IMAGES = {"smoke": 32, "pocket": 4_000, "bench": 4_000, "paper": 4_000}[SCALE]
small = replace(recipe, images=IMAGES, rate=1e-3, ema=0.995)
with tempfile.TemporaryDirectory() as folder:
    *_, state = train(small, f"{folder}/tilt.pt", SEED, held_out=64, points=20)
print(f"{state['seen']} fields in {state['seconds']:.0f} s")
figures.loss_curve(state["curve"])
"""),
code("""
STEPS = {"smoke": 2}.get(SCALE, 50)
live = NetworkPrior(state["ema"], None, best_precision(), recipe.velocity)
figures.fields(TILT_BOUND * experiments.draw(live, range(4), STEPS))
"""),
*committed("tilt", "fields"),
md("""
## Samples

By 50 deterministic steps; four of them are shown.
"""),
code("""
prior = load_prior("tilt")
key = {"sha256": card["sha256"], "precision": str(best_precision()), "steps": STEPS}
COUNT = {"smoke": 4, "pocket": 48}.get(SCALE, 1000)


def drawn(first, count):
    part = {"name": "samples", "prior": "tilt", "first": first, "count": count, **key}
    return reproduce.finished(SCALE, part, partial(experiments.draw, prior, range(first, first + count), STEPS))


size = min(COUNT, 50)
samples = TILT_BOUND * torch.cat([drawn(i, size) for i in range(0, COUNT, size)])[:COUNT]
figures.fields(samples[:4])
"""),
code("""
reference = tilt_fields(COUNT, 64, torch.Generator().manual_seed(SEED + 1))
ours, theirs = distributions.tilt_statistics(samples), distributions.tilt_statistics(reference)
statistics = distributions.two_sample_test(ours, theirs)
statistics.insert(0, "prior", "tilt")
reproduce.update_table(statistics, "prior_statistics", SCALE, "prior")
statistics.style.format(precision=4)
"""),
md("""
To the eye they are the same fields. In numbers the samples are calmer, by a twentieth or so in `rms`, `total_variation` and `largest`, and 48 of them are enough to see it; a prior that is not trained to the
end pulls towards its mean, which is no tilt at all. Correlation length and fine power, the texture, come out right within a twentieth too.
"""),
md(r"""
## What it makes of noise

The first channel of fields, with noise, and their denoised estimates by Tweedie's formula.
"""),
code("""
x0 = tilt_fields(3, 64, torch.Generator().manual_seed(SEED + 2)) / TILT_BOUND
columns = {"tilt": (x0[:, :1] + 1) / 2}
for t in (100, 250, 400, 600):
    x_t = schedule.diffuse(x0, torch.randn(x0.shape, generator=draw), t)
    with torch.no_grad():
        estimate = schedule.tweedie(x_t, prior(x_t, t).noise, t)
    columns |= {f"noise, t = {t}": (x_t[:, :1] + 3) / 6, f"estimate, {t}": (estimate[:, :1] + 1) / 2}
figures.grid(columns, [""] * 3)
"""),
*bands("tilt", "tilt_fields(N, 64, torch.Generator().manual_seed(seed)) / TILT_BOUND"),
md("""
## What this notebook claims

The generator's displacements are between 0.4 and 1 pixel root mean square, so that they are seen. While the small network trains its held-out loss falls. The committed prior's
losses on two draws of fields differ by no more than chance, and its samples' root mean square is within a tenth of the generator's.
"""),
code("""
wide = losses.pivot(index="t_low", columns="split", values="loss")
assert losses.loss.gt(0).all() and statistics.ks.between(0, 1).all()
assert 0.4 < examples.square().mean().sqrt() < 1
if SCALE != "smoke":
    assert state["curve"][-1][2] < state["curve"][0][2]
    assert (wide.test / wide.train - 1).abs().max() < (0.05 if SCALE == "bench" else 0.5)
    rms = statistics.set_index("statistic").loc["rms"]
    assert abs(rms.samples / rms.generator - 1) < 0.1
"""),
])
