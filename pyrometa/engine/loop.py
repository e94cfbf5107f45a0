"""One task after the other, through the unchanged Pyro ELBO: the reference for every faster way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.engine.problem import PathFunction, Problem, cut
from pyrometa.errors import NonFiniteError
from pyrometa.inner import GradientOrder, LossRule, Rule, TaskRows, cure, one_step
from pyrometa.inner.adaptation import Look
from pyrometa.rewrites.gates import Gate, gated
from pyrometa.types import Params, TaskBatch, TaskData


def one_by_one(problem: Problem, batch: TaskBatch, function: PathFunction) -> Iterator[tuple[tuple[int, ...], Any]]:
    """The function of each task by itself, under the task's position in the meta-batch."""
    for task in batch.tasks():
        yield (task.index,), function(TaskPath(problem, task, function.order, function.unrolled_steps))


@dataclass(frozen=True)
class TaskPath:
    """One task's fast weights; a point is the weights by name, and the rule's state."""

    problem: Problem
    task: TaskData
    order: GradientOrder
    unrolled_steps: int | None = None
    check_finite: bool = True

    @property
    def tasks(self) -> tuple[int]:
        """The one task's index."""
        return (self.task.index,)

    @property
    def rule(self) -> Rule:
        """The inner rule."""
        return self.problem.rule

    @property
    def learned(self) -> Params:
        """What it learns."""
        return self.problem.learned

    @property
    def batched(self) -> bool:
        """One gradient after the other: the reference for those taken at once."""
        return False

    @property
    def held(self) -> tuple[str, ...]:
        """The adapted parameters in the program's order."""
        return self.problem.adapted

    def start(self) -> tuple[Params, Any]:
        """The leaves themselves, and the rule's first state."""
        fast = self.problem.start(self.order)
        return fast, None if isinstance(self.rule, LossRule) else self.rule.init(fast)

    def loss(self, point: tuple[Params, Any], step: int) -> tuple[Tensor, Params, Gate]:
        """The support loss; the fast weights to differentiate it by; the gate that is open from the step on."""
        fast, _ = point
        with _refused_as_divergence(self, step, fast), gated() as gate:
            held = {**self.problem.leaves, **fast}
            return self.problem.program.loss(held, self.task.support, self.task.support_noise[step]), fast, gate

    def move(
        self, point: tuple[Params, Any], grads: Mapping[str, Tensor], step: int, seen: Gate, order: GradientOrder
    ) -> tuple[Params, Any]:
        """One step of the rule."""
        seen.open()
        rule = self.problem.rule_on(self.task.support)
        fast, state = rule.update(point[0], grads, point[1], self.problem.learned, step)
        return {name: cut(value, order) for name, value in fast.items()}, state

    def losses_at(self, rows: Tensor, step: int) -> Tensor:
        """The support losses of candidates, one by one."""
        return torch.stack([self._loss_at(candidate, step) for candidate in rows])

    def _loss_at(self, row: Tensor, step: int) -> Tensor:
        """The loss at one candidate, shape ``(1,)``; infinite where the program refuses it."""
        leaves = [self.problem.leaves[name] for name in self.problem.adapted]
        point = self.moved_to(TaskRows(leaves, 1).split(row), GradientOrder.NONE)
        try:
            loss, _, _ = self.loss(point, step)
        except (NonFiniteError, ValueError) as error:
            check_interrupt(error)
            return row.new_full((1,), math.inf)
        return loss.detach()[None]

    def moved_to(self, variables: Sequence[Tensor], order: GradientOrder) -> tuple[Params, None]:
        """Fast weights by name."""
        return {n: cut(v, order) for n, v in zip(self.problem.adapted, variables, strict=True)}, None

    def stepped(self, point: tuple[Params, Any], step: int, order: GradientOrder, look: Look) -> tuple[Params, Any]:
        """The point after a step."""
        return one_step(self, point, step, order, look)

    def score(self, point: tuple[Params, Any]) -> Tensor:
        """The query objective, shape ``(1,)``."""
        with _refused_as_divergence(self, self.problem.steps, point[0]):
            task, held = self.task, {**self.problem.leaves, **point[0]}
            score = self.problem.program.score(held, task.query, task.query_noise, task.support)[None]
        return score.detach() if self.order is GradientOrder.NONE else score

    def fast_weights(self, point: tuple[Params, Any]) -> Params:
        """The fast weights, each of shape ``(1, *parameter)``."""
        return {name: value[None] for name, value in point[0].items()}


@contextmanager
def _refused_as_divergence(path: TaskPath, step: int, fast: Params) -> Iterator[None]:
    """Report a program that refuses its parameters after a step, as a scale that is NaN, as the divergence that it is.

    At step 0 the parameters are the user's own, and what the program raises is its own error.
    """
    try:
        yield
    except ValueError as error:
        if step == 0:
            raise
        task = path.task.index
        bad = next((name for name, value in fast.items() if not torch.isfinite(value).all()), None)
        raise NonFiniteError(
            f"task {task}, inner step {step}: the program refuses the adapted parameters"
            f"{f', of which {bad!r} is not finite' if bad else ''}: {cure(path.rule)}",
            task,
            step,
            bad,
        ) from error
