"""CPU seconds a task on the mixtures: pm.Amortize's proposal and steps, and tuned Adam until it is as low.

    python -m experiments.amortize_seconds            # some minutes on one core
    python -m experiments.amortize_seconds --quick    # tiny sizes: shows that it runs

Adam starts from the guide's default start, once or several times over, of which each dataset takes the lowest loss; the
rate that is there first counts. All are scored by one ELBO on points that nobody has seen. --json gets the figures.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

import pyrometa as pm
from benchmarks.contest import Run
from benchmarks.measure import one_core, table, write_json
from benchmarks.normals import Normals, Program
from benchmarks.peers import pyro_svi
from benchmarks.real_programs import datasets
from experiments import mixtures

CLOSE = (0.0, 0.001, 0.005)
AT = [50, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1000]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    with one_core():
        program = datasets(args.seed, args.tasks)
        ours = amortized(program, args)
        target = min(ours["losses"])
        found = {"ours": ours, "adam": adam(program, args, target)}
    write_json(args.json, found)
    print(report(found))
    return found


def amortized(program: Program, args: argparse.Namespace) -> dict[str, Any]:
    """Mean losses after 0, 1 and 2 steps, and CPU seconds a task, all side by side and one by itself."""
    torch.manual_seed(args.seed)
    tasks = list(program.problem.tasks)
    fitted = pm.Amortize(mixtures.model, tasks[0], **args.sizes)
    fitted.fit(**args.budget)
    found: dict[str, Any] = {"losses": [], "seconds": [], "alone": []}
    for steps in (0, 1, 2):
        guides = fitted.adapt_many(tasks, steps)
        scores = program.score(normals(guides, tasks, program), args.draws)
        found["losses"].append(scores.mean().item())
        found["seconds"].append(warm(lambda k=steps: fitted.adapt_many(tasks, k)) / len(tasks))
        found["alone"].append(warm(lambda k=steps: fitted.adapt(tasks[0], k)))
    return found


def normals(guides: Sequence[Callable[..., Any]], tasks: Sequence[Any], program: Program) -> Normals:
    """Each guide's normals on the reals, site after site."""

    def of(guide: Callable[..., Any], task: Any) -> tuple[Tensor, Tensor]:
        nodes: dict[str, Any] = poutine.trace(guide).get_trace(*task).nodes
        base = [unconstrained(nodes[site.name]["fn"]) for site in program.sites]
        return torch.cat([fn.mean.flatten() for fn in base]), torch.cat([fn.stddev.flatten() for fn in base])

    with torch.no_grad():
        loc, scale = zip(*map(of, guides, tasks), strict=True)
    return Normals(torch.stack(loc).double(), torch.stack(scale).double())


def unconstrained(fn: Any) -> Any:
    """The normal behind a transformed one."""
    return fn.base_dist if hasattr(fn, "transforms") else fn


def warm(run: Callable[[], Any], times: int = 3) -> float:
    """CPU seconds of a call that is not the first."""
    run()
    began = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - began) / times


def adam(program: Program, args: argparse.Namespace, target: float) -> dict[str, Any]:
    """For each number of starts: where Adam ends, and its steps and seconds until as low as the target, or close."""
    problem = replace(program.problem, tasks=list(program.problem.tasks) * args.starts)
    runs = pyro_svi.runs(replace(program, problem=problem, falling=max(args.at)), args.at)
    scores = [[losses(program, point.normals, args) for point in run.points] for run in runs]
    found = {}
    for starts in range(1, args.starts + 1):
        best = [[some[:starts].amin(0).mean().item() for some in run] for run in scores]
        there = {str(close): first(runs, best, target + close, starts) for close in CLOSE}
        found[str(starts)] = {"ends": min(min(run) for run in best) - target, "until": there}
    return found


def losses(program: Program, found: Normals, args: argparse.Namespace) -> Tensor:
    """Of each start and dataset."""
    tasks = len(program.problem.tasks)
    parts = zip(found.loc.split(tasks), found.scale.split(tasks), strict=True)
    return torch.stack([program.score(Normals(*part), args.draws).nan_to_num(1e6) for part in parts])


def first(runs: Sequence[Run], best: Sequence[Sequence[float]], level: float, starts: int) -> dict[str, Any] | None:
    """Steps of the rate that is there first, and seconds a dataset of all starts: one by one, and side by side."""
    there = [
        (point.steps, starts * (run.alone or 0.0) * point.steps, starts * point.seconds, run.note)
        for run, means in zip(runs, best, strict=True)
        for point, mean in zip(run.points, means, strict=True)
        if mean <= level
    ]
    return dict(zip(("steps", "alone", "side by side", "rate"), min(there), strict=True)) if there else None


def report(found: dict[str, Any]) -> str:
    """Two tables."""
    ours = found["ours"]
    head = ("pm.Amortize", "nats a datum", "side by side, s a task", "one by itself, s")
    rows = [
        (f"{k} steps", f"{loss:.4f}", f"{ours['seconds'][k]:.4f}", f"{ours['alone'][k]:.3f}")
        for k, loss in enumerate(ours["losses"])
    ]
    starts = []
    for count, one in found["adam"].items():
        for close, there in one["until"].items():
            cells = ("-",) * 3 if there is None else (str(there["steps"]), *_cells(there))
            starts.append((count, f"{one['ends']:.4f}", close, *cells))
    head_of_adam = ("Adam, starts", "ends above", "within", "steps", "one by one, s a task", "side by side, s a task")
    return table(head, rows) + "\n\n" + table(head_of_adam, starts)


def _cells(there: dict[str, Any]) -> tuple[str, str]:
    return f"{there['alone']:.2f}", f"{there['side by side']:.3f}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("amortize/seconds.json"), help="where the figures go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args(argv)
    args.tasks, args.starts, args.draws, args.at = 20, 4, 2048, AT
    args.sizes, args.budget = {}, {}
    if args.quick:
        args.tasks, args.starts, args.draws, args.at = 2, 2, 64, [1, 2]
        args.sizes, args.budget = {"features": 4, "rounds": 1}, {"steps": 2}
    return args


if __name__ == "__main__":
    main()
