"""The noise of a whole meta-step, drawn at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrometa.noise.draws import Draw, Tape


def draw_noise(
    tapes: Sequence[Tape], tasks: Sequence[Sequence[int]], steps: int
) -> list[tuple[tuple[Tensor, ...], ...]]:
    """Draw the noise of a meta-batch.

    A task's noise depends on its position in the meta-batch, never on how the tasks are grouped: tasks of different
    sizes read the leading block of a common draw.

    Args:
        tapes: one tape for each group of tasks of one shape.
        tasks: positions of each group's tasks in the meta-batch.
        steps: evaluations of the loss that each task makes.

    Returns:
        For each group and step, one tensor a draw of shape ``(tasks, *draw.shape)``.
    """
    noise: list[tuple[tuple[Tensor, ...], ...]] = [((),) * steps] * len(tapes)
    for members in _alike(tapes).values():
        positions = sorted(p for i in members for p in tasks[i])
        columns = zip(*(tapes[i] for i in members), strict=True)
        blocks = [_largest(column).sample(len(positions), steps) for column in columns]
        row = {position: r for r, position in enumerate(positions)}
        for i in members:
            rows = [row[p] for p in tasks[i]]
            parts = [_part(block, rows, draw).unbind(1) for block, draw in zip(blocks, tapes[i], strict=True)]
            noise[i] = tuple(zip(*parts, strict=True)) if parts else ((),) * steps
    return noise


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
