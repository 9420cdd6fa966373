"""Where the batches of `runner.run` are computed: here, or by the workers of a Dask cluster."""

import re
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager

PROTOCOLS = ("tcp://", "tls://", "ucx://")


@contextmanager
def connected(address: str | None) -> Iterator[Executor | None]:
    """An executor over the workers of the Dask scheduler at `address`, or None, computing here, where there is none.

    "local:2" starts two workers on this machine, processes of one thread each, and ends them: where the networks are
    small, as many as there are cores do more than one process with a thread for each.
    A task whose worker dies is given to another. Workers want this package, the weights and, for `faces` and `cats`,
    no data: a task carries its images. Raises: ValueError for an address that is none; ImportError without Dask;
    OSError where no scheduler answers within ten seconds.
    """
    if not address:
        yield None
        return
    local = re.fullmatch(r"local:([1-9]\d*)", address)
    if not local and not address.startswith(PROTOCOLS):
        raise ValueError(
            f"EXECUTOR is {address!r}; wanted {', '.join(PROTOCOLS)} and host:port of a Dask scheduler, or local:COUNT"
        )
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ImportError("EXECUTOR asks for Dask; pip install 'parallel-diffusion[dask]'") from error
    with ExitStack() as stack:
        if local:
            address = stack.enter_context(
                LocalCluster(n_workers=int(local[1]), threads_per_worker=1, dashboard_address=None)
            )
        client = stack.enter_context(Client(address, timeout=10, set_as_default=False))
        yield client.get_executor(pure=False)
