"""The rivals of few steps: each against its paper's formulas, written down once more, and on the committed priors."""

import itertools
import math

import numpy as np
import pytest
import torch
from test_few_steps import SIGMA, Field, committed, fields, photographs, spectrum

from pdm import final
from pdm.baselines.diffpir import WhiteErrors, diffpir
from pdm.baselines.fast_em import fast_em, kernel_map
from pdm.baselines.gibbs_ddrm import gibbs_ddrm, langevin, passes
from pdm.convolutions import KernelConvolution
from pdm.data import motion_kernels, noisy
from pdm.exact_steps import filtered, image_step
from pdm.few_steps import ratio_of
from pdm.metrics import mnc, psnr
from pdm.operators import blur
from pdm.sampler import NoiseStreams
from pdm.schedule import Schedule, ancestral_step
from pdm.study import runner
from pdm.study.few_steps import constant_kernel, diffpir_known, fast_em_blind, gibbs_ddrm_blind
from pdm.study.method import Method
from pdm.study.problem import measured


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def spectrum_of(kernel, size):
    """Kernels' plain transforms, their centre at pixel 0, by NumPy."""
    h, w = kernel.shape[-2:]
    wide = np.zeros((len(kernel), 1, size, size))
    wide[..., :h, :w] = kernel.numpy()
    return np.fft.fft2(np.roll(wide, (-(h // 2), -(w // 2)), (-2, -1)))


def ortho(x):
    return np.fft.fft2(x.double().numpy(), norm="ortho")


@pytest.mark.parametrize("lam", [5.0, 50.0])
def test_diffpir_s_data_step_is_equation_13_of_its_paper(lam):
    """(|K|^2 + rho) X = conj(K) Y + rho X_hat with rho = lam sigma^2 / sbar^2, where rho is no small number."""
    x, prior = fields(2), Field(spectrum())
    kernel = motion_kernels(2, 9, 0.5, generator(2))
    y = noisy(blur(x, kernel, "circular"), [0, 1], SIGMA)
    given = {"sigma": SIGMA, "seeds": [3, 4], "boundary": "circular"}
    state = next(s for s in diffpir(y, kernel, prior, 40, lam, **given) if s.t < 60)
    rho = lam * SIGMA**2 / ratio_of(prior.schedule, state.t) ** 2
    assert rho > 0.05
    k = spectrum_of(kernel, 32)
    wanted = (k.conj() * ortho(y) + rho * ortho(state.x0["image"])) / (np.abs(k) ** 2 + rho)
    wanted = torch.from_numpy(np.fft.ifft2(wanted, norm="ortho").real).float()
    torch.testing.assert_close(state.theta["image"], wanted, rtol=1e-4, atol=1e-4)


def test_diffpir_s_errors_are_white_and_its_times_those_of_the_release():
    prior = Field(spectrum())
    error = WhiteErrors(prior, 4.0).error(300, (32, 24))
    torch.testing.assert_close(error, torch.full((3, 32, 13), ratio_of(prior.schedule, 300) ** 2 / 4))
    kernel = motion_kernels(1, 9, 0.5, generator(2))
    states = list(diffpir(fields(1), kernel, prior, 11, sigma=SIGMA, seeds=[0]))
    assert [s.t for s in states] == [round(999 * (1 - math.sqrt(i / 10))) for i in range(11)]
    with pytest.raises(ValueError, match="lam is 0"):
        diffpir(fields(1), kernel, prior, lam=0.0, sigma=SIGMA, seeds=[0])
    with pytest.raises(ValueError, match="zeta is"):
        diffpir(fields(1), kernel, prior, zeta=1.5, sigma=SIGMA, seeds=[0])


def test_diffpir_restores_photographs():
    images, kernels, y = photographs()
    restored = final(diffpir(y, kernels, committed()[0], 30, sigma=SIGMA, seeds=range(4))).x["image"].clamp(-1, 1)
    assert (psnr(restored, images) - psnr(y.clamp(-1, 1), images)).mean() > 3


def test_fast_em_s_gradient_is_pigdm_s():
    """With a linear prior the Jacobian is known: x_s is the ancestral step and sqrt(alpha_bar) J^T r^2 A^T (...) e."""
    x, prior = fields(2) / 5, Field(spectrum())
    y = blur(x, motion_kernels(2, 9, 0.5, generator(2)), "circular")
    given = {"sigma": SIGMA, "seeds": [3, 4], "boundary": "circular", "inner": 1}
    before, state = itertools.islice(fast_em(y, prior, committed()[1], 5, **given), 2, 4)
    assert (before.s, state.t) == (state.t, 250)
    x_t, x_hat, v = before.x["image"], state.x0["image"], ratio_of(prior.schedule, 250) ** 2
    assert x_hat.abs().max() < 1  # nothing was clipped
    draws = NoiseStreams([3, 4])
    z = [draws("image", (1, 32, 32)) for _ in range(5)][-1]  # the start's, then one a step
    ancestral = ancestral_step()(prior.schedule, x_t, x_hat, 250, 0, z, None)
    white = torch.full((1, 32, 17), v / (1 + v))
    change = image_step(x_hat, y, state.theta["kernel"], white, SIGMA**2, "circular") - x_hat
    guided = filtered(change, prior.gain(250)[0])  # sqrt(alpha_bar) J^T, for J is the gain over sqrt(alpha_bar)
    assert guided.abs().max() > 0.01
    torch.testing.assert_close(state.x["image"] - ancestral, guided, rtol=1e-3, atol=1e-4)


def test_fast_em_finds_the_kernel_of_a_known_image():
    images, kernels, y = photographs()
    dirac = torch.zeros_like(kernels)
    dirac[..., 16, 16] = 1
    found = kernel_map(images, y, dirac, committed()[1], sigma=SIGMA, level=0.2, iterations=40)
    assert (found.sum((1, 2, 3)) - 1).abs().max() < 1e-5 and found.min() >= 0
    assert (mnc(found, kernels) > 0.85).all() and mnc(found, kernels).mean() > 0.92


def test_langevin_draws_about_the_least_squares_kernel():
    runs, x = 200, fields(1, 16).double()
    kernel = motion_kernels(1, 3, 0.5, generator(2)).double()
    y = blur(x, kernel) + SIGMA * torch.randn(1, 1, 16, 16, generator=generator(4), dtype=torch.float64)
    matrix = KernelConvolution(x.expand(9, -1, -1, -1), (3, 3))(torch.eye(9, dtype=torch.float64).view(9, 1, 3, 3))
    hessian = matrix.flatten(1) @ matrix.flatten(1).T / SIGMA**2
    mean = torch.linalg.solve(hessian, matrix.flatten(1) @ y.flatten() / SIGMA**2)
    z = generator(5)
    draws = (torch.randn(runs, 1, 3, 3, generator=z, dtype=torch.float64) for _ in range(3000))
    rate = 0.2 / torch.linalg.eigvalsh(hessian).max().item()
    many = (v.expand(runs, -1, -1, -1) for v in (x, y, torch.full_like(kernel, 1 / 9)))
    found = langevin(*many, draws, SIGMA, rate, 0.0).flatten(1)
    divided = torch.eye(9, dtype=torch.float64) - mean[:, None] / mean.sum()  # what the division by the sum does to it
    spread = (divided @ torch.linalg.inv(hessian) @ divided.T).diagonal().sqrt() / mean.sum()
    assert ((found.mean(0) - mean / mean.sum()).abs() < 0.5 * spread).all()
    assert (found.std(0) / spread - 1).abs().max() < 0.5
    assert (found.sum(1) - 1).abs().max() < 1e-9


def test_gibbs_ddrm_counts_its_evaluations():
    x, prior = fields(2) / 5, Field(spectrum())
    kernel = motion_kernels(2, 9, 0.5, generator(2))
    given = {"sigma": SIGMA, "seeds": [0, 1], "iterations": 2}
    states = list(gibbs_ddrm(blur(x, kernel), prior, (9, 9), 10, 2, 0.7, **given))
    assert prior.calls == passes(Schedule.linear(), 10, 2, 0.7) == 10 + 2 * 7
    assert states[-1].s == -1 and len(states) == 10
    assert (states[-1].theta["kernel"].sum((1, 2, 3)) - 1).abs().max() < 1e-5
    torch.testing.assert_close(states[-1].x["image"], states[-1].theta["image"], rtol=1e-4, atol=1e-5)


def test_a_rival_s_sample_is_alone_in_its_batch():
    x, prior = fields(2) / 5, Field(spectrum())
    y = blur(x, motion_kernels(2, 9, 0.5, generator(2)))
    small = {"sigma": SIGMA, "iterations": 2}
    ways = [
        lambda y, seeds: fast_em(y, prior, committed()[1], 3, seeds=seeds, inner=1, **small),
        lambda y, seeds: gibbs_ddrm(y, prior, (9, 9), 4, 1, seeds=seeds, std=0.5, **small),
    ]
    for way in ways:
        both = final(way(y, [3, 4])).theta
        for i in range(2):
            alone = final(way(y[i, None], [3 + i])).theta
            for name, value in alone.items():
                torch.testing.assert_close(value, both[name][i, None], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"seeds": [0]}, "1 seeds for 2"),
        ({"boundary": "valid"}, "boundary is 'valid'"),
        ({"evaluations": 0}, "evaluations is 0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"measurement": torch.full((2, 1, 32, 32), math.nan)}, "NaN"),
    ],
)
def test_rivals_refuse_bad_input_before_any_evaluation(changes, message):
    prior = Field(spectrum())
    given = {"measurement": fields(2), "image": prior, "sigma": SIGMA, "seeds": [0, 1]} | changes
    with pytest.raises(ValueError, match=message):
        next(fast_em(kernel=committed()[1], **given))
    with pytest.raises(ValueError, match=message):
        next(gibbs_ddrm(**given))
    assert prior.calls == 0


@pytest.mark.parametrize(
    "changes", [{"rate": -1.0}, {"weight": -1.0}, {"std": 0.0}, {"repeats": -1}, {"canvas": (9, 7)}]
)
def test_gibbs_ddrm_s_own_settings_are_refused_by_name(changes):
    prior = Field(spectrum())
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is"):
        next(gibbs_ddrm(fields(2), prior, **{"sigma": SIGMA, "seeds": [0, 1]} | changes))
    with pytest.raises(ValueError, match="canvas is"):
        next(gibbs_ddrm(fields(2, 16), prior, (33, 33), sigma=SIGMA, seeds=[0, 1]))
    assert prior.calls == 0


@pytest.mark.parametrize("changes", [{"spread": 0.0}, {"level": -1.0}, {"inner": 0}])
def test_fast_em_s_own_settings_are_refused_by_name(changes):
    prior = Field(spectrum())
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is"):
        next(fast_em(fields(2), prior, committed()[1], **{"sigma": SIGMA, "seeds": [0, 1]} | changes))
    with pytest.raises(ValueError, match="canvas is"):
        next(fast_em(fields(2, 16), prior, committed()[1], sigma=SIGMA, seeds=[0, 1]))
    assert prior.calls == 0


def test_a_chain_that_explodes_counts_as_diverged():
    images, kernels, _ = photographs()
    cases = measured(images[:1], kernels[:1], seeds=[0])
    wild = Method("wild", gibbs_ddrm_blind, {"evaluations": 4, "iterations": 30, "rate": 1.0, "begins": 1.0})
    (row,) = runner.restore(wild, cases)["rows"]
    assert row["diverged"] and row["psnr"] is None


def test_rows_of_rivals_say_what_they_took():
    images, kernels, _ = photographs()
    cases = measured(images[:2], kernels[:2], seeds=[0, 1])
    few = {"evaluations": 3}
    rows = [
        (Method("diffpir", diffpir_known, few), (3, 0, 0)),
        (Method("constant", constant_kernel, few), (3, 0, 0)),
        (Method("fast_em", fast_em_blind, few | {"inner": 2}), (3, 3, 6)),
        (Method("gibbs", gibbs_ddrm_blind, few | {"iterations": 2, "repeats": 1, "begins": 0.7}), (5, 0, 0)),
    ]
    for each, counts in rows:
        found = runner.restore(each, cases)
        assert all((r["forward"], r["backward"], r["kernel_forward"]) == counts for r in found["rows"])
        assert all(r["pedestal"] is None if each.name == "diffpir" else 0 <= r["pedestal"] <= 1 for r in found["rows"])
        assert all(r["psnr_registered"] > 0 for r in found["rows"])
