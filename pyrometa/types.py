"""The few shapes of data that every part of pyrometa shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

Params: TypeAlias = dict[str, Tensor]
"""Unconstrained parameter values by name."""

StepNoise: TypeAlias = Sequence[Tensor]
"""The noise of one evaluation of the loss: one tensor a draw, in the program's order."""


@dataclass(frozen=True)
class Data:
    """What one call of the model and the guide takes.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskData:
    """One task as an engine takes it: its data and its slice of the meta-step's noise.

    Attributes:
        index: position in the meta-batch.
        support: what the inner loop adapts to.
        query: what the adapted parameters are scored on.
        support_noise: one tensor a draw, shape ``(steps, *draw)``.
        query_noise: one tensor a draw, shape ``draw``.
    """

    index: int
    support: Data
    query: Data
    support_noise: tuple[Tensor, ...]
    query_noise: tuple[Tensor, ...]
