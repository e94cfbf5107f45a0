"""The same operation on all parts of a tensor is one operation on the tensor.

Sites of a program that are alike (a dozen weights, each with a mean and a scale) make a dozen of every elementwise
operation on small tensors. Where their operands are parts of tensors that hold them end to end, one does.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from pyrometa.recording.simplify.facts import Fact, Facts
from pyrometa.recording.simplify.rules import VIEWS

_aten = torch.ops.aten
_SPLIT = _aten.split_with_sizes.default
_ELEMENTWISE = {
    _aten.add.Tensor,
    _aten.sub.Tensor,
    _aten.mul.Tensor,
    _aten.mul.Scalar,
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
class Piece:
    """One part of a whole, perhaps seen in another shape.

    Attributes:
        whole: the tensor that holds the parts end to end along its last dimension.
        sizes: of the parts.
        index: which one.
        shape: that it is seen in.
    """

    whole: Node
    sizes: tuple[int, ...]
    index: int
    shape: torch.Size

    @classmethod
    def of(cls, node: Node, facts: Facts) -> Piece | None:
        """Read it off a node, if it is one."""
        part: Any = node.args[0] if node.target in VIEWS else node
        split: Any = part.args[0] if part.target is operator.getitem else None
        if split is None or split.target is not _SPLIT:
            return None
        whole, sizes, dim = (*split.args, 0)[:3]
        if dim % len(facts[whole].shape) != len(facts[whole].shape) - 1:
            return None
        return cls(whole, tuple(sizes), part.args[1], facts[node].shape)


def operands(target: Any, args: Sequence[Any], kwargs: Any, facts: Facts) -> list[Piece | Any] | None:
    """The operands of an elementwise operation on like parts of like wholes; numbers stay as they are."""
    if target not in _ELEMENTWISE or any(isinstance(value, Node) for value in kwargs.values()):
        return None
    found = [Piece.of(arg, facts) if isinstance(arg, Node) else arg for arg in args]
    pieces = [x for x in found if isinstance(x, Piece)]
    if not pieces or any(x is None for x in found):
        return None
    like = {(p.sizes, p.index, p.shape, facts[p.whole].shape, facts[p.whole].like.dtype) for p in pieces}
    return found if len(like) == 1 else None


def is_shared(node: Node) -> bool:
    """Whether the same operation is done on most of the other parts, too: those that hold half of the elements."""
    return all(_in_most_parts(node.target, arg) for arg in node.all_input_nodes)


def _in_most_parts(target: Any, operand: Node) -> bool:
    part: Any = operand.args[0] if operand.target in VIEWS else operand
    split: Any = part.args[0] if part.target is operator.getitem else None
    if split is None or split.target is not _SPLIT:
        return False
    sizes = split.args[1]
    reached = {p.args[1] for p in split.users for user in (*p.users, *_viewed(p)) if user.target is target}
    return 2 * sum(sizes[i] for i in reached) >= sum(sizes) and len(reached) > 1


def _viewed(part: Node) -> list[Node]:
    return [user for view in part.users if view.target in VIEWS for user in view.users]


def is_end_to_end(target: Any, args: Sequence[Any], fact: Fact) -> bool:
    """Whether an operation puts tensors end to end along their last dimension."""
    return target is _aten.cat.default and len(args) > 1 and args[1] % len(fact.shape) == len(fact.shape) - 1


def like_operations(parts: Sequence[Node], facts: Facts) -> tuple[Any, list[tuple[Any, ...]]] | None:
    """If the parts, perhaps seen in another shape, are results of one elementwise operation: it and its operands.

    Each operand is a tuple, of a node a part or of a number that all share.
    """
    made: list[Any] = [part.args[0] if part.target in VIEWS else part for part in parts]
    target = made[0].target
    if target not in _ELEMENTWISE or any(node.target is not target or node.kwargs for node in made):
        return None
    operands: list[tuple[Any, ...]] = list(zip(*(node.args for node in made), strict=True))
    for column in operands:
        if not isinstance(column[0], Node):
            alike = len(set(column)) == 1
        else:
            alike = all(
                isinstance(x, Node) and facts[x].shape == facts[n].shape for x, n in zip(column, made, strict=True)
            )
        if not alike:
            return None
    return target, operands
