"""Other tasks in a padded plan, to show whether a program looks at the padding.

What pads a task in a run repeats its last row, which some tasks hide: those that need no padding, or whose rows are all
alike. So a plan for padded tasks is also tried on tasks with as few rows as it may ever serve, that are padded with
other rows than they have: rows of other tasks, made smaller, and with noise that is not zero. The rows are chosen such
that they show what varies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from pyrometa import nest
from pyrometa.engine.data_rows import HaveRows, NotPaddableError
from pyrometa.engine.padding import stacked
from pyrometa.engine.representatives import telling
from pyrometa.program.program import Program
from pyrometa.types import Data, StepNoise, TaskBatch, TaskData

_SEED = 10
_NOISE = 0.3  # of a normal and of a uniform
_ALMOST = 0.01  # which a covariance that is diagonal in every row survives off its diagonal


def refilled(program: Program, tasks: TaskBatch, some: TaskBatch, *, altered: bool) -> TaskBatch | None:
    """Padded tasks with fewer rows and other padding; None where tasks of these sizes are never padded.

    Args:
        program: what is to be tried.
        tasks: padded tasks.
        some: those of them to make others from.
        altered: whether the rows that count are made from those of other tasks too, for data whose own are all alike.

    Raises:
        NotPaddableError: on fewer rows the program makes other draws.
    """
    support, query = tasks.support.rows, tasks.query.rows
    if support is None or query is None:
        return None
    sizes = _size(tasks.support), _size(tasks.query)
    fewest = support.fewest, query.fewest
    if fewest == sizes:
        return None
    supports = _Rows.of([part.support for part in tasks.unpadded], support.padded)
    queries = _Rows.of([part.query for part in tasks.unpadded], query.padded)
    cut = [
        _with_noise_of(
            program,
            replace(
                task,
                support=supports.cut(task.support, fewest[0], altered=altered, showing_all=i == 0),
                query=queries.cut(task.query, fewest[1], altered=altered, showing_all=i == 0),
            ),
        )
        for i, task in enumerate(some.tasks())
    ]
    have_rows = support.padded, query.padded
    batch = stacked(program, list(map(_alone, cut)), sizes, support.plates, have_rows, missing_noise=_NOISE)
    return replace(batch, support=supports.in_padding(batch.support), query=queries.in_padding(batch.query))


def _alone(task: TaskData) -> TaskBatch:
    """A task as a batch of one."""
    support, query = (data.on(iter([tensor[None] for tensor in data.tensors()])) for data in (task.support, task.query))
    *noise, scored = (tuple(draw[None] for draw in draws) for draws in (*task.support_noise, task.query_noise))
    return TaskBatch((task.index,), support, query, noise, scored)


def _size(data: Data) -> int:
    """How many rows each of some padded tasks has, those included that do not count."""
    return nest.tensors(data.args)[0].shape[1]


def _with_noise_of(program: Program, task: TaskData) -> TaskData:
    """A task of fewer rows with the leading blocks of its noise."""
    support_draws = [draw.shape for draw in program.tape(task.support)]
    query_draws = [draw.shape for draw in program.tape(task.query, task.support)]
    noise = tuple(_leading(draws, support_draws) for draws in task.support_noise)
    return replace(task, support_noise=noise, query_noise=_leading(task.query_noise, query_draws))


def _leading(draws: StepNoise, shapes: Sequence[tuple[int, ...]]) -> StepNoise:
    blocks = [draw[tuple(map(slice, shape))] for draw, shape in zip(draws, shapes, strict=False)]
    if len(draws) != len(shapes) or any(block.shape != shape for block, shape in zip(blocks, shapes, strict=True)):
        raise NotPaddableError("the program makes other draws on fewer rows")
    return tuple(blocks)


@dataclass(frozen=True)
class _Rows:
    """The rows of several sets, to make others from.

    Attributes:
        count: how many there are.
        columns: for each tensor of a set its rows in all sets, shape ``(count, ...)``; None for one without rows.
        generator: chooses rows, the same ones in each process.
    """

    count: int
    columns: Sequence[Tensor | None]
    generator: Generator

    @classmethod
    def of(cls, sets: Sequence[Data], have_rows: HaveRows) -> _Rows:
        columns = list(zip(*(nest.tensors(data.args) for data in sets), strict=True))
        known = [
            torch.cat([tensor.flatten(0, 1) for tensor in column]) if has_rows else None
            for column, has_rows in zip(columns, have_rows, strict=True)
        ]
        return cls(sum(len(column.flatten(0, 1)) for column in columns[0]), known, torch.Generator().manual_seed(_SEED))

    def cut(self, data: Data, size: int, *, altered: bool, showing_all: bool) -> Data:
        """A set's first rows; if ``altered``, as many chosen from all sets, perhaps first those that show what varies.

        Whole numbers, which may be indices, stay what they are.
        """
        chosen, scale = self._choice(size)
        if showing_all:
            first = telling([known.reshape(len(known), 1, -1) for known in self.columns if known is not None], size)
            chosen[: len(first)] = torch.tensor(first)

        def change(own: Tensor, known: Tensor) -> Tensor:
            return _smaller(known, chosen, scale, 1.0) if altered and not _is_whole(own) else own[:size]

        return self._changed(data, change)

    def in_padding(self, data: Data) -> Data:
        """Padded sets, with other rows in the place of those that do not count."""
        rows = data.rows
        if rows is None:
            return data
        size = _size(data)
        counts = torch.arange(size, device=rows.count.device) < rows.count[:, None]
        chosen, scale = self._choice(*counts.shape)

        def change(own: Tensor, known: Tensor) -> Tensor:
            fill = _extremes(known, size) if _is_whole(own) else _smaller(known, chosen, scale, _ALMOST)
            return torch.where(counts.view(*counts.shape, *(1,) * (own.dim() - 2)), own, fill)

        return self._changed(data, change)

    def _choice(self, *shape: int) -> tuple[Tensor, Tensor]:
        """Which rows to take, and the number to multiply each by; the same for all tensors."""
        made: dict[str, Any] = {"generator": self.generator, "device": "cpu", "dtype": torch.float64}
        chosen, scale = (torch.rand(shape, **made) for _ in range(2))
        return (chosen * self.count).long(), 0.5 + 0.4 * scale

    def _changed(self, data: Data, change: Callable[[Tensor, Tensor], Tensor]) -> Data:
        tensors = zip(nest.tensors(data.args), self.columns, strict=True)
        changed = (own if known is None else change(own, known) for own, known in tensors)
        return replace(data, args=nest.replaced(data.args, changed))


def _smaller(known: Tensor, chosen: Tensor, scale: Tensor, zero: float) -> Tensor:
    """Rows times a number each, which leaves them in most supports.

    What is zero in all rows would hide what it is multiplied with, so ``zero`` times the number takes its place.
    """
    rows = known[chosen.to(known.device)]
    scale = scale.to(known).view(*scale.shape, *(1,) * (known.dim() - 1))
    return rows * scale + zero * scale * (known == 0).all(0)


def _extremes(known: Tensor, size: int) -> Tensor:
    """Rows that hold in turn the smallest and the largest value that each element has in any known row."""
    odd = torch.arange(size, device=known.device) % 2 == 1
    return torch.where(odd.view(-1, *(1,) * (known.dim() - 1)), known.amax(0), known.amin(0))


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())
