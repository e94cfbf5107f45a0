"""Which algorithm: every one on three families of tasks, at the same number of meta-steps with five inner steps each.

python -m benchmarks.algorithms --json bench/algorithms.json
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import pyrometa as pm
from benchmarks.families import FAMILIES, Family
from benchmarks.measure import table, write_json
from benchmarks.recipes import ALGORITHMS
from benchmarks.tensors import PeakMemory
from benchmarks.training import interval, one_thread, query_losses, shown, train

STEPS = (0, 1, 5, 10)
INNER_STEPS = 5


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, score, print and write."""
    args = parse(argv)
    result: dict[str, Any] = {"inner_steps": INNER_STEPS, "seeds": args.seeds, "families": {}}
    with one_thread():
        for name in args.families:
            family = FAMILIES[name]()
            family = family.quick() if args.quick else family
            rows: dict[str, Any] = {}
            told = {"unit": family.unit, "iterations": family.iterations, "batch": family.batch}
            result["families"][name] = {**told, "tasks": len(family.test), "rows": rows}
            for algorithm in (one for one in args.algorithms if one not in family.without):
                rows[algorithm] = row(family, algorithm, args.seeds)
                write_json(args.json, result)
                print(name, algorithm, *(shown(one) for one in rows[algorithm]["loss"].values()), flush=True)
            print(report(name, result["families"][name]), end="\n\n", flush=True)
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/algorithms.json"), help="where the figures go")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    return parser.parse_args(argv)


def row(family: Family, algorithm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """An algorithm, trained once a seed; its losses are those of all seeds on the same unseen tasks."""
    losses, seconds = [], []
    for seed in seeds:
        torch.manual_seed(seed)
        meta = ALGORITHMS[algorithm](family.setting(), INNER_STEPS)
        if not family.record:
            meta.engine = pm.Engine()
        sampler = family.train(seed)
        seconds.append(train(meta, lambda s=sampler: s.sample(family.batch), family.iterations))
        losses.append(query_losses(meta, family.test, STEPS) - family.offset)
    with PeakMemory() as memory:
        meta.step(*sampler.sample(family.batch))
    return {
        "loss": {str(k): interval(one) for k, one in zip(STEPS, torch.cat(losses, dim=1), strict=True)},
        "milliseconds": 1e3 * sum(seconds) / len(seconds),
        "mebibytes": memory.peak / 2**20,
    }


def report(name: str, family: Mapping[str, Any]) -> str:
    """The table of one family."""
    rows = [
        (
            algorithm,
            *(shown(one) for one in row["loss"].values()),
            f"{row['milliseconds']:.1f}",
            f"{row['mebibytes']:.2g}",
        )
        for algorithm, row in family["rows"].items()
    ]
    title = f"{name}: {family['unit']} on {family['tasks']} unseen tasks, after {family['iterations']} meta-steps"
    head = ("algorithm", *(f"{k} steps" for k in STEPS), "ms a meta-step", "MiB of tensors")
    return f"{title}\n" + table(head, rows)


if __name__ == "__main__":
    main()
