"""Sums of products, with what does not change along a sum taken out of it.

A column of the Hessian of a loss that sums over data is made of ``sum(t * c)`` over data, of tangents ``t``, the same
for all data, and of factors ``c``, the same for all columns. Autograd multiplies first, which makes tensors of columns
times data; ``t * sum(c)`` needs none. So products, and sums of products, that lead to nothing but sums are kept as
terms, and each is summed by itself. Of a difference such as ``x - t``, in which digits cancel before they are summed,
no terms are made: each of them has to have a ``t``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Graph, Node

from pyrometa.recording.simplify.known import KnownValues

_aten = torch.ops.aten
_ADD, _SUB, _MUL, _DIV = _aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor
_NEG, _EXPAND, _SUM = _aten.neg.default, _aten.expand.default, _aten.sum.dim_IntList
_LINEAR = {_ADD, _SUB, _MUL, _DIV, _NEG, _EXPAND}

_CALL = 10_000
"""What a call costs besides, in elements."""

_TERMS, _DEPTH = 8, 100
"""How many terms a node has at most, and how far away from a sum it may be."""


@dataclass(frozen=True)
class Term:
    """``number * above / below * varying``, each of which may be missing.

    Attributes:
        number: a number.
        above: a tensor that does not change along the sum.
        below: another one.
        varying: a tensor that does change.
    """

    number: float = 1.0
    above: Node | None = None
    below: Node | None = None
    varying: Node | None = None


def take_out_of_sums(graph: Graph, known: KnownValues) -> bool:
    """Take what does not change along a sum out of it, where that is cheaper.

    Args:
        graph: the graph, which is changed.
        known: what is known of its nodes, and in the end of the new ones.

    Returns:
        Whether anything was changed.
    """
    absorbed = _absorbed(graph)
    together = _sharing(graph, absorbed, {node: known[node].like.numel() for node in absorbed})
    replaced = [_Terms(graph, known, absorbed).replaced(sums) for sums in together]
    return any(replaced)


def _sharing(graph: Graph, absorbed: set[Node], sizes: Mapping[Node, int]) -> list[list[Node]]:
    """The sums of products, those together that share some of their size."""
    found: list[tuple[set[Node], list[Node]]] = []
    for node in graph.nodes:
        if node.target is _SUM and not node.kwargs and node.args[0] in absorbed:
            products = _products(node, sizes)
            like = [group for group in found if group[0] & products]
            found = [group for group in found if not group[0] & products]
            found.append((products.union(*(p for p, _ in like)), [*(s for _, sums in like for s in sums), node]))
    return [sums for _, sums in found]


def _products(node: Node, sizes: Mapping[Node, int]) -> set[Node]:
    """What a sum is of, and all of the same size that this is made of, of what sizes are given for."""
    found: set[Node] = set()
    reached = node.all_input_nodes
    while reached:
        x = reached.pop()
        if x not in found and sizes.get(x) == sizes[node.all_input_nodes[0]]:
            found.add(x)
            reached += x.all_input_nodes
    return found


def _absorbed(graph: Graph) -> set[Node]:
    """Products, and sums of them, that in the end only sums along a dimension make use of."""
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.target in _LINEAR and not node.kwargs and all(u in found or u.target is _SUM for u in node.users):
            found.add(node)
    return found


def _needed_for(nodes: Collection[Node]) -> set[Node]:
    """Some nodes, and what nothing but these makes use of."""
    found = set(nodes)
    reached = list(found)
    while reached:
        more = {x for x in reached.pop().all_input_nodes if x not in found and found.issuperset(x.users)}
        found |= more
        reached += more
    return {node for node in found if node.op == "call_function"}


class _Terms:
    """The terms of nodes, made as they are asked for.

    Args:
        graph: the graph.
        known: what is known of its nodes.
        absorbed: those that need not be there if what they are summed to is.
    """

    def __init__(self, graph: Graph, known: KnownValues, absorbed: set[Node]) -> None:
        self._graph, self._known, self._absorbed = graph, known, absorbed
        self._found: dict[tuple[Node, int], list[Term]] = {}
        self._cost = 0

    def replaced(self, sums: Sequence[Node]) -> bool:
        """Replace sums by those of the terms of their operands, unless that is about as dear; whether it was done."""
        made: dict[Node, Node] = {}
        for node in sums:
            with self._graph.inserting_before(node):
                found = self._sum(node)
            if found is not None:
                made[node] = found
        if 4 * self._cost > 3 * sum(map(self._price, _needed_for(made))):
            return False
        for node, found in made.items():
            node.replace_all_uses_with(found)
        return bool(made)

    def _sum(self, node: Node) -> Node | None:
        """What a sum is of the terms of its operand; None where that is the only one."""
        x: Any = node.args[0]
        dims: Any = node.args[1] or ()
        shape = self._known[x].shape
        summed = [d % len(shape) - len(shape) for d in dims if shape[d] > 1]
        terms = self._of(x, max(summed), 0) if summed else [Term(varying=x)]
        if terms == [Term(varying=x)]:
            return None
        made = self._summed(terms, max(summed), shape)
        is_done = len(summed) == 1 and self._known[made].shape == self._known[node].shape
        return made if is_done else self._call(_SUM, made, *node.args[1:])

    def _summed(self, terms: Sequence[Term], dim: int, shape: torch.Size) -> Node:
        """The terms summed along a dimension, which is kept, and added up."""
        parts = [self._part(term, dim) for term in terms]
        numbers = [term.number * (shape[dim] if term.varying is None else 1) for term in terms]
        total = parts[0]
        for part, number in zip(parts[1:], numbers[1:], strict=True):
            total = self._sum_of(total, part, number / numbers[0])
        if numbers[0] != 1:
            total = self._call(_MUL, total, numbers[0])
        kept = [*shape[:dim], 1, *(shape[dim + 1 :] if dim < -1 else ())]
        return total if list(self._known[total].shape) == kept else self._call(_EXPAND, total, kept)

    def _part(self, term: Term, dim: int) -> Node:
        """A term but for its number, summed."""
        found = None if term.varying is None else self._call(_SUM, term.varying, [dim], True)
        return self._over(self._times(found, term.above), term.below)  # type: ignore[return-value]

    def _of(self, node: Node, dim: int, depth: int) -> list[Term]:
        """The terms of a node that changes along a dimension; itself where more of them would be dearer."""
        if (node, dim) not in self._found:
            whole = [Term(varying=node)]
            found = self._split(node, dim, depth) if node in self._absorbed and depth < _DEPTH else whole
            self._found[node, dim] = found or whole
        return self._found[node, dim]

    def _split(self, node: Node, dim: int, depth: int) -> list[Term] | None:
        dtypes = {self._known[x].like.dtype for x in (node, *node.all_input_nodes)}
        if len(dtypes) > 1 or not self._known[node].like.is_floating_point():
            return None
        operands = node.args[:1] if node.target is _EXPAND else node.args
        parts = [self._operand(x, node, dim, depth) for x in operands]
        before = self._cost
        found = self._combined(node, *parts)
        return None if self._cost - before > self._price(node) else found

    def _operand(self, x: Any, node: Node, dim: int, depth: int) -> list[Term]:
        if not isinstance(x, Node):
            return [Term(number=x)]
        shape = self._known[x].shape
        if len(shape) < -dim or shape[dim] == 1:
            return [Term(above=x)]
        return self._of(x, dim, depth + 1) if self._size(x) == self._size(node) else [Term(varying=x)]

    def _combined(self, node: Node, left: list[Term], right: Sequence[Term] = ()) -> list[Term] | None:
        """The terms of an operation on others; None if there are none."""
        if node.target in (_ADD, _SUB):
            sign = 1 if node.target is _ADD else -1
            return self._added(left, [replace(term, number=sign * term.number) for term in right], node)
        if node.target is _NEG:
            return [replace(term, number=-term.number) for term in left]
        if node.target is _EXPAND:
            return left
        if node.target is _MUL and len(left) == 1:
            left, right = list(right), left
        if len(right) > 1:
            return None
        other = right[0] if node.target is _MUL else self._inverse(right[0])
        return None if other is None else [self._product(term, other, self._size(node)) for term in left]

    def _inverse(self, term: Term) -> Term | None:
        """One over a term, but for what changes along the sum."""
        if term.varying is not None or term.number == 0:
            return None
        return Term(1 / term.number, term.below, term.above)

    def _product(self, x: Term, y: Term, size: int) -> Term:
        """The product of two terms of a node of some size."""
        varying, below = self._times(x.varying, y.varying), self._times(x.below, y.below)
        few = varying is not None and self._size(varying) < size
        above = x.above if y.above is None else y.above
        if x.above is not None and y.above is not None:
            small, above = sorted((x.above, y.above), key=self._size)
            if few and self._fits(small, varying):
                varying = self._times(varying, small)
            else:
                above = self._times(small, above)
        if few and above is not None and below is not None and self._fits(below, varying):
            varying, below = self._over(varying, below), None
        return Term(x.number * y.number, above, below, varying)

    def _added(self, left: Sequence[Term], right: Sequence[Term], node: Node) -> list[Term] | None:
        """Terms together, those that have a factor in common put together."""
        found = list(left)
        for term in right:
            merged = ((i, self._merged(other, term)) for i, other in enumerate(found))
            i, one = next(((i, one) for i, one in merged if one is not None), (len(found), term))
            found[i : i + 1] = [one]
        found = [term for term in found if term.number != 0]
        few = all(t.above is not None and 2 * self._size(t.varying) <= self._size(node) for t in found)
        return found if len(found) == 1 or (few and 1 < len(found) <= _TERMS) else None

    def _merged(self, x: Term, y: Term) -> Term | None:
        """The sum of two terms as one, if it can be had."""
        if x.below is not y.below:
            return None
        if x.above is y.above and x.varying is y.varying:
            return replace(x, number=x.number + y.number)
        if x.above is y.above and x.varying is not None and y.varying is not None:
            return replace(x, varying=self._sum_of(x.varying, y.varying, y.number / x.number))
        if x.varying is y.varying and x.above is not None and y.above is not None:
            return replace(x, above=self._sum_of(x.above, y.above, y.number / x.number))
        return None

    def _sum_of(self, x: Node, y: Node, factor: float) -> Node:
        """``x + factor * y``."""
        if abs(factor) == 1:
            return self._call(_ADD if factor == 1 else _SUB, x, y)
        return self._call(_ADD, x, y, alpha=factor)

    def _times(self, x: Node | None, y: Node | None) -> Node | None:
        return (x or y) if x is None or y is None else self._call(_MUL, x, y)

    def _over(self, x: Node | None, y: Node | None) -> Node | None:
        if y is None:
            return x
        return self._call(_aten.reciprocal.default, y) if x is None else self._call(_DIV, x, y)

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        made = self._graph.call_function(target, args, kwargs)
        self._known[made] = self._known.of_call(target, args, kwargs)
        self._cost += self._price(made)
        return made

    def _price(self, node: Node) -> int:
        return _CALL + max(self._size(x) for x in (node, *node.all_input_nodes))

    def _size(self, node: Node | None) -> int:
        return 0 if node is None else self._known[node].like.numel()

    def _fits(self, x: Node, y: Node | None) -> bool:
        """Whether a product of both is as large as the second."""
        return y is not None and torch.broadcast_shapes(
            self._known[x].shape, self._known[y].shape
        ).numel() == self._size(y)
