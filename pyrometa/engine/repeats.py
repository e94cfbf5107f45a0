"""A run that is the last one again but for its numbers, so that nothing has to be decided anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pyrometa.engine.batch_function import BatchFunction
from pyrometa.engine.family_runs import FamilyRuns
from pyrometa.recording.recordings import Recordings
from pyrometa.types import Data, TaskBatch

Made = TypeVar("Made")


class Repeats:
    """Remembers a run that was one replay of all tasks as they were given, as long as it was the last one.

    Args:
        recordings: those that are replayed.
        families: what sizes of tasks have come.

    Attributes:
        last: the last run, without its tensors, if it was such a one and its fingerprint tells the program's modes.
        besides: what else is known of it.
    """

    def __init__(self, recordings: Recordings, families: FamilyRuns) -> None:
        self._recordings, self._families = recordings, families
        self.last: BatchFunction | None = None
        self.besides: Any = None

    def forget(self) -> None:
        """Another run begins, after which things may be other than before."""
        self.last = self.besides = None

    def note(self, run: BatchFunction) -> None:
        """Remember a replay for now."""
        self.last = run

    def check(self, groups: Sequence[TaskBatch]) -> None:
        """Keep it in mind if it was all that was asked for, and the next run of such tasks will be no other."""
        run, state = self.last, self._recordings.last_state
        self.forget()
        if run is None or state is None or len(groups) > 1 or run.batch is not groups[0]:
            return
        if state.watches(run.problem.program.modules()) and self._families.settled(run.problem, groups, run.function):
            self.last = run.on_tasks(TaskBatch(run.batch.index, Data(()), Data(()), (), ()))

    def replayed(self, run: BatchFunction, of_result: Callable[[Any], Made | None]) -> Made | None:
        """What is made of a replay of the last run's recording on other tasks.

        Args:
            run: the last run on these tasks.
            of_result: what is made of a result, whatever its numbers; None where that is of no use.

        Returns:
            It; None also where none is to be replayed. Then the run was not counted.
        """
        recording = self._recordings.again(run)
        if recording is None:
            return None
        started = time.perf_counter()
        result = recording.of(run)
        seconds = time.perf_counter() - started
        made = of_result(result)
        if made is not None:
            self._recordings.repeated(run, recording, seconds)
        return made
