"""A million groups from files to a file, in memory that does not grow with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrometa.adapter.adapter import Adapter, outside_support
from pyrometa.adapter.parts import Done, Parts
from pyrometa.adapter.whole_groups import WholeGroups
from pyrometa.tasks.parquet import Paths, find_files


@dataclass(frozen=True)
class Adapted:
    """What came of adapting files.

    Attributes:
        groups: how many groups were adapted, those of an interrupted run with them.
        rejected: how many could not be.
        out: the file of posteriors.
        rejected_out: the file of rejected groups and reasons; None if there are none.
    """

    groups: int
    rejected: int
    out: Path
    rejected_out: Path | None


def adapt_files(
    adapter: Adapter, data: Paths, out: str | os.PathLike[str], *, report: Callable[[Done, int], None] | None = None
) -> Adapted:
    """Adapt every group of Parquet files that are sorted by group, and write a row a group.

    At most ``adapter.batch_size`` groups and 65,536 rows more are in memory. Results are written in parts, in a
    folder beside ``out``, so that an interrupted call is gone on with by the same call: with the same numbers, as a
    group's do not depend on the groups beside it.

    Args:
        adapter: how.
        data: a file, a pattern such as ``"users/*.parquet"`` (in the order of the names), or a list of these. A group
            may span files.
        out: the file to write: the adapter's columns without ``error``. Groups that can't be adapted go to
            ``NAME.rejected.parquet`` beside it, with the reason.
        report: called after each part with what is done, and the number of all rows.

    Raises:
        FileNotFoundError: no file matches.
        ColumnError: a column is missing, is of another type in another file, or the rows are not sorted by group.
        ValueError: an interrupted run of other data or another adapter has left its parts there, ``out`` is a folder
            or among the data, these have no row, a file has changed meanwhile, or a site's shape differs from group
            to group.
    """
    out, paths = Path(out), find_files(data)
    if out.exists() and any(out.samefile(path) for path in paths):
        raise ValueError(f"out is {str(out)!r}, which is among the data: give another file")
    if out.is_dir():
        raise ValueError(f"out is {str(out)!r}, which is a folder: give a file")
    source = WholeGroups(paths, adapter.group, adapter.names)
    of_rows = source.check()
    if not of_rows:
        raise ValueError(f"there is no row in {data}")
    _init(adapter, source)
    parts = Parts(Path(f"{out}.parts"))
    stamps = [_stamp(path) for path in paths]
    parts.begin({"data": stamps, "adapter": adapter.settings()})
    done, sites = parts.done(), parts.sites()
    for table in source.tables(adapter.batch_size, done.rows):
        part = adapter.adapted(adapter.cut(table, strict=False))
        here = part.column_names[2:-1]
        if here and part["error"].null_count:  # of bad groups alone, they are what earlier data had
            adapter.check_names(here, sites)
            sites = here
        done = done.after(len(table), part)
        parts.add(part, done)
        if report is not None:
            report(done, of_rows)
    if changed := [stamp[0] for stamp in stamps if _stamp(stamp[0]) != stamp]:
        raise ValueError(f"{changed[0]} has changed while it was adapted: begin anew, without the folder {out}.parts")
    rejected = out.with_name(f"{out.name.removesuffix('.parquet')}.rejected.parquet")
    parts.merge(out, rejected, [adapter.group, "rows", "error"])
    return Adapted(done.groups - done.rejected, done.rejected, out, rejected if done.rejected else None)


def _init(adapter: Adapter, source: WholeGroups) -> None:
    """Find the program's parameters by the first good group, before any work."""
    for table in source.tables(1):
        for _, data in adapter.cut(table, strict=False).by_size(1):
            try:
                adapter.meta.init(data)
                return
            except ValueError as error:
                if outside_support(error) is None:
                    raise


def _stamp(path: str) -> list[Any]:
    status = os.stat(path)
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]
