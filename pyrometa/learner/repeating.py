"""Meta-steps that are replays, one like the other but for their numbers.

What decides how a meta-step is run is found out once. As long as the same is asked for, and the program's fingerprint
holds, the next ones draw their noise and are replayed at once; and whether data, losses and gradients are finite is
read together with the loss, so that a device is waited for once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pyrometa import generators, nest
from pyrometa.engine import Engine, Problem, Runners
from pyrometa.engine.own_tensors import data_tensors
from pyrometa.engine.problem import comparable
from pyrometa.engine.repeats import Repeats
from pyrometa.inner import Rule
from pyrometa.learner.arguments import Argument, Kwargs, arguments
from pyrometa.learner.beginning import Beginning
from pyrometa.learner.learner import Learner
from pyrometa.nest import Same
from pyrometa.noise.options import Noise
from pyrometa.noise.task_batches import Drawing
from pyrometa.outer import Loss, MetaGradient, of_replay
from pyrometa.processes import Processes
from pyrometa.types import Data, Params, TaskBatch


@dataclass(frozen=True)
class _Steady:
    """A meta-step that was a replay.

    Attributes:
        asked: what it was asked for.
        drawing: how its noise is drawn.
    """

    asked: Any
    drawing: Drawing


class Repeating:
    """What takes a meta-step again, on other numbers."""

    steps: int
    inner: Rule
    meta_gradient: MetaGradient
    noise: Noise
    processes: Processes
    engine: Engine
    _state: Beginning | Learner
    _runners: Runners

    def _again(self, support: Argument, query: Argument | None, kwargs: Kwargs) -> tuple[Loss, Params] | None:
        """The last meta-step on other numbers.

        None where it was no replay, where this one is another, or where a number is not finite. Then all is as before.
        """
        repeats = self._runners.by(self.engine).repeats
        steady = repeats.besides
        if not isinstance(steady, _Steady) or steady.asked != self._asked(support, query, kwargs):
            return None
        before = generators.states()
        made = _replayed(repeats, steady.drawing, support, query, kwargs)
        if made is None:
            repeats.forget()
            generators.restore(before)
        return made

    def _note(
        self, problem: Problem, tasks: list[TaskBatch], support: Argument, query: Argument | None, kwargs: Kwargs
    ) -> None:
        """Take note of a meta-step that may be taken again."""
        repeats, learner = self._runners.by(self.engine).repeats, self._state.known()
        listed = isinstance(support, list) or isinstance(query, list)
        if repeats.last is None or listed or self.processes.count > 1 or problem.program.found.local_sites:
            return
        drawing = learner.drawing(tasks[0], self.steps, self.meta_gradient, self.noise)
        repeats.besides = _Steady(self._asked(support, query, kwargs), drawing)

    def _asked(self, support: Argument, query: Argument | None, kwargs: Kwargs) -> Any:
        """All that decides how a meta-step is run besides the program's state, to compare."""
        learner, by = self._state.known(), self.meta_gradient
        leaves = [(x.requires_grad, x.dtype, x.device, x.shape) for x in learner.leaves.values()]
        learned = [(x.requires_grad, x.dtype, x.device, x.shape) for x in learner.learned.values()]
        data = [nest.layout(given, lambda x: (x.shape, x.dtype, x.device)) for given in (support, query, kwargs)]
        outer = comparable(by), by.order, by.unrolled_steps, by.one_noise
        mode = torch.is_inference_mode_enabled(), self.processes
        return Same(learner), Same(self.inner), self.steps, self.noise, outer, leaves, learned, data, mode


def _replayed(
    repeats: Repeats, drawing: Drawing, support: Argument, query: Argument | None, kwargs: Kwargs
) -> tuple[Loss, Params] | None:
    last = repeats.last
    if last is None:
        return None
    supports = Data(arguments("support", support), kwargs or {})
    queries = supports if query is None else Data(arguments("query", query), kwargs or {})
    run = last.on_tasks(TaskBatch(last.batch.index, supports, queries, *drawing()))
    data = data_tensors(supports) + (data_tensors(queries) if queries is not supports else [])
    return repeats.replayed(run, lambda made: of_replay(made[0], made[1], run.problem, data))
