"""How many tasks are run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrometa.engine.problem import Problem, TaskPath
from pyrometa.inner import Order, adapt
from pyrometa.types import Params, TaskData


@dataclass(frozen=True)
class Engine:
    """Runs tasks one after the other, each through the unchanged Pyro ELBO.

    It changes how tasks are run, never what comes out: this is the reference that a faster engine is
    tested against. Its memory does not depend on the number of tasks.
    """

    def scores(
        self, problem: Problem, tasks: Sequence[TaskData], at: Collection[int], order: Order
    ) -> Iterator[Tensor]:
        """Query losses, a few tasks at a time, so that a caller can differentiate and forget each chunk.

        Args:
            problem: what to adapt, and how.
            tasks: the meta-batch.
            at: inner steps after which to score.
            order: how much of the inner loop the scores can be differentiated through.

        Yields:
            Tensors of shape ``(len(at), tasks in the chunk)``, in the order of ``tasks``.
        """
        for task in tasks:
            path = TaskPath(problem, task, order)
            scored = {}
            for step, point in enumerate(adapt(path, max(at), order)):
                if step in at:
                    with torch.set_grad_enabled(order is not Order.NONE):
                        scored[step] = path.score(point)
            yield torch.stack([scored[step] for step in at])

    def adapted(self, problem: Problem, tasks: Sequence[TaskData]) -> Iterator[Params]:
        """Fast weights of each task after the last step, cut off from any graph."""
        for task in tasks:
            path = TaskPath(problem, task, Order.NONE)
            for last in adapt(path, problem.steps, Order.NONE):
                point = last
            for fast in path.fast_weights(point):
                yield {name: value.detach() for name, value in fast.items()}
