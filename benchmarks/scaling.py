"""What a meta-step costs as one size grows: recorded, not recorded, and with all fast weights low-rank or dense.

python -m benchmarks.scaling --json bench/scaling.json --figure bench/scaling.png
"""

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.files import write_figure
from benchmarks.measure import interleaved, one_core, table, write_json
from benchmarks.peers import pyrometa_svi
from benchmarks.workloads import Workload

AXES = {
    "tasks": (1, 4, 16, 64, 256),
    "steps": (1, 2, 5, 10, 20, 50),
    "rows": (5, 10, 20, 50, 100),
    "width": (100, 200, 500, 1000, 2000),
}
LABELS = {
    "tasks": "tasks B",
    "steps": "inner steps K",
    "rows": "support and query images N",
    "width": "units of the hidden layers",
}
ENGINES: dict[str, dict[str, Any]] = {
    "recorded": {"record": True},
    "not recorded": {"record": False},
    "low-rank": {"low_rank": True, "record": False},
    "dense": {"low_rank": False, "record": False},
}
"""Options of the engine. The first two choose which fast weights are low-rank; the last two are not recorded."""
CURVES = ("recorded", "not recorded")
STYLES = {
    "recorded": ("#222222", "-", "o"),
    "not recorded": ("#888888", "-", "s"),
    "low-rank": ("#1f77b4", "--", "^"),
    "dense": ("#d62728", "--", "v"),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, write and draw."""
    args = parse(argv)
    base = Workload().quick() if args.quick else Workload()
    curves: dict[str, Any] = {}
    with one_core(), torch.random.fork_rng(devices=[]):
        for axis in args.axes:
            sizes = AXES[axis][:2] if args.quick else AXES[axis]
            curves[axis] = {}
            for size in sizes:
                curves[axis][str(size)] = point(replace(base, **{axis: size}), args.rounds)
                write_json(args.json, {"base": base.described(), "curves": curves})
            print(report(axis, curves[axis]), end="\n\n")
    result = {"base": base.described(), "curves": curves}
    write_figure(args.figure, figure(curves))
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/scaling.json"), help="where the figures go")
    parser.add_argument("--figure", type=Path, default=Path("bench/scaling.png"))
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, times nothing of use")
    return parser.parse_args(argv)


def point(workload: Workload, rounds: int) -> dict[str, Any]:
    """CPU seconds of each round by engine, what was recorded, and which fast weights an engine chose to be low-rank."""
    built = {name: pyrometa_svi.build(workload, **options) for name, options in ENGINES.items()}
    plan = built["not recorded"].plan()
    seconds = interleaved({name: contestant.step for name, contestant in built.items()}, rounds)
    return {
        "cpu_seconds": seconds,
        "median": {name: statistics.median(times) for name, times in seconds.items()},
        "low_rank": [name for name, how in plan.items() if how.startswith("low-rank")],
        "recordings": built["recorded"].recordings(),
    }


def report(axis: str, curve: Mapping[str, Any]) -> str:
    """Medians of one curve, with the exponents that take each point from the one before (1 is linear)."""
    rows, before = [], None
    for size, here in curve.items():
        cells = [f"{here['median'][name]:.3f}" for name in ENGINES]
        now = {name: (int(size), here["median"][name]) for name in CURVES}
        growth = ["" if before is None else f"{_exponent(before[name], now[name]):.2f}" for name in CURVES]
        held = ", ".join(name.split(".")[-2] for name in here["low_rank"]) or "none"
        rows.append((size, *cells, *growth, held, *here["recordings"]))
        before = now
    exponents = (f"exponent, {name}" for name in CURVES)
    return table((LABELS[axis], *ENGINES, *exponents, "chosen low-rank", "recording"), rows)


def _exponent(before: tuple[int, float], here: tuple[int, float]) -> float:
    return math.log(here[1] / before[1]) / math.log(here[0] / before[0])


def figure(curves: Mapping[str, Any]) -> Figure:
    """One panel a size, both axes logarithmic."""
    drawn = Figure(figsize=(9, 6.6), layout="constrained")
    panels = drawn.subplots(2, 2).flat
    for axes, (axis, curve) in zip(panels, curves.items(), strict=False):
        sizes = [int(size) for size in curve]
        for name, (color, line, marker) in STYLES.items():
            medians = [point["median"][name] for point in curve.values()]
            axes.plot(sizes, medians, color=color, linestyle=line, marker=marker, markersize=5, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel(LABELS[axis])
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(panels):
        axes.set_visible(False)
    drawn.axes[0].legend(frameon=False)
    drawn.supylabel("CPU seconds a meta-step")
    return drawn


if __name__ == "__main__":
    main()
