"""``pyrometa demo``."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT

import torch
import typer

from pyrometa.demo import Demo, DemoConfig, table
from pyrometa.train import Interrupted

_NEEDED = ("matplotlib", "mlxtend")
_LINES = 3  # of a stage, where they are not written over each other
_PAUSE = 15.0  # seconds between two of them


def run_demo(out: Path, quick: bool, seed: int) -> None:
    """Run the demo, and print its table."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ImportError(f'the demo needs {", ".join(missing)}: pip install "pyrometa[demo]"')
    run = Demo(DemoConfig.quick(seed) if quick else DemoConfig(seed), out, _shown)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these matrices are small: more threads gain little, and on a busy machine lose a lot
    try:
        result = run.run()
    except (KeyboardInterrupt, Interrupted) as interruption:
        finished = ", ".join(map(str, run.written)) or "nothing yet"
        typer.echo(f"\ninterrupted during: {run.stage}; finished: {finished}", err=True)
        signal = interruption.signal if isinstance(interruption, Interrupted) else SIGINT
        raise typer.Exit(128 + signal) from None
    finally:
        torch.set_num_threads(threads)
    typer.echo(f"\n{table(result)}\n")
    typer.echo("\n".join(map(str, run.written)))
    if quick:
        typer.echo("\nThese are the small counts of --quick: they show that it runs, not what comes out.")


def _shown(items: range, label: str) -> Iterable[int]:
    from tqdm import tqdm

    label = f"{label:<30}"
    if sys.stderr.isatty():
        return tqdm(items, desc=label, dynamic_ncols=True)
    rarely = {"miniters": -(-len(items) // _LINES), "mininterval": _PAUSE, "maxinterval": math.inf}
    return tqdm(items, desc=label, file=_Lines(), **rarely)


class _Lines:
    """The standard error, with a line for each state of the bar: a file shows no line that is written over."""

    def write(self, text: str) -> None:
        """Write it."""
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        """Have it written."""
        sys.stderr.flush()
