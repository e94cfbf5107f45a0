"""Peak memory of one meta-step, over the resting process: each contestant in a process of its own.

python -m benchmarks.memory --json bench/memory.json
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure import one_core, table, write_json
from benchmarks.peers import CONTESTANTS, OURS, Unavailable
from benchmarks.workloads import Workload


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write; with ``--one``, be the process that is measured."""
    args = parse(argv)
    workload = Workload("A", tasks=args.batch)
    if args.quick:
        workload = workload.quick()
    if args.one:
        with one_core():
            measured = measure(args.one, workload)
        print(json.dumps(measured))
        return measured
    found = {name: in_own_process(name, args) for name in args.contestants}
    result = {"workload": workload.described(), "mib": found}
    print(report(result))
    write_json(args.json, result)
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/memory.json"), help="where the figures go")
    parser.add_argument("--batch", type=int, default=64, help="tasks")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def in_own_process(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """What a fresh interpreter measures."""
    command = [sys.executable, "-m", "benchmarks.memory", "--one", name, "--batch", str(args.batch)]
    command += ["--quick"] if args.quick else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, workload: Workload) -> dict[str, Any]:
    """Resident MiB at rest and at the peak of two steps, the first of which makes Adam's state.

    At rest everything is imported and built, and a step on two tasks has been done by another instance.
    """
    try:
        CONTESTANTS[name](replace(workload, tasks=2)).step()
        contestant = CONTESTANTS[name](workload)
    except Unavailable as reason:
        return {"absent": str(reason)}
    rest = _resident()
    for _ in range(2):
        contestant.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return {"rest": rest, "peak": peak, "step": peak - rest}


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1024**2


def report(result: dict[str, Any]) -> str:
    """The table."""
    base = result["mib"].get(OURS, {}).get("step")
    rows = []
    for name, mib in result["mib"].items():
        if "absent" in mib:
            rows.append((name, mib["absent"], "", "", ""))
        else:
            ratio = f"{mib['step'] / base:.2f}" if base else ""
            rows.append((name, f"{mib['rest']:.0f}", f"{mib['peak']:.0f}", f"{mib['step']:.0f}", ratio))
    title = f"Resident MiB, workload A, B = {result['workload']['tasks']}"
    return f"{title}\n" + table(("contestant", "at rest", "peak", "of the step", "times ours"), rows)


if __name__ == "__main__":
    main()
