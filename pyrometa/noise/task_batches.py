"""A meta-batch with the noise of all its evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pyrometa.noise.ahead import draw_noise
from pyrometa.noise.drawn_steps import DrawnSteps
from pyrometa.noise.draws import Tape
from pyrometa.noise.points import Points
from pyrometa.types import Data, StepNoise, TaskBatch


def with_noise(
    groups: Iterable[tuple[tuple[int, ...], Data, Data]],
    tape: Callable[..., Tape],
    points: Callable[..., Points],
    steps: int,
    *,
    one_noise: bool,
) -> list[TaskBatch]:
    """Tasks with the noise of all their evaluations, drawn here and now and nowhere else.

    Args:
        groups: tasks of one shape together: their positions in the meta-batch, their support and query sets.
        tape: the draws of one evaluation on one task: of the loss on a support set, or of the score on a query set,
            given the support set.
        points: how these draws hang together.
        steps: inner steps K.
        one_noise: whether all inner steps of a task see the same noise.
    """
    groups = list(groups)
    positions = [index for index, _, _ in groups]
    different, repeats = _different(steps, one_noise=one_noise)
    supports = [(support.first,) for _, support, _ in groups]
    queries = [(query.first, support.first) for _, support, query in groups]

    def drawn(evaluated: Sequence[tuple[Data, ...]], steps: int) -> list[DrawnSteps]:
        tapes, taken = [tape(*data) for data in evaluated], [points(*data) for data in evaluated]
        return draw_noise(tapes, positions, steps, taken)

    support_noise, query_noise = drawn(supports, different), drawn(queries, 1)
    return [
        TaskBatch(*group, of_support.repeated(repeats), of_query)
        for group, of_support, (of_query,) in zip(groups, support_noise, query_noise, strict=True)
    ]


@dataclass(frozen=True)
class Drawing:
    """How the noise of tasks of one shape is drawn, where that is known already: as :func:`with_noise` draws it.

    Attributes:
        tasks: how many there are.
        steps: inner steps K.
        one_noise: whether all inner steps of a task see the same noise.
        support: the draws of one evaluation on a support set, and how they hang together.
        query: likewise on a query set.
    """

    tasks: int
    steps: int
    one_noise: bool
    support: tuple[Tape, Points]
    query: tuple[Tape, Points]

    def __call__(self) -> tuple[DrawnSteps, StepNoise]:
        """The noise of all support sets, and that of all query sets."""
        different, repeats = _different(self.steps, one_noise=self.one_noise)
        of_support, of_query = (
            DrawnSteps(points.sample(tape, self.tasks, steps), steps)
            for (tape, points), steps in ((self.support, different), (self.query, 1))
        )
        return of_support.repeated(repeats), of_query[0]


def _different(steps: int, *, one_noise: bool) -> tuple[int, int]:
    """How many inner steps have noise of their own, and how many times over these are meant."""
    return (min(steps, 1), steps) if one_noise else (steps, 1)
