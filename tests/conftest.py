import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small products are slow when the threads of torch have to wait for other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
