"""Call torch's own functions, whose way into C++ is half as long as an ATen operator's from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from pyrometa.internals import OpOverload
from pyrometa.recording.simplify.known import KnownValues


def call_directly(graph: Graph, known: KnownValues) -> None:
    """Replace each operator by the function of its name, where that takes the same arguments."""
    for node in graph.nodes:
        if isinstance(node.target, OpOverload) and node in known:
            function = _function(node.target)
            if function is not None and _does_the_same(function, node, known):
                node.target = function


def _function(operator: OpOverload) -> Callable[..., Any] | None:
    name = operator._schema.name.removeprefix("aten::")
    private = name.startswith("_") or torch.Tag.nondeterministic_seeded in operator.tags
    return None if private else getattr(torch, name, getattr(Tensor, name, None))


def _does_the_same(function: Callable[..., Any], node: Node, known: KnownValues) -> bool:
    expected = known[node]
    if not isinstance(expected.like, Tensor):
        return False
    try:
        found = known.of_call(function, node.args, node.kwargs)
    except (TypeError, RuntimeError):
        return False
    return found.agrees_with(expected) and found.like.stride() == expected.like.stride()
