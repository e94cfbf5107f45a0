"""A function of tensors, recorded once as tensor operations and replayed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyrometa import generators
from pyrometa.internals import TreeSpec, tree_flatten, tree_unflatten
from pyrometa.recording.compiled import compiled_graph
from pyrometa.recording.cuda_graphs import captured
from pyrometa.recording.held import held
from pyrometa.recording.recordable import Graph, Recordable
from pyrometa.recording.simplify import simplified
from pyrometa.recording.tracing import Traced, Tracing

TensorFunction = Callable[[Sequence[Tensor]], Any]
"""From tensors to tensors, in tuples, lists and dictionaries."""


@dataclass(frozen=True)
class Recording:
    """The tensor operations of a function.

    Attributes:
        operations: takes the function's tensors, and returns the tensors of its result as a flat list.
        result: the nest of tuples, lists and dictionaries that the result is.
        counts: how many operations there are, and how many there were before they were simplified.
        seconds: how long it took to record, and to compile; None for the latter where it was not compiled.
    """

    operations: Callable[..., Sequence[Tensor]]
    result: TreeSpec
    counts: tuple[int, int]
    seconds: tuple[float, float | None]

    @property
    def bytes(self) -> int:
        """How much memory it holds, about."""
        return held(self.counts[0], self.operations)

    def of(self, function: Recordable) -> Any:
        """What another function makes of its tensors that is the same but for these."""
        return self.replay(function.tensors())

    def mapped(self, form: Callable[[Graph], Graph]) -> Recording:
        """The same recording with another form of its operations."""
        return replace(self, operations=form(self.operations))

    @property
    def size(self) -> int:
        """How many operations there are."""
        return self.counts[0]

    def replay(self, tensors: Sequence[Tensor]) -> Any:
        """What the function makes of tensors of the same shapes."""
        with torch.no_grad():
            return tree_unflatten(list(self.operations(*tensors)), self.result)

    def __str__(self) -> str:
        return told(self.counts, self.seconds)


def told(counts: tuple[int, int], seconds: tuple[float, float | None]) -> str:
    """How many operations were recorded, of how many, and how long it took."""
    recorded, compiled = seconds
    operations = f"{counts[0]} operations of {counts[1]}, recorded in {recorded:.1f} s"
    return operations if compiled is None else f"{operations}, compiled in {compiled:.1f} s"


def record(
    function: TensorFunction, tensors: Sequence[Tensor], parameters: Mapping[str, Tensor], *, compiled: bool
) -> Recording:
    """Run a function once and write down its tensor operations, drawing nothing from the global generator.

    Args:
        function: what to record.
        tensors: what to run it on.
        parameters: tensors by name that change from one replay to the next; the function may read them as inputs only.
        compiled: whether to compile the operations by inductor.

    Raises:
        UnsupportedProgramError: a tensor that the function reads shares memory with a parameter.
    """
    started = time.perf_counter()
    inputs = [value.clone() for value in tensors]  # so that they share no memory with the parameters
    traced, result = trace(function, inputs, parameters)
    count = len(traced.graph.nodes)
    graph = simplified(traced, inputs, in_place=not compiled)
    done = time.perf_counter()
    operations = compiled_graph(graph, tensors) if compiled else graph
    seconds = (done - started, time.perf_counter() - done if compiled else None)
    return Recording(captured(operations, graph, inputs), result, (len(graph.graph.nodes), count), seconds)


def trace(
    function: TensorFunction, inputs: Sequence[Tensor], parameters: Mapping[str, Tensor]
) -> tuple[Traced, TreeSpec]:
    """The operations of a function, not yet simplified, and the nest that its result is."""
    tracing = Tracing(inputs, parameters)
    with generators.forked(), torch.enable_grad(), tracing:
        flat, result = tree_flatten(function(inputs))
    return tracing.traced(flat), result
