"""Parquet files as one table of row groups, each read when it is asked for."""

from __future__ import annotations

import glob
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pyrometa.errors import ColumnError
from pyrometa.tasks.arrow import NULL_CURE, check_group, first_null, nulls
from pyrometa.tasks.columns import Columns
from pyrometa.tasks.meta_batch import ModelTensors
from pyrometa.tasks.optional import import_package

__all__ = ["ParquetParts", "Paths", "find_files", "opened"]

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class ParquetParts:
    """The row groups of files, in the files' order, with the latest ones kept in memory.

    Args:
        paths: the files.
        group: the group column.
        columns: what the model takes.
        cache_bytes: what the row groups that are kept may take; the latest one is always kept.
    """

    def __init__(self, paths: list[str], group: str, columns: Columns, cache_bytes: int) -> None:
        self._group, self._columns, self._cache_bytes = group, columns, cache_bytes
        self._cache: OrderedDict[int, ModelTensors] = OrderedDict()
        self._open: tuple[str, Any] | None = None
        self._stamps = {path: _stamp(path) for path in paths}
        self._parts: list[tuple[str, int]] = []
        kinds: dict[str, str] = {}
        for path in paths:
            file = self._file(path)
            found = {group: check_group(group, file.schema_arrow, path)} | columns.check(file.schema_arrow, path)
            kinds = kinds or found
            _check_same(kinds, found, paths[0], path)
            self._refuse_known_nulls(file, path)
            self._parts += [(path, number) for number in range(file.num_row_groups)]

    def groups(self) -> Iterator[Any]:
        """The group column of each row group."""
        for path, number in self._parts:
            yield _read(self._file(path), number, [self._group]).column(self._group)

    def where(self, part: int, row: int) -> str:
        """Where a row is, in words."""
        path, number = self._parts[part]
        return f"in row {_rows_before(self._file(path), number) + row} of {path}"

    def load(self, part: int) -> ModelTensors:
        """The rows of a row group, as the model takes them."""
        if part in self._cache:
            self._cache.move_to_end(part)
            return self._cache[part]
        path, number = self._parts[part]
        if _stamp(path) != self._stamps[path]:
            raise ValueError(f"{path} has changed since its groups were found: call from_parquet again")
        table = _read(self._file(path), number, self._columns.names)
        self._cache[part] = self._columns.tensors(table, partial(self.where, part))
        while len(self._cache) > 1 and sum(map(_bytes, self._cache.values())) > self._cache_bytes:
            self._cache.popitem(last=False)
        return self._cache[part]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_open": None}

    def _file(self, path: str) -> Any:
        """A file, open; the latest one stays so, since reading the footer of a large file takes time."""
        if self._open is None or self._open[0] != path:
            self._open = path, opened(path)
        return self._open[1]

    def _refuse_known_nulls(self, file: Any, path: str) -> None:
        """Raise if the files' statistics tell of nulls; where there are none, reading finds them."""
        for name in self._columns.names:
            counts = [_null_count(file.metadata.row_group(i), name) for i in range(file.num_row_groups)]
            if not any(counts):
                continue
            number = next(i for i, count in enumerate(counts) if count)
            row = _rows_before(file, number) + first_null(_read(file, number, [name]).column(name))
            raise ColumnError(f"column {name!r} has {nulls(sum(counts))} in row {row} of {path}: {NULL_CURE}", name)


def find_files(path: Paths) -> list[str]:
    """The files that a path, a pattern or a list of them names; those of a pattern in the order of their names.

    Raises:
        FileNotFoundError: if one names no file.
    """
    given = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not given:
        raise FileNotFoundError("path is an empty list: name at least one Parquet file")
    return [file for one in given for file in _matches(os.fspath(one))]


def _matches(path: str) -> list[str]:
    if os.path.isdir(path):
        raise FileNotFoundError(f"{path} is a folder: name its files, say by {str(Path(path, '*.parquet'))!r}")
    if os.path.exists(path):
        return [path]
    if not (found := sorted(glob.glob(path, recursive=True))):
        raise FileNotFoundError(f"no file matches {path!r}, looked up from {os.getcwd()}")
    return found


def opened(path: str) -> Any:
    """A Parquet file; ValueError with its name if it is none."""
    pa = import_package("pyarrow", "a Parquet file", "pyrometa[tables]")
    parquet = import_package("pyarrow.parquet", "a Parquet file", "pyrometa[tables]")
    try:
        return parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from error


def _read(file: Any, row_group: int, names: list[str]) -> Any:
    return file.read_row_group(row_group, columns=names, use_threads=False)  # threads do not outlive a fork


def _rows_before(file: Any, row_group: int) -> int:
    return sum(file.metadata.row_group(i).num_rows for i in range(row_group))


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _bytes(data: ModelTensors) -> int:
    return sum(tensor.nbytes for tensor in (data if isinstance(data, tuple) else (data,)))


def _null_count(row_group: Any, name: str) -> int:
    for i in range(row_group.num_columns):
        column = row_group.column(i)
        if column.path_in_schema == name and column.is_stats_set and column.statistics.has_null_count:
            return column.statistics.null_count
    return 0


def _check_same(expected: dict[str, str], found: dict[str, str], first: str, path: str) -> None:
    """Raise unless a column is of one kind in all files."""
    for name, kind in found.items():
        if kind != expected[name]:
            raise ColumnError(
                f"column {name!r} is {expected[name]} in {first} and {kind} in {path}: write both with one type", name
            )
