"""What :mod:`gains` found, in words and as a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.files import write_figure, write_json
from benchmarks.gains import TOLERANCE

COLORS = ("#777777", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito: safe for the colour-blind


def table(result: Mapping[str, Any]) -> str:
    """The comparison in words."""
    lines = [f"converged SVI: {result['target']:.4f} nats a datum, mean over {result['tasks']} held-out tasks"]
    for name, curve in result["curves"].items():
        rate = "" if curve["rate"] is None else f" (rate {curve['rate']})"
        end = f"{curve['losses'][-1]:.4f} after {curve['at'][-1]} steps"
        steps = f"within {TOLERANCE} after {curve['steps']} steps" if curve["steps"] is not None else "not there"
        seconds = "" if curve["seconds"] is None else f", {1000 * curve['seconds']:.0f} ms a task"
        lines.append(f"{name}{rate}: {steps}{seconds}; {end}")
        for other, count in curve["matched"].items():
            lines.append(f"    as low as {other}: " + ("never" if count is None else f"after {count} steps"))
    return "\n".join(lines)


def draw(result: Mapping[str, Any], title: str) -> Figure:
    """Loss above converged SVI against steps."""
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    for (name, curve), color in zip(result["curves"].items(), COLORS, strict=False):
        above = [max(loss - result["target"], 1e-4) for loss in curve["losses"]]
        axes.plot(curve["at"], above, color=color, label=name, lw=2, marker="o", ms=4)
    axes.axhline(TOLERANCE, color="#333333", lw=0.8, ls="--")
    axes.annotate(
        f"{TOLERANCE} nats",
        (0, TOLERANCE),
        xycoords=("axes fraction", "data"),
        xytext=(4, 4),
        textcoords="offset points",
        fontsize=9,
    )
    axes.set_xscale("symlog", linthresh=10)
    axes.set_yscale("log")
    axes.set_xlim(left=-0.3)
    axes.set_xlabel("steps on an unseen task")
    axes.set_ylabel("nats a datum above converged SVI")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def write(out: Path, name: str, results: Mapping[str, Any], figure: Figure) -> None:
    """Write ``metrics.json`` and the figure."""
    write_json(out / "metrics.json", results)
    write_figure(out / f"{name}.png", figure, dpi=110)
