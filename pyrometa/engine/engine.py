"""How many tasks are run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pyrometa.engine.batch import BatchPath
from pyrometa.engine.plan import Plan, make_plan
from pyrometa.engine.problem import Problem, Run, TaskPath
from pyrometa.engine.trial import trial
from pyrometa.errors import LoopWarning, NonFiniteError, UnsupportedProgramError
from pyrometa.functional import Program
from pyrometa.inner import Order, adapt
from pyrometa.types import Params, TaskData

Result = TypeVar("Result")


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

    Raises:
        ValueError: an option out of range.

    Example:
        >>> Engine(chunk_size=64).chunk_size
        64
    """

    vectorize: bool | Literal["auto"] = "auto"
    low_rank: bool | Literal["auto"] = "auto"
    chunk_size: int | None = None
    _plans: WeakKeyDictionary[Program, dict[Any, Plan | None]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name, value in (("vectorize", self.vectorize), ("low_rank", self.low_rank)):
            if value not in (True, False, "auto"):
                raise ValueError(f"{name} must be True, False or 'auto', got {value!r}")
        if self.chunk_size is not None and (not isinstance(self.chunk_size, int) or self.chunk_size < 1):
            raise ValueError(f"chunk_size must be a positive number of tasks or None, got {self.chunk_size!r}")

    def scores(
        self, problem: Problem, tasks: Sequence[TaskData], at: Collection[int], order: Order
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Query losses, some tasks at a time, so that a caller can differentiate and forget each chunk.

        Args:
            problem: what to adapt, and how.
            tasks: the meta-batch.
            at: inner steps after which to score.
            order: how much of the inner loop the scores can be differentiated through.

        Yields:
            The positions of some tasks in ``tasks``, and their losses of shape ``(len(at), positions)``.
        """
        yield from self._run(problem, tasks, order, lambda run: _scored(run, at, order))

    def adapted(self, problem: Problem, tasks: Sequence[TaskData]) -> list[Params]:
        """Fast weights of each task after the last step, cut off from any graph."""
        found: dict[int, Params] = {}
        for positions, fast in self._run(problem, tasks, Order.NONE, lambda run: _adapted(run, problem.steps)):
            found.update(zip(positions, fast, strict=True))
        return [found[i] for i in range(len(tasks))]

    def plan(self, problem: Problem, tasks: Sequence[TaskData]) -> dict[str, str]:
        """How each adapted parameter is held, and why: one line a parameter."""
        plan = self._plan(problem, tasks, Order.NONE)
        return plan.reasons if plan else dict.fromkeys(problem.adapted, "dense: tasks are run one by one")

    def _run(
        self, problem: Problem, tasks: Sequence[TaskData], order: Order, work: Callable[[Run], Result]
    ) -> Iterator[tuple[list[int], Result]]:
        """Do some work on each task: on those of one shape together where that can be done, else one by one."""
        for positions in _alike(tasks, self.chunk_size):
            group = [tasks[i] for i in positions]
            plan = self._plan(problem, group, order)
            if plan is not None:
                try:
                    result = work(BatchPath(problem, group, order, plan))
                except NonFiniteError as error:
                    work(TaskPath(problem, next(t for t in group if t.index == error.task), order))  # says more
                    raise
                except Exception:  # the program is not what it was when the plan was made
                    plan = self._plan(problem, group, order, anew=True)
                    if plan is not None:
                        result = work(BatchPath(problem, group, order, plan))
            if plan is not None:
                yield positions, result
            else:
                yield from (([i], work(TaskPath(problem, tasks[i], order))) for i in positions)

    def _plan(self, problem: Problem, tasks: Sequence[TaskData], order: Order, *, anew: bool = False) -> Plan | None:
        """The plan for tasks of this shape, or None where they are run one by one."""
        if len(tasks) == 1 or self.vectorize is False:
            return None
        plans = self._plans.setdefault(problem.program, {})
        key = (_shape(tasks[0]), tuple(problem.adapted), problem.steps, order)
        if anew or key not in plans:
            plans[key] = self._make_plan(problem, tasks, order, warn=None not in plans.values())
        return plans[key]

    def _make_plan(self, problem: Problem, tasks: Sequence[TaskData], order: Order, *, warn: bool) -> Plan | None:
        reason = problem.program.refuses_batches()
        if reason is None:
            forced = self.vectorize is True and self.low_rank is True
            for low_rank in (True,) if forced else (self.low_rank, False):
                plan = make_plan(problem, tasks[0], len(tasks), low_rank)
                reason = trial(problem, tasks[:2], order, plan)
                if reason is None:
                    return plan
                if not plan.low_rank:
                    break
        if self.vectorize is True:
            raise UnsupportedProgramError(f"this program can't be vectorised over tasks: {reason}")
        if warn:
            message = f"tasks are run one by one, which is slower: {reason}; Engine(vectorize=False) says it is meant"
            warnings.warn(message, LoopWarning, stacklevel=2)
        return None


def _scored(run: Run, at: Collection[int], order: Order) -> Tensor:
    points = enumerate(adapt(run, max(at), order))
    scored = {step: run.score(point) for step, point in points if step in at}
    return torch.stack([scored[step] for step in at])


def _adapted(run: Run, steps: int) -> list[Params]:
    for last in adapt(run, steps, Order.NONE):
        point = last
    return [{name: value.detach() for name, value in fast.items()} for fast in run.fast_weights(point)]


def _alike(tasks: Sequence[TaskData], chunk_size: int | None) -> Iterator[list[int]]:
    """Positions of tasks of one shape, at most ``chunk_size`` at a time."""
    groups: dict[Any, list[int]] = {}
    for position, task in enumerate(tasks):
        groups.setdefault(_shape(task), []).append(position)
    for positions in groups.values():
        size = chunk_size or len(positions)
        for start in range(0, len(positions), size):
            yield positions[start : start + size]


def _shape(task: TaskData) -> Any:
    """All that has to agree for tasks to be stacked."""
    values = (*task.support.args, *task.query.args, *task.support_noise, *task.query_noise)
    return tuple((tuple(v.shape), v.dtype, v.device) if isinstance(v, Tensor) else id(v) for v in values)
