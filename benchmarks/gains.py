"""What meta-learning gained: steps and seconds until SVI has converged."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyro
from pyro.infer import SVI

import pyrometa as pm
from benchmarks.plain_svi import Problem, Row, Values, svi
from pyrometa.diagnostics import steps_until

META = "meta-learned start and rates"
TOLERANCE = 0.005  # nats a datum


@dataclass
class Curve:
    """Mean loss over tasks, nats a datum, after numbers of steps.

    ``steps`` is the first within ``TOLERANCE`` of converged SVI, ``matched`` the first that is as low as each
    meta-learned curve ends; ``seconds`` are CPU seconds of one task, for ``steps`` or for the whole inner loop.
    """

    at: list[int]
    losses: list[float]
    rate: float | None = None
    steps: int | None = None
    seconds: float | None = None
    matched: dict[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Learned:
    """A meta-learned contestant, and the mean loss after each of its inner steps."""

    meta: pm.MetaSVI
    losses: list[float]


def grid(steps: int) -> list[int]:
    """Every step at first, then fewer and fewer."""
    at = [*range(11), *range(15, 51, 5), *range(60, 201, 10), *range(225, steps + 1, 25)]
    return [step for step in at if step <= steps]


def compare(
    problem: Problem,
    pooled: Values,
    learned: Mapping[str, Learned],
    *,
    rates: Sequence[float],
    steps: int,
    converged: int,
) -> dict[str, Any]:
    """How many steps each start needs until within ``TOLERANCE`` of converged SVI.

    ``learned`` are results of :func:`adapted`. Adam starts from the guide's default and from the pooled guide, with
    every rate; the rate that is there first is taken. Converged SVI is the lowest mean loss of Adam with a falling rate
    from both starts, and of all its other runs.
    """
    at = grid(steps)
    starts = {"default start, Adam": None, "pooled start, Adam": pooled}
    runs = {
        name: [Curve(at, svi(problem, start, pyro.optim.Adam({"lr": rate}), at), rate) for rate in rates]
        for name, start in starts.items()
    }
    falling = {"lr": max(rates), "lrd": 0.01 ** (1 / converged)}
    ends = [svi(problem, start, pyro.optim.ClippedAdam(falling), [converged])[0] for start in starts.values()]
    target = min([*ends, *(loss for some in runs.values() for run in some for loss in run.losses)])
    levels = {name: contestant.losses[-1] for name, contestant in learned.items()}
    step_seconds = svi_seconds(problem)
    curves = {name: best(some, target, levels, step_seconds) for name, some in runs.items()}
    curves |= {name: timed(contestant, problem, target) for name, contestant in learned.items()}
    return {
        "target": target,
        "tasks": len(problem.tasks),
        "curves": {name: asdict(curve) for name, curve in curves.items()},
    }


def adapted(meta: pm.MetaSVI, problem: Problem) -> Learned:
    """The inner loop's losses after each step; tasks of one size go side by side."""
    sizes: dict[int, list[Row]] = {}
    for task in problem.tasks:
        sizes.setdefault(len(task[0]), []).append(task)
    repeats = math.ceil(problem.draws / len(problem.tasks) / problem.elbo.num_particles)
    sums = sum(meta.evaluate(some).sum(1) for some in sizes.values() for _ in range(repeats))
    return Learned(meta, (sums / repeats / len(problem.tasks)).tolist())


def best(runs: Sequence[Curve], target: float, levels: Mapping[str, float], step_seconds: float) -> Curve:
    """The run that is there first, or if none is the one that ends lowest."""
    for run in runs:
        run.steps = steps_until(run.losses, target, TOLERANCE, at=run.at)
        run.matched = {name: steps_until(run.losses, level, 0.0, at=run.at) for name, level in levels.items()}
        run.seconds = None if run.steps is None else run.steps * step_seconds
    there = [run for run in runs if run.steps is not None]
    return min(there, key=lambda run: run.steps or 0) if there else min(runs, key=lambda run: run.losses[-1])


def best_for_adam(runs: Sequence[Curve], target: float, levels: Mapping[str, float], step_seconds: float) -> Curve:
    """The best run; ``matched`` in Adam's favour, by whichever run is as low first."""
    curve = best(runs, target, levels, step_seconds)
    for name in levels:
        counts = [run.matched[name] for run in runs if run.matched[name] is not None]
        curve.matched[name] = min(counts, default=None)
    return curve


def timed(contestant: Learned, problem: Problem, target: float) -> Curve:
    """A meta-learned curve."""
    meta, losses = contestant.meta, contestant.losses
    steps = steps_until(losses, target, TOLERANCE)
    seconds = adapt_seconds(meta, problem, meta.steps if steps is None else steps)
    return Curve(list(range(len(losses))), losses, steps=steps, seconds=seconds)


def median_task(problem: Problem) -> Row:
    return sorted(problem.tasks, key=lambda task: len(task[0]))[len(problem.tasks) // 2]


def svi_seconds(problem: Problem) -> float:
    """CPU seconds of a step of plain SVI on the task of median size."""
    task = median_task(problem)
    with pyro.get_param_store().scope():
        inference = SVI(problem.model, problem.guide(problem.model), pyro.optim.Adam({"lr": 0.01}), problem.elbo)
        return seconds_of(lambda: inference.step(*task))


def adapt_seconds(meta: pm.MetaSVI, problem: Problem, steps: int) -> float:
    """CPU seconds of ``meta.adapt`` on the task of median size and of a draw, for which an encoder reads the task."""
    task = median_task(problem)
    return seconds_of(lambda: meta.adapt(task, steps)(*task), times=10)


def seconds_of(run: Callable[[], Any], times: int = 20) -> float:
    """CPU seconds of a call, the first of which sets up and is not counted."""
    run()
    began = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - began) / times
