"""Tasks of different sizes as tasks of one shape: rows are repeated, and do not count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.errors import UnsupportedProgramError
from pyrometa.explain.reasons import reason
from pyrometa.program.program import Program
from pyrometa.types import CountedRows, Data, StepNoise, TaskBatch, TaskData

Columns: TypeAlias = tuple[tuple[bool, ...], tuple[bool, ...]]
"""Of each tensor of a support and of a query set, whether it has as many rows as the set."""


class NotPaddableError(UnsupportedProgramError):
    """The tasks can't be brought to one shape, or rows can't be left out of the loss; the message says why."""


def padded(program: Program, groups: Sequence[TaskBatch]) -> list[TaskBatch]:
    """Tasks of different sizes in a few batches, each padded to a power of two of rows.

    A padded row repeats one of its task's own, so that it has a density, and is masked at every site of the plates that
    have the size of the data. In each batch the tasks with the smallest support sets come first.

    Args:
        program: whose plates they are.
        groups: tasks of one shape each, of which no two are alike.

    Raises:
        NotPaddableError: with the reason.
    """
    tasks = [task for group in groups for task in group.tasks()]
    plates = _row_plates(program, tasks)
    columns = _with_rows([task.support for task in tasks], [task.query for task in tasks])
    found: dict[Any, list[TaskData]] = {}
    for task in tasks:
        found.setdefault((_rounded(task.support), _rounded(task.query)), []).append(task)
    return [stacked(program, sorted(members, key=_sizes), sizes, plates, columns) for sizes, members in found.items()]


def _row_plates(program: Program, tasks: Sequence[TaskData]) -> frozenset[str]:
    sets = sorted((data for task in tasks for data in (task.support, task.query)), key=_rows)
    if _rows(sets[0]) == _rows(sets[-1]):
        raise NotPaddableError("the tasks differ in more than their rows")
    plates = program.row_plates(sets[0], sets[-1])
    if not plates:
        raise NotPaddableError("the program has no plate of the size of the data")
    return plates


def _rows(data: Data) -> int:
    """The size of the first dimension of the first tensor."""
    first = data.tensors()[0]
    if first.dim() == 0:
        raise NotPaddableError("the first argument has no rows")
    return first.shape[0]


def _sizes(task: TaskData) -> tuple[int, int]:
    return _rows(task.support), _rows(task.query)


def _rounded(data: Data) -> int:
    return 1 << (_rows(data) - 1).bit_length()


def _with_rows(supports: Sequence[Data], queries: Sequence[Data]) -> Columns:
    """Which tensors have as many rows as the first in every set."""
    support, query = _rowed(supports), _rowed(queries)
    if len(support) == len(query):  # both are arguments of one program
        support = query = tuple(s and q for s, q in zip(support, query, strict=True))
    return support, query


def _rowed(sets: Sequence[Data]) -> tuple[bool, ...]:
    if len({nest.layout(data.args, Tensor.dim) for data in sets}) > 1:
        raise NotPaddableError("the tasks differ in what is not a tensor, or in ranks")
    counts = [_rows(data) for data in sets]
    found = tuple(
        len({arg.shape[1:] for arg in column}) == 1
        and all(arg.dim() and len(arg) == count for arg, count in zip(column, counts, strict=True))
        for column in zip(*(nest.tensors(data.args) for data in sets), strict=True)
    )
    if not found[0]:
        raise NotPaddableError("the first argument differs in more than its rows")
    return found


def stacked(
    program: Program,
    tasks: Sequence[TaskData],
    sizes: tuple[int, int],
    plates: frozenset[str],
    columns: Columns,
    rest: float = 0.0,
) -> TaskBatch:
    """Tasks padded to so many rows of support and of query, with a number in the place of noise that they lack.

    Raises:
        NotPaddableError: with the reason.
    """
    support = _stacked([task.support for task in tasks], sizes[0], plates, columns[0])
    query = _stacked([task.query for task in tasks], sizes[1], plates, columns[1])
    try:
        ahead = program.tape(replace(support[0], rows=None))
        last = program.tape(replace(query[0], rows=None), replace(support[0], rows=None))
    except Exception as error:  # whatever the program raises is the reason
        raise NotPaddableError(f"on rows that are repeated the program fails, {reason(error)}") from error
    steps = range(len(tasks[0].support_noise))
    return TaskBatch(
        tuple(task.index for task in tasks),
        support,
        query,
        tuple(_noise([task.support_noise[k] for task in tasks], [d.shape for d in ahead], rest) for k in steps),
        _noise([task.query_noise for task in tasks], [d.shape for d in last], rest),
        tuple(tasks),
    )


def _stacked(sets: Sequence[Data], rows: int, plates: frozenset[str], padded: tuple[bool, ...]) -> Data:
    columns = []
    for column, has_rows in zip(zip(*(nest.tensors(data.args) for data in sets), strict=True), padded, strict=True):
        if has_rows:
            columns.append(torch.stack([_repeated(arg, rows) for arg in column]))
        elif len({arg.shape for arg in column}) == 1:
            columns.append(torch.stack(column))
        else:
            raise NotPaddableError("a tensor has another number of rows than the first, or differs elsewhere")
    counts = torch.tensor([_rows(data) for data in sets], device=columns[0].device)
    return Data(nest.replaced(sets[0].args, iter(columns)), sets[0].kwargs, CountedRows(counts, plates, padded))


def _repeated(arg: Tensor, rows: int) -> Tensor:
    return arg[torch.arange(rows, device=arg.device).clamp(max=len(arg) - 1)]


def _noise(draws: Sequence[StepNoise], shapes: Sequence[tuple[int, ...]], rest: float) -> StepNoise:
    """Each task's noise in the leading block of the padded shapes, and a number elsewhere."""
    if any(len(task) != len(shapes) for task in draws):
        raise NotPaddableError("the program makes other draws on more rows")
    found = []
    for column, shape in zip(zip(*draws, strict=True), shapes, strict=True):
        block = column[0].new_full((len(column), *shape), rest)
        for row, draw in zip(block, column, strict=True):
            if draw.dim() != len(shape) or any(n > m for n, m in zip(draw.shape, shape, strict=True)):
                raise NotPaddableError("the program makes other draws on more rows")
            row[tuple(slice(n) for n in draw.shape)] = draw
        found.append(block)
    return tuple(found)
