"""Newton's steps where a task has many latents: hierarchical regressions, and a network of 3,522 numbers.

    python -m experiments.more_latents           # some minutes on one core
    python -m experiments.more_latents --quick   # tiny sizes: shows that it runs

A task is a table of groups of eight rows each: levels of groups about a mean, a slope and a noise, all unknown, on
made-up data. Each level's mean and scale are a block of the Hessian. The network is 1-40-40-1 with all its weights
latent, on twenty points of a sinusoid; of its Hessian Newton sees what 32 products show. Newton and Adam start from one
start, with all tasks side by side. --json gets the figures.
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from benchmarks.contest import Run
from benchmarks.inner_rules import ADAM, GRID, quick
from benchmarks.inner_rules_report import compared, curve, report
from benchmarks.measure import one_core, write_json
from benchmarks.normals import Program
from benchmarks.peers import newton, pyro_svi
from benchmarks.plain_svi import Problem

ROWS, SHARED = 8, 4  # rows of a group; latents that no group has to itself
NETWORK = 3522
NUMBERS = (20, 50, 200, NETWORK)
STEPS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20]
WIDTHS = (1, 40, 40, 1)


def model(x: Tensor, y: Tensor) -> None:
    """One table, group after group."""
    mean, slope, spread, noise = common()
    with pyro.plate("groups", y.shape[-1] // ROWS, dim=-1):
        levels = pyro.sample("levels", dist.Normal(mean, spread))
    rows(levels, x, y, slope, noise)


def density(x: Tensor, y: Tensor) -> None:
    """The model on many values of the latents at once, the levels ``(..., 1, groups)``."""
    mean, slope, spread, noise = common()
    around = dist.Normal(mean[..., None], spread[..., None]).expand((*mean.shape, y.shape[-1] // ROWS))
    levels = pyro.sample("levels", around.to_event(1))
    rows(levels if levels.dim() == 1 else levels.squeeze(-2), x, y, slope, noise)


def common() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What all groups share."""
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    spread = pyro.sample("spread", dist.LogNormal(-0.5, 0.5))
    return mean, slope, spread, pyro.sample("noise", dist.LogNormal(-0.5, 0.5))


def rows(levels: Tensor, x: Tensor, y: Tensor, slope: Tensor, noise: Tensor) -> None:
    """The rows, given levels ``(..., groups)``."""
    with pyro.plate("rows", y.shape[-1], dim=-1):
        pyro.sample("y", dist.Normal(levels.repeat_interleave(ROWS, -1) + slope * x, noise), obs=y)


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
    return Program(f"regression, {numbers} numbers", problem, density, (0.03, 0.1), 800, 2000)


def network(x: Tensor, y: Tensor) -> None:
    """A Bayesian network, also on many values of its weights at once."""
    h = x[..., None, :, None]
    for i, (into, out) in enumerate(pairwise(WIDTHS)):
        weight = pyro.sample(f"weight{i}", dist.Normal(torch.zeros(out, into), into**-0.5).to_event(2))
        bias = pyro.sample(f"bias{i}", dist.Normal(torch.zeros(out), 1.0).to_event(1))
        h = h @ weight.mT + bias[..., None, :]
        h = h.tanh() if out > 1 else h
    with pyro.plate("rows", y.shape[-1], dim=-1):
        pyro.sample("y", dist.Normal(h.squeeze(-1).squeeze(-2), 0.2), obs=y)


def network_guide(model: Callable[..., Any]) -> AutoNormal:
    """From one draw of the prior, the same for every task."""

    def start(site: Any) -> Tensor:
        shape = site["fn"].event_shape
        generator = torch.Generator().manual_seed(len(site["name"]) + int(site["name"][-1]) + shape.numel())
        return (torch.randn(shape, generator=generator) * shape[-1] ** -0.5).expand(site["fn"].shape()).clone()

    return AutoNormal(model, init_loc_fn=start, init_scale=0.05)


def network_program(tasks: int, particles: int, seed: int) -> Program:
    """Sinusoids, twenty points each."""
    generator = torch.Generator().manual_seed(seed)
    amplitude, phase = (torch.rand(tasks, 1, generator=generator) for _ in range(2))
    x = 6 * torch.rand(tasks, 20, generator=generator) - 3
    y = (0.5 + amplitude) * (x - 3 * phase).sin() + 0.2 * torch.randn(tasks, 20, generator=generator)
    elbo = TraceMeanField_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=2)
    problem = Problem(network, network_guide, elbo, list(zip(x, y, strict=True)), 20_000)
    return Program("network, 3,522 numbers", problem, network, (0.01, 0.03), 800, 3000)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    result: dict[str, Any] = {}
    for numbers in args.numbers:
        some = (args.tasks, args.particles, args.seed)
        made = quick(network_program(*some) if numbers == NETWORK else program(numbers, *some), args.quick)
        result[str(numbers)] = {**compared(made, *fitted(made, args.quick), None), "absent": {}}
        write_json(args.json, result)
        print(report(f"{numbers} numbers a task", result[str(numbers)]), end="\n\n", flush=True)
    return result


def fitted(made: Program, small: bool) -> tuple[dict[str, list[Run]], dict[str, list[dict[str, Any]]]]:
    """Runs of Adam and of Newton, and their losses."""
    with one_core(), pyro.get_param_store().scope():
        meta = newton.newton(made.problem, made.problem.guide(made.problem.model), record=False)
        adam = [steps for steps in GRID if steps <= made.steps]
        runs = {
            ADAM: pyro_svi.runs(made, adam),
            "Newton, pyrometa": [Run(*newton.fitted(meta, made, STEPS[:2] if small else STEPS))],
        }
        draws = 64 if small else 4096
        return runs, {name: [curve(made, run, draws) for run in some] for name, some in runs.items()}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("more_latents/metrics.json"), help="where the figures go")
    parser.add_argument("--numbers", nargs="+", type=int, default=list(NUMBERS))
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--particles", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
