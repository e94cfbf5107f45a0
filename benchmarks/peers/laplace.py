"""Pyro's AutoLaplaceApproximation: the mode by torch's L-BFGS from the same start, and the Hessian there."""

from functools import partial

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoLaplaceApproximation, init_to_value
from torch import Tensor

from benchmarks.contest import Point, Run, timed
from benchmarks.normals import Normals, Program
from benchmarks.plain_svi import Row


def run(program: Program, at: list[int]) -> Run:
    """Tasks one after the other; each number of iterations is a run of its own."""
    points, failed = [], 0
    for steps in at:
        found, seconds = timed(partial(_fits, program, steps))
        failed = sum(broken for *_, broken in found)
        loc, tril = (torch.stack([part[i] for part in found]).double() for i in range(2))
        points.append(Point(steps, seconds / len(found), Normals(loc, tril)))
    return Run(points, family="normal", failed=failed)


def _fits(program: Program, steps: int) -> list[tuple[Tensor, Tensor, bool]]:
    return [_fit(program, task, steps) for task in program.problem.tasks]


def _fit(program: Program, task: Row, steps: int) -> tuple[Tensor, Tensor, bool]:
    """Mode, triangle, and whether the Hessian was no precision: then the start's scales stand for it."""
    with pyro.get_param_store().scope():
        guide = AutoLaplaceApproximation(program.density, init_loc_fn=init_to_value(values=_start(program)))
        guide(*task)
        elbo = Trace_ELBO()
        optim = torch.optim.LBFGS(guide.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optim.zero_grad()
            loss = elbo.differentiable_loss(program.density, guide, *task)
            loss.backward()
            return loss

        optim.step(closure)
        loc = guide.loc.detach().clone()
        try:
            normal = guide.laplace_approximation(*task)
        except RuntimeError:
            return loc, torch.diag(program.start[1]).to(loc), True
        tril = normal.scale[:, None] * normal.scale_tril
        return (loc, tril, False) if tril.isfinite().all() else (loc, torch.diag(program.start[1]).to(loc), True)


def _start(program: Program) -> dict[str, Tensor]:
    loc = program.start[0].to(torch.get_default_dtype())
    parts = loc.split([site.shape.numel() for site in program.sites])
    return {s.name: s.transform(x.reshape(s.shape)) for s, x in zip(program.sites, parts, strict=True)}
