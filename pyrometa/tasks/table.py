"""Tasks from a table with a group column: schools, people, counties."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrometa.tasks.checks import integer
from pyrometa.tasks.groups import GroupedTasks
from pyrometa.tasks.meta_batch import ModelTensors
from pyrometa.tasks.rows import take

__all__ = ["GroupSplits", "check_split", "group_tasks", "split_groups"]


class GroupSplits(NamedTuple):
    """Groups of a table that share no group.

    Attributes:
        train: for meta-training.
        validation: for choosing settings.
        test: for the final figures.
    """

    train: GroupedTasks
    validation: GroupedTasks
    test: GroupedTasks


def group_tasks(
    data: ModelTensors,
    groups: Sequence[Hashable] | Tensor,
    *,
    minimum: int = 2,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> GroupSplits:
    """Make each group of a table a task, and split the groups into meta-train, meta-validation and meta-test.

    Args:
        data: the table's columns as the model takes them: a tensor, or the tuple of its positional arguments, each of
            shape ``(n, ...)``.
        groups: each row's group: numbers or names, ``n`` of them in any order, as a tensor, an array or a sequence.
        minimum: groups with fewer rows are left out; at least 2, as support and query need a row each.
        fractions: shares of the groups for ``train``, ``validation`` and ``test``, adding up to 1; 0 leaves one empty.
        seed: the same seed gives the same split of the groups.

    Returns:
        GroupSplits: three :class:`GroupedTasks`; rows keep the table's order, groups are in random order.

    Raises:
        TypeError: if the data are not tensors, or ``minimum`` or the seed not an integer.
        ValueError: if lengths differ, ``minimum`` is below 2, the fractions are negative or do not add up to 1,
            no group is large enough, or a split with a positive share would be empty.

    Example:
        >>> import torch
        >>> from pyrometa.tasks import group_tasks
        >>> x, y, school = torch.randn(60, 3), torch.randn(60), torch.arange(60) % 10
        >>> splits = group_tasks((x, y), school, minimum=6, seed=0)
        >>> [len(tasks) for tasks in splits]
        [7, 1, 2]
        >>> x, y = splits.train.rows[0]
        >>> x.shape, y.shape
        (torch.Size([6, 3]), torch.Size([6]))
    """
    labels: list[Any] = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    _check_table(data, len(labels))
    check_split(minimum, fractions, seed)
    index: dict[Hashable, list[int]] = {}
    for row, label in enumerate(labels):
        index.setdefault(label, []).append(row)
    names = list(index)
    parts = split_groups([len(rows) for rows in index.values()], minimum, fractions, seed)
    return GroupSplits(*(_tasks(data, index, [names[i] for i in part]) for part in parts))


def split_groups(
    sizes: Sequence[int], minimum: int, fractions: tuple[float, float, float], seed: int
) -> list[list[int]]:
    """The groups of each split by their numbers, at random; ValueError if one with a share would be empty."""
    kept = [group for group, size in enumerate(sizes) if size >= minimum]
    if not kept:
        raise ValueError(f"no group has {minimum} rows: the largest of {len(sizes)} has {max(sizes, default=0)}")
    order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed), device="cpu").tolist()
    ends = [round(len(kept) * sum(fractions[:i])) for i in range(4)]
    parts = [[kept[i] for i in order[start:end]] for start, end in pairwise(ends)]
    for part, fraction, split in zip(parts, fractions, GroupSplits._fields, strict=True):
        if fraction > 0 and not part:
            raise ValueError(f"{fraction} of {len(kept)} groups leave {split} empty: give it 0 or a larger share")
    return parts


def check_split(minimum: int, fractions: tuple[float, float, float], seed: int) -> None:
    """Raise unless groups can be split like this, before any of them is looked at."""
    integer("seed", seed)
    if integer("minimum", minimum) < 2:
        raise ValueError(f"minimum must be at least 2, as support and query need a row each, got {minimum}")
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions must be three shares that add up to 1, got {fractions}")


def _tasks(data: ModelTensors, index: dict[Hashable, list[int]], names: list[Hashable]) -> GroupedTasks:
    return GroupedTasks(tuple(take(data, torch.tensor(index[name])) for name in names), tuple(names))


def _check_table(data: ModelTensors, count: int) -> None:
    columns = data if isinstance(data, tuple) else (data,)
    if not columns or not all(isinstance(column, Tensor) for column in columns):
        raise TypeError("data must be a tensor or a tuple of tensors, the model's positional arguments")
    if shapes := [tuple(column.shape) for column in columns if column.ndim == 0 or len(column) != count]:
        raise ValueError(f"groups names {count} rows, but data has a tensor of shape {shapes[0]}")
