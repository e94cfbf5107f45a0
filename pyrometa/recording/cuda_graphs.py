"""Recorded operations as CUDA graphs: one launch for all their kernels, from and to memory that stays where it is.

A part of a meta-step is replayed K times before the first of its results is read back, so that results are copied out.
``torch.cuda.make_graphed_callables`` hands out the memory that the next replay writes to, and inductor's CUDA graph
trees capture each of the K calls by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.internals import foreach_copy_
from pyrometa.recording.agreement import are_same
from pyrometa.recording.capturable import CannotCaptureError, check_capturable
from pyrometa.recording.on_cuda import Launch, on_cuda
from pyrometa.recording.recordable import Graph, Replayable

Capture = Callable[[Graph, Sequence[Tensor]], Launch]
"""Captures operations on tensors that stay where they are."""

CAPTURES: dict[str, Capture] = {"cuda": on_cuda}
"""How to capture, by kind of device."""


class Captured:
    """Operations that are captured when they are called for the second time, if that can be done.

    Args:
        operations: takes tensors of the same shapes at every call.
        graph: the same, as it was recorded.
        capture: how to capture.

    Attributes:
        launch: what was captured; None before.
        why: why they are called as they are; None while they may be captured, or are.
    """

    def __init__(self, operations: Graph, graph: GraphModule, capture: Capture) -> None:
        self.launch: Launch | None = None
        self.why: str | None = None
        self.__self__ = graph  # as a method of the graph has it
        self._operations, self._capture = operations, capture
        self._called = False
        self._inputs: Sequence[Tensor] = ()

    @property
    def bytes(self) -> int:
        """The device's memory that is held, in bytes of the cache of recordings."""
        return self.launch.bytes if self.launch else 0

    def __call__(self, *given: Tensor) -> Sequence[Tensor]:
        """The results, in memory of their own."""
        if self.launch is None:
            return self._as_it_is(given)
        _copy(given, self._inputs)
        self.launch.replay()
        made = [torch.empty_like(value) for value in self.launch.results]
        _copy(self.launch.results, made)
        return made

    def _as_it_is(self, given: Sequence[Tensor]) -> Sequence[Tensor]:
        made = self._operations(*given)
        if self._called and self.why is None:
            try:
                self._take(given, made)
            except Exception as error:  # whatever torch or the driver raises is the reason
                check_interrupt(error)
                self.why = next(iter(str(error).splitlines()), type(error).__name__)
        self._called = True
        return made

    def _take(self, given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        with torch.inference_mode(False), torch.no_grad():  # else only that mode could write to what is made here
            check_capturable(self.__self__, given)
            inputs = [value.clone() for value in given]
            launch = self._capture(self._operations, inputs)
            launch.replay()
            if not all(map(are_same, launch.results, made)):
                raise CannotCaptureError("captured it gives other numbers")
        self._inputs, self.launch = inputs, launch


def captured(operations: Graph, graph: GraphModule, inputs: Sequence[Tensor]) -> Graph:
    """Operations that are captured where their device can do that; elsewhere the same."""
    capture = next((CAPTURES[x.device.type] for x in inputs if x.device.type in CAPTURES), None)
    return operations if capture is None else Captured(operations, graph, capture)


def told(recording: Replayable) -> str:
    """How many graphs of a recording are launched as a whole, and why others are not; empty where none could be."""
    found: list[Captured] = []

    def seen(graph: Graph) -> Graph:
        if isinstance(graph, Captured):
            found.append(graph)
        return graph

    recording.mapped(seen)
    whole = sum(graph.launch is not None for graph in found)
    reasons = "; ".join(dict.fromkeys(graph.why for graph in found if graph.why))
    return f"{whole} of {len(found)}" + (f" ({reasons})" if reasons else "") if found else ""


def _copy(values: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    """Copy in one call for each type, which torch does at once."""
    for dtype in {place.dtype for place in into}:
        places, of_type = zip(*(pair for pair in zip(into, values, strict=True) if pair[0].dtype == dtype), strict=True)
        foreach_copy_(places, of_type)
