"""The noise of a whole meta-step, drawn at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrometa.noise.draws import Draw, Tape
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
        TaskBatch(*group, ahead * repeats, last)
        for group, ahead, (last,) in zip(groups, support_noise, query_noise, strict=True)
    ]


def draw_noise(
    tapes: Sequence[Tape], tasks: Sequence[Sequence[int]], steps: int
) -> list[tuple[tuple[Tensor, ...], ...]]:
    """Draw the noise of a meta-batch.

    A task's noise depends on its position in the meta-batch, never on how the tasks are grouped. So what groups of
    different sizes draw is drawn together: once, in the largest size, for their tasks in the order of positions. A
    group then reads the rows of its tasks, and of each row the leading block of its own size.

    Args:
        tapes: one tape for each group of tasks of one shape.
        tasks: positions of each group's tasks in the meta-batch.
        steps: evaluations of the loss that each task makes.

    Returns:
        For each group and step, one tensor a draw of shape ``(tasks, *draw.shape)``.
    """
    noise: dict[int, tuple[tuple[Tensor, ...], ...]] = {}
    for members in _alike(tapes).values():
        row = {position: r for r, position in enumerate(sorted(p for i in members for p in tasks[i]))}
        columns = zip(*(tapes[i] for i in members), strict=True)
        blocks = [_largest(column).sample(len(row), steps) for column in columns]
        for i in members:
            rows = [row[position] for position in tasks[i]]
            draws = [_part(block, rows, draw) for block, draw in zip(blocks, tapes[i], strict=True)]
            noise[i] = _by_step(draws, steps)
    return [noise[i] for i in range(len(tapes))]


def _by_step(draws: Sequence[Tensor], steps: int) -> tuple[tuple[Tensor, ...], ...]:
    """For each step one tensor a draw, of draws of shape ``(tasks, steps, *draw)``."""
    return tuple(zip(*(draw.unbind(1) for draw in draws), strict=True)) if draws else ((),) * steps


def _part(block: Tensor, rows: Sequence[int], draw: Draw) -> Tensor:
    """The rows and the leading part of a common draw, shape ``(tasks, steps, *largest)``, that a group reads."""
    if len(rows) < len(block):
        block = block[torch.tensor(rows, device=block.device)]
    for dim, size in enumerate(draw.shape, start=2):
        block = block.narrow(dim, 0, size)
    return block


def _alike(tapes: Sequence[Tape]) -> Mapping[Any, list[int]]:
    """Indices of the tapes that differ at most in the sizes of their draws."""
    groups: dict[Any, list[int]] = {}
    for i, tape in enumerate(tapes):
        key = tuple((d.kind, len(d.shape), d.dtype, d.device) for d in tape)
        groups.setdefault(key, []).append(i)
    return groups


def _largest(draws: Sequence[Draw]) -> Draw:
    shape = tuple(max(sizes) for sizes in zip(*(d.shape for d in draws), strict=True))
    return Draw(draws[0].kind, shape, draws[0].dtype, draws[0].device)
