"""How much memory a recording holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pyrometa.recording.compiled import Compiled

KEPT = 256 * 2**20
"""Bytes that recordings may hold together: about a hundred of a thousand operations each."""

_NODE = 2_400
"""Bytes of an operation: its node, its share of the code. Measured over recordings of 270 to 1,100 operations."""


def held(operations: int, *graphs: Callable[..., Any]) -> int:
    """Bytes of so many operations, of the constants of their graphs, and of what captured graphs hold."""
    return operations * _NODE + sum(_constants(graph) + getattr(graph, "bytes", 0) for graph in graphs)


def _constants(graph: Callable[..., Any]) -> int:
    module = graph.graph if isinstance(graph, Compiled) else getattr(graph, "__self__", graph)
    if not isinstance(module, nn.Module):
        return 0
    values = (value for part in module.modules() for value in (*part.buffers(recurse=False), *vars(part).values()))
    return sum({id(value): value.nbytes for value in values if isinstance(value, Tensor)}.values())
