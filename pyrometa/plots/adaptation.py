"""What adaptation gains: losses over its steps, and images pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["adaptation_curves", "query_curve", "reconstructions"]

COLORS = {"random": "#777777", "pooled": "#0072B2", "meta": "#D55E00"}  # Okabe and Ito: safe for the colour-blind
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


def query_curve(losses: Tensor, *, title: str) -> Figure:
    """Query loss against the number of inner steps: a line a task, and their mean with a band of one standard error.

    Args:
        losses: after ``0..K`` steps, shape ``(K + 1, tasks)``.
        title: what the figure shows.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    steps, tasks = range(len(losses)), losses.shape[1]
    axes.plot(steps, losses, color=COLORS["random"], linewidth=0.7, alpha=0.35)
    mean, error = losses.mean(1), losses.std(1, correction=min(1, tasks - 1)) / tasks**0.5
    axes.fill_between(steps, mean - error, mean + error, color=COLORS["meta"], alpha=0.25, linewidth=0)
    axes.plot(steps, mean, color=COLORS["meta"], linewidth=2, marker="o", markersize=5)
    _plain(axes)
    axes.set(xlabel="inner steps", ylabel="query loss", xticks=steps)
    low, high = losses.quantile(torch.tensor([0.02, 0.98], dtype=losses.dtype)).tolist()
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    figure.suptitle(title, fontsize=11.5, x=0.01, ha="left")
    return figure


def _curve(axes: Axes, start: str, curve: Mapping[str, Mapping[str, float]]) -> None:
    x = range(len(curve))
    mean = [point["mean"] for point in curve.values()]
    low, high = ([p["mean"] + sign * p["se"] for p in curve.values()] for sign in (-1, 1))
    color = COLORS[start]
    axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    axes.plot(x, mean, color=color, linewidth=2, marker="o", markersize=5)
    axes.annotate(
        NAMES[start],
        (x[-1], mean[-1]),
        xytext=(10, 0),
        textcoords="offset points",
        va="center",
        fontsize=12,
        color=color,
        annotation_clip=False,
    )


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=11)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.margins(y=0.12)


def reconstructions(
    rows: Mapping[str, Tensor], *, gain: tuple[str, Tensor], columns: Sequence[str], title: str
) -> Figure:
    """Images in labelled rows, a group of columns for each task, and below them what was gained at each pixel.

    Args:
        rows: for each label, from the top, images of shape ``(tasks, images, height, width)`` in [0, 1].
        gain: the label of the last row, and its values of the same shape, in nats; the colours saturate at the
            99.5th percentile.
        columns: a label for each task.
        title: what the figure shows.

    Returns:
        a figure with one row of images for each label, ink on white, and one of gains with its colour bar.
    """
    limit = gain[1].abs().quantile(0.995).item() or 1.0  # a few pixels may saturate
    norm = Normalize(-limit, limit, clip=True)
    ink = colormaps["gray_r"](_canvas(list(rows.values())).numpy())
    gains = colormaps["PuOr_r"](norm(_canvas([gain[1]]).numpy()))
    canvas = np.concatenate([ink, gains])
    height, width, _ = canvas.shape
    figure = Figure(figsize=(width / 48 + 3, height / 48 + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas, interpolation="nearest")
    labels = [*rows, gain[0]]
    axes.set_yticks([(i + 0.5) * height / len(labels) for i in range(len(labels))], labels, fontsize=12)
    axes.set_xticks([(i + 0.5) * width / len(columns) for i in range(len(columns))], list(columns), fontsize=12)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    scale = ScalarMappable(norm, "PuOr_r")
    ticks = [-limit, 0, limit]
    bar = figure.colorbar(scale, ax=axes, shrink=0.2, anchor=(0, 0), pad=0.01, ticks=ticks, format="%+.1f")
    bar.set_label("nats a pixel", fontsize=11)
    figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    return figure


def _canvas(rows: Sequence[Tensor]) -> Tensor:
    """Rows of images, each of shape ``(tasks, images, height, width)``, as one image with gaps between them."""
    padded = pad(torch.stack(list(rows)), (GAP, GAP, GAP, GAP))
    row = pad(padded.transpose(2, 3).flatten(3), (2 * GAP, 2 * GAP))  # (rows, tasks, height, images side by side)
    return row.transpose(1, 2).flatten(2).flatten(0, 1)
