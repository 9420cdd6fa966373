"""Three unknowns and more through one loop, on tiny random networks and on cases whose answer is known."""

import pytest
import torch
from conftest import tiny
from test_deblurring import Sure

from pdm import operators
from pdm.constraints import to_model_range
from pdm.data import TILT_BOUND, gaussian_kernels, tilt_fields
from pdm.guidance import operator_parameters
from pdm.operators import turbulence as through_air
from pdm.sampler import sample
from pdm.schedule import Schedule
from pdm.study import deblurring, problem, restarts, runner, statistics, turbulence
from pdm.study.problem import Estimate, explained
from pdm.study.runner import Method

SIDE = 32


def scene(frames: int = 1, n: int = 2):
    generator = torch.Generator().manual_seed(1)
    truth = torch.nn.functional.interpolate(
        torch.rand(n, 3, 8, 8, generator=generator) * 1.6 - 0.8, SIDE, mode="bilinear"
    )
    tilts = torch.cat([tilt_fields(n, SIDE, generator) for _ in range(frames)], dim=1)
    return problem.turbulent_cases(truth, gaussian_kernels(n, 16, 1.0), tilts, range(n))


@pytest.fixture
def networks(monkeypatch):
    priors = {"image": tiny(SIDE, 3), "kernel": tiny(16, 1), "tilt": tiny(SIDE, 2)}
    monkeypatch.setattr(deblurring, "load_prior", lambda name, label=None, device="cpu": priors[name])


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_frames_are_seen_through_a_tilt_each_and_one_kernel(frames):
    cases = scene(frames)
    assert cases.measurement.shape == (2, 3 * frames, SIDE, SIDE)
    views = [through_air(cases.truth, cases.kernels, cases.tilts[:, 2 * i : 2 * i + 2]) for i in range(frames)]
    assert (cases.measurement - torch.cat(views, dim=1)).std().item() == pytest.approx(0.02, rel=0.05)
    operator = operators.Frames(frames)
    names = [f"tilt_{i}" for i in range(frames)]
    assert operator_parameters(operator) == {"image", "kernel", *names}
    found = operator(cases.truth, cases.kernels, **dict(zip(names, cases.tilts.split(2, 1), strict=True)))
    torch.testing.assert_close(found, torch.cat(views, dim=1))
    torch.testing.assert_close(explained(Estimate(cases.truth, cases.kernels, cases.tilts)), found)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("method", [turbulence.blind, turbulence.uniform_tilt, turbulence.blur_only])
def test_every_method_gives_an_image_and_what_it_looks_for(method, frames, networks):
    cases = scene(frames)
    found = method(cases, steps=3)
    assert found.image.shape == cases.truth.shape and found.kernel.shape == cases.kernels.shape
    assert found.kernel.sum((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-4)
    if method is turbulence.blur_only:
        assert found.tilt is None
    else:
        assert found.tilt.shape == cases.tilts.shape and found.tilt.abs().max() <= TILT_BOUND
    alone = method(cases[1:], steps=3)
    torch.testing.assert_close(alone.image, found.image[1:], rtol=1e-3, atol=1e-3)


def test_what_is_told_the_operator_or_asks_for_none_gives_an_image(networks):
    cases = scene(2)
    for method in (turbulence.known_operator, turbulence.ilvr):
        found = method(cases, steps=3)
        assert found.image.shape == cases.truth.shape and found.kernel is None and found.tilt is None


def test_a_tilt_is_found_by_the_gradient_when_all_else_is_known(monkeypatch):
    """Image and kernel are certain, so that the residual can fall by the tilt alone."""
    cases = scene(1, n=1)
    schedule = Schedule.linear()
    sure = {"image": Sure(schedule, cases.truth[0]), "kernel": Sure(schedule, to_model_range(cases.kernels)[0])}
    monkeypatch.setattr(deblurring, "load_prior", lambda name, label=None, device="cpu": sure[name])
    still = turbulence.uniform_tilt(cases, steps=2, image_step=0, kernel_step=0, tilt_step=0)
    assert still.tilt.abs().max() == 0
    moved = turbulence.uniform_tilt(cases, steps=300, image_step=0, kernel_step=0, tilt_step=0.01)

    def off(estimate):
        return (explained(estimate) - cases.measurement).norm().item()

    assert off(moved) < 0.7 * off(still)


def test_a_row_has_the_tilts_error_and_the_residual_of_all_frames(networks, monkeypatch, tmp_path):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    cases = scene(2)

    def exact(cases):
        return Estimate(cases.truth, cases.kernels, cases.tilts)

    def calm(cases):
        return Estimate(cases.truth, cases.kernels, torch.zeros_like(cases.tilts))

    methods = [Method("exact", exact), Method("calm", calm), Method("blur", turbulence.blur_only, {"steps": 2})]
    found = runner.recorded(methods, cases, "smoke")
    assert [row["tilt_epe"] for row in found["exact"]["rows"]] == [0, 0]
    assert [row["residual_ratio"] for row in found["exact"]["rows"]] == pytest.approx([1, 1], abs=0.05)
    lengths = cases.tilts.unflatten(1, (2, 2)).norm(dim=2).flatten(1).mean(1)
    assert [row["tilt_epe"] for row in found["calm"]["rows"]] == pytest.approx(lengths.tolist(), rel=1e-5)
    assert all(row["tilt_epe"] != row["tilt_epe"] for row in found["blur"]["rows"])  # NaN: it looks for none
    table = statistics.aggregate(found).set_index("method")
    assert table.loc["calm", "tilt_epe"] == pytest.approx(lengths.mean().item(), rel=1e-5)


def test_algorithm_2_restarts_from_all_of_its_estimates(networks, monkeypatch):
    cases, begun = scene(2), []
    monkeypatch.setattr(
        restarts, "sample", lambda components, *args, **kw: begun.append(components) or sample(components, *args, **kw)
    )
    found = turbulence.blind(cases, steps=12, restarts=2)
    assert found.tilt.shape == cases.tilts.shape and found.tilt.abs().max() <= TILT_BOUND
    names = {"image", "kernel", "tilt_0", "tilt_1"}
    assert [{n for n, c in components.items() if c.start is not None} for components in begun] == [set(), names, names]
    with pytest.raises(ValueError, match="-1 restarts"):
        turbulence.blind(cases, steps=12, restarts=-1)
