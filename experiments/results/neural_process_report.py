"""What the run of neural processes reports: intervals over tasks and seeds, and a figure."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyro
import torch
from matplotlib.figure import Figure
from pyro import poutine
from torch import Tensor

from experiments.results.gp_draws import KERNELS, Draws, Points, draw, exact_log_densities, posterior
from experiments.results.training import half_width
from pyrometa.guides import SetEncoderGuide

Losses = dict[str, Tensor]  # of each kernel, (sizes, tasks)
COLORS = {"exact": "#555555", "mean pooling": "#0072B2", "attention": "#D55E00", "attention for longer": "#009E73"}
GRID = torch.linspace(-2.0, 2.0, 321)


class Program(Protocol):
    """A model and its guide."""

    guide: SetEncoderGuide

    def model(self, x: Tensor, y: Tensor, context_x: Tensor, context_y: Tensor) -> None:
        """Outputs ``y`` at ``x``, given the context."""


def summary(
    test: Mapping[str, Sequence[Draws]],
    found: Mapping[str, Sequence[Losses]],
    seconds: Mapping[str, Sequence[float]],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Mean log densities a target of all rows, and what the steps add."""
    rows = {row: {kernel: over([-losses[kernel] for losses in runs]) for kernel in test} for row, runs in found.items()}
    gains = {
        f"{after}, over {before}": {
            kernel: over([b[kernel] - a[kernel] for b, a in zip(found[before], found[after], strict=True)])
            for kernel in test
        }
        for before, after in pairs(list(found))
    }
    return {
        "settings": dict(settings),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__},
        "exact posterior": {kernel: exact(draws) for kernel, draws in test.items()},
        "log density a target": rows,
        "gain": gains,
        "meta-training, CPU seconds": {row: [round(spent, 1) for spent in runs] for row, runs in seconds.items()},
    }


def pairs(rows: list[str]) -> list[tuple[str, str]]:
    """With each row that takes steps the one that was trained on without, and itself before them."""
    return [
        (f"{name}, {before}", after)
        for after in rows
        if after.endswith("steps") and "no steps" not in after
        for name in [after.split(",")[0]]
        for before in ("trained on", "refined, no steps")
    ]


def exact(draws: Sequence[Draws]) -> dict[str, Any]:
    alone, together = (torch.stack(part) for part in zip(*map(exact_log_densities, draws), strict=True))
    return {"each target alone": over([alone]), "all together": over([together])}


def over(seeds: Sequence[Tensor]) -> dict[str, Any]:
    """Of figures ``(sizes, tasks)`` for each seed: the mean, its 95% half widths over tasks and over seeds.

    The sizes are all that there are, so what varies over tasks varies within a size.
    """
    values = torch.stack(list(seeds)).double()
    means, tasks = values.mean((1, 2)), values.mean(0)
    error = (tasks.var(1) / tasks.shape[1]).mean().sqrt() / len(tasks) ** 0.5
    return {
        "mean": means.mean().item(),
        "half width over tasks": 1.96 * error.item(),
        "half width over seeds": half_width(means),
        "seeds": means.tolist(),
    }


def line(row: str, losses: Losses) -> str:
    return f"{row}: " + ", ".join(f"{kernel} {-values.mean():.3f}" for kernel, values in losses.items())


def table(result: Mapping[str, Any]) -> str:
    """Log densities a target in Markdown: the mean, its half width over tasks, and that over seeds in brackets."""
    kernels = list(result["exact posterior"])
    rows = {row: list(found.values()) for row, found in result["log density a target"].items()}
    for name in ("each target alone", "all together"):
        rows[f"exact posterior, {name}"] = [found[name] for found in result["exact posterior"].values()]
    lines = [f"| {row} | {' | '.join(map(estimate, found))} |" for row, found in rows.items()]
    gains = [f"| {row} | {' | '.join(map(estimate, found.values()))} |" for row, found in result["gain"].items()]
    head = f"| | {' | '.join(kernels)} |\n|---|{'---|' * len(kernels)}"
    return "\n".join([head, *lines, "", head, *gains])


def estimate(found: Mapping[str, Any]) -> str:
    seeds = found["half width over seeds"]
    return f"{found['mean']:.3f} ± {found['half width over tasks']:.3f}" + (f" ({seeds:.3f})" if seeds else "")


def bands(process: Program) -> dict[str, Points]:
    """Mean and scale on the grid for the draw of each kernel that the figure shows."""
    return {kernel: predictive(process, shown_draw(kernel)) for kernel in KERNELS}


@torch.no_grad()
def predictive(process: Program, draws: Draws) -> Points:
    """Of the targets of one task, as the guide has read the context."""
    context = [rows[0] for rows in draws.context]
    given = (*(rows[0] for rows in draws.target), *context)
    with pyro.get_param_store().scope():
        trace = poutine.trace(process.guide.condition(*context, *context)).get_trace(*given)
        normal = poutine.trace(poutine.replay(process.model, trace)).get_trace(*given).nodes["y"]["fn"]
    return normal.loc, normal.scale


def shown_draw(kernel: str) -> Draws:
    """One task of ten context points, with targets on a grid."""
    return draw(KERNELS[kernel], torch.Generator().manual_seed(222), 1, 10, len(GRID), GRID)


def figure(shown: Mapping[str, Mapping[str, Points]]) -> Figure:
    """A draw of each kernel: its context, and mean and 95% band of the exact posterior and of each row."""
    picture = Figure(figsize=(12.0, 2.6 * len(KERNELS)), layout="constrained")
    panels = picture.subplots(len(KERNELS), 1 + len(shown), sharex=True, sharey="row")
    for along, kernel in zip(panels, KERNELS, strict=True):
        draws = shown_draw(kernel)
        mean, covariance = posterior(draws)
        exactly = (mean[0], covariance[0].diagonal().sqrt())
        predicted = {"exact": exactly} | {name: found[kernel] for name, found in shown.items()}
        for axes, (name, (loc, scale)) in zip(along, predicted.items(), strict=True):
            axes.plot(GRID, draws.target[1][0], color="#888888", lw=0.8)
            axes.fill_between(GRID, loc - 1.96 * scale, loc + 1.96 * scale, color=COLORS[name], alpha=0.25, lw=0)
            axes.plot(GRID, loc, color=COLORS[name], lw=1.6)
            axes.plot(draws.context[0][0], draws.context[1][0], "k.", ms=7)
            axes.set_title(f"{kernel}: {name}", loc="left", fontsize=10)
            axes.spines[["top", "right"]].set_visible(False)
    return picture
