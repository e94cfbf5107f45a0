"""A value of a recipe as an argument that has a type."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from torch import Tensor

_SIMPLE: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class Unfit(Exception):
    """A value that does not fit; the message says what does."""


def fitted(value: Any, hint: Any, imported: Callable[[str], Any]) -> Any:
    """The value as an argument of a type: arrays as lists or tuples, and import paths as what they name.

    Args:
        value: what TOML gives.
        hint: the type; what is not known here fits.
        imported: what is at an import path.

    Raises:
        Unfit: it does not fit.
    """
    if hint is Any:
        return value
    if get_origin(hint) in (Union, types.UnionType):
        return _any_of(value, get_args(hint), imported)
    if hint in _SIMPLE:
        if _is(value, hint):
            return value
    elif get_origin(hint) is Literal:
        if any(value == known and type(value) is type(known) for known in get_args(hint)):
            return value
    elif get_origin(hint) is tuple:
        if isinstance(value, list):
            return _tuple(value, hint, imported)
    elif get_origin(hint) in (Sequence, list):
        if isinstance(value, list):
            return [fitted(part, get_args(hint)[0], imported) for part in value]
    elif get_origin(hint) is Mapping or get_origin(hint) is dict:
        if isinstance(value, Mapping):
            return {key: fitted(part, get_args(hint)[1], imported) for key, part in value.items()}
    elif _takes_object(hint):
        if isinstance(value, str):
            return imported(value)
    else:
        return value
    raise Unfit(expected(hint))


def expected(hint: Any) -> str:
    """What fits, in words."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(expected(part) for part in get_args(hint) if _can_be_written(part)))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (tuple, Sequence, list):
        return "an array of " + " and ".join(
            dict.fromkeys(_plural(expected(part)) for part in get_args(hint) if part is not ...)
        )
    if get_origin(hint) is Mapping or get_origin(hint) is dict:
        return "a table"
    return _SIMPLE.get(hint, "an import path such as 'module:name'")


def _plural(what: str) -> str:
    return what.replace("a whole number", "whole numbers").replace("a number", "numbers").replace("text", "texts")


def _can_be_written(hint: Any) -> bool:
    return hint not in (type(None), Tensor) and getattr(get_origin(hint) or hint, "__name__", "") != "PathLike"


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _takes_object(hint: Any) -> bool:
    """Whether a type is that of functions or of objects, which only a program can hold."""
    kind = get_origin(hint) or hint
    return kind is Callable or (isinstance(kind, type) and kind not in (object, Any) and kind.__module__ != "builtins")


def _any_of(value: Any, hints: Sequence[Any], imported: Callable[[str], Any]) -> Any:
    """As the first of several types that fits; functions and objects come last, as text may stand for them."""
    for hint in sorted(hints, key=_takes_object):
        if not _can_be_written(hint):
            continue
        try:
            return fitted(value, hint, imported)
        except Unfit:
            continue
    raise Unfit(expected(Union[tuple(hints)]))  # noqa: UP007 -- there is no other way to make one


def _tuple(value: list[Any], hint: Any, imported: Callable[[str], Any]) -> tuple[Any, ...]:
    parts = get_args(hint)
    if len(parts) == 2 and parts[1] is ...:
        parts = (parts[0],) * len(value)
    if len(parts) != len(value):
        raise Unfit(f"an array of {len(parts)}")
    return tuple(fitted(part, kind, imported) for part, kind in zip(value, parts, strict=True))


def hints_of(function: Any) -> dict[str, Any]:
    """The types of a function's or a class's arguments; none where they can't be read."""
    try:
        return typing.get_type_hints(getattr(function, "__init__") if isinstance(function, type) else function)  # noqa: B009
    except (NameError, TypeError, AttributeError):
        return {}
