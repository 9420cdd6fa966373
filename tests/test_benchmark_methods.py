"""Rows of the public benchmarks' tables, and their command, on a benchmark of one case made here."""

import os

import numpy as np
import pandas as pd
import pytest
import torch
from skimage import data as pictures

from pdm import photo
from pdm.blind_steps import Plan
from pdm.kernel_refinement import Refinement
from pdm.operators import blur
from pdm.photo_kernels import Search
from pdm.study import __main__ as command
from pdm.study import benchmark_methods, benchmarks, cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """One photograph by one kernel, in the form of levin.npz, and results that go elsewhere."""
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path / "results"))
    once = Refinement(begun=1, rounds=1)
    quick = Search(Plan(rounds=1, chains=1, finish=1), once, once, (1.0,), narrow=0, doubtful=1e9, agreed=0)
    monkeypatch.setattr(benchmark_methods, "SEARCH", quick)
    x = torch.from_numpy(pictures.camera()[100:180, 200:290].astype(np.float32) / 255)
    kernel = torch.zeros(27, 27)
    kernel[13, 9:18] = 1 / 9
    y = blur(x[None, None], kernel[None, None])[0, 0]
    held = {"x": x[None, None], "y": y[None, None], "k": kernel[None], "size": torch.tensor([27])}
    np.savez(tmp_path / "levin.npz", **{name: value.numpy() for name, value in held.items()})
    return tmp_path


def rows(*ssd, group="a"):
    return [
        {"case": f"{group}{i}", "group": group, "psnr": -10 * np.log10(s), "ssim": 0.5, "ssd": s, "mnc": None}
        | {"seconds": 1.0, "commit": "c", "machine": "m"}
        for i, s in enumerate(ssd)
    ]


def test_a_table_s_ratios_and_counts():
    found = {"blurred": rows(0.1, 0.1, 0.1), "known_kernel": rows(0.01, 0.02, 0.04), "other": rows(0.01, 0.05, 0.2)}
    other = benchmark_methods.table(found).set_index("method").loc["other"]
    assert other.error_ratio == pytest.approx((1 + 2.5 + 5) / 3) and other.success_2 == pytest.approx(1 / 3)
    assert other.below_input == 1 and other.least == pytest.approx(-10 * np.log10(0.2))
    both = {name: part + rows(0.01, 0.01, 0.01, group="b") for name, part in found.items()}
    grouped = benchmark_methods.table(both, groups=True)
    assert len(grouped) == 6 and grouped[grouped.group == "b"].error_ratio.eq(1).all()


def test_the_command_scores_and_writes_a_table(folder, capsys, monkeypatch):
    arguments = ["levin", str(folder), "--methods", "restore", "pan_l0", "--scale", "smoke"]
    assert command.main(arguments) == 0
    table = pd.read_csv(folder / "results" / "smoke" / "tables" / "levin.csv").set_index("method")
    assert list(table.index) == ["blurred", "known_kernel", "restore", "pan_l0"]
    assert table.psnr["known_kernel"] > table.psnr["blurred"] and 0 < table.mnc["restore"] <= 1
    monkeypatch.setattr(benchmark_methods, "METHODS", {})  # nothing is computed again
    assert command.main([*arguments, "--go-on"]) == 0 and "PDM_GO_ON" not in os.environ


def test_algorithm_1_is_brought_to_its_size_and_back(folder):
    (case,) = benchmarks.levin(folder)
    image, kernel = benchmark_methods.algorithm_1(case, steps=1)
    assert image.shape == case.y.shape and kernel is None and 0 <= image.min() and image.max() <= 1


def test_a_folder_without_a_benchmark_is_refused(tmp_path, capsys):
    for name in ("levin", "lai"):
        with pytest.raises(SystemExit) as end:
            command.main([name, str(tmp_path)])
        assert end.value.code == 2
    assert "levin.npz" in capsys.readouterr().err


def test_a_record_s_key_tells_settings_apart(folder, monkeypatch):
    (case,) = benchmarks.levin(folder)
    seen = []
    monkeypatch.setattr(cache, "recorded", lambda scale, key, *_: seen.append(key))
    benchmark_methods.row("restore", case, benchmarks.LEVIN, "smoke")
    monkeypatch.setattr(photo, "LEAST_SIGMA", 0.03)
    benchmark_methods.row("restore", case, benchmarks.LEVIN, "smoke")
    assert seen[0] != seen[1] and seen[0]["case"] == "im1_kernel1"
