"""Compiled forms of recorded graphs, each for tensors that lie in memory as those that it was compiled for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyrometa import generators
from pyrometa.internals import standalone_compile
from pyrometa.recording.compiler import compiled
from pyrometa.recording.recordable import Graph
from pyrometa.recording.told_graphs import constants, told_nodes

Artifact: TypeAlias = Callable[..., Sequence[Tensor]]
"""What torch's ``standalone_compile`` makes of a graph: a function of its inputs and then of its constants."""


def compiled_graph(graph: GraphModule, inputs: Sequence[Tensor]) -> Graph:
    """A graph compiled by inductor, here and now and for inputs like these, or as inductor has kept it on disk.

    Raises:
        NotToldError: the graph holds what can't be compiled.
    """
    with generators.forked():
        artifact = compiled(
            standalone_compile, told_nodes(graph), [*inputs, *constants(graph)], torch.get_num_threads()
        )
    return Compiled(graph, artifact, strides_of(inputs))


def strides_of(inputs: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    """How tensors lie in memory."""
    return tuple(value.stride() for value in inputs)


class Compiled:
    """What was compiled of a graph, for inputs of the same strides; others are run by the graph itself.

    Args:
        graph: the graph.
        artifact: what it was compiled to.
        strides: of the inputs that it was compiled for.
    """

    def __init__(self, graph: GraphModule, artifact: Artifact, strides: Sequence[tuple[int, ...]]) -> None:
        self.graph = graph
        self._artifact, self._strides, self._constants = artifact, strides, constants(graph)

    def __call__(self, *given: Tensor) -> Sequence[Tensor]:
        """What the graph makes of its inputs."""
        if strides_of(given) == self._strides:
            return self._artifact(*given, *self._constants)
        found: Sequence[Tensor] = self.graph(*given)
        return found
