"""The meta-batch: many tasks' support and query data, stacked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from pyrometa import nest

__all__ = ["MetaBatch", "ModelTensors"]

ModelTensors = Tensor | tuple[Tensor, ...]
"""What a model takes as its positional arguments: one tensor, or a tuple of them."""


@dataclass(frozen=True, eq=False)
class MetaBatch:
    """A meta-batch of tasks: what each adapts on, and what it is scored on.

    Every tensor has a leading task dimension. Unpacking gives ``support, query``, so a meta-batch goes to
    ``meta.step(*batch)``. ``len(batch)`` counts the tasks. Indexing is by tasks and as with tensors: a slice
    keeps the task dimension and gives a smaller meta-batch; an integer drops it and gives one task's
    ``(support, query)``, as ``meta.adapt`` takes the first.

    Args:
        support: a tensor, a tuple of the model's positional arguments, or a nest such as a dictionary or dataclass,
            each tensor of shape ``(tasks, ...)``.
        query: the same for the data on which the adapted guide is scored.

    Raises:
        TypeError: if support or query is neither a tensor nor a nest of tensors, or a list, which would be tasks.
        ValueError: if a tensor lacks the task dimension, the task counts differ, or there is no task.

    Example:
        >>> import torch
        >>> from pyrometa.tasks import MetaBatch
        >>> batch = MetaBatch(torch.zeros(8, 5, 784), torch.zeros(8, 10, 784))
        >>> support, query = batch
        >>> len(batch), len(batch[3:7]), batch[2][0].shape
        (8, 4, torch.Size([5, 784]))
    """

    support: Any
    query: Any

    def __post_init__(self) -> None:
        counts = {
            "support": _task_counts("support", self.support),
            "query": _task_counts("query", self.query),
        }
        if len({count for side in counts.values() for count in side}) != 1:
            got = ", ".join(f"{name} has {' and '.join(map(str, side))}" for name, side in counts.items())
            raise ValueError(f"every tensor needs the same number of tasks as leading dimension: {got}")
        if len(self) == 0:
            raise ValueError("a meta-batch needs at least one task: the leading dimension is 0")

    def __len__(self) -> int:
        return len(nest.tensors(self.support)[0])

    def __iter__(self) -> Iterator[Any]:
        return iter((self.support, self.query))

    @overload
    def __getitem__(self, tasks: int) -> tuple[Any, Any]: ...
    @overload
    def __getitem__(self, tasks: slice) -> MetaBatch: ...
    def __getitem__(self, tasks: int | slice) -> MetaBatch | tuple[Any, Any]:
        support, query = (nest.mapped(lambda tensor: tensor[tasks], data) for data in self)
        return MetaBatch(support, query) if isinstance(tasks, slice) else (support, query)

    def to(self, target: torch.device | torch.dtype | str) -> MetaBatch:
        """Move to a device, or cast the floating-point tensors to a dtype.

        As with ``nn.Module.to``, a dtype leaves integer tensors (labels, indices) as they are.

        Args:
            target: a device or its name, or a floating-point dtype.

        Returns:
            MetaBatch: of the same shapes.

        Example:
            >>> batch = MetaBatch(torch.zeros(2, 5, 784), torch.zeros(2, 5, 784))
            >>> batch.to(torch.float64).support.dtype
            torch.float64
        """

        def move(tensor: Tensor) -> Tensor:
            if isinstance(target, torch.dtype) and not tensor.is_floating_point():
                return tensor
            return tensor.to(target)

        return MetaBatch(nest.mapped(move, self.support), nest.mapped(move, self.query))


def _task_counts(name: str, data: Any) -> list[int]:
    if isinstance(data, tuple) and not data:
        raise TypeError(f"{name} is an empty tuple: pass at least one tensor")
    for part in data if isinstance(data, tuple) and not nest.is_named(data) else (data,):
        if isinstance(part, list) or not nest.tensors(part):
            raise TypeError(f"{name} must be a tensor or a nest of tensors, got {type(part).__name__}")
    tensors = nest.tensors(data)
    if any(tensor.ndim == 0 for tensor in tensors):
        raise ValueError(f"{name} has a tensor without dimensions: the leading dimension counts tasks")
    return [len(tensor) for tensor in tensors]
