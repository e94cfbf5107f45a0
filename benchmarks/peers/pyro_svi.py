"""Pyro's SVI with Adam from the guide's default start: one task by itself, and all side by side."""

from functools import partial

import pyro
import torch
from pyro.infer import SVI

from benchmarks.contest import Point, Run, timed
from benchmarks.gains import svi_seconds
from benchmarks.normals import Program, of_guide
from benchmarks.plain_svi import side_by_side


def runs(program: Program, at: list[int]) -> list[Run]:
    """A run for each rate, and one whose rate falls, in which SVI converges."""
    alone = svi_seconds(program.problem)
    fixed = [_run(program, pyro.optim.Adam({"lr": rate}), at, f"rate {rate}") for rate in program.rates]
    falling = {"lr": max(program.rates), "lrd": 0.01 ** (1 / program.falling)}
    last = _run(program, pyro.optim.ClippedAdam(falling), [program.falling], "falling rate")
    for run in (*fixed, last):
        run.alone = alone
    return [*fixed, last]


def _run(program: Program, optim: pyro.optim.PyroOptim, at: list[int], note: str) -> Run:
    torch.manual_seed(0)
    tasks, points, done, seconds = len(program.problem.tasks), [], 0, 0.0
    with pyro.get_param_store().scope():
        model, _ = side_by_side(program.problem)
        guide = program.problem.guide(model)
        guide()
        inference = SVI(model, guide, optim, program.problem.elbo)
        for steps in at:
            _, some = timed(partial(_steps, inference, steps - done))
            done, seconds = steps, seconds + some
            points.append(Point(steps, seconds / tasks, of_guide(guide, program.sites, tasks)))
    return Run(points, note=note)


def _steps(inference: SVI, count: int) -> None:
    for _ in range(count):
        inference.step()
