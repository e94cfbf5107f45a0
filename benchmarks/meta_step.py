"""One meta-step against the peers, in one run, after all agree on loss and gradients.

python -m benchmarks.meta_step --json bench/meta_step.json
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import interleaved_processes, one_core, ratio, table, write_json
from benchmarks.peers import CONTESTANTS, OURS, Contestant, Unavailable
from benchmarks.workloads import Workload

TOLERANCE = 1e-9  # in float64: in float32 a ReLU at its kink may open in one contestant and not in another


class Disagreement(Exception):
    """A contestant computes something else: its time means nothing."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Check, time, print and write."""
    args = parse(argv)
    runs = []
    with one_core(), torch.random.fork_rng(devices=[]):
        for kind in args.workload:
            for tasks in args.batch if kind == "A" else args.batch[:1]:
                workload = Workload(kind, tasks=tasks)
                runs.append(run(workload.quick() if args.quick else workload, args.rounds))
                print(report(runs[-1]), end="\n\n")
                write_json(args.json, {"runs": runs})
    return {"runs": runs}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/meta_step.json"), help="where the figures go")
    parser.add_argument("--workload", nargs="+", choices=("A", "C"), default=["A", "C"])
    parser.add_argument("--batch", nargs="+", type=int, default=[16, 64], help="tasks; workload C runs the first only")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, times nothing of use")
    return parser.parse_args(argv)


def run(workload: Workload, rounds: int) -> dict[str, Any]:
    """Figures of one workload: errors against ours, and CPU seconds of each round."""
    exact, absent = built(replace(workload, dtype=torch.float64))
    errors = agreement(exact)
    del exact
    seconds = interleaved_processes({name: partial(step_of, name, workload) for name in errors}, rounds)
    return {
        "workload": workload.described(),
        "absent": absent,
        "relative_errors": errors,
        "cpu_seconds": seconds,
        "median": {name: statistics.median(times) for name, times in seconds.items()},
        "times_ours": {name: ratio(times, seconds[OURS]) for name, times in seconds.items()},
    }


def step_of(name: str, workload: Workload) -> Callable[[], None]:
    """The step of a contestant, built where it is called."""
    return CONTESTANTS[name](workload).step


def built(workload: Workload) -> tuple[dict[str, Contestant], dict[str, str]]:
    """The contestants, and why others are absent."""
    tried = {name: _built(build, workload) for name, build in CONTESTANTS.items()}
    absent = {name: str(reason) for name, reason in tried.items() if isinstance(reason, Unavailable)}
    return {name: one for name, one in tried.items() if not isinstance(one, Unavailable)}, absent


def _built(build: Callable[[Workload], Contestant], workload: Workload) -> Contestant | Unavailable:
    try:
        return build(workload)
    except Unavailable as reason:
        return reason


def agreement(contestants: Mapping[str, Contestant]) -> dict[str, float]:
    """The worst relative error of loss and gradients against ours, on zero noise.

    Returns:
        For each contestant, the largest of ``|a - b| / max |b|`` over the loss and all gradients.

    Raises:
        Disagreement: it is past the tolerance, or a gradient is missing.
    """
    expected_loss, expected = contestants[OURS].loss_and_grads()
    errors = {}
    for name, contestant in contestants.items():
        loss, grads = contestant.loss_and_grads()
        if grads.keys() != expected.keys():
            raise Disagreement(f"{name}: gradients of other parameters: {sorted(grads.keys() ^ expected.keys())}")
        parts = {"loss": abs(loss - expected_loss) / abs(expected_loss)}
        parts |= {key: ((grads[key] - g).abs().max() / g.abs().max()).item() for key, g in expected.items()}
        worst = max(parts, key=lambda key: parts[key] if parts[key] == parts[key] else float("inf"))
        if not parts[worst] <= TOLERANCE:
            raise Disagreement(f"{name}: {worst} differs from {OURS}'s by {parts[worst]:.1e} (relative)")
        errors[name] = parts[worst]
    return errors


def report(run: Mapping[str, Any]) -> str:
    """The table of one workload."""
    rows = []
    for name, times in run["cpu_seconds"].items():
        spread = f"{min(times):.3f} to {max(times):.3f}"
        figures = (f"{run['median'][name]:.3f}", spread, f"{run['times_ours'][name]:.2f}")
        rows.append((name, *figures, f"{run['relative_errors'][name]:.0e}"))
    rows += [(name, reason, "", "", "") for name, reason in run["absent"].items()]
    work = run["workload"]
    title = f"Workload {work['kind']}: B = {work['tasks']}, N = {work['rows']}, K = {work['steps']}"
    return f"{title}\n" + table(("contestant", "CPU s a step", "spread", "times ours", "error"), rows)


if __name__ == "__main__":
    main()
