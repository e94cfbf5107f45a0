"""Cheaper forms of an operation, with the same result up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.fx import Node

from pyrometa.recording.simplify.known import KnownValues, is_number

_aten = torch.ops.aten
_ADD, _SUB, _MUL, _DIV = _aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor
_NEG, _POW = _aten.neg.default, _aten.pow.Tensor_Scalar


class Operation(NamedTuple):
    """An operation on nodes, numbers and the results of other operations."""

    target: Any
    args: tuple[Any, ...]


def cheaper(target: Any, known: KnownValues, args: Sequence[Any], kwargs: Any) -> Operation | None:
    """Another operation with the same result; None where there is none that is known to be cheaper.

    A difference for a negated term, a number for a constant full of it, one factor for two numbers in a row, nothing at
    all for a power of zero, as the second derivative of a square has it; and of two operations in a row, the one on
    fewer elements first, where no digits can be lost by it.
    """
    rule = None if kwargs else _RULES.get(target)
    return None if rule is None else rule(known, *args)


def _sum(known: KnownValues, x: Any, y: Any) -> Operation | None:
    if isinstance(x, Node) and isinstance(y, Node):
        if y.target is _NEG:
            return Operation(_SUB, (x, y.args[0]))
        return Operation(_SUB, (y, x.args[0])) if x.target is _NEG else None
    return _shifted(known, x, y)


def _difference(known: KnownValues, x: Any, y: Any) -> Operation | None:
    if isinstance(x, Node) and isinstance(y, Node):
        if is_number(known, x, 0.0) and _is_like(known, x, y):
            return Operation(_NEG, (y,))
        return Operation(_ADD, (x, y.args[0])) if y.target is _NEG else None
    return _shifted(known, x, -y) if isinstance(y, float) else None


def _shifted(known: KnownValues, x: Any, number: Any) -> Operation | None:
    """A normal log density's constant with the logarithm of its scale, where that is smaller than the square.

    Of no other sum: where its parts cancel, as in ``x - x.min() + 0.01``, the number is lost in the rounding of one.
    """
    if not (isinstance(number, float) and isinstance(x, Node) and x.target in (_ADD, _SUB)) or x.kwargs:
        return None
    large, small = x.args
    if not (isinstance(large, Node) and isinstance(small, Node) and _is_smaller(known, small, large)):
        return None
    if not _is_square_below_zero(large):
        return None
    return Operation(x.target, (large, Operation(_ADD, (small, number if x.target is _ADD else -number))))


def _is_square_below_zero(x: Node) -> bool:
    """Whether it is a square over what is negated, which :func:`_quotient` makes of a normal log density's."""
    if x.target is not _DIV:
        return False
    square, below = x.args
    is_square = isinstance(square, Node) and square.target is _POW and square.args[1] in (2, 2.0)
    return is_square and isinstance(below, Node) and below.target is _NEG


def _quotient(known: KnownValues, x: Any, y: Any) -> Operation | None:
    if isinstance(x, Node) and isinstance(y, Node) and x.target is _NEG and _is_smaller(known, y, x):
        return Operation(_DIV, (x.args[0], Operation(_NEG, (y,))))
    return None


def _is_smaller(known: KnownValues, small: Node, large: Node) -> bool:
    """Whether the one can be expanded to the other, and is less than half as large."""
    a, b = known[small], known[large]
    if not a.like.is_floating_point() or a.like.dtype != b.like.dtype or 2 * a.like.numel() > b.like.numel():
        return False
    return torch.broadcast_shapes(a.shape, b.shape) == b.shape


def _difference_from(known: KnownValues, x: Node, number: float) -> Operation | None:
    return Operation(_NEG, (x,)) if number == 0 else None


def _product(known: KnownValues, x: Any, y: Any) -> Operation | None:
    for factor, other in ((x, y), (y, x)):
        if not isinstance(other, Node):
            continue
        number = _number(known, factor) if isinstance(factor, Node) else factor
        if number is None or (isinstance(factor, Node) and not _is_like(known, factor, other)):
            continue
        before = _scaled(known, other)
        if before is not None and _is_in_range(known, other, before[1] * number):
            return _times(before[0], before[1] * number)
        return Operation(_MUL, (other, number)) if isinstance(factor, Node) else None
    if isinstance(x, Node) and isinstance(y, Node):
        for small, large in ((x, y), (y, x)):
            if large.target is _NEG and _is_smaller(known, small, large):
                return Operation(_MUL, (large.args[0], Operation(_NEG, (small,))))
    return None


def _negative(known: KnownValues, x: Node) -> Operation | None:
    before = _scaled(known, x) if x.target is _MUL else None
    return None if before is None else _times(before[0], -before[1])


def _power(known: KnownValues, x: Node, exponent: float) -> Operation | None:
    return Operation(_aten.ones_like.default, (x,)) if exponent == 0 else None


def _expanded(known: KnownValues, x: Node, shape: Sequence[int]) -> Operation | None:
    return Operation(_aten.expand.default, (x.args[0], shape)) if x.target is _aten.expand.default else None


def _is_in_range(known: KnownValues, x: Node, number: float) -> bool:
    """Whether two factors are one that the dtype holds to all its digits."""
    info = torch.finfo(known[x].like.dtype)
    return info.tiny <= abs(number) <= info.max


def _times(x: Node, number: float) -> Operation:
    return Operation(_NEG, (x,)) if number == -1 else Operation(_MUL, (x, number))


def _scaled(known: KnownValues, x: Node) -> tuple[Node, float] | None:
    """What was multiplied with a number, or negated, and the number."""
    if not known[x].like.is_floating_point():
        return None
    if x.target is _NEG:
        return x.args[0], -1.0  # type: ignore[return-value]
    if x.target is _MUL and isinstance(x.args[1], float | int) and isinstance(x.args[0], Node):
        return x.args[0], x.args[1]
    return None


def _number(known: KnownValues, value: Node) -> float | None:
    """The number that all elements of a constant are; of floating point only, where arithmetic with it rounds alike."""
    constant = known[value].constant
    if constant is None or not constant.is_floating_point() or not constant.numel():
        return None
    number = constant.flatten()[0].item()
    return number if known[value].is_full_of(number) else None


def _is_like(known: KnownValues, constant: Node, other: Node) -> bool:
    """Whether the result of a constant and something else has the shape and dtype of the latter."""
    shape = torch.broadcast_shapes(known[constant].shape, known[other].shape)
    return shape == known[other].shape and known[constant].like.dtype == known[other].like.dtype


_RULES: dict[Any, Callable[..., Operation | None]] = {
    _ADD: _sum,
    _SUB: _difference,
    _aten.rsub.Scalar: _difference_from,
    _MUL: _product,
    _aten.mul.Scalar: lambda known, x, number: Operation(_MUL, (x, number)),
    _DIV: _quotient,
    _NEG: _negative,
    _POW: _power,
    _aten.expand.default: _expanded,
}
