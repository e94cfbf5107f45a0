"""A meta-batch with the noise of all its evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pyrometa.noise.ahead import draw_noise
from pyrometa.noise.draws import Tape
from pyrometa.types import Data, TaskBatch


def with_noise(
    groups: Iterable[tuple[tuple[int, ...], Data, Data]], tape: Callable[..., Tape], steps: int, *, one_noise: bool
) -> list[TaskBatch]:
    """Tasks with the noise of all their evaluations, drawn here and now and nowhere else.

    Args:
        groups: tasks of one shape together: their positions in the meta-batch, their support and query sets.
        tape: the draws of one evaluation on one task: of the loss on a support set, or of the score on a query set,
            given the support set.
        steps: inner steps K.
        one_noise: whether all inner steps of a task see the same noise.
    """
    groups = list(groups)
    positions = [index for index, _, _ in groups]
    different, repeats = (min(steps, 1), steps) if one_noise else (steps, 1)
    support_noise = draw_noise([tape(support[0]) for _, support, _ in groups], positions, different)
    query_noise = draw_noise([tape(query[0], support[0]) for _, support, query in groups], positions, 1)
    return [
        TaskBatch(*group, of_support * repeats, of_query)
        for group, of_support, (of_query,) in zip(groups, support_noise, query_noise, strict=True)
    ]
