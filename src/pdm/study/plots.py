"""The few plots that several notebooks share. Each returns a matplotlib figure and shows nothing by itself."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

DPI = 80


def _show(axis, picture: Tensor) -> None:
    """An image C H W in [-1, 1], or a kernel 1 h w >= 0 scaled by its maximum and seen as light on black."""
    axis.set_xticks([])
    axis.set_yticks([])
    if picture.shape[0] == 3:
        axis.imshow(((picture.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
    else:
        axis.imshow(picture[0].cpu().numpy(), cmap="gray", vmin=0, interpolation="nearest")


def grid(
    columns: Mapping[str, Tensor], rows: Sequence[str], notes: Mapping[str, Sequence[str]] | None = None
) -> Figure:
    """Images or kernels side by side: a column for each entry, B C H W, a row for each sample, notes beneath."""
    figure, axes = plt.subplots(
        len(rows), len(columns), figsize=(1.7 * len(columns), 1.95 * len(rows)), dpi=DPI, squeeze=False
    )
    for j, (title, pictures) in enumerate(columns.items()):
        axes[0, j].set_title(title, fontsize=9)
        for i, row in enumerate(rows):
            _show(axes[i, j], pictures[i])
            if j == 0:
                axes[i, j].set_ylabel(row, fontsize=9)
            if notes and title in notes:
                axes[i, j].set_xlabel(notes[title][i], fontsize=8)
    figure.tight_layout(pad=0.4)
    plt.close(figure)  # or a notebook shows it a second time
    return figure


def strip(states: Sequence, which: int = 0) -> Figure:
    """What every component of one sample is taken for, `theta`, a column a state, from noise to clean."""
    names = list(states[0].x0)
    figure, axes = plt.subplots(
        len(names), len(states), figsize=(1.2 * len(states), 1.3 * len(names)), dpi=DPI, squeeze=False
    )
    for j, state in enumerate(states):
        axes[0, j].set_title(f"t = {state.t}", fontsize=8)
        for i, name in enumerate(names):
            _show(axes[i, j], state.theta[name][which])
            if j == 0:
                axes[i, j].set_ylabel(name, fontsize=9)
    figure.tight_layout(pad=0.3)
    plt.close(figure)  # or a notebook shows it a second time
    return figure


def sheet(pictures: Tensor, columns: int = 16) -> Figure:
    """Many images or kernels in rows of `columns`: N C H W."""
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(0.62 * columns, 0.62 * rows), dpi=DPI, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture in zip(axes.flat, pictures, strict=False):
        _show(axis, picture)
    figure.subplots_adjust(0, 0, 1, 1, 0.04, 0.04)
    plt.close(figure)  # or a notebook shows it a second time
    return figure


def loss_curve(rows: Sequence[Sequence[float]]) -> Figure:
    """The curve of a training, as `train` yields it and cards keep it: images seen, training and held-out loss."""
    figure, axis = plt.subplots(figsize=(5, 3), dpi=DPI)
    seen, train, held_out = zip(*rows, strict=True)
    axis.plot(seen, train, color="gray", label="training, network")
    axis.plot(seen, held_out, color="black", label="held out, averaged network")
    axis.set(xlabel="images seen", ylabel="loss (velocity)", yscale="log")
    axis.legend()
    figure.tight_layout()
    plt.close(figure)
    return figure


def bands(table: pd.DataFrame) -> Figure:
    """Losses by noise band, columns domain, split, t_low, t_high, loss: on the left a line for each domain's test set,
    on the right, where there is a training set too, the ratio of the two.
    """
    splits = table["split"].unique()
    figure, axes = plt.subplots(1, len(splits), figsize=(4.5 * len(splits), 3.2), dpi=DPI, squeeze=False)
    axes = axes[0]
    looks = {domain: {"marker": "osv^D"[i % 5], "color": f"C{i}"} for i, domain in enumerate(table.domain.unique())}
    for domain, part in table.groupby("domain", sort=False):
        by_split = part.pivot(index=["t_low", "t_high"], columns="split", values="loss").reset_index()
        middle = (by_split.t_low + by_split.t_high) / 2
        axes[0].plot(middle, by_split.test, markersize=4, label=domain, **looks[domain])
        if "train" in by_split:
            axes[1].plot(middle, by_split.test / by_split.train, markersize=4, **looks[domain])
    axes[0].set(xlabel="time step t", ylabel="mean squared error of the noise, test", yscale="log")
    if "train" in splits:
        axes[1].set(xlabel="time step t", ylabel="the same, test / train")
        axes[1].axhline(1, color="0.6", linewidth=1, zorder=0)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    plt.close(figure)
    return figure


def fields(tilts: Tensor, columns: int = 4, titles: Sequence[str] = (), every: int = 4) -> Figure:
    """Tilt fields N 2 H W in pixels: an arrow for `every` pixels, `every` times as long as the displacement, over its
    length, white for none to dark for 2.5 pixels.
    """
    rows = -(-len(tilts) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2 * columns + 0.8, 2.2 * rows), dpi=DPI, squeeze=False, layout="constrained"
    )
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
    plt.close(figure)
    return figure
