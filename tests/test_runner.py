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
from pdm.study import runner, statistics
from pdm.study.deblurring import blurred
from pdm.study.problem import Estimate, blurred_cases
from pdm.study.runner import Method
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
    return blurred_cases(truth, motion_kernels(5, 16, 0.5, generator), range(5), list("abcde"))


def oracle(cases, shift: float = 0.0, raises_at: str = ""):
    """The truth, moved by `shift`; stops as a method that meets NaN where it meets one of the names."""
    CALLS.append(cases.names)
    if any(name in raises_at for name in cases.names):
        raise FloatingPointError("the prior of 'image' gave NaN")
    return Estimate(cases.truth + shift, cases.kernels)


def lost(cases):
    return Estimate(-cases.truth, cases.kernels.flip(2))


def no_kernel(cases):
    """A kernel of zeros for the second image, and the true one for the others."""
    kernels = cases.kernels.clone()
    kernels[[i for i, name in enumerate(cases.names) if name == "b"]] = 0
    return Estimate(cases.truth, kernels)


def dark_beyond(cases, boundary: str = ""):
    return Estimate(cases.truth, cases.kernels)


def half_nan(cases):
    image = cases.truth.clone()
    image[0, 0, 0, 0] = math.nan
    return Estimate(image)


def test_a_row_holds_what_the_metrics_say(cases):
    result = runner.run(
        [Method("oracle", oracle, {"shift": 0.02}, batch=2), Method("blurred", blurred)], cases, "smoke"
    )
    rows = result["oracle"]["rows"]
    assert [row["image"] for row in rows] == list("abcde") and CALLS == [("a", "b"), ("c", "d"), ("e",)]
    wanted = metrics.psnr(cases.truth + 0.02, cases.truth)
    assert [row["psnr"] for row in rows] == pytest.approx(wanted.tolist())
    assert [row["mnc"] for row in rows] == pytest.approx([1.0] * 5, abs=1e-6)
    assert not any(row["diverged"] for row in rows)
    assert all(math.isnan(row["mnc"]) and not row["diverged"] for row in result["blurred"]["rows"])
    assert torch.equal(result["blurred"]["image"], cases.measurement) and result["blurred"]["kernel"] is None


def test_divergence_is_a_residual_above_three_times_the_noise(cases):
    result = runner.recorded([Method("oracle", oracle), Method("lost", lost)], cases, "smoke")
    assert [row["diverged"] for row in result["oracle"]["rows"]] == [False] * 5
    assert [row["residual_ratio"] for row in result["oracle"]["rows"]] == pytest.approx([1] * 5, abs=0.1)
    assert [row["diverged"] for row in result["lost"]["rows"]] == [True] * 5
    assert aggregate(result).diverged.tolist() == [0, 5]


def test_the_residual_is_held_against_the_noise_and_boundary_of_the_cases(cases):
    loud = blurred_cases(cases.truth, cases.kernels, cases.seeds, cases.names, sigma=0.1, boundary="zero")
    rows = runner.run([Method("oracle", oracle)], loud, "smoke")["oracle"]["rows"]
    assert [row["residual_ratio"] for row in rows] == pytest.approx([1] * 5, abs=0.1)
    assert not any(row["diverged"] for row in rows)


def test_what_fails_is_a_row_and_spoils_no_other(cases):
    methods = [Method("oracle", oracle, {"raises_at": "b", "shift": 0.02}), Method("half", half_nan)]
    result = runner.recorded(methods, cases, "smoke")
    rows = result["oracle"]["rows"]
    assert [row["diverged"] for row in rows] == [False, True, False, False, False]
    assert math.isnan(rows[1]["psnr"]) and rows[2]["psnr"] > 20
    assert [row["diverged"] for row in result["half"]["rows"]] == [True, False, False, False, False]
    table = aggregate(result).set_index("method")
    assert (table.loc["oracle", "n"], table.loc["oracle", "diverged"]) == (5, 1)
    assert table.loc["oracle", "psnr"] == pytest.approx(np.nanmean([row["psnr"] for row in rows]))


def test_a_kernel_of_zeros_is_a_row_that_diverged(cases):
    rows = runner.run([Method("no_kernel", no_kernel)], cases, "smoke")["no_kernel"]["rows"]
    assert [row["diverged"] for row in rows] == [False, True, False, False, False]
    assert math.isnan(rows[1]["mnc"]) and math.isnan(rows[1]["psnr"]) and rows[0]["mnc"] == pytest.approx(1)


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


def test_another_error_is_not_hidden(cases):
    def wrong(cases):
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        runner.run([Method("wrong", wrong)], cases, "smoke")
    same = [Method("same", blurred), Method("same", lost)]
    for function in (runner.run, runner.recorded, lambda *of: runner.pictures(*of[:2], [0], of[2])):
        with pytest.raises(ValueError, match="wanted a name each"):
            function(same, cases, "smoke")


def test_interrupted_it_goes_on_where_it_stopped(cases, monkeypatch):
    methods = [Method("oracle", oracle, {"shift": 0.02}, batch=2), Method("lost", lost, batch=3)]
    whole = runner.run(methods, cases, "smoke")
    monkeypatch.setenv("PDM_RESULTS", str(runner.reproduce.results_dir("smoke").parent / "again"))
    CALLS.clear()
    stops = Method(
        "oracle", lambda cases, shift: oracle(cases, shift) if "e" not in cases.names else 1 / 0, {"shift": 0.02}
    )
    monkeypatch.setattr(
        Method,
        "key",
        lambda self, part, key=Method.key: key(self, part) | dict.fromkeys(("name", "function"), self.name),
    )
    with pytest.raises(ZeroDivisionError):
        runner.run([Method(stops.name, stops.restore, stops.settings, batch=2)], cases, "smoke")
    resumed = runner.run(methods, cases, "smoke")
    assert CALLS == [("a", "b"), ("c", "d"), ("e",)]  # two before the stop, and the one that was missing
    for name in whole:
        assert torch.equal(whole[name]["image"], resumed[name]["image"])
        for one, other in zip(whole[name]["rows"], resumed[name]["rows"], strict=True):
            assert {k: v for k, v in one.items() if k != "seconds"} == pytest.approx(
                {k: v for k, v in other.items() if k != "seconds"}, nan_ok=True
            )


def test_another_setting_seed_or_image_is_another_part(cases):
    plain = Method("oracle", oracle)
    keys = [plain.key(cases), Method("oracle", oracle, {"shift": 0.02}).key(cases), Method("oracle", lost).key(cases)]
    keys += [plain.key(cases[:4]), plain.key(cases[1:])]
    assert len({str(key) for key in keys}) == 5
    assert plain.key(cases) == Method("oracle", oracle, batch=3).key(cases)
    assert "image" in Method("oracle", oracle, {}, ("image",)).key(cases)


def test_a_gpu_takes_larger_batches_of_what_networks_restore(monkeypatch):
    monkeypatch.setattr(runner, "best_device", lambda: torch.device("cuda"))
    assert Method("oracle", oracle, priors=("image",)).batch == 128
    assert [Method("blurred", blurred).batch, Method("oracle", oracle, priors=("image",), batch=4).batch] == [16, 4]


def test_one_method_under_two_names_is_restored_once(cases):
    methods = [Method("first", oracle), Method("second", oracle, batch=5)]
    with ThreadPoolExecutor(2) as pool:
        found = runner.run(methods, cases, "smoke", pool)
    assert len(CALLS) == 1 and torch.equal(found["first"]["image"], found["second"]["image"])
    assert aggregate(runner.recorded(methods, cases, "smoke")).method.tolist() == ["first", "second"]
    assert len(list((runner.reproduce.results_dir("smoke") / "records").iterdir())) == 1


def test_over_an_executor_the_table_is_the_same(cases):
    methods = [Method("oracle", oracle, {"shift": 0.02}, batch=2), Method("blurred", blurred, batch=2)]
    with ThreadPoolExecutor(2) as pool:
        runner.run(methods, cases, "smoke", pool)
    assert sorted(CALLS) == [("a", "b"), ("c", "d"), ("e",)]
    columns = ["method", "n", "psnr", "ssim", "lpips", "mnc", "diverged"]
    over, serial = (aggregate(runner.recorded(methods, cases, scale))[columns] for scale in ("smoke", "pocket"))
    assert over.equals(serial) and len(CALLS) == 6


def test_distances_are_of_all_images_of_a_method(cases, monkeypatch):
    monkeypatch.setattr(distances, "features", lambda images: images.flatten(1)[:, :4].double())
    eight = blurred_cases(cases.truth[[0, 1, 2, 3, 4, 0, 1, 2]], cases.kernels[[0, 1, 2, 3, 4, 0, 1, 2]], range(8))
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
    renamed = blurred_cases(cases.truth, cases.kernels, cases.seeds, names)
    row = aggregate(runner.recorded([Method("blurred", blurred)], renamed, "smoke"))
    values = metrics.psnr(renamed.measurement, renamed.truth).numpy()
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
    assert CALLS[6:] == [tuple("abcde")]  # another setting has no record


def test_pictures_are_of_the_batches_that_hold_them_alone(cases):
    methods = [Method("oracle", oracle, {"shift": 0.02}, batch=2), Method("blurred", blurred)]
    found = runner.pictures(methods, cases, [3, 0], "smoke")
    assert CALLS == [("c", "d"), ("a", "b")]
    assert torch.equal(found["oracle"]["image"], cases.truth[[3, 0]] + 0.02)
    assert [row["image"] for row in found["oracle"]["rows"]] == ["d", "a"] and found["blurred"]["kernel"] is None
    whole = runner.run(methods, cases, "smoke")
    assert CALLS[2:] == [("e",)] and torch.equal(whole["oracle"]["kernel"][[3, 0]], found["oracle"]["kernel"])
    with pytest.raises(IndexError):
        runner.pictures(methods, cases, [5], "smoke")


def test_without_noise_nothing_diverges(cases):
    clean = blurred_cases(cases.truth, cases.kernels, cases.seeds, cases.names, sigma=0.0)
    rows = runner.run([Method("oracle", oracle, {"shift": 0.1})], clean, "smoke")["oracle"]["rows"]
    assert not any(row["diverged"] for row in rows) and all(math.isnan(row["residual_ratio"]) for row in rows)


def test_of_batches_elsewhere_those_that_do_not_fail_are_kept(cases, monkeypatch):
    monkeypatch.setattr(
        Method,
        "key",
        lambda self, part, key=Method.key: key(self, part) | dict.fromkeys(("name", "function"), self.name),
    )
    bad = Method("oracle", lambda cases: oracle(cases) if "a" not in cases.names else 1 / 0, batch=1)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError):
        runner.run([bad], cases, "smoke", pool)
    CALLS.clear()
    runner.run([Method("oracle", oracle, batch=1)], cases, "smoke")
    assert CALLS == [("a",)]


def test_with_nothing_left_to_do_no_scheduler_is_asked(cases, monkeypatch):
    runner.run([Method("oracle", oracle)], cases, "smoke")
    monkeypatch.setenv("EXECUTOR", "tcp://127.0.0.1:1")
    monkeypatch.setattr(runner, "connected", None)
    assert len(runner.run([Method("oracle", oracle)], cases, "smoke")["oracle"]["rows"]) == 5


@pytest.mark.parametrize(("name", "batch"), [("a/b", 1), ("", 1), ("a", 0)])
def test_a_method_without_a_usable_name_or_batch_is_refused(name, batch):
    with pytest.raises(ValueError, match="wanted a name without /, 1 or more"):
        Method(name, blurred, batch=batch)
