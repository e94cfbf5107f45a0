"""What an engine is asked to do, apart from how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from pyrometa.functional import Program
from pyrometa.inner import InnerRule, Order, adapt
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

    def trajectory(self, task: TaskData, order: Order) -> Iterator[Params]:
        """Fast weights of one task after 0, 1, ..., K steps."""

        def loss(fast: Params, step: int) -> Tensor:
            noise = [draw[step] for draw in task.support_noise]
            return self.program.loss(fast, task.support, noise)

        return adapt(loss, self.adapted, self.rule, self.learned, self.steps, order, task.index)

    def score(self, fast: Params, task: TaskData) -> Tensor:
        """Query objective of one task at its fast weights."""
        return self.program.score(fast, task.query, task.query_noise)
