"""Rows of what a model takes."""

from __future__ import annotations

from torch import Tensor

from pyrometa.tasks.meta_batch import ModelTensors

__all__ = ["row_count", "take"]


def take(data: ModelTensors, index: Tensor) -> ModelTensors:
    """The rows of a table at an index."""
    return tuple(column[index] for column in data) if isinstance(data, tuple) else data[index]


def row_count(data: ModelTensors) -> int:
    """How many rows there are."""
    return len(data[0] if isinstance(data, tuple) else data)
