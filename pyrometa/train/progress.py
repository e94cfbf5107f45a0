"""How far a run is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import Any

from pyrometa.train.reports import Report, say
from pyrometa.train.state import Record, State

LINES = 20
"""So many lines are written of a run at most."""


def progress(max_steps: int) -> Report:
    """What suits the standard error."""
    if sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None:
        return Bar(max_steps)
    return Lines(max_steps)


class Bar(Report):
    """One line, which tqdm keeps up to date.

    Args:
        max_steps: the run's last step.
    """

    def __init__(self, max_steps: int) -> None:
        self._max_steps, self._latest = max_steps, _Latest()
        self._bar: Any = None

    def begin(self, state: State) -> None:
        """Show where it begins."""
        from tqdm import tqdm

        self._latest.begin(state)
        self._bar = tqdm(total=self._max_steps, initial=state.step, desc="meta-training", unit="step")

    def stepped(self, state: State) -> None:
        """Show the step."""
        self._bar.update()

    def recorded(self, record: Record) -> None:
        """Show its numbers."""
        self._latest.take(record)
        self._bar.set_postfix_str(", ".join(self._latest.numbers()), refresh=False)

    def close(self) -> None:
        """Leave the line as it is."""
        if self._bar is not None:
            self._bar.close()


class Lines(Report):
    """A line now and then.

    Args:
        max_steps: the run's last step.
    """

    def __init__(self, max_steps: int) -> None:
        self._max_steps, self._every, self._latest = max_steps, -(-max_steps // LINES), _Latest()
        self._start, self._from = 0.0, 0

    def begin(self, state: State) -> None:
        """Note where it begins."""
        self._latest.begin(state)
        self._start, self._from = time.perf_counter(), state.step

    def recorded(self, record: Record) -> None:
        """Write its numbers, if a twentieth of the run has passed."""
        step = record["step"]
        self._latest.take(record)
        if self._latest.steps // self._every == step // self._every and step != self._max_steps:
            return
        self._latest.steps = step
        left = (time.perf_counter() - self._start) / (step - self._from) * (self._max_steps - step)
        say(", ".join([f"step {step}/{self._max_steps}", *self._latest.numbers(), f"{_duration(left)} left"]))


class _Latest:
    """The latest numbers, and the step of the validation where that is not the last one."""

    def __init__(self) -> None:
        self.steps = 0
        self._record: Record = {}
        self._validated = 0

    def begin(self, state: State) -> None:
        self.steps = state.step
        for record in state.history:
            self.take(record)

    def take(self, record: Record) -> None:
        self._record = {**self._record, **record}
        if "validation" in record:
            self._validated = record["step"]

    def numbers(self) -> list[str]:
        told = self._record
        parts = [f"{name} {told[name]:.4g}" for name in ("loss", "validation") if told.get(name) is not None]
        if told.get("validation") is not None and self._validated != told["step"]:
            parts[-1] += f" at {self._validated}"
        parts += [f"{told['tasks_per_second']:.4g} tasks/s"] if told.get("tasks_per_second") else []
        return parts + ([f"{told['skipped']} skipped"] if told.get("skipped") else [])


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{round(seconds) % 60:02d}"
