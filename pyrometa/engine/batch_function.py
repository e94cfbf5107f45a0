"""A function of tasks side by side, taken apart for a recording: a flat list of tensors, and all that is no tensor."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from pyrometa import nest
from pyrometa.engine.asked import Asked
from pyrometa.engine.batch import BatchPath, side_by_side
from pyrometa.engine.in_parts import InParts
from pyrometa.engine.own_tensors import on_others, own_tensors
from pyrometa.engine.packed_noise import unpacked
from pyrometa.engine.problem import PathFunction, Problem, comparable
from pyrometa.explain.reasons import told
from pyrometa.inner import GradientOrder
from pyrometa.nest import Same
from pyrometa.noise.drawn_steps import packed, packed_steps
from pyrometa.recording.fingerprint import Fingerprint
from pyrometa.recording.labels import digest, plain
from pyrometa.types import TaskBatch

_FEW = 5
"""Steps that are recorded one after the other: what they have in common is then made once in a replay."""

_FEW_THAT_GROW = 20
"""The same where factors grow from step to step. At their last size throughout a replay takes longer, up to twice."""


class BatchFunction(Asked):
    """A function of tasks side by side, as a function of tensors that can be recorded."""

    @cached_property
    def key(self) -> nest.Hashed:
        """All that is fixed in a recording, apart from the program's state."""
        problem = self.problem
        names = tuple((name, leaf.requires_grad) for name, leaf in (*problem.leaves.items(), *problem.learned.items()))
        fixed = (comparable(self.function), Same(problem.rule), self.held, problem.steps, problem.adapted)
        return nest.Hashed((*fixed, names, *self.shapes))

    def on_tasks(self, batch: TaskBatch) -> BatchFunction:
        """The same function of other tasks of the same shapes."""
        run = replace(self, batch=batch)
        vars(run)["key"] = self.key
        return run

    @property
    def label(self) -> str:
        """A digest of the key that is the same in every process; rule and plan count by their class alone."""
        return digest(plain(self.key))

    @property
    def title(self) -> str:
        """What is computed, of how many tasks of which shape."""
        return title(self.problem, self.batch, self.function)

    def state(self, known: Fingerprint | None) -> Fingerprint:
        """All that the program depends on besides tensors, and the objects among the tasks' data."""
        objects = {
            name: value
            for role, data in (("support", self.batch.support), ("query", self.batch.query))
            for name, value in (*nest.opaque(role, data.args), *nest.opaque(f"{role}.kwargs", data.kwargs))
        }
        if not type(self.problem.rule).__module__.startswith("pyrometa."):
            objects["inner"] = self.problem.rule  # the user's own, which may change as it likes
        return self.problem.program.fingerprint(known, objects)

    def tensors(self) -> list[Tensor]:
        """All tensors that differ from one replay to the next."""
        own = own_tensors(self.problem, self.batch)
        noise = (*packed_steps(self.batch.support_noise), *packed(self.batch.query_noise))
        return [*(value.detach() for value in own), *noise]

    def run(self) -> Any:
        """The function of the tasks, not recorded."""
        path = BatchPath(self.problem, self.batch, self.function.order, self.plan, self.function.unrolled_steps)
        return side_by_side(self.function, path)

    def on(self, tensors: Sequence[Tensor]) -> Any:
        """The function of other :meth:`tensors`, without a look at their values, so that it can be recorded."""
        problem, batch = self._rebuilt(tensors)
        return side_by_side(self.function, self.path_on(problem, batch), thorough=True)

    def in_parts(self, parts: MutableMapping[Any, Any], *, compiled: bool) -> InParts | None:
        """A recording of one step for all; None for few steps.

        A meta-gradient that solves at the last point asks more of it than a replay can tell.
        """
        solves = self.function.order is GradientOrder.SECOND and self.function.unrolled_steps == 0
        few = len(self.batch.support_noise) <= (_FEW_THAT_GROW if self.plan.grows else _FEW)
        return None if few or solves else InParts(parts, compiled=compiled)

    def told(self, error: Exception) -> str:
        """An error in words for the program's author."""
        return told(self.problem.program, error)

    def _rebuilt(self, tensors: Sequence[Tensor]) -> tuple[Problem, TaskBatch]:
        batch, own = self.batch, own_tensors(self.problem, self.batch)
        leaves = [given.detach().requires_grad_(x.requires_grad) for given, x in zip(tensors, own, strict=False)]
        given = iter(tensors[len(own) :])
        *support_noise, query_noise = (unpacked(given, draws) for draws in (*batch.support_noise, batch.query_noise))
        problem, batch = on_others(self.problem, batch, iter(leaves))
        return problem, replace(batch, support_noise=tuple(support_noise), query_noise=query_noise)


def title(problem: Problem, batch: TaskBatch, function: PathFunction) -> str:
    """What is computed, of how many tasks of which shape."""
    shapes = ", ".join(str(tuple(value.shape[1:])) for value in nest.tensors(batch.support.args))
    tasks = f"{len(batch)} tasks" if len(batch) > 1 else "1 task"
    return f"{type(function).__name__} of {tasks} of {shapes or 'no tensors'}, {problem.steps} inner steps"
