"""What has to agree for one plan, or one recording, to serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyrometa.types import Data, TaskBatch


@dataclass(frozen=True, eq=False)
class Same:
    """An object by its identity, held so that no other can take that identity."""

    held: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


def layout(tasks: TaskBatch) -> Any:
    """Shapes of one task's tensors, and all that is not a tensor."""
    noise = (*tasks.support_noise[:1], tasks.query_noise)
    draws = tuple((draw.shape[1:], draw.dtype, draw.device) for draws in noise for draw in draws)
    return _layout(tasks.support), _layout(tasks.query), draws


def _layout(data: Data) -> Any:
    shared = tuple((key, _one(data.kwargs[key], batched=False)) for key in sorted(data.kwargs))
    return tuple(_one(arg, batched=True) for arg in data.args), shared, data.rows and data.rows.plates


def _one(value: Any, *, batched: bool) -> Any:
    if isinstance(value, Tensor):
        return value.shape[1 if batched else 0 :], value.dtype, value.device
    return (type(value), value) if isinstance(value, bool | int | float | str | None) else Same(value)
