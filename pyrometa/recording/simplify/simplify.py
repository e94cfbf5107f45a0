"""A recorded graph in fewer operations.

Differentiating twice through vmap leaves views of views, copies of constants and the same term several times over. So
the graph is walked through from inputs to outputs and built anew, each value once, until a walk changes nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from pyrometa.recording.simplify.direct import call_directly
from pyrometa.recording.simplify.in_place import write_over_operands
from pyrometa.recording.simplify.numbering import Numbering
from pyrometa.recording.simplify.sums import take_out_of_sums
from pyrometa.recording.tracing import Traced

_aten = torch.ops.aten
_BLANKS = {_aten.empty.memory_format, _aten.empty_like.default, _aten.new_empty.default}
_SQUEEZES = {_aten.squeeze_.dim: _aten.squeeze.dim, _aten.squeeze_.dims: _aten.squeeze.dims}
_WALKS = 12
"""At most so many: each puts one more operation on the slices of a tensor together, where there was one before."""

_ROUNDS = 3
"""How often sums are looked at: what is taken out of one may be in another."""


def simplified(recorded: Traced | GraphModule, inputs: Sequence[Tensor], *, in_place: bool = False) -> GraphModule:
    """A graph that makes the same outputs of the same inputs.

    Args:
        recorded: a graph of ATen operations, which is used up.
        inputs: what it was recorded on.
        in_place: write results over what nothing else needs.
    """
    graph = recorded.graph
    _squeeze_out_of_place(graph)
    graph.eliminate_dead_code(_matters_by_itself)
    if any(writes(node) for node in graph.nodes):
        return GraphModule(recorded, graph)
    likes: dict[Any, Any] = {}
    walk = _walked(recorded, graph, inputs, likes)
    for _ in range(_ROUNDS):
        changed = take_out_of_sums(walk.graph, walk.known)
        walk.graph.eliminate_dead_code()  # what was tried and is dearer, too
        if not changed:
            break
        walk = _walked(recorded, walk.graph, inputs, likes)
    if in_place:
        write_over_operands(walk.graph, walk.known)
    call_directly(walk.graph, walk.known)
    walk.graph.lint()
    return GraphModule(recorded, walk.graph)


def _squeeze_out_of_place(graph: Graph) -> None:
    """``squeeze_`` of what nothing else uses, as vmap has it of a linear layer, writes to no tensor that matters."""
    for node in graph.nodes:
        if node.target in _SQUEEZES and len(node.args[0].users) == 1:
            node.target = _SQUEEZES[node.target]


def _walked(recorded: nn.Module, graph: Graph, inputs: Sequence[Tensor], likes: dict[Any, Any]) -> Numbering:
    """The last of the walks through a graph."""
    for _ in range(_WALKS):
        before = len(graph.nodes)
        walk = Numbering(recorded, graph, inputs, likes)
        graph = walk.graph
        graph.eliminate_dead_code()
        if len(graph.nodes) == before:
            break
    return walk


def _matters_by_itself(node: Node) -> bool:
    """Whether a node is needed even if nothing uses its result, as the filling of a blank that nothing reads is not."""
    fills_for_nobody = writes(node) and all(_is_unread_blank(arg) for arg in node.all_input_nodes)
    return node.is_impure() and not fills_for_nobody


def _is_unread_blank(node: Node) -> bool:
    return node.target in _BLANKS and len(node.users) == 1


def writes(node: Node) -> bool:
    """Whether an operation writes to a tensor that it is given."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable
