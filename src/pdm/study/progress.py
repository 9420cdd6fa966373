"""Consumers of a sampler's states: a progress bar, and a few of the states kept."""

import sys
from collections.abc import Iterator

from tqdm import tqdm

from pdm import checks
from pdm.sampler import State


def progress(states: Iterator[State], steps: int, description: str = "") -> Iterator[State]:
    """Pass states on under a progress bar that shows the mean residual norm."""
    with tqdm(total=checks.count("steps", steps), desc=description, file=sys.stdout, mininterval=1.0, ncols=88) as bar:
        for state in states:
            bar.update()
            if state.loss is not None:
                bar.set_postfix_str(f"residual {state.loss.mean():.2f}", refresh=False)
            yield state


def keep(states: Iterator[State], count: int, steps: int) -> list[State]:
    """Run to the end and keep about `count` states, evenly spaced and the last among them."""
    steps = checks.count("steps", steps)
    every = max(1, steps // checks.count("count", count))
    return [state for i, state in enumerate(states, 1) if (steps - i) % every == 0]
