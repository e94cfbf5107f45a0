"""A meta-batch of tasks of any sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pyrometa.tasks.meta_batch import ModelTensors

__all__ = ["RaggedBatch"]


@dataclass(frozen=True, eq=False)
class RaggedBatch:
    """A meta-batch of tasks of any sizes: what each adapts on, and what it is scored on.

    Unpacking gives ``support, query``, two lists, so a meta-batch goes to ``meta.step(*batch)``; ``len(batch)`` counts
    the tasks. A ``DataLoader`` hands it through as it is, where it would make lists of a tuple's tuples, and a worker
    sends each column of it as one tensor.

    Args:
        support: a list of tasks, each a tensor or a tuple of the model's positional arguments.
        query: the same for the data on which the adapted guide is scored.

    Example:
        >>> import torch
        >>> from pyrometa.tasks import RaggedBatch
        >>> batch = RaggedBatch([torch.zeros(2), torch.zeros(3)], [torch.zeros(1), torch.zeros(1)])
        >>> support, query = batch
        >>> len(batch), [len(task) for task in support]
        (2, [2, 3])
    """

    support: list[ModelTensors]
    query: list[ModelTensors]

    def __len__(self) -> int:
        return len(self.support)

    def __iter__(self) -> Iterator[list[ModelTensors]]:
        return iter((self.support, self.query))

    def __reduce__(self) -> Any:
        return _unpacked, (_packed(self.support), _packed(self.query))


def _packed(tasks: list[ModelTensors]) -> Any:
    """Each column as one tensor, and the tasks' sizes: between processes each tensor takes an open file."""
    if not isinstance(tasks[0], tuple):
        return torch.cat(tasks), [len(task) for task in tasks]  # type: ignore[arg-type]
    return tuple(torch.cat(column) for column in zip(*tasks, strict=True)), [len(task[0]) for task in tasks]


def _unpacked(support: Any, query: Any) -> RaggedBatch:
    return RaggedBatch(_tasks(*support), _tasks(*query))


def _tasks(columns: Any, sizes: list[int]) -> list[ModelTensors]:
    if isinstance(columns, tuple):
        return list(zip(*(column.split(sizes) for column in columns), strict=True))
    return list(columns.split(sizes))
