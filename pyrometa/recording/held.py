"""How much memory a recording holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

_NODE = 2_400
"""Bytes of an operation: its node, its share of the code. Measured over recordings of 270 to 1,100 operations."""


def held(operations: int, *graphs: Callable[..., Any]) -> int:
    """Bytes of so many operations, and of the constants of their graphs."""
    return operations * _NODE + sum(map(_constants, graphs))


def _constants(graph: Callable[..., Any]) -> int:
    module = getattr(graph, "__self__", graph)
    if not isinstance(module, nn.Module):
        return 0
    values = (value for part in module.modules() for value in (*part.buffers(recurse=False), *vars(part).values()))
    return sum({id(value): value.nbytes for value in values if isinstance(value, Tensor)}.values())
