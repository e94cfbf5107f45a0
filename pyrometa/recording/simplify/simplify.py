"""One walk through a graph that numbers its values: what is known already is not computed again.

Differentiating twice through vmap leaves views of views, copies of constants and the same term several times over.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from pyrometa.recording.simplify.direct import call_directly
from pyrometa.recording.simplify.facts import Fact, of_call, of_tensor
from pyrometa.recording.simplify.pieces import Piece, is_end_to_end, is_shared, like_operations, operands
from pyrometa.recording.simplify.rules import VIEWS, cheaper, known

_aten = torch.ops.aten
_BLANKS = {_aten.empty.memory_format, _aten.empty_like.default, _aten.new_empty.default}
_BY_SHAPE = {_aten.zeros_like.default, _aten.ones_like.default, _aten.new_zeros.default, _aten.new_ones.default}
_WALKS = 12
"""At most so many: each puts one more operation on the parts of a tensor together, where there was one before."""


def simplified(recorded: GraphModule, inputs: Sequence[Tensor]) -> GraphModule:
    """A graph that makes the same outputs of the same inputs.

    Args:
        recorded: a graph of ATen operations, which is used up.
        inputs: what it was recorded on.
    """
    graph = recorded.graph
    graph.eliminate_dead_code(_matters_by_itself)
    if any(_writes(node) for node in graph.nodes):
        return GraphModule(recorded, graph)
    for _ in range(_WALKS):
        before = len(graph.nodes)
        walk = _Numbering(recorded, graph, inputs)
        graph = walk.graph
        graph.eliminate_dead_code()
        if len(graph.nodes) == before:
            break
    call_directly(graph, walk.facts)
    graph.lint()
    return GraphModule(recorded, graph)


def _matters_by_itself(node: Node) -> bool:
    """Whether a node is needed even if nothing uses its result, as the filling of a blank that nothing reads is not."""
    fills_for_nobody = _writes(node) and all(_is_unread_blank(arg) for arg in node.all_input_nodes)
    return node.is_impure() and not fills_for_nobody


def _is_unread_blank(node: Node) -> bool:
    return node.target in _BLANKS and len(node.users) == 1


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


class _Numbering:
    """Builds, in the order of one graph, another in which each value is made once.

    Attributes:
        graph: the new one.
        facts: what is known of its nodes.
    """

    def __init__(self, module: GraphModule, graph: Graph, inputs: Sequence[Tensor]) -> None:
        self.graph = Graph()
        self._module = module
        self.facts: dict[Node, Fact] = {}
        self._made: dict[Any, Node] = {}
        self._wholes: dict[tuple[Node, ...], Node | None] = {}
        given = iter(inputs)
        new: dict[Node, Node] = {}
        for node in graph.nodes:
            args, kwargs = map_arg((node.args, node.kwargs), new.__getitem__)
            if node.op == "output":
                self.graph.output(args[0])
            elif node.op == "call_function":
                parts = operands(node.target, args, kwargs, self.facts) if node.all_input_nodes else None
                if parts is not None and is_shared(node):
                    new[node] = self._whole(node.target, parts, kwargs)
                else:
                    new[node] = self._call(node.target, args, kwargs)
            else:
                value = next(given) if node.op == "placeholder" else getattr(module, node.target)
                new[node] = self.graph.node_copy(node)
                self.facts[new[node]] = of_tensor(value, constant=node.op == "get_attr")

    def _call(self, target: Any, args: Any, kwargs: Any) -> Node:
        """The node of an operation's result, found or made."""
        other = cheaper(target, self.facts, args, kwargs)
        if other is not None:
            return self._call(*other, {})
        key = (target, _hashable(args), _hashable(kwargs))
        random = torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())
        if key in self._made and not random:
            return self._made[key]
        target, fact = self._fact(target, args, kwargs)
        candidate = known(target, self.facts, args, kwargs)
        if candidate is None and is_end_to_end(target, args, fact):
            candidate = self._together(args[0])
        if isinstance(candidate, Node) and self.facts[candidate].agrees_with(fact):
            made = candidate
        elif not random and self._is_constant(target, args, kwargs):
            made = self._constant(target, args, kwargs, fact)
        else:
            made = self.graph.call_function(target, args, kwargs)
            self.facts[made] = fact
        self._made[key] = made
        return made

    def _fact(self, target: Any, args: Any, kwargs: Any) -> tuple[Any, Fact]:
        """What the result will be; a view that is not one any more becomes a reshape."""
        nodes = _nodes((args, kwargs))
        devices = (self.facts[node].device for node in nodes)
        device = next((d for d in devices if d is not None), kwargs.get("device") or torch.device("cpu"))
        try:
            return target, of_call(target, args, kwargs, self.facts, device)
        except RuntimeError:
            if target not in VIEWS:
                raise
            return _aten.reshape.default, of_call(_aten.reshape.default, args, kwargs, self.facts, device)

    def _is_constant(self, target: Any, args: Any, kwargs: Any) -> bool:
        return target in _BY_SHAPE or all(self.facts[n].constant is not None for n in _nodes((args, kwargs)))

    def _constant(self, target: Any, args: Any, kwargs: Any, fact: Fact) -> Node:
        if target in _BY_SHAPE:
            value = target(torch.empty(self.facts[args[0]].shape, dtype=fact.like.dtype), *args[1:], **kwargs)
        else:
            given = map_arg((args, kwargs), lambda node: self.facts[node].constant)
            value = target(*given[0], **given[1])
        if not isinstance(value, Tensor) or (constant := of_tensor(value, constant=True)).constant is None:
            made = self.graph.call_function(target, args, kwargs)
            self.facts[made] = fact
            return made
        name = f"constant_{len(list(self._module.buffers()))}"
        self._module.register_buffer(name, value, persistent=False)
        made = self.graph.get_attr(name)
        self.facts[made] = constant
        return made

    def _whole(self, target: Any, parts: Sequence[Any], kwargs: Any) -> Node:
        """An operation on parts of some tensors, done on the whole."""
        piece = next(x for x in parts if isinstance(x, Piece))
        whole = self._call(target, tuple(x.whole if isinstance(x, Piece) else x for x in parts), kwargs)
        split = self._call(_aten.split_with_sizes.default, (whole, list(piece.sizes), -1), {})
        part = self._call(operator.getitem, (split, piece.index), {})
        return self._call(_aten.view.default, (part, list(piece.shape)), {})

    def _together(self, parts: Sequence[Node]) -> Node | None:
        """The whole of some parts, where it is there or one operation on wholes makes it; else None."""
        if tuple(parts) not in self._wholes:
            self._wholes[tuple(parts)] = self._made_whole(parts)
        return self._wholes[tuple(parts)]

    def _made_whole(self, parts: Sequence[Node]) -> Node | None:
        whole = known(_aten.cat.default, self.facts, (parts, -1), {})
        columns = None if whole is not None else like_operations(parts, self.facts)
        if columns is None:
            return whole
        target, operands = columns
        flat = [
            [
                self._call(_aten.view.default, (x, list(self.facts[p].shape)), {})
                for x, p in zip(column, parts, strict=True)
            ]
            if isinstance(column[0], Node)
            else column[0]
            for column in operands
        ]
        found = [self._together(column) if isinstance(column, list) else None for column in flat]
        if all(x is None for x in found):
            return None
        args = [
            column if not isinstance(column, list) else whole or self._call(_aten.cat.default, (column, -1), {})
            for whole, column in zip(found, flat, strict=True)
        ]
        return self._call(target, tuple(args), {})


def _nodes(tree: Any) -> list[Node]:
    found: list[Node] = []
    map_arg(tree, found.append)
    return found


def _hashable(tree: Any) -> Any:
    if isinstance(tree, list | tuple):
        return ("sequence", *map(_hashable, tree))
    if isinstance(tree, Mapping):
        return tuple((key, _hashable(tree[key])) for key in sorted(tree))
    return (type(tree).__name__, tree) if isinstance(tree, bool | int | float) else tree
