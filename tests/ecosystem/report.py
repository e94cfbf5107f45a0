"""Run every row, write ``docs/what-runs.md``, and exit non-zero if a row is not what it is to be.

``python tests/ecosystem/report.py [WORD ...]`` runs the rows that have one of the words, and writes nothing.
"""

import importlib
import os
import re
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyro
import torch
from measure import Result, measure

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "what-runs.md"
ROOMS = {
    "pyro_tutorials": "Pyro: examples and tutorials",
    "pyro_autoguides": "Pyro: autoguides",
    "pyro_elbos": "Pyro: ELBOs and reparameterisations",
    "pyro_gp": "pyro.contrib.gp",
    "pyro_contrib": "pyro.contrib: the rest",
    "gpytorch_models": "gpytorch",
    "chirho_worlds": "chirho",
    "scvi_lda": "scvi-tools",
    "tyxe_networks": "tyxe",
    "zuko_flows": "zuko",
}
PACKAGES = ("torch", "pyro-ppl", "gpytorch", "linear-operator", "zuko", "chirho", "scvi-tools", "tyxe")
HEAD = """# What runs

Programs that others wrote, as they stand in their packages, examples and tutorials, under `MetaSVI`: two inner steps
of SGD, second order, float64, tiny sizes. `make test-ecosystem` builds an environment of its own, runs them and writes
this page.

- *side by side*: the tasks of a meta-batch run in one vectorised pass; *loop*: one at a time, and the reason is given.
- *first order*: second order is refused by name, because a second derivative of the program is wrong or not there;
  `Unrolled(first_order=True)` is the cure, and what was run.
- *error*: the meta-gradient along a random direction against a central difference of the loss, noise pinned, relative;
  at first order without inner steps, where it is a slope. A draw without reparameterisation has none; draws that a
  package solves for to 1e-6 are compared over a wider step, to 5e-4.
"""


def main(words: list[str]) -> int:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    pyro.enable_validation(True)
    sections: dict[str, list[Result]] = {}
    for room, title in ROOMS.items():
        sections[title] = _run(room, words)
        if not words:
            _write(sections)
    results = [result for section in sections.values() for result in section]
    failing = [result for result in results if not result.passed]
    for result in failing:
        print(f"FAILED {result.row.name}: {result.row.outcome!r} expected, {_short(result)}", file=sys.stderr)
    print(f"{len(results)} programs, {len(failing)} not as expected")
    return 1 if failing else 0


def _run(room: str, words: list[str]) -> list[Result]:
    rows = importlib.import_module(room).ROWS
    results = []
    for row in rows:
        if words and not any(word in f"{room} {row.name}" for word in words):
            continue
        began = time.monotonic()
        results.append(measure(row))
        mark = "ok    " if results[-1].passed else "FAILED"
        print(f"{mark} {time.monotonic() - began:5.1f} s  {room}: {row.name}: {_short(results[-1])}", flush=True)
    return results


def _short(result: Result) -> str:
    error = "" if result.error is None else f", error {result.error:.0e}"
    return f"{result.outcome}{error}" + (f" ({result.why})" if result.why else "")


def _write(sections: dict[str, list[Result]]) -> None:
    parts = [HEAD, f"Versions: Python {sys.version.split()[0]}, {', '.join(_versions())}.\n"]
    for title, results in sections.items():
        parts += [f"## {title}\n", "| program | runs | error | why, and what to change |", "|---|---|---|---|"]
        parts += [_line(result) for result in results]
        parts.append("")
    held = TABLE.with_suffix(".md.new")
    held.write_text("\n".join(parts))
    os.replace(held, TABLE)


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package).split('+')[0]}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return found


def _line(result: Result) -> str:
    error = "" if result.error is None else f"{result.error:.0e}"
    outcome = result.outcome if result.passed else f"**{result.outcome}**, to be {result.row.outcome}"
    why = ". ".join(part for part in (_first_line(result.why), result.row.change) if part)
    return f"| {result.row.name} | {outcome} | {error} | {why} |"


def _first_line(text: str) -> str:
    line = re.sub(r" \([^()]*\.py:\d+[^()]*\)", "", " ".join(text.split()))  # where it is, which says nothing here
    line = line.replace(str(ROOT) + "/", "").replace("|", "\\|").replace("<", "&lt;")
    return line if len(line) <= 240 else line[:240].rsplit(" ", 1)[0] + " ..."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
