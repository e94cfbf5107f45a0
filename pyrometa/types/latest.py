"""What is kept of the latest use, so that a run of ever new shapes does not grow."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Latest(OrderedDict[Key, Value]):
    """A dictionary that holds so many entries at most: the one that was read or written longest ago goes first.

    Args:
        most: how many.

    Example:
        >>> kept = Latest(2)
        >>> kept["a"], kept["b"] = 1, 2
        >>> kept["a"]
        1
        >>> kept["c"] = 3
        >>> list(kept)
        ['a', 'c']
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __getitem__(self, key: Key) -> Value:
        value = super().__getitem__(key)
        self.move_to_end(key)
        return value

    def __setitem__(self, key: Key, value: Value) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._most:
            del self[next(iter(self))]

    def __reduce__(self) -> tuple[Any, ...]:
        return Latest, (self._most,), None, None, iter([*self.items()])
