"""What tasks of changing sizes are padded to, so that one recording serves a family of shapes.

To record takes as long as some dozens of runs, and a replay of a small program takes its time for operations, not for
numbers: 16 tasks of 64 rows take twice as long as 4 tasks of 8, which is gained back only after hundreds of replays. So
all sizes that have been seen are padded to one, as long as operations are what takes the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.atomic.untouched import left_alone
from pyrometa.engine.data_rows import HaveRows, NotPaddableError, row_plates, which_have_rows
from pyrometa.engine.options import Engine, is_recorded_now
from pyrometa.engine.padding import stacked
from pyrometa.engine.problem import CountingFunction, PathFunction, Problem, comparable
from pyrometa.engine.sizes import Shape, sizes_of, work
from pyrometa.engine.trial import UnprovedError
from pyrometa.explain.reasons import reason
from pyrometa.nest import Same
from pyrometa.program.program import Program
from pyrometa.recording.labels import digest, plain
from pyrometa.types import Data, TaskBatch
from pyrometa.types.latest import Latest

_CHANGING = 3
"""Different sizes from which on they count as changing."""

_SETTLED = 20
"""Runs in which it is seen what sizes come, before anything is recorded that need not be."""

_MOST_TASKS = 64
"""Tasks in a replay; more at once do not gain."""

_FREE = 2**14
"""Elements in an operation of all tasks up to which a replay takes its time for operations, or not much longer."""

_KEPT = 64
"""Of how many kinds of tasks it is known what sizes come."""


@dataclass
class Seen:
    """What sizes of tasks have come, as plain values.

    Attributes:
        pads: whether they can be padded.
        sizes: the first few different rows of support and query set.
        largest: the least size that all can be padded to.
        fewest: the fewest rows of a support and of a query set.
        changing_runs: runs since sizes change.
        recorded: what they were padded to in recordings.
        plates: of the rows, once it is known.
        have_rows: which tensors of support and query set have rows, once it is known.
    """

    pads: bool = True
    sizes: list[tuple[int, int]] = field(default_factory=list)
    largest: Shape = field(default_factory=lambda: Shape(1, 1, 1))
    fewest: tuple[int, int] | None = None
    changing_runs: int = 0
    recorded: list[Shape] = field(default_factory=list)
    plates: frozenset[str] | None = None
    have_rows: tuple[HaveRows, HaveRows] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The same as lists and numbers."""
        shapes = {"largest": list(astuple(self.largest)), "recorded": [list(astuple(shape)) for shape in self.recorded]}
        plates = None if self.plates is None else sorted(self.plates)
        rows = None if self.have_rows is None else [list(of) for of in self.have_rows]
        fewest, sizes = self.fewest and list(self.fewest), [list(size) for size in self.sizes]
        own = {"pads": self.pads, "changing_runs": self.changing_runs, "sizes": sizes, "fewest": fewest}
        return {**own, **shapes, "plates": plates, "have_rows": rows}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Seen:
        """What :meth:`state_dict` told."""
        rows = state["have_rows"] and tuple(map(tuple, state["have_rows"]))
        return cls(
            state["pads"],
            [tuple(size) for size in state["sizes"]],
            Shape(*state["largest"]),
            state["fewest"] and tuple(state["fewest"]),
            state["changing_runs"],
            [Shape(*shape) for shape in state["recorded"]],
            None if state["plates"] is None else frozenset(state["plates"]),
            rows,
        )


class Family:
    """Tasks that differ in their sizes alone, as far as they have been seen.

    Args:
        seen: what sizes have come, and what follows from it.
    """

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self._examples: dict[tuple[int, int], tuple[Data, Data]] = {}
        self._work: dict[tuple[int, int], float] = {}

    def see(self, groups: Sequence[TaskBatch], shape: Shape) -> int:
        """Note a meta-batch, of such a size.

        Returns:
            The runs that there were since sizes change, this one included; 0 as long as they do not.

        Raises:
            NotPaddableError: the first argument has no rows.
        """
        seen = self.seen
        for group in groups:
            sizes = sizes_of(group)
            if len(seen.sizes) < _CHANGING and sizes not in seen.sizes:
                seen.sizes.append(sizes)
            if len(self._examples) < _CHANGING and sizes not in self._examples:
                self._examples[sizes] = _copy(group.support.first), _copy(group.query.first)
            seen.fewest = _least(seen.fewest or sizes, sizes)
        seen.largest = seen.largest.joined(shape)
        seen.changing_runs += len(groups) > 1 or len(seen.sizes) == _CHANGING
        return seen.changing_runs

    def shape(self, program: Program, wanted: Shape, *, any_count: bool) -> Shape | None:
        """What tasks of some size are padded to; None where numbers are what takes the time.

        Args:
            program: whose tasks they are.
            wanted: their size.
            any_count: whether there may be more tasks than there are.

        Raises:
            NotPaddableError: the program fails on rows that are repeated.
        """
        known = [shape for shape in self.seen.recorded if shape.holds(wanted)]
        new = [shape.rounded() for shape in (self.seen.largest.joined(wanted), wanted)]
        if not any_count:
            known = [shape for shape in known if shape.tasks == wanted.tasks]
            new = [replace(shape, tasks=wanted.tasks) for shape in new]
        cheap = (shape for shape in new if shape.tasks * self._work_of(program, shape) <= _FREE)
        return min(known, key=lambda shape: shape.tasks * sum(shape.sizes), default=None) or next(cheap, None)

    def padded(self, program: Program, groups: Sequence[TaskBatch], shape: Shape) -> TaskBatch:
        """All tasks, the smallest first, with the rows of some shape.

        Raises:
            NotPaddableError: with the reason.
        """
        groups = sorted(groups, key=sizes_of)
        plates, have_rows = self.rows(program)
        return stacked(program, groups, shape.sizes, plates, have_rows, fewest=self.seen.fewest)

    def rows(self, program: Program) -> tuple[frozenset[str], tuple[HaveRows, HaveRows]]:
        """The plates of the rows, and which tensors have rows."""
        seen, sets = self.seen, list(self._examples.values())
        if seen.plates is None or seen.have_rows is None:
            if len(sets) < len(seen.sizes):
                raise UnprovedError("what came before a checkpoint is not at hand")
            seen.plates, seen.have_rows = row_plates(program, sets), which_have_rows(sets)
        return seen.plates, seen.have_rows

    def _work_of(self, program: Program, shape: Shape) -> float:
        """The work of a task with so many rows.

        Raises:
            NotPaddableError: with the reason.
        """
        if shape.sizes not in self._work:
            try:
                with left_alone(program):
                    self._work[shape.sizes] = work(program, *self._sets_of(program, shape))
            except Exception as error:  # whatever the program raises is the reason
                check_interrupt(error)
                raise NotPaddableError(f"on rows that are repeated the program fails, {reason(error)}") from error
        return self._work[shape.sizes]

    def _sets_of(self, program: Program, shape: Shape) -> Sequence[Data]:
        """A support and a query set with so many rows."""
        example = next(iter(self._examples.values()))
        _, have_rows = self.rows(program)
        return [
            data.on(iter(_resized(data.tensors(), of, size)))
            for data, of, size in zip(example, have_rows, shape.sizes, strict=True)
        ]


def _least(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return min(one[0], other[0]), min(one[1], other[1])


def _resized(tensors: Sequence[Tensor], have_rows: HaveRows, size: int) -> list[Tensor]:
    """Tensors of one task with so many rows, those that have any."""
    rows = zip(tensors, have_rows, strict=True)
    return [tensor[torch.arange(size, device=tensor.device) % len(tensor)] if of else tensor for tensor, of in rows]


def _copy(data: Data) -> Data:
    """Data in memory of their own."""
    return data.on(iter([tensor.clone() for tensor in data.tensors()]))


class Families:
    """The families of one program's tasks.

    Args:
        options: how tasks are run.
    """

    def __init__(self, options: Engine) -> None:
        self._options = options
        self._most_tasks = min(options.chunk_size or _MOST_TASKS, _MOST_TASKS)
        self._known: Latest[Any, Family] = Latest(_KEPT)
        self._labels: Latest[str, Seen] = Latest(_KEPT)

    def state_dict(self) -> dict[str, Any]:
        """What sizes have come, by labels that are the same in every process."""
        return {label: seen.state_dict() for label, seen in self._labels.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what had come elsewhere."""
        self._known.clear()
        self._labels.clear()
        for label, seen in state.items():
            self._labels[label] = Seen.of(seen)

    def family(self, problem: Problem, groups: Sequence[TaskBatch], function: PathFunction) -> Family:
        """That of some tasks, of which something is computed."""
        group = groups[0]
        layouts = nest.Hashed(tuple(_without_sizes(data) for data in (group.support, group.query)))
        asked = comparable(function), Same(problem.rule), problem.adapted, problem.steps
        key = *asked, problem.program.modes_now(), layouts
        if key not in self._known:
            label = digest(plain((*asked, layouts)))
            self._known[key] = Family(self._labels.setdefault(label, Seen()))
        return self._known[key]

    def padded(
        self, problem: Problem, groups: Sequence[TaskBatch], function: PathFunction, family: Family
    ) -> tuple[TaskBatch, Shape] | None:
        """All tasks in one batch, and the shape to replay them in, some at a time; None where that would not do yet.

        Raises:
            NotPaddableError: with the reason.
        """
        count, rows = sum(map(len, groups)), [sizes_of(group) for group in groups]
        any_count = isinstance(function, CountingFunction)
        wanted = Shape(min(count, self._most_tasks) if any_count else count, *map(max, zip(*rows, strict=True)))
        runs = family.see(groups, wanted)
        if len(family.seen.sizes) == _CHANGING:
            family.rows(problem.program)  # while the first tasks are at hand, so that a checkpoint holds it
        begins = 0 if is_recorded_now(self._options) else _SETTLED
        if runs <= begins or wanted.tasks > self._most_tasks:
            return None
        shape = family.shape(problem.program, wanted, any_count=any_count)
        if shape is None:
            return None
        shape = replace(shape, tasks=min(shape.tasks, self._most_tasks))
        return family.padded(problem.program, groups, shape), shape


def _without_sizes(data: Data) -> Any:
    def of_tensor(value: Tensor) -> Any:
        return value.dim(), value.shape[2:], value.dtype, value.device

    return nest.layout(data.args, of_tensor), nest.layout(data.kwargs, lambda x: (x.shape, x.dtype, x.device))
