"""The tasks of a meta-batch, one by one."""

from __future__ import annotations

import operator
from typing import Any

from pyrometa import nest

Args = tuple[Any, ...]


def tasks_of(given: Any) -> list[Args]:
    """The positional arguments of each task of a meta-batch, as ``meta.adapt_many`` takes it."""
    if isinstance(given, list):
        return [_arguments(task) for task in given]
    args = _arguments(given)
    count = len(nest.tensors(args)[0])
    return [nest.mapped(operator.itemgetter(i), args) for i in range(count)]


def _arguments(given: Any) -> Args:
    return given if isinstance(given, tuple) and not nest.is_named(given) else (given,)
