"""The wheel, installed without the checkout: it carries the priors that a user needs, and restores a picture."""

import os
import subprocess
import sys
import zipfile

import pytest

from pdm.paths import ROOT

RESTORE = """
import sys
sys.path.insert(0, sys.argv[1])  # before the editable install
from functools import partial
import torch
from torchvision.utils import save_image
import pdm
from pdm import DPS, Component, blur, data, final, load_prior, paths, sample
assert pdm.__file__.startswith(sys.argv[1]), pdm.__file__
assert not paths.IS_CHECKOUT and paths.results_dir("smoke").is_relative_to(sys.argv[2])
photo = data.quickstart_images().images[2:]
kernel = data.motion_kernels(1, 32, 0.5, torch.Generator().manual_seed(0))
y = blur(photo, kernel)
guidance = DPS(y, partial(blur, kernel=kernel), {"image": 100.0})
last = final(sample({"image": Component(load_prior("image", "photos"), (3, 64, 64))}, guidance, [0], 4))
assert last.theta["image"].isfinite().all()
assert load_prior("kernel").shape == (1, 32, 32) and load_prior("tilt").shape == (2, 64, 64)
assert len(data.photos()) == 112
save_image((last.theta["image"] + 1) / 2, "restored.png")
try:
    load_prior("deblur_regression")
except ValueError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (found,) = folder.glob("*.whl")
    return found


def test_it_carries_the_priors_and_their_terms(wheel):
    with zipfile.ZipFile(wheel) as z:
        names = {name.removeprefix("pdm/_data/"): z.getinfo(name).file_size for name in z.namelist() if "_data" in name}
        terms = z.read("pdm/_data/priors/TERMS.md").decode()
    for name in ("image", "kernel", "kernel_given_y", "tilt"):
        assert names[f"priors/{name}.safetensors"] > 100_000 and f"priors/{name}.json" in names
    assert "research use" in terms and sum(names.values()) < 30e6
    assert "splits/photos_test.txt" in names and not any("regression" in name for name in names)


def test_installed_into_an_empty_folder_it_restores_a_picture(wheel, tmp_path):
    place, here = tmp_path / "site", tmp_path / "user"
    here.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), str(wheel)]
    subprocess.run(install, check=True)
    before = {path for path in place.rglob("*") if path.suffix not in (".pyc",) and path.name != "__pycache__"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PDM_")}
    command = [sys.executable, "-c", RESTORE, str(place), str(here)]
    done = subprocess.run(command, cwd=here, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (here / "restored.png").stat().st_size > 1000
    after = {path for path in place.rglob("*") if path.suffix not in (".pyc",) and path.name != "__pycache__"}
    assert after == before  # nothing is written into the package
    assert str(place) in done.stdout and "deblur_regression" in done.stdout  # what is missing, and where
