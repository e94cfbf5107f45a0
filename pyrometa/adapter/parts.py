"""Results that are written part by part, and gone on with after an interruption."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyrometa.saving.whole_files import whole, write_whole
from pyrometa.tasks.optional import import_package

_DONE = b"pyrometa.done"


@dataclass(frozen=True)
class Done:
    """How far a run is.

    Attributes:
        rows: of the data, those of all groups that are done.
        groups: that are done.
        rejected: those of them that could not be adapted.
    """

    rows: int = 0
    groups: int = 0
    rejected: int = 0

    def after(self, rows: int, part: Any) -> Done:
        """The same after another part of the results."""
        rejected = len(part) - part["error"].null_count
        return Done(self.rows + rows, self.groups + len(part), self.rejected + rejected)


class Parts:
    """The parts of a run's results, files in a folder that is there as long as the run is not done.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._job = folder, folder / "job.json"
        self._finished = folder.with_name(f"{folder.name}.finished")

    def begin(self, job: dict[str, Any]) -> None:
        """Begin a run, or go on with one.

        Raises:
            ValueError: what is there is another run's.
        """
        shutil.rmtree(self._finished, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._job.exists():
            write_whole(self._job, json.dumps(job, indent=2).encode())
            return
        with suppress(json.JSONDecodeError):
            if json.loads(self._job.read_text(encoding="utf-8")) == job:
                return
        raise ValueError(
            f"{self._folder} holds parts of a run that was interrupted, of other data, another adapter or other "
            "parameters: remove the folder, or give another out"
        )

    def done(self) -> Done:
        """How far the run is."""
        files = self._files()
        if not files:
            return Done()
        metadata = _parquet().read_schema(files[-1]).metadata
        return Done(**json.loads(metadata[_DONE]))

    def sites(self) -> list[str]:
        """The columns of the sites; empty as long as no group was adapted."""
        columns = (_parquet().read_schema(file).names[2:-1] for file in reversed(self._files()))
        return next(filter(None, columns), [])

    def add(self, part: Any, done: Done) -> None:
        """Write another part, and how far the run is with it."""
        held = part.replace_schema_metadata({_DONE: json.dumps(asdict(done))})
        with whole(self._folder / f"part-{done.rows:015}.parquet") as temporary:
            _parquet().write_table(held, temporary)

    def merge(self, out: Path, rejected: Path, told: Sequence[str]) -> None:
        """Write all results to a file, and the groups that have none to another, if there are any.

        Args:
            out: the file of results, without ``error``.
            rejected: the file of the others.
            told: the columns of these.

        Raises:
            ValueError: parts are missing, or there twice.
        """
        self._check_complete()
        pc = import_package("pyarrow.compute", "a table", "pyrometa[tables]")
        any_rejected = self.done().rejected > 0
        if any_rejected:
            self._merge(rejected, lambda part: part.filter(pc.is_valid(part["error"])).select(told))
        self._merge(out, lambda part: part.filter(pc.is_null(part["error"])).drop_columns(["error"]))
        if not any_rejected:
            rejected.unlink(missing_ok=True)
        self._folder.rename(self._finished)  # killed while it removes parts, a run is not gone on with from the rest
        shutil.rmtree(self._finished)

    def _check_complete(self) -> None:
        groups, expected = sum(_parquet().read_metadata(file).num_rows for file in self._files()), self.done().groups
        if groups != expected:
            raise ValueError(
                f"the parts in {self._folder} hold {groups} groups, and {expected} were adapted: two runs wrote there, "
                "or files were removed; remove the folder and begin anew"
            )

    def _merge(self, out: Path, chosen: Callable[[Any], Any]) -> None:
        pa = import_package("pyarrow", "a table", "pyrometa[tables]")
        schemas = [_parquet().read_schema(file).remove_metadata() for file in self._files()]
        empty = pa.unify_schemas(schemas).empty_table()
        with whole(out) as temporary, _parquet().ParquetWriter(temporary, chosen(empty).schema) as writer:
            for file in self._files():
                part = _parquet().read_table(file).replace_schema_metadata(None)
                writer.write_table(chosen(pa.concat_tables([empty, part], promote_options="default")))

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.parquet"))


def _parquet() -> Any:
    return import_package("pyarrow.parquet", "a Parquet file", "pyrometa[tables]")
