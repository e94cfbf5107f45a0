"""How many tasks are run."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.engine.batch import BatchPath, side_by_side
from pyrometa.engine.layouts import layout, modes
from pyrometa.engine.meta_test import FastWeights, Scores
from pyrometa.engine.other_padding import shown, to_try
from pyrometa.engine.padding import NotPaddableError, padded
from pyrometa.engine.plan import Plan, make_plan
from pyrometa.engine.problem import Problem, TaskPath, Work
from pyrometa.engine.record import Recording
from pyrometa.engine.recorder import Recorder
from pyrometa.engine.trial import UnprovedError, trial, trial_of_padding
from pyrometa.errors import LoopWarning, NonFiniteError, UnsupportedProgramError
from pyrometa.explain.reasons import told
from pyrometa.explain.source_lines import stacklevel
from pyrometa.inner import GradientOrder, all_finite
from pyrometa.program.program import Program
from pyrometa.types import Params, TaskBatch


@dataclass(frozen=True)
class Engine:
    """How tasks are run, never what comes out.

    Tasks of one shape are evaluated together by ``torch.func.vmap``, on the unchanged Pyro model and guide. Under
    SGD with one rate a layer, the fast weights of linear layers are held as factors: the tasks share the leaves'
    matrix products, and no task has a weight matrix of its own. On first sight of a shape two tasks are run both
    so and one by one, through Pyro's own ELBO; a program for which the two differ, or that vmap can't batch, is run
    one task at a time from then on.

    Args:
        vectorize: ``"auto"`` falls back to one task at a time, with one warning that says why; True raises instead,
            and with ``low_rank=True`` also where factors give other numbers; False runs one task at a time, the
            reference that the rest is tested against.
        low_rank: ``"auto"`` holds the fast weights of linear layers as factors where that pays, True wherever it is
            exact, False nowhere.
        chunk_size: tasks that are held in memory at a time; None for all. The result does not depend on it.
        record: True writes the tensor operations of a meta-step down on first sight of a shape, which takes seconds,
            and replays them from then on without Python; it is for small programs, where Python is what takes the time.
            A recording is replayed only while the program is what it was: its parameters, data and noise may
            change, but a change of a module's mode or attribute, of a closure or a global makes a new one. ``"auto"``
            records what has run unchanged for a while, and where it can.
        compile: record, and compile the recording by inductor, which takes minutes and a C++ compiler.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> Engine(chunk_size=64).chunk_size
        64
    """

    vectorize: bool | Literal["auto"] = "auto"
    low_rank: bool | Literal["auto"] = "auto"
    chunk_size: int | None = None
    record: bool | Literal["auto"] = False
    compile: bool = False
    _plans: WeakKeyDictionary[Program, dict[Any, Plan | None]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )
    _unpaddable: WeakKeyDictionary[Program, str] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )
    _recorders: WeakKeyDictionary[Program, Recorder] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name, value in (("vectorize", self.vectorize), ("low_rank", self.low_rank), ("record", self.record)):
            if value not in (True, False, "auto"):
                raise ValueError(f"{name} must be True, False or 'auto', got {value!r}")
        if self.chunk_size is not None and (not isinstance(self.chunk_size, int) or self.chunk_size < 1):
            raise ValueError(f"chunk_size must be a positive number of tasks or None, got {self.chunk_size!r}")
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile must be True or False, got {self.compile!r}")
        if self._records and self.vectorize is False:
            raise ValueError("tasks that are run one by one can't be recorded: drop vectorize=False, or record")

    def __reduce__(self) -> tuple[Any, ...]:
        """Options alone are pickled or copied: what is known of programs is of this process."""
        return type(self), (self.vectorize, self.low_rank, self.chunk_size, self.record, self.compile)

    def run(self, problem: Problem, tasks: Sequence[TaskBatch], work: Work) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Do some work on every task, some tasks at a time, so that a caller can add up and forget.

        Args:
            problem: what to adapt, and how.
            tasks: the meta-batch.
            work: what to do.

        Yields:
            The positions of some tasks in the meta-batch, and what the work made of them.
        """
        for group in self._batches(problem, tasks, work):
            for batch in group.chunks(self.chunk_size):
                plan = self._plan(problem, batch, work)
                if plan is None:
                    yield from _one_by_one(problem, batch, work)
                else:
                    yield from self._together(problem, batch, work, plan)

    def _batches(self, problem: Problem, tasks: Sequence[TaskBatch], work: Work) -> Sequence[TaskBatch]:
        """Tasks of different sizes padded to one shape, where that can be done; else size by size."""
        if len(tasks) == 1 or self.vectorize is False or problem.program in self._unpaddable:
            return tasks
        try:
            batches = padded(problem.program, tasks)
            plans = [len(batch) == 1 or self._proved_plan(problem, batch, work, warn=False) for batch in batches]
            if not all(plans):
                raise NotPaddableError("rows that do not count change the loss, or vmap refuses it")
        except UnprovedError:
            return tasks
        except NotPaddableError as error:
            check_interrupt(error)
            self._unpaddable[problem.program] = str(error)
            reason = told(problem.program, error)
            self._fall_back(f"tasks of different sizes can't be padded: {reason}", "run size by size")
            return tasks
        return batches

    def _fall_back(self, reason: str, instead: str) -> None:
        if self.vectorize is True or self.record is True or self.compile:
            raise UnsupportedProgramError(f"this program can't be vectorised over tasks: {reason}", has_line=True)
        message = f"tasks are {instead}, which is slower: {reason}; Engine(vectorize=False) says it is meant"
        warnings.warn(message, LoopWarning, stacklevel=stacklevel())

    def _together(
        self, problem: Problem, batch: TaskBatch, work: Work, plan: Plan
    ) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Do the work on tasks of one shape side by side, or one by one if the program is not what it was."""
        recording = self._recording(problem, batch, work, plan)
        if recording is not None:
            result = recording.replay(problem, batch)
            if all_finite(tree_leaves(result)):
                yield batch.index, result
                return
        try:
            yield batch.index, side_by_side(work, BatchPath(problem, batch, work.order, plan, work.unrolled_steps))
        except NonFiniteError as error:
            task = next(t for t in batch.tasks() if t.index == error.task)
            work(TaskPath(problem, task, work.order, work.unrolled_steps))  # says more
            raise
        except Exception as error:
            check_interrupt(error)
            yield from self._again(problem, batch, work)

    def _again(self, problem: Problem, batch: TaskBatch, work: Work) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Do the work by a plan made anew, or one by one if that fails too, as in the precision of the program."""
        plan = self._plan(problem, batch, work, anew=True)
        if plan is not None:
            try:
                result = side_by_side(work, BatchPath(problem, batch, work.order, plan, work.unrolled_steps))
            except Exception as error:
                check_interrupt(error)
                self._plans[problem.program][_key(problem, batch, work)] = None
                self._fall_back(told(problem.program, error), "run one by one")
            else:
                yield batch.index, result
                return
        yield from _one_by_one(problem, batch, work)

    def _recording(self, problem: Problem, batch: TaskBatch, work: Work, plan: Plan) -> Recording | None:
        if not self._records:
            return None
        recorders = self._recorders
        if problem.program not in recorders:
            recorders[problem.program] = Recorder(eager=self.record != "auto", compiled=self.compile)
        return recorders[problem.program].recording(problem, batch, work, plan)

    def recordings(self) -> list[str]:
        """What was recorded so far: the number of operations, and the seconds it took, one line a recording."""
        return [str(made) for recorder in self._recorders.values() for made in recorder.recordings.values()]

    @property
    def _records(self) -> bool:
        return bool(self.record or self.compile)

    def scores(self, problem: Problem, tasks: Sequence[TaskBatch], at: Collection[int]) -> Tensor:
        """Query losses of shape ``(len(at), tasks)`` after several numbers of inner steps."""
        losses: dict[int, Tensor] = {}
        for index, some in self.run(problem, tasks, Scores(tuple(at))):
            losses.update(zip(index, some.unbind(1), strict=True))
        return torch.stack([losses[i] for i in range(len(losses))], dim=1)

    def adapted(self, problem: Problem, tasks: Sequence[TaskBatch]) -> list[Params]:
        """Fast weights of each task after the last step, cut off from any graph."""
        found: dict[int, Params] = {}
        for index, fast in self.run(problem, tasks, FastWeights()):
            for row, i in enumerate(index):
                found[i] = {name: value[row] for name, value in fast.items()}
        return [found[i] for i in range(len(found))]

    def plan(self, problem: Problem, tasks: Sequence[TaskBatch]) -> dict[str, str]:
        """How each adapted parameter is held, and why: one line a parameter."""
        plan = self._plan(problem, tasks[0], FastWeights())
        return plan.reasons if plan else dict.fromkeys(problem.adapted, "dense: tasks are run one by one")

    def _plan(self, problem: Problem, tasks: TaskBatch, work: Work, *, anew: bool = False) -> Plan | None:
        """The plan for tasks of this shape, or None where they are run one by one, for good or for now."""
        try:
            return self._proved_plan(problem, tasks, work, anew=anew)
        except UnprovedError:
            return None

    def _proved_plan(
        self, problem: Problem, tasks: TaskBatch, work: Work, *, anew: bool = False, warn: bool = True
    ) -> Plan | None:
        """The plan for tasks of this shape, or None where they are run one by one.

        Raises:
            UnprovedError: these tasks prove nothing.
        """
        if self.vectorize is False or (len(tasks) == 1 and not self._records):
            return None
        plans = self._plans.setdefault(problem.program, {})
        key = _key(problem, tasks, work)
        if anew or key not in plans:
            plans[key] = self._make_plan(problem, tasks, work.order, warn=warn and None not in plans.values())
        return plans[key]

    def _make_plan(self, problem: Problem, tasks: TaskBatch, order: GradientOrder, *, warn: bool) -> Plan | None:
        refused = problem.program.refuses_batches()
        reason = told(problem.program, refused) if refused else None
        if reason is None:
            some = to_try(tasks)
            forced = self.vectorize is True and self.low_rank is True
            for low_rank in (True,) if forced else (self.low_rank, False):
                try:
                    plan = make_plan(problem, tasks, low_rank)
                except Exception as error:
                    check_interrupt(error)
                    if not tasks.unpadded:
                        raise
                    reason = told(problem.program, error)
                    break
                reason = trial(problem, some, order, plan)
                reason = reason or trial_of_padding(problem, tasks, some, order, plan)
                if reason is None:
                    return plan
                if not plan.low_rank:
                    break
        if warn:
            self._fall_back(str(reason), "run one by one")
        return None


def _key(problem: Problem, tasks: TaskBatch, work: Work) -> Any:
    """What has to agree for one plan to serve."""
    hidden = (shown(tasks), problem.program.zeros()) if tasks.unpadded else ()
    return layout(tasks), hidden, modes(problem), work.order


def _one_by_one(problem: Problem, batch: TaskBatch, work: Work) -> Iterator[tuple[tuple[int, ...], Any]]:
    for task in batch.tasks():
        yield (task.index,), work(TaskPath(problem, task, work.order, work.unrolled_steps))
