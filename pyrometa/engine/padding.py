"""Tasks of different sizes as tasks of one shape: rows are repeated, and do not count.

A row of zeros would do for the mask, but not for the program: a density or a network may have no value there, and a
masked NaN is a NaN in the gradient. A row of the task's own has a density wherever the task has one. Sizes are rounded
to powers of two, so that a few shapes, each with a plan and perhaps a recording, serve tasks of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import gt

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.engine.data_rows import HaveRows, NotPaddableError, row_plates, which_have_rows
from pyrometa.engine.sizes import fewest_of, rounded, sizes_of
from pyrometa.explain.reasons import reason
from pyrometa.noise.drawn_steps import DrawnSteps, as_drawn
from pyrometa.program.program import Program
from pyrometa.types import CountedRows, Data, TaskBatch


def padded(program: Program, groups: Sequence[TaskBatch]) -> list[TaskBatch]:
    """Tasks of different sizes in a few batches, each padded to a power of two of rows.

    A padded row repeats the last one of its task, and is masked at every site of the plates that have the size of the
    data. In each batch the tasks with the smallest support sets come first.

    Args:
        program: whose plates they are.
        groups: tasks of one shape each, of which no two are alike.

    Raises:
        NotPaddableError: with the reason.
    """
    firsts = [(group.support.first, group.query.first) for group in groups]
    plates = row_plates(program, firsts)
    have_rows = which_have_rows(firsts)
    by_size: dict[tuple[int, int], list[TaskBatch]] = {}
    for group in groups:
        support, query = sizes_of(group)
        by_size.setdefault((rounded(support), rounded(query)), []).append(group)
    return [
        stacked(program, sorted(members, key=sizes_of), sizes, plates, have_rows) for sizes, members in by_size.items()
    ]


def stacked(
    program: Program,
    groups: Sequence[TaskBatch],
    sizes: tuple[int, int],
    plates: frozenset[str],
    have_rows: tuple[HaveRows, HaveRows],
    missing_noise: float = 0.0,
    fewest: tuple[int, int] | None = None,
) -> TaskBatch:
    """Tasks padded to one size.

    Args:
        program: whose tasks they are.
        groups: tasks of one shape each, with at most so many rows.
        sizes: rows of the support and of the query sets.
        plates: names of the plates of that size.
        have_rows: which tensors of the support and of the query sets have rows.
        missing_noise: what stands for the noise of rows that a task lacks.
        fewest: rows that the sets of a task may have; None for the fewest that are rounded to the sizes.

    Raises:
        NotPaddableError: with the reason.
    """
    fewest = fewest or (fewest_of(sizes[0]), fewest_of(sizes[1]))
    roles = [group.support for group in groups], [group.query for group in groups]
    support, query = (
        _stacked(sets, size, CountedRows(_counts(sets), plates, padded, few))
        for sets, size, padded, few in zip(roles, sizes, have_rows, fewest, strict=True)
    )
    first_support, first_query = (replace(data.first, rows=None) for data in (support, query))
    try:
        support_draws = [draw.shape for draw in program.tape(first_support)]
        query_draws = [draw.shape for draw in program.tape(first_query, first_support)]
    except Exception as error:  # whatever the program raises is the reason
        raise NotPaddableError(f"on rows that are repeated the program fails, {reason(error)}") from error
    support_noise = [as_drawn(group.support_noise) for group in groups]
    query_noise = [as_drawn([group.query_noise]) for group in groups]
    return TaskBatch(
        tuple(index for group in groups for index in group.index),
        support,
        query,
        _noise(support_noise, support_draws, missing_noise),
        _noise(query_noise, query_draws, missing_noise)[0],
        tuple(groups),
    )


def _stacked(sets: Sequence[Data], size: int, rows: CountedRows) -> Data:
    columns = []
    firsts = [nest.tensors(data.args)[0] for data in sets]
    for column, has_rows in zip(
        zip(*(nest.tensors(data.args) for data in sets), strict=True), rows.padded, strict=True
    ):
        if has_rows and all(tensor.shape[1] == first.shape[1] for tensor, first in zip(column, firsts, strict=True)):
            columns.append(torch.cat([_repeated(tensor, size) for tensor in column]))
        elif not has_rows and len({tensor.shape[1:] for tensor in column}) == 1:
            columns.append(torch.cat(column))
        else:
            raise NotPaddableError("a tensor has another number of rows than the first, or differs elsewhere")
    return Data(nest.replaced(sets[0].args, iter(columns)), sets[0].kwargs, rows)


def _counts(sets: Sequence[Data]) -> Tensor:
    """The rows of each task, shape ``(tasks,)``."""
    firsts = [nest.tensors(data.args)[0] for data in sets]
    return torch.tensor([rows.shape[1] for rows in firsts for _ in range(len(rows))], device=firsts[0].device)


def _repeated(tensor: Tensor, size: int) -> Tensor:
    """A tensor of tasks with the last row of each repeated up to a size."""
    rows = tensor.shape[1]
    return tensor[:, torch.arange(size, device=tensor.device).clamp(max=rows - 1)] if rows < size else tensor


def _noise(groups: Sequence[DrawnSteps], shapes: Sequence[tuple[int, ...]], missing: float) -> DrawnSteps:
    """Each task's noise in the leading block of the padded shapes, and a number elsewhere."""
    first = groups[0]
    if not len(first):
        return first
    if any(len(group.drawn) != len(shapes) for group in groups):
        raise NotPaddableError("the program makes other draws on more rows")
    columns = zip(*(group.drawn for group in groups), strict=True)
    drawn = [_filled(column, shape, missing) for column, shape in zip(columns, shapes, strict=True)]
    return DrawnSteps(drawn, first.drawn_steps, first.repeats)


def _filled(parts: Sequence[Tensor], shape: tuple[int, ...], missing: float) -> Tensor:
    """Draws of shapes ``(tasks, steps, *draw)`` in the leading blocks of one, ``(all tasks, steps, *shape)``."""
    if any(len(part.shape) != 2 + len(shape) or any(map(gt, part.shape[2:], shape)) for part in parts):
        raise NotPaddableError("the program makes other draws on more rows")
    if all(part.shape[2:] == shape for part in parts):
        return torch.cat(list(parts))
    block = parts[0].new_full((sum(map(len, parts)), parts[0].shape[1], *shape), missing)
    for own, part in zip(block.split([len(part) for part in parts]), parts, strict=True):
        own[tuple(map(slice, (None, None, *part.shape[2:])))] = part
    return block


def repeated(batch: TaskBatch, count: int) -> TaskBatch:
    """So many tasks, of which those beyond the batch's own repeat them, noise and all, and do not count."""
    own, first = len(batch), batch.support.tensors()[0]
    counted = torch.arange(count, device=first.device) < own
    if own == count:
        return replace(batch, counted=counted)
    rows = torch.arange(count, device=first.device) % own
    steps = as_drawn(batch.support_noise)
    return replace(
        batch,
        index=tuple(batch.index[i % own] for i in range(count)),
        support=batch.support[rows],
        query=batch.query[rows],
        support_noise=DrawnSteps([draw[rows] for draw in steps.drawn], steps.drawn_steps, steps.repeats),
        query_noise=tuple(draw[rows] for draw in batch.query_noise),
        counted=counted,
    )
