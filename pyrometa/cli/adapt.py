"""``pyrometa adapt``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from pyrometa.adapter import Adapter, Done, adapt_files
from pyrometa.cli.adapter_table import adapter_arguments
from pyrometa.cli.devices import on_device
from pyrometa.recipes import read, stored_run
from pyrometa.recipes.recipe import NAME

_LINES = 20


def adapt_by(run: Path, data: Sequence[str], out: Path, sets: Sequence[str], device: str | None) -> None:
    """Adapt every group of Parquet files by a run, and say how far that is."""
    found = stored_run(run)
    told = adapter_arguments(read(found.folder / NAME, sets))
    began = time.perf_counter()
    progress = _progress()
    try:
        with on_device(device):
            adapted = adapt_files(Adapter(found.checkpoint, **told), list(data), out, report=progress.report)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: the same command goes on from {out}.parts\n")
        raise typer.Exit(130) from None
    finally:
        progress.close()
    seconds = time.perf_counter() - began
    groups = adapted.groups + adapted.rejected
    rejected = f", {adapted.rejected} rejected: {adapted.rejected_out}" if adapted.rejected else ""
    rate = progress.groups / seconds
    typer.echo(f"{groups} groups ({rate:.0f} a second){rejected}; posteriors: {os.fspath(adapted.out)}")


class _Bar:
    """A line on a terminal, which tqdm keeps up to date."""

    def __init__(self) -> None:
        self.groups = 0
        self._first: Done | None = None
        self._bar: Any = None

    def report(self, done: Done, rows: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=rows, desc="adapting", unit="row", unit_scale=True)
        self._bar.set_postfix_str(f"{done.groups} groups, {done.rejected} rejected", refresh=False)
        self._bar.update(done.rows - self._bar.n)
        self.groups = done.groups

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Lines:
    """A line now and then."""

    def __init__(self) -> None:
        self.groups = 0
        self._told = 0

    def report(self, done: Done, rows: int) -> None:
        self.groups = done.groups
        if _LINES * done.rows // rows > self._told:
            self._told = _LINES * done.rows // rows
            part = f"{100 * done.rows // rows}%, {done.groups} groups, {done.rejected} rejected"
            sys.stderr.write(f"adapting: {part}\n")

    def close(self) -> None:
        sys.stderr.flush()


def _progress() -> _Bar | _Lines:
    return _Bar() if sys.stderr.isatty() else _Lines()
