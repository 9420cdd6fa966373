import pytest
import torch

from pdm.data import motion_kernels
from pdm.models import NetworkPrior, UNet, UNetConfig
from pdm.study import method
from pdm.study.problem import Cases, measured


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small products are slow when the threads of torch have to wait for other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(size: int, channels: int) -> NetworkPrior:
    torch.manual_seed(0)
    network = UNet(UNetConfig(size, 8, channels, channels, (1,), attention_resolution=0, num_head_channels=8, patch=4))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return NetworkPrior(network)


@pytest.fixture
def priors(monkeypatch) -> dict:
    """Tiny networks, which a Method loads in place of the committed ones."""
    found = {"image": tiny(32, 3), "kernel": tiny(16, 1), "tilt": tiny(32, 2)}
    monkeypatch.setattr(method, "load_prior", lambda name, label=None, device="cpu": found[name])
    return found


@pytest.fixture(scope="module")
def cases() -> Cases:
    generator = torch.Generator().manual_seed(1)
    truth = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8, generator=generator) * 1.6 - 0.8, 32)
    return measured(truth, motion_kernels(2, 16, 0.5, generator), [3, 4], ["a", "b"])
