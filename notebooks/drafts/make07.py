import sys; sys.path.insert(0, "/tmp/nb")
from lib import write
md, code = (lambda t: ("md", t)), (lambda t: ("code", t))
write("07_turbulence", [
md(r"""
# Through turbulent air: Table 3, Fig. 5

Over a hot road every point of a scene is displaced, differently from one moment to the next, and the whole is blurred: $y = k * T_\phi(x) + n$ with a tilt field $\phi$, two
numbers a pixel. Algorithm 2 is Algorithm 1 with a third component; the sampler does not know that it has three. With several frames of one scene there is a tilt for each,
and by Remark 1 each is a component more.
"""),
code("""
import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import display

import pdm
from pdm import benchmark, datasets, figures, metrics, recipes, reproduce
from pdm import restoration as r
from pdm import turbulence as air
from pdm.benchmark import Method
from pdm.degradations import gaussian_kernels, tilt_fields
from pdm.priors import best_precision

print(f"pdm {pdm.__version__}, torch {torch.__version__}, networks in {best_precision()}")
"""),
("parameters", """
import os

SCALE = os.environ.get("SCALE", "pocket")
SEED = 0
"""),
md(r"""
## What is seen

A Gaussian of standard deviation 0.5 pixels, and tilts of 0.6 pixels root mean square as in notebook 05. The paper's main text says standard deviations of 4.0 (faces) and 2.0
(ImageNet) at 256 pixels, its supplement 0.4 and 0.2, and the release 3.0 whatever is asked for: ours is the main text's 2.0 on a quarter of the side. The same field displaces every second photograph's pixels
in all methods.
"""),
code("""
N, STEPS, KNOWN = {"smoke": (1, 2, 2), "pocket": (3, 250, 100)}.get(SCALE, (48, 1000, 250))
STD = 0.5


def cases(domain, frames=1, count=N):
    truth = recipes.image_set({"photos": "wheels"}.get(domain, domain), "test", count)
    draw = [torch.Generator().manual_seed(SEED + i) for i in range(count)]
    tilts = torch.cat([torch.cat([tilt_fields(1, 64, g) for _ in range(frames)], dim=1) for g in draw])
    return air.turbulent_cases(truth, gaussian_kernels(count, 32, STD), tilts, range(SEED, SEED + count))


scene = cases("photos")
display(figures.grid({"photograph": scene.truth[:3], "seen": scene.measurement[:3]}, list(scene.names[:3])))
display(figures.fields(scene.tilts[:3], 3))
"""),
md("""
## Table 3
"""),
code("""
def methods(domain):
    blind, dps = {"label": domain, "steps": STEPS}, {"label": domain, "steps": KNOWN}
    found = [Method("blurred", r.blurred), Method("known_operator", air.known_operator, dps, ("image",))]
    found += [Method("blind_dps", air.blind, blind, ("image", "kernel", "tilt"))]
    found += [Method("blind_dps_blur_only", air.blur_only, blind, ("image", "kernel"))]
    found += [Method("uniform_tilt", air.uniform_tilt, blind, ("image", "kernel")), Method("ilvr", air.ilvr, dps, ("image",))]
    trained = [name for name in ("turbulence_regression", "turbulence_adversarial") if recipes.is_trained(name)]
    return found + [Method(name, r.supervised, {"name": name}, (name,), 64) for name in trained]


def at_hand(domain):
    try:
        return len(recipes.image_set({"photos": "wheels"}.get(domain, domain), "test", 1)) > 0
    except datasets.NotAtHand:
        return False
"""),
code("""
DOMAINS = ["photos"] if SCALE in ("smoke", "pocket") else [d for d in ("faces", "photos") if at_hand(d)]
COLUMNS = ["dataset", "method", "n", "frames", "psnr", "psnr_lo", "psnr_hi", "ssim", "lpips", "lpips_lo", "lpips_hi", "fd_vgg", "kid"]
COLUMNS += ["mnc", "tilt_epe", "diverged", "seconds_per_image", "steps", "scale"]
results, tables = {}, []
for domain in DOMAINS:
    these = cases(domain)
    found = results[domain] = benchmark.run(methods(domain), these, SCALE)
    tables.append(benchmark.aggregate(found, these.truth).assign(dataset=domain, frames=1, scale=SCALE))
single = pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)
single.drop(columns=["scale", "psnr_lo", "psnr_hi", "lpips_lo", "lpips_hi"]).round(3)
"""),

md(r"""
`known_operator` is told kernel and tilts. `blind_dps_blur_only` takes the turbulence for a blur; `uniform_tilt` has no prior over tilts; `ilvr` holds the image prior to
the low frequencies of what is seen and knows of no operator. Rows of `tilt_epe`: the mean distance in pixels between estimated and true displacement; that of saying "no
displacement" is
"""),
code("""
still = {domain: metrics.end_point_error(0 * c.tilts, c.tilts).mean().item() for domain, c in ((d, cases(d)) for d in DOMAINS)}
still
"""),
md("""
## Fig. 5
"""),
code("""
found, shown = results["photos"], slice(0, 3)
columns = {name: part["image"][shown] for name, part in found.items()} | {"photograph": scene.truth[shown]}
display(figures.grid(columns, list(scene.names[shown])))
display(figures.fields(torch.cat([found["blind_dps"]["tilt"][shown], scene.tilts[shown]]), 3))
"""),
md("""
Above, the tilts as Algorithm 2 has them; below, the true ones.

Does the image suffer where the tilt is wrong? Each dot is an image.
"""),
code("""
each = pd.concat([pd.DataFrame(part["blind_dps"]["rows"]).assign(dataset=d) for d, part in results.items()])
figure, axis = plt.subplots(figsize=(5, 3.2), dpi=80)
for (name, part), marker in zip(each.groupby("dataset"), "os", strict=False):
    axis.plot(part.tilt_epe, part.lpips, marker, color="0.3" if marker == "o" else "0.6", label=name)
axis.set(xlabel="end-point error of the tilt, pixels", ylabel="LPIPS of the image")
axis.legend()
figure.tight_layout()
figure.savefig(reproduce.results_dir(SCALE) / "figures" / "tilt_against_lpips.png")
plt.close(figure)
display(figure)
print("rank correlation", each[["tilt_epe", "lpips"]].corr("spearman").iloc[0, 1].round(2))
"""),
md(r"""
## What each frame buys

K frames of one photograph, through one kernel and K tilts: K + 2 components, the same loop.
"""),
code("""
FRAMES = {"smoke": (1, 2), "pocket": (1, 2)}.get(SCALE, (1, 2, 4))
tables = [single]
for domain in DOMAINS:
    for frames in FRAMES[1:]:
        these, blind = cases(domain, frames), {"label": domain, "steps": STEPS}
        method = Method("blind_dps", air.blind, blind, ("image", "kernel", "tilt"))
        part = benchmark.aggregate(benchmark.run([method], these, SCALE), these.truth)
        tables.append(part.assign(dataset=domain, frames=frames, scale=SCALE))
table = pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)
reproduce.write_table(table, "turbulence", SCALE)
shown = ["dataset", "frames", "n", "psnr", "lpips", "mnc", "tilt_epe", "diverged", "seconds_per_image"]
table[table.method == "blind_dps"][shown].round(3)
"""),
md("""
## What this notebook claims
"""),
code("""
assert len(table) == len(single) + len(DOMAINS) * (len(FRAMES) - 1) and table.psnr.notna().all()
blind = table[table.method == "blind_dps"]
assert blind.tilt_epe.notna().all()
"""),
])
