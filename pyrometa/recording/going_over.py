"""A recording that goes over to compiled operations after a number of replays that no clock has a say in.

Inductor takes as long as a few thousand replays are faster by; so it starts, in the background, when half as many have
come, and what it has made is taken at a fixed replay, which waits for it if need be. So a run gives the same bits
wherever it is repeated, or resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from pyrometa import generators
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.internals import tree_leaves
from pyrometa.recording.agreement import agree
from pyrometa.recording.background import CannotCompileError, Compilation
from pyrometa.recording.compiled import Compiled, strides_of
from pyrometa.recording.recordable import Graph, Recordable, Replayable
from pyrometa.recording.told_graphs import told

_REPLAYS = 2_000
"""Replays before compiling starts, for large graphs."""

_REPLAYS_OF_ONE = 500_000
"""Divided by the operations of a graph: replays besides, since to start inductor takes as long for few operations."""

_MOST = 10_000
"""Operations past which a graph is not compiled by itself: it takes minutes, and a large memory."""


class GoingOver:
    """A recording, and the compiled form that takes its place.

    Args:
        recorded: the recording.

    Attributes:
        now: what to replay.
        bytes: how much memory it holds, about, without compiled code.
        stays: why there will be no compiled form; None while there may be one.
        seconds: how long this process waited for and loaded the compiled form; None before.
    """

    def __init__(self, recorded: Replayable) -> None:
        operations = recorded.size
        self.now, self.bytes = recorded, recorded.bytes
        self.stays: str | None = f"{operations:,} operations are too many" if operations > _MOST else None
        self.seconds: float | None = None
        self._begins = _REPLAYS + _REPLAYS_OF_ONE // max(operations, 1)
        self._graphs: list[GraphModule] = []
        self._strides: list[tuple[tuple[int, ...], ...]] = []
        self._job: Compilation | None = None

    def of(self, function: Any) -> Any:
        """A replay."""
        return self.now.of(function)

    @property
    def size(self) -> int:
        """How many operations there are."""
        return self.now.size

    def mapped(self, form: Callable[[Graph], Graph]) -> Replayable:
        """The same with another form of each graph."""
        return self.now.mapped(form)

    def is_due(self, replays: int) -> bool:
        """Whether there is something to do for :meth:`at`."""
        begins = self._begins if self._job is None else 2 * self._begins
        return self.stays is None and self.seconds is None and replays >= begins

    def at(self, replays: int, function: Recordable) -> None:
        """Begin to compile, or take what is compiled, if it is time for it.

        Args:
            replays: how many there were, with the one that is to come.
            function: what is to be replayed.
        """
        if not self.is_due(replays):
            return
        started = time.perf_counter()
        try:
            job = self._job = self._job or self._begun(function)
            if replays >= 2 * self._begins:
                self._take(job, function)
                self.seconds = time.perf_counter() - started
        except Exception as error:  # whatever inductor, the system or the loader raise
            check_interrupt(error)
            self.stays = str(error) or type(error).__name__
        if self.stays is not None or self.seconds is not None:
            self._graphs, self._job = [], None

    def _begun(self, function: Recordable) -> Compilation:
        inputs: dict[int, tuple[GraphModule, Sequence[Tensor]]] = {}

        def noting(operations: Graph) -> Graph:
            def run(*given: Tensor) -> Sequence[Tensor]:
                inputs[id(_module(operations))] = _module(operations), given
                return operations(*given)

            return run

        _replayed(self.now.mapped(noting), function)
        self._graphs = [graph for graph, _ in inputs.values()]
        self._strides = [strides_of(given) for _, given in inputs.values()]
        return Compilation([told(graph, given) for graph, given in inputs.values()])

    def _take(self, job: Compilation, function: Recordable) -> None:
        compiled = {
            id(graph): Compiled(graph, artifact, strides)
            for graph, artifact, strides in zip(self._graphs, job.artifacts(), self._strides, strict=True)
        }
        made = self.now.mapped(lambda operations: compiled.get(id(_module(operations)), operations))
        pairs = zip(*(tree_leaves(_replayed(x, function)) for x in (made, self.now)), strict=True)
        if not all(agree(found, expected, double=1e-9, single=1e-3) for found, expected in pairs):
            raise CannotCompileError("compiled it gives other numbers")
        self.now = made

    def __str__(self) -> str:
        if self.seconds is None:
            return str(self.now)
        return f"{self.now}, compiled in the background"


def _module(operations: Graph) -> GraphModule:
    """The graph that is run."""
    found = getattr(operations, "__self__", operations)
    if not isinstance(found, GraphModule):
        raise CannotCompileError("it is no graph")
    return found


def _replayed(made: Replayable, function: Recordable) -> Any:
    with generators.forked():
        return made.of(function)
