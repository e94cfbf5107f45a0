"""A function of tasks side by side, taken apart for a recording: a flat list of tensors, and all that is no tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pyrometa import nest
from pyrometa.engine.batch import BatchPath, side_by_side
from pyrometa.engine.plan import Plan
from pyrometa.engine.problem import PathFunction, Problem
from pyrometa.explain.reasons import told
from pyrometa.nest import Same
from pyrometa.noise.drawn_steps import noise_and_seeds, packed, packed_steps
from pyrometa.recording.fingerprint import Fingerprint
from pyrometa.rewrites.end_to_end import unpack
from pyrometa.types import Data, TaskBatch


@dataclass(frozen=True)
class BatchFunction:
    """A function of tasks side by side, as a function of tensors that can be recorded.

    Attributes:
        problem: what to adapt, and how.
        batch: tasks of one shape.
        function: what is computed of their path.
        plan: how parameters are held.
    """

    problem: Problem
    batch: TaskBatch
    function: PathFunction
    plan: Plan

    @property
    def key(self) -> Any:
        """All that is fixed in a recording, apart from the program's state."""
        problem = self.problem
        names = tuple((name, leaf.requires_grad) for name, leaf in (*problem.leaves.items(), *problem.learned.items()))
        fixed = (self.function, Same(problem.rule), Same(self.plan), problem.steps, problem.adapted)
        return nest.Hashed((*fixed, names, len(self.batch), self.batch.layout))

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """The leaves, which the program may read as inputs only."""
        return self.problem.leaves

    def state(self, known: Fingerprint | None) -> Fingerprint:
        """All that the program depends on besides tensors, and the objects among the tasks' data."""
        objects = {
            name: value
            for role, data in (("support", self.batch.support), ("query", self.batch.query))
            for name, value in (*nest.opaque(role, data.args), *nest.opaque(f"{role}.kwargs", data.kwargs))
        }
        return self.problem.program.fingerprint(known, objects)

    def tensors(self) -> list[Tensor]:
        """All tensors that differ from one replay to the next, in the layout in memory that views are recorded for."""
        problem, batch = self.problem, self.batch
        own = [*problem.leaves.values(), *problem.learned.values(), *_tensors(batch.support), *_tensors(batch.query)]
        own = [value.detach().contiguous() for value in own]
        return [*own, *packed_steps(batch.support_noise), *packed(batch.query_noise)]

    def run(self) -> Any:
        """The function of the tasks, not recorded."""
        path = BatchPath(self.problem, self.batch, self.function.order, self.plan, self.function.unrolled_steps)
        return side_by_side(self.function, path)

    def on(self, tensors: Sequence[Tensor]) -> Any:
        """The function of other :meth:`tensors`, without a look at their values, so that it can be recorded."""
        problem, batch = self._rebuilt(tensors)
        steps = self.function.unrolled_steps
        path = BatchPath(problem, batch, self.function.order, self.plan, steps, check_finite=False)
        return side_by_side(self.function, path, thorough=True)

    def told(self, error: Exception) -> str:
        """An error in words for the program's author."""
        return told(self.problem.program, error)

    def _rebuilt(self, tensors: Sequence[Tensor]) -> tuple[Problem, TaskBatch]:
        given, batch = iter(tensors), self.batch
        leaves, learned = (
            {name: next(given).detach().requires_grad_(value.requires_grad) for name, value in values.items()}
            for values in (self.problem.leaves, self.problem.learned)
        )
        support, query = (_replaced(data, given) for data in (batch.support, batch.query))
        *support_noise, query_noise = (_unpacked(given, draws) for draws in (*batch.support_noise, batch.query_noise))
        return (
            replace(self.problem, leaves=leaves, learned=learned),
            replace(batch, support=support, query=query, support_noise=tuple(support_noise), query_noise=query_noise),
        )


def _tensors(data: Data) -> list[Tensor]:
    return [*data.tensors(), *nest.tensors(data.kwargs)]


def _replaced(data: Data, given: Iterator[Tensor]) -> Data:
    moved = data.on(given)
    return replace(moved, kwargs=nest.replaced(data.kwargs, given))


def _unpacked(given: Iterator[Tensor], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    found: dict[int, Tensor] = {}
    for alike in noise_and_seeds(like):
        parts = unpack(next(given), [like[i][0].numel() for i in alike])
        found.update((i, part.view(like[i].shape).to(like[i].dtype)) for i, part in zip(alike, parts, strict=True))
    return tuple(found[i] for i in range(len(like)))
