"""A run: what it consists of, how it is saved, and how it goes on from there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from pyrometa.errors import CheckpointError
from pyrometa.metasvi import MetaSVI
from pyrometa.processes import Processes
from pyrometa.saving.structure import taken_apart
from pyrometa.train.folder import Folder, Found
from pyrometa.train.group import of_first
from pyrometa.train.interrupts import Signals
from pyrometa.train.options import Options
from pyrometa.train.pairs import Pair
from pyrometa.train.reports import Reports
from pyrometa.train.schedule import scheduler
from pyrometa.train.seeded import own_generators, set_own_generators
from pyrometa.train.sources import Source
from pyrometa.train.state import State
from pyrometa.train.stateful import has_state, state_of
from pyrometa.train.validation import MetaBatches


@dataclass
class Run:
    """All that a meta-step and what follows it need.

    Attributes:
        options: how it runs.
        meta: what learns.
        source: gives meta-batches.
        validation: what is validated on; None for nothing.
        processes: those that share the run.
        signals: what asks it to stop.
        folder: where process 0 writes it; None if it is not written.
        reports: what it is shown by.
        scheduler: the torch scheduler; None without one.
        state: where it stands.
        first: the meta-batch of its first step and where all stood before it was drawn, as long as that is not taken.
        saved: the step of the last checkpoint in the folder; None before the first.
        turned_back: whether the folder still holds later checkpoints than the one it goes on from.
        best_is_here: whether the folder holds this run's checkpoint of the lowest validation loss.
        stop: whether a callback has asked to stop.
        clock: when its seconds were last counted.
    """

    options: Options
    meta: MetaSVI
    source: Source
    validation: MetaBatches | None
    processes: Processes
    signals: Signals
    folder: Folder | None
    reports: Reports
    scheduler: Any = None
    state: State = field(default_factory=State)
    first: tuple[Pair, Mapping[str, Any]] | None = None
    saved: int | None = None
    turned_back: bool = False
    best_is_here: bool = False
    stop: bool = False
    clock: float = field(default_factory=time.perf_counter)

    def count_seconds(self) -> None:
        """Count the seconds that have passed."""
        now = time.perf_counter()
        self.state.seconds += now - self.clock
        self.clock = now

    def position(self) -> Mapping[str, Any]:
        """Where the random generators and the source of meta-batches stand."""
        if self.first is not None:
            return self.first[1]
        return {"generators": own_generators(), "source": self.source.state_dict()}

    def next_batch(self) -> Pair:
        """The meta-batch of the next step."""
        if self.first is None:
            return self.source.draw(self.state.step)
        (batch, _), self.first = self.first, None
        return batch

    def runs(self) -> Any:
        """How often what was run here, which decides when this process runs it another way."""
        return self.meta.checkpoint()["runs"]

    def state_dict(self, position: Mapping[str, Any]) -> dict[str, Any]:
        """What a checkpoint holds: the state of ``meta``, and that of the run besides."""
        run = {
            "state": self.state.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "callbacks": list(map(state_of, self.options.callbacks)),
            **position,
        }
        return {**self.meta.checkpoint(), "run": run}


def begin(run: Run, found: Found | None) -> None:
    """Find the parameters on a first meta-batch, as a new run does; then go on from a checkpoint, if there is one.

    Process 0's state, or the checkpoint that it has found, becomes that of all.

    Raises:
        CheckpointError: the checkpoint does not suit.
        TypeError: the scheduler, a callback or the source has a state that no checkpoint holds.
    """
    with run.processes.all_or_none():
        start = run.position()
        first = run.source.draw(0)
        run.first = first, start
        run.meta.init(first[0])
        run.scheduler = scheduler(run.options.schedule, run.meta.optimizer)
    saved = of_first(run.processes, None if found is None else dict(found.state))
    if saved is not None:
        _go_on(run, saved)
        best_is_here = turned_back = here = False
        if found is not None and run.folder is not None:
            best_is_here = run.folder.holds_best(run.state)
            turned_back = bool(run.folder.after(run.state.step))
            here = found.path == run.folder.path(run.state.step)
        run.best_is_here, run.turned_back = of_first(run.processes, (best_is_here, turned_back))
        if here and not run.turned_back:
            run.saved = run.state.step
    elif run.processes.count > 1:
        run.meta.load_state_dict(of_first(run.processes, run.meta.state_dict()))
    if run.folder is not None:
        taken_apart(run.state_dict(run.position()))
    run.clock = time.perf_counter()


def _go_on(run: Run, saved: Mapping[str, Any]) -> None:
    told = saved["run"]
    learned = {part: value for part, value in saved.items() if part != "run"}
    runs = told.get("runs", [])  # of each process, unless the file is of an earlier version
    if len(runs) == run.processes.count:
        learned["runs"] = runs[run.processes.rank]
    run.meta.load_state_dict(learned)
    run.state, run.first = State(**told["state"]), None
    for name, part, state in (("schedule", run.scheduler, told["scheduler"]), *_callbacks(run, told["callbacks"])):
        if (part is None) != (state is None):
            had = "without" if state is None else "with"
            raise CheckpointError(f"the checkpoint was written {had} {name}: resume it alike")
        if part is not None:
            part.load_state_dict(state)
    run.source.load_state_dict(told["source"])
    set_own_generators(told["generators"])


def _callbacks(run: Run, states: Sequence[Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, callback with a state and its state; None for those without one."""
    callbacks = [callback if has_state(callback) else None for callback in run.options.callbacks]
    for i, (callback, state) in enumerate(zip_longest(callbacks, states)):
        yield f"a state of callbacks[{i}]", callback, state
