"""What a meta-step of `pm.Trainer` costs on one and on two processes, and a cost model that is held against both.

Of all steps the quickest counts: what disturbs two processes, and their waiting for each other, only adds to it.

python -m benchmarks.processes --json bench/processes.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import distributed

import pyrometa as pm
from benchmarks.measure import table, write_json
from benchmarks.workloads import workload

TASKS = (8, 16, 32, 64)
COUNTS = (1, 2)
WARM = 3
"""Steps that are not timed: they plan, and make Adam's state."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, fit, print and write."""
    args = parse(argv)
    if args.worker:
        return work(args)
    points: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for tasks in args.tasks:
            for count in COUNTS:
                points.setdefault(f"{tasks} {count}", []).append(launched(count, tasks, args))
    result = {"points": points, **fitted(points)}
    print(report(result))
    write_json(args.json, result)
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/processes.json"), help="where the figures go")
    parser.add_argument("--tasks", nargs="+", type=int, default=list(TASKS))
    parser.add_argument("--steps", type=int, default=40, help="meta-steps that are timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, times nothing of use")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def launched(count: int, tasks: int, args: argparse.Namespace) -> dict[str, float]:
    """What the first of some processes that torchrun starts, one thread each, says of its steps."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    worker = ["-m", "benchmarks.processes", "--worker", "--tasks", str(tasks), "--steps", str(args.steps)]
    command = [*torchrun, *worker, *(["--quick"] if args.quick else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def work(args: argparse.Namespace) -> dict[str, Any]:
    """One of the processes: its steps by `pm.Trainer`, and sums of as many numbers as there are parameters."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    given = workload("A", args.tasks[0])
    given = given.quick() if args.quick else given
    problem = given.build()
    optim, inner = pyro.optim.Adam({"lr": given.outer_lr}), pm.SGD(given.inner_lr)
    marks: list[float] = []
    trainer = pm.Trainer(
        max_steps=WARM + args.steps, progress=False, callbacks=[lambda _: marks.append(time.perf_counter())]
    )
    with pyro.validation_enabled(False):
        meta = pm.MetaSVI(problem.model, problem.guide, optim, inner=inner, steps=given.steps, reduction="mean")
        trainer.fit(meta, (problem.support, problem.query))
    parameters = sum(leaf.numel() for _, leaf in meta.named_parameters())
    steps = [after - before for before, after in zip(marks[WARM - 1 :], marks[WARM:], strict=False)]
    said = {"step": min(steps), "sum": seconds_of_a_sum(parameters), "parameters": parameters}
    if distributed.get_rank() == 0:
        print(json.dumps(said))
    distributed.destroy_process_group()
    return said


def seconds_of_a_sum(numbers: int, times: int = 25) -> float:
    """Seconds in which the processes sum up so many numbers."""
    values, seconds = torch.zeros(numbers), []
    for _ in range(times):
        distributed.barrier()
        began = time.perf_counter()
        distributed.all_reduce(values)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def fitted(points: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """The cost model: what a step costs besides tasks, what a task costs, by one process's points; what a sum costs."""
    steps, sums = ({key: min(p[what] for p in some) for key, some in points.items()} for what in ("step", "sum"))
    alone = {int(key.split()[0]): seconds for key, seconds in steps.items() if key.endswith(" 1")}
    task, besides = np.polyfit(list(alone), list(alone.values()), 1)
    together = statistics.median(seconds for key, seconds in sums.items() if key.endswith(" 2"))
    parameters = next(iter(points.values()))[0]["parameters"]
    return {"steps": steps, "parameters": parameters, "besides": besides, "task": task, "sum": together}


def modelled(model: Mapping[str, Any], tasks: int, count: int) -> float:
    """Seconds of a step on some processes; a ring sends 2 (P - 1) / P times the parameters, once for two processes."""
    return model["besides"] + model["task"] * -(-tasks // count) + model["sum"] * 2 * (count - 1) / count


def report(model: Mapping[str, Any]) -> str:
    """Seen and modelled, with the efficiency: the time of one process over that of P, and over P."""
    rows = []
    for key, seconds in model["steps"].items():
        tasks, count = map(int, key.split())
        efficiency = model["steps"][f"{tasks} 1"] / (count * seconds)
        cells = (1e3 * seconds, 1e3 * modelled(model, tasks, count))
        rows.append((str(tasks), str(count), *(f"{ms:.0f}" for ms in cells), f"{efficiency:.2f}"))
    parts = (f"{1e3 * model[name]:.1f} ms {what}" for name, what in PARTS.items())
    head = ("tasks", "processes", "ms a step", "model", "efficiency")
    return f"{table(head, rows)}\n\n{model['parameters']:,.0f} parameters: {', '.join(parts)}"


PARTS = {"besides": "besides tasks", "task": "a task", "sum": "a sum of the parameters over two processes"}


if __name__ == "__main__":
    main()
