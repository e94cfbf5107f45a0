"""What an inner rule is: three pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from pyrometa.types import Params


class InnerRule(Protocol):
    """How fast weights move: an update rule as pure functions of its state.

    Attributes:
        outer_lr: outer step size of what the rule learns; None for the optimiser's own.
    """

    @property
    def outer_lr(self) -> float | None:
        """Outer step size of the rule's learned parameters."""

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """Fresh parameters that the outer loop learns for this rule, by name; empty where none."""

    def init(self, params: Mapping[str, Tensor]) -> Any:
        """The state before the first step."""

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: Any,
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, Any]:
        """One step: the new fast weights and the new state, differentiable in all tensors given."""
