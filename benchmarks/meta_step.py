"""One meta-step against the peers, in one run, after all agree on loss and gradients.

The ratios are to pyrometa with ``Engine(record=True)``; with ``record=False`` it is "pyrometa, not recorded".

python -m benchmarks.meta_step --json bench/meta_step.json
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import interleaved_processes, one_core, ratio, table, write_json
from benchmarks.peers import CONTESTANTS, GONE_OVER, OURS, Contestant, Unavailable
from benchmarks.workloads import Workload, workload

OWN_BATCH = {"B": 25, "C": 16}
TOLERANCE = 1e-9  # in float64: in float32 a ReLU at its kink may open in one contestant and not in another


class Disagreement(Exception):
    """A contestant computes something else: its time means nothing."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Check, time, print and write."""
    args = parse(argv)
    runs = []
    with one_core(), torch.random.fork_rng(devices=[]):
        for kind in args.workload:
            for tasks in args.batch if kind == "A" else [OWN_BATCH[kind]]:
                work = workload(kind, tasks)
                runs.append(run(work.quick() if args.quick else work, args.rounds, GONE_OVER if args.gone_over else {}))
                print(report(runs[-1]), end="\n\n")
                write_json(args.json, {"runs": runs})
    return {"runs": runs}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/meta_step.json"), help="where the figures go")
    parser.add_argument("--workload", nargs="+", choices=("A", "B", "C"), default=["A", "B", "C"])
    parser.add_argument("--batch", nargs="+", type=int, default=[16, 64], help="tasks of workload A; B has 25, C 16")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--gone-over", action="store_true", help="with the default engine when it runs compiled steps")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, times nothing of use")
    return parser.parse_args(argv)


def run(
    work: Workload, rounds: int, besides: Mapping[str, Callable[[Workload], Contestant]] = MappingProxyType({})
) -> dict[str, Any]:
    """Figures of one workload: errors against ours, and CPU seconds of each round.

    Args:
        work: the workload.
        rounds: how often each takes its turn.
        besides: contestants that are timed, but not compared in double precision, where they are the default engine.
    """
    exact, absent = built(replace(work, dtype=torch.float64))
    errors = agreement(exact)
    del exact
    builders = {**{name: CONTESTANTS[name] for name in errors}, **besides}
    timed = interleaved_processes({name: partial(build, work) for name, build in builders.items()}, rounds)
    seconds = {name: one.seconds for name, one in timed.items()}
    return {
        "workload": work.described(),
        "absent": absent,
        "relative_errors": errors,
        "first_step": {name: one.first for name, one in timed.items()},
        "recordings": {name: one.recordings for name, one in timed.items() if one.recordings},
        "cpu_seconds": seconds,
        "median": {name: statistics.median(times) for name, times in seconds.items()},
        "times_ours": {name: ratio(times, seconds[OURS]) for name, times in seconds.items()},
    }


def built(
    work: Workload, builders: Mapping[str, Callable[[Workload], Any]] = CONTESTANTS
) -> tuple[dict[str, Any], dict[str, str]]:
    """The contestants, and why others are absent."""
    tried = {name: _built(build, work) for name, build in builders.items()}
    absent = {name: str(reason) for name, reason in tried.items() if isinstance(reason, Unavailable)}
    return {name: one for name, one in tried.items() if not isinstance(one, Unavailable)}, absent


def _built(build: Callable[[Workload], Any], work: Workload) -> Any:
    try:
        return build(work)
    except Unavailable as reason:
        return reason


def agreement(contestants: Mapping[str, Contestant]) -> dict[str, float]:
    """The worst relative error of loss and gradients against ours, on fixed noise.

    Returns:
        For each contestant, the largest of ``|a - b| / max |b|`` over the loss and all gradients.

    Raises:
        Disagreement: a figure is past the tolerance, or a gradient is missing.
    """
    expected = _results(contestants[OURS])
    return {name: check(name, _results(contestant), expected) for name, contestant in contestants.items()}


def _results(contestant: Contestant) -> dict[str, Tensor]:
    loss, grads = contestant.loss_and_grads()
    return {"loss": torch.tensor(loss, dtype=torch.float64), **grads}


def check(name: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest of ``|a - b| / max |b|`` over what a contestant found and what ours did.

    Raises:
        Disagreement: it is past the tolerance, or something is missing.
    """
    if found.keys() != expected.keys():
        raise Disagreement(f"{name}: results of other names: {sorted(found.keys() ^ expected.keys())}")
    errors = {key: ((found[key] - b).abs().max() / b.abs().max()).item() for key, b in expected.items()}
    worst = max(errors, key=lambda key: errors[key] if errors[key] == errors[key] else float("inf"))
    if not errors[worst] <= TOLERANCE:
        raise Disagreement(f"{name}: {worst} differs from {OURS}'s by {errors[worst]:.1e} (relative)")
    return errors[worst]


def report(run: Mapping[str, Any]) -> str:
    """The table of one workload."""
    rows = []
    for name, times in run["cpu_seconds"].items():
        spread = f"{min(times):.3f} to {max(times):.3f}"
        figures = (f"{run['median'][name]:.3f}", spread, f"{run['times_ours'][name]:.2f}")
        error = run["relative_errors"].get(name)
        rows.append((name, *figures, f"{run['first_step'][name]:.1f}", "" if error is None else f"{error:.0e}"))
    rows += [(name, reason, "", "", "", "") for name, reason in run["absent"].items()]
    work = run["workload"]
    title = f"Workload {work['kind']}: B = {work['tasks']}, N = {work['rows']}, K = {work['steps']}; times pyrometa's"
    recorded = [f"{name}: {line}" for name, lines in run["recordings"].items() for line in lines]
    head = ("contestant", "CPU s a step", "spread", "ratio", "first step", "error")
    return "\n".join([f"{title}, which is Engine(record=True)", table(head, rows), *recorded])


if __name__ == "__main__":
    main()
