"""Tables: every case a row, whatever happens to it; interrupted and resumed the same; the same over an executor."""

import math
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pdm import metrics
from pdm.data import motion_kernels
from pdm.metrics import distances
from pdm.paths import results_dir
from pdm.study import runner, statistics
from pdm.study.deblurring import blurred
from pdm.study.method import Method, method
from pdm.study.problem import Estimate, measured
from pdm.study.statistics import aggregate, bootstrap

CALLS = []


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    CALLS.clear()
    return tmp_path


@pytest.fixture(scope="module")
def cases():
    generator = torch.Generator().manual_seed(1)
    truth = torch.nn.functional.interpolate(torch.rand(5, 3, 8, 8, generator=generator) * 1.6 - 0.8, 32)
    return measured(truth, motion_kernels(5, 16, 0.5, generator), range(5), list("abcde"))


ALL = ("image", "kernel")


@method("oracle", known=ALL)
def oracle(measurement, priors, shift: float = 0.0, raises_at: int = -1):
    """The truth, moved by `shift`; stops as a method that meets NaN where it meets one of the seeds."""
    CALLS.append(measurement.seeds)
    if raises_at in measurement.seeds:
        raise FloatingPointError("the prior of 'image' gave NaN")
    return Estimate({"image": measurement.known["image"] + shift, "kernel": measurement.known["kernel"]}, 7, 3)


@method("lost", known=ALL)
def lost(measurement, priors):
    return Estimate({"image": -measurement.known["image"], "kernel": measurement.known["kernel"].flip(2)})


@method("no_kernel", known=ALL)
def no_kernel(measurement, priors):
    """A kernel of zeros for the second image, and the true one for the others."""
    kernels = measurement.known["kernel"].clone()
    kernels[[i for i, seed in enumerate(measurement.seeds) if seed == 1]] = 0
    return Estimate({"image": measurement.known["image"], "kernel": kernels})


@method("dark_beyond", known=ALL)
def dark_beyond(measurement, priors, boundary: str = ""):
    return Estimate(measurement.known, boundary=boundary)


@method("half_nan", known=("image",))
def half_nan(measurement, priors):
    image = measurement.known["image"].clone()
    image[0, 0, 0, 0] = math.nan
    return Estimate({"image": image})


STOPS = {}


@method("fails")
def fails(measurement, priors):
    CALLS.append(measurement.seeds)
    if set(STOPS.get("at", ())) & set(measurement.seeds):
        raise ZeroDivisionError("a mistake")
    return Estimate({"image": measurement.y})


@method("oracle", known=ALL)
def impostor(measurement, priors):
    return Estimate(measurement.known)


def test_a_row_holds_what_the_metrics_say(cases):
    result = runner.run(
        [Method("oracle", oracle, {"shift": 0.02}, batch=2), Method("blurred", blurred)], cases, "smoke"
    )
    rows = result["oracle"]["rows"]
    assert [row["image"] for row in rows] == list("abcde") and CALLS == [(0, 1), (2, 3), (4,)]
    wanted = metrics.psnr(cases.truth.image + 0.02, cases.truth.image)
    assert [row["psnr"] for row in rows] == pytest.approx(wanted.tolist())
    assert [row["mnc"] for row in rows] == pytest.approx([1.0] * 5, abs=1e-6)
    assert not any(row["diverged"] for row in rows)
    assert all(row["mnc"] is None and row["diverged"] is None for row in result["blurred"]["rows"])
    assert torch.equal(result["blurred"]["image"], cases.measurement.y) and result["blurred"]["kernel"] is None


def test_divergence_is_a_residual_above_three_times_the_noise(cases):
    result = runner.recorded([Method("oracle", oracle), Method("lost", lost)], cases, "smoke")
    assert [row["diverged"] for row in result["oracle"]["rows"]] == [False] * 5
    assert [row["residual_ratio"] for row in result["oracle"]["rows"]] == pytest.approx([1] * 5, abs=0.1)
    assert [row["diverged"] for row in result["lost"]["rows"]] == [True] * 5
    assert aggregate(result).diverged.tolist() == [0, 5]


def test_the_residual_is_held_against_the_noise_and_boundary_of_the_cases(cases):
    loud = measured(
        cases.truth.image, cases.truth.kernel, cases.measurement.seeds, cases.names, sigma=0.1, boundary="zero"
    )
    rows = runner.run([Method("oracle", oracle)], loud, "smoke")["oracle"]["rows"]
    assert [row["residual_ratio"] for row in rows] == pytest.approx([1] * 5, abs=0.1)
    assert not any(row["diverged"] for row in rows)


def test_what_fails_is_a_row_and_spoils_no_other(cases):
    methods = [Method("oracle", oracle, {"raises_at": 1, "shift": 0.02}), Method("half", half_nan)]
    result = runner.recorded(methods, cases, "smoke")
    rows = result["oracle"]["rows"]
    assert [row["diverged"] for row in rows] == [False, True, False, False, False]
    assert rows[1]["psnr"] is None and rows[2]["psnr"] > 20
    assert [row["diverged"] for row in result["half"]["rows"]] == [True, None, None, None, None]
    table = aggregate(result).set_index("method")
    assert (table.loc["oracle", "n"], table.loc["oracle", "diverged"]) == (5, 1)
    assert table.loc["oracle", "psnr"] == pytest.approx(
        np.mean([row["psnr"] for row in rows if row["psnr"] is not None])
    )


def test_a_kernel_of_zeros_is_a_row_that_diverged(cases):
    rows = runner.run([Method("no_kernel", no_kernel)], cases, "smoke")["no_kernel"]["rows"]
    assert [row["diverged"] for row in rows] == [False, True, False, False, False]
    assert rows[1]["mnc"] is None and rows[1]["psnr"] is None and rows[0]["mnc"] == pytest.approx(1)


def test_an_estimate_is_held_against_the_measurement_by_the_boundary_that_its_method_took(cases):
    methods = [Method(f"to be {b}", dark_beyond, {"boundary": b}) for b in ("reflect", "zero")]
    ratios = [record["rows"][0]["residual_ratio"] for record in runner.run(methods, cases, "smoke").values()]
    assert ratios[0] == pytest.approx(1, abs=0.1) and ratios[1] > 1.5  # the scene was mirrored


def test_a_difference_is_of_pairs_and_narrower_than_either_mean(cases):
    draw = np.random.default_rng(0)
    hard = draw.normal(0, 5, 40)  # images differ far more than the methods do
    rows = [[{"image": f"i{j}", "psnr": v + 1.0 * better} for j, v in enumerate(hard)] for better in (1, 0)]
    noisy = [{**row, "psnr": row["psnr"] + draw.normal(0, 0.5)} for row in rows[0]]
    mean, low, high = statistics.difference({"rows": noisy}, {"rows": rows[1]}, "psnr")
    assert low < mean < high and low > 0.6 and high < 1.4
    noisy[3]["psnr"] = math.nan  # left out, on both sides
    assert statistics.difference({"rows": noisy}, {"rows": rows[1]}, "psnr")[0] == pytest.approx(mean, abs=0.1)
    with pytest.raises(ValueError, match="40 and 39 images; wanted the same ones"):
        statistics.difference({"rows": noisy}, {"rows": rows[1][1:]}, "psnr")


def test_another_error_is_not_hidden(cases, monkeypatch):
    monkeypatch.setitem(STOPS, "at", range(5))
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        runner.run([Method("fails", fails)], cases, "smoke")
    same = [Method("same", blurred), Method("same", lost)]
    one_id = [Method("first", oracle), Method("second", impostor)]
    for function in (runner.run, runner.recorded, lambda *of: runner.pictures(*of[:2], [0], of[2])):
        with pytest.raises(ValueError, match="wanted a name each"):
            function(same, cases, "smoke")
        with pytest.raises(ValueError, match="wanted an id each"):
            function(one_id, cases, "smoke")


def test_interrupted_it_goes_on_where_it_stopped(cases, monkeypatch):
    methods = [Method("fails", fails, batch=2), Method("lost", lost, batch=3)]
    whole = runner.run(methods, cases, "smoke")
    monkeypatch.setenv("PDM_RESULTS", str(results_dir("smoke").parent / "again"))
    CALLS.clear()
    monkeypatch.setitem(STOPS, "at", [4])
    with pytest.raises(ZeroDivisionError):
        runner.run(methods, cases, "smoke")
    monkeypatch.setitem(STOPS, "at", [])
    resumed = runner.run(methods, cases, "smoke")
    assert CALLS == [(0, 1), (2, 3), (4,), (4,)]  # two before the stop, and again the one that was missing
    for name in whole:
        assert torch.equal(whole[name]["image"], resumed[name]["image"])
        for one, other in zip(whole[name]["rows"], resumed[name]["rows"], strict=True):
            assert {k: v for k, v in one.items() if k != "seconds"} == {
                k: v for k, v in other.items() if k != "seconds"
            }


def test_a_small_or_grey_picture_has_the_metrics_that_it_can_have(cases):
    image, kernel = cases.truth.image, cases.truth.kernel
    small = measured(image[..., :20, :20], kernel, range(5))
    row = runner.run([Method("oracle", oracle, {"shift": 0.02})], small, "smoke")["oracle"]["rows"][0]
    assert row["lpips"] is None and row["psnr"] > 20 and row["ssim"] > 0.5
    two = measured(image[:, :2], kernel, range(5))
    row = runner.run([Method("oracle", oracle, {"shift": 0.02})], two, "smoke")["oracle"]["rows"][0]
    assert row["lpips"] is None and row["psnr"] > 20
    table = aggregate(runner.recorded([Method("oracle", oracle, {"shift": 0.02})], small, "smoke"))
    assert table.lpips.isna().all() and table.psnr.notna().all()


def test_one_method_under_two_names_is_restored_once(cases):
    methods = [Method("first", oracle), Method("second", oracle, batch=5)]
    with ThreadPoolExecutor(2) as pool:
        found = runner.run(methods, cases, "smoke", pool)
    assert len(CALLS) == 1 and torch.equal(found["first"]["image"], found["second"]["image"])
    assert aggregate(runner.recorded(methods, cases, "smoke")).method.tolist() == ["first", "second"]
    assert len(list((results_dir("smoke") / "records").iterdir())) == 1


def test_over_an_executor_the_table_is_the_same(cases):
    methods = [Method("oracle", oracle, {"shift": 0.02}, batch=2), Method("blurred", blurred, batch=2)]
    with ThreadPoolExecutor(2) as pool:
        runner.run(methods, cases, "smoke", pool)
    assert sorted(CALLS) == [(0, 1), (2, 3), (4,)]
    columns = ["method", "n", "psnr", "ssim", "lpips", "mnc", "diverged"]
    over, serial = (aggregate(runner.recorded(methods, cases, scale))[columns] for scale in ("smoke", "pocket"))
    assert over.equals(serial) and len(CALLS) == 6


def test_distances_are_of_all_images_of_a_method(cases, monkeypatch):
    monkeypatch.setattr(distances, "features", lambda images: images.flatten(1)[:, :4].double())
    eight = measured(
        cases.truth.image[[0, 1, 2, 3, 4, 0, 1, 2]], cases.truth.kernel[[0, 1, 2, 3, 4, 0, 1, 2]], range(8)
    )
    methods = [Method("oracle", oracle), Method("lost", lost), Method("half", half_nan)]
    table = aggregate(runner.recorded(methods, eight, "smoke")).set_index("method")
    assert table.loc[["oracle", "half"], ["fd_vgg", "kid"]].abs().max(axis=None) < 1e-6  # of half, the other seven
    assert table.loc["lost", "fd_vgg"] > 0.1
    few = aggregate(runner.recorded(methods, eight[:7], "smoke"))
    assert few[["fd_vgg", "kid"]].isna().all(axis=None)


def test_the_bootstrap_covers_the_mean_as_often_as_it_says():
    draw = np.random.default_rng(0)
    intervals = [bootstrap(draw.normal(3, 1, 40), seed) for seed in range(200)]
    assert 0.89 < np.mean([low < 3 < high for low, high in intervals]) < 0.99
    assert bootstrap(np.array([2.0, math.nan, 2.0])) == (2.0, 2.0)
    assert all(map(math.isnan, bootstrap(np.array([math.nan]))))


def test_an_interval_over_crops_of_few_pictures_is_as_wide_as_the_pictures_differ():
    draw, covered = np.random.default_rng(0), []
    groups = np.repeat(np.arange(12), 8)
    for seed in range(200):
        values = np.repeat(draw.normal(3, 1, 12), 8) + 0.1 * draw.normal(size=96)
        (low, high), (near, far) = bootstrap(values, seed, groups=groups), bootstrap(values, seed)
        covered.append((low < 3 < high, near < 3 < far))
    together, apart = np.mean(covered, axis=0)
    assert 0.85 < together < 0.99 and apart < 0.7
    assert bootstrap(np.arange(5.0), 3, groups=list("abcde")) == bootstrap(np.arange(5.0), 3)


def test_crops_of_one_photograph_are_drawn_together(cases):
    names = ["cat_0_0_64", "cat_0_64_64", "dog_0_0_64", "Ann_Lee_0001", "Ann_Lee_0002"]
    renamed = measured(cases.truth.image, cases.truth.kernel, cases.measurement.seeds, names)
    row = aggregate(runner.recorded([Method("blurred", blurred)], renamed, "smoke"))
    values = metrics.psnr(renamed.measurement.y, renamed.truth.image).numpy()
    wanted = bootstrap(values, groups=["cat", "cat", "dog", "Ann_Lee_0001", "Ann_Lee_0002"])
    assert (row.psnr_lo.item(), row.psnr_hi.item()) == pytest.approx(wanted)


def test_records_are_taken_up_where_that_is_asked_for_and_no_pictures_with_them(cases, folder, monkeypatch):
    methods = [Method("oracle", oracle, {"shift": 0.02}, batch=2), Method("lost", lost)]
    first = aggregate(runner.recorded(methods, cases, "smoke"))
    written = sorted((folder / "smoke" / "records").iterdir())
    assert [path.name.split("-")[0] for path in written] == ["lost", "oracle"] and len(CALLS) == 3
    assert all(path.stat().st_size < 10_000 for path in written)
    shutil.rmtree(folder / "smoke" / "parts")
    again = aggregate(runner.recorded(methods, cases, "smoke"))  # not asked for: computed anew
    assert len(CALLS) == 6 and again.drop(columns="seconds_per_image").equals(first.drop(columns="seconds_per_image"))
    shutil.rmtree(folder / "smoke" / "parts")
    monkeypatch.setenv("PDM_GO_ON", "1")
    assert aggregate(runner.recorded(methods, cases, "smoke")).equals(again) and len(CALLS) == 6
    assert not (folder / "smoke" / "parts").exists()
    runner.recorded([Method("oracle", oracle, {"shift": 0.03})], cases, "smoke")
    assert CALLS[6:] == [tuple(range(5))]  # another setting has no record


def test_pictures_are_of_the_batches_that_hold_them_alone(cases):
    methods = [Method("oracle", oracle, {"shift": 0.02}, batch=2), Method("blurred", blurred)]
    found = runner.pictures(methods, cases, [3, 0], "smoke")
    assert CALLS == [(2, 3), (0, 1)]
    assert torch.equal(found["oracle"]["image"], cases.truth.image[[3, 0]] + 0.02)
    assert [row["image"] for row in found["oracle"]["rows"]] == ["d", "a"] and found["blurred"]["kernel"] is None
    whole = runner.run(methods, cases, "smoke")
    assert CALLS[2:] == [(4,)] and torch.equal(whole["oracle"]["kernel"][[3, 0]], found["oracle"]["kernel"])
    with pytest.raises(IndexError):
        runner.pictures(methods, cases, [5], "smoke")


def test_without_noise_nothing_diverges(cases):
    clean = measured(cases.truth.image, cases.truth.kernel, cases.measurement.seeds, cases.names, sigma=0.0)
    rows = runner.run([Method("oracle", oracle, {"shift": 0.1})], clean, "smoke")["oracle"]["rows"]
    assert not any(row["diverged"] for row in rows) and all(row["residual_ratio"] is None for row in rows)


def test_of_batches_elsewhere_those_that_do_not_fail_are_kept(cases, monkeypatch):
    monkeypatch.setitem(STOPS, "at", [0])
    with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError):
        runner.run([Method("fails", fails, batch=1)], cases, "smoke", pool)
    CALLS.clear()
    monkeypatch.setitem(STOPS, "at", [])
    runner.run([Method("fails", fails, batch=1)], cases, "smoke")
    assert CALLS == [(0,)]


def test_with_nothing_left_to_do_no_scheduler_is_asked(cases, monkeypatch):
    runner.run([Method("oracle", oracle)], cases, "smoke")
    monkeypatch.setenv("EXECUTOR", "tcp://127.0.0.1:1")
    monkeypatch.setattr(runner, "connected", None)
    assert len(runner.run([Method("oracle", oracle)], cases, "smoke")["oracle"]["rows"]) == 5
