"""Meta-test at scale: guides fitted to many new tasks in one call, against loops over tasks.

Each contestant and number of tasks has a process of its own. Before, all agree on the adapted parameters.

python -m benchmarks.adapt --json bench/adapt.json
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import (
    cpu_seconds,
    in_own_process,
    one_core,
    peak_resident,
    recordings_of,
    resident,
    table,
    write_json,
)
from benchmarks.meta_step import built, check
from benchmarks.peers import NOISE, OURS
from benchmarks.peers.adapting import ADAPTING
from benchmarks.workloads import FixedNoise, Workload, workload

LOOPS = ("learn2learn loop", "plain SVI")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Check, time, print and write."""
    args = parse(argv)
    runs = []
    for kind in args.workload:
        work = workload(kind, 3).quick() if args.quick else workload(kind, 3)
        errors, absent = agreement(work)
        points: list[dict[str, Any]] = []
        runs.append({"workload": work.described(), "chunk_size": args.chunk, "absent": absent})
        runs[-1] |= {"relative_errors": errors, "points": points}
        for tasks in args.tasks:
            for name in errors:
                if name not in LOOPS or tasks <= args.longest_loop:
                    point = in_own_process(measure, name, replace(work, tasks=tasks), args.chunk, args.rounds)
                    points.append({"contestant": name, "tasks": tasks, **point})
                    write_json(args.json, {"runs": runs})
        print(report(runs[-1]), end="\n\n")
    return {"runs": runs}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/adapt.json"), help="where the figures go")
    parser.add_argument("--workload", nargs="+", choices=("A", "B", "C"), default=["A", "B"])
    parser.add_argument("--tasks", nargs="+", type=int, default=[1, 10, 100, 1000, 5000])
    parser.add_argument("--chunk", type=int, default=100, help="chunk_size of pyrometa's engine")
    parser.add_argument("--longest-loop", type=int, default=100, help="tasks up to which the loops are run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny networks: shows that it runs, times nothing of use")
    return parser.parse_args(argv)


def measure(name: str, work: Workload, chunk: int, rounds: int) -> dict[str, Any]:
    """CPU seconds of each call that adapts all tasks, and the resident MiB that a call adds at its peak.

    The first call, which plans and records, is apart.
    """
    with one_core():
        contestant = ADAPTING[name](work, chunk)
        first = cpu_seconds(lambda: contestant.adapt(work.tasks))
        rest = resident()
        peak = peak_resident(lambda: contestant.adapt(work.tasks))
        seconds = [cpu_seconds(lambda: contestant.adapt(work.tasks)) for _ in range(rounds)]
    return {
        "first": first,
        "recordings": recordings_of(contestant),
        "cpu_seconds": seconds,
        "median": statistics.median(seconds),
        "mib": peak - rest,
    }


def agreement(work: Workload) -> tuple[dict[str, float], dict[str, str]]:
    """The worst relative error of the adapted parameters against ours, in float64 on fixed noise; and who is absent.

    Raises:
        Disagreement: it is past the tolerance, or a parameter is missing.
    """
    exact = replace(work, dtype=torch.float64)
    contestants, absent = built(exact, {name: partial(build, chunk=work.tasks) for name, build in ADAPTING.items()})
    found = {}
    with one_core(), FixedNoise(NOISE):
        for name, contestant in contestants.items():
            found[name] = [contestant.parameters(guide) for guide in contestant.adapt(exact.tasks)]
    errors = {name: max(map(check, [name] * exact.tasks, guides, found[OURS])) for name, guides in found.items()}
    return errors, absent


def report(run: Mapping[str, Any]) -> str:
    """The table of one workload."""
    work = run["workload"]
    rows = []
    for point in run["points"]:
        each = 1e3 * point["median"] / point["tasks"]
        figures = (f"{point['median']:.3f}", f"{each:.2f}", f"{each / work['steps']:.2f}", f"{point['mib']:.0f}")
        rows.append((str(point["tasks"]), point["contestant"], *figures, "; ".join(point["recordings"])))
    title = f"Workload {work['kind']}: K = {work['steps']}, N = {work['rows']}, {run['chunk_size']} tasks at a time"
    head = ("tasks", "contestant", "CPU s", "ms a task", "ms a task and step", "MiB", "recording")
    return "\n".join([title, table(head, rows), *(f"{name}: {reason}" for name, reason in run["absent"].items())])


if __name__ == "__main__":
    main()
