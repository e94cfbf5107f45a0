"""Tasks of the model's prior, unlimited, and the user's own, in batches of one size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyrometa.amortize.reading import Reading
from pyrometa.tasks import PriorTasks

Row = tuple[Tensor, ...]
Covariates = Callable[[int, torch.Generator], Tensor | Row]

POOL, FRESH, SIZES = 1024, 2, 5  # tasks held, drawn anew for each batch, and numbers of rows


class MadeUpTasks:
    """Batches of tasks, each of as many rows as some size, in turn drawn from the prior and from the user's own.

    A pool of tasks with the largest number of rows is held, and a few of them are drawn anew for each batch; a batch
    takes some rows of some of them, which are as good as a task of their own, since rows are independent given the
    latents.

    Args:
        reading: the model.
        example: one task.
        own: the user's own tasks.
        rows: the smallest and the largest number of rows.
        covariates: a function of ``(rows, generator)`` to a made-up task's arguments; None takes them from own tasks.
        generator: the only source of randomness.
    """

    def __init__(
        self,
        reading: Reading,
        example: Row,
        own: Sequence[Row],
        rows: tuple[int, int],
        covariates: Covariates | None,
        generator: torch.Generator,
    ) -> None:
        self._own, self._generator = own, generator
        self.sizes = _sizes(*rows)
        arguments = covariates or _arguments(reading, example, own)
        self._family = PriorTasks(reading.model, arguments, reading.observed)
        self._pool = self._drawn(POOL)
        self._turn = 0

    @property
    def columns(self) -> Row:
        """The arguments of the tasks held, rows of all tasks together."""
        return tuple(column.flatten(0, 1) for column in self._pool)

    def batch(self, count: int) -> Row:
        """Tasks side by side: of the prior, or every other time of the user's own."""
        size = self.sizes[self._integer(len(self.sizes))]
        self._turn += 1
        if self._own and self._turn % 2:
            return _stacked([self._some(self._own[self._integer(len(self._own))], size) for _ in range(count)])
        return self.of_prior(count, size)

    def of_prior(self, count: int, size: int) -> Row:
        """New tasks of the prior."""
        at = torch.randint(POOL, (FRESH,), generator=self._generator, device=self._generator.device)
        for column, fresh in zip(self._pool, self._drawn(FRESH), strict=True):
            column[at] = fresh
        chosen = torch.randint(POOL, (count,), generator=self._generator, device=self._generator.device)
        return _stacked([self._some(tuple(column[i] for column in self._pool), size) for i in chosen])

    def _drawn(self, count: int) -> Row:
        drawn = self._family.draw(count, self.sizes[-1], self._generator)
        return drawn if isinstance(drawn, tuple) else (drawn,)

    def _some(self, task: Row, size: int) -> Row:
        return some_rows(task, size, self._generator)

    def _integer(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self._generator, device=self._generator.device))


def some_rows(task: Row, size: int, generator: torch.Generator) -> Row:
    """Rows of a task at random: each at most once where it has enough."""
    rows = len(task[0])
    if rows >= size:
        index = torch.randperm(rows, generator=generator, device=generator.device)[:size]
    else:
        index = torch.randint(rows, (size,), generator=generator, device=generator.device)
    return tuple(column[index] for column in task)


def _sizes(smallest: int, largest: int) -> list[int]:
    """A few numbers of rows, evenly spaced in their logarithm."""
    low, high = math.log(smallest), math.log(largest)
    return sorted({round(math.exp(low + (high - low) * i / (SIZES - 1))) for i in range(SIZES)})


def _arguments(reading: Reading, example: Row, own: Sequence[Row]) -> Covariates:
    """The arguments of an own task's rows; where all are observed, placeholders."""
    missing = [i for i in range(len(example)) if i not in reading.observed.values()]
    if missing and not own:
        raise ValueError(
            f"argument {missing[0]} is observed at no site, so made-up tasks need values for it: give your own tasks=, "
            "or covariates=function of (rows, generator) to the model's arguments"
        )
    tasks = own or [example]

    def arguments(rows: int, generator: torch.Generator) -> Row:
        task = torch.randint(len(tasks), (), generator=generator, device=generator.device)
        return some_rows(tasks[int(task)], rows, generator)

    return arguments


def _stacked(tasks: Sequence[Row]) -> Row:
    return tuple(torch.stack(column) for column in zip(*tasks, strict=True))
