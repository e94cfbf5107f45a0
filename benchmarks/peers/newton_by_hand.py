"""Newton's steps on one Sobol draw by hand, without Pyro's ELBO and without MetaSVI; in double precision.

Damped as Levenberg does, negative curvature turned round, a step that does not lower a task's loss is not taken.
"""

from functools import partial

import torch
from torch import Tensor

from benchmarks.contest import Point, Run, timed
from benchmarks.normals import Normals, Program, sobol

LONGEST = 1.5


def run(program: Program, at: list[int], draws: int | None = None) -> Run:
    """All tasks side by side."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return _run(program, at, draws or program.problem.elbo.num_particles)
    finally:
        torch.set_default_dtype(default)


def _run(program: Program, at: list[int], draws: int) -> Run:
    loc, scale = program.start
    tasks = len(program.problem.tasks)
    phi = torch.cat([loc, scale.log()]).expand(tasks, -1).clone()
    points = sobol(draws, len(loc), seed=7)
    damping, found, seconds, done = torch.full((tasks,), 0.1), [], 0.0, 0
    for steps in at:
        for _ in range(steps - done):
            (phi, damping), some = timed(partial(_step, program, phi, damping, points))
            seconds += some
        done = steps
        found.append(Point(steps, seconds / tasks, _normals(phi)))
    return Run(found)


def _normals(phi: Tensor) -> Normals:
    loc, log_scale = phi.chunk(2, -1)
    return Normals(loc, log_scale.exp())


def _step(program: Program, phi: Tensor, damping: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    phi = phi.detach().requires_grad_()
    losses = program.losses(_normals(phi), points)
    (slope,) = torch.autograd.grad(losses.sum(), phi, create_graph=True)
    rows = [torch.autograd.grad(slope[:, i].sum(), phi, retain_graph=True)[0] for i in range(phi.shape[1])]
    values, vectors = torch.linalg.eigh(torch.stack(rows, 1))
    values, slope = values.abs().clamp(min=1e-6), slope.detach()
    turned = (vectors.mT @ slope[..., None])[..., 0]
    best, losses, taken = phi.detach(), losses.detach(), torch.zeros(len(phi), dtype=torch.bool)
    for _ in range(12):
        step = -(vectors @ (turned / (values + 0.05 * damping[:, None] * values.amax(-1, keepdim=True)))[..., None])[
            ..., 0
        ]
        step = step * (LONGEST / step.norm(dim=-1, keepdim=True)).clamp(max=1)
        with torch.no_grad():
            lower = program.losses(_normals(phi + step), points) < losses
        now = lower & ~taken
        best = torch.where(now[:, None], phi.detach() + step, best)
        taken = taken | now
        damping = torch.where(now, damping / 4, torch.where(taken, damping, damping * 4))
        if taken.all():
            break
    return best, damping
