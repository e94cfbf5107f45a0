"""pyrometa: ``pm.Newton`` on one Sobol draw, from the guide's default start, with nothing learned."""

from collections.abc import Mapping
from functools import partial

import pyro
import torch
from torch import Tensor
from torch.nn.functional import softplus

import pyrometa as pm
from benchmarks.contest import Point, Run, timed
from benchmarks.normals import Normals, Program, Site

REPEATS = 3


def run(program: Program, at: list[int]) -> Run:
    """All tasks by ``adapt_many``; recorded where all have one shape."""
    torch.manual_seed(0)
    problem = program.problem
    one_shape = len({len(task[0]) for task in problem.tasks}) == 1
    tasks = tuple(torch.stack(x) for x in zip(*problem.tasks, strict=True)) if one_shape else list(problem.tasks)
    guide = problem.guide(problem.model)
    optim = pyro.optim.Adam({"lr": 0.01})
    meta = pm.MetaSVI(
        problem.model,
        guide,
        optim,
        problem.elbo,
        inner=pm.Newton(),
        noise=pm.Noise("sobol", shared=True),
        engine=pm.Engine(record=one_shape),
        reduction="mean",
    )
    points, cold = [], 0.0
    for steps in at:
        _, first = timed(partial(meta.adapt_many, tasks, steps))
        again = [timed(partial(meta.adapt_many, tasks, steps)) for _ in range(REPEATS)]
        seconds = min(some for _, some in again)
        cold = max(cold, first - seconds)
        values = [guide.adapted.by_name() for guide in again[0][0]]
        points.append(Point(steps, seconds / len(problem.tasks), _normals(values, program.sites)))
    return Run(points, cold=cold, note="recorded" if one_shape else "")


def _normals(tasks: list[Mapping[str, Tensor]], sites: list[Site]) -> Normals:
    def part(kind: str) -> Tensor:
        names = [f"guide.{kind}.{site.name}" for site in sites]
        return torch.stack([torch.cat([task[name].detach().flatten() for name in names]) for task in tasks]).double()

    return Normals(part("locs"), softplus(part("scales")))
