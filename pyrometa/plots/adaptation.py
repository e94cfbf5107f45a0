"""What adaptation gains: losses over its steps, and images pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["adaptation_curves", "query_curve", "reconstructions"]

COLORS = {"pooled": "#0072B2", "picked": "#009E73", "meta": "#D55E00"}  # Okabe and Ito: safe for the colour-blind
GREY = "#777777"
GAP = 1  # pixels around an image; twice as many more around a task
NAMES = {"pooled": "pooled VAE", "picked": "pooled VAE, last bias picked by hand", "meta": "meta-learned start"}

Curves = Mapping[str, Mapping[str, Mapping[str, float]]]


def adaptation_curves(
    curves: Curves, trust: Mapping[str, Mapping[str, Any]], *, steps: int, title: str, note: str
) -> Figure:
    """Query loss against the number of adaptation steps, and beside it whether to trust the posteriors.

    Args:
        curves: ``{start: {steps: {"mean": ..., "se": ...}}}``, nats per image, for ``pooled``, ``picked`` and ``meta``;
            bands are one standard error.
        trust: for some of them the ``k_hat`` of some posteriors, and the ``threshold`` below which one is good.
        steps: from the meta-learned start after so many steps a line shows what the pooled VAE is to reach.
        title: what the figure shows.
        note: the diagnostics' verdict, below the title.

    Returns:
        a figure of two panels; the axis of steps is categorical: zero has its place.
    """
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.9, 1))
    for start, curve in curves.items():
        _curve(left, start, curve)
    _target(left, curves, str(steps))
    _k_hats(right, trust)
    for axes in (left, right):
        _plain(axes)
    figure.suptitle(title, fontsize=13, x=0.01, ha="left", weight="bold")
    figure.supxlabel(note, fontsize=12, x=0.01, ha="left", color="#333333")
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
    axes.plot(steps, losses, color="#777777", linewidth=0.7, alpha=0.35)
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
    axes.plot(x, mean, color=color, linewidth=2.5, marker="o", markersize=6, label=NAMES[start])


def _target(axes: Axes, curves: Curves, steps: str) -> None:
    """Where the meta-learned start is after its steps, and the names and ticks of the panel."""
    names = list(curves["pooled"])
    after = curves["meta"][steps]["mean"]
    axes.axhline(after, color=COLORS["meta"], linewidth=1.2, linestyle=":")
    axes.annotate(
        f"{after:.0f} after {steps} steps",
        (names.index(steps), after),
        xytext=(0, -16),
        textcoords="offset points",
        ha="center",
        fontsize=12,
        color=COLORS["meta"],
    )
    _cut(axes, curves)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("gradient steps on ten images of an unseen task", fontsize=12)
    axes.set_ylabel("nats per unseen image (lower is better)", fontsize=12)
    axes.legend(frameon=False, fontsize=12.5)


def _cut(axes: Axes, curves: Curves) -> None:
    """Let the axis end above the first step, as all that comes later is far below where a start begins."""
    means = {start: [point["mean"] for point in curve.values()] for start, curve in curves.items()}
    lowest, top = (of(of(values[1:]) for values in means.values()) for of in (min, max))
    margin = 0.08 * (top - lowest)
    axes.set_ylim(lowest - 2 * margin, top + margin)
    for place, (start, values) in enumerate(means.items()):
        if values[0] > top + margin:
            color, at = COLORS[start], (0.015, 0.5 - 0.07 * place)
            axes.annotate(f"↑ {values[0]:.0f}", at, xycoords="axes fraction", va="top", fontsize=12, color=color)


def _k_hats(axes: Axes, trust: Mapping[str, Mapping[str, Any]]) -> None:
    """The k-hats of each start, ascending, and where they are good."""
    for start, told in trust.items():
        k_hat = sorted(told["k_hat"])
        axes.plot(range(1, len(k_hat) + 1), k_hat, color=COLORS[start], linewidth=0, marker="o", markersize=5)
    good = trust["meta"]["threshold"]
    axes.axhline(good, color=GREY, linewidth=1.2, linestyle="--")
    last = max(len(told["k_hat"]) for told in trust.values())
    axes.text(last, good - 0.03, "good below", ha="right", va="top", fontsize=11, color=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("unseen images, sorted", fontsize=12)
    axes.set_ylabel("k-hat of the adapted posterior", fontsize=12)


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
