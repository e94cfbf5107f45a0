"""A table cut into its groups, the good and the bad."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrometa.tasks.arrow import check_group, kind_of, plain
from pyrometa.tasks.columns import Columns
from pyrometa.tasks.meta_batch import ModelTensors

Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class CutTable:
    """The groups of a table, in the order in which they first appear.

    Attributes:
        names: an Arrow array of each group's name.
        sizes: each group's number of rows.
        errors: why a group can't be adapted, by its position.
    """

    names: Any
    sizes: Numbers
    errors: dict[int, str]
    _data: ModelTensors
    _order: Tensor
    _starts: Numbers

    def __len__(self) -> int:
        return len(self.sizes)

    def by_size(self, most: int) -> Iterator[tuple[list[int], ModelTensors]]:
        """The good groups of one size together, at most so many at a time.

        Yields:
            Their positions, and their rows as the model takes them with a leading task dimension.
        """
        good = np.ones(len(self), bool)
        good[list(self.errors)] = False
        for size in np.unique(self.sizes[good]):
            alike = np.flatnonzero(good & (self.sizes == size))
            for start in range(0, len(alike), most):
                some = alike[start : start + most]
                rows = self._order[torch.from_numpy(self._starts[some])[:, None] + torch.arange(int(size))]
                data = self._data
                yield some.tolist(), tuple(x[rows] for x in data) if isinstance(data, tuple) else data[rows]


def cut(table: Any, group: str, columns: Columns) -> CutTable:
    """Cut an Arrow table into groups.

    Raises:
        ColumnError: a column is missing, or holds nothing that the model takes.
    """
    check_group(group, table.schema, "the table")
    columns.check(table.schema, "the table")
    encoded = plain(table.column(group)).dictionary_encode("encode")
    codes = np.asarray(encoded.indices, np.int64)
    sizes = np.bincount(codes, minlength=len(encoded.dictionary))
    bad = {name: _bad(table.column(name)) for name in columns.names}
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    order = np.argsort(codes, kind="stable")
    errors = _errors(bad, encoded.dictionary, codes, order, starts)
    filled = table
    for name, flags in bad.items():
        if flags.any():
            filled = filled.set_column(filled.schema.get_field_index(name), name, _filled(filled.column(name)))
    data = columns.tensors(filled, str)
    return CutTable(encoded.dictionary, sizes, errors, data, torch.from_numpy(order), starts)


def _bad(column: Any) -> Flags:
    """Which values of a column no model takes: null, NaN, infinite."""
    column = plain(column)
    flags: Flags = np.asarray(column.is_null(), bool)
    if kind_of(column.type) == "float":
        flags |= ~np.isfinite(column.cast("float64").to_numpy(zero_copy_only=False))
    return flags


def _filled(column: Any) -> Any:
    """A column without nulls; what stands for them is not used."""
    column = plain(column)
    return column.fill_null(False if kind_of(column.type) == "boolean" else 0)


def _errors(bad: dict[str, Flags], names: Any, codes: Numbers, order: Numbers, starts: Numbers) -> dict[int, str]:
    errors: dict[int, str] = {}
    for i, name in enumerate(names):
        if not name.is_valid:
            errors[i] = "the group is null: name it"
    for column, flags in bad.items():
        counts = np.bincount(codes[flags], minlength=len(names))
        for i in np.flatnonzero(counts).tolist():
            end = starts[i + 1] if i + 1 < len(starts) else len(order)
            row = int(np.flatnonzero(flags[order[starts[i] : end]])[0])
            what = "1 value is" if counts[i] == 1 else f"{counts[i]} values are"
            errors.setdefault(i, f"{what} null, NaN or infinite in column {column!r}, the first in its row {row}")
    return errors
