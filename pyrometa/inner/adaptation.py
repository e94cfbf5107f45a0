"""The inner loop, for every rule and every engine."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from pyrometa.errors import NonFiniteError, UnsupportedProgramError, first_line
from pyrometa.inner.cures import cure
from pyrometa.inner.finite import all_finite, bad_rows
from pyrometa.inner.rule import LossRule, Rule
from pyrometa.inner.surface import Surface
from pyrometa.inner.task_rows import TaskRows
from pyrometa.types import Params

Point = TypeVar("Point")
Look: TypeAlias = Callable[[Tensor, Params, Any, int, str], None]
"""Looks at the losses and gradients of a path's step; the last argument says what they are, if not gradients."""


class GradientOrder(IntEnum):
    """The highest derivatives of the support loss that the outer loop sees: how far the inner loop is on its graph.

    The outer loop differentiates the query loss by the initialisation, and on the way through the inner steps.

    ``NONE``: it does not; each step's fast weights are cut off from the step before. For meta-test.
    ``FIRST``: through the steps, with their gradients as constants, as in first-order MAML.
    ``SECOND``: through the gradients as well, which takes the loss's second derivatives, as in MAML.
    """

    NONE = 0
    FIRST = 1
    SECOND = 2


class Path(Protocol[Point]):
    """Where fast weights live while some tasks adapt side by side.

    A point holds the tasks' fast weights and the rule's state in whatever form the engine likes.

    Attributes:
        tasks: indices of the tasks in the meta-batch.
        rule: the inner rule.
        learned: what it learns, by its own names.
        batched: whether many gradients of one loss are taken at once, by ``vmap``.
        order: how much of the inner loop is differentiated through.
        unrolled_steps: how many of the last steps are differentiated through to that order; the gradients of earlier
            steps count as constants. None for all. With 0 every point is cut off from the one before, so that memory
            does not grow with steps.
        check_finite: whether losses and gradients are asked if they are finite.
        held: names of the adapted parameters, in the order of what :meth:`loss` names end to end.
    """

    @property
    def tasks(self) -> Sequence[int]:
        """Indices of the tasks in the meta-batch."""

    @property
    def rule(self) -> Rule:
        """The inner rule."""

    @property
    def learned(self) -> Params:
        """What the rule learns, by its own names."""

    @property
    def batched(self) -> bool:
        """Whether many gradients of one loss are taken at once."""

    @property
    def order(self) -> GradientOrder:
        """How much of the inner loop is differentiated through."""

    @property
    def unrolled_steps(self) -> int | None:
        """How many of the last steps are differentiated through to that order; None for all."""

    @property
    def check_finite(self) -> bool:
        """Whether losses and gradients are asked if they are finite."""

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the adapted parameters, in the order in which they are held."""

    def start(self) -> Point:
        """The point where adaptation starts."""

    def loss(self, point: Point, step: int) -> tuple[Tensor, Params, Any]:
        """The support losses at a point.

        Returns:
            The loss of each task, shape ``(tasks,)``; by name, what to differentiate their sum by; and whatever
            :meth:`move` is to be given of this evaluation.
        """

    def move(self, point: Point, grads: Mapping[str, Tensor], step: int, seen: Any, order: GradientOrder) -> Point:
        """The next point.

        Args:
            point: the one before.
            grads: the gradients by what :meth:`loss` named.
            step: which inner step, from 0.
            seen: what :meth:`loss` returned last.
            order: how much of this step is differentiated through.
        """

    def losses_at(self, rows: Tensor, step: int) -> Tensor:
        """The support losses at other fast weights, with the step's noise, off any graph.

        Args:
            rows: what :meth:`loss` names end to end, shape ``(candidates, tasks, size)``.
            step: which inner step.

        Returns:
            Losses of shape ``(candidates, tasks)``; not finite where the program refuses the fast weights.
        """

    def moved_to(self, variables: Sequence[Tensor], order: GradientOrder) -> Point:
        """The point whose fast weights are these, in the form of what :meth:`loss` names."""

    def stepped(self, point: Point, step: int, order: GradientOrder, look: Look) -> Point:
        """The point after an inner step: :func:`one_step`, or what says the same."""


def adapt(path: Path[Point], steps: int, look: Look | None = None) -> Iterator[Point]:
    """Adapt tasks, step by step.

    Args:
        path: the tasks' losses and fast weights.
        steps: number of steps K.
        look: is shown each step's losses and gradients; None refuses those that are not finite.

    Yields:
        The points after 0, 1, ..., K steps.

    Raises:
        NonFiniteError: naming task, step and parameter.
    """
    look = look or _check_finite
    point = path.start()
    yield point
    for step in range(steps):
        point = path.stepped(point, step, _order_at(step, steps, path), look)
        yield point


def one_step(path: Path[Point], point: Point, step: int, order: GradientOrder, look: Look) -> Point:
    """The point after an inner step by the path's rule, which asks the losses at the point before.

    Args:
        path: the tasks' losses and fast weights.
        point: the point before.
        step: which inner step, from 0.
        order: how much of the step is differentiated through.
        look: is shown the losses and gradients, unless the path is not to be asked if they are finite.
    """
    rule = path.rule
    losses, variables, seen = path.loss(point, step)
    grads = _gradients(losses, variables, create_graph=isinstance(rule, LossRule) or order is GradientOrder.SECOND)
    if path.check_finite:
        look(losses, grads, path, step, "the gradient of")
    if isinstance(rule, LossRule):
        return _moved_by_loss(path, rule, losses, (variables, grads), step, order, look)
    return path.move(point, grads, step, seen, order)


def _moved_by_loss(
    path: Path[Point],
    rule: LossRule,
    losses: Tensor,
    slopes: tuple[Params, Params],
    step: int,
    order: GradientOrder,
    look: Look,
) -> Point:
    """The next point by a rule that asks for more than gradients, from the variables and these."""
    variables, grads = slopes
    fast = TaskRows(list(variables.values()), len(path.tasks))
    exact, at = order is GradientOrder.SECOND, partial(path.losses_at, step=step)
    slope, seen = fast.end_to_end(list(grads.values())), path.check_finite
    here = Surface(fast, losses.view(-1), slope, exact, at, path.batched, path.held, seen)
    with _naming_backward():
        moved = fast.split(rule.moved(here, path.learned, step))
    if path.check_finite:
        look(losses, dict(zip(variables, moved, strict=True)), path, step, "a second derivative by")
    return path.moved_to(moved, order)


def _order_at(step: int, steps: int, path: Path[Any]) -> GradientOrder:
    if path.unrolled_steps == 0:
        return GradientOrder.NONE
    early = path.unrolled_steps is not None and step < steps - path.unrolled_steps
    return min(path.order, GradientOrder.FIRST) if early else path.order


def _gradients(losses: Tensor, variables: Params, *, create_graph: bool) -> Params:
    if not losses.requires_grad:
        return {name: torch.zeros_like(v) for name, v in variables.items()}
    with _naming_backward():
        found = torch.autograd.grad(
            losses.sum(), list(variables.values()), create_graph=create_graph, allow_unused=True
        )
    return {
        name: torch.zeros_like(v) if grad is None else grad
        for (name, v), grad in zip(variables.items(), found, strict=True)
    }


@contextmanager
def _naming_backward() -> Iterator[None]:
    """Report a backward pass of the program's own that fails, by its file and line.

    Raises:
        UnsupportedProgramError: with the reason.
    """
    try:
        yield
    except RuntimeError as error:
        backward = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "backward"]
        if not backward:
            raise
        raise UnsupportedProgramError(
            f"the backward pass at {backward[-1].filename}:{backward[-1].lineno} fails on fast weights "
            f"({first_line(error)}): a backward pass must not read parameters from its module, which holds fast "
            "weights only while the loss is computed; use another transform, or steps=0"
        ) from error


def _check_finite(losses: Tensor, grads: Params, path: Path[Any], step: int, what: str) -> None:
    if all_finite([losses, *grads.values()]):
        return
    tasks, rule = path.tasks, path.rule
    for name, grad in grads.items():
        bad = bad_rows(grad, len(tasks))
        if bad.any():
            row = int(bad.nonzero()[0])
            raise not_finite(tasks[row], step, f"{what} {name!r}", losses.view(-1)[row].item(), rule, name)
    bad = bad_rows(losses, len(tasks))
    if bad.any():
        row = int(bad.nonzero()[0])
        raise not_finite(tasks[row], step, "the support loss", losses.view(-1)[row].item(), rule)


def not_finite(
    task: int, step: int, what: str, loss: float, rule: Rule, parameter: str | None = None
) -> NonFiniteError:
    """The error of a task that diverges at a step."""
    return NonFiniteError(
        f"task {task}, inner step {step}: {what} is not finite (support loss {loss:g}): {cure(rule)}",
        task,
        step,
        parameter,
    )
