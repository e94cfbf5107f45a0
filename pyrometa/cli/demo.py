"""``pyrometa demo``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import torch
import typer

from pyrometa.demo import Demo, DemoConfig, table

_NEEDED = ("matplotlib", "mlxtend")
_PAUSE = 15.0  # seconds between two lines, where they are not written over each other


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
    except KeyboardInterrupt:
        finished = ", ".join(map(str, run.written)) or "nothing yet"
        typer.echo(f"\ninterrupted during: {run.stage}; finished: {finished}", err=True)
        raise typer.Exit(130) from None
    finally:
        torch.set_num_threads(threads)
    typer.echo(f"\n{table(result)}\n")
    typer.echo("\n".join(map(str, run.written)))
    if quick:
        typer.echo("\nThese are the small counts of --quick: they show that it runs, not what comes out.")


def _shown(items: range, label: str) -> Iterable[int]:
    from tqdm import tqdm

    on_terminal = sys.stderr.isatty()
    file, pause = (sys.stderr, 0.1) if on_terminal else (_Lines(), _PAUSE)
    return tqdm(items, desc=f"{label:<30}", dynamic_ncols=on_terminal, mininterval=pause, file=file)


class _Lines:
    """The standard error, with a line for each state of the bar: a file shows no line that is written over."""

    def write(self, text: str) -> None:
        """Write it."""
        sys.stderr.write(text.replace("\r", "\n"))

    def flush(self) -> None:
        """Have it written."""
        sys.stderr.flush()
