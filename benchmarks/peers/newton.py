"""pyrometa: ``pm.Newton`` on one Sobol draw, from the guide's default start, with nothing learned."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import pyrometa as pm
from benchmarks.contest import Point, Run, timed
from benchmarks.normals import Normals, Program, Site
from benchmarks.plain_svi import Problem

REPEATS = 3


def run(program: Program, at: list[int]) -> Run:
    """All tasks by ``adapt_many``, recorded."""
    torch.manual_seed(0)
    meta = newton(program.problem, program.problem.guide(program.problem.model), record=True)
    return Run(*fitted(meta, program, at), note="recorded")


def newton(problem: Problem, guide: nn.Module, *, record: bool, **options: Any) -> pm.MetaSVI:
    """A MetaSVI of Newton steps on one Sobol draw."""
    optim = pyro.optim.Adam({"lr": 0.01})
    noise, engine = pm.Noise("sobol", shared=True), pm.Engine(record=record)
    options = {"inner": pm.Newton(), "noise": noise, "engine": engine, "reduction": "mean", **options}
    return pm.MetaSVI(problem.model, guide, options.pop("optim", optim), problem.elbo, **options)


def fitted(meta: pm.MetaSVI, program: Program, at: list[int], repeats: int = REPEATS) -> tuple[list[Point], str, float]:
    """All tasks after numbers of steps; the family; CPU seconds that the first run takes more than another."""
    problem, tasks = program.problem, _side_by_side(program)
    points, cold = [], 0.0
    for steps in at:
        _, first = timed(partial(meta.adapt_many, tasks, steps))
        again = [timed(partial(meta.adapt_many, tasks, steps)) for _ in range(repeats)]
        seconds = min(some for _, some in again)
        cold = max(cold, first - seconds)
        points.append(Point(steps, seconds / len(problem.tasks), _normals(again[0][0], program.sites)))
    return points, "mean field", cold


def adapted(meta: pm.MetaSVI, program: Program, steps: int) -> Normals:
    """All tasks after some steps, on noise that is the same for any number of steps."""
    torch.manual_seed(0)
    return _normals(meta.adapt_many(_side_by_side(program), steps), program.sites)


def _side_by_side(program: Program) -> Any:
    """The tasks as a tuple of columns, or as a list if they differ in size."""
    tasks = program.problem.tasks
    one_shape = len({len(task[0]) for task in tasks}) == 1
    return tuple(torch.stack(x) for x in zip(*tasks, strict=True)) if one_shape else list(tasks)


def _normals(guides: Sequence[Any], sites: list[Site]) -> Normals:
    tasks = [guide.adapted.by_name() for guide in guides]

    def part(kind: str) -> Tensor:
        names = [f"guide.{kind}.{site.name}" for site in sites]
        return torch.stack([torch.cat([task[name].detach().flatten() for name in names]) for task in tasks]).double()

    return Normals(part("locs"), softplus(part("scales")))
