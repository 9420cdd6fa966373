"""Three unknowns and more through one loop, on tiny random priors and on cases whose answer is known."""

import pytest
import torch
from test_deblurring import Sure

from pdm import operators
from pdm.constraints import to_model_range
from pdm.data import TILT_BOUND, gaussian_kernels, tilt_fields
from pdm.guidance import operator_parameters
from pdm.operators import turbulence as through_air
from pdm.sampler import sample
from pdm.schedule import Schedule
from pdm.study import deblurring, runner, statistics, turbulence
from pdm.study.method import Method, method
from pdm.study.problem import Estimate, explained, measured

SIDE = 32


@method("exact", known=("image", "kernel", "tilt"))
def exact(measurement, priors):
    return Estimate(measurement.known)


@method("calm", known=("image", "kernel", "tilt"))
def calm(measurement, priors):
    return Estimate(measurement.known | {"tilt": 0 * measurement.known["tilt"]})


def scene(frames: int = 1, n: int = 2):
    generator = torch.Generator().manual_seed(1)
    truth = torch.nn.functional.interpolate(
        torch.rand(n, 3, 8, 8, generator=generator) * 1.6 - 0.8, SIDE, mode="bilinear"
    )
    tilts = torch.cat([tilt_fields(n, SIDE, generator) for _ in range(frames)], dim=1)
    return measured(truth, gaussian_kernels(n, 16, 1.0), range(n), tilt=tilts)


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_frames_are_seen_through_a_tilt_each_and_one_kernel(frames):
    cases = scene(frames)
    truth = cases.truth
    assert cases.measurement.y.shape == (2, 3 * frames, SIDE, SIDE)
    views = [through_air(truth.image, truth.kernel, truth.tilt[:, 2 * i : 2 * i + 2]) for i in range(frames)]
    assert (cases.measurement.y - torch.cat(views, dim=1)).std().item() == pytest.approx(0.02, rel=0.05)
    operator = operators.Frames(frames)
    names = [f"tilt_{i}" for i in range(frames)]
    assert operator_parameters(operator) == {"image", "kernel", *names}
    found = operator(truth.image, truth.kernel, **dict(zip(names, truth.tilt.split(2, 1), strict=True)))
    torch.testing.assert_close(found, torch.cat(views, dim=1))
    torch.testing.assert_close(explained(truth.components), found)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("method", [turbulence.blind, turbulence.uniform_tilt, turbulence.blur_only])
def test_every_method_gives_an_image_and_what_it_looks_for(method, frames, priors):
    cases = scene(frames)
    found = method(cases.measurement, priors, steps=3)
    assert found.image.shape == cases.truth.image.shape and found.kernel.shape == cases.truth.kernel.shape
    assert found.kernel.sum((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-4)
    if method is turbulence.blur_only:
        assert found.tilt is None
    else:
        assert found.tilt.shape == cases.truth.tilt.shape and found.tilt.abs().max() <= TILT_BOUND
    alone = method(cases[1:].measurement, priors, steps=3)
    torch.testing.assert_close(alone.image, found.image[1:], rtol=1e-3, atol=1e-3)


def test_what_is_told_the_operator_or_asks_for_none_gives_an_image(priors):
    cases = scene(2)
    given = cases.given(["kernel", "tilt"])
    for restore in (turbulence.known_operator, turbulence.ilvr):
        found = restore(given, priors, steps=3)
        assert found.image.shape == cases.truth.image.shape and found.kernel is None and found.tilt is None


def test_a_tilt_is_found_by_the_gradient_when_all_else_is_known():
    """Image and kernel are certain, so that the residual can fall by the tilt alone."""
    cases = scene(1, n=1)
    schedule = Schedule.linear()
    image, kernel = cases.truth.image, to_model_range(cases.truth.kernel)
    sure = {"image": Sure(schedule, image[0]), "kernel": Sure(schedule, kernel[0])}
    still = turbulence.uniform_tilt(cases.measurement, sure, steps=2, image_step=0, kernel_step=0, tilt_step=0)
    assert still.tilt.abs().max() == 0
    moved = turbulence.uniform_tilt(cases.measurement, sure, steps=300, image_step=0, kernel_step=0, tilt_step=0.01)

    def off(estimate):
        return (explained(estimate.values) - cases.measurement.y).norm().item()

    assert off(moved) < 0.7 * off(still)


def test_a_row_has_the_tilts_error_and_the_residual_of_all_frames(priors, monkeypatch, tmp_path):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    cases = scene(2)

    methods = [Method("exact", exact), Method("calm", calm), Method("blur", turbulence.blur_only, {"steps": 2})]
    found = runner.recorded(methods, cases, "smoke")
    assert [row["tilt_epe"] for row in found["exact"]["rows"]] == [0, 0]
    assert [row["residual_ratio"] for row in found["exact"]["rows"]] == pytest.approx([1, 1], abs=0.05)
    lengths = cases.truth.tilt.unflatten(1, (2, 2)).norm(dim=2).flatten(1).mean(1)
    assert [row["tilt_epe"] for row in found["calm"]["rows"]] == pytest.approx(lengths.tolist(), rel=1e-5)
    assert all(row["tilt_epe"] is None for row in found["blur"]["rows"])  # it looks for none
    table = statistics.aggregate(found).set_index("method")
    assert table.loc["calm", "tilt_epe"] == pytest.approx(lengths.mean().item(), rel=1e-5)


def test_algorithm_2_restarts_from_all_of_its_estimates(priors, monkeypatch):
    cases, begun, run = scene(2), [], sample
    monkeypatch.setattr(
        deblurring, "sample", lambda components, *args, **kw: begun.append(components) or run(components, *args, **kw)
    )
    found = turbulence.blind(cases.measurement, priors, steps=12, restarts=2)
    assert found.tilt.shape == cases.truth.tilt.shape and found.tilt.abs().max() <= TILT_BOUND
    names = {"image", "kernel", "tilt_0", "tilt_1"}
    assert [{n for n, c in components.items() if c.start is not None} for components in begun] == [set(), names, names]
    with pytest.raises(ValueError, match="-1 restarts"):
        turbulence.blind(cases.measurement, priors, steps=12, restarts=-1)


def test_a_setting_of_algorithm_2_is_used_or_refused(priors):
    seen = scene(1).measurement
    plain, dark = turbulence.blind(seen, priors, 3), turbulence.blind(seen, priors, 3, boundary="zero")
    assert not torch.equal(plain.image, dark.image) and dark.boundary == "zero"
    with pytest.raises(ValueError, match="boundary is 'nonsense'"):
        turbulence.blind(seen, priors, 3, boundary="nonsense")
