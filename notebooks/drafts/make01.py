import sys; sys.path.insert(0, "/tmp/nb")
from lib import write
md, code = (lambda t: ("md", t)), (lambda t: ("code", t))
write("01_theory", [
md(r"""
# Theory: two reverse diffusions that meet in a residual

The paper's argument in small steps, each followed by a cell that shows it. Nothing here is trained: priors are mixtures of Gaussians, or
finitely many images and kernels, so that scores, posteriors and likelihoods are known exactly and every approximation can be held against
the truth.
"""),
code("""
import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import display
from scipy.stats import chisquare, ks_2samp

import pdm
from pdm import datasets, exact, reproduce
from pdm.constraints import shift_and_divide
from pdm.degradations import motion_kernels, to_model_range
from pdm.guidance import DPS, sqrt_alpha_bar
from pdm.operators import blur
from pdm.priors import EmpiricalPrior, GaussianMixture, Prediction
from pdm.sampler import Component, sample
from pdm.schedule import Schedule

print(f"pdm {pdm.__version__}, torch {torch.__version__}")
"""),
("parameters", """
import os

SCALE = os.environ.get("SCALE", "pocket")
SEED = 0
"""),
md(r"""
## 1. The forward process, continuous and in steps

The variance-preserving SDE $\mathrm dx = -\tfrac12 \beta(s) x\,\mathrm ds + \sqrt{\beta(s)}\,\mathrm dw$ takes any signal to white noise. Over a step of
length $1/N$ it is $x_i = \sqrt{1-\beta_i}\,x_{i-1} + \sqrt{\beta_i}\,z$ to first order, so that after many steps

$$ x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon, \qquad \bar\alpha_t = \prod_{i \le t} (1-\beta_i). $$

The SDE itself has $\bar\alpha(s) = \exp(-\int_0^s \beta)$. With the paper's 1,000 linear $\beta_i$ the two agree to the accuracy that first order has.
"""),
code("""
schedule = Schedule.linear()
continuous = torch.exp(-schedule.betas.cumsum(0))
gap = (schedule.alpha_bar[:-1].sqrt() - continuous.sqrt()).abs().max().item()
figure, axis = plt.subplots(figsize=(5, 2.8), dpi=80)
axis.plot(schedule.alpha_bar[:-1].sqrt(), "k-", label="signal: sqrt(alpha_bar)")
axis.plot((1 - schedule.alpha_bar[:-1]).sqrt(), "k--", label="noise: sqrt(1 - alpha_bar)")
axis.set(xlabel="time step t", ylabel="weight")
axis.legend()
plt.close(figure)
display(figure)
print(f"the SDE's signal differs by {gap:.4f} at most")
"""),
md(r"""
## 2. Tweedie's formula

$\mathbb E[x_0 \mid x_t] = \bigl(x_t + (1-\bar\alpha_t)\,\nabla \log p(x_t)\bigr) / \sqrt{\bar\alpha_t}$: who knows the score knows the posterior mean. Below, the left side
by numerical integration of Bayes' rule over $x_0$, for a mixture of three Gaussians in one dimension, and the right side from the mixture's
score in closed form.
"""),
code("""
means, weights = torch.tensor([[-0.8], [0.1], [0.7]], dtype=torch.float64), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
line = GaussianMixture(schedule, means, weights, 0.1)
x0 = torch.linspace(-2, 2, 4001, dtype=torch.float64)
density = (weights * torch.exp(-((x0[:, None] - means.T) ** 2) / (2 * 0.1**2))).sum(1)
worst = 0.0
for t in (50, 300, 600):
    a = schedule.alpha_bar[t]
    x_t = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64)
    posterior = density * torch.exp(-((x_t[:, None] - a.sqrt() * x0) ** 2) / (2 * (1 - a)))
    by_bayes = (posterior * x0).sum(1) / posterior.sum(1)
    by_tweedie = schedule.tweedie(x_t[:, None], line(x_t[:, None], t).noise, t)[:, 0]
    worst = max(worst, (by_bayes - by_tweedie).abs().max().item())
print(f"largest difference {worst:.1e}")
"""),
md(r"""
## 3. Walking back

The reverse process needs the score and nothing else. With the exact score, 1,000 ancestral steps (line (4) of Algorithm 1) turn white noise into
draws from the mixture: its weights, means and spreads, and no test tells them from draws made directly.
"""),
code("""
COUNT = {"smoke": 200, "pocket": 3000}.get(SCALE, 20_000)
centres = torch.tensor([[-0.6, -0.2], [0.5, 0.5], [0.4, -0.7]])
shares = torch.tensor([0.5, 0.2, 0.3])
mixture = GaussianMixture(schedule, centres, shares, 0.15)
*_, last = sample({"x": Component(mixture, (2,), clip=None)}, None, range(COUNT))
drawn = last.x0["x"]
nearest = torch.cdist(drawn, centres).argmin(1)
rows = [
    {"weight": s.item(), "found": (nearest == i).float().mean().item(), "mean error": (drawn[nearest == i].mean(0) - c).norm().item(),
     "std": 0.15, "std found": drawn[nearest == i].std(0).mean().item()}
    for i, (c, s) in enumerate(zip(centres, shares, strict=True))
]
pd.DataFrame(rows).round(3)
"""),
code("""
draw = torch.Generator().manual_seed(SEED)
direct = centres[torch.multinomial(shares, COUNT, True, generator=draw)] + 0.15 * torch.randn(COUNT, 2, generator=draw)
fit = {"weights, chi-square": chisquare(nearest.bincount(minlength=3), COUNT * shares.double()).pvalue}
for axis_number in (0, 1):
    fit[f"coordinate {axis_number}, Kolmogorov-Smirnov"] = ks_2samp(drawn[:, axis_number], direct[:, axis_number]).pvalue
pd.Series(fit, name="p").round(3)
"""),
md(r"""
## 4. Two at once

Image and kernel are independent before anything is measured, each with a prior and a diffusion of its own; they are tied by $y$ alone:
"""),
code("""
figure, axis = plt.subplots(figsize=(5.5, 2.2), dpi=80)
nodes = {"$x_t$": (0, 1), "$x_0$": (1, 1), "$y$": (2, 0.5), "$k_0$": (1, 0), "$k_t$": (0, 0)}
for start, end in (("$x_0$", "$x_t$"), ("$x_0$", "$y$"), ("$k_0$", "$y$"), ("$k_0$", "$k_t$")):
    arrow = {"arrowstyle": "-|>", "shrinkA": 14, "shrinkB": 14, "color": "black"}
    axis.annotate("", nodes[end], nodes[start], arrowprops=arrow)
for name, (x, y) in nodes.items():
    axis.text(x, y, name, ha="center", va="center", bbox={"boxstyle": "circle", "fc": "lightgray" if name == "$y$" else "white"})
axis.set(xlim=(-0.3, 2.3), ylim=(-0.3, 1.3))
axis.axis("off")
plt.close(figure)
display(figure)
"""),
md(r"""
By Bayes, the score that the pair's reverse process needs splits,

$$ \nabla \log p(x_t, k_t \mid y) = \nabla \log p(x_t) + \nabla \log p(k_t) + \nabla \log p(y \mid x_t, k_t), $$

for $p(x_t, k_t) = p(x_t)\,p(k_t)$: two priors that need not know of each other, and one term in which they meet. That is all that
independence is needed for, and with three or more components (a tilt; several frames) the sum has more terms and nothing else changes
(Remark 1). The last term is an integral over all $x_0, k_0$ that could lie beneath,
$p(y \mid x_t, k_t) = \iint p(y \mid x_0, k_0)\,p(x_0 \mid x_t)\,p(k_0 \mid k_t)$, again a product by independence, and nobody can compute it for
real images. Theorem 1 puts the posterior means in its place.

## 5. Theorem 1, measured

With finitely many images and kernels as priors the integral is a finite sum. Here are 8x8 crops of photographs and motion kernels of 5
pixels; $y$ is one pair's convolution (circular, so that the kernel's norm as an operator is the largest modulus of its Fourier
transform) with noise. On one side the exact $\log p(y \mid x_t, k_t)$ (`exact.log_likelihood`), on the other
$\log p(y \mid \hat x_0, \hat k_0)$, and the gradients of both in $x_t$ and $k_t$, on draws of $x_t, k_t$ from the process.
"""),
code("""
pixels = torch.nn.functional.avg_pool2d(datasets.photos().images.mean(1, keepdim=True), 8).double()
paths = motion_kernels(12, 5, 0.7, torch.Generator().manual_seed(SEED)).double()
many, several = len(pixels), len(paths)
images = EmpiricalPrior(schedule, pixels, torch.full((many,), 1 / many, dtype=torch.float64))
kernels = EmpiricalPrior(schedule, to_model_range(paths), torch.full((several,), 1 / several, dtype=torch.float64))


def operator(image, kernel):
    return blur(image, shift_and_divide(kernel), "circular")


def norm(signals):
    taken = shift_and_divide(signals) if signals.shape[-1] == 5 else signals
    return torch.fft.fft2(taken, s=(8, 8)).abs().amax((1, 2, 3))


table = exact.measurements(images.points, kernels.points, operator)
figure, axes = plt.subplots(2, 12, figsize=(8, 1.5), dpi=80)
for i, axis in enumerate(axes.flat):
    axis.imshow((pixels[9 * i, 0] if i < 12 else paths[i - 12, 0]).numpy(), cmap="gray")
    axis.axis("off")
plt.close(figure)
display(figure)
"""),
code("""
B = {"smoke": 4, "pocket": 24}.get(SCALE, 200)


def compared(t, sigma):
    draw = torch.Generator().manual_seed(SEED + t)
    i, j = torch.randint(many, (B,), generator=draw), torch.randint(several, (B,), generator=draw)
    noise = [torch.randn(v.shape, generator=draw, dtype=v.dtype) for v in (pixels[i], paths[j], pixels[i])]
    x, k = schedule.diffuse(pixels[i], noise[0], t), schedule.diffuse(kernels.points[j], noise[1], t)
    ys, rows = table[i, j] + sigma * noise[2], []
    for b in range(B):
        at = [v[b : b + 1].clone().requires_grad_() for v in (x, k)]
        true = exact.log_likelihood(ys[b], *at, t, images, kernels, table, sigma)
        near = exact.log_gaussian(ys[b], operator(images.mean(at[0], t), kernels.mean(at[1], t)), sigma)
        pairs = zip(torch.autograd.grad(true, at), torch.autograd.grad(near, at), strict=True)
        rows.append((true.item(), near.item(), [(g.flatten(), h.flatten()) for g, h in pairs], at))
    return rows
"""),
code("""
def figures_of(t, sigma):
    rows = compared(t, sigma)
    cosine = [[torch.cosine_similarity(g, h, 0).item() for g, h in row[2]] for row in rows]
    ratio = [[(h.norm() / g.norm()).item() for g, h in row[2]] for row in rows]
    bounds = [exact.jensen_bound(*row[3], t, images, kernels, norm, 64, sigma).item() for row in rows]
    gaps = [abs(torch.tensor(row[0]).double().exp() - torch.tensor(row[1]).double().exp()).item() for row in rows]
    middle = lambda values: torch.tensor(values, dtype=torch.float64).nanmedian(0).values.tolist()  # noqa: E731
    (cx, ck), (rx, rk) = middle(cosine), middle(ratio)
    (logs,) = middle([[row[0] - row[1]] for row in rows])
    (gap,), (bound,) = middle([[g] for g in gaps]), middle([[b] for b in bounds])
    held = sum(g <= b for g, b in zip(gaps, bounds, strict=True)) / len(gaps)
    return {"t": t, "sigma": sigma, "cosine_image": cx, "cosine_kernel": ck, "ratio_image": rx, "ratio_kernel": rk,
            "log_ratio": logs, "gap": gap, "bound": bound, "bound_holds": held}


TIMES = {"smoke": (100, 600)}.get(SCALE, (25, 100, 200, 300, 400, 500, 600, 700, 800, 950))
theorem = pd.DataFrame([figures_of(t, sigma) for sigma in (0.02, 0.1, 0.5, 2.0) for t in TIMES])
reproduce.write_table(theorem, "theorem_1", SCALE)
theorem[theorem.t.isin((100, 400, 700))].set_index(["sigma", "t"]).style.format(precision=3)
"""),
code("""
figure, axes = plt.subplots(1, 3, figsize=(10, 3), dpi=80)
for (sigma, part), style in zip(theorem.groupby("sigma"), ("-", "--", "-.", ":"), strict=True):
    for axis, column in zip(axes, ("cosine_image", "cosine_kernel", "ratio_image"), strict=True):
        axis.plot(part.t, part[column], "k" + style, label=f"sigma {sigma:g}")
for axis, title in zip(axes, ("cosine of the gradients in $x_t$", "the same in $k_t$", "ratio of their norms in $x_t$"), strict=True):
    axis.set(xlabel="time step t", ylabel=title)
axes[2].set(yscale="log")
axes[0].legend(fontsize=7)
figure.tight_layout()
plt.close(figure)
display(figure)
"""),
md(r"""
Medians over the draws. What to see:

- *Direction.* With noise as strong as the signal (sigma 2) the approximate gradient in $x_t$ points where the exact one does, with a cosine of 0.95 and more from t = 200 on. With the paper's
  sigma of 0.02 it is 0.6 to 0.9, and in $k_t$ it may be anything: what is left of a kernel of 25 pixels at t = 500 is little.
- *Size.* The approximate gradient is too long: by a half at sigma 2, by three to nine times at 0.5, and by *thousands* at 0.02. The exact likelihood forgives a misfit that the spread of $p(x_0 \mid x_t)$ explains; the
  approximation, which knows the mean alone, takes all of it for noise of size sigma. This is why DPS and BlindDPS do not step by $1 / 2\sigma^2$ but by a constant times the gradient of the norm, which is blind to
  sigma: the size is given up, the direction kept. "The gap vanishes as sigma grows" is true here, and is no comfort at sigma 0.02.
- *Least noise.* At t = 25 and 100 an empirical prior is sure of one image, the exact gradient in $x_t$ falls to nothing (it is $10^{-20}$ of the other and less), and its direction means nothing. A prior with a density would not do that; of
  the bottom of the table only the kernel's columns say something.
- *The bound* of Supplement A holds at sigma 0.5 and 2 and is loose by twenty orders of magnitude and more, and at sigma 0.02 and 0.1 it does not hold: its factor $\exp(-1/2\sigma^2)$ falls to nothing, while the two densities of 64 pixels
  that it compares may be as large as $(2\pi\sigma^2)^{-32}$. We computed it as the digest of the paper has it.

## 6. The sampler against the exact posterior

Six images and four kernels make 24 pairs; what the sampler should draw from is `exact.joint_posterior`. Each run ends at a pair (the nearest points);
the total variation between the share of runs at each pair and its posterior is the error of the whole method: of Theorem 1, of the step,
of the number of steps. `drawing` is what direct draws of that number would show.
"""),
code("""
few = EmpiricalPrior(schedule, pixels[[5, 22, 40, 57, 75, 100]].float(), torch.full((6,), 1 / 6))
four = EmpiricalPrior(schedule, kernels.points[:4].float(), torch.full((4,), 1 / 4))
small = exact.measurements(few.points, four.points, operator)
NOISE, RUNS, STEPS = 0.5, {"smoke": 40, "pocket": 400}.get(SCALE, 2000), {"smoke": 50}.get(SCALE, 500)
y = small[2, 1] + NOISE * torch.randn(small[2, 1].shape, generator=torch.Generator().manual_seed(SEED + 5))
posterior = exact.joint_posterior(y.double(), *(EmpiricalPrior(schedule, p.points.double(), p.weights.double()) for p in (few, four)),
                                  small.double(), NOISE)


def variation(shares):
    return 0.5 * (shares - posterior).abs().sum().item()


draw = torch.Generator().manual_seed(SEED)
floor = [torch.multinomial(posterior.flatten(), RUNS, True, generator=draw).bincount(minlength=24) / RUNS for _ in range(20)]
floor = sum(variation(f.reshape(6, 4)) for f in floor) / 20
prior_alone = variation(torch.full((6, 4), 1 / 24))
print(f"largest posterior {posterior.max():.2f}; total variation: drawing {floor:.3f}, the prior {prior_alone:.3f}")
"""),
code("""
class Squared:
    \"\"\"DPS with the norm squared: the same gradient, times twice the norm.\"\"\"

    def __init__(self, dps):
        self.dps, self.names = dps, dps.names

    def __call__(self, state, proposal):
        delta, loss = self.dps(state, proposal)
        return {n: 2 * loss.reshape(-1, 1, 1, 1) * d for n, d in delta.items()}, loss


def ended(size, guide=lambda dps: dps, first=few, second=four, at=y, runs=RUNS):
    sides = {"image": Component(first, (1, 8, 8)), "kernel": Component(second, (1, 5, 5))}
    guidance = guide(DPS(at.expand(runs, -1, -1, -1), operator, dict.fromkeys(("image", "kernel"), size)))
    *_, last = sample(sides, guidance, range(runs), STEPS)
    pairs = zip((last.x0["image"], last.x0["kernel"]), (few, four) if first is few else (first, second), strict=True)
    i, j = (torch.cdist(v.flatten(1), p.points.flatten(1)).argmin(1) for v, p in pairs)
    return torch.zeros(6, 4, dtype=torch.float64).index_put((i, j), torch.tensor(1.0 / runs, dtype=torch.float64), accumulate=True)
"""),
code("""
exact_step = 1 / (2 * NOISE**2)  # the score of y is -grad |r|^2 / (2 sigma^2)
sizes = {"smoke": (0.3,)}.get(SCALE, (0.03, 0.1, 0.3, 1.0, 3.0))
rows = []
for size in sizes:
    rows.append({"step": "constant, norm", "a": size, "tv": variation(ended(size))})
    rows.append({"step": "sqrt(alpha_bar), norm", "a": size, "tv": variation(ended(sqrt_alpha_bar(schedule, size)))})
    rows.append({"step": "constant, norm squared", "a": size, "tv": variation(ended(size, Squared))})


def from_bayes(t):  # what the reverse SDE asks for: beta_t / sqrt(alpha_t) times the score, over a jump of the process
    s = max(-1, t - 1000 // STEPS)
    alpha = schedule.alpha_bar[t] / (schedule.alpha_bar[s] if s >= 0 else 1.0)
    return ((1 - alpha) / alpha.sqrt() * exact_step).item()


rows.append({"step": "Bayes' own, norm squared", "a": float("nan"), "tv": variation(ended(from_bayes, Squared))})
steps = pd.DataFrame(rows)
reproduce.write_table(steps, "theory_steps", SCALE)
steps.pivot(index="a", columns="step", values="tv").round(3)
"""),
md(r"""
The step that Bayes' rule asks for, with the norm squared and $1/2\sigma^2$ before it, ends near the exact posterior: at this sigma, 0.5, the error of Theorem 1 is small. The paper's constant times the
gradient of the norm knows nothing of sigma, and comes near it at one size, 0.1 here: a third of that leaves too much of the prior in, and at ten times nearly all runs end at one pair (0.61 would be all of them at the most
probable). It is then no sampler any more but a search for the best fit. The release's $\sqrt{\bar\alpha_t}$ wants a larger size, since it is small while there is much noise, and its best is not as good. With the norm squared a step must be
smaller by the size of the residual, which changes as it falls: of a row of sizes a factor of three apart, most are wrong.

## 7. Two answers

A kernel that is moved one way and an image that is moved the other give the same measurement. Here are two images, one the other moved by a
pixel, and two kernels, a point and the point moved: two of the four pairs explain $y$ equally well. A sampler should find each of them half of the
time, and a single run finds one of them, whole: it does not stop between.
"""),
code("""
scene = pixels[40].float()
two = EmpiricalPrior(schedule, torch.stack([scene, scene.roll(1, 2)]), torch.full((2,), 0.5))
dots = torch.zeros(2, 1, 5, 5)
dots[0, 0, 2, 2] = dots[1, 0, 2, 3] = 1.0
point = EmpiricalPrior(schedule, to_model_range(dots), torch.full((2,), 0.5))
y2 = operator(two.points[:1], point.points[1:])[0]
found = ended(0.3, first=two, second=point, at=y2)[:2, :2]
pd.DataFrame(found.numpy(), ["image", "image moved"], ["point", "point moved"]).round(3)
"""),
md(r"""
## 8. The Jacobian

The gradient in $x_t$ goes through the network: $\partial \hat x_0 / \partial x_t$. Leaving it out saves half of the time, and turns the guidance into
$\nabla_{\hat x_0}$ scaled: the prior's knowledge of which directions are images is lost.
"""),
code("""
def without_jacobian(prior):
    detached = lambda x, t: Prediction(prior(x.detach(), t).noise)  # noqa: E731
    detached.points = prior.points
    return detached


rows = []
for size in sizes:
    first, second = without_jacobian(few), without_jacobian(four)
    rows.append({"a": size, "through the score": variation(ended(size)), "past it": variation(ended(size, first=first, second=second))})
jacobian = pd.DataFrame(rows).set_index("a")
jacobian.round(3)
"""),
md(r"""
Past the score the steps are effectively longer, so that the best size is smaller: 0.03 for 0.1. With the size chosen for each, nothing is lost here: 0.10 for 0.13. These priors know six images and four kernels, and their posterior mean
turns from one to the next in a few steps, with or without a Jacobian.

## Exercises

1. Why does $\mathbb E[x_0 \mid x_t]$ tend to the mean of the prior as $t$ grows, and to $x_t$ as $t$ falls to 0?
   <details><summary>Answer</summary>With much noise $x_t$ says nothing and the posterior is the prior. With none, $\sqrt{\bar\alpha_t}$ is 1 and the posterior is a point at
   $x_t$. In Tweedie's formula the score takes care of the first, the factor $1-\bar\alpha_t$ of the second.</details>
2. The two components have steps of their own. Which symmetry of the residual would be broken if the kernel's were zero until late?
   <details><summary>Answer</summary>None; but the image would be fitted to the kernels' mean until then. The mean of all kernels is a round blob, so that the image settles on one that
   is sharper than the measurement by that blob, and the kernel is left with what remains.</details>
3. What becomes of Theorem 1 if image and kernel are not independent, say because long exposures come with dark scenes?
   <details><summary>Answer</summary>$p(x_t, k_t)$ no longer splits into two scores, and $p(x_0, k_0 \mid x_t, k_t)$ no longer into two posteriors: one network on the pair would be
   needed, and its Tweedie estimate of each would depend on both.</details>

## What this notebook claims
"""),
code("""
assert gap < 0.01 and worst < 1e-6
if SCALE != "smoke":
    assert min(fit.values()) > 1e-3, "the reverse process does not draw from the mixture"
    assert found[0, 1] + found[1, 0] > 0.95 and abs(found[0, 1] - found[1, 0]) < 0.25
    noisy = theorem[theorem.t >= 200].groupby("sigma")
    assert noisy.cosine_image.min()[2.0] > 0.9 and noisy.ratio_image.min()[0.02] > 100
    assert steps.tv.idxmin() == len(steps) - 1 and steps.tv.min() < 0.15
"""),
])
