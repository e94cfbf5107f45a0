"""Whether a posterior can be trusted: importance weights, ranks, coverage, gaps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["coverage_curve", "gap_curves", "importance_weights", "null_histogram", "rank_curves", "tails", "told_apart"]

_NAMED = 6
"""Sites that a legend names."""

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


def tails(k_hat: Tensor, ess: Tensor, *, draws: int, threshold: float, title: str) -> Figure:
    """k-hat of tasks' posteriors against what share of their draws is worth something.

    Args:
        k_hat: shape ``(tasks,)``; ``-inf`` stands at the left edge.
        ess: effective numbers of draws, likewise.
        draws: of each task.
        threshold: below it k-hat is good.
        title: what the figure shows.
    """
    figure, axes = _figure(title)
    shown = k_hat.clamp(min=-1.0)
    good = k_hat <= threshold
    for chosen, color, name in ((good, BLUE, "can be corrected"), (~good, ORANGE, "can't be trusted")):
        axes.scatter(shown[chosen], ess[chosen] / draws, color=color, label=f"{name}: {int(chosen.sum())}")
    axes.axvline(threshold, color=GREY, linewidth=1, linestyle=":")
    axes.set(xlabel="k-hat of the task's importance weights", ylabel="share of draws that count", ylim=(0, 1.05))
    axes.legend(frameon=False, fontsize=10)
    return figure


def rank_curves(
    ranks: Mapping[str, Tensor], *, draws: int, band: tuple[Tensor, Tensor], title: str, labels: int = _NAMED
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


def told_apart(first: Tensor, second: Tensor, *, title: str) -> Figure:
    """What a classifier makes of draws of two sets: alike, if both histograms are.

    Args:
        first: the probability that a draw is of the second set, for each of the first set, shape ``(draws,)``.
        second: likewise, for each of the second set.
        title: what the figure shows.
    """
    figure, axes = _figure(title)
    bins = torch.linspace(0, 1, 31).tolist()
    for values, color, name in ((first, BLUE, "the first set"), (second, ORANGE, "the second set")):
        axes.hist(values.tolist(), bins=bins, color=color, alpha=0.5, label=name)
    axes.set(xlabel="probability of the second set, by the classifier", ylabel="draws", xlim=(0, 1))
    axes.legend(frameon=False, fontsize=10)
    return figure


def null_histogram(statistic: float, null: Tensor, *, title: str) -> Figure:
    """A statistic among those that there are under the null hypothesis.

    Args:
        statistic: the one in question.
        null: the others, shape ``(nulls,)``.
        title: what the figure shows.
    """
    figure, axes = _figure(title)
    axes.hist(null.tolist(), bins=30, color=GREY, alpha=0.6, label="if truth and draws were alike")
    axes.axvline(statistic, color=ORANGE, linewidth=2, label="this task")
    axes.set(xlabel="mean squared distance of the classifier from a half", ylabel="classifiers")
    axes.legend(frameon=False, fontsize=10)
    return figure


def gap_curves(
    approximation: Tensor, inference: Tensor, query: Tensor | None, kl: Mapping[str, Tensor], *, title: str
) -> Figure:
    """Three panels: what is lost over inner steps, the query set's gain, and the divergence of each latent dimension.

    Args:
        approximation: in nats a task, shape ``(tasks,)``.
        inference: after each of ``0..K`` steps, shape ``(tasks, K + 1)``.
        query: log density of the query set likewise; None leaves its panel out.
        kl: divergences from the prior of each site's elements, shape ``(tasks, *site)``.
        title: what the figure shows.
    """
    figure, axes = _panels(title, 1 + (query is not None) + bool(kl))
    steps = range(inference.shape[1])
    family = approximation.mean().expand(len(steps))
    lost = inference.mean(0)
    axes[0].fill_between(steps, 0, family, color=BLUE, alpha=0.55, linewidth=0, label="approximation")
    axes[0].fill_between(steps, family, lost, color=ORANGE, alpha=0.45, linewidth=0, label="amortisation")
    axes[0].plot(steps, inference.T, color=GREY, linewidth=0.7, alpha=0.6)
    axes[0].plot(steps, lost, color=ORANGE, linewidth=2)
    axes[0].set(xlabel="inner steps", ylabel="nats lost, a task", ylim=(min(0.0, family[0].item()), None))
    axes[0].legend(frameon=False, fontsize=10)
    if query is not None:
        _gains(axes[1], query)
    if kl:
        _divergences(axes[-1], kl)
    return figure


def _gains(axes: Axes, query: Tensor) -> None:
    gained = query - query[:, :1]
    steps = range(query.shape[1])
    axes.plot(steps, gained.T, color=GREY, linewidth=0.7, alpha=0.6)
    axes.plot(steps, gained.mean(0), color=BLUE, linewidth=2)
    axes.set(xlabel="inner steps", ylabel="nats gained on the query set, a task")


def _divergences(axes: Axes, kl: Mapping[str, Tensor]) -> None:
    """Bars of each site's elements, largest first."""
    start = 0
    for i, (name, of_site) in enumerate(kl.items()):
        heights = of_site.reshape(len(of_site), -1).mean(0).sort(descending=True).values.tolist()
        axes.bar(range(start, start + len(heights)), heights, color=f"C{i % 10}", label=name if i < _NAMED else None)
        start += len(heights)
    axes.set(xlabel="latent dimension, by site", ylabel="KL from the prior, nats", xticks=[])
    axes.set_axisbelow(True)
    axes.margins(y=0.25)
    axes.legend(frameon=False, fontsize=10, ncols=3)


def _figure(title: str) -> tuple[Figure, Axes]:
    figure, (axes,) = _panels(title, 1)
    return figure, axes


def _panels(title: str, count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(2.6 + 3.8 * count, 4.2), layout="constrained")
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.6)
    figure.suptitle("\n".join(_wrapped(title, 74 * count)), fontsize=11.5, x=0.01, ha="left")
    return figure, panels


def _wrapped(title: str, width: int) -> list[str]:
    words, lines = title.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
