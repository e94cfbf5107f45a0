"""A recorded function and its vector-Jacobian product as two graphs: one that runs forward, and one back."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch.fx import Graph, GraphModule, Node

from pyrometa.errors import UnsupportedProgramError
from pyrometa.recording.simplify.simplify import writes


@dataclass(frozen=True)
class Halves:
    """A graph in two.

    Attributes:
        forward: from those inputs that are read to the function's results, and then what the other half needs of it.
        back: from that and the cotangents to the products.
        read: positions of the inputs that are read.
    """

    forward: GraphModule
    back: GraphModule
    read: tuple[int, ...]


def split(joint: GraphModule, inputs: int, results: int) -> Halves:
    """Split the graph of a function with its products where the function has its results.

    Args:
        joint: from the function's inputs and the cotangents to the function's results and the products.
        inputs: how many inputs there are; the others are cotangents.
        results: how many results there are; the others are products.

    Raises:
        UnsupportedProgramError: an operation writes to a tensor, so that the order of all operations counts.
    """
    nodes = list(joint.graph.nodes)
    if any(writes(node) for node in nodes):
        raise UnsupportedProgramError("it writes to tensors")
    given = [node for node in nodes if node.op == "placeholder"]
    made = next(node for node in nodes if node.op == "output").args[0]
    late = _late(nodes, made[:results], given[inputs:])
    back = [node for node in nodes if node in late]
    needed = dict.fromkeys([*(x for node in back for x in node.all_input_nodes), *made[results:]])
    kept = [node for node in needed if node not in late and node.op != "get_attr"]
    read = [i for i, node in enumerate(given[:inputs]) if node.users]
    return Halves(
        _graph(joint, [given[i] for i in read], [node for node in nodes if node not in late], [*made[:results], *kept]),
        _graph(joint, [*kept, *given[inputs:]], back, made[results:]),
        tuple(read),
    )


def _late(nodes: Sequence[Node], results: Sequence[Node], cotangents: Collection[Node]) -> set[Node]:
    """What runs back: all that the results do not need, so that it is made where it is used, and kept by none.

    A part of several tensors is taken where these are made.
    """
    early: set[Node] = set()
    reached = list(results)
    while reached:
        node = reached.pop()
        if node not in early:
            early.add(node)
            reached += node.all_input_nodes
    late = set(cotangents)
    for node in nodes:
        taken = node.target is operator.getitem and node.all_input_nodes[0] not in late
        if node.op == "call_function" and node not in early and not taken:
            late.add(node)
    return late


def _graph(joint: GraphModule, given: Sequence[Node], nodes: Sequence[Node], results: Sequence[Node]) -> GraphModule:
    """A graph of some of the calls of another, and of the constants that they need."""
    graph = Graph()
    new = {node: graph.placeholder(f"given_{i}") for i, node in enumerate(given)}
    constants = (node for node in joint.graph.nodes if node.op == "get_attr")
    for node in (*constants, *(node for node in nodes if node.op == "call_function")):
        new[node] = graph.node_copy(node, new.__getitem__)
    graph.output([new[node] for node in results])
    graph.eliminate_dead_code()
    graph.lint()
    return GraphModule(joint, graph)
