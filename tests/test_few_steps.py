"""Restoration in tens of evaluations: against known posteriors, and on the committed priors."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch

from pdm import blind_steps, few_steps, final
from pdm.blind_steps import Plan, cleared, restore_blind
from pdm.constraints import to_model_range
from pdm.convolutions import Convolution
from pdm.data import load, motion_kernels, noisy
from pdm.data.images import photograph
from pdm.exact_steps import filtered
from pdm.few_steps import restore_known
from pdm.metrics import lpips, mnc, psnr
from pdm.models import AnySize, Errors, NetworkPrior, Prediction, load_prior, prior_card
from pdm.operators import blur
from pdm.sampler import NoiseStreams
from pdm.schedule import Schedule
from pdm.study import runner
from pdm.study.deblurring import blind_dps
from pdm.study.few_steps import blind_few, blind_few_guided, blind_few_marginal, known_few
from pdm.study.method import Method
from pdm.study.problem import measured

SIGMA = 0.02


class Field:
    """The exact prior of a stationary Gaussian field of known power, with its exact errors, counting evaluations."""

    condition = label = None

    def __init__(self, power):
        self.power, self.schedule, self.calls = power, Schedule.linear(), 0

    def gain(self, t):
        ratio = 1 / self.schedule.alpha_bar[t] - 1
        return (self.power / (self.power + ratio)).to(self.power), ratio

    def __call__(self, x, t):
        self.calls += 1
        gain, _ = self.gain(t)
        return Prediction(filtered(x / self.schedule.alpha_bar[t].sqrt().to(x), gain))

    def error(self, t, size):
        gain, ratio = self.gain(t)
        return gain * ratio.to(gain)


def spectrum(size=32):
    row, column = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)
    return (0.002 / (0.02 + row**2 + column**2))[None]


def fields(n, size=32):
    white = torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(0))
    return filtered(white, spectrum(size).sqrt())


@cache
def committed():
    return load_prior("image", "photos", precision=torch.float32), load_prior("kernel", precision=torch.float32)


@cache
def photographs(n=4):
    """n test photographs, motion kernels, and what is measured."""
    images = load("photos", "test").images[:: 112 // n][:n]
    kernels = motion_kernels(n, 32, 0.5, torch.Generator().manual_seed(1))
    return images, kernels, noisy(blur(images, kernels), range(n), SIGMA)


@pytest.mark.parametrize("boundary", ["circular", "reflect", "zero", "valid"])
def test_with_an_exact_prior_runs_scatter_about_the_posterior_mean(boundary):
    """Of a Gaussian field by a known kernel: their mean is what Wiener's filter, with the boundary, gives."""
    runs, x, prior = 60, fields(1, 16), Field(spectrum(16))
    kernel = motion_kernels(1, 5, 0.5, torch.Generator().manual_seed(2))
    y = noisy(blur(x, kernel, boundary), [0], SIGMA)
    several = y.expand(runs, -1, -1, -1), kernel.expand(runs, -1, -1, -1)
    given = {"sigma": SIGMA, "seeds": range(runs), "boundary": boundary}
    states = restore_known(*several, prior, 12, churn=1.0, inflation=(1, 0), **given)
    found = final(states).x["image"].double().flatten(1)
    basis = torch.eye(256, dtype=torch.float64).view(-1, 1, 16, 16)
    covariance = filtered(basis, spectrum(16).double()).flatten(1)
    a = blur(basis, kernel.double().expand(256, -1, -1, -1), boundary).flatten(1).T
    gain = covariance @ a.T @ torch.linalg.inv(a @ covariance @ a.T + SIGMA**2 * torch.eye(len(a)))
    mean, spread = gain @ y.double().flatten(), (covariance - gain @ a @ covariance).trace().sqrt()
    assert (found.mean(0) - mean).norm() < 0.25 * spread
    assert ((found - mean).norm(dim=1) < 1.2 * spread).all()


def test_states_end_clean_and_evaluations_are_counted():
    x, prior = fields(2), Field(spectrum())
    kernel = motion_kernels(2, 9, 0.5, torch.Generator().manual_seed(2))
    states = list(restore_known(blur(x, kernel), kernel, prior, 7, sigma=SIGMA, seeds=[3, 4]))
    assert prior.calls == len(states) == 7
    assert [s.t for s in states[1:]] == [s.s for s in states[:-1]] and states[-1].s == -1
    assert states[-1].x["image"] is states[-1].theta["image"]
    assert all(s.loss.shape == (2,) for s in states)


def test_a_sample_is_alone_in_its_batch():
    x, prior = fields(2), Field(spectrum())
    kernel = motion_kernels(2, 9, 0.5, torch.Generator().manual_seed(2))
    y = blur(x, kernel)
    both = final(restore_known(y, kernel, prior, 5, sigma=SIGMA, seeds=[3, 4])).x["image"]
    for i in range(2):
        alone = restore_known(y[i, None], kernel[i, None], prior, 5, sigma=SIGMA, seeds=[3 + i])
        torch.testing.assert_close(final(alone).x["image"], both[i, None], rtol=1e-4, atol=1e-5)


def test_a_known_kernel_in_twelve_evaluations():
    images, kernels, y = photographs()
    prior, _ = committed()
    restored = final(restore_known(y, kernels, prior, sigma=SIGMA, seeds=range(4))).x["image"].clamp(-1, 1)
    assert (psnr(restored, images) - psnr(y.clamp(-1, 1), images)).mean() > 4
    assert lpips(restored, images).mean() < 0.5 * lpips(y.clamp(-1, 1), images).mean()
    turned = final(restore_known(y, kernels.flip(-2, -1), prior, sigma=SIGMA, seeds=range(4))).x["image"].clamp(-1, 1)
    assert psnr(turned, images).mean() < psnr(restored, images).mean() - 4


def test_an_unknown_kernel_in_tens():
    _, kernels, y = photographs()
    image, kernel = committed()
    plan = Plan(rounds=14)
    states = list(restore_blind(y, image, kernel, kernel.errors, plan, sigma=SIGMA, seeds=range(4)))
    assert len(states) == plan.evaluations[0] == 26 and plan.evaluations[1] == 14
    found = states[-1].theta["kernel"]
    assert (found.sum((1, 2, 3)) - 1).abs().max() < 1e-5 and found.min() >= 0
    floor = kernel.errors.mean.expand(4, 1, 32, 32)
    assert mnc(found, kernels).median() > mnc(floor, kernels).median()


def test_a_frame_taken_twice_is_one_of_half_the_noise():
    """With an exact prior, and the same draws: the closed form of two equal measurements."""
    x, prior = fields(2), Field(spectrum())
    kernel = motion_kernels(2, 9, 0.5, torch.Generator().manual_seed(2))
    y = noisy(blur(x, kernel), [0, 1], SIGMA)
    once = restore_known(y, kernel, prior, 5, sigma=SIGMA / 2**0.5, seeds=[3, 4])
    both = y.repeat(2, 1, 1, 1), kernel.repeat(2, 1, 1, 1)
    twice = restore_known(*both, prior, 5, sigma=SIGMA, seeds=[3, 4], frames=2)
    wanted, found = final(once).x["image"], final(twice)
    assert found.x["image"].shape == x.shape and found.loss.shape == (4,)
    assert (found.x["image"] - wanted).norm() < 0.05 * wanted.norm()


def test_three_frames_tell_more_than_one():
    images, _, _ = photographs()
    image, kernel = committed()
    kernels = motion_kernels(12, 32, 0.5, torch.Generator().manual_seed(5))
    y = noisy(blur(images.repeat(3, 1, 1, 1), kernels), range(12), SIGMA)
    plan, given = Plan(rounds=10, chains=2, polish=2, finish=4), {"sigma": SIGMA, "seeds": range(4)}
    given_y = load_prior("kernel_given_y", precision=torch.float32)
    one = final(restore_blind(y[:4], image, given_y.given(y[:4]), kernel.errors, plan, **given))
    three = final(restore_blind(y, image, given_y.given(y), kernel.errors, plan, **given, frames=3))
    assert three.theta["kernel"].shape == (12, 1, 32, 32) and three.x["image"].shape == images.shape
    gain = psnr(three.x["image"].clamp(-1, 1), images) - psnr(one.x["image"].clamp(-1, 1), images)
    assert gain.mean() > 1 and gain.median() > 1
    with pytest.raises(ValueError, match="4 seeds for 12 measurements; wanted one for 2 frames"):
        next(restore_blind(y, image, kernel, kernel.errors, plan, **given, frames=2))


def test_chains_are_judged_and_one_is_kept():
    _, _, y = photographs(2)
    image, kernel = committed()
    plan = Plan(rounds=2, chains=3, polish=2, judged_at=(60,), finish=2)
    states = list(restore_blind(y, image, kernel, kernel.errors, plan, sigma=SIGMA, seeds=[5, 6]))
    assert [len(s.theta["image"]) for s in states] == [6, 6, 6, 6, 2, 2]
    chains, chosen = states[3].theta["kernel"].view(2, 3, -1), states[-1].theta["kernel"].view(2, 1, -1)
    mean = cleared((states[0].theta["kernel"] + states[1].theta["kernel"]) / 2, plan.haze)
    torch.testing.assert_close(chains, mean.view(2, 3, -1))
    assert ((chains == chosen).all(2).sum(1) >= 1).all()
    assert not torch.equal(chains[:, 0], chains[:, 1])


def test_a_plan_s_evaluations_are_those_that_are_made():
    image, kernel = committed()
    counts, handles = ([], []), []
    for prior, count in zip((image, kernel), counts, strict=True):
        hook = lambda _, inputs, count=count: count.append(len(inputs[0]))  # noqa: E731
        handles.append(prior.network.register_forward_pre_hook(hook))
    _, _, y = photographs(2)
    plan = Plan(rounds=3, chains=2, polish=2, judged_at=(60, 25), finish=4)
    list(restore_blind(y, image, kernel, kernel.errors, plan, sigma=SIGMA, seeds=[5, 6]))
    for handle in handles:
        handle.remove()
    assert tuple(sum(count) / 2 for count in counts) == plan.evaluations == (3 * 2 + 2 * (2 + 2) + 4, 6)


def test_the_kernel_s_error_can_be_left_out_of_account():
    image, kernel = committed()
    _, _, y = photographs(2)
    plans = Plan(rounds=1, finish=2), Plan(rounds=1, finish=2, remaining=5.0), Plan(rounds=1, finish=2, uncertain=False)
    runs = (restore_blind(y, image, kernel, kernel.errors, plan, sigma=SIGMA, seeds=[5, 6]) for plan in plans)
    usual, much, none = (final(run).theta["image"] for run in runs)
    assert (usual - much).abs().mean() > 0.001 and (usual - none).abs().mean() > 0.001


def test_the_choice_is_the_chain_with_the_true_kernel():
    """Of a Gaussian field whose kernel is one of three, each with the image that it implies."""
    x, prior = fields(6), Field(spectrum())
    kernels = motion_kernels(3, 9, 0.5, torch.Generator().manual_seed(4))
    true = torch.tensor([0, 1, 2, 0, 1, 2])
    y = noisy(blur(x, kernels[true], "circular"), range(6), SIGMA)
    each, many = kernels.repeat(6, 1, 1, 1), y.repeat_interleave(3, 0)
    seeds = list(range(18))
    restored = final(restore_known(many, each, prior, 6, sigma=SIGMA, seeds=seeds, boundary="circular")).x["image"]
    noise = NoiseStreams(range(6))
    known = few_steps.Known(SIGMA, "circular")
    plan = Plan(chains=3, log_weight=1.0)  # as the noise was drawn, so that the density is the true one
    best = blind_steps.choice(restored, many, each, prior, noise, plan, known)
    assert (best % 3 == true).sum() >= 5 and (best // 3).tolist() == list(range(6))


def test_clipped_pixels_say_nothing():
    """Whatever stands there, the restoration is the same, and nearer than one that takes it for the truth."""
    image, _ = committed()
    x, kernels, y = photographs(2)
    clipped = torch.zeros(2, 1, *y.shape[-2:], dtype=torch.bool)
    clipped[..., 20:30, 10:30] = True

    def restored(value, **more):
        spoilt = torch.where(clipped, torch.full_like(y, value), y)
        told = {"sigma": SIGMA, "seeds": [1, 2], "clipped": clipped} | more
        return final(restore_known(spoilt, kernels, image, 3, **told))

    one, other, trusted = restored(1.0), restored(-1.0), restored(1.0, clipped=None)
    torch.testing.assert_close(one.theta["image"], other.theta["image"])
    torch.testing.assert_close(one.loss, other.loss)
    assert ((one.theta["image"] - x).square().mean() < (trusted.theta["image"] - x).square().mean() / 2).item()
    for wrong in (clipped[:1], clipped.float(), [True]):
        with pytest.raises(ValueError, match="clipped is"):
            next(restore_known(y, kernels, image, 3, sigma=SIGMA, seeds=[1, 2], clipped=wrong))


def test_haze_is_cleared_and_the_sum_stays_one():
    kernel = torch.tensor([[[[0.5, 0.02], [0.4, -0.1]]]])
    torch.testing.assert_close(cleared(kernel, 0.05), torch.tensor([[[[5 / 9, 0.0], [4 / 9, 0.0]]]]))


def test_times_fall_by_one_factor():
    schedule = Schedule.linear()
    ratios = torch.tensor([few_steps.ratio_of(schedule, t) for t in few_steps.times(schedule, 12)])
    assert ratios[0] == pytest.approx(5, rel=0.02) and ratios[-1] == pytest.approx(0.03, rel=0.1)
    assert (ratios[1:] / ratios[:-1]).std() < 0.05
    assert few_steps.times(schedule, 1) == [few_steps.time_of(schedule, 5.0)]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"seeds": [1]}, "1 seeds"),
        ({"evaluations": 0}, "evaluations is 0"),
        ({"kernel": torch.full((2, 1, 9, 9), 0.1)}, "kernel"),
        ({"measurement": torch.full((2, 1, 32, 32), torch.nan)}, "NaN"),
        ({"churn": 1.5}, "churn is 1.5"),
        ({"inflation": (2.0, -0.1)}, "inflation is"),
        ({"inflation": (1.0, float("inf"))}, "inflation is"),
        ({"inflation": 2.0}, "inflation is"),
        ({"kernel_error": torch.ones(1, 9, 9)}, "kernel_error"),
        ({"kernel_error": torch.ones(1, 32, 17), "boundary": "valid"}, "kernel_error"),  # the frame is 40 x 40
        ({"boundary": "mirror"}, "boundary is 'mirror'"),
    ],
)
def test_bad_input_of_a_known_kernel(changes, message):
    prior = Field(spectrum())
    kernel = motion_kernels(2, 9, 0.5, torch.Generator().manual_seed(2))
    given = {"measurement": fields(2), "kernel": kernel, "prior": prior, "sigma": SIGMA, "seeds": [0, 1]} | changes
    with pytest.raises(ValueError, match=message):
        next(restore_known(**given))
    assert prior.calls == 0


def test_bad_input_of_an_unknown_kernel():
    prior, kernel = Field(spectrum()), committed()[1]
    given = {"measurement": fields(2), "image": prior, "kernel": kernel, "errors": kernel.errors}
    with pytest.raises(ValueError, match="1 seeds for 2"):
        next(restore_blind(**given, sigma=SIGMA, seeds=[0]))
    flat = Errors(torch.tensor([900, 1]), torch.ones(1, 2, 1, 8, 5))
    with pytest.raises(ValueError, match="no mean and root"):
        next(restore_blind(**given | {"errors": flat}, sigma=SIGMA, seeds=[0, 1]))
    wrongs = [{"judged_at": ()}, {"judged_at": (1000,)}, {"rounds": 0}, {"clock": 0.0}, {"kernel_times": (9, 2)}]
    for wrong in [*wrongs, {"first": 0.05}, {"remaining": 0.0}]:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Plan(**wrong)
    assert prior.calls == 0


def test_what_is_seen_may_be_a_crop_of_the_scene():
    # the scene goes on beyond the frame; taken for its mirror image it is worse
    scene, seen = photograph("coffee")[None, :, 150:245, 200:295], (..., slice(15, 79), slice(15, 79))  # 1 3 95 95
    kernel = motion_kernels(1, 32, 0.5, torch.Generator().manual_seed(4))
    y = noisy(Convolution(kernel, (95, 95), "valid")(scene), [0], SIGMA)  # 1 3 64 64
    image, prior = AnySize(committed()[0]), committed()[1]
    given = {"sigma": SIGMA, "seeds": [0]}
    crop, mirrored = (
        final(restore_known(y, kernel, image, 8, boundary=boundary, **given)).theta["image"].clamp(-1, 1)
        for boundary in ("valid", "reflect")
    )
    assert crop.shape == (1, 3, 95, 95) and mirrored.shape == y.shape
    gained = psnr(crop[seen], scene[seen])
    assert gained > psnr(y.clamp(-1, 1), scene[seen]) + 2 and gained > psnr(mirrored, scene[seen]) + 2
    plan = Plan(rounds=6, chains=2, polish=2, finish=4)
    states = list(restore_blind(y, image, prior, prior.errors, plan, boundary="valid", **given))
    assert states[0].theta["image"].shape == (2, 3, 95, 95) and states[-1].theta["image"].shape == crop.shape
    again = Convolution(states[-1].theta["kernel"], (95, 95), "valid")(states[-1].theta["image"])
    assert (again - y).square().mean().sqrt() < 2 * SIGMA  # what it found explains what is seen


def test_a_prior_for_several_chains_keeps_its_errors():
    image, _ = committed()
    twice = image.with_label(torch.tensor([0, 1])).repeated(2)
    assert twice.label.tolist() == [0, 0, 1, 1] and twice.errors is image.errors
    assert image.repeated(3).label.tolist() == image.label.tolist()


def test_a_prior_without_errors_is_refused_before_it_is_evaluated():
    image, kernel = committed()
    evaluated = []
    bare = NetworkPrior(image.network, None, torch.float32, image.velocity)
    handle = bare.network.register_forward_pre_hook(lambda *_: evaluated.append(1))
    _, kernels, y = photographs(2)
    with pytest.raises(ValueError, match="no error spectra"):
        next(restore_known(y, kernels, bare, sigma=SIGMA, seeds=[0, 1]))
    with pytest.raises(ValueError, match="no error spectra"):
        next(restore_blind(y, bare, kernel, kernel.errors, sigma=SIGMA, seeds=[0, 1]))
    with pytest.raises(ValueError, match="boundary is 'mirror'"):
        next(restore_blind(y, image, kernel, kernel.errors, sigma=SIGMA, seeds=[0, 1], boundary="mirror"))
    handle.remove()
    assert not evaluated


def test_the_range_of_kernels_is_the_prior_s():
    kernel = motion_kernels(2, 32, 0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(cleared((to_model_range(kernel) + 1) / 2, 0.0), kernel)


def test_rows_of_tables_are_told_the_kernel_or_not():
    images, kernels, _ = photographs()
    cases = measured(images[:2], kernels[:2], seeds=[0, 1])
    known = runner.restore(Method("known", known_few, {"evaluations": 6}, "photos"), cases)
    assert [(row["forward"], row["kernel_forward"]) for row in known["rows"]] == [(6, 0)] * 2
    assert known["kernel"] is None
    blind = runner.restore(Method("blind", blind_few, {"rounds": 1, "finish": 3}, "photos"), cases)
    assert [(row["forward"], row["kernel_forward"]) for row in blind["rows"]] == [(4, 1)] * 2
    assert blind["kernel"].shape == (2, 1, 32, 32)
    assert all(a["psnr"] > b["psnr"] for a, b in zip(known["rows"], blind["rows"], strict=True))
    with pytest.raises(ValueError, match="takes no steps"):
        Method("blind", blind_few, {"steps": 100})
    with pytest.raises(ValueError, match="rounds is 0"):
        Method("blind", blind_few, {"rounds": 0})


@pytest.mark.parametrize("refine", [blind_few_guided, blind_few_marginal])
def test_what_follows_a_plan_goes_on_from_its_estimate(refine):
    images, kernels, _ = photographs()
    cases, plan = measured(images[:2], kernels[:2], seeds=[0, 1]), {"rounds": 3, "finish": 3}
    image, kernel = committed()
    priors = {"image": image, "kernel": kernel, "kernel_given_y": SimpleNamespace(given=lambda y: kernel)}
    with torch.no_grad():
        first = blind_few(cases.given(), priors, **plan)
        after = refine(cases.given(), priors, steps=30, **plan)
    assert after.image.isfinite().all() and (after.kernel.sum((1, 2, 3)) - 1).abs().max() < 1e-4
    assert not torch.allclose(after.kernel, first.kernel) and after.forward > first.forward
    assert mnc(after.kernel, first.kernel).min() > 0.5


def test_error_spectra_are_part_of_the_key_where_a_method_depends_on_them():
    images, kernels, _ = photographs()
    cases = measured(images[:2], kernels[:2], seeds=[0, 1])
    plain, few = Method("dps", blind_dps).key(cases), Method("few", blind_few).key(cases)
    assert set(plain["weights"]) == {"image", "kernel"}
    assert set(few["weights"]) == {"image", "kernel", "image errors", "kernel errors"}
    assert few["weights"]["image errors"][0] == prior_card("image")["errors"]["sha256"]
    assert "kernel errors" not in Method("known", known_few).key(cases)["weights"]
