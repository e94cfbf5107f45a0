"""Write results over operands that nothing else needs: a replay touches less memory, and what it has at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from pyrometa.internals import OpOverload
from pyrometa.recording.simplify.known import KnownValues

_aten = torch.ops.aten
_IN_PLACE: dict[Any, Any] = {
    _aten.add.Tensor: Tensor.add_,
    _aten.sub.Tensor: Tensor.sub_,
    _aten.mul.Tensor: Tensor.mul_,
    _aten.div.Tensor: Tensor.div_,
    _aten.neg.default: Tensor.neg_,
    _aten.exp.default: Tensor.exp_,
    _aten.log.default: Tensor.log_,
    _aten.sqrt.default: Tensor.sqrt_,
    _aten.reciprocal.default: Tensor.reciprocal_,
    _aten.pow.Tensor_Scalar: Tensor.pow_,
    _aten.sigmoid.default: Tensor.sigmoid_,
    _aten.tanh.default: Tensor.tanh_,
    _aten.relu.default: Tensor.relu_,
}
_COMMUTE = {_aten.add.Tensor, _aten.mul.Tensor}
_PRODUCTS = {_aten.mm.default, _aten.bmm.default}


def write_over_operands(graph: Graph, known: KnownValues) -> None:
    """Replace elementwise operations by their forms in place where their first operand is used by nothing else.

    The numbers are the same to the last bit. Only memory that the graph itself has made is written to: no input, no
    constant, no result, nothing that is seen by another name.
    """
    for node in graph.nodes:
        if node.target not in _IN_PLACE:
            continue
        args = node.args
        if node.target in _COMMUTE and not node.kwargs and not _can_hold(args[0], node, known):
            args = (args[1], args[0])
        if _can_hold(args[0], node, known):
            node.args, node.target = args, _IN_PLACE[node.target]


def _can_hold(operand: Any, node: Node, known: KnownValues) -> bool:
    """Whether the result of a node can be written over an operand of it."""
    if not isinstance(operand, Node) or len(operand.users) > 1 or not _has_memory_of_its_own(operand):
        return False
    before, after = known[operand], known[node]
    return before.agrees_with(after) and before.like.stride() == after.like.stride()


def _has_memory_of_its_own(node: Node) -> bool:
    target = node.target
    if target in _PRODUCTS or target in _IN_PLACE.values():
        return True
    if not isinstance(target, OpOverload) or torch.Tag.pointwise not in target.tags:
        return False
    return all(result.alias_info is None for result in target._schema.returns)
