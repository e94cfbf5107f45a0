"""Newton's steps where a task has many latents: hierarchical regressions of 20, 50 and 200 variational numbers.

    python -m experiments.more_latents           # some minutes on one core
    python -m experiments.more_latents --quick   # tiny sizes: shows that it runs

A task is a table of groups of eight rows each: levels of groups about a mean, a slope and a noise, all unknown, on
made-up data. Newton and Adam start from the guide's default start. --json gets the figures.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from benchmarks.inner_rules import ADAM, contest
from benchmarks.inner_rules_report import report
from benchmarks.measure import write_json
from benchmarks.normals import Program
from benchmarks.plain_svi import Problem

ROWS, SHARED = 8, 4  # rows of a group; latents that no group has to itself
NUMBERS = (20, 50, 200)


def model(x: Tensor, y: Tensor) -> None:
    """One table, group after group."""
    groups = y.shape[-1] // ROWS
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    spread = pyro.sample("spread", dist.LogNormal(-0.5, 0.5))
    noise = pyro.sample("noise", dist.LogNormal(-0.5, 0.5))
    around = dist.Normal(mean[..., None], spread[..., None]).expand((*mean.shape, groups))
    levels = pyro.sample("levels", around.to_event(1)).repeat_interleave(ROWS, -1)
    levels = levels if levels.dim() == 1 else levels.squeeze(-2)  # where particles or tasks are side by side
    with pyro.plate("rows", y.shape[-1], dim=-1):
        pyro.sample("y", dist.Normal(levels + slope * x, noise), obs=y)


def program(numbers: int, tasks: int, particles: int, seed: int) -> Program:
    """Tables of one size."""
    groups = numbers // 2 - SHARED
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = normal(tasks, groups * ROWS)
    levels = 2 * normal(tasks, 1) + (0.6 * normal(tasks, 1) / 2 - 0.5).exp() * normal(tasks, groups)
    y = levels.repeat_interleave(ROWS, -1) + normal(tasks, 1) * x
    y = y + (0.5 * normal(tasks, 1) - 0.5).exp() * normal(tasks, groups * ROWS)
    elbo = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=2)
    problem = Problem(model, AutoNormal, elbo, list(zip(x, y, strict=True)), 20_000)
    return Program(f"regression, {numbers} numbers", problem, model, (0.03, 0.1), 800, 2000)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    result: dict[str, Any] = {}
    for numbers in args.numbers:
        make = partial(program, numbers, args.tasks, args.particles, args.seed)
        for found in contest(make, args):
            result[str(numbers)] = found
            write_json(args.json, result)
        print(report(f"{numbers} numbers a task", result[str(numbers)]), end="\n\n", flush=True)
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("more_latents/metrics.json"), help="where the figures go")
    parser.add_argument("--numbers", nargs="+", type=int, default=list(NUMBERS))
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--particles", type=int, default=32)
    parser.add_argument("--only", nargs="+", default=[ADAM, "Newton, pyrometa", "Newton by hand", "L-BFGS, Laplace"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args(argv)
    args.truth = 0
    return args


if __name__ == "__main__":
    main()
