"""Columns of an Arrow table as the arguments of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrometa.errors import ColumnError, ColumnTypeError
from pyrometa.tasks.arrow import check_names, kind_of, plain, refuse_nulls
from pyrometa.tasks.meta_batch import ModelTensors
from pyrometa.tasks.optional import import_package

__all__ = ["Argument", "ColumnSpec", "Columns"]

Argument = str | list[str]
ColumnSpec = Argument | tuple[Argument, ...]
"""A name, a list of names, or a tuple of such: the model's positional arguments."""


@dataclass(frozen=True)
class Columns:
    """Which columns make up the model's arguments, and the dtype of those that hold floats.

    Attributes:
        arguments: for each argument the names of its columns, and whether they are the columns of a matrix.
        is_tuple: whether the data are a tuple of arguments, and not one tensor.
        float_dtype: what floating-point numbers become.
    """

    arguments: tuple[tuple[tuple[str, ...], bool], ...]
    is_tuple: bool
    float_dtype: torch.dtype

    @staticmethod
    def of(spec: ColumnSpec) -> Columns:
        """Read what a user gives: a name, a list of names, or a tuple of these."""
        given = spec if isinstance(spec, tuple) else (spec,)
        arguments = tuple((_names(part), not isinstance(part, str)) for part in given)
        if not arguments:
            raise ValueError("columns is an empty tuple: name at least one column")
        return Columns(arguments, isinstance(spec, tuple), torch.get_default_dtype())

    @property
    def names(self) -> list[str]:
        """Each column once."""
        return list(dict.fromkeys(name for names, _ in self.arguments for name in names))

    def check(self, schema: Any, where: str) -> dict[str, str]:
        """Return the kind of each column; raise ColumnError unless all are there and hold numbers or booleans."""
        check_names(self.names, schema, where)
        kinds = {name: kind_of(schema.field(name).type) for name in self.names}
        for name, kind in kinds.items():
            if kind not in _RANK:
                shown = f"text ({schema.field(name).type})" if kind == "text" else str(schema.field(name).type)
                raise ColumnTypeError(f"column {name!r} of {where} holds {shown}: {_CURES.get(kind, _CURE)}", name)
        return kinds

    def tensors(self, table: Any, where: Callable[[int], str]) -> ModelTensors:
        """The model's arguments from the rows of an Arrow table.

        Args:
            table: an Arrow table that passed :meth:`check`.
            where: says where a row of it is.

        Returns:
            for each argument a tensor, ``(rows, names)`` for a list of names and ``(rows,)`` for one name; a tuple of
            them, or the only one.
        """
        columns = {name: self._tensor(name, table.column(name), where) for name in self.names}
        made = tuple(
            _matrix([columns[name] for name in names]) if is_matrix else columns[names[0]]
            for names, is_matrix in self.arguments
        )
        return made if self.is_tuple else made[0]

    def _tensor(self, name: str, column: Any, where: Callable[[int], str]) -> Tensor:
        pa = import_package("pyarrow", "a table", "pyrometa[tables]")
        refuse_nulls(name, column, where)
        column, kind = plain(column), kind_of(column.type)
        try:
            cast = column.cast({"integer": pa.int64(), "float": pa.float64(), "boolean": pa.bool_()}[kind])
        except pa.ArrowInvalid as error:
            raise ColumnError(f"column {name!r} does not fit into 64 bits: {error}", name) from error
        tensor = torch.from_numpy(cast.to_numpy(zero_copy_only=False).copy())
        return tensor.to(self.float_dtype) if kind == "float" else tensor


_RANK = {"boolean": 0, "integer": 1, "float": 2}
_CURE = "the model takes numbers and booleans, so convert it first"
_CURES = {
    "text": "the model takes numbers, so make it codes or a column a category first",
    "nested": "the model takes numbers, so make each part a column first",
}


def _matrix(columns: list[Tensor]) -> Tensor:
    """Columns side by side, in the dtype that holds all of them."""
    dtype = columns[0].dtype
    for column in columns:
        dtype = torch.promote_types(dtype, column.dtype)
    return torch.stack([column.to(dtype) for column in columns], dim=1)


def _names(part: Argument) -> tuple[str, ...]:
    names = (part,) if isinstance(part, str) else tuple(part) if isinstance(part, list) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "columns must be a name, a list of names, or a tuple of these, one for each argument of the model, "
            f'like (["x0", "x1"], "y"): got {part!r}'
        )
    return names
