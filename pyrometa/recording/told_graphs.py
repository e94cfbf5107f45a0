"""Recorded graphs as text, for the process that compiles them: nothing is pickled."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pyrometa.internals import OpOverload

_NAMED = (torch.dtype, torch.layout, torch.memory_format)


class NotToldError(Exception):
    """A graph holds what has no text."""


def constants(graph: GraphModule) -> list[Tensor]:
    """The tensors that a graph holds, in the order in which :func:`told` takes them as inputs after its own."""
    return [getattr(graph, node.target) for node in graph.graph.nodes if node.op == "get_attr"]


def told(graph: GraphModule, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """A graph as JSON, a function of its inputs and then of its constants.

    Raises:
        NotToldError: naming what has no text.
    """
    return {"inputs": [_input(value) for value in (*inputs, *constants(graph))], "nodes": told_nodes(graph)}


def told_nodes(graph: GraphModule) -> list[Any]:
    """The nodes of :func:`told`."""
    nodes = list(graph.graph.nodes)
    given = [node for node in nodes if node.op == "placeholder"] + [node for node in nodes if node.op == "get_attr"]
    calls = [_node(node) for node in nodes if node.op not in ("placeholder", "get_attr")]
    return [["placeholder", node.name, node.name, [], {}] for node in given] + calls


def _input(value: Tensor) -> list[Any]:
    if value.device.type != "cpu":
        raise NotToldError(f"a tensor is on {value.device}")
    return [list(value.shape), list(value.stride()), str(value.dtype).removeprefix("torch.")]


def _node(node: Node) -> list[Any]:
    target = _target(node.target) if callable(node.target) else node.target
    return [node.op, node.name, target, [_value(arg) for arg in node.args], _value(node.kwargs)]


def _target(function: Callable[..., Any]) -> str:
    """Where a function is found; a method of a tensor as its operator, since torch keeps no graph with methods."""
    if isinstance(function, OpOverload):
        return f"ops.{function}"
    name = function.__name__
    if function is getattr(operator, name, None):
        return f"operator.{name}"
    if function is getattr(torch, name, None):
        return f"torch.{name}"
    if function is getattr(Tensor, name, None) and hasattr(torch.ops.aten, name):
        return f"ops.aten.{name}"
    raise NotToldError(f"it calls {name}")


def _value(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Node):
        return ["node", value.name]
    if isinstance(value, _NAMED):
        return ["torch", str(value).removeprefix("torch.")]
    if isinstance(value, torch.device):
        return ["device", str(value)]
    if isinstance(value, slice):
        return ["slice", *map(_value, (value.start, value.stop, value.step))]
    if isinstance(value, list | tuple):
        return ["list" if isinstance(value, list) else "tuple", *map(_value, value)]
    if isinstance(value, dict):
        return {name: _value(part) for name, part in value.items()}
    raise NotToldError(f"it holds a {type(value).__name__}")
