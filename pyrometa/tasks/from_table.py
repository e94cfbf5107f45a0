"""Tasks from Parquet files and data frames with a group column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyrometa.errors import first_line
from pyrometa.tasks.arrow import check_group
from pyrometa.tasks.checks import integer
from pyrometa.tasks.columns import Columns, ColumnSpec
from pyrometa.tasks.group_index import GroupIndex, index_groups
from pyrometa.tasks.groups import GroupedTasks
from pyrometa.tasks.meta_batch import ModelTensors
from pyrometa.tasks.optional import import_package
from pyrometa.tasks.parquet import ParquetParts, Paths, find_files
from pyrometa.tasks.stored import StoredRows, TableParts
from pyrometa.tasks.table import GroupSplits, check_split, split_groups

__all__ = ["from_frame", "from_parquet"]


def from_parquet(
    path: Paths,
    *,
    group: str,
    columns: ColumnSpec,
    minimum: int = 2,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    cache_bytes: int = 64 * 2**20,
) -> GroupSplits:
    """Make each group of Parquet files a task, whose rows are read when it is drawn.

    The splits, the order of rows and the draws are those of :func:`group_tasks` on the same table. What it costs:

    - First the group column is read, one row group at a time. What stays in memory is the groups' names and 24 bytes
      for each run of adjacent rows of a group: one a group if the table is sorted by group, up to one a row if not.
    - A meta-batch reads the row groups that hold its tasks, each once and the model's columns only. Sort the table by
      group, and write row groups of some 10,000 to 100,000 rows: of a shuffled table each meta-batch reads all.

    Floating-point columns become torch's default dtype, integers int64, booleans bool. NaN and infinities are passed on
    as data; nulls are refused.

    Args:
        path: a file, a pattern such as ``"users/*.parquet"`` (in the order of the names, ``**`` for folders), or a list
            of these. Groups may span files and row groups and be in any order.
        group: the column that names each row's group: numbers, text or dates.
        columns: the model's positional arguments: a list of names is a tensor ``(rows, names)``, one name ``(rows,)``.
            A tuple holds several arguments, as in ``(["x0", "x1"], "y")``; anything else is the only one.
        minimum: groups with fewer rows are left out; at least 2, as support and query need a row each.
        fractions: shares of the groups for ``train``, ``validation`` and ``test``, adding up to 1; 0 leaves one empty.
        seed: the same seed gives the same split of the groups.
        cache_bytes: what row groups that stay in memory may take; the latest one always stays.

    Returns:
        GroupSplits: three :class:`GroupedTasks`; ``rows`` reads what is indexed, and ``split()`` reads every group.

    Raises:
        TypeError: if ``columns`` is neither a name, a list of names nor a tuple of these, or a number not an integer.
        FileNotFoundError: if no file matches.
        ModuleNotFoundError: if pyarrow is not installed; says how to install it.
        ColumnError: if a column is missing, has nulls or differs between files; a
            :class:`~pyrometa.errors.ColumnTypeError` if it holds text, dates or lists.
        ValueError: if a file is no Parquet file, there is no row, and as :func:`group_tasks` says.

    Example:
        >>> import pyarrow as pa, pyarrow.parquet, tempfile
        >>> from pyrometa.tasks import GroupSampler, from_parquet
        >>> users = [i // 5 for i in range(50)]
        >>> table = pa.table({"user": users, "dose": [0.1] * 50, "age": [30.0] * 50, "y": [1.5] * 50})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pa.parquet.write_table(table, f"{folder}/a.parquet")
        ...     splits = from_parquet(f"{folder}/*.parquet", group="user", columns=(["dose", "age"], "y"))
        ...     support, query = GroupSampler(splits.train, support=2, seed=0).sample(4)
        >>> x, y = support[0]
        >>> len(splits.train), x.shape, y.shape
        (7, torch.Size([2, 2]), torch.Size([2]))
    """
    check_split(minimum, fractions, seed)
    integer("cache_bytes", cache_bytes)
    parts = ParquetParts(find_files(path), group, Columns.of(columns), cache_bytes)
    index = index_groups(group, parts.groups(), parts.where)
    return _splits(parts, index, str(path), minimum, fractions, seed)


def from_frame(
    frame: Any,
    *,
    group: str,
    columns: ColumnSpec,
    minimum: int = 2,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> GroupSplits:
    """Make each group of a data frame a task.

    As :func:`from_parquet`, for a table in memory. The columns are copied to tensors once, and a task's rows are taken
    from them when it is drawn: a million groups cost little more than their rows.

    Args:
        frame: a pandas or polars ``DataFrame``, an Arrow table, or what else has ``__arrow_c_stream__``.
        group: the column that names each row's group.
        columns: the model's positional arguments, see :func:`from_parquet`.
        minimum: groups with fewer rows are left out.
        fractions: shares of the groups for ``train``, ``validation`` and ``test``.
        seed: the same seed gives the same split of the groups.

    Returns:
        GroupSplits: three :class:`GroupedTasks`.

    Raises:
        TypeError: if ``frame`` is no table; and as :func:`from_parquet` does.
        ValueError: as :func:`from_parquet`.

    Example:
        >>> import pyarrow as pa
        >>> from pyrometa.tasks import from_frame
        >>> frame = pa.table({"school": list("aabbbcccc"), "x": [float(i) for i in range(9)], "y": range(9)})
        >>> tasks = from_frame(frame, group="school", columns=("x", "y"), fractions=(1.0, 0.0, 0.0)).train
        >>> dict(zip(tasks.names, tasks.sizes))["b"], tasks.rows[tasks.names.index("b")]
        (3, (tensor([2., 3., 4.]), tensor([2, 3, 4])))
    """
    check_split(minimum, fractions, seed)
    chosen = Columns.of(columns)
    table = arrow_table(frame)
    check_group(group, table.schema, "the frame")
    chosen.check(table.schema, "the frame")
    parts = _InMemory(chosen.tensors(table, _row_of_frame))
    index = index_groups(group, [table.column(group)], lambda _, row: _row_of_frame(row))
    return _splits(parts, index, "the frame", minimum, fractions, seed)


class _InMemory:
    """A table of one part, which is there."""

    def __init__(self, rows: ModelTensors) -> None:
        self._rows = rows

    def load(self, part: int) -> ModelTensors:
        return self._rows


def _splits(
    table: TableParts, index: GroupIndex, where: str, minimum: int, fractions: tuple[float, float, float], seed: int
) -> GroupSplits:
    if not index.names:
        raise ValueError(f"there is no row in {where}")

    def tasks(groups: Sequence[int]) -> GroupedTasks:
        return GroupedTasks(StoredRows(table, index, groups), tuple(index.names[i] for i in groups))

    return GroupSplits(*(tasks(part) for part in split_groups(index.sizes.tolist(), minimum, fractions, seed)))


def arrow_table(frame: Any) -> Any:
    """The Arrow table that a frame is; TypeError with the cure if it is none."""
    if type(frame).__name__ == "LazyFrame":
        raise TypeError("frame is a LazyFrame, which holds no data yet: pass frame.collect()")
    if not hasattr(frame, "__arrow_c_stream__"):
        raise TypeError(
            "frame must be a pandas or polars DataFrame, an Arrow table or what else has __arrow_c_stream__, "
            f"got {type(frame).__name__}"
        )
    pa = import_package("pyarrow", "a table", "pyrometa[tables]")
    try:
        return pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise TypeError(f"the frame is no Arrow table ({first_line(error)}): pass only the columns it needs") from error


def _row_of_frame(row: int) -> str:
    return f"in row {row} of the frame"
