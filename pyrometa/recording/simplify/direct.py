"""Call torch's own functions, whose way into C++ is half as long as an ATen operator's from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node

from pyrometa.recording.simplify.facts import Facts, of_call


def call_directly(graph: Graph, facts: Facts) -> None:
    """Replace each operator by the function of its name, where that takes the same arguments."""
    for node in graph.nodes:
        if isinstance(node.target, OpOverload) and node in facts:
            function = _function(node.target)
            if function is not None and _does_the_same(function, node, facts):
                node.target = function


def _function(operator: OpOverload) -> Callable[..., Any] | None:
    name = operator._schema.name.removeprefix("aten::")
    private = name.startswith("_") or torch.Tag.nondeterministic_seeded in operator.tags
    return None if private else getattr(torch, name, getattr(Tensor, name, None))


def _does_the_same(function: Callable[..., Any], node: Node, facts: Facts) -> bool:
    fact = facts[node]
    if not isinstance(fact.like, Tensor):
        return False
    try:
        found = of_call(function, node.args, node.kwargs, facts, fact.device or torch.device("cpu"))
    except (TypeError, RuntimeError):
        return False
    return found.agrees_with(fact) and found.like.stride() == fact.like.stride()
