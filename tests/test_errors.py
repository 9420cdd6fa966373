"""The power spectra of priors' errors: measured, kept, interpolated."""

import hashlib
import json

import pytest
import safetensors.torch
import torch

from pdm.models import Errors, GaussianMixture, NetworkPrior, UNet, UNetConfig, load_prior, save_prior
from pdm.models.errors import load_errors, save_errors
from pdm.schedule import Schedule
from pdm.train import __main__ as command
from pdm.train import spectra


def flat(*levels: float, channels: int = 1) -> Errors:
    """One class, a level a time step, the same at all frequencies of 8 x 8."""
    times = torch.tensor([900, 300, 100, 1][: len(levels)])
    power = torch.tensor(levels)[None, :, None, None, None].expand(1, -1, channels, 8, 5).clone()
    return Errors(times, power)


def test_between_time_steps_the_logarithm_is_linear_and_beyond_them_constant():
    errors = flat(1.0, 0.1, 0.01)
    for t, wanted in ((999, 1.0), (900, 1.0), (600, 0.1**0.5), (300, 0.1), (200, 0.1**1.5), (100, 0.01), (0, 0.01)):
        assert errors.at(t, (8, 8)).mean().item() == pytest.approx(wanted, rel=1e-5)


def test_errors_have_the_size_that_is_asked_for():
    assert flat(1.0, 0.1, channels=3).at(500, (20, 33)).shape == (3, 20, 17)


@pytest.mark.parametrize(
    "times, power",
    [
        ([1, 300], torch.ones(1, 2, 1, 8, 5)),
        ([300], torch.ones(1, 1, 1, 8, 5)),
        ([300, 1, 0], torch.ones(1, 2, 1, 8, 5)),
        ([300, 1], torch.zeros(1, 2, 1, 8, 5)),
        ([300, 1], torch.ones(2, 1, 8, 5)),
    ],
)
def test_what_does_not_fit_is_refused(times, power):
    with pytest.raises(ValueError, match=r"times|power"):
        Errors(torch.tensor(times), power)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"mean": torch.rand(1, 4, 4)}, "mean and root"),
        ({"root": torch.rand(16, 3)}, "mean and root"),
        ({"mean": torch.rand(1, 4, 4), "root": torch.rand(15, 3)}, r"root is .*\(15, 3\).*wanted 16 r"),
        ({"mean": torch.rand(1, 4, 4), "root": torch.rand(16, 3).double()}, "'root': 'torch.float64"),
        ({"power": torch.ones(1, 2, 1, 8, 5).half()}, "'power': 'torch.float16"),
        ({"power": torch.full((1, 2, 1, 8, 5), float("nan"))}, "power holds 80 values that are NaN"),
        ({"times": torch.tensor([9.0, float("nan")])}, "times holds 1 values that are NaN"),
        ({"times": [9, 1]}, "times is a list"),
    ],
)
def test_parts_that_do_not_fit_one_another_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        Errors(**{"times": torch.tensor([9, 1]), "power": torch.ones(1, 2, 1, 8, 5)} | more)


@pytest.mark.parametrize(
    "given, message",
    [
        ((-2, (8, 8)), "t is -2"),
        ((5.5, (8, 8)), "t is 5.5"),
        ((5, 8), r"size is 8; wanted \(height, width\)"),
        ((5, (8, 0)), r"size is \(8, 0\)"),
        ((5, (8, 8), 1), "label is 1; wanted a whole number, -1 to 0"),
        ((5, (8, 8), -2), "label is -2"),
    ],
)
def test_there_are_errors_at_time_steps_sizes_and_classes_only(given, message):
    with pytest.raises(ValueError, match=message):
        flat(1.0, 0.1).at(*given)


def saved(folder, channels=1, size=8) -> NetworkPrior:
    torch.manual_seed(0)
    config = UNetConfig(size, 8, channels, channels, (1,), attention_resolution=0, num_head_channels=8, patch=2)
    save_prior("p", UNet(config), {"velocity": {"mean": 0.0, "std": 1.0}}, folder)
    return load_prior("p", folder=folder)


def test_errors_are_kept_beside_the_card_and_loaded_with_the_prior(tmp_path):
    prior = saved(tmp_path)
    weights = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))["sha256"]
    with pytest.raises(ValueError, match="no error spectra"):
        prior.error(100, (8, 8))
    errors = Errors(torch.tensor([900, 1]), 1e-9 + torch.rand(1, 2, 1, 8, 5), torch.rand(1, 4, 4), torch.randn(16, 3))
    save_errors("p", errors, {"samples": 5}, tmp_path)
    card = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert card["errors"]["samples"] == 5 and card["sha256"] == weights
    found = load_prior("p", folder=tmp_path)
    for name, value in vars(errors).items():
        torch.testing.assert_close(getattr(found.errors, name).float(), value.float(), rtol=0.02, atol=2e-3)
    assert found.errors.power.min() > 0
    torch.testing.assert_close(found.error(900, (8, 8)), found.errors.power[0, 0])


def test_a_file_that_is_missing_or_another_is_found_out(tmp_path):
    saved(tmp_path)
    save_errors("p", flat(1.0, 0.1), {}, tmp_path)
    path = tmp_path / "p.errors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="SHA-256"):
        load_prior("p", folder=tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="errors of prior 'p'"):
        load_prior("p", folder=tmp_path)
    assert load_errors("p", {}, tmp_path) is None


def test_errors_are_saved_beside_a_card_only(tmp_path):
    with pytest.raises(ValueError, match="name is 'p'; wanted a prior whose card is in the folder"):
        save_errors("p", flat(1.0, 0.1), {}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_card_or_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="wanted their sha256"):
        load_errors("p", {"errors": {"samples": 5}}, tmp_path)
    data = safetensors.torch.save({"times": torch.ones(2)})
    (tmp_path / "p.errors.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"holds \['times'\]; wanted times and power"):
        load_errors("p", {"errors": {"sha256": hashlib.sha256(data).hexdigest()}}, tmp_path)


def test_errors_with_gradients_are_saved(tmp_path):
    saved(tmp_path)
    power = torch.ones(1, 2, 1, 8, 5, requires_grad=True)
    save_errors("p", Errors(torch.tensor([9, 1]), power), {}, tmp_path)
    assert (load_prior("p", folder=tmp_path).errors.power == 1).all()


def test_a_label_has_its_own_errors():
    torch.manual_seed(0)
    network = UNet(UNetConfig(8, 8, 1, 1, (1,), attention_resolution=0, num_head_channels=8, num_classes=3, patch=2))
    level = torch.tensor([1.0, 2, 3])[:, None, None, None, None].expand(-1, 2, 1, 8, 5).clone()
    prior = NetworkPrior(network, errors=Errors(torch.tensor([900, 1]), level))
    assert prior.error(5, (8, 8)).mean() == 3  # of no class
    assert prior.with_label(1).error(5, (8, 8)).mean() == 2
    assert prior.with_label(torch.tensor([0, 2])).error(5, (8, 8)).mean((1, 2, 3)).tolist() == [1, 3]


def test_what_is_measured_is_the_power_of_the_error():
    """A Gaussian prior's error has the variance 1 / (1 / v + alpha_bar / (1 - alpha_bar)) at every frequency."""
    prior = GaussianMixture(Schedule.linear(), torch.zeros(1, 3, 16, 16), torch.ones(1), 0.3)
    x0 = 0.3 * torch.randn(400, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for t in (20, 100, 300):
        found = spectra.image_errors(prior, x0, t, torch.Generator().manual_seed(1))
        alpha_bar = prior.schedule.alpha_bar[t]
        wanted = 1 / (1 / 0.3**2 + alpha_bar / (1 - alpha_bar))
        assert found.shape == (3, 16, 9)
        assert found.mean().item() == pytest.approx(wanted.item(), rel=0.02)
        assert (found / wanted - 1).abs().max() < 0.4


def test_moments_are_those_of_the_kernels():
    g = torch.Generator().manual_seed(0)
    root = torch.randn(64, 3, generator=g)
    kernels = (0.5 + torch.randn(5000, 3, generator=g) @ root.T).view(-1, 1, 8, 8)
    mean, found = spectra.moments(kernels)
    assert (mean - 0.5).abs().max() < 0.15 and mean.shape == (1, 8, 8)
    assert ((found @ found.T) - root @ root.T).abs().max() < 0.6


def test_the_command_measures_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(spectra, "TIMES", (500, 20))
    monkeypatch.setattr(spectra, "random_kernels", lambda n, size, g, make=spectra.random_kernels: make(8, size, g))
    torch.manual_seed(0)
    config = UNetConfig(32, 8, 1, 1, (1,), attention_resolution=0, num_head_channels=8, patch=4)
    save_prior("kernel", UNet(config), {"velocity": {"mean": -0.98, "std": 0.14}}, tmp_path)
    assert command.main(["spectra", "kernel", "--samples", "4", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("kernel.errors.safetensors")
    errors = load_prior("kernel", folder=tmp_path).errors
    assert errors.power.shape == (1, 2, 1, 32, 17) and errors.mean.shape == (1, 32, 32)
    assert errors.mean.sum().item() == pytest.approx(1, abs=0.01)


def test_bad_arguments_of_the_command(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["spectra", "tilt"])
    assert command.main(["spectra", "kernel", "--folder", str(tmp_path)]) == 2
    assert "no prior is called 'kernel'" in capsys.readouterr().err
