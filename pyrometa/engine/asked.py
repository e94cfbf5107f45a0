"""What is computed of tasks side by side, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyrometa.engine.batch import BatchPath
from pyrometa.engine.plan import Plan
from pyrometa.engine.problem import PathFunction, Problem
from pyrometa.nest import Same
from pyrometa.types import TaskBatch


@dataclass(frozen=True)
class Asked:
    """What is computed of tasks side by side, and how.

    Attributes:
        problem: what to adapt, and how.
        batch: tasks of one shape.
        function: what is computed of their path.
        plan: how parameters are held.
    """

    problem: Problem
    batch: TaskBatch
    function: PathFunction
    plan: Plan

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """The leaves, which the program may read as inputs only."""
        return self.problem.leaves

    @property
    def fixed_in_parts(self) -> Any:
        """All that is fixed in a part, apart from the program's state; nor how many steps are taken, but for slots."""
        problem, plan = self.problem, self.plan
        leaves = tuple((name, leaf.requires_grad) for name, leaf in problem.leaves.items())
        learned = tuple((name, value.shape, value.requires_grad) for name, value in problem.learned.items())
        slots = problem.steps if plan.grows else None
        fixed = (self.function.order, Same(problem.rule), problem.adapted, self.held)
        return *fixed, leaves, learned, self.shapes, slots

    @property
    def held(self) -> Any:
        """How parameters are held: of two plans that differ in how they came about it may be the same."""
        return self.plan.low_rank, self.plan.support_calls, self.plan.dense, Same(self.plan.descent)

    @property
    def shapes(self) -> Any:
        """The shapes of all tensors of the tasks, and what else of them is fixed."""
        return len(self.batch), self.batch.layout, self.batch.counted is None

    def path_on(self, problem: Problem, batch: TaskBatch, *, in_slots: bool = False) -> BatchPath:
        """The path of other tensors, without a look at their values, so that it can be recorded."""
        function = self.function
        return BatchPath(problem, batch, function.order, self.plan, function.unrolled_steps, False, in_slots)
