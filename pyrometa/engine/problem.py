"""What an engine is asked to do, apart from how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pyrometa.errors import NonFiniteError
from pyrometa.inner import GradientOrder, InnerRule, Path
from pyrometa.program.program import Program
from pyrometa.types import Params, TaskData


@dataclass(frozen=True)
class Problem:
    """Adaptation of one program by one rule.

    Attributes:
        program: the pure loss.
        rule: the inner rule.
        adapted: names of the leaves that adapt.
        leaves: the program's trainable leaves by name, where adaptation starts.
        learned: the rule's learned parameters, by its own names.
        steps: inner steps K.
    """

    program: Program
    rule: InnerRule
    adapted: tuple[str, ...]
    leaves: Params
    learned: Params
    steps: int

    def start(self, order: GradientOrder) -> Params:
        """The fast weights before the first step."""
        return {name: cut(self.leaves[name], order) for name in self.adapted}

    @property
    def outer(self) -> Params:
        """All that the outer loop learns, by public name."""
        return {name: leaf for name, leaf in {**self.leaves, **public(self.learned)}.items() if leaf.requires_grad}


def public(learned: Params) -> Params:
    """What a rule learns by public name, which sets it apart from the program's parameters."""
    return {f"inner.{name}": value for name, value in learned.items()}


class Run(Path[Any], Protocol):
    """A path that can also be scored on the query sets.

    Attributes:
        problem: what adapts, and how.
    """

    @property
    def problem(self) -> Problem:
        """What adapts, and how."""

    def score(self, point: Any) -> Tensor:
        """The query objective of each task, shape ``(tasks,)``."""

    def fast_weights(self, point: Any) -> Params:
        """The fast weights, each of shape ``(tasks, *parameter)``."""


class Work(Protocol):
    """Something to do on some tasks, for an engine to choose how; equal works do the same."""

    @property
    def order(self) -> GradientOrder:
        """How much of the inner loop the work differentiates through."""

    @property
    def unrolled_steps(self) -> int | None:
        """How many of the last inner steps it differentiates through to that order; None for all of them."""

    def __call__(self, run: Run) -> Any:
        """Do it: tensors, in tuples, lists and dictionaries."""


def cut(value: Tensor, order: GradientOrder) -> Tensor:
    """A fast weight, off its graph where nothing is to be differentiated through it."""
    return value.detach().requires_grad_() if order is GradientOrder.NONE else value


@contextmanager
def _domain(task: int, step: int, fast: Params) -> Iterator[None]:
    """Report what a program refuses because of the step before as the divergence that it is."""
    try:
        yield
    except ValueError as error:
        if step == 0:
            raise
        bad = next((name for name, value in fast.items() if not torch.isfinite(value).all()), None)
        raise NonFiniteError(
            f"task {task}, inner step {step}: the program refuses the adapted parameters"
            f"{f', of which {bad!r} is not finite' if bad else ''}: lower the inner rate",
            task,
            step,
            bad,
        ) from error


@dataclass(frozen=True)
class TaskPath:
    """One task's fast weights, through the unchanged Pyro ELBO: the reference for every other path."""

    problem: Problem
    task: TaskData
    order: GradientOrder
    unrolled_steps: int | None = None
    check_finite: bool = True

    @property
    def tasks(self) -> tuple[int]:
        """The one task's index."""
        return (self.task.index,)

    def start(self) -> tuple[Params, Any]:
        """The leaves themselves, and the rule's first state."""
        fast = self.problem.start(self.order)
        return fast, self.problem.rule.init(fast)

    def loss(self, point: tuple[Params, Any], step: int) -> tuple[Tensor, Params, None]:
        """The support loss, and the fast weights to differentiate it by."""
        fast, _ = point
        with _domain(self.task.index, step, fast):
            held = {**self.problem.leaves, **fast}
            return self.problem.program.loss(held, self.task.support, self.task.support_noise[step]), fast, None

    def move(
        self, point: tuple[Params, Any], grads: Mapping[str, Tensor], step: int, seen: None, order: GradientOrder
    ) -> tuple[Params, Any]:
        """One step of the rule."""
        fast, state = self.problem.rule.update(point[0], grads, point[1], self.problem.learned, step)
        return {name: cut(value, order) for name, value in fast.items()}, state

    def score(self, point: tuple[Params, Any]) -> Tensor:
        """The query objective, shape ``(1,)``."""
        with _domain(self.task.index, self.problem.steps, point[0]):
            task, held = self.task, {**self.problem.leaves, **point[0]}
            score = self.problem.program.score(held, task.query, task.query_noise, task.support)[None]
        return score.detach() if self.order is GradientOrder.NONE else score

    def fast_weights(self, point: tuple[Params, Any]) -> Params:
        """The fast weights, each of shape ``(1, *parameter)``."""
        return {name: value[None] for name, value in point[0].items()}
