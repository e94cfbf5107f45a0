"""Peak memory of one meta-step, over the resting process: each contestant in a process of its own.

python -m benchmarks.memory --json bench/memory.json
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure import in_own_process, one_core, peak_resident, resident, table, write_json
from benchmarks.peers import CONTESTANTS, OURS, Unavailable
from benchmarks.workloads import Workload, workload


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    args = parse(argv)
    work = workload("A", args.batch)
    if args.quick:
        work = work.quick()
    found = {name: in_own_process(measure, name, work) for name in args.contestants}
    result = {"workload": work.described(), "mib": found}
    print(report(result))
    write_json(args.json, result)
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/memory.json"), help="where the figures go")
    parser.add_argument("--batch", type=int, default=64, help="tasks")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    return parser.parse_args(argv)


def measure(name: str, work: Workload) -> dict[str, Any]:
    """Resident MiB at rest, and at the peaks of the first step and of the second.

    At rest everything is imported and built, and a step on two tasks has been done by another instance. The first step
    records or compiles, and makes Adam's state.
    """
    with one_core():
        try:
            CONTESTANTS[name](replace(work, tasks=2)).step()
            contestant = CONTESTANTS[name](work)
        except Unavailable as reason:
            return {"absent": str(reason)}
        rest = resident()
        first, peak = peak_resident(contestant.step), peak_resident(contestant.step)
    return {"rest": rest, "peak": peak, "step": peak - rest, "first_step": first - rest}


def report(result: dict[str, Any]) -> str:
    """The table."""
    base = result["mib"].get(OURS, {}).get("step")
    rows = []
    for name, mib in result["mib"].items():
        if "absent" in mib:
            rows.append((name, mib["absent"], "", "", "", ""))
        else:
            ratio = f"{mib['step'] / base:.2f}" if base else ""
            figures = (f"{mib[part]:.0f}" for part in ("rest", "peak", "step"))
            rows.append((name, *figures, ratio, f"{mib['first_step']:.0f}"))
    title = (
        f"Resident MiB, workload A, B = {result['workload']['tasks']}; times pyrometa's, which is Engine(record=True)"
    )
    return f"{title}\n" + table(("contestant", "at rest", "peak", "of a step", "ratio", "of the first step"), rows)


if __name__ == "__main__":
    main()
