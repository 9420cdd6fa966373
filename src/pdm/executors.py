"""Where the batches of `benchmark.run` are computed: here, or by the workers of a Dask cluster."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

__all__ = ["connected"]

PROTOCOLS = ("tcp://", "tls://", "ucx://")


@contextmanager
def connected(address: str | None) -> Iterator[Executor | None]:
    """An executor over the workers of the Dask scheduler at `address`, or None, computing here, where there is none.

    A task whose worker dies is given to another. Workers want this package, the weights and, for `faces` and `cats`,
    no data: a task carries its images. Raises: ValueError for an address that is none; ImportError without Dask;
    OSError where no scheduler answers within ten seconds.
    """
    if not address:
        yield None
        return
    if not address.startswith(PROTOCOLS):
        raise ValueError(f"EXECUTOR is {address!r}; wanted {', '.join(PROTOCOLS)} and host:port of a Dask scheduler")
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("EXECUTOR names a Dask scheduler; pip install 'parallel-diffusion[dask]'") from error
    with Client(address, timeout=10, set_as_default=False) as client:
        yield client.get_executor(pure=False)
