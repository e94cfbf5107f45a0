"""Groups whose rows are read from a table when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, overload

import numpy as np
import torch

from pyrometa.tasks.group_index import GroupIndex, Integers, ranges
from pyrometa.tasks.meta_batch import ModelTensors
from pyrometa.tasks.rows import take

__all__ = ["StoredRows", "TableParts"]


class TableParts(Protocol):
    """A table in parts, each of which is read whole."""

    def load(self, part: int) -> ModelTensors:
        """The rows of a part, as the model takes them."""
        ...


class StoredRows(Sequence[ModelTensors]):
    """The rows of each of some groups, read when they are asked for."""

    def __init__(self, table: TableParts, index: GroupIndex, groups: Sequence[int]) -> None:
        self._table = table
        self._index = index
        self._groups = np.asarray(groups, np.int64)

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, group: int) -> ModelTensors: ...
    @overload
    def __getitem__(self, group: slice) -> Sequence[ModelTensors]: ...
    def __getitem__(self, group: int | slice) -> Any:
        if isinstance(group, slice):
            return StoredRows(self._table, self._index, self._groups[group].tolist())
        return self.read([range(len(self))[group]])[0]

    @property
    def sizes(self) -> list[int]:
        """How many rows each group has; reads none."""
        return self._index.sizes[self._groups].tolist()

    def read(self, groups: Sequence[int]) -> list[ModelTensors]:
        """The rows of some groups, in the table's order; each part that holds any of them is read once."""
        runs, task = self._index.runs_of(self._groups[np.asarray(groups, np.int64)])
        pieces: list[list[ModelTensors]] = [[] for _ in groups]
        for part in np.unique(runs.part):
            here = runs.part == part
            for i, piece in _pieces(self._table.load(int(part)), runs.start[here], runs.length[here], task[here]):
                pieces[i].append(piece)
        return [_joined(of_group) for of_group in pieces]


def _pieces(data: ModelTensors, start: Integers, length: Integers, task: Integers) -> list[tuple[int, ModelTensors]]:
    """What a part holds of each task, by one gather; runs of a task are adjacent."""
    rows = torch.from_numpy(ranges(start, length))
    present, first = np.unique(task, return_index=True)
    ends = np.append(np.cumsum(length)[first[1:] - 1], len(rows)) if len(first) else first
    sizes = np.diff(ends, prepend=0).tolist()
    gathered = take(data, rows)
    if isinstance(gathered, tuple):
        split: list[Any] = list(zip(*(column.split(sizes) for column in gathered), strict=True))
    else:
        split = list(gathered.split(sizes))
    return list(zip(present.tolist(), split, strict=True))


def _joined(pieces: list[ModelTensors]) -> ModelTensors:
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], tuple):
        return tuple(torch.cat(column) for column in zip(*pieces, strict=True))
    return torch.cat(pieces)  # type: ignore[arg-type]
