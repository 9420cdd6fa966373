"""The paper's size: the released networks by the manifest of their files, and files that are not theirs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from pdm.models import UNet, UNetConfig, load_prior
from pdm.paper import checkpoints
from pdm.paper.checkpoints import CHECKPOINTS, EXPERIMENTS, Checkpoint

MANIFEST = json.loads((Path(__file__).parent / "data" / "adm" / "manifest.json").read_text())
TINY = UNetConfig(16, 8, 1, 2, (1, 2), attention_resolution=8, num_head_channels=8)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_networks_are_those_of_the_released_files(name):
    released = CHECKPOINTS[name]
    (key,) = [key for key in MANIFEST if released.file in key]
    for field, value in released.network.as_dict().items():
        assert MANIFEST[key].get(field, value) == value, field
    with torch.device("meta"):
        found = {n: list(v.shape) for n, v in UNet(released.network).state_dict().items()}
    assert found == MANIFEST[key]["parameters"]


def save(folder, config=TINY, file="tiny.pt", seed=0):
    torch.manual_seed(seed)
    network = UNet(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(network.state_dict(), folder / file)
    return network.eval()


def test_a_checkpoint_becomes_a_prior_that_predicts_its_variance(tmp_path):
    network = save(tmp_path)
    (path,) = checkpoints.import_checkpoints(
        tmp_path, tmp_path / "out", {"kernel": Checkpoint("tiny.pt", TINY, "noise")}
    )
    assert path == tmp_path / "out" / "kernel.safetensors"
    prior = load_prior("kernel", folder=tmp_path / "out")
    assert prior.precision == torch.float32  # on any machine: it predicts noise
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(x, torch.full((2,), 300))
    torch.testing.assert_close(torch.cat(prior.predict(x, 300), dim=1), expected)
    assert prior.velocity is None and prior.shape == (1, 16, 16)


def test_a_file_of_another_network_is_refused_and_nothing_is_written(tmp_path):
    save(tmp_path)
    save(tmp_path, replace(TINY, model_channels=16), "wide.pt")
    both = {"image": Checkpoint("tiny.pt", TINY, ""), "kernel": Checkpoint("wide.pt", TINY, "")}
    with pytest.raises(ValueError, match=r"(?s)wide\.pt is not a checkpoint of this network.*wanted"):
        checkpoints.import_checkpoints(tmp_path, tmp_path / "out", both)
    assert not (tmp_path / "out").exists()


def test_files_that_are_missing_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks ffhq_10m\.pt, kernel_checkpoint\.pt, tilt_checkpoint\.pt"):
        checkpoints.main([str(tmp_path)])


def test_images_are_the_first_of_a_folder(tmp_path):
    (tmp_path / "ffhq").mkdir()
    for i in range(3):
        Image.new("RGB", (300, 256), (i, 0, 0)).save(tmp_path / "ffhq" / f"{i:05}.png")
    found = checkpoints.images(EXPERIMENTS[0], tmp_path, 2)
    assert found.pixels.shape == (2, 3, 256, 256) and found.pixels[:, 0, 0, 0].tolist() == [0, 1]
    with pytest.raises(ValueError, match="holds 3 images; wanted 1000"):
        checkpoints.images(EXPERIMENTS[0], tmp_path)
    with pytest.raises(ValueError, match="afhq_dog"):
        checkpoints.images(EXPERIMENTS[2], tmp_path, 1)
