"""When to record, and what to replay."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from pyrometa import nest
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.engine.batch import BatchPath, side_by_side
from pyrometa.engine.layouts import layout
from pyrometa.engine.plan import Plan
from pyrometa.engine.problem import Problem, Work
from pyrometa.engine.record import Recording, record
from pyrometa.engine.trial import agree
from pyrometa.errors import UnsupportedProgramError
from pyrometa.explain.reasons import told
from pyrometa.nest import Same
from pyrometa.recording.fingerprint import Fingerprint
from pyrometa.types import TaskBatch

_PATIENCE = 20
"""Runs without a change after which recording, which takes about a hundred of them, is worth while."""

_UNUSED = 3
"""Recordings in a row of which none was replayed, after which there is no point in another."""

_KEPT = 8
"""Recordings of a program that are kept: shapes, training and evaluation, meta-steps and scores."""


@dataclass
class Recorder:
    """The recordings of one program.

    Args:
        eager: record on first sight, and raise where that can't be done; else only what keeps coming, and where it can.
        compiled: compile what is recorded.
    """

    eager: bool
    compiled: bool
    recordings: OrderedDict[Any, Recording] = field(default_factory=OrderedDict)
    _seen: dict[Any, tuple[Fingerprint, int]] = field(default_factory=dict)
    _unused: dict[Any, list[Fingerprint]] = field(default_factory=dict)
    _refused: set[Any] = field(default_factory=set)
    _state: Fingerprint | None = None

    def recording(self, problem: Problem, batch: TaskBatch, work: Work, plan: Plan) -> Recording | None:
        """The recording to replay, made now if it is time for it; None to run the work as it is.

        Raises:
            UnsupportedProgramError: the program can't be recorded, and was to be.
        """
        static = _key(problem, batch, work, plan)
        if static in self._refused:
            return None
        try:
            return self._recording(static, problem, batch, work, plan)
        except UnsupportedProgramError as error:
            check_interrupt(error)
            if self.eager:
                raise
            self._refused.add(static)
            return None

    def _recording(self, static: Any, problem: Problem, batch: TaskBatch, work: Work, plan: Plan) -> Recording | None:
        state = self._state = problem.program.fingerprint(self._state, _given(batch))
        found = self.recordings.get((static, state))
        if found is not None:
            self.recordings.move_to_end((static, state))
            self._unused[static] = []
            return found
        if not (self.eager or self._keeps_coming(static, state)):
            return None
        self._check_use(static, state)
        made = _recorded(problem, batch, work, plan, state, compiled=self.compiled)
        self.recordings[static, state] = made
        self._unused.setdefault(static, []).append(state)
        if len(self.recordings) > _KEPT:
            self.recordings.popitem(last=False)
        return made

    def _check_use(self, static: Any, state: Fingerprint) -> None:
        """Refuse a program that is another at every run.

        Raises:
            UnsupportedProgramError: naming what differs.
        """
        unused = self._unused.get(static, [])
        if len(unused) == _UNUSED:
            raise UnsupportedProgramError(
                f"this program can't be recorded: {unused[-1].first_difference(state)} is another at every run; give "
                "what changes as an argument, or use Engine(record=False)"
            )

    def _keeps_coming(self, static: Any, state: Fingerprint) -> bool:
        last, count = self._seen.get(static, (state, 0))
        self._seen[static] = (state, count + 1 if last == state else 1)
        return self._seen[static][1] > _PATIENCE


def _recorded(
    problem: Problem, batch: TaskBatch, work: Work, plan: Plan, state: Fingerprint, *, compiled: bool
) -> Recording:
    """A recording that says what the work says.

    Raises:
        UnsupportedProgramError: with the reason why there is none.
    """
    with torch.random.fork_rng():
        before = torch.get_rng_state()
        expected = side_by_side(work, BatchPath(problem, batch, work.order, plan, work.unrolled_steps))
        draws_its_own = not torch.equal(before, torch.get_rng_state())
    changed = state.first_difference(problem.program.fingerprint(state, _given(batch)))
    if changed is not None:
        raise UnsupportedProgramError(
            f"this program can't be recorded: it changes {changed} as it runs; keep that outside, or use "
            "Engine(record=False)"
        )
    try:
        made = record(problem, batch, work, plan, compiled=compiled)
    except Exception as error:  # whatever torch or the program raises is the reason
        raise UnsupportedProgramError(
            f"this program can't be recorded: {told(problem.program, error)}; use Engine(record=False)", has_line=True
        ) from error
    if not (draws_its_own or _says(made, problem, batch, expected)):
        raise UnsupportedProgramError(
            "this program can't be recorded: replayed it gives other numbers; use Engine(record=False)"
        )
    return made


def _says(made: Recording, problem: Problem, batch: TaskBatch, expected: Any) -> bool:
    """Whether a replay gives what the work gives; a program that makes draws of its own is only run."""
    with torch.random.fork_rng():
        found = made.replay(problem, batch)
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return all(agree(f, e, double=1e-9, single=1e-3) for f, e in pairs)


def _given(batch: TaskBatch) -> dict[str, Any]:
    """The objects that the tasks hold besides tensors and constants: the same ones may be changed in place."""
    return {
        name: value
        for role, data in (("support", batch.support), ("query", batch.query))
        for name, value in (*nest.opaque(role, data.args), *nest.opaque(f"{role}.kwargs", data.kwargs))
    }


def _key(problem: Problem, batch: TaskBatch, work: Work, plan: Plan) -> Any:
    """All that a recording holds fast, apart from the program's state."""
    names = tuple((name, leaf.requires_grad) for name, leaf in (*problem.leaves.items(), *problem.learned.items()))
    return work, Same(problem.rule), Same(plan), problem.steps, problem.adapted, names, len(batch), layout(batch)
