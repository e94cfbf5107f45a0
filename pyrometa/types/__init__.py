"""The few shapes of data that every part of pyrometa shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from pyrometa import nest
from pyrometa.types.geometry import DiagonalGaussian as DiagonalGaussian
from pyrometa.types.geometry import FullGaussian as FullGaussian
from pyrometa.types.geometry import Geometry as Geometry
from pyrometa.types.geometry import LowRankGaussian as LowRankGaussian
from pyrometa.types.geometry import ReadGaussians as ReadGaussians
from pyrometa.types.geometry import Scale as Scale

Params: TypeAlias = dict[str, Tensor]
"""Unconstrained parameter values by name."""

Elements: TypeAlias = Mapping[str, Tensor]
"""For each adapted parameter, whole numbers of its shape: which element of a plate each is of, or -1 for none."""

StepNoise: TypeAlias = Sequence[Tensor]
"""The noise of one evaluation of the loss: one tensor a draw, in the program's order."""


@dataclass(frozen=True)
class CountedRows:
    """How many rows of padded data count.

    Attributes:
        count: shape ``()``, or ``(tasks,)`` with a leading task dimension.
        plates: names of the plates whose size is the number of rows.
        padded: of each tensor of the arguments, whether it has so many rows.
        fewest: how many may count in tasks that are padded to the same size.
    """

    count: Tensor
    plates: frozenset[str]
    padded: tuple[bool, ...]
    fewest: int

    def mask(self, size: int) -> Tensor:
        """Which rows of one task's padded data count, boolean ``(size,)``."""
        return torch.arange(size, device=self.count.device) < self.count


@dataclass(frozen=True)
class Data:
    """What one call of the model and the guide takes.

    Attributes:
        args: positional arguments, each a tensor, a nest of tensors or anything else.
        kwargs: keyword arguments.
        rows: which rows count; None for all.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    rows: CountedRows | None = None

    def __getitem__(self, tasks: int | slice | list[int] | Tensor) -> Data:
        """One task, some, or several in an order, of data whose tensors have a leading task dimension."""
        args = nest.mapped(lambda tensor: tensor[tasks], self.args)
        return Data(args, self.kwargs, self.rows and replace(self.rows, count=self.rows.count[tasks]))

    @cached_property
    def first(self) -> Data:
        """The first task."""
        return self[0]

    def tensors(self) -> list[Tensor]:
        """All that has a task dimension where the data have one: tensors of the arguments, and the count of rows."""
        return [*nest.tensors(self.args), *([self.rows.count] if self.rows else [])]

    def on(self, tensors: Iterator[Tensor]) -> Data:
        """The same data on other :meth:`tensors`."""
        args = nest.replaced(self.args, tensors)
        return Data(args, self.kwargs, self.rows and replace(self.rows, count=next(tensors)))


@dataclass(frozen=True)
class TaskData:
    """One task as an engine takes it: its data and its slice of the meta-step's noise.

    Attributes:
        index: position in the meta-batch.
        support: what the inner loop adapts to.
        query: what the adapted parameters are scored on.
        support_noise: for each inner step, one tensor a draw.
        query_noise: one tensor a draw.
    """

    index: int
    support: Data
    query: Data
    support_noise: tuple[StepNoise, ...]
    query_noise: StepNoise


@dataclass(frozen=True)
class TaskBatch:
    """Tasks of one shape, side by side: every tensor of :class:`TaskData` with a leading task dimension.

    Attributes:
        index: positions in the meta-batch.
        support: what the inner loop adapts to.
        query: what the adapted parameters are scored on.
        support_noise: for each inner step, one tensor a draw, shape ``(tasks, *draw)``.
        query_noise: one tensor a draw, shape ``(tasks, *draw)``.
        unpadded: the tasks themselves in their order, those of one shape together, where they are padded to one shape.
        counted: which tasks count, shape ``(tasks,)``, where others repeat them; None for all.
    """

    index: tuple[int, ...]
    support: Data
    query: Data
    support_noise: Sequence[StepNoise]
    query_noise: StepNoise
    unpadded: tuple[TaskBatch, ...] = ()
    counted: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def layout(self) -> nest.Hashed:
        """Shapes of one task's tensors, and all that is not a tensor: to compare, and to look up by."""
        noise = (*([self.support_noise[0]] if len(self.support_noise) else []), self.query_noise)
        draws = tuple((draw.shape[1:], draw.dtype, draw.device) for draws in noise for draw in draws)
        return nest.Hashed((_layout(self.support), _layout(self.query), draws))

    def __getitem__(self, tasks: slice) -> TaskBatch:
        """A slice of the tasks."""
        parts = (self.index[tasks], self.support[tasks], self.query[tasks])
        return TaskBatch(*parts, *self._noise(tasks), self._of_unpadded(range(len(self))[tasks]))

    def chosen(self, rows: list[int]) -> TaskBatch:
        """The tasks at these positions of the batch, in this order."""
        parts = (tuple(self.index[row] for row in rows), self.support[rows], self.query[rows])
        return TaskBatch(*parts, *self._noise(rows), self._of_unpadded(rows))

    def chunks(self, size: int | None) -> Iterator[TaskBatch]:
        """At most ``size`` tasks at a time; None for all at once."""
        if size is None or size >= len(self):
            yield self
        else:
            yield from (self[start : start + size] for start in range(0, len(self), size))

    def tasks(self) -> Iterator[TaskData]:
        """The tasks, one by one."""
        if self.unpadded:
            yield from (task for part in self.unpadded for task in part.tasks())
            return
        for row, index in enumerate(self.index):
            yield TaskData(index, self.support[row], self.query[row], *self._noise(row))

    def _of_unpadded(self, rows: Sequence[int]) -> tuple[TaskBatch, ...]:
        """The unpadded tasks at these positions, in this order."""
        if not self.unpadded:
            return ()
        places = [(part, row) for part in self.unpadded for row in range(len(part))]
        runs = groupby((places[row] for row in rows), key=lambda place: id(place[0]))
        found = []
        for _, run in runs:
            parts, of_part = zip(*run, strict=True)
            found.append(parts[0] if of_part == tuple(range(len(parts[0]))) else parts[0].chosen(list(of_part)))
        return tuple(found)

    def _noise(self, tasks: int | slice | list[int]) -> tuple[tuple[StepNoise, ...], StepNoise]:
        """The support noise and the query noise of one task, or of some."""
        *support, query = (tuple(draw[tasks] for draw in draws) for draws in (*self.support_noise, self.query_noise))
        return tuple(support), query


def _layout(data: Data) -> Any:
    return (
        nest.layout(data.args, _one_of_many),
        nest.layout(data.kwargs, _one),
        data.rows and (data.rows.plates, data.rows.padded),
    )


def _one(value: Tensor) -> Any:
    return value.shape, value.dtype, value.device


def _one_of_many(value: Tensor) -> Any:
    return value.shape[1:], value.dtype, value.device


class Slotted(Protocol):
    """A parameter and the places in modules where it is held."""

    @property
    def slots(self) -> Sequence[tuple[nn.Module, str]]:
        """``(module, key)`` of each ``module._parameters`` entry that holds it."""


class TwoSides(Protocol):
    """A program as seen from outside its room: by those who name its lines, and those who leave it as it was."""

    @property
    def model(self) -> Callable[..., Any]:
        """The model."""

    @property
    def guide(self) -> Callable[..., Any]:
        """The guide."""

    @property
    def leaves(self) -> Mapping[str, Slotted]:
        """Its parameters by name."""

    @property
    def site_lines(self) -> Mapping[str, str]:
        """Where it samples each site, as far as it is known."""

    def modules(self) -> list[nn.Module]:
        """Every module of the program, once."""

    def mend_kept(self) -> None:
        """Leave in what it kept of tasks side by side the last task's tensors."""
