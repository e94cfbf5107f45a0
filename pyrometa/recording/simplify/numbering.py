"""One walk through a graph that numbers its values: what is in the new graph already is not computed again."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from pyrometa.internals import OpOverload
from pyrometa.recording.simplify.cheaper import Operation, cheaper
from pyrometa.recording.simplify.known import Known, KnownValues, hashable, nodes_in
from pyrometa.recording.simplify.rules import VIEWS, existing
from pyrometa.recording.simplify.slices import (
    ELEMENTWISE,
    Slice,
    is_done_on_most,
    is_end_to_end,
    like_operations,
    slices_of,
)

_aten = torch.ops.aten
_CAT = _aten.cat.default
_EXPAND = _aten.expand.default
_BY_SHAPE = {
    _aten.zeros_like.default,
    _aten.ones_like.default,
    _aten.full_like.default,
    _aten.new_zeros.default,
    _aten.new_ones.default,
}


class Numbering:
    """Builds, in the order of one graph, another in which each value is made once.

    Args:
        module: what holds the constants of both graphs.
        graph: the one to walk through.
        inputs: what it was recorded on.
        likes: what :class:`KnownValues` share.

    Attributes:
        graph: the new one.
        known: what is known of its nodes.
    """

    def __init__(self, module: nn.Module, graph: Graph, inputs: Sequence[Tensor], likes: dict[Any, Any]) -> None:
        self.graph = Graph()
        self.known = KnownValues(likes)
        self._module = module
        self._made: dict[Any, Node] = {}
        self._joins: dict[tuple[Node, ...], Node | None] = {}
        self._walk(graph, inputs)

    def _walk(self, graph: Graph, inputs: Sequence[Tensor]) -> None:
        given = iter(inputs)
        new: dict[Node, Node] = {}
        for node in graph.nodes:
            args, kwargs = map_arg((node.args, node.kwargs), new.__getitem__)
            if node.op == "output":
                self.graph.output([self._own(x) if isinstance(x, Node) else x for x in args[0]])
            elif node.op == "call_function":
                slices = slices_of(node.target, args, kwargs, self.known) if node.all_input_nodes else None
                if slices is not None and is_done_on_most(node):
                    new[node] = self._call_on_joined(node.target, slices, kwargs)
                else:
                    new[node] = self._call(node.target, args, kwargs)
            else:
                value = next(given) if node.op == "placeholder" else getattr(self._module, node.target)
                new[node] = self.graph.node_copy(node)
                self.known[new[node]] = self.known.of_tensor(value, constant=node.op == "get_attr")

    def _own(self, node: Node) -> Node:
        """A result with memory of its own, so that whoever gets it can write to it: no expanded tensor, no constant."""
        if node.target is not _EXPAND and _seen(node).op != "get_attr":
            return node
        return self._new_call(
            _aten.clone.default, (node,), {"memory_format": torch.contiguous_format}, self.known[node]
        )

    def _call(self, target: Any, args: Any, kwargs: Any) -> Node:
        """The node of an operation's result, found or made.

        In this order: another form of the operation that is cheaper; a node that was made of the same operation; one
        that holds the same values anyway; a constant; and only then a new node.
        """
        other = cheaper(target, self.known, args, kwargs)
        if other is not None:
            return self._made_of(other)
        sources = self._sources(args) if target in ELEMENTWISE else args
        if sources != args:
            return self._expanded(self._call(target, sources, kwargs), self._expected(target, args, kwargs)[1].shape)
        key = (target, hashable(args), hashable(kwargs))
        random = torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())
        if key in self._made and not random:
            return self._made[key]
        target, expected = self._expected(target, args, kwargs)
        candidate = existing(target, self.known, args, kwargs)
        if candidate is None and is_end_to_end(target, args, expected):
            candidate = self._joined(args[0])
        if isinstance(candidate, Node) and self.known[candidate].agrees_with(expected):
            made = candidate
        elif not random and self._is_constant(target, args, kwargs):
            made = self._constant(target, args, kwargs, expected)
        else:
            made = self._new_call(target, args, kwargs, expected)
        self._made[key] = made
        return made

    def _made_of(self, operation: Operation) -> Node:
        args = (self._made_of(x) if isinstance(x, Operation) else x for x in operation.args)
        return self._call(operation.target, tuple(args), {})

    def _sources(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """Operands, in the place of those that are expanded what these are expanded from, unless that is a scalar."""
        expanded = (isinstance(x, Node) and x.target is _EXPAND for x in args)
        return tuple(
            x.args[0] if is_expanded and self.known[x.args[0]].shape else x
            for x, is_expanded in zip(args, expanded, strict=True)
        )

    def _expanded(self, node: Node, shape: Sequence[int]) -> Node:
        return self._call(_EXPAND, (node, list(shape)), {})

    def _expected(self, target: Any, args: Any, kwargs: Any) -> tuple[Any, Known]:
        """What the result will be; a view that is not one any more becomes a reshape."""
        try:
            return target, self.known.of_call(target, args, kwargs)
        except RuntimeError:
            if target not in VIEWS:
                raise
            return _aten.reshape.default, self.known.of_call(_aten.reshape.default, args, kwargs)

    def _new_call(self, target: Any, args: Any, kwargs: Any, expected: Known) -> Node:
        made = self.graph.call_function(target, args, kwargs)
        self.known[made] = expected
        return made

    def _is_constant(self, target: Any, args: Any, kwargs: Any) -> bool:
        return target in _BY_SHAPE or all(self.known[n].constant is not None for n in nodes_in((args, kwargs)))

    def _constant(self, target: Any, args: Any, kwargs: Any, expected: Known) -> Node:
        """The result of an operation on constants, computed here and now; too large a one is left to each run."""
        if target in _BY_SHAPE:
            like = torch.empty(self.known[args[0]].shape, dtype=expected.like.dtype, device=expected.device)
            value = target(like, *args[1:], **kwargs)
        else:
            given = map_arg((args, kwargs), lambda node: self.known[node].constant)
            value = target(*given[0], **given[1])
        if not isinstance(value, Tensor) or (constant := self.known.of_tensor(value, constant=True)).constant is None:
            return self._new_call(target, args, kwargs, expected)
        if value.dim() and value.numel() > 1 and constant.is_full_of(value.flatten()[0].item()):
            return self._full(value, constant)
        return self._kept(value)

    def _kept(self, value: Tensor) -> Node:
        """A node of a constant."""
        name = f"constant_{len(list(self._module.buffers()))}"
        self._module.register_buffer(name, value, persistent=False)
        made = self.graph.get_attr(name)
        self.known[made] = self.known.of_tensor(value, constant=True)
        return made

    def _full(self, value: Tensor, known: Known) -> Node:
        """A constant full of one number, expanded from one element, so that operations on it are on that."""
        one = self._kept(value.flatten()[0].clone().view([1] * value.dim()))
        made = self.graph.call_function(_EXPAND, (one, list(value.shape)))
        self.known[made] = known
        return made

    def _call_on_joined(self, target: Any, slices: Sequence[Any], kwargs: Any) -> Node:
        """An operation on a slice of some tensors: that slice of the operation on the tensors."""
        a_slice = next(x for x in slices if isinstance(x, Slice))
        joined = self._call(target, tuple(x.joined if isinstance(x, Slice) else x for x in slices), kwargs)
        split = self._call(_aten.split_with_sizes.default, (joined, list(a_slice.sizes), -1), {})
        taken = self._call(operator.getitem, (split, a_slice.index), {})
        return self._call(_aten.view.default, (taken, list(a_slice.shape)), {})

    def _joined(self, parts: Sequence[Node]) -> Node | None:
        """A node that holds some nodes end to end, where that is there or can be had for less than a ``cat``."""
        key = tuple(parts)
        if key not in self._joins:
            found = existing(_CAT, self.known, (parts, -1), {})
            self._joins[key] = self._operation_on_joined(parts) if found is None else found
        return self._joins[key]

    def _operation_on_joined(self, parts: Sequence[Node]) -> Node | None:
        """Results of one operation end to end, as that operation on its operands end to end.

        ``cat([exp(a), exp(b)])`` is ``exp(ab)``, if ``ab`` holds ``a`` and ``b`` end to end, or can itself be made so.
        Of several operands, as in ``cat([a * c, b * d])``, one that is joined already is enough for a gain: the others
        are joined by a ``cat`` each, which takes the place of the one that is gone. Without any there is no gain.
        """
        made = like_operations(parts, self.known)
        if made is None:
            return None
        target, operands = made
        columns = [self._seen_as(parts, operand) if isinstance(operand, list) else None for operand in operands]
        joined = [None if column is None else self._joined(column) for column in columns]
        if all(node is None for node in joined):
            return None
        args = [
            number if column is None else node or self._call(_CAT, (column, -1), {})
            for number, column, node in zip(operands, columns, joined, strict=True)
        ]
        return self._call(target, tuple(args), {})

    def _seen_as(self, parts: Sequence[Node], nodes: Sequence[Node]) -> list[Node]:
        """Nodes in the shapes of the parts."""
        shapes = (list(self.known[part].shape) for part in parts)
        return [self._call(_aten.view.default, (node, shape), {}) for node, shape in zip(nodes, shapes, strict=True)]


def _seen(node: Node) -> Node:
    """What a view, or a part of a tensor that was split, is of; any other node itself."""
    while node.target is operator.getitem or _is_view(node.target):
        node = node.all_input_nodes[0]
    return node


def _is_view(target: Any) -> bool:
    return isinstance(target, OpOverload) and any(result.alias_info for result in target._schema.returns)
