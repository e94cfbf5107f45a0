"""What a MetaSVI does at meta-test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from typing import TypeVar

import torch
from torch import Tensor

from pyrometa import generators
from pyrometa.atomic.exclusive import exclusive
from pyrometa.engine import Engine, Problem, Runner, Runners
from pyrometa.explain.reasons import naming_lines
from pyrometa.inner import Rule, step_count
from pyrometa.inner.ranges import check_count
from pyrometa.learner.arguments import Argument, GivenTasks, Kwargs, OneTask, by_shape, one_task
from pyrometa.learner.beginning import Beginning
from pyrometa.learner.learner import Learner, check_grad_mode
from pyrometa.noise.options import Noise
from pyrometa.outer import MetaGradient
from pyrometa.program import AdaptedGuide
from pyrometa.program.adapted import NO_DATA
from pyrometa.program.end_to_end_values import TaskValues
from pyrometa.types import Data, TaskBatch

Fitted = TypeVar("Fitted")


class Adapting:
    """What fits tasks from where training has arrived."""

    steps: int
    inner: Rule
    meta_gradient: MetaGradient
    noise: Noise
    _state: Beginning | Learner
    engine: Engine
    _runners: Runners

    def adapt(self, support: OneTask, steps: int | None = None, *, kwargs: Kwargs = None) -> AdaptedGuide:
        """Fit one task.

        Args:
            support: the task as the model takes it: its single argument, or the tuple of its positional arguments.
            steps: number of inner steps; None for K.
            kwargs: keyword arguments.

        Returns:
            An ordinary guide on the task's adapted parameters, with ``guide.model`` to go with it.
        """
        return self._adapt_tasks(GivenTasks(1, None, [one_task("support", support, kwargs)]), steps)[0]

    def adapt_many(self, supports: Argument, steps: int | None = None, *, kwargs: Kwargs = None) -> list[AdaptedGuide]:
        """Fit many tasks: :meth:`adapt` for each task of a meta-batch."""
        return self._adapt_tasks(self._state.read("supports", supports, kwargs), steps)

    def adapt_along(
        self, supports: Argument, steps: int | None = None, *, kwargs: Kwargs = None
    ) -> list[list[AdaptedGuide]]:
        """Fit many tasks as :meth:`adapt_many`, and keep all of the way.

        Returns:
            For each task its guides after 0, 1, ..., ``steps`` inner steps, on one noise.
        """
        tasks = self._state.read("supports", supports, kwargs)
        along = self._fitted(tasks, steps, Runner.adapted_along)
        return [
            list(guides)
            for guides in zip(*(self._guides(tasks, of_step) for of_step in zip(*along, strict=True)), strict=True)
        ]

    def _adapt_tasks(self, supports: GivenTasks, steps: int | None) -> list[AdaptedGuide]:
        return self._guides(supports, self._fitted(supports, steps, Runner.adapted))

    @exclusive
    @torch.enable_grad()
    def _fitted(
        self, supports: GivenTasks, steps: int | None, how: Callable[[Runner, Problem, list[TaskBatch]], list[Fitted]]
    ) -> list[Fitted]:
        """What a runner makes of each task."""
        steps = self.steps if steps is None else step_count("steps", steps)
        learner = self._ready(supports[0])
        tasks = learner.tasks(supports, supports, steps, self.meta_gradient, self.noise)
        with naming_lines(learner.program):
            return how(self._runner, learner.problem(self.inner, steps), tasks)

    def _guides(self, supports: GivenTasks, fast: Sequence[TaskValues]) -> list[AdaptedGuide]:
        """A guide for each task on its values."""
        program = self._state.known().program
        given = supports if program.reads_support else repeat(NO_DATA, len(supports))
        return [AdaptedGuide(program, values, data) for values, data in zip(fast, given, strict=True)]

    @exclusive
    @torch.enable_grad()
    def sample_many(
        self,
        supports: Argument,
        draws: int = 256,
        steps: int | None = None,
        *,
        sites: Sequence[str] | None = None,
        seed: int | None = None,
        kwargs: Kwargs = None,
        diverged: dict[int, str] | None = None,
    ) -> dict[str, Tensor]:
        """Fit many tasks, and draw from their guides side by side.

        All tasks meet the same noise, and their draws are on the same scrambled Sobol points: so a task's draws depend
        on its own data and the seed, and not on the tasks beside it.

        Args:
            supports: the tasks, of any sizes.
            draws: how many a task; a power of two is best.
            steps: number of inner steps; None for K.
            sites: names of latent sites; None for all of the guide's.
            seed: of the noise and the points; None draws one from the global generator, which is left alone otherwise.
            kwargs: keyword arguments that all tasks share.
            diverged: takes the reason why a task diverges, by its position, and the others are drawn from all the
                same; None raises.

        Returns:
            For each latent site its values, shape ``(tasks, draws, *site)``; NaN of a task that diverges.

        Raises:
            NonFiniteError: an inner step is not finite, and there is no ``diverged``.
            ValueError, TypeError: bad data, no such site, a site of another shape for another task.
        """
        check_count("draws", draws)
        steps = self.steps if steps is None else step_count("steps", steps)
        tasks = self._state.read("supports", supports, kwargs)
        learner = self._ready(tasks[0])
        problem = learner.problem(self.inner, steps)
        seed = int(torch.randint(2**62, ())) if seed is None else seed
        drawn: dict[str, Tensor] = {}
        with generators.forked(), naming_lines(learner.program):
            for index, support, _ in by_shape(tasks, tasks):
                generators.seed(seed)
                batch = self._alike(learner, index, support, steps)
                found = self._runner.drawn(problem, batch, draws, diverged)
                for name, values in _chosen(found, sites).items():
                    _put(drawn, index, values, name, len(tasks))
        for values in drawn.values():
            if diverged and values.is_floating_point():
                values[list(diverged)] = torch.nan
        return drawn

    def latent_sites(self) -> Mapping[str, tuple[torch.Size, torch.dtype]] | None:
        """Shape and type of a draw of each latent site of the guide; None where they follow a task's rows.

        Raises:
            NotInitializedError: before first data; call :meth:`init`.
        """
        return self._state.known().program.found.latents

    def _alike(self, learner: Learner, index: tuple[int, ...], support: Data, steps: int) -> TaskBatch:
        """Tasks of one shape that all meet the same noise."""
        first = GivenTasks(1, support[:1])
        [one] = learner.tasks(first, first, steps, self.meta_gradient, self.noise)
        *noise, scored = (
            tuple(draw.expand(len(index), *draw.shape[1:]) for draw in draws)
            for draws in (*one.support_noise, one.query_noise)
        )
        return replace(one, index=index, support=support, query=support, support_noise=tuple(noise), query_noise=scored)

    def _ready(self, support: Data) -> Learner:
        """The learner, made on first data; a task of other ranks than those is refused."""
        check_grad_mode()
        self._state = learner = self._state.started(support, self.inner, self.steps, self.meta_gradient)
        learner.check_ranks(support)
        return learner

    @property
    def _runner(self) -> Runner:
        return self._runners.by(self.engine)


def _put(found: dict[str, Tensor], index: Sequence[int], values: Tensor, name: str, tasks: int) -> None:
    """Write some tasks' values of a site where they belong.

    Raises:
        ValueError: the site has another shape than for tasks before.
    """
    whole = found.setdefault(name, values.new_empty(tasks, *values.shape[1:]))
    if whole.shape[1:] != values.shape[1:]:
        got = " and ".join(str(tuple(tensor.shape[2:])) for tensor in (whole, values))
        raise ValueError(f"site {name!r} has shapes {got} for different tasks: leave it out by sites=")
    whole[list(index)] = values


def _chosen(values: dict[str, Tensor], sites: Sequence[str] | None) -> dict[str, Tensor]:
    if sites is None:
        return values
    unknown = [name for name in sites if name not in values]
    if unknown:
        raise ValueError(f"the guide samples no site {unknown[0]!r}: its sites are {', '.join(map(repr, values))}")
    return {name: values[name] for name in sites}
