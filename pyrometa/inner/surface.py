"""The support losses of some tasks around their fast weights, for a rule that asks for more than a gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from pyrometa.inner.task_rows import TaskRows


class RowLosses(Protocol):
    """The losses of tasks side by side around some numbers, each a function of one row: all that adapts, end to end.

    Attributes:
        losses: the losses there, shape ``(tasks,)``.
        slope: their gradients, shape ``(tasks, size)``.
        rows: the numbers, shape ``(tasks, size)``.
        exact: whether the outer loop differentiates through the slope and the Hessian; else they are constants.
        names: the adapted parameters whose numbers a row is, in its order; none where it is of no program's.
        seen: whether values may be looked at, which a recording can't.
    """

    @property
    def losses(self) -> Tensor:
        """The losses."""

    @property
    def slope(self) -> Tensor:
        """Their gradients."""

    @property
    def rows(self) -> Tensor:
        """The numbers."""

    @property
    def exact(self) -> bool:
        """Whether the outer loop differentiates through them."""

    @property
    def names(self) -> tuple[str, ...]:
        """The adapted parameters whose numbers a row is."""

    @property
    def seen(self) -> bool:
        """Whether values may be looked at."""

    def as_constant(self) -> RowLosses:
        """The same, not to be differentiated through."""

    @property
    def losses_at(self) -> Callable[[Tensor], Tensor]:
        """Of rows ``(candidates, tasks, size)`` to their losses, on the same noise and off any graph."""

    def hessian(self) -> Tensor:
        """The Hessians, shape ``(tasks, size, size)``."""

    def products(self, vectors: Tensor) -> Tensor:
        """Hessians times vectors, both of shape ``(vectors, tasks, size)``."""

    def product(self, vectors: Tensor) -> Tensor:
        """Hessians times vectors, both of shape ``(tasks, size)``."""


@dataclass(frozen=True)
class Surface:
    """The losses of tasks side by side, each a function of one row of numbers: all that adapts, end to end.

    No task's loss depends on another's row, so that derivatives of their sum are each task's own.

    Attributes:
        fast: the fast weights.
        losses: the losses there, shape ``(tasks,)``.
        slope: their gradients, shape ``(tasks, size)``.
        exact: whether the outer loop differentiates through the slope and the Hessian; else they are constants.
        losses_at: of rows ``(candidates, tasks, size)`` to their losses ``(candidates, tasks)``, on the same noise and
            off any graph.
        batched: whether products with several vectors are taken all at once.
        names: the adapted parameters whose numbers a row is, in its order.
        seen: whether values may be looked at, which a recording can't.
    """

    fast: TaskRows
    losses: Tensor
    slope: Tensor
    exact: bool
    losses_at: Callable[[Tensor], Tensor]
    batched: bool
    names: tuple[str, ...] = ()
    seen: bool = True

    @property
    def rows(self) -> Tensor:
        """The fast weights end to end, shape ``(tasks, size)``."""
        return self.fast.end_to_end(self.fast.variables)

    def as_constant(self) -> Surface:
        """The same, not to be differentiated through."""
        return replace(self, exact=False)

    def hessian(self) -> Tensor:
        """The Hessians, shape ``(tasks, size, size)``, on the graph where they are differentiated through."""
        unit = torch.eye(self.slope.shape[1], dtype=self.slope.dtype, device=self.slope.device)
        return self.products(unit[:, None].expand(-1, *self.slope.shape)).movedim(0, 1)

    def products(self, vectors: Tensor) -> Tensor:
        """Hessians times vectors, both of shape ``(vectors, tasks, size)``."""
        if not self.slope.requires_grad:
            return torch.zeros_like(vectors)
        if self.batched:
            return self.fast.gradients(self.slope, vectors, create_graph=self.exact)
        return torch.stack([self.product(one) for one in vectors])

    def product(self, vectors: Tensor) -> Tensor:
        """Hessians times vectors, both of shape ``(tasks, size)``."""
        if not self.slope.requires_grad:
            return torch.zeros_like(vectors)
        return self.fast.gradient(self.slope, vectors, create_graph=self.exact)
