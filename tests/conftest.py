import multiprocessing

import dask.config
import pytest
import torch

from pdm.data import motion_kernels
from pdm.models import NetworkPrior, UNet, UNetConfig
from pdm.study import method
from pdm.study.problem import Cases, measured

SMALL = UNetConfig(16, 16, 2, 2, channel_mult=(1, 2), attention_resolution=8, num_head_channels=8)
LONGEST = ("resume", "dask", "recipes", "notebooks_command", "cost", "supervised", "robustness", "check", "scaling")


def pytest_collection_modifyitems(items):
    """Files that take longest begin first, then notebooks: at the end no process waits for another's long file.

    `--dist loadfile --no-loadscope-reorder` hands files out in this order.
    """
    rank = {f"test_{name}.py": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank) + (item.path.suffix != ".ipynb")))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small products are slow when the threads of torch have to wait for other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def forked():
    """Dask's workers fork from one process that has imported the package; where they cannot, each imports it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        yield
        return
    multiprocessing.get_context("forkserver").set_forkserver_preload(["distributed", "pdm.study.runner"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distributed.utils._forkserver_preload_set", True, raising=False)  # else it preloads others
        with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
            yield


def random_network(config: UNetConfig = SMALL, seed: int = 0) -> UNet:
    net, generator = UNet(config).requires_grad_(False), torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p += 0.1 * torch.randn(p.shape, generator=generator)
    return net.requires_grad_(True)


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
