"""The few plots that several notebooks share. Each returns a matplotlib figure and shows nothing by itself."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor


def _subplots(rows: int, columns: int, size: tuple[float, float], layout: str | None = "constrained"):
    """A figure of rows x columns axes with so many inches (width, height) for each, and the axes as an array."""
    inches = (size[0] * columns, size[1] * rows)
    figure, axes = plt.subplots(rows, columns, figsize=inches, dpi=80, squeeze=False, layout=layout)
    plt.close(figure)  # or a notebook shows it a second time
    return figure, axes


def _show(axis, picture: Tensor) -> None:
    """An image C H W in [-1, 1], or a kernel 1 h w >= 0 scaled by its maximum and seen as light on black."""
    axis.set(xticks=[], yticks=[])
    if picture.shape[0] == 3:
        axis.imshow(((picture.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
    else:
        axis.imshow(picture[0].cpu().numpy(), cmap="gray", vmin=0, interpolation="nearest")


def _fill(axes: np.ndarray, titles: Sequence[str], columns: Sequence[Sequence[Tensor]], rows: Sequence[str]) -> None:
    for column, title, pictures in zip(axes.T, titles, columns, strict=True):
        column[0].set_title(title, fontsize=9)
        for axis, picture in zip(column, pictures, strict=False):
            _show(axis, picture)
    for axis, row in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(row, fontsize=9)


def grid(
    columns: Mapping[str, Tensor], rows: Sequence[str], notes: Mapping[str, Sequence[str]] | None = None
) -> Figure:
    """Images or kernels side by side: a column for each entry, B C H W, a row for each sample, notes beneath."""
    figure, axes = _subplots(len(rows), len(columns), (1.7, 1.95))
    _fill(axes, list(columns), list(columns.values()), rows)
    for title, column in zip(columns, axes.T, strict=True):
        for axis, note in zip(column, (notes or {}).get(title, []), strict=False):
            axis.set_xlabel(note, fontsize=8)
    return figure


def strip(states: Sequence, which: int = 0) -> Figure:
    """What every component of one sample is taken for, `theta`, a column a state, from noise to clean."""
    names = list(states[0].x0)
    figure, axes = _subplots(len(names), len(states), (1.2, 1.3))
    pictures = [[state.theta[name][which] for name in names] for state in states]
    _fill(axes, [f"t = {state.t}" for state in states], pictures, names)
    return figure


def sheet(pictures: Tensor, columns: int = 16) -> Figure:
    """Many images or kernels in rows of `columns`: N C H W."""
    figure, axes = _subplots(-(-len(pictures) // columns), columns, (0.62, 0.62), layout=None)
    figure.subplots_adjust(0, 0, 1, 1, 0.04, 0.04)
    for axis, picture in zip(axes.flat, pictures, strict=False):
        _show(axis, picture)
    for axis in axes.flat:
        axis.axis("off")
    return figure


def loss_curve(rows: Sequence[Sequence[float]]) -> Figure:
    """The curve of a training, as `train` yields it and cards keep it: images seen, training and held-out loss."""
    figure, ((axis,),) = _subplots(1, 1, (5, 3))
    seen, train, held_out = zip(*rows, strict=True)
    axis.plot(seen, train, color="gray", label="training, network")
    axis.plot(seen, held_out, color="black", label="held out, averaged network")
    axis.set(xlabel="images seen", ylabel="loss (velocity)", yscale="log")
    axis.legend()
    return figure


def bands(table: pd.DataFrame) -> Figure:
    """Losses by noise band, columns domain, split, t_low, t_high, loss: on the left a line for each domain's test set,
    on the right, where there is a training set too, the ratio of the two.
    """
    losses = table.pivot(index=["domain", "t_low", "t_high"], columns="split", values="loss").reset_index()
    losses["t"] = (losses.t_low + losses.t_high) / 2
    figure, (axes,) = _subplots(1, table.split.nunique(), (4.5, 3.2))
    for i, domain in enumerate(table.domain.unique()):
        part, look = losses[losses.domain == domain], {"marker": "osv^D"[i % 5], "color": f"C{i}", "markersize": 4}
        axes[0].plot(part.t, part.test, label=domain, **look)
        if "train" in part:
            axes[1].plot(part.t, part.test / part.train, **look)
    axes[0].set(xlabel="time step t", ylabel="mean squared error of the noise, test", yscale="log")
    axes[0].legend(fontsize=7)
    for axis in axes[1:]:
        axis.set(xlabel="time step t", ylabel="the same, test / train")
        axis.axhline(1, color="0.6", linewidth=1, zorder=0)
    return figure


def fields(tilts: Tensor, columns: int = 4, titles: Sequence[str] = (), every: int = 4) -> Figure:
    """Tilt fields N 2 H W in pixels: an arrow for `every` pixels, `every` times as long as the displacement, over its
    length, white for none to dark for 2.5 pixels.
    """
    figure, axes = _subplots(-(-len(tilts) // columns), columns, (2.2, 2.2))
    for axis in axes.flat:
        axis.axis("off")
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(title, fontsize=9)
    for axis, tilt in zip(axes.flat, tilts.cpu(), strict=False):
        shown = axis.imshow(tilt.norm(dim=0).numpy(), cmap="Blues", vmin=0, vmax=2.5)
        size = range(0, tilt.shape[-1], every)
        across, down = tilt[:, ::every, ::every].numpy()
        axis.quiver(size, size, across, down, angles="xy", scale_units="xy", scale=1 / every, width=0.006)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="displacement, pixels")
    return figure
