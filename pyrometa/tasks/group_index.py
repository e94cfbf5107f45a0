"""Where the rows of each group are, in a table of many parts that need not be sorted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyrometa.errors import ColumnError
from pyrometa.tasks.arrow import kind_of, plain, refuse_nulls
from pyrometa.tasks.optional import import_package

__all__ = ["GroupIndex", "Runs", "index_groups", "ranges"]

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """Runs of adjacent rows of one group, each within one part of the table; all of shape ``(runs,)``.

    Attributes:
        part: which part.
        start: its first row, counted within the part.
        length: how many rows.
    """

    part: Integers
    start: Integers
    length: Integers

    def __getitem__(self, chosen: Any) -> Runs:
        return Runs(self.part[chosen], self.start[chosen], self.length[chosen])


@dataclass(frozen=True)
class GroupIndex:
    """The rows of each group, as runs: 24 bytes a run, and one run a group where the table is sorted by group.

    Attributes:
        names: the groups in the order of their first row.
        sizes: rows of each group, shape ``(groups,)``.
        runs: those of the first group in the table's order, then of the second, ...
        offsets: where the runs of each group begin, and where the last one's end, shape ``(groups + 1,)``.
    """

    names: list[Hashable]
    sizes: Integers
    runs: Runs
    offsets: Integers

    def runs_of(self, groups: Integers) -> tuple[Runs, Integers]:
        """The runs of some groups, one group after the other, and which of them each run belongs to."""
        counts = self.offsets[groups + 1] - self.offsets[groups]
        return self.runs[ranges(self.offsets[groups], counts)], np.repeat(np.arange(len(groups)), counts)


def index_groups(name: str, parts: Iterable[Any], where: Callable[[int, int], str]) -> GroupIndex:
    """Find the groups of a table.

    Args:
        name: of the group column.
        parts: that column of each part of the table, as an Arrow array; one part at a time is held in memory.
        where: ``where(part, row)`` says where a row is.

    Returns:
        GroupIndex: of all parts.

    Raises:
        ColumnError: if a row has no group.
    """
    numbers: dict[Hashable, int] = {}
    empty = np.empty(0, np.int64)
    groups, part_of, starts, lengths = [empty], [empty], [empty], [empty]
    for part, column in enumerate(parts):
        numbered = _numbered(name, column, numbers, partial(where, part))
        start = np.flatnonzero(np.diff(numbered, prepend=-1))
        groups.append(numbered[start])
        part_of.append(np.full(len(start), part))
        starts.append(start)
        lengths.append(np.diff(start, append=len(numbered)))
    group = np.concatenate(groups)
    order = np.argsort(group, kind="stable")
    runs = Runs(np.concatenate(part_of), np.concatenate(starts), np.concatenate(lengths))
    sizes = np.zeros(len(numbers), np.int64)
    np.add.at(sizes, group, runs.length)
    return GroupIndex(list(numbers), sizes, runs[order], np.searchsorted(group[order], np.arange(len(numbers) + 1)))


def ranges(starts: Integers, lengths: Integers) -> Integers:
    """``start, start + 1, ...`` from each start on, as many as its length says, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(lengths.sum()) + np.repeat(starts - ends + lengths, lengths)


def _numbered(name: str, column: Any, numbers: dict[Hashable, int], where: Callable[[int], str]) -> Integers:
    """The number of each row's group; groups that are new get the next ones."""
    compute = import_package("pyarrow.compute", "a table", "pyrometa[tables]")
    refuse_nulls(name, column, where)
    column = plain(column)
    if kind_of(column.type) == "float" and (nan := compute.is_nan(column).index(True).as_py()) >= 0:
        raise ColumnError(f"group column {name!r} is NaN {where(nan)}: drop these rows or name their group", name)
    coded = column.dictionary_encode()
    known = [numbers.setdefault(label, len(numbers)) for label in coded.dictionary.to_pylist()]
    return np.array(known, np.int64)[coded.indices.to_numpy()]
