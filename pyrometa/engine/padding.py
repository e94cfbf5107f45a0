"""Tasks of different sizes as tasks of one shape: rows are repeated, and do not count.

A row of zeros would do for the mask, but not for the program: a density or a network may have no value there, and a
masked NaN is a NaN in the gradient. A row of the task's own has a density wherever the task has one. Sizes are rounded
to powers of two, so that a few shapes, each with a plan and perhaps a recording, serve tasks of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.engine.data_rows import HaveRows, NotPaddableError, count_rows, row_plates, which_have_rows
from pyrometa.explain.reasons import reason
from pyrometa.program.program import Program
from pyrometa.types import CountedRows, Data, StepNoise, TaskBatch, TaskData


def padded(program: Program, groups: Sequence[TaskBatch]) -> list[TaskBatch]:
    """Tasks of different sizes in a few batches, each padded to a power of two of rows.

    A padded row repeats the last one of its task, and is masked at every site of the plates that have the size of the
    data. In each batch the tasks with the smallest support sets come first.

    Args:
        program: whose plates they are.
        groups: tasks of one shape each, of which no two are alike.

    Raises:
        NotPaddableError: with the reason.
    """
    tasks = [task for group in groups for task in group.tasks()]
    plates = row_plates(program, tasks)
    have_rows = which_have_rows(tasks)
    by_size: dict[tuple[int, int], list[TaskData]] = {}
    for task in tasks:
        by_size.setdefault((_rounded(task.support), _rounded(task.query)), []).append(task)
    return [
        stacked(program, sorted(members, key=_sizes), sizes, plates, have_rows) for sizes, members in by_size.items()
    ]


def _sizes(task: TaskData) -> tuple[int, int]:
    return count_rows(task.support), count_rows(task.query)


def _rounded(data: Data) -> int:
    return 1 << (count_rows(data) - 1).bit_length()


def stacked(
    program: Program,
    tasks: Sequence[TaskData],
    sizes: tuple[int, int],
    plates: frozenset[str],
    have_rows: tuple[HaveRows, HaveRows],
    missing_noise: float = 0.0,
) -> TaskBatch:
    """Tasks padded to one size.

    Args:
        program: whose tasks they are.
        tasks: with at most so many rows.
        sizes: rows of the support and of the query sets.
        plates: names of the plates of that size.
        have_rows: which tensors of the support and of the query sets have rows.
        missing_noise: what stands for the noise of rows that a task lacks.

    Raises:
        NotPaddableError: with the reason.
    """
    support = _stacked([task.support for task in tasks], sizes[0], plates, have_rows[0])
    query = _stacked([task.query for task in tasks], sizes[1], plates, have_rows[1])
    first_support, first_query = (replace(data[0], rows=None) for data in (support, query))
    try:
        support_draws = [draw.shape for draw in program.tape(first_support)]
        query_draws = [draw.shape for draw in program.tape(first_query, first_support)]
    except Exception as error:  # whatever the program raises is the reason
        raise NotPaddableError(f"on rows that are repeated the program fails, {reason(error)}") from error
    steps = range(len(tasks[0].support_noise))
    return TaskBatch(
        tuple(task.index for task in tasks),
        support,
        query,
        tuple(_noise([task.support_noise[k] for task in tasks], support_draws, missing_noise) for k in steps),
        _noise([task.query_noise for task in tasks], query_draws, missing_noise),
        tuple(tasks),
    )


def _stacked(sets: Sequence[Data], size: int, plates: frozenset[str], have_rows: HaveRows) -> Data:
    columns = []
    for column, has_rows in zip(zip(*(nest.tensors(data.args) for data in sets), strict=True), have_rows, strict=True):
        if has_rows:
            columns.append(torch.stack([_repeated(tensor, size) for tensor in column]))
        elif len({tensor.shape for tensor in column}) == 1:
            columns.append(torch.stack(column))
        else:
            raise NotPaddableError("a tensor has another number of rows than the first, or differs elsewhere")
    counts = torch.tensor([count_rows(data) for data in sets], device=columns[0].device)
    return Data(nest.replaced(sets[0].args, iter(columns)), sets[0].kwargs, CountedRows(counts, plates, have_rows))


def _repeated(tensor: Tensor, size: int) -> Tensor:
    """A tensor with its last row repeated up to a size."""
    return tensor[torch.arange(size, device=tensor.device).clamp(max=len(tensor) - 1)]


def _noise(draws: Sequence[StepNoise], shapes: Sequence[tuple[int, ...]], missing: float) -> StepNoise:
    """Each task's noise in the leading block of the padded shapes, and a number elsewhere."""
    if any(len(task) != len(shapes) for task in draws):
        raise NotPaddableError("the program makes other draws on more rows")
    found = []
    for column, shape in zip(zip(*draws, strict=True), shapes, strict=True):
        block = column[0].new_full((len(column), *shape), missing)
        for row, draw in zip(block, column, strict=True):
            if draw.dim() != len(shape) or any(n > m for n, m in zip(draw.shape, shape, strict=True)):
                raise NotPaddableError("the program makes other draws on more rows")
            row[tuple(slice(n) for n in draw.shape)] = draw
        found.append(block)
    return tuple(found)
