"""What is asked of tasks at meta-test."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyrometa.engine.problem import ScoredPath
from pyrometa.inner import GradientOrder, adapt
from pyrometa.types import Params


@dataclass(frozen=True)
class Scores:
    """Query losses of shape ``(len(at), tasks)`` after several numbers of inner steps."""

    at: tuple[int, ...]
    order = GradientOrder.NONE
    unrolled_steps = None

    def __call__(self, path: ScoredPath) -> Tensor:
        """Adapt, and score on the way."""
        points = enumerate(adapt(path, max(self.at)))
        scored = {step: path.score(point) for step, point in points if step in self.at}
        return torch.stack([scored[step] for step in self.at])

    def of_first(self, made: Tensor, tasks: int) -> Tensor:
        """The losses of the first tasks of a path."""
        return made[:, :tasks]


@dataclass(frozen=True)
class FastWeights:
    """Fast weights after the last step, each of shape ``(tasks, *parameter)``."""

    order = GradientOrder.NONE
    unrolled_steps = None

    def __call__(self, path: ScoredPath) -> Params:
        """Adapt."""
        for point in adapt(path, path.problem.steps):
            end = point
        return {name: value.detach() for name, value in path.fast_weights(end).items()}

    def of_first(self, made: Params, tasks: int) -> Params:
        """The fast weights of the first tasks of a path."""
        return {name: value[:tasks] for name, value in made.items()}


@dataclass(frozen=True)
class FastWeightsAlong:
    """Fast weights before the first step and after each, of shape ``(tasks, steps + 1, *parameter)``."""

    order = GradientOrder.NONE
    unrolled_steps = None

    def __call__(self, path: ScoredPath) -> Params:
        """Adapt, and keep each point."""
        points = [path.fast_weights(point) for point in adapt(path, path.problem.steps)]
        return {name: torch.stack([point[name].detach() for point in points], 1) for name in points[0]}

    def of_first(self, made: Params, tasks: int) -> Params:
        """The fast weights of the first tasks of a path."""
        return {name: value[:tasks] for name, value in made.items()}
