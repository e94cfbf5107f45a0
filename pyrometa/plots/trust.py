"""Whether a posterior can be trusted: importance weights, ranks, coverage."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["coverage_curve", "importance_weights", "rank_curves"]

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"


def importance_weights(log_weights: Tensor, *, title: str) -> Figure:
    """Normalised importance weights, largest first, against their ranks, on logarithmic axes.

    Args:
        log_weights: that sum to 1, shape ``(draws,)``.
        title: what the figure shows.
    """
    figure, axes = _figure(title)
    draws = len(log_weights)
    weights = log_weights.exp().sort(descending=True).values * draws
    axes.plot(range(1, draws + 1), weights.clamp(min=1e-6), color=BLUE, linewidth=2)
    axes.axhline(1.0, color=GREY, linewidth=1, linestyle=":")
    axes.annotate("the exact posterior", (1, 1.0), xytext=(4, 4), textcoords="offset points", color=GREY, fontsize=11)
    axes.set(xscale="log", yscale="log", xlabel="rank of the draw", ylabel="weight, in units of the mean")
    return figure


def rank_curves(
    ranks: Mapping[str, Tensor], *, draws: int, band: tuple[Tensor, Tensor], title: str, labels: int = 6
) -> Figure:
    """How far the share of ranks below each level is above what uniform ones have.

    Args:
        ranks: of each site, shape ``(tasks, *site)``.
        draws: the highest rank there may be.
        band: between which numbers of ranks below ``1..draws`` uniform ones lie, each of shape ``(draws,)``.
        title: what the figure shows.
        labels: how many sites are named.
    """
    figure, axes = _figure(title)
    tasks = len(next(iter(ranks.values())))
    levels = torch.arange(1, draws + 1)
    expected = levels / (draws + 1)
    low, high = (bound / tasks - expected for bound in band)
    axes.fill_between(levels, low, high, color=GREY, alpha=0.25, linewidth=0, label="95% of uniform ranks")
    for i, (name, rank) in enumerate(ranks.items()):
        below = (rank.reshape(tasks, -1, 1) < levels).double().mean(0) - expected
        lines = axes.plot(levels, below.T, color=f"C{i % 10}", linewidth=1.4)
        if i < labels:
            lines[0].set_label(name)
    axes.axhline(0.0, color=GREY, linewidth=1, linestyle=":")
    axes.set(xlabel=f"rank among {draws} draws", ylabel="share of ranks below, minus uniform")
    axes.legend(frameon=False, fontsize=10)
    return figure


def coverage_curve(credibility: Tensor, coverage: Tensor, *, tasks: int, title: str) -> Figure:
    """Coverage against credibility, with two standard errors of a calibrated posterior.

    Args:
        credibility: shape ``(levels,)``.
        coverage: likewise.
        tasks: how many tasks coverage is a share of.
        title: what the figure shows.
    """
    figure, axes = _figure(title)
    error = 2 * (credibility * (1 - credibility) / tasks).sqrt()
    low, high = credibility - error, credibility + error
    axes.fill_between(credibility, low, high, color=GREY, alpha=0.25, linewidth=0, label="calibrated, two s.e.")
    axes.plot(credibility, coverage, color=ORANGE, linewidth=2)
    axes.set(xlabel="credibility of a region", ylabel="share of tasks with the truth in it", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize=10)
    return figure


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    figure.suptitle("\n".join(_wrapped(title)), fontsize=11.5, x=0.01, ha="left")
    return figure, axes


def _wrapped(title: str, width: int = 84) -> list[str]:
    words, lines = title.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
