"""Other tasks in a padded plan, to show whether a program looks at the padding.

What pads a task in a run repeats its last row, which some tasks hide: those that need no padding, or whose rows are all
alike. So a plan for padded tasks is also tried on tasks with as few rows as it may ever serve, that are padded with
other rows than they have: rows of other tasks, made smaller, and with noise that is not zero. The tasks
and rows to try are chosen such that they show what varies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.engine.padding import NotPaddableError, stacked
from pyrometa.engine.representatives import telling
from pyrometa.program.program import Program
from pyrometa.types import Data, StepNoise, TaskBatch, TaskData

_SEED = 10
_NOISE = 0.3  # of a normal and of a uniform
_AHEAD = 10_000
_ALMOST = 0.01  # which a covariance that is diagonal in every row survives off its diagonal


def to_try(tasks: TaskBatch) -> TaskBatch:
    """The first two tasks, and of padded ones those that show what may be mixed, such as where a value is missing."""
    if not tasks.unpadded:
        return tasks[:2]
    columns = []
    for data in (tasks.support, tasks.query):
        rows = data.rows.padded if data.rows else ()
        for tensor, padded in zip(nest.tensors(data.args), rows, strict=True):
            columns.append(tensor.reshape(*(tensor.shape[:2] if padded else (len(tasks), 1)), -1))
    return tasks.chosen(telling(columns))


def refilled(program: Program, tasks: TaskBatch, some: Sequence[TaskData], *, altered: bool) -> TaskBatch | None:
    """Padded tasks with fewer rows and other padding; None where tasks of these sizes are never padded.

    Args:
        program: what is to be tried.
        tasks: padded tasks.
        some: those of them to make others from, unpadded.
        altered: whether the rows that count are made from those of other tasks too, for data whose own are all alike.

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
    supports = _Pool([task.support for task in tasks.unpadded], support.padded)
    queries = _Pool([task.query for task in tasks.unpadded], query.padded)
    cut = [
        _with_noise_of(
            program,
            replace(
                task,
                support=supports.cut(task.support, fewest[0], altered),
                query=queries.cut(task.query, fewest[1], altered),
            ),
        )
        for task in some
    ]
    batch = stacked(program, cut, sizes, support.plates, (support.padded, query.padded), rest=_NOISE)
    return replace(batch, support=supports.on_others(batch.support), query=queries.on_others(batch.query))


def shown(tasks: TaskBatch) -> tuple[tuple[bool, bool], ...]:
    """What of padded tasks may hide from a trial that rows are mixed.

    Returns:
        Of each tensor, those of keyword arguments too, whether it is all one value, and whether it holds a zero.
    """
    sets = [data for data in (tasks.support, tasks.query) if data.rows]
    parts = [part for data in sets for part in (data.args, dict(data.kwargs))]
    return tuple(_seen(tensor) for part in parts for tensor in nest.tensors(part))


def _seen(tensor: Tensor) -> tuple[bool, bool]:
    values = tensor.flatten()
    parts = values[:_AHEAD], values[_AHEAD:]  # of large data the first part mostly tells
    return not any((part != values[:1]).any() for part in parts), not all(part.all() for part in parts)


def _fewest(size: int) -> int:
    """Of the numbers of rows that are padded to a power of two."""
    return size // 2 + 1 if size > 2 else size


def _with_noise_of(program: Program, task: TaskData) -> TaskData:
    """A task of fewer rows with the leading blocks of its noise."""
    ahead = [draw.shape for draw in program.tape(task.support)]
    last = [draw.shape for draw in program.tape(task.query, task.support)]
    noise = tuple(_leading(draws, ahead) for draws in task.support_noise)
    return replace(task, support_noise=noise, query_noise=_leading(task.query_noise, last))


def _leading(draws: StepNoise, shapes: Sequence[tuple[int, ...]]) -> StepNoise:
    blocks = [draw[tuple(map(slice, shape))] for draw, shape in zip(draws, shapes, strict=False)]
    if len(draws) != len(shapes) or any(block.shape != shape for block, shape in zip(blocks, shapes, strict=True)):
        raise NotPaddableError("the program makes other draws on fewer rows")
    return tuple(blocks)


class _Pool:
    """The rows of several sets, to make others from.

    Args:
        sets: whose they are.
        padded: of each of their tensors, whether it has rows.
    """

    def __init__(self, sets: Sequence[Data], padded: Sequence[bool]) -> None:
        self._count = sum(nest.tensors(data.args)[0].shape[0] for data in sets)
        columns = zip(*(nest.tensors(data.args) for data in sets), strict=True)
        self._known = [torch.cat(column) if rows else None for column, rows in zip(columns, padded, strict=True)]
        self._told = False
        self._generator = torch.Generator().manual_seed(_SEED)

    def cut(self, data: Data, rows: int, altered: bool) -> Data:
        """The first rows of a set, or as many others, of which those of the first set show all that varies."""
        chosen, scale = self._choice(rows)
        if not self._told:
            first = telling([known.reshape(len(known), 1, -1) for known in self._known if known is not None], rows)
            chosen[: len(first)] = torch.tensor(first)
            self._told = True

        def change(own: Tensor, known: Tensor | None) -> Tensor:
            if known is None:
                return own
            return _smaller(known, chosen, scale, 1.0) if altered and not _whole(own) else own[:rows]

        return self._changed(data, change)

    def on_others(self, data: Data) -> Data:
        """Padded sets, with other rows in the place of those that do not count."""
        rows = data.rows
        if rows is None:
            return data
        size = nest.tensors(data.args)[0].shape[1]
        counts = torch.arange(size, device=rows.count.device) < rows.count[:, None]
        chosen, scale = self._choice(*counts.shape)

        def change(own: Tensor, known: Tensor | None) -> Tensor:
            if known is None:
                return own
            fill = _extreme(known, size) if _whole(own) else _smaller(known, chosen, scale, _ALMOST)
            return torch.where(counts.view(*counts.shape, *(1,) * (own.dim() - 2)), own, fill)

        return self._changed(data, change)

    def _choice(self, *shape: int) -> tuple[Tensor, Tensor]:
        """Which rows, and how much smaller; the same for all tensors."""
        chosen, scale = (torch.rand(shape, generator=self._generator, dtype=torch.float64) for _ in range(2))
        return (chosen * self._count).long(), 0.5 + 0.4 * scale

    def _changed(self, data: Data, change: Callable[[Tensor, Tensor | None], Tensor]) -> Data:
        tensors = zip(nest.tensors(data.args), self._known, strict=True)
        return replace(data, args=nest.replaced(data.args, (change(own, known) for own, known in tensors)))


def _smaller(known: Tensor, chosen: Tensor, scale: Tensor, zero: float) -> Tensor:
    """Rows times a number each, which leaves them in most supports; what is zero in all of them is a part of that."""
    rows = known[chosen.to(known.device)]
    scale = scale.to(known).view(*scale.shape, *(1,) * (known.dim() - 1))
    return rows * scale + zero * scale * (known == 0).all(0)


def _extreme(known: Tensor, size: int) -> Tensor:
    """In turn the largest and the smallest that each whole number of a row was seen to be."""
    odd = torch.arange(size, device=known.device) % 2 == 1
    return torch.where(odd.view(-1, *(1,) * (known.dim() - 1)), known.amax(0), known.amin(0))


def _whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())
