"""A table cut into its groups, the good and the bad."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrometa import nest
from pyrometa.tasks.arrow import check_group, check_names, group_keys, kind_of, plain
from pyrometa.tasks.columns import Columns
from pyrometa.tasks.meta_batch import ModelTensors
from pyrometa.tasks.optional import import_package

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
            Their positions, and their rows as the model takes them with a leading task dimension, on torch's default
            device.
        """
        good = np.ones(len(self), bool)
        good[list(self.errors)] = False
        for size in np.unique(self.sizes[good]):
            alike = np.flatnonzero(good & (self.sizes == size))
            for start in range(0, len(alike), most):
                some = alike[start : start + most]
                rows = self._order[torch.from_numpy(self._starts[some, None] + np.arange(size))]
                yield some.tolist(), self._at(rows)

    def _at(self, rows: Tensor) -> ModelTensors:
        """Some rows of the data, on torch's default device."""
        return nest.mapped(lambda column: column[rows].to(torch.get_default_device()), self._data)


def cut(table: Any, group: str, columns: Columns, *, strict: bool = True) -> CutTable:
    """Cut an Arrow table into groups.

    Args:
        table: the table.
        group: the group column.
        columns: what the model takes.
        strict: refuse a column of text in which no value is a number, and not each of its groups.

    Raises:
        ColumnError: a column is missing, or holds nothing that the model takes.
    """
    check_group(group, table.schema, "the table")
    check_names(columns.names, table.schema, "the table")
    given, table = table, _with_numbers(table, columns.names, strict=strict)
    columns.check(table.schema, "the table")
    encoded = group_keys(given.column(group)).dictionary_encode("encode")
    codes = np.asarray(encoded.indices, np.int64)
    sizes = np.bincount(codes, minlength=len(encoded.dictionary))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    order = np.argsort(codes, kind="stable")
    errors = {i: "the group is null: name it" for i, name in enumerate(encoded.dictionary) if not name.is_valid}
    for name in columns.names:
        flags = _bad(table.column(name))
        if flags.any():
            table = table.set_column(table.schema.get_field_index(name), name, _filled(table.column(name)))
            counts = np.bincount(codes[flags], minlength=len(sizes))
            for i in np.flatnonzero(counts).tolist():
                rows = order[starts[i] : starts[i] + sizes[i]]
                first = int(np.flatnonzero(flags[rows])[0])
                value = given.column(name)[int(rows[first])].as_py()
                errors.setdefault(i, _told(name, int(counts[i]), first, value))
    return CutTable(encoded.dictionary, sizes, errors, columns.tensors(table, str), torch.from_numpy(order), starts)


def _with_numbers(table: Any, names: list[str], *, strict: bool) -> Any:
    """The table with the numbers that columns of text hold; what is none is null."""
    for name in names:
        column = plain(table.column(name))
        if kind_of(column.type) == "text":
            numbers = [_number(value) for value in column.to_pylist()]
            if not strict or any(number is not None for number in numbers):
                pa = import_package("pyarrow", "a table", "pyrometa[tables]")
                table = table.set_column(table.schema.get_field_index(name), name, pa.array(numbers, pa.float64()))
    return table


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _bad(column: Any) -> Flags:
    """Which values of a column are no finite numbers."""
    column = plain(column)
    flags = np.array(column.is_null(), bool)
    if kind_of(column.type) == "float":
        flags |= ~np.isfinite(column.cast("float64").to_numpy(zero_copy_only=False))
    return flags


def _filled(column: Any) -> Any:
    """A column without nulls; what stands for them is not used."""
    column = plain(column)
    return column.fill_null(False if kind_of(column.type) == "boolean" else 0)


def _told(column: str, count: int, row: int, value: Any) -> str:
    what = "1 value is" if count == 1 else f"{count} values are"
    return f"{what} no finite number in column {column!r}, the first in its row {row}: {value!r}"
