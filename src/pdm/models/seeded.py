"""Torch as it is when it starts, and random numbers by a seed, whatever the caller has set."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pdm import checks


@contextmanager
def plain_torch() -> Iterator[None]:
    """Gradients on, no inference mode, new tensors float32 and on the CPU, in a `with` statement or a decorator."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch draw by `seed` in a `with` statement, as a network's first weights: in float32, on the CPU.

    Afterwards the CPU's stream goes on as if nothing had been drawn; those of other devices are not touched.
    Raises: ValueError for a seed that is not a whole number, 0 or more.
    """
    seed = checks.count("seed", seed, 0)
    with plain_torch(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
