"""What a run is shown by: lines of JSON, TensorBoard, and how far it is."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrometa.saving.whole_files import write_whole
from pyrometa.train.state import Record, State


class Report:
    """Something that shows a run; what it does not heed it leaves out."""

    def begin(self, state: State) -> None:
        """The run begins, or goes on from here."""

    def stepped(self, state: State) -> None:
        """A meta-step was taken."""

    def recorded(self, record: Record) -> None:
        """A record was added."""

    def saved(self, last: bool) -> None:
        """A checkpoint was due; it is the last of this process, or not."""

    def close(self) -> None:
        """The run has ended."""


@dataclass(frozen=True)
class Reports:
    """Several reports as one.

    Attributes:
        all: each of them.
    """

    all: Sequence[Report] = ()

    def begin(self, state: State) -> None:
        """The run begins, or goes on from here."""
        for report in self.all:
            report.begin(state)

    def stepped(self, state: State) -> None:
        """A meta-step was taken."""
        for report in self.all:
            report.stepped(state)

    def recorded(self, record: Record) -> None:
        """A record was added."""
        for report in self.all:
            report.recorded(record)

    def saved(self, last: bool) -> None:
        """A checkpoint was due; it is the last of this process, or not."""
        for report in self.all:
            report.saved(last)

    def close(self) -> None:
        """The run has ended."""
        for report in self.all:
            report.close()


class JsonLines(Report):
    """A line of JSON a record; those of steps after a checkpoint are gone when the run goes on from it.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def begin(self, state: State) -> None:
        """Write what was recorded up to here."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, "".join(map(_line, state.history)).encode())
        self._file = self._path.open("a", encoding="utf-8")

    def recorded(self, record: Record) -> None:
        """Write it, to be read at once."""
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


class TensorBoard(Report):
    """TensorBoard's events, of which those after a checkpoint are hidden when the run goes on from it.

    Args:
        folder: where they are written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def begin(self, state: State) -> None:
        """Open the events file."""
        with warnings.catch_warnings():  # its imports change the filters
            from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter(str(self._folder), purge_step=state.step + 1)

    def recorded(self, record: Record) -> None:
        """Write its numbers."""
        for name in ("loss", "validation", "tasks_per_second", "skipped"):
            if record.get(name) is not None:
                self._writer.add_scalar(name, record[name], record["step"])
        for steps, loss in enumerate(record.get("adaptation") or ()):
            self._writer.add_scalar(f"adaptation/{steps}", loss, record["step"])

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()


def say(line: str) -> None:
    """A line to whoever has started the run."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
