"""The public benchmarks: read from what their authors give, scored as an independent implementation scores."""

import io
import math
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from scipy.ndimage import correlate, map_coordinates

from pdm.data import motion_kernels
from pdm.data.images import photograph
from pdm.metrics import psnr
from pdm.operators import blur
from pdm.paths import data_dir
from pdm.study.benchmarks import LEVIN, Case, Protocol, best_shift, lai, levin, scores, shifted

SMALL = Protocol(6, 3, 0.25)


def grey(height=60, width=71):
    return ((photograph("astronaut")[:, 40 : 40 + height, 200 : 200 + width].mean(0) + 1) / 2).double()


def kernel(size=9):
    return motion_kernels(1, size, 0.5, torch.Generator().manual_seed(3))


def by_hand(estimate, truth, protocol):
    """Every shift by itself, with SciPy's interpolation."""
    rim, reach, step = protocol
    rows, columns = np.mgrid[rim : truth.shape[0] - rim, rim : truth.shape[1] - rim].astype(float)
    best = (np.inf, None)
    for down in np.arange(-reach, reach + step / 2, step):
        for across in np.arange(-reach, reach + step / 2, step):
            moved = map_coordinates(estimate, [rows + down, columns + across], order=1)
            ssd = ((moved - truth[rim:-rim, rim:-rim]) ** 2).sum()
            best = min(best, (ssd, (down, across)), key=lambda found: found[0])
    return best


@pytest.mark.parametrize("moved", [(0.0, 0.0), (1.25, -2.5), (-3.0, 3.0), (2.0, 0.75)])
def test_the_best_shift_is_an_independent_implementation_s(moved):
    truth = grey()
    rows, columns = np.mgrid[: truth.shape[0], : truth.shape[1]].astype(float)
    estimate = map_coordinates(truth.numpy(), [rows - moved[0], columns - moved[1]], order=1, mode="nearest")
    estimate += 0.02 * np.random.default_rng(0).standard_normal(estimate.shape)
    ssd, place = best_shift(torch.from_numpy(estimate), truth, SMALL)
    expected, where = by_hand(estimate, truth.numpy(), SMALL)
    assert ssd == pytest.approx(expected, rel=1e-9) and place == where
    assert place == pytest.approx(moved, abs=0.26)
    crop = shifted(torch.from_numpy(estimate), *place, SMALL) - truth[6:-6, 6:-6]
    assert crop.square().sum().item() == pytest.approx(expected, rel=1e-9)


def test_scores_are_those_of_the_aligned_crop():
    truth, k = grey(), kernel()[0, 0]
    case = Case("a", "g", truth.float(), truth.float(), k)
    estimate = (truth + 0.1).float()
    found = scores(estimate, case, SMALL, torch.nn.functional.pad(k, (3, 4, 2, 5)))
    inner = (2 * v[None, None, 6:-6, 6:-6] - 1 for v in (estimate.clamp(0, 1), truth.float()))
    assert found["mnc"] == pytest.approx(1) and found["psnr"] == pytest.approx(psnr(*inner).item(), abs=0.1)
    assert 0.5 < found["ssim"] < 1 and scores(truth.float(), case, SMALL)["psnr"] > 100
    assert scores(truth.float(), case, SMALL)["mnc"] is None


def test_bad_input_is_refused(tmp_path):
    case = Case("a", "g", grey().float(), grey().float(), kernel()[0, 0])
    with pytest.raises(ValueError, match=r"of shape \(50, 71\)"):
        scores(grey(50), case, SMALL)
    with pytest.raises(ValueError, match="more than two rims of 15"):
        scores(grey(30), Case("a", "g", grey(30), grey(30), kernel()[0, 0]), LEVIN)
    with pytest.raises(ValueError, match=r"neither levin\.npz nor"):
        next(levin(tmp_path))
    with pytest.raises(ValueError, match=r"lai\.zip"):
        next(lai(tmp_path))
    savemat(tmp_path / "im05_flit01.mat", {"x": grey().numpy(), "y": grey().numpy()})
    with pytest.raises(ValueError, match="wanted x, y and f"):
        next(levin(tmp_path))


@pytest.mark.parametrize("turn", [False, True])
def test_the_authors_files_are_read_with_the_kernel_as_it_explains_the_measurement(tmp_path, turn):
    truth, k = grey(120, 110), kernel(11)
    y = blur(truth[None, None], k.double())[0, 0]
    held = {"x": truth.numpy(), "y": y.numpy(), "f": k[0, 0].flip(0, 1).numpy() if turn else k[0, 0].numpy()}
    savemat(tmp_path / "im06_flit03.mat", held)
    (case,) = levin(tmp_path)
    torch.testing.assert_close(case.kernel, k[0, 0])
    assert (case.name, case.group) == ("im06_flit03", "kernel 3") and case.y.shape == (120, 110)


def test_a_zip_of_lai_s_is_read_as_luma_and_turned_kernels(tmp_path):
    colour = ((photograph("astronaut")[:, 40:140, 200:310] + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    k = kernel(11)[0, 0].numpy()
    luma = colour.astype(float) @ [0.299, 0.587, 0.114]
    blurred = correlate(luma, np.round(255 * k / k.max()) / np.round(255 * k / k.max()).sum(), mode="nearest")
    parts = {"sharp/people_01.png": colour, "blurred_y/people_01_kernel_02.png": np.round(blurred).astype(np.uint8)}
    parts["kernels/kernel_02.png"] = np.repeat(np.round(255 * k / k.max()).astype(np.uint8)[..., None], 3, 2)
    with ZipFile(tmp_path / "lai.zip", "w") as held:
        for name, value in parts.items():
            file = io.BytesIO()
            Image.fromarray(value).save(file, "png")
            held.writestr(name, file.getvalue())
    (case,) = lai(tmp_path)
    assert (case.name, case.group) == ("people_01_kernel_02", "people")
    again = blur(case.truth[None, None], case.kernel[None, None])[0, 0]
    assert (again - case.y)[10:-10, 10:-10].abs().max() < 0.6 / 255


@pytest.mark.skipif(not (data_dir() / "levin.npz").is_file(), reason="levin.npz is not on this machine")
def test_the_blurred_photographs_of_levin_have_the_published_figure():
    cases = list(levin(data_dir()))
    found = [10 * math.log10(225**2 / best_shift(case.y.double(), case.truth.double(), LEVIN)[0]) for case in cases]
    assert len(cases) == 32 and sum(found) / 32 == pytest.approx(22.96, abs=0.005)
    for case in cases[:8]:  # the kernels explain the measurements, at a whole-pixel shift
        again = blur(case.truth[None, None], case.kernel[None, None])[0, 0].double()
        ssd, _ = best_shift(again, case.y.double(), LEVIN)
        assert ssd / 225**2 < 0.013**2
