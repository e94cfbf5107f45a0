"""Meta-batches of ever other sizes: what recording costs and gains from the first step on, and in adaptation.

Each engine trains on the same meta-batches, of 4, 8 or 16 tasks with 3 to 40 rows, in turns in one process. Then each
adapts many tasks of as many sizes, twice: the first time with all that has to be made.

python -m benchmarks.changing_shapes --json bench/changing_shapes.json
"""

import argparse
import random
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

import pyrometa as pm
from benchmarks.measure import one_core, table, write_json
from benchmarks.models import BayesianMLP

ENGINES = {
    "record=False": pm.Engine(record=False),
    "auto": pm.Engine(record="auto"),
    "recorded": pm.Engine(record=True),
}
TASKS, ROWS = (4, 8, 16), (3, 40)
MARKS = (20, 50, 100, 200, 500, 1000, 2000)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Time, print and write."""
    args = parse(argv)
    with one_core():
        steps = training(args.width, args.steps, several=args.several)
        adapted = {name: adapting(engine, args.width, args.adapted) for name, engine in ENGINES.items()}
    result = {
        "steps": args.steps,
        "several sizes in a meta-batch": args.several,
        "cumulative CPU seconds": {name: marked(seconds) for name, seconds in steps.items()},
        "CPU seconds a step in the end": {name: at_the_end(seconds) for name, seconds in steps.items()},
        "tasks adapted": args.adapted,
        "CPU seconds of adaptation": adapted,
    }
    write_json(args.json, result)
    print(report(result))
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/changing_shapes.json"), help="where the figures go")
    parser.add_argument("--steps", type=int, default=2000, help="meta-steps")
    parser.add_argument("--several", action="store_true", help="tasks of several sizes in each meta-batch")
    parser.add_argument("--adapted", type=int, default=10_000, help="tasks to adapt")
    parser.add_argument("--width", type=int, default=25, help="units of each of the network's layers")
    parser.add_argument("--quick", action="store_true", help="shows that it runs, times nothing of use")
    args = parser.parse_args(argv)
    if args.quick:
        args.steps, args.adapted, args.width = 6, 12, 2
    return args


def training(width: int, steps: int, *, several: bool) -> dict[str, list[float]]:
    """CPU seconds of each meta-step of each engine."""
    metas = {name: made(engine, width) for name, engine in ENGINES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in metas}
    sizes = random.Random(10)
    for _ in range(steps):
        count = sizes.choice(TASKS)
        rows = [sizes.randint(*ROWS) for _ in range(count)] if several else [sizes.randint(*ROWS)] * count
        given = [list(map(task, rows)) for _ in range(2)]
        support, query = given if several else [tuple(map(torch.stack, zip(*some, strict=True))) for some in given]
        for name, meta in metas.items():
            seconds[name].append(timed(lambda meta=meta, data=(support, query): meta.step(*data)))
    return seconds


def adapting(engine: pm.Engine, width: int, count: int) -> tuple[float, float]:
    """CPU seconds of the first and of the second adaptation of as many tasks."""
    meta, sizes = made(engine, width), random.Random(11)
    tasks = [task(sizes.randint(*ROWS)) for _ in range(count)]
    return timed(lambda: meta.adapt_many(tasks)), timed(lambda: meta.adapt_many(tasks))


def made(engine: pm.Engine, width: int) -> pm.MetaSVI:
    """A Bayesian network, as in workload B."""
    pyro.clear_param_store()
    torch.manual_seed(10)
    model = BayesianMLP(width, torch.float32)
    optim, inner = pyro.optim.Adam({"lr": 1e-3}), pm.SGD(1e-6)
    return pm.MetaSVI(model, model.guide(), optim, inner=inner, steps=5, reduction="mean", engine=engine)


def task(rows: int) -> tuple[Tensor, Tensor]:
    """Points of a sine."""
    x = 5 * torch.rand(rows, 1)
    return x, torch.sin(x[:, 0] + torch.rand(()))


def timed(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def marked(seconds: Sequence[float]) -> dict[int, float]:
    """What some numbers of steps took in all."""
    return {count: total for count, total in enumerate(accumulate(seconds), start=1) if count in MARKS}


def at_the_end(seconds: Sequence[float]) -> float:
    """The mean of the last half."""
    last = seconds[len(seconds) // 2 :]
    return sum(last) / len(last)


def report(result: Mapping[str, Any]) -> str:
    """The curves, and the adaptations."""
    curves = result["cumulative CPU seconds"]
    rows = [(str(mark), *(f"{curves[name][mark]:.1f}" for name in ENGINES)) for mark in curves["record=False"]]
    ends = ("a step in the end, ms", *(f"{1e3 * s:.1f}" for s in result["CPU seconds a step in the end"].values()))
    adapted = result["CPU seconds of adaptation"].values()
    calls = [(f"{result['tasks adapted']} adapted, {n}", *(f"{pair[i]:.1f}" for pair in adapted)) for i, n in TIMES]
    return table(("meta-steps", *ENGINES), [*rows, ends, *calls])


TIMES = ((0, "first"), (1, "again"))


if __name__ == "__main__":
    main()
