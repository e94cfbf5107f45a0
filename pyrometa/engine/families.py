"""What tasks of changing sizes are padded to, so that one recording serves a family of shapes.

To record takes as long as some hundred runs, and a replay of a small program takes its time for operations, not for
numbers: 16 tasks of 64 rows take twice as long as 4 tasks of 8, which is gained back only after a thousand replays. So
all sizes that have been seen are padded to one, as long as operations are what takes the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.atomic.untouched import left_alone
from pyrometa.engine.data_rows import HaveRows, NotPaddableError, row_plates, which_have_rows
from pyrometa.engine.options import Engine, is_recorded_now
from pyrometa.engine.padding import stacked
from pyrometa.engine.problem import CountingFunction, PathFunction, Problem
from pyrometa.engine.sizes import Shape, sizes_of, work
from pyrometa.explain.reasons import reason
from pyrometa.nest import Same
from pyrometa.program.program import Program
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


class Family:
    """Tasks that differ in their sizes alone, as far as they have been seen.

    Attributes:
        pads: whether they can be padded.
        recorded: what they were padded to in recordings.
    """

    def __init__(self) -> None:
        self.pads = True
        self.recorded: dict[Shape, None] = {}
        self._examples: dict[tuple[int, int], tuple[Data, Data]] = {}
        self._largest = Shape(1, 1, 1)
        self._fewest: tuple[int, int] | None = None
        self._changing_runs = 0
        self._work: dict[tuple[int, int], float] = {}

    def see(self, groups: Sequence[TaskBatch], shape: Shape) -> int:
        """Note a meta-batch, of such a size.

        Returns:
            The runs that there were since sizes change, this one included; 0 as long as they do not.

        Raises:
            NotPaddableError: the first argument has no rows.
        """
        for group in groups:
            sizes = sizes_of(group)
            if len(self._examples) < _CHANGING and sizes not in self._examples:
                self._examples[sizes] = _copy(group.support.first), _copy(group.query.first)
            self._fewest = _least(self._fewest or sizes, sizes)
        self._largest = self._largest.joined(shape)
        self._changing_runs += len(groups) > 1 or len(self._examples) == _CHANGING
        return self._changing_runs

    def shape(self, program: Program, wanted: Shape, *, any_count: bool) -> Shape | None:
        """What tasks of some size are padded to; None where numbers are what takes the time.

        Args:
            program: whose tasks they are.
            wanted: their size.
            any_count: whether there may be more tasks than there are.

        Raises:
            NotPaddableError: the program fails on rows that are repeated.
        """
        known = [shape for shape in self.recorded if shape.holds(wanted)]
        new = [shape.rounded() for shape in (self._largest.joined(wanted), wanted)]
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
        sets = [*self._examples.values(), *((group.support.first, group.query.first) for group in groups)]
        fewest = self._fewest or shape.sizes
        return stacked(program, groups, shape.sizes, row_plates(program, sets), which_have_rows(sets), fewest=fewest)

    def _work_of(self, program: Program, shape: Shape) -> float:
        """The work of a task with so many rows.

        Raises:
            NotPaddableError: with the reason.
        """
        if shape.sizes not in self._work:
            try:
                with left_alone(program):
                    self._work[shape.sizes] = work(program, *self._sets_of(shape))
            except Exception as error:  # whatever the program raises is the reason
                check_interrupt(error)
                raise NotPaddableError(f"on rows that are repeated the program fails, {reason(error)}") from error
        return self._work[shape.sizes]

    def _sets_of(self, shape: Shape) -> Sequence[Data]:
        """A support and a query set with so many rows."""
        sets = list(self._examples.values())
        have_rows = which_have_rows(sets)
        return [
            data.on(iter(_resized(data.tensors(), of, size)))
            for data, of, size in zip(sets[0], have_rows, shape.sizes, strict=True)
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

    def family(self, problem: Problem, groups: Sequence[TaskBatch], function: PathFunction) -> Family:
        """That of some tasks, of which something is computed."""
        group = groups[0]
        layouts = nest.Hashed(tuple(_without_sizes(data) for data in (group.support, group.query)))
        key = function, Same(problem.rule), problem.adapted, problem.steps, problem.program.modes_now(), layouts
        if key not in self._known:
            self._known[key] = Family()
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
