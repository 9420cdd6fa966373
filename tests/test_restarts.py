"""Algorithm 1 more than once: from its own estimate, and from several seeds, on tiny random networks."""

from dataclasses import replace

import pytest
import torch

from pdm.constraints import to_model_range
from pdm.sampler import NoiseStreams, final, sample
from pdm.schedule import Schedule
from pdm.study import deblurring, problem, restarts


def test_no_restart_is_algorithm_1(cases, priors):
    once, plain = restarts.restarted(cases, 10, "faces", restarts=0), deblurring.blind_dps(cases, 10, "faces")
    assert torch.equal(once.image, plain.image) and torch.equal(once.kernel, plain.kernel)


def test_a_restart_is_algorithm_1_from_its_own_estimate_with_noise(cases, priors):
    # 12 steps, 2 restarts from t = 499: six steps for the first pass, and three for each of the others
    found = restarts.restarted(cases, 12, restarts=2, back_to=499, image_step=0.5)
    components, guidance, step = deblurring.blind_problem(cases, 6, image_step=0.5)
    last = final(sample(components, guidance, cases.seeds, 6, step=step))
    for seeds in ([10_003, 10_004], [20_003, 20_004]):
        noise = NoiseStreams(seeds)
        begin = {"image": last.theta["image"], "kernel": to_model_range(last.theta["kernel"])}
        begin = {n: Schedule.linear().diffuse(v, noise(n, tuple(v.shape[1:])), 499) for n, v in begin.items()}
        again = {n: replace(c, start=begin[n]) for n, c in components.items()}
        last = final(sample(again, guidance, steps=[499, 250, 0], step=step, noise=noise))
    torch.testing.assert_close(found.image, last.theta["image"], rtol=0, atol=0)
    torch.testing.assert_close(found.kernel, last.theta["kernel"], rtol=0, atol=0)


def test_a_restart_of_one_image_does_not_depend_on_the_others(cases, priors):
    both, second = restarts.restarted(cases, 12, restarts=2), restarts.restarted(cases[1:], 12, restarts=2)
    torch.testing.assert_close(both.image[1:], second.image, rtol=0, atol=1e-4)
    torch.testing.assert_close(both.kernel[1:], second.kernel, rtol=0, atol=1e-4)


def test_all_passes_together_take_the_steps_that_were_asked_for(cases, priors, monkeypatch):
    taken, run = [], sample

    def counted(*args, **others):
        for state in run(*args, **others):
            taken.append(state.t)
            yield state

    monkeypatch.setattr(restarts, "sample", counted)
    for steps, count, back_to in ((20, 3, 200), (7, 1, 999), (33, 2, 50)):
        taken.clear()
        restarts.restarted(cases[:1], steps, restarts=count, back_to=back_to)
        assert len(taken) == steps and taken.count(0) == 1 + count


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"restarts": -1}, "-1 restarts at t = 200"),
        ({"back_to": 0}, "3 restarts at t = 0"),
        ({"back_to": 1000}, "3 restarts at t = 1000"),
        ({"whole_batch": True}, "whole_batch is True; wanted False"),
        ({"steps": 2}, r"2 steps for 1 \+ 3 passes; wanted one each"),
    ],
)
def test_restarts_that_cannot_be_are_refused(cases, priors, settings, message):
    with pytest.raises(ValueError, match=message):
        restarts.restarted(cases, **settings)


def test_a_kernel_of_zeros_is_no_place_to_go_on_from(cases, priors):
    def problem(steps):
        components, guidance, step = restarts.blind_problem(cases, steps)
        nothing = replace(components["kernel"], constrain=lambda x0: 0 * x0)
        return components | {"kernel": nothing}, guidance, step

    with pytest.raises(FloatingPointError, match="a kernel is 0 everywhere"):
        restarts.run_passes(cases, problem, 4, restarts=1, back_to=200)


def test_of_several_chains_each_image_keeps_the_one_with_the_least_residual(cases, priors):
    runs = [
        deblurring.blind_dps(replace(cases, seeds=tuple(s + 10_000 * j for s in cases.seeds)), steps=5)
        for j in range(3)
    ]
    residuals = torch.stack([(cases.measurement - problem.explained(run)).flatten(1).norm(dim=1) for run in runs])
    found = restarts.best_of(cases, 3, steps=5)
    for i, j in enumerate(residuals.argmin(0).tolist()):
        assert torch.equal(found.image[i], runs[j].image[i]) and torch.equal(found.kernel[i], runs[j].kernel[i])
    assert len(set(residuals.argmin(0).tolist())) > 1 or residuals.argmin(0)[0] > 0  # not just the first
    with pytest.raises(ValueError, match="chains is 0"):
        restarts.best_of(cases, 0)
