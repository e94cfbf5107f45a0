"""Figures from numbers: each function returns a matplotlib ``Figure``, and touches no pyplot state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["adaptation_curves", "reconstructions"]

COLOURS = {"random": "#777777", "pooled": "#0072B2", "meta": "#D55E00"}  # Okabe and Ito: safe for the colour-blind
GAP = 1  # pixels around an image; twice as many more around a task
NAMES = {"random": "random start", "pooled": "pooled VAE", "meta": "meta-learned\nstart"}

Curves = Mapping[str, Mapping[str, Mapping[str, float]]]


def adaptation_curves(curves: Curves, *, title: str, tasks: int) -> Figure:
    """Query loss against the number of adaptation steps, with bands of one standard error.

    The random initialisation is far worse than the others and has a panel of its own, above theirs.

    Args:
        curves: ``{start: {steps: {"mean": ..., "se": ...}}}``, nats per image, for the starts ``random``,
            ``pooled`` and ``meta``.
        title: what the figure shows.
        tasks: the number of tasks behind each point.

    Returns:
        a figure of two panels that share the axis of steps, which is categorical: zero has its place.
    """
    figure = Figure(figsize=(8.6, 5.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.6))
    steps = list(next(iter(curves.values())))
    _curve(top, "random", curves["random"])
    for start in ("pooled", "meta"):
        _curve(bottom, start, curves[start])
    for axes in (top, bottom):
        _plain(axes)
    bottom.set_xticks(range(len(steps)), steps)
    bottom.set_xlim(-0.15, len(steps) - 0.85)
    bottom.set_xlabel("adaptation steps on an unseen task", fontsize=12)
    note = f"Bands: standard error over the same {tasks} tasks. In the title: that of the paired difference."
    figure.supxlabel(note, fontsize=9.5, color="#555555")
    figure.supylabel("query loss (nats per image)", fontsize=12)
    figure.suptitle(title, fontsize=12.5, x=0.01, ha="left")
    return figure


def _curve(axes: Axes, start: str, curve: Mapping[str, Mapping[str, float]]) -> None:
    x = range(len(curve))
    mean = [point["mean"] for point in curve.values()]
    low, high = ([p["mean"] + sign * p["se"] for p in curve.values()] for sign in (-1, 1))
    colour = COLOURS[start]
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, mean, color=colour, linewidth=2, marker="o", markersize=5)
    axes.annotate(
        NAMES[start],
        (x[-1], mean[-1]),
        xytext=(10, 0),
        textcoords="offset points",
        va="center",
        fontsize=12,
        color=colour,
        annotation_clip=False,
    )


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=11)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.margins(y=0.12)


def reconstructions(rows: Mapping[str, Tensor], *, columns: Sequence[str], title: str) -> Figure:
    """Images in labelled rows, a group of columns for each task.

    Args:
        rows: for each label, from the top, images of shape ``(tasks, images, height, width)`` in [0, 1].
        columns: a label for each task.
        title: what the figure shows.

    Returns:
        a figure with one row of images for each label, ink on white.
    """
    tasks, images, height, width = next(iter(rows.values())).shape
    stacked = torch.stack(list(rows.values()))
    padded = pad(stacked, (GAP, GAP, GAP, GAP))
    row = pad(padded.transpose(2, 3).flatten(3), (2 * GAP, 2 * GAP))  # (rows, tasks, height, images side by side)
    canvas = row.transpose(1, 2).flatten(2).flatten(0, 1)
    figure = Figure(figsize=(canvas.shape[1] / 48 + 2, canvas.shape[0] / 48 + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks([(i + 0.5) * (height + 2 * GAP) for i in range(len(rows))], list(rows), fontsize=12)
    group = images * (width + 2 * GAP) + 4 * GAP
    axes.set_xticks([(i + 0.5) * group for i in range(tasks)], list(columns), fontsize=12)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    return figure
