"""A photo of any size: its parts, one restoration with the kernel known, and the command."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as pictures

from pdm import __main__ as command
from pdm import metrics, photo, photo_kernels
from pdm.blind_steps import Plan
from pdm.convolutions import Convolution
from pdm.data import motion_kernels
from pdm.data.photo_files import read_photo
from pdm.kernel_refinement import Refinement
from pdm.photo_kernels import Priors, Search

SIGMA = 0.02


def coffee(height, width):
    values = pictures.coffee()[100 : 100 + height, 200 : 200 + width]
    return torch.from_numpy(values.copy()).permute(2, 0, 1).float() / 127.5 - 1


def blurred(height, width, seed=3):
    """A crop of a scene that was blurred before it was cropped, what it shows, and its kernel."""
    kernel = motion_kernels(1, 32, 0.5, torch.Generator().manual_seed(seed))
    scene = coffee(height + 31, width + 31)
    y = Convolution(kernel, scene.shape[-2:], "valid")(scene[None])[0]
    y = y + SIGMA * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
    return y, photo.seen(scene[None], (32, 32), (height, width))[0], kernel


# two rounds may find what they like
ONCE = Refinement(begun=1, rounds=1)
QUICK = Search(Plan(rounds=2, chains=2, polish=1, finish=1), ONCE, ONCE, narrow=0, doubtful=1e9, agreed=0)
FAST = {"search": QUICK, "evaluations": 2}


def test_what_is_seen_lies_where_a_kernel_of_one_pixel_leaves_it():
    scene, dirac = torch.randn(1, 3, 70, 81), torch.zeros(1, 1, 7, 10)
    dirac[0, 0, 3, 5] = 1
    y = Convolution(dirac, (70, 81), "valid")(scene)
    torch.testing.assert_close(photo.seen(scene, (7, 10), y.shape[-2:]), y, atol=1e-5, rtol=0)


def test_the_noise_is_found_beneath_a_photograph():
    still = torch.zeros(3, 90, 121)
    for sigma in (0.01, 0.05):
        noisy = still + sigma * torch.randn(still.shape, generator=torch.Generator().manual_seed(1))
        assert photo.noise_level(noisy) == pytest.approx(sigma, rel=0.1)
    y, _, _ = blurred(120, 140)
    assert photo.noise_level(y) == pytest.approx(SIGMA, rel=0.3)


def test_the_liveliest_part_is_where_the_texture_is():
    y = torch.zeros(1, 3, 60, 80)
    y[..., 25:45, 50:70] = torch.rand(20, 20, generator=torch.Generator().manual_seed(0))
    part = photo_kernels.liveliest(y, 24)
    assert part.shape == (1, 3, 24, 24) and part.square().sum() == y.square().sum()
    assert photo_kernels.liveliest(y, 100).shape == (1, 3, 60, 80)
    clipped = torch.zeros(1, 1, 60, 80, dtype=torch.bool)
    clipped[..., 25:45, 50:70] = True
    y[..., 2:10, 2:10] = 0.1 * torch.rand(8, 8, generator=torch.Generator().manual_seed(1))
    assert photo_kernels.liveliest(y, 12, clipped).abs().max() <= 0.1


def test_a_kernel_is_enlarged_as_its_picture():
    """Averaged down again it is the kernel: a blur of the large picture is one of the small picture."""
    kernel = motion_kernels(1, 32, 0.5, torch.Generator().manual_seed(7))
    large = photo_kernels.enlarged(kernel, 2)
    assert large.sum().item() == pytest.approx(1, abs=1e-5) and large.shape[-1] % 2 == 1
    assert abs(photo_kernels.extent(large) - 2 * photo_kernels.extent(kernel)) <= 3
    assert metrics.mnc(torch.nn.functional.avg_pool2d(large, 2), kernel[..., 1:, 1:]).item() > 0.9
    assert photo_kernels.enlarged(kernel, 1) is kernel
    two = torch.cat([kernel, kernel.flip(-1)])  # on one canvas
    torch.testing.assert_close(
        photo_kernels.enlarged(two, 1.41)[1:], photo_kernels.enlarged(two[1:], 1.41), atol=1e-3, rtol=0
    )


def test_a_kernel_s_extent_is_that_of_what_is_not_faint():
    kernel = torch.zeros(1, 1, 20, 20)
    kernel[0, 0, 5, 3:10], kernel[0, 0, 15, 15] = 0.14, 0.005
    assert photo_kernels.extent(kernel / kernel.sum()) == 7 and photo_kernels.extent(kernel / kernel.sum(), 0.01) == 13


def test_kernels_that_are_alike_are_averaged_and_others_left_out():
    path = torch.zeros(1, 1, 21, 21)
    path[0, 0, 10, 4:17] = 1 / 13
    other = path.transpose(-1, -2).contiguous()
    wider = torch.nn.functional.avg_pool2d(path, (3, 1), 1, (1, 0))
    kernels = torch.stack([path, other, path.roll(1, -2), wider], dim=1)
    found = photo_kernels._mean_of_like(kernels, 0, 0.5)
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(found, (2 * path + wider) / 3, atol=1e-5, rtol=0)


def test_a_photo_is_handed_back_where_its_kernel_is_not_believed():
    y, _, _ = blurred(80, 96)
    cases = ({"narrow": 99}, photo.NO_BLUR), ({"doubtful": 0.0}, "noise unexplained"), ({"agreed": 1.1}, "correlate by")
    for change, said in cases:
        search = replace(QUICK, **change)
        found = photo.restore(y, search=search, evaluations=2)
        assert found.image.equal(y) and found.kernel.shape == (1, 1, 1)
        assert said in found.warnings[0] and "handed back" in found.warnings[1]
        insisted = photo.restore(y, search=search, evaluations=2, unharmed=False)
        assert not insisted.image.equal(y) and said in insisted.warnings[0]


def test_a_kernel_that_is_not_believed_is_sought_again_from_other_noise(monkeypatch):
    y, _, kernel = blurred(80, 96)
    tried = []

    def kernel_steps(y, clipped, priors, sigma, seeds, search):
        tried.append(list(seeds))
        return photo_kernels.KernelEstimate(kernel, 0.02, 9.0 if len(tried) == 1 else 0.5, 1.0)
        yield

    monkeypatch.setattr(photo, "kernel_steps", kernel_steps)
    found = photo.restore(y, seed=5, search=Search(attempts=3), evaluations=1)
    assert len(tried) == 2 and tried[0] == [5] and tried[1] != [5]
    assert found.kernel.equal(kernel[0]) and not any("converge" in said for said in found.warnings)


def test_kernels_of_other_scales_speak_for_one_and_its_own_refinement_does_not():
    path = torch.zeros(1, 1, 21, 21)
    path[0, 0, 10, 4:17] = 1 / 13
    other, third = path.transpose(-1, -2).contiguous(), torch.eye(21).expand(1, 1, 21, 21) / 21
    alone = torch.stack([path, path, other, third], dim=1)
    assert photo_kernels._agreement(alone, 0) < 0.4 and photo_kernels._agreement(alone[:, :2], 0) == 1
    assert photo_kernels._agreement(torch.stack([other, third, path, path.roll(2, -1)], dim=1), 2) > 0.99


def test_noise_of_a_grey_photo_is_that_of_the_luminance_of_its_three_channels(monkeypatch):
    y, _, kernel = blurred(70, 70)
    told = []
    whole = photo.restore_known
    monkeypatch.setattr(photo, "restore_known", lambda *a, **o: told.append(o["sigma"]) or whole(*a, **o))
    for one in (y, y[:1]):
        photo.restore(one, kernel=kernel, sigma=0.05, evaluations=1)
    assert told == pytest.approx([0.05, 0.05 * 3**0.5])


def test_frames_of_a_scene_give_one_image_and_a_kernel_each():
    frames = torch.stack([blurred(80, 96, seed)[0] for seed in (3, 4)])
    found = photo.restore(frames, **FAST)
    assert found.image.shape == (3, 80, 96) and found.kernel.shape[:2] == (2, 1)
    with pytest.raises(ValueError, match="1 kernels for 2 frames"):
        photo.restore(frames, kernel=torch.ones(1, 1, 1, 1))


def test_a_kernel_at_the_rim_is_told():
    kernel = torch.zeros(1, 1, 21, 21)
    kernel[..., 10, 5:16] = 1 / 11
    assert photo._at_the_rim(kernel) == ()
    assert "reaches the rim of the 21 pixels" in photo._at_the_rim(kernel.roll(6, -1))[0]


def test_light_and_values_are_inverse():
    values = torch.linspace(-1, 1, 300).view(3, 10, 10)
    torch.testing.assert_close(photo.from_linear(photo.to_linear(values)), values, atol=1e-5, rtol=0)
    assert photo.to_linear(torch.zeros(1, 1, 1)).item() == pytest.approx(2 * 0.2140 - 1, abs=1e-3)


def test_a_known_kernel_is_undone_at_a_size_that_nothing_divides():
    y, truth, kernel = blurred(101, 118)
    found = photo.restore(y, kernel=kernel, sigma=SIGMA)
    before, after = (metrics.psnr(v[None].clamp(-1, 1), truth[None]).item() for v in (y, found.image))
    assert found.image.shape == truth.shape and after > before + 4
    assert 0.5 < found.residual < 1.1


def test_a_grey_photo_stays_grey():
    y, _, _ = blurred(80, 96)
    found = photo.restore(y[:1], **FAST)
    assert found.image.shape == (1, 80, 96) and found.kernel.sum().item() == pytest.approx(1, abs=1e-4)


def test_states_are_counted():
    y, _, kernel = blurred(80, 96)
    for known in (None, kernel):
        seen = []
        photo.restore(y, kernel=known, progress=seen.append, **FAST)
        rounds = 0 if known is not None else (2 + 1 + 1) + 5  # at one scale: the photo is too small for coarser ones
        assert len(seen) == rounds + 2 and rounds <= QUICK.states


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"photo": torch.zeros(2, 80, 80)}, "2 channels"),
        ({"photo": torch.zeros(3, 80, 60)}, "64"),
        ({"photo": torch.full((3, 80, 80), torch.nan)}, "photo"),
        ({"sigma": 0.0}, "sigma"),
        ({"kernel": torch.ones(1, 1, 3, 3)}, "sum"),
        ({"kernel": [[1.0]]}, "kernel is a list"),
        ({"kernel": torch.full((1, 1, 90, 90), 1 / 8100)}, "large|measurement|at most"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_input_is_refused_before_the_first_evaluation(change, wanted):
    class Forbidden:
        """A prior that must not be evaluated."""

        def __call__(self, *_):
            raise AssertionError("evaluated")

    priors = Priors.load()._replace(image=Forbidden())
    with pytest.raises(ValueError, match=wanted):
        next(photo.restore_steps(**({"photo": torch.rand(3, 80, 80), "priors": priors} | change)))


def test_the_command_keeps_a_file_s_kind_and_says_what_it_cannot_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "SEARCH", QUICK)
    y, _, _ = blurred(70, 90)
    pixels = ((y.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(np.array(Image.fromarray(pixels).convert("L"))).save(folder / "b.jpg")
    (folder / "c.png").write_bytes(b"no picture")
    out, kernels = tmp_path / "out", tmp_path / "kernels"
    arguments = ["restore", str(folder), "-o", str(out), "--kernel", str(kernels), "--quiet"]
    assert command.main(arguments) == 1
    said = capsys.readouterr()
    assert "c.png is no photo" in said.err and "a.png: noise" in said.out
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.jpg"]
    assert read_photo(out / "a.png").image.shape == (3, 70, 90) and read_photo(out / "b.jpg").image.shape == (1, 70, 90)
    assert read_photo(kernels / "a_kernel.png").image.shape == (1, 41, 41)
    before = (out / "a.png").stat().st_mtime_ns
    assert command.main([*arguments, "--go-on"]) == 1 and (out / "a.png").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["none.png"], "no photo"),
        (["empty"], "holds no photos"),
        (["a.png", "-o", "a.png"], "written over"),
        (["a.png", "-o", "b.xyz"], "suffix"),
        (["a.png", "-o", "b.png", "--kernel", "b.png"], "written over"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(tmp_path, monkeypatch, capsys, arguments, wanted):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Image.fromarray(np.zeros((70, 70, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit) as end:
        command.main(["restore", *arguments])
    assert end.value.code == 2 and wanted in capsys.readouterr().err
