"""The noise of a whole meta-step, drawn at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrometa.noise.drawn_steps import DrawnSteps
from pyrometa.noise.draws import Draw, Tape
from pyrometa.noise.points import Points


def draw_noise(
    tapes: Sequence[Tape], tasks: Sequence[Sequence[int]], steps: int, points: Sequence[Points] | None = None
) -> list[DrawnSteps]:
    """Draw the noise of a meta-batch.

    A task's noise depends on its position in the meta-batch, never on how the tasks are grouped: tasks of different
    sizes read the leading block of a common draw.

    Args:
        tapes: one tape for each group of tasks of one shape.
        tasks: positions of each group's tasks in the meta-batch.
        steps: evaluations of the loss that each task makes.
        points: for each tape, how its draws hang together; None where all are independent.

    Returns:
        For each group and step, one tensor a draw of shape ``(tasks, *draw.shape)``.
    """
    noise: dict[int, DrawnSteps] = {}
    points = points or [Points()] * len(tapes)
    for groups in _alike(tapes, points):
        positions = sorted(position for i in groups for position in tasks[i])
        largest = _largest([tapes[i] for i in groups])
        common = points[groups[0]].sample(largest, len(positions), steps)
        row = {position: r for r, position in enumerate(positions)}
        for i in groups:
            rows = [row[position] for position in tasks[i]]
            drawn = [_part(draw, rows, of_group) for draw, of_group in zip(common, tapes[i], strict=True)]
            noise[i] = DrawnSteps(drawn, steps)
    return [noise[i] for i in range(len(tapes))]


def _alike(tapes: Sequence[Tape], points: Sequence[Points]) -> Iterable[list[int]]:
    """Groups by their tapes, which are alike if they differ at most in the sizes of their draws."""
    found: dict[Any, list[int]] = {}
    for i, (tape, taken) in enumerate(zip(tapes, points, strict=True)):
        key = (tuple((d.kind, len(d.shape), d.dtype, d.device) for d in tape), taken)
        found.setdefault(key, []).append(i)
    return found.values()


def _largest(tapes: Sequence[Tape]) -> Tape:
    """Of tapes that are alike, one with each draw as large as any of them needs."""
    return tapes[0] if len(tapes) == 1 else tuple(map(_largest_draw, zip(*tapes, strict=True)))


def _largest_draw(draws: Sequence[Draw]) -> Draw:
    shape = tuple(max(sizes) for sizes in zip(*(d.shape for d in draws), strict=True))
    return Draw(draws[0].kind, shape, draws[0].dtype, draws[0].device)


def _part(drawn: Tensor, rows: Sequence[int], draw: Draw) -> Tensor:
    """Some tasks' rows of a common draw, and of these the leading block of a draw's shape."""
    if len(rows) < drawn.shape[0]:
        drawn = drawn[torch.tensor(rows, device=drawn.device)]
    for dim, size in enumerate(draw.shape, start=2):
        if size < drawn.shape[dim]:
            drawn = drawn.narrow(dim, 0, size)
    return drawn
