"""Tasks that diverge, set apart from those beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyrometa.engine.at_meta_test import FastWeights
from pyrometa.engine.batch import BatchPath
from pyrometa.engine.loop import TaskPath
from pyrometa.engine.plan import Plan
from pyrometa.engine.problem import Problem
from pyrometa.engine.proved_plans import ProvedPlans
from pyrometa.engine.trial import UnprovedError
from pyrometa.errors import NonFiniteError
from pyrometa.inner import GradientOrder, adapt, all_finite, bad_rows, not_finite
from pyrometa.types import Params, TaskBatch

_GOLDEN = 0.6180339887
_TRIES = 64


@dataclass(frozen=True)
class FastWeightsApart:
    """Fast weights as :class:`FastWeights`; of a task that diverges the leaves, so that nothing fails by it later.

    Attributes:
        diverged: takes why each task does, in the words of a run of it alone, by position in the meta-batch.
    """

    diverged: dict[int, str]
    order = GradientOrder.NONE
    unrolled_steps = None

    def __call__(self, path: BatchPath) -> Params:
        """Adapt."""
        for point in adapt(path, path.problem.steps, self._note):
            end = point
        bad = torch.tensor([i in self.diverged for i in path.tasks])
        leaves = path.problem.leaves
        return {
            name: torch.where(bad.to(value.device).view(-1, *(1,) * leaves[name].dim()), leaves[name], value).detach()
            for name, value in path.fast_weights(end).items()
        }

    def _note(self, losses: Tensor, grads: Params, path: BatchPath, step: int, what: str) -> None:
        """Say of each task whose loss or gradients are not finite why, the first time."""
        if all_finite([losses, *grads.values()]):
            return
        count = len(path.tasks)
        bad = {name: bad_rows(grad, count).tolist() for name, grad in _by_parameter(path, grads)}
        of_each = zip(path.tasks, losses.tolist(), bad_rows(losses, count).tolist(), strict=True)
        for row, (i, loss, bad_loss) in enumerate(of_each):
            name = next((name for name in path.problem.adapted if name in bad and bad[name][row]), None)
            if i not in self.diverged and (name or bad_loss):
                said = f"{what} {name!r}" if name else "the support loss"
                self.diverged[i] = str(not_finite(0, step, said, loss, path.rule, name))


def plan_of_good(plans: ProvedPlans, problem: Problem, batch: TaskBatch) -> Plan | None:
    """The plan for tasks of which some diverge, proved on two that do not; None if these are not soon found."""
    order = FastWeightsApart.order
    rows = sorted(range(len(batch)), key=lambda row: row * _GOLDEN % 1)  # from everywhere: the first may all be bad
    for _ in range(_TRIES):
        if len(rows) < 2:
            break
        try:
            return plans.proved(problem, batch.chosen(rows[:2]), order)
        except NonFiniteError as error:
            rows = [row for row in rows if batch.index[row] != error.task]
        except UnprovedError:
            rows = rows[2:]
    return None


def one_by_one_apart(problem: Problem, batch: TaskBatch, diverged: dict[int, str]) -> Params:
    """What :class:`FastWeightsApart` gives, one task after the other."""
    function, found = FastWeights(), []
    for task in batch.tasks():
        try:
            found.append(function(TaskPath(problem, replace(task, index=0), function.order)))
        except NonFiniteError as error:
            diverged[task.index] = str(error)
            found.append({name: problem.leaves[name].detach()[None] for name in problem.adapted})
    return {name: torch.cat([fast[name] for fast in found]) for name in found[0]}


def _by_parameter(path: BatchPath, grads: Params) -> Iterator[tuple[str, Tensor]]:
    """Gradients by the names of single parameters; a factored weight's are by what its layer gives."""
    bundles = {", ".join(bundle.names): bundle for bundle in path.plan.dense}
    for name, grad in grads.items():
        if name in bundles:
            yield from bundles[name].unpacked(grad).items()
        else:
            yield name.partition(" (call ")[0], grad
