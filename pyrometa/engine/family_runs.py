"""Tasks of changing sizes, replayed in the one shape that their family has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.engine.batch_function import BatchFunction
from pyrometa.engine.data_rows import NotPaddableError
from pyrometa.engine.families import Families, Family
from pyrometa.engine.options import Engine, may_be_recorded
from pyrometa.engine.padding import repeated
from pyrometa.engine.plan import Plan
from pyrometa.engine.problem import CountingFunction, PathFunction, Problem
from pyrometa.engine.proved_plans import ProvedPlans
from pyrometa.engine.sizes import Shape
from pyrometa.engine.trial import UnprovedError
from pyrometa.errors import UnsupportedProgramError
from pyrometa.inner import GradientOrder
from pyrometa.types import TaskBatch

Results = Sequence[tuple[tuple[int, ...], Any]]
"""Positions of some tasks in the meta-batch, and a function of them."""


class FamilyRuns:
    """Runs tasks by recordings that serve many sizes.

    Args:
        options: how tasks are run.
        plans: those that were proved.
        replayed: what a recording gives, made now if it is time for it; None without one.

    Attributes:
        families: what sizes have come.
    """

    def __init__(self, options: Engine, plans: ProvedPlans, replayed: Callable[[BatchFunction], Any]) -> None:
        self._options, self._plans, self._replayed = options, plans, replayed
        self.families = Families(options)

    def run(self, problem: Problem, groups: Sequence[TaskBatch], function: PathFunction) -> tuple[Results | None, bool]:
        """The function of all tasks, or None where they go as they are; and whether that may be recorded then."""
        if not groups or not may_be_recorded(self._options):
            return None, False
        family = self.families.family(problem, groups, function)
        if not family.seen.pads:
            return None, True
        try:
            padded = self.families.padded(problem, groups, function, family)
            return (None, True) if padded is None else (self._in_shape(problem, function, family, *padded), False)
        except UnprovedError:  # of these tasks, not of the program
            return None, True
        except UnsupportedProgramError as error:
            check_interrupt(error)
            family.seen.pads = False
            return None, True

    def settled(self, problem: Problem, groups: Sequence[TaskBatch], function: PathFunction) -> bool:
        """Whether tasks that have just been run go as they are again, and leave no other trace here than they have."""
        seen = self.families.family(problem, groups, function).seen
        return not seen.pads or not seen.changing_runs

    def _in_shape(
        self, problem: Problem, function: PathFunction, family: Family, batch: TaskBatch, shape: Shape
    ) -> Results | None:
        found = []
        for part, run in self._runs(problem, function, batch, shape):
            result = self._replayed(run)
            if result is None:
                return None
            own = function.of_first(result, len(part)) if isinstance(function, CountingFunction) else result
            found.append((part.index, own))
        if shape not in family.seen.recorded:
            family.seen.recorded.append(shape)
        return found

    def _runs(
        self, problem: Problem, function: PathFunction, batch: TaskBatch, shape: Shape
    ) -> Iterator[tuple[TaskBatch, BatchFunction]]:
        """The function of as many tasks at a time as there are in the shape, and those that count."""
        for part in batch.chunks(shape.tasks):
            plan = proved_padding(self._plans, problem, part, function.order)
            full = repeated(part, shape.tasks) if isinstance(function, CountingFunction) else part
            yield part, BatchFunction(problem, full, function, plan)


def proved_padding(plans: ProvedPlans, problem: Problem, batch: TaskBatch, order: GradientOrder) -> Plan:
    """The plan for padded tasks.

    Raises:
        NotPaddableError: there is none.
        UnprovedError: these tasks prove nothing.
    """
    plan = plans.proved(problem, batch, order, warn=False)
    if plan is None:
        raise NotPaddableError("rows that do not count change the loss, or vmap refuses it")
    return plan
