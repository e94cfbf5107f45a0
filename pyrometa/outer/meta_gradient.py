"""What a meta-gradient is: from the path of some tasks' inner loop, their query losses and the gradient of the sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from pyrometa.engine import PathFunction, ScoredPath
from pyrometa.inner import Rule
from pyrometa.types import Params


class MetaGradient(PathFunction, Protocol):
    """How the outer loop learns.

    Attributes:
        order: how much of the inner loop it differentiates through.
        unrolled_steps: how many of the last inner steps it differentiates through to that order; None for all of them.
        one_noise: whether all inner steps of a task see the same noise, rather than each its own.
    """

    @property
    def one_noise(self) -> bool:
        """Whether all inner steps of a task see the same noise."""

    def check(self, rule: Rule, learned: Mapping[str, Tensor], steps: int) -> None:
        """Refuse an inner loop that it can't learn through; asked where there are inner steps.

        Args:
            rule: the inner rule.
            learned: what the rule learns, by name.
            steps: number of inner steps K, above 0.

        Raises:
            ValueError: with the cure.
        """

    def __call__(self, path: ScoredPath) -> tuple[Tensor, Params]:
        """Query loss of each task of the path, shape ``(tasks,)``, and the gradient of their sum.

        The gradient is by the names of ``path.problem.outer``; a name that is left out has none.
        """
