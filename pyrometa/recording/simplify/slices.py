"""The same operation on all slices of a tensor is one operation on the tensor.

Sites of a program that are alike (a dozen weights, each with a mean and a scale) make a dozen of every elementwise
operation on small tensors. Where their operands are slices of tensors that hold them end to end, one does. Here is
how a graph shows that: a slice is read off a node, going up; and end to end, going down, are the parts of a ``cat``.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from pyrometa.recording.simplify.known import Known, KnownValues
from pyrometa.recording.simplify.rules import VIEWS

_aten = torch.ops.aten
_SPLIT = _aten.split_with_sizes.default
ELEMENTWISE = {
    _aten.add.Tensor,
    _aten.sub.Tensor,
    _aten.mul.Tensor,
    _aten.div.Tensor,
    _aten.div.Scalar,
    _aten.neg.default,
    _aten.exp.default,
    _aten.log.default,
    _aten.reciprocal.default,
    _aten.sqrt.default,
    _aten.pow.Tensor_Scalar,
    _aten.sigmoid.default,
    _aten.sigmoid_backward.default,
    _aten.softplus.default,
    _aten.softplus_backward.default,
    _aten.tanh.default,
    _aten.tanh_backward.default,
}


@dataclass(frozen=True)
class Slice:
    """One slice of a joined tensor, perhaps seen in another shape.

    Attributes:
        joined: the tensor that holds the slices end to end along its last dimension.
        sizes: of the slices.
        index: which one.
        shape: that it is seen in.
    """

    joined: Node
    sizes: tuple[int, ...]
    index: int
    shape: torch.Size

    @classmethod
    def of(cls, node: Node, known: KnownValues) -> Slice | None:
        """Read it off a node, if it is one."""
        taken, split = _taken_from_split(node)
        if split is None:
            return None
        joined, sizes, dim = (*split.args, 0)[:3]
        if dim % len(known[joined].shape) != len(known[joined].shape) - 1:
            return None
        return cls(joined, tuple(sizes), taken.args[1], known[node].shape)


def _taken_from_split(node: Node) -> tuple[Any, Any]:
    """The node before a change of shape; and the split that it is a slice of, or None."""
    taken: Any = node.args[0] if node.target in VIEWS else node
    split: Any = taken.args[0] if taken.target is operator.getitem else None
    return taken, split if split is not None and split.target is _SPLIT else None


def slices_of(target: Any, args: Sequence[Any], kwargs: Any, known: KnownValues) -> list[Slice | Any] | None:
    """The operands of an elementwise operation on like slices of like tensors; numbers stay as they are."""
    if target not in ELEMENTWISE or any(isinstance(value, Node) for value in kwargs.values()):
        return None
    found = [Slice.of(arg, known) if isinstance(arg, Node) else arg for arg in args]
    slices = [x for x in found if isinstance(x, Slice)]
    if not slices or any(x is None for x in found):
        return None
    like = {(s.sizes, s.index, s.shape, known[s.joined].shape, known[s.joined].like.dtype) for s in slices}
    return found if len(like) == 1 else None


def is_done_on_most(node: Node) -> bool:
    """Whether the same operation is done on most of the other slices, too: those that hold half of the elements."""
    return all(_is_done_on_most_of(operand, node.target) for operand in node.all_input_nodes)


def _is_done_on_most_of(operand: Node, target: Any) -> bool:
    _, split = _taken_from_split(operand)
    if split is None:
        return False
    sizes = split.args[1]
    reached = {
        taken.args[1] for taken in split.users for user in (*taken.users, *_viewed(taken)) if user.target is target
    }
    return 2 * sum(sizes[i] for i in reached) >= sum(sizes) and len(reached) > 1


def _viewed(taken: Node) -> list[Node]:
    return [user for view in taken.users if view.target in VIEWS for user in view.users]


def is_end_to_end(target: Any, args: Sequence[Any], result: Known) -> bool:
    """Whether an operation puts tensors end to end along their last dimension."""
    return target is _aten.cat.default and len(args) > 1 and args[1] % len(result.shape) == len(result.shape) - 1


def like_operations(parts: Sequence[Node], known: KnownValues) -> tuple[Any, list[list[Node] | Any]] | None:
    """If the parts, perhaps seen in another shape, are results of one elementwise operation: it and its operands.

    Each operand is a list of nodes, one a part and of the shape of the operation's result there, or a number.
    """
    results: list[Any] = [part.args[0] if part.target in VIEWS else part for part in parts]
    target = results[0].target
    if target not in ELEMENTWISE or any(node.target is not target or node.kwargs for node in results):
        return None
    operands: list[list[Node] | Any] = []
    for column in zip(*(node.args for node in results), strict=True):
        if not isinstance(column[0], Node):
            if len(set(column)) > 1:
                return None
            operands.append(column[0])
        elif all(
            isinstance(x, Node) and known[x].shape == known[r].shape for x, r in zip(column, results, strict=True)
        ):
            operands.append(list(column))
        else:
            return None
    return target, operands
