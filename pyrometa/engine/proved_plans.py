"""Which plan serves which tasks: made on first sight of a shape, proved in a trial, and kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.engine.fallback import fall_back, tell_of_dense
from pyrometa.engine.layouts import fewest, may_hide, problem_modes
from pyrometa.engine.options import Engine, is_recorded_now
from pyrometa.engine.plan import Plan, make_plan
from pyrometa.engine.problem import Problem
from pyrometa.engine.representatives import to_try
from pyrometa.engine.trial import UnprovedError, trial, trial_of_padding
from pyrometa.explain.reasons import told
from pyrometa.inner import GradientOrder
from pyrometa.types import TaskBatch
from pyrometa.types.latest import Latest

_KEPT = 512
"""How many plans are kept: ten kilobytes each, and a trial to make it anew."""


class ProvedPlans:
    """The plans of one program.

    Args:
        options: how tasks are run.

    Attributes:
        kept: for each kind of tasks the plan that was proved on them, or None where they are run one by one.
    """

    def __init__(self, options: Engine) -> None:
        self._options = options
        self.kept: Latest[Any, Plan | None] = Latest(_KEPT)
        self._reasons: Latest[Any, str] = Latest(_KEPT)
        self._warned = self._told_of_dense = False

    def plan(self, problem: Problem, tasks: TaskBatch, order: GradientOrder) -> Plan | None:
        """The plan for tasks of this shape, or None where they are run one by one, for good or for now."""
        try:
            return self.proved(problem, tasks, order)
        except UnprovedError:
            return None

    def proved(self, problem: Problem, tasks: TaskBatch, order: GradientOrder, *, warn: bool = True) -> Plan | None:
        """The plan for tasks of this shape, or None where they are run one by one for good.

        Args:
            problem: what to adapt, and how.
            tasks: those to run, or some of their shape.
            order: how much of the inner loop is differentiated through.
            warn: whether to say so when there is none.

        Raises:
            UnprovedError: these tasks prove nothing.
        """
        options = self._options
        if options.vectorize is False or (len(tasks) == 1 and not is_recorded_now(options)):
            return None
        key = _key(problem, tasks, order)
        if key not in self.kept:
            self.kept[key] = self._made(problem, tasks, order, warn=warn)
        return self.kept[key]

    def why_none(self, problem: Problem, tasks: TaskBatch, order: GradientOrder) -> str:
        """Why tasks are run one by one, where :meth:`plan` has none for them."""
        if self._options.vectorize is False:
            return "Engine(vectorize=False) runs tasks one by one"
        key = _key(problem, tasks, order)
        if key in self._reasons:
            return f"tasks can't be run side by side: {self._reasons[key]}"
        return "a single task is as quick by itself" if len(tasks) == 1 else "these tasks do not prove another way"

    def remade(self, problem: Problem, tasks: TaskBatch, order: GradientOrder) -> Plan | None:
        """A plan made anew in the place of one that fails, or None as from :meth:`plan`."""
        try:
            plan = self._made(problem, tasks, order)
        except UnprovedError:
            return None
        self.kept[_key(problem, tasks, order)] = plan
        return plan

    def give_up(self, problem: Problem, tasks: TaskBatch, order: GradientOrder, reason: str) -> None:
        """From now on run tasks of this shape one by one."""
        key = _key(problem, tasks, order)
        self.kept[key], self._reasons[key] = None, reason
        self._warned = True

    def _made(self, problem: Problem, tasks: TaskBatch, order: GradientOrder, *, warn: bool = True) -> Plan | None:
        """A plan that has passed its trial; None, with one warning a program, where none does."""
        refused = problem.program.refuses_batches()
        if refused:
            reason: str | None = told(problem.program, refused)
        else:
            plan, reason = self._tried(problem, tasks, order)
            if plan is not None:
                if reason and self._options.low_rank is True and not self._told_of_dense:
                    tell_of_dense(reason)
                    self._told_of_dense = True
                return plan
        self._reasons[_key(problem, tasks, order)] = str(reason)
        if warn and not self._warned:
            fall_back(self._options, str(reason), "run one by one")
        self._warned = True
        return None

    def _tried(self, problem: Problem, tasks: TaskBatch, order: GradientOrder) -> tuple[Plan | None, str | None]:
        """A plan that has passed its trial, with factors or else without, and the reason why one before it has not."""
        some, reason = to_try(tasks), None
        for low_rank in self._forms():
            try:
                plan = make_plan(problem, tasks, low_rank)
            except Exception as error:  # on padded tasks it may be the padding, which the program meets here first
                check_interrupt(error)
                if not tasks.unpadded:
                    raise
                return None, told(problem.program, error)
            failed = trial(problem, some, order, plan) or trial_of_padding(problem, tasks, some, order, plan)
            if failed is None:
                return (plan if reason is None else _without_factors(plan, reason)), reason
            reason = failed
            if not plan.low_rank:
                break
        return None, reason

    def _forms(self) -> tuple[Any, ...]:
        """Values of ``low_rank`` to try in turn."""
        forced = self._options.vectorize is True and self._options.low_rank is True
        return (True,) if forced else (self._options.low_rank, False)


def _without_factors(plan: Plan, reason: str) -> Plan:
    """A dense plan that tells why it is one."""
    return replace(plan, reasons=dict.fromkeys(plan.reasons, f"dense: in factors {reason}"))


def _key(problem: Problem, tasks: TaskBatch, order: GradientOrder) -> Any:
    """What has to agree for one plan to serve."""
    hidden = (may_hide(tasks), fewest(tasks), problem.program.zeros()) if tasks.unpadded else ()
    return tasks.layout, hidden, problem_modes(problem), order
