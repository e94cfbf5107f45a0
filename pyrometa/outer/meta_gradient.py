"""What a meta-gradient is: a function of an engine, a problem and tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from pyrometa.engine import Engine, Problem
from pyrometa.inner import Order
from pyrometa.types import Params, TaskData


class MetaGradient(Protocol):
    """How the outer loop learns."""

    @property
    def order(self) -> Order:
        """How much of the inner loop it differentiates through."""

    def loss_and_grads(
        self, engine: Engine, problem: Problem, tasks: Sequence[TaskData], leaves: Mapping[str, Tensor]
    ) -> tuple[Tensor, Params]:
        """Query loss of each task, shape ``(tasks,)``, and the gradient of its mean for every leaf."""
