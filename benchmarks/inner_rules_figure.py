"""The figure of :mod:`inner_rules`: how fast each rule's steps converge on unseen tasks.

python -m benchmarks.inner_rules_figure bench/inner_rules.json docs/_static/newton.png
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.files import write_figure
from benchmarks.inner_rules import ADAM

COLORS = {"Newton, pyrometa": "#D55E00", ADAM: "#0072B2"}  # Okabe and Ito: safe for the colour-blind
LABELS = {"Newton, pyrometa": "pyrometa, Newton's steps", ADAM: "SVI with Adam, its rate tuned"}
TITLES = {
    "chem97": "Chem97: a regression a school",
    "radon": "Radon: a regression a county",
    "theoph": "Theoph: a nonlinear curve a subject",
}
FLOOR, CLOSE = 3e-4, 1e-3  # nats a datum


def draw(result: Mapping[str, Any]) -> Figure:
    """A panel for each program: nats a datum above converged SVI after numbers of steps, from the default start."""
    figure = Figure(figsize=(10.2, 3.9), layout="constrained")
    panels = figure.subplots(1, len(TITLES), sharey=True)
    for axes, (name, title) in zip(panels, TITLES.items(), strict=True):
        _panel(axes, result[name], title)
    panels[0].set_ylabel("nats a datum above converged SVI")
    figure.supxlabel("steps on an unseen task, from the guide's default start; nothing is learned", fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=11)
    return figure


def _panel(axes: Axes, found: Mapping[str, Any], title: str) -> None:
    for name, color in COLORS.items():
        one = found["contestants"][name]
        steps = [max(step, 0.5) for step in one["at"]]
        above = [max(loss - found["target"], FLOOR) for loss in one["losses"]]
        axes.plot(steps, above, color=color, label=LABELS[name], lw=2, marker="o", ms=4)
    axes.axhline(CLOSE, color="#333333", lw=0.8, ls="--")
    axes.annotate(f"{CLOSE} nats", (0.02, CLOSE * 1.1), xycoords=("axes fraction", "data"), fontsize=9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1, 5, 20, 100], ["1", "5", "20", "100"])
    axes.minorticks_off()
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("figure", type=Path)
    args = parser.parse_args(argv)
    write_figure(args.figure, draw(json.loads(args.result.read_text())), dpi=110)


if __name__ == "__main__":
    main()
