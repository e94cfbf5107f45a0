"""Operations whose result is in the graph already."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from pyrometa.recording.simplify.known import KnownValues, is_number

_aten = torch.ops.aten
VIEWS = (_aten.view.default, _aten._unsafe_view.default)


def existing(target: Any, known: KnownValues, args: Sequence[Any], kwargs: Any) -> Any:
    """A node that may be the result of an operation, to be checked for shape and dtype; else None."""
    rule = _RULES.get(target)
    return None if rule is None else rule(known, *args, **kwargs)


def _itself(known: KnownValues, x: Any, *args: Any, **kwargs: Any) -> Any:
    """For operations that change no element; the check shows whether they change the shape."""
    return x


def _reshaped(known: KnownValues, x: Node, shape: Sequence[int]) -> Any:
    while x.target in VIEWS and known[x].shape != torch.Size(shape):
        x = x.args[0]  # type: ignore[assignment]
    return x


def _permuted(known: KnownValues, x: Node, dims: Sequence[int]) -> Any:
    return x if list(dims) == list(range(len(dims))) else None


def _transposed(known: KnownValues, x: Node, first: int = 0, second: int = 1) -> Any:
    if first == second:
        return x
    rank = len(known[x].shape)
    before: Any = (*x.args[1:], 0, 1)[:2] if x.target in (_aten.transpose.int, _aten.t.default) else ()
    return x.args[0] if {d % rank for d in before} == {first % rank, second % rank} else None


def _negated(known: KnownValues, x: Node) -> Any:
    return x.args[0] if x.target is _aten.neg.default else None


def _added(known: KnownValues, x: Any, y: Any, alpha: float = 1) -> Any:
    if is_number(known, y, 0.0):
        return x
    return y if alpha == 1 and is_number(known, x, 0.0) else None


def _subtracted(known: KnownValues, x: Any, y: Any, alpha: float = 1) -> Any:
    return x if is_number(known, y, 0.0) else None


def _multiplied(known: KnownValues, x: Any, y: Any) -> Any:
    if is_number(known, y, 1.0):
        return x
    return y if is_number(known, x, 1.0) else None


def _divided(known: KnownValues, x: Any, y: Any) -> Any:
    return x if is_number(known, y, 1.0) else None


def _raised(known: KnownValues, x: Node, power: float) -> Any:
    return x if power == 1 else None


def _taken(known: KnownValues, split: Node, index: int) -> Any:
    """A part of what was put end to end."""
    if split.target is not _aten.split_with_sizes.default:
        return None
    joined, sizes, dim = (*split.args, 0)[:3]
    if not (isinstance(joined, Node) and joined.target is _aten.cat.default and (*joined.args, 0)[1] == dim):
        return None
    parts: Any = joined.args[0]
    return parts[index] if [known[part].shape[dim] for part in parts] == list(sizes) else None  # type: ignore


def _joined(known: KnownValues, parts: Sequence[Node], dim: int = 0) -> Any:
    """All parts of a tensor, in order."""
    split: Any = parts[0].args[0] if parts[0].target is operator.getitem else None
    if split is None or split.target is not _aten.split_with_sizes.default or (*split.args, 0)[2] != dim:
        return None
    expected = [(operator.getitem, (split, i)) for i in range(len(split.args[1]))]
    return split.args[0] if [(part.target, part.args) for part in parts] == expected else None


_RULES: dict[Any, Callable[..., Any]] = {
    _aten.alias.default: _itself,
    _aten.detach.default: _itself,
    _aten.lift_fresh.default: _itself,
    _aten.lift_fresh_copy.default: _itself,
    _aten._to_copy.default: _itself,
    _aten.clone.default: _itself,
    _aten.expand.default: _itself,
    _aten.squeeze.dim: _itself,
    _aten.squeeze.dims: _itself,
    _aten.view.default: _reshaped,
    _aten._unsafe_view.default: _reshaped,
    _aten.permute.default: _permuted,
    _aten.transpose.int: _transposed,
    _aten.t.default: _transposed,
    _aten.neg.default: _negated,
    _aten.add.Tensor: _added,
    _aten.sub.Tensor: _subtracted,
    _aten.mul.Tensor: _multiplied,
    _aten.div.Tensor: _divided,
    _aten.pow.Tensor_Scalar: _raised,
    operator.getitem: _taken,
    _aten.cat.default: _joined,
}
