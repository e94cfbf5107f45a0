"""Nests of tensors: mappings, dataclasses, named tuples, tuples and lists, with anything else among the tensors.

A dataclass is rebuilt by its constructor, so what its ``__post_init__`` derives is derived anew.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Same:
    """An object by its identity, held so that no other can take that identity."""

    held: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


class Hashed:
    """A value to look up by, of which the hash is made once."""

    __slots__ = ("_hash", "_value")

    def __init__(self, value: Any) -> None:
        self._value, self._hash = value, hash(value)

    @property
    def value(self) -> Any:
        """The value."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Hashed) and self._value == other._value)

    def __hash__(self) -> int:
        return self._hash


def tensors(nest: Any) -> list[Tensor]:
    """All tensors of a nest, in its own order."""
    if isinstance(nest, Tensor):
        return [nest]
    return [tensor for part in _parts(nest) for tensor in tensors(part)]


def labelled(name: str, nest: Any) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a nest, under what a user writes to get at it: ``support['x']``, ``support.images[0]``."""
    if isinstance(nest, Tensor):
        yield name, nest
        return
    for label, part in _labelled_parts(nest):
        yield from labelled(name + label, part)


def opaque(name: str, nest: Any) -> Iterator[tuple[str, Any]]:
    """Each object of a nest that is neither a tensor nor a plain constant, and the classes of its dataclasses."""
    if not is_nest(nest):
        if not isinstance(nest, bool | int | float | str | None):
            yield name, nest
        return
    if _fields(nest):
        yield f"{name}.__class__", type(nest)
    for label, part in () if isinstance(nest, Tensor) else _labelled_parts(nest):
        yield from opaque(name + label, part)


def mapped(function: Callable[[Tensor], Tensor], nest: Any) -> Any:
    """The same nest of a function of each tensor; what holds no tensor is the same object."""
    if isinstance(nest, Tensor):
        return function(nest)
    old = _parts(nest)
    new = [mapped(function, part) for part in old]
    return nest if all(map(operator.is_, new, old)) else _rebuilt(nest, new)


def replaced(nest: Any, given: Iterator[Tensor]) -> Any:
    """The same nest on other :func:`tensors`, in their order."""
    return mapped(lambda _: next(given), nest)


def joined(function: Callable[[tuple[Tensor, ...]], Tensor], nests: Sequence[Any]) -> Any:
    """One nest of a function of the tensors that are in the same place of nests of one :func:`layout`."""
    columns = zip(*(tensors(nest) for nest in nests), strict=True)
    return replaced(nests[0], map(function, columns))


def layout(
    nest: Any, of_tensor: Callable[[Tensor], Any], of_other: Callable[[Any], Any] | None = None
) -> tuple[Any, ...]:
    """A nest as something to compare: how it hangs together, something of each tensor, and all that is not a tensor.

    ``of_other`` is what counts of the latter; by default the value of plain constants and the identity of the rest.
    """
    if isinstance(nest, Tensor):
        return (of_tensor(nest),)
    if not is_nest(nest):
        return ((of_other or _constant)(nest),)
    keys = tuple(nest) if isinstance(nest, Mapping) else ()
    return (type(nest), keys, *(layout(part, of_tensor, of_other) for part in _parts(nest)))


def is_nest(value: Any) -> bool:
    """Whether it is a tensor, or something that tensors are looked for in."""
    return isinstance(value, Tensor | tuple | list | Mapping) or bool(_fields(value))


def is_named(nest: Any) -> bool:
    """Whether it is a named tuple."""
    return isinstance(nest, tuple) and hasattr(nest, "_fields")


def _constant(value: Any) -> Any:
    return (type(value), value) if isinstance(value, bool | int | float | str | None) else Same(value)


def _parts(nest: Any) -> Sequence[Any]:
    if isinstance(nest, tuple | list):
        return nest
    if isinstance(nest, Mapping):
        return list(nest.values())
    return [getattr(nest, name) for name in _fields(nest)]


def _labelled_parts(nest: Any) -> Iterator[tuple[str, Any]]:
    parts = _parts(nest)
    if not parts:
        return iter(())
    if isinstance(nest, Mapping):
        labels = [f"[{key!r}]" for key in nest]
    elif isinstance(nest, list) or (isinstance(nest, tuple) and not is_named(nest)):
        labels = [f"[{i}]" for i in range(len(nest))]
    else:
        labels = [f".{name}" for name in (nest._fields if is_named(nest) else _fields(nest))]
    return zip(labels, parts, strict=True)


def _fields(nest: Any) -> list[str]:
    """The fields that a dataclass is made of."""
    if not dataclasses.is_dataclass(nest) or isinstance(nest, type | nn.Module):
        return []
    return [field.name for field in dataclasses.fields(nest) if field.init]


def _rebuilt(nest: Any, parts: Sequence[Any]) -> Any:
    if isinstance(nest, tuple | list):
        return type(nest)(*parts) if is_named(nest) else type(nest)(parts)
    if isinstance(nest, MutableMapping):
        made = copy.copy(nest)
        made.update(zip(nest, parts, strict=True))
        return made
    if isinstance(nest, Mapping):
        return type(nest)(dict(zip(nest, parts, strict=True)))  # type: ignore[call-arg]
    return dataclasses.replace(nest, **dict(zip(_fields(nest), parts, strict=True)))
