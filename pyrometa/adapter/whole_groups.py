"""Parquet files that are sorted by group, as tables of whole groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrometa.errors import ColumnError
from pyrometa.tasks.arrow import check_group, check_names, group_keys
from pyrometa.tasks.optional import import_package
from pyrometa.tasks.parquet import opened

ROWS = 65536
"""Rows that are read at once."""


@dataclass(frozen=True)
class WholeGroups:
    """The rows of some files, in their order, as one table that is read piece by piece.

    Attributes:
        paths: the files.
        group: the column that they are sorted by.
        names: the other columns that are read.
    """

    paths: Sequence[str]
    group: str
    names: Sequence[str]

    def check(self) -> int:
        """The number of all rows.

        Raises:
            ColumnError: a file lacks a column, or has one of another type than the first file.
        """
        rows, first = 0, None
        for path in self.paths:
            file = opened(path)
            check_group(self.group, file.schema_arrow, path)
            check_names(self.names, file.schema_arrow, path)
            types = {name: file.schema_arrow.field(name).type for name in (self.group, *self.names)}
            first = first or types
            for name, found in types.items():
                if found != first[name]:
                    told = f"column {name!r} is {first[name]} in {self.paths[0]} and {found} in {path}"
                    raise ColumnError(f"{told}: write both with one type", name)
            rows += file.metadata.num_rows
        return rows

    def tables(self, groups: int, start: int = 0) -> Iterator[Any]:
        """Arrow tables of so many groups at least, whole ones.

        Args:
            groups: how many.
            start: how many rows to skip: all that were in earlier tables.

        Raises:
            ColumnError: the rows are not sorted by group.
        """
        pa = import_package("pyarrow", "a table", "pyrometa[tables]")
        held: list[Any] = []
        starts = 0  # of groups among what is held
        latest: Any = None
        named = start > 0  # whether a row before has a group; null is sorted first or last
        for path, row, batch in self._batches(start):
            keys = group_keys(batch.column(self.group))
            firsts = self._group_starts(keys, latest, named, path, row)
            latest, named = keys[-1], named or keys.null_count < len(keys)
            held.append(batch)
            starts += len(firsts)
            if starts > groups:  # the last group may go on
                cut = firsts[-1] if firsts else 0
                done = pa.Table.from_batches([*held[:-1], batch.slice(0, cut)])
                if len(done):
                    yield done
                held, starts = [batch.slice(cut)], 1
        if held:
            yield pa.Table.from_batches(held)

    def _batches(self, start: int) -> Iterator[tuple[str, int, Any]]:
        """Pieces of the files with the row in its file that each begins at."""
        for path in self.paths:
            file, row = opened(path), 0
            for number in range(file.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                if start >= rows:
                    start, row = start - rows, row + rows
                    continue
                columns = list(dict.fromkeys((self.group, *self.names)))
                for batch in file.iter_batches(ROWS, [number], columns, use_threads=False):
                    skipped = min(start, len(batch))
                    start -= skipped
                    if skipped < len(batch):
                        yield path, row + skipped, batch.slice(skipped)
                    row += len(batch)

    def _group_starts(self, keys: Any, latest: Any, named: bool, path: str, row: int) -> list[int]:
        """Where in a piece groups begin."""
        pa = import_package("pyarrow", "a table", "pyrometa[tables]")
        pc = import_package("pyarrow.compute", "a table", "pyrometa[tables]")
        before = pa.concat_arrays([pa.array([None if latest is None else latest.as_py()], keys.type), keys[:-1]])
        valid = np.array(keys.is_valid())
        earlier = np.logical_or.accumulate([named, *valid[:-1]])
        falls = np.array(pc.fill_null(pc.less(keys, before), False)) | (valid & earlier & np.array(before.is_null()))
        falls[0] &= latest is not None
        if falls.any():
            at = int(falls.argmax())
            raise ColumnError(
                f"row {row + at} of {path} has {self.group!r} {keys[at].as_py()!r} after {before[at].as_py()!r}: sort "
                f"the data by {self.group!r}, over all files in the order of their names",
                self.group,
            )
        same = pc.fill_null(pc.equal(keys, before), False)
        nulls = pc.and_(keys.is_null(), before.is_null())
        begins = pc.invert(pc.or_(same, nulls)).to_numpy(zero_copy_only=False)
        if latest is None:
            begins[0] = True
        return begins.nonzero()[0].tolist()
