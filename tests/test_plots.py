"""Figures: that they hold what they were given, and show nothing by themselves."""

import matplotlib.pyplot as plt
import pandas as pd
import torch

from pdm.data import gaussian_kernels, tilt_fields
from pdm.sampler import State
from pdm.study import plots


def pictures(n: int = 3) -> dict[str, torch.Tensor]:
    images = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return {"image": images, "kernel": gaussian_kernels(n, 9, 1.0)}


def shown(figure) -> list:
    return [axis.images[0].get_array() for axis in figure.axes if axis.images]


def test_a_grid_has_a_column_an_entry_and_a_row_a_sample():
    given = pictures()
    figure = plots.grid(given, ["a", "b", "c"], {"kernel": ["x", "y", "z"]})
    arrays = shown(figure)
    assert len(arrays) == 6
    assert [axis.get_title() for axis in figure.axes[:2]] == ["image", "kernel"]
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["a", "b", "c"]
    torch.testing.assert_close(torch.as_tensor(arrays[2]), ((given["image"][1] + 1) / 2).permute(1, 2, 0))
    torch.testing.assert_close(torch.as_tensor(arrays[3]), given["kernel"][1, 0])


def test_strips_and_sheets_show_every_state_and_picture():
    given = pictures()
    states = [State(t, t - 1, {}, given, given) for t in (5, 3, 0)]
    figure = plots.strip(states, 2)
    assert [axis.get_title() for axis in figure.axes[:3]] == ["t = 5", "t = 3", "t = 0"]
    assert len(shown(figure)) == 6
    assert len(shown(plots.sheet(given["kernel"], 2))) == 3


def test_curves_bands_and_fields_hold_their_numbers():
    rows = [[100, 0.9, 0.8], [200, 0.5, 0.6]]
    lines = plots.loss_curve(rows).axes[0].lines
    assert [list(line.get_ydata()) for line in lines] == [[0.9, 0.5], [0.8, 0.6]]
    table = pd.DataFrame({"domain": "faces", "split": ["train", "test"], "t_low": 0, "t_high": 10, "loss": [0.1, 0.2]})
    losses, ratios = plots.bands(table).axes
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["faces"]
    assert [list(axis.lines[0].get_ydata()) for axis in (losses, ratios)] == [[0.2], [2.0]]
    (losses,) = plots.bands(table[table.split == "test"]).axes
    assert list(losses.lines[0].get_ydata()) == [0.2]
    fields = tilt_fields(5, 16, torch.Generator().manual_seed(0))
    figure = plots.fields(fields, columns=4, titles=["a", "b"])
    assert [axis.get_title() for axis in figure.axes[:3]] == ["a", "b", ""]
    torch.testing.assert_close(torch.as_tensor(shown(figure)[4]), fields[4].norm(dim=0))
    assert plt.get_fignums() == []
