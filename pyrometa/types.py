"""The few shapes of data that every part of pyrometa shares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from pyrometa import nest

Params: TypeAlias = dict[str, Tensor]
"""Unconstrained parameter values by name."""

StepNoise: TypeAlias = Sequence[Tensor]
"""The noise of one evaluation of the loss: one tensor a draw, in the program's order."""


@dataclass(frozen=True)
class CountedRows:
    """How many rows of padded data count.

    Attributes:
        count: shape ``()``, or ``(tasks,)`` with a leading task dimension.
        plates: names of the plates whose size is the number of rows.
        padded: of each tensor of the arguments, whether it has so many rows.
    """

    count: Tensor
    plates: frozenset[str]
    padded: tuple[bool, ...]

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

    def __getitem__(self, tasks: int | slice | list[int]) -> Data:
        """One task, some, or several in an order, of data whose tensors have a leading task dimension."""
        args = nest.mapped(lambda tensor: tensor[tasks], self.args)
        return Data(args, self.kwargs, self.rows and replace(self.rows, count=self.rows.count[tasks]))

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
        unpadded: the tasks themselves, where they are padded to one shape.
    """

    index: tuple[int, ...]
    support: Data
    query: Data
    support_noise: tuple[StepNoise, ...]
    query_noise: StepNoise
    unpadded: tuple[TaskData, ...] = ()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, tasks: slice) -> TaskBatch:
        """A slice of the tasks."""
        parts = (self.index[tasks], self.support[tasks], self.query[tasks])
        return TaskBatch(*parts, *self._noise(tasks), self.unpadded[tasks])

    def chosen(self, rows: list[int]) -> TaskBatch:
        """The tasks at these positions of the batch, in this order."""
        parts = (tuple(self.index[row] for row in rows), self.support[rows], self.query[rows])
        unpadded = tuple(self.unpadded[row] for row in rows) if self.unpadded else ()
        return TaskBatch(*parts, *self._noise(rows), unpadded)

    def chunks(self, size: int | None) -> Iterator[TaskBatch]:
        """At most ``size`` tasks at a time; None for all at once."""
        if size is None or size >= len(self):
            yield self
        else:
            yield from (self[start : start + size] for start in range(0, len(self), size))

    def tasks(self) -> Iterator[TaskData]:
        """The tasks, one by one."""
        if self.unpadded:
            yield from self.unpadded
            return
        for row, index in enumerate(self.index):
            yield TaskData(index, self.support[row], self.query[row], *self._noise(row))

    def _noise(self, tasks: int | slice | list[int]) -> tuple[tuple[StepNoise, ...], StepNoise]:
        """The support noise and the query noise of one task, or of some."""
        *support, query = (tuple(draw[tasks] for draw in draws) for draws in (*self.support_noise, self.query_noise))
        return tuple(support), query


@dataclass(frozen=True, eq=False)
class Scale:
    """An adapted parameter that holds scales of Gaussians.

    Attributes:
        transform: takes its unconstrained numbers to the scales, number by number.
        times: of how many coordinates each number is the scale, of the parameter's shape; None where of one each.
    """

    transform: Transform
    times: Tensor | None


@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """Independent Gaussian coordinates of a guide, by the positions that their means and scales have in parameters.

    Attributes:
        scale: name of the parameter that holds the scales.
        mean: name of the parameter that holds the means; None where no adapted one does.
        scale_at: for each coordinate a position in the flat scales; None where these are the coordinates in order.
        mean_at: likewise in the flat means.
    """

    scale: str
    mean: str | None
    scale_at: Tensor | None
    mean_at: Tensor | None


@dataclass(frozen=True)
class FullGaussian:
    r"""A Gaussian of a guide with covariance :math:`L L^\top`.

    Attributes:
        tril: name of the parameter whose entries below the diagonal are those of L, each row divided by its ``scale``.
        scale: name of the parameter that holds the diagonal of L; None where the diagonal of ``tril`` does.
        mean: name of the parameter that is the mean; None where no adapted one is.
        transform: takes unconstrained numbers to the diagonal of L.
    """

    tril: str
    scale: str | None
    mean: str | None
    transform: Transform


@dataclass(frozen=True, eq=False)
class Geometry:
    """Which adapted parameters are means and scales of a guide's Gaussians.

    Attributes:
        scales: the parameters that hold scales of diagonal Gaussians, by name.
        diagonal: the diagonal Gaussians.
        full: those with a full covariance.
        others: the adapted parameters that are neither mean nor scale, by name, each with the reason.
        per_row: whether the loss is divided by the number of rows.
    """

    scales: Mapping[str, Scale]
    diagonal: tuple[DiagonalGaussian, ...]
    full: tuple[FullGaussian, ...]
    others: Mapping[str, str]
    per_row: bool = False

    def without(self, frozen: Collection[str]) -> Geometry:
        """The geometry of what still adapts where some parameters no longer do."""
        if not frozen:
            return self
        mean_alone = "the scale that goes with it does not adapt"
        full, others = [], {name: why for name, why in self.others.items() if name not in frozen}
        for gaussian in self.full:
            parts = {part for part in (gaussian.tril, gaussian.scale) if part}
            if parts.isdisjoint(frozen):
                full.append(replace(gaussian, mean=None if gaussian.mean in frozen else gaussian.mean))
            else:
                left = {part for part in (*parts, gaussian.mean) if part and part not in frozen}
                others.update(dict.fromkeys(left, mean_alone))
        alone = {g.mean for g in self.diagonal if g.mean and g.mean not in frozen and g.scale in frozen}
        others.update(dict.fromkeys(alone, mean_alone))
        diagonal = tuple(
            replace(g, mean=None if g.mean in frozen or g.mean in alone else g.mean)
            for g in self.diagonal
            if g.scale not in frozen
        )
        scales = {name: scale for name, scale in self.scales.items() if name not in frozen}
        return Geometry(scales, diagonal, tuple(full), others, self.per_row)


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
