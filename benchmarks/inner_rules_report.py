"""What :mod:`inner_rules` found: losses above converged SVI, steps and seconds until there, errors against NUTS."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from benchmarks.contest import Run
from benchmarks.measure import table
from benchmarks.normals import Normals, Program

CLOSE = (0.005, 0.001)  # nats a datum
DRAWS = 2**23  # times rows, over all tasks


def compared(
    program: Program,
    runs: Mapping[str, list[Run]],
    scored: Mapping[str, list[dict[str, Any]]],
    truth: Normals | None,
) -> dict[str, Any]:
    """Every contestant's best run, on the scale of the lowest loss of SVI, the first contestant."""
    svi = next(iter(scored.values()))
    target = min(loss for run in svi for loss in run["losses"])
    chosen = {}
    for name, curves in scored.items():
        for one in curves:
            one["there"] = {str(close): first(one, target + close) for close in CLOSE}
        best = min(range(len(curves)), key=lambda i: _rank(curves[i], target))
        chosen[name] = curves[best]
        if truth is not None:
            chosen[name]["against NUTS"] = errors(program, runs[name][best].points[-1].normals, truth)
    adam = {str(close): adams(svi, target + close) for close in CLOSE}
    return {"target": target, "tasks": len(program.problem.tasks), "adam": adam, "contestants": chosen}


def curve(program: Program, run: Run, draws: int | None) -> dict[str, Any]:
    """Mean losses over tasks after each number of steps; by default on many draws."""
    draws = draws or 2 ** min(15, max(9, round(math.log2(DRAWS / program.rows[1].numel()))))
    scores = [program.score(point.normals, draws) for point in run.points]
    return {
        "at": [point.steps for point in run.points],
        "seconds": [point.seconds for point in run.points],
        "losses": [score.nan_to_num(1e6).mean().item() for score in scores],
        **{key: getattr(run, key) for key in ("family", "cold", "alone", "note", "failed")},
    }


def first(one: Mapping[str, Any], level: float) -> int | None:
    """The index of the first point that is as low."""
    return next((i for i, loss in enumerate(one["losses"]) if loss <= level), None)


def _rank(one: Mapping[str, Any], target: float) -> tuple[float, ...]:
    """In a contestant's favour: first the run that is there first."""
    waits = [one["seconds"][i] if i is not None else float("inf") for i in one["there"].values()]
    return (*waits, min(one["losses"]) - target)


def adams(svi: list[dict[str, Any]], level: float) -> dict[str, float] | None:
    """Adam's steps until as low, by the rate that is there first, and seconds of a task by itself and side by side."""
    found = [(run["at"][i], i, run) for run in svi if (i := first(run, level)) is not None]
    if not found:
        return None
    steps, i, run = min(found, key=lambda some: some[:2])
    return {"steps": steps, "alone": steps * run["alone"], "side by side": run["seconds"][i]}


def errors(program: Program, normals: Normals, truth: Normals) -> dict[str, float]:
    """Medians over tasks and latents: error of the mean in posterior deviations, and ratio of deviations."""
    tasks = len(truth.loc)
    loc, deviations = program.canonical(normals.loc[:tasks], normals.deviations[:tasks])
    true_loc, true_deviations = program.canonical(truth.loc, truth.deviations)
    error = ((loc - true_loc) / true_deviations).abs()
    ratio = deviations / true_deviations
    return {"error": _median(error), "largest": error.amax(-1).median().item(), "ratio": _median(ratio)}


def _median(x: Tensor) -> float:
    return x.nan_to_num(1e6).flatten().median().item()


def report(name: str, result: Mapping[str, Any]) -> str:
    """The table of a program."""
    head = ("contestant", "above after 1", "2", "5", "at last (steps)")
    for close in CLOSE:
        head = (*head, f"steps to {close}", "ms a task", "times less than Adam")
    head = (*head, "cold s", "error", "worst latent", "sd ratio")
    rows = [_row(*item, result) for item in result["contestants"].items()]
    title = f"{name}: converged SVI {result['target']:.4f} nats a datum, {result['tasks']} tasks"
    waits = [
        f"Adam until within {close}: {adam['steps']} steps, {1e3 * adam['alone']:.0f} ms a task alone, "
        f"{1e3 * adam['side by side']:.1f} side by side"
        for close, adam in result["adam"].items()
        if adam
    ]
    lines = [title, table(head, rows), *waits, *(f"{who}: {why}" for who, why in result["absent"].items())]
    return "\n".join(lines)


def _row(name: str, one: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[str, ...]:
    above = dict(zip(one["at"], (loss - result["target"] for loss in one["losses"]), strict=True))
    early = [f"{above[k]:.4f}" if k in above else "-" for k in (1, 2, 5)]
    last = f"{above[one['at'][-1]]:.4f} ({one['at'][-1]})"
    there = [cell for close, i in one["there"].items() for cell in _there(one, i, result["adam"][close])]
    truth = one.get("against NUTS")
    told = [f"{truth[key]:.3f}" for key in ("error", "largest", "ratio")] if truth else ["-"] * 3
    label = f"{name} ({', '.join(x for x in (one['family'], one['note']) if x)})"
    label += f", {one['failed']} failed" if one["failed"] else ""
    return (label, *early, last, *there, f"{one['cold']:.1f}", *told)


def _there(one: Mapping[str, Any], i: int | None, adam: Mapping[str, float] | None) -> tuple[str, str, str]:
    """Steps, milliseconds a task, and how many times less than Adam takes on a task by itself."""
    if i is None:
        return "-", "-", "-"
    seconds = one["seconds"][i]
    return str(one["at"][i]), f"{1e3 * seconds:.3g}", f"{adam['alone'] / seconds:.0f}" if adam else "-"
