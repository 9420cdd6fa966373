"""The paper's size: what is done to images, by which settings, and the whole path on small networks."""

import io

import pandas as pd
import piq.feature_extractors.fid_inception as piq_inception
import pytest
import torch
from PIL import Image
from torchvision.models import Inception3

from pdm import metrics, paths
from pdm.data import TILT_BOUND, gaussian_kernels, motion_kernels
from pdm.metrics import distances
from pdm.models import NetworkPrior, UNet, UNetConfig, load_prior
from pdm.operators import blur
from pdm.paper import checkpoints, tables
from pdm.paper.checkpoints import EXPERIMENTS, random_checkpoints
from pdm.study import method, runner
from pdm.study.problem import Estimate

SETTINGS = {f"{e.dataset}-{e.degradation}": e for e in EXPERIMENTS}


def released(size, channels):
    """A small network that says its variance, as the released ones do."""
    torch.manual_seed(0)
    network = UNet(UNetConfig(size, 8, channels, 2 * channels, (1,), 1, 0, 8, None, 8))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return NetworkPrior(network)


@pytest.fixture
def networks(monkeypatch, tmp_path):
    priors = {"image": released(256, 3), "kernel": released(64, 1), "tilt": released(256, 2)}
    monkeypatch.setattr(method, "load_prior", lambda name, label=None, device="cpu": priors[name])
    for module in (method, tables):
        monkeypatch.setattr(module, "prior_card", lambda name: {"sha256": name, "source": "ffhq_10m.pt"})
    for module in (method, runner, tables):
        monkeypatch.setattr(module, "best_device", lambda: torch.device("cpu"))
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path / "results"))


@pytest.fixture
def folders(tmp_path):
    for e in EXPERIMENTS:
        (tmp_path / "images" / e.dataset).mkdir(parents=True, exist_ok=True)
        for i in range(2):
            colour = (60 + 90 * i, 128, 200 - 90 * i)
            Image.new("RGB", (300, 256), colour).save(tmp_path / "images" / e.dataset / f"{i:05}.png")
    return tmp_path / "images"


def test_measurements_are_the_papers():
    truth = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) - 0.5
    gaussian = tables.cases(SETTINGS["ffhq-gaussian"], truth, ["a", "b"])
    assert torch.equal(gaussian.truth.kernel, gaussian_kernels(2, 64, 3.0)) and gaussian.names == ("a", "b")
    noise = gaussian.measurement.y - blur(truth, gaussian.truth.kernel)
    assert noise.std().item() == pytest.approx(0.02, rel=0.02)
    motion = tables.cases(SETTINGS["afhq_dog-motion"], truth, ["a", "b"], seed=3)
    assert torch.equal(motion.truth.kernel[1:], motion_kernels(1, 64, 0.5, torch.Generator().manual_seed(4)))
    tilted = tables.cases(SETTINGS["imagenet-turbulence"], truth, ["a", "b"])
    kernel, tilt = tilted.truth.kernel, tilted.truth.tilt
    assert torch.equal(kernel, gaussian_kernels(2, 64, 2.0)) and tilt.shape == (2, 2, 128, 128)
    assert tilted.names == ("a", "b") and tilted.measurement.sigma == 0.02
    assert tilt.abs().max() <= TILT_BOUND and not torch.equal(tilt[0], tilt[1])


def test_settings_are_the_papers_and_the_releases():
    blurred, paper, release = tables.methods(SETTINGS["ffhq-motion"], 1000, 8)
    assert (blurred.name, paper.batch) == ("blurred", 8)
    wanted = {"constant": True, "image_step": 0.3, "kernel_step": 0.3, "penalty": "l1", "weight": 1.0}
    assert wanted.items() <= paper.settings.items() and "penalty" not in release.settings
    assert {"image_step": 1.0, "kernel_step": 1.0, "fade": 0}.items() <= release.settings.items()
    assert paper.settings["constraint"] == "simplex" and "constraint" not in release.settings
    _, dogs, _ = tables.methods(SETTINGS["afhq_dog-gaussian"])
    assert (dogs.settings["penalty"], dogs.settings["weight"]) == ("l0", 5.0)
    _, air, _ = tables.methods(SETTINGS["ffhq-turbulence"])
    assert {"tilt_step": 0.3, "constant": True, "constraint": "simplex"}.items() <= air.settings.items()
    assert air.restore.priors == ("image", "kernel", "tilt")


def test_the_tables_come_of_folders_and_are_resumed(networks, folders, monkeypatch, capsys):
    class Means(torch.nn.Module):
        def forward(self, x):
            return [x.mean((2, 3), keepdim=True)]

    monkeypatch.setattr(distances, "InceptionV3", Means)
    arguments = [str(folders), "--count", "2", "--steps", "2", "--batch", "1"]
    tables.main(arguments)
    path = paths.results_dir("paper") / "tables" / "paper.csv"
    lines = capsys.readouterr().out.splitlines()
    assert lines.count(str(path)) == 3 and len([line for line in lines if line.endswith("; left out")]) == 3
    found = pd.read_csv(path)
    for _, column in found.groupby("column"):
        assert column.method.tolist() == ["blurred", "blind_dps", "blind_dps_release"]
    assert set(found.column) == {"ffhq-motion", "ffhq-gaussian", "ffhq-turbulence"}
    assert found.fid.notna().all() and (found.n == 2).all() and found.psnr.notna().all()
    assert found[found.degradation == "turbulence"].query("method != 'blurred'").tilt_epe.notna().all()
    monkeypatch.setattr(method, "load_prior", None)  # what is finished is not computed again
    tables.main(arguments)
    pd.testing.assert_frame_equal(pd.read_csv(path), found)


@method.method("nothing", known=("kernel",))
def nothing(measurement, priors):
    return Estimate({"image": measurement.y * torch.nan, "kernel": measurement.known["kernel"] * torch.nan})


def test_a_method_without_two_finite_images_has_no_fid(networks, folders, monkeypatch):
    monkeypatch.setattr(tables, "methods", lambda *_: [method.Method("nothing", nothing)])
    monkeypatch.setattr(distances, "InceptionV3", lambda: torch.nn.Identity())
    row = tables.table(SETTINGS["ffhq-motion"], folders, count=2, scale="smoke").iloc[0]
    assert row.isna().fid and row.diverged == 2


def test_a_column_wants_its_own_image_network(networks, folders, monkeypatch):
    with pytest.raises(ValueError, match=r"afhq_dog-motion wants a network that was not released; .* is ffhq_10m.pt"):
        tables.table(SETTINGS["afhq_dog-motion"], folders, count=2, scale="smoke")
    monkeypatch.setattr(tables, "prior_card", lambda name: {"sha256": name})
    with pytest.raises(ValueError, match=r"ffhq-motion wants ffhq_10m.pt; the image prior is another"):
        tables.table(SETTINGS["ffhq-motion"], folders, count=2, scale="smoke")


def test_a_trial_says_what_a_step_costs(networks):
    rows = tables.trial(size=256, count=1, steps=2)
    assert rows.components.tolist() == [2, 3] and (rows.seconds > 0).all() and (rows.peak_gb > 0.1).all()
    assert 0 < rows.tflop[0] < rows.tflop[1] < 1


def test_the_command_line_tries_too(networks, capsys):
    tables.main(["--trial", "--size", "64", "--count", "1"])
    found = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert found[["components", "size", "batch", "steps"]].to_numpy().tolist() == [[2, 64, 1, 2]]


def test_without_images_or_a_trial_there_is_nothing_to_do(capsys):
    with pytest.raises(SystemExit):
        tables.main([])
    assert "wanted the folder of the images, or --trial" in capsys.readouterr().err


def test_random_weights_stand_for_the_released_ones(monkeypatch, tmp_path):

    small = {"kernel": checkpoints.Checkpoint("tiny.pt", UNetConfig(16, 8, 1, 2, (1,), 1, 0, 8), "noise")}
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", small)
    random_checkpoints(tmp_path)
    prior = load_prior("kernel", precision=torch.float32, folder=tmp_path)
    assert prior(torch.zeros(1, 1, 16, 16), 5).variance.shape == (1, 1, 16, 16)


def test_inception_features_are_those_of_piqs_network(monkeypatch):
    monkeypatch.setattr(piq_inception, "load_state_dict_from_url", lambda url, progress: {})
    monkeypatch.setattr(Inception3, "load_state_dict", lambda self, weights: None)  # random ones
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(0)
    found = metrics.inception_features(images, batch=2)
    assert found.shape == (3, 2048) and found.dtype == torch.float64 and found.std() > 0
    assert metrics.frechet_distance(found, found) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="wanted N 3 H W"):
        metrics.inception_features(images[:, :1])
