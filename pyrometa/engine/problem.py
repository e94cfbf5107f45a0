"""What an engine is asked to do, apart from how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyrometa.functional import Program
from pyrometa.inner import InnerRule, Order
from pyrometa.types import Params, TaskData


@dataclass(frozen=True)
class Problem:
    """Adaptation of one program by one rule.

    Attributes:
        program: the pure loss.
        rule: the inner rule.
        adapted: the leaves where adaptation starts, by name.
        learned: the rule's learned parameters.
        steps: inner steps K.
    """

    program: Program
    rule: InnerRule
    adapted: Params
    learned: Params
    steps: int

    def start(self, order: Order) -> Params:
        """The fast weights before the first step."""
        return {name: cut(value, order) for name, value in self.adapted.items()}


def cut(value: Tensor, order: Order) -> Tensor:
    """A fast weight, off its graph where nothing is to be differentiated through it."""
    return value.detach().requires_grad_() if order is Order.NONE else value


@dataclass(frozen=True)
class TaskPath:
    """One task's fast weights, through the unchanged Pyro ELBO: the reference for every other path."""

    problem: Problem
    task: TaskData
    order: Order

    @property
    def tasks(self) -> tuple[int]:
        """The one task's index."""
        return (self.task.index,)

    def start(self) -> tuple[Params, Any]:
        """The leaves themselves, and the rule's first state."""
        fast = self.problem.start(self.order)
        return fast, self.problem.rule.init(fast)

    def loss(self, point: tuple[Params, Any], step: int) -> tuple[Tensor, Params]:
        """The support loss, and the fast weights to differentiate it by."""
        fast, _ = point
        noise = [draw[step] for draw in self.task.support_noise]
        return self.problem.program.loss(fast, self.task.support, noise), fast

    def move(self, point: tuple[Params, Any], grads: Mapping[str, Tensor], step: int) -> tuple[Params, Any]:
        """One step of the rule."""
        fast, state = self.problem.rule.update(point[0], grads, point[1], self.problem.learned, step)
        return {name: cut(value, self.order) for name, value in fast.items()}, state

    def score(self, point: tuple[Params, Any]) -> Tensor:
        """The query objective, shape ``(1,)``."""
        return self.problem.program.score(point[0], self.task.query, self.task.query_noise)[None]

    def fast_weights(self, point: tuple[Params, Any]) -> list[Params]:
        """The fast weights of each task."""
        return [point[0]]
