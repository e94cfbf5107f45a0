"""Columns of an Arrow table: what they hold, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from pyrometa.errors import ColumnError, ColumnTypeError
from pyrometa.tasks.optional import import_package

__all__ = [
    "NULL_CURE",
    "check_group",
    "check_names",
    "first_null",
    "group_keys",
    "kind_of",
    "nulls",
    "plain",
    "refuse_nulls",
]

NULL_CURE = "drop these rows or fill them (pandas writes NaN as null)"


def check_names(names: Sequence[str], schema: Any, where: str) -> None:
    """Raise ColumnError unless each column is in an Arrow schema, once."""
    for name in names:
        found = schema.names.count(name)
        if found > 1:
            raise ColumnError(f"{where} has {found} columns {name!r}: rename all but one", name)
        if not found:
            close = get_close_matches(name, schema.names, n=1)
            cure = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, schema.names[:20]))}"
            raise ColumnError(f"{where} has no column {name!r}: {cure}", name)


def check_group(name: str, schema: Any, where: str) -> str:
    """Return the kind of the group column; raise ColumnError unless it is there and holds single values."""
    check_names([name], schema, where)
    kind = kind_of(schema.field(name).type)
    if kind == "nested":
        shown = schema.field(name).type
        raise ColumnTypeError(f"group column {name!r} of {where} holds {shown}: name groups by numbers or text", name)
    return kind


def kind_of(type_: Any) -> str:
    """What an Arrow type is to a model: ``integer``, ``float``, ``boolean``, ``text``, ``nested``, or its own name."""
    types = import_package("pyarrow", "a table", "pyrometa[tables]").types
    if types.is_dictionary(type_):
        return kind_of(type_.value_type)
    tests = {
        "boolean": types.is_boolean(type_),
        "integer": types.is_integer(type_),
        "float": types.is_floating(type_) or types.is_decimal(type_),
        "text": types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_),
        "nested": types.is_nested(type_),
    }
    return next((kind for kind, holds in tests.items() if holds), str(type_))


def plain(column: Any) -> Any:
    """An Arrow column in one piece, of values instead of codes, and of a type that Arrow's functions know."""
    pa = import_package("pyarrow", "a table", "pyrometa[tables]")
    chunks = [_decoded(chunk, pa) for chunk in (column.chunks if isinstance(column, pa.ChunkedArray) else [column])]
    return chunks[0] if len(chunks) == 1 else pa.chunked_array(chunks, None if chunks else column.type).combine_chunks()


def _decoded(chunk: Any, pa: ModuleType) -> Any:
    if pa.types.is_dictionary(chunk.type):
        return _decoded(chunk.dictionary, pa).take(chunk.indices)
    return chunk.cast(pa.large_string()) if pa.types.is_string_view(chunk.type) else chunk


def group_keys(column: Any) -> Any:
    """An Arrow column's groups in one piece; NaN is no name, as in pandas, and comes as null."""
    pc = import_package("pyarrow.compute", "a table", "pyrometa[tables]")
    keys = plain(column)
    return pc.if_else(pc.is_nan(keys), None, keys) if kind_of(keys.type) == "float" else keys


def refuse_nulls(name: str, column: Any, where: Callable[[int], str]) -> None:
    """Raise ColumnError if an Arrow column has a null."""
    if count := column.null_count:
        raise ColumnError(f"column {name!r} has {nulls(count)} {where(first_null(column))}: {NULL_CURE}", name)


def first_null(column: Any) -> int:
    """The first row of an Arrow column that has a null."""
    return column.is_null().index(True).as_py()


def nulls(count: int) -> str:
    """So many nulls, in words that go on with where the first is."""
    return "1 null" if count == 1 else f"{count} nulls, the first"
