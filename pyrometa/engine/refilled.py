"""Other rows in the padding, to show whether a program looks at it.

What pads a task in a run repeats its last row, which some tasks hide: those that need no padding, or whose rows are all
alike. So a plan for padded tasks is also tried on tasks with as few rows as the plan may ever serve, that are padded
with other rows than they have: rows of other tasks, made smaller, and with noise that is not zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.engine.padding import Columns, NotPaddableError, stacked
from pyrometa.functional import Program
from pyrometa.types import Data, StepNoise, TaskBatch, TaskData

_SEED = 10
_NOISE = 0.3  # of a normal and of a uniform
_NOT_ZERO = 0.01


def refilled(program: Program, tasks: TaskBatch) -> TaskBatch | None:
    """Two padded tasks with fewer rows and other padding; None where tasks of these sizes are never padded.

    Raises:
        NotPaddableError: on fewer rows the program makes other draws.
    """
    support, query = tasks.support.rows, tasks.query.rows
    if support is None or query is None:
        return None
    sizes = nest.tensors(tasks.support.args)[0].shape[1], nest.tensors(tasks.query.args)[0].shape[1]
    fewest = _fewest(sizes[0]), _fewest(sizes[1])
    if fewest == sizes:
        return None
    columns = support.padded, query.padded
    cut = [_cut(program, task, fewest, columns) for task in tasks.unpadded[:2]]
    batch = stacked(program, cut, sizes, support.plates, columns, rest=_NOISE)
    return replace(
        batch,
        support=_on_other_rows(batch.support, [task.support for task in tasks.unpadded]),
        query=_on_other_rows(batch.query, [task.query for task in tasks.unpadded]),
    )


def varied(tasks: TaskBatch) -> tuple[bool, ...]:
    """Of each tensor of whole numbers that is padded, whether it holds two: one value has no other row to show."""
    return tuple(
        bool((tensor != tensor.flatten()[0]).any())
        for data in (tasks.support, tasks.query)
        if data.rows
        for tensor, padded in zip(nest.tensors(data.args), data.rows.padded, strict=True)
        if padded and _whole(tensor) and tensor.numel()
    )


def _whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


def _fewest(size: int) -> int:
    """Of the numbers of rows that are padded to a power of two."""
    return size // 2 + 1 if size > 2 else size


def _cut(program: Program, task: TaskData, rows: tuple[int, int], columns: Columns) -> TaskData:
    support = _first_rows(task.support, rows[0], columns[0])
    query = _first_rows(task.query, rows[1], columns[1])
    ahead = [draw.shape for draw in program.tape(support)]
    last = [draw.shape for draw in program.tape(query, support)]
    noise = tuple(_leading(draws, ahead) for draws in task.support_noise)
    return TaskData(task.index, support, query, noise, _leading(task.query_noise, last))


def _first_rows(data: Data, rows: int, padded: Sequence[bool]) -> Data:
    tensors = zip(nest.tensors(data.args), padded, strict=True)
    return replace(data, args=nest.replaced(data.args, (t[:rows] if has_rows else t for t, has_rows in tensors)))


def _leading(draws: StepNoise, shapes: Sequence[tuple[int, ...]]) -> StepNoise:
    """The leading blocks of draws, which are the noise of fewer rows."""
    blocks = [draw[tuple(map(slice, shape))] for draw, shape in zip(draws, shapes, strict=False)]
    if len(draws) != len(shapes) or any(block.shape != shape for block, shape in zip(blocks, shapes, strict=True)):
        raise NotPaddableError("the program makes other draws on fewer rows")
    return tuple(blocks)


def _on_other_rows(data: Data, pool: Sequence[Data]) -> Data:
    """The same data, with the rows that do not count made from those of a pool."""
    rows = data.rows
    if rows is None:
        return data
    counts = rows.count[:, None].cpu() > torch.arange(nest.tensors(data.args)[0].shape[1])
    generator = torch.Generator().manual_seed(_SEED)
    chosen, scale = (torch.rand(counts.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    columns: list[Tensor] = []
    for own, *others in zip(*(nest.tensors(part.args) for part in (data, *pool)), strict=True):
        if rows.padded[len(columns)]:
            known = torch.cat(others)
            fill = (
                _smaller(known, chosen, scale) if own.is_floating_point() or own.is_complex() else _extreme(known, own)
            )
            own = torch.where(counts.to(own.device).view(*counts.shape, *(1,) * (own.dim() - 2)), own, fill)
        columns.append(own)
    return replace(data, args=nest.replaced(data.args, iter(columns)))


def _smaller(known: Tensor, chosen: Tensor, scale: Tensor) -> Tensor:
    """Rows times 0.5 to 0.9, which leaves them in most supports; what is zero in all of them becomes a little more."""
    rows = known[(chosen * len(known)).long().to(known.device)]
    factors = (0.5 + 0.4 * scale).to(known).view(*scale.shape, *(1,) * (known.dim() - 1))
    return rows * factors + _NOT_ZERO * factors * (known == 0).all(0)


def _extreme(known: Tensor, own: Tensor) -> Tensor:
    """In turn the largest and the smallest that each whole number of a row was seen to be."""
    odd = torch.arange(own.shape[1], device=own.device) % 2 == 1
    return torch.where(odd.view(-1, *(1,) * (own.dim() - 2)), known.amax(0), known.amin(0)).expand(own.shape)
