"""How the time of an experiment falls with the number of workers: measured on a few, projected to many."""

import math
import time
from collections.abc import Sequence

import pandas as pd

from pdm.study.method import Method
from pdm.study.problem import Cases
from pdm.study.runner import restore


def measured(method: Method, cases: Cases, counts: Sequence[int] = (1, 2)) -> pd.DataFrame:
    """Restore `cases` by so many Dask workers on this machine, processes of one thread each: a row for each count.

    Columns `workers`, `images`, `seconds`, and `efficiency`, the seconds of the first row (of one worker) over
    workers times seconds; `overhead`, the seconds that a batch costs to send and to fetch. Workers are started, and
    have each restored an image, before the clock starts.
    Raises: ValueError unless the first count is 1; ImportError without Dask.
    """
    if not counts or counts[0] != 1:
        raise ValueError(f"counts are {tuple(counts)}; wanted 1 first, against which the others are held")
    from distributed import Client, LocalCluster

    units, rows = [cases[i : i + method.batch] for i in range(0, len(cases), method.batch)], []
    for workers in counts:
        options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(**options) as cluster, Client(cluster, set_as_default=False) as client:
            client.run(restore, method, cases[:1])
            took = []
            for work in (lambda unit: restore(method, unit), lambda unit: unit.truth.components):  # there and back
                begin = time.perf_counter()
                client.gather(client.map(work, units, pure=False))
                took.append(time.perf_counter() - begin)
        rows.append({"workers": workers, "images": len(cases), "seconds": took[0], "overhead": took[1] / len(units)})
    table = pd.DataFrame(rows)
    return table.assign(efficiency=table.seconds[0] / (table.workers * table.seconds))


def projected(workers: int, images: int, batch: int, seconds: float, overhead: float) -> dict:
    """The row of `measured` to expect of many workers, by a model: a scheduler that hands out one batch after another.

    A batch of `batch` images takes a worker `seconds`, and the scheduler `overhead`, which no other batch shares. The
    last round may leave workers idle. It is assumed that each worker has a core and a memory bus as those measured had.
    """
    units = math.ceil(images / batch)
    total = units * overhead + math.ceil(units / workers) * seconds
    row = {"workers": workers, "images": images, "seconds": total, "overhead": overhead}
    return row | {"efficiency": units * (seconds + overhead) / (workers * total)}
