"""What an autograd graph depends on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def leaf_ids(outputs: Iterable[Any]) -> set[int]:
    """Ids of the leaf tensors in the autograd graph of ``outputs``."""
    tensors = [t for t in outputs if isinstance(t, Tensor) and t.requires_grad]
    direct = {id(t) for t in tensors if t.grad_fn is None}
    return direct | node_leaf_ids(t.grad_fn for t in tensors)


def node_leaf_ids(nodes: Iterable[Any]) -> set[int]:
    """Ids of the leaf tensors below some autograd nodes."""
    return {id(node.variable) for node in graph_nodes(nodes) if hasattr(node, "variable")}


def graph_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Every node of the autograd graph below ``nodes``, once."""
    queue = [node for node in nodes if node is not None]
    seen = set(queue)
    while queue:
        node = queue.pop()
        yield node
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                queue.append(parent)
