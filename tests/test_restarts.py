"""Algorithm 1 more than once: from its own estimate, and from several seeds, on tiny random networks."""

from dataclasses import replace

import pytest
import torch

from pdm.constraints import to_model_range
from pdm.sampler import NoiseStreams, final, sample
from pdm.schedule import Schedule
from pdm.study import deblurring, restarts
from pdm.study.deblurring import Settings, blind_process
from pdm.study.problem import explained


def test_no_restart_is_algorithm_1(cases, priors):
    once = restarts.restarted(cases.measurement, priors, 10, restarts=0)
    plain = deblurring.blind_dps(cases.measurement, priors, 10)
    assert torch.equal(once.image, plain.image) and torch.equal(once.kernel, plain.kernel)


def test_a_restart_is_algorithm_1_from_its_own_estimate_with_noise(cases, priors):
    # 12 steps, 2 restarts from t = 499: six steps for the first pass, and three for each of the others
    found = restarts.restarted(cases.measurement, priors, 12, restarts=2, back_to=499, image_step=0.5)
    components, guidance, step = blind_process(cases.measurement, priors, 6, Settings(image_step=0.5))
    last = final(sample(components, guidance, [3, 4], 6, step=step))
    for seeds in ([10_003, 10_004], [20_003, 20_004]):
        noise = NoiseStreams(seeds)
        begin = {"image": last.theta["image"], "kernel": to_model_range(last.theta["kernel"])}
        begin = {n: Schedule.linear().diffuse(v, noise(n, tuple(v.shape[1:])), 499) for n, v in begin.items()}
        again = {n: replace(c, start=begin[n]) for n, c in components.items()}
        last = final(sample(again, guidance, seeds, [499, 250, 0], step=step))
    torch.testing.assert_close(found.image, last.theta["image"], rtol=0, atol=0)
    torch.testing.assert_close(found.kernel, last.theta["kernel"], rtol=0, atol=0)


def test_a_restart_of_one_image_does_not_depend_on_the_others(cases, priors):
    both, second = (restarts.restarted(c.measurement, priors, 12, restarts=2) for c in (cases, cases[1:]))
    torch.testing.assert_close(both.image[1:], second.image, rtol=0, atol=1e-4)
    torch.testing.assert_close(both.kernel[1:], second.kernel, rtol=0, atol=1e-4)


def test_all_passes_together_take_the_steps_that_were_asked_for(cases, priors):
    one = cases[:1].measurement
    for steps, count, back_to in ((20, 3, 200), (7, 1, 999), (33, 2, 50)):
        states = restarts.passes(one, lambda n: blind_process(one, priors, n, Settings()), steps, count, back_to)
        taken = [state.t for state in states]
        assert len(taken) == steps and taken.count(0) == 1 + count
        assert restarts.restarted(one, priors, steps, count, back_to).forward == steps


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"restarts": -1}, "-1 restarts at t = 200"),
        ({"back_to": 0}, "3 restarts at t = 0"),
        ({"back_to": 1000}, "3 restarts at t = 1000"),
        ({"steps": 2}, r"2 steps for 1 \+ 3 passes from 999 and 200; wanted at least one each"),
        ({"steps": 2000}, "2000 steps .* at most 1603"),
    ],
)
def test_restarts_that_cannot_be_are_refused(cases, priors, settings, message):
    with pytest.raises(ValueError, match=message):
        restarts.restarted(cases.measurement, priors, **settings)


def test_a_kernel_of_zeros_is_no_place_to_go_on_from_and_the_other_sample_goes_on(cases, priors):
    def process(constrain):
        run = blind_process(cases.measurement, priors, 4, Settings())
        kernel = replace(run.components["kernel"], constrain=constrain)
        return run._replace(components=run.components | {"kernel": kernel})

    plain = process(deblurring.shift_and_divide)
    nothing_of_the_first = process(lambda x: deblurring.shift_and_divide(x) * torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    whole, part = (
        final(restarts.passes(cases.measurement, lambda n, run=run: run, 4, 1, 200))
        for run in (plain, nothing_of_the_first)
    )
    assert part.theta["image"][0].isnan().all() and part.theta["image"][1].isfinite().all()
    torch.testing.assert_close(part.theta["image"][1], whole.theta["image"][1], rtol=0, atol=1e-4)


def test_of_several_chains_each_image_keeps_the_one_with_the_least_residual(cases, priors):
    seen = cases.measurement
    seeds = [tuple(s + 10_000 * j for s in seen.seeds) for j in range(3)]
    runs = [deblurring.blind_dps(replace(seen, seeds=s), priors, 5) for s in seeds]
    residuals = torch.stack([(seen.y - explained(run.values)).flatten(1).norm(dim=1) for run in runs])
    found = restarts.best_of(seen, priors, 3, 5)
    for i, j in enumerate(residuals.argmin(0).tolist()):
        assert torch.equal(found.image[i], runs[j].image[i]) and torch.equal(found.kernel[i], runs[j].kernel[i])
    assert len(set(residuals.argmin(0).tolist())) > 1 or residuals.argmin(0)[0] > 0  # not just the first
    assert found.forward == 15
    with pytest.raises(ValueError, match="chains is 0"):
        restarts.best_of(seen, priors, 0)
