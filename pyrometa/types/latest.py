"""What is kept of the latest use, so that a run of ever new shapes does not grow."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Weighed(Protocol):
    """Something of which it is known how much memory it holds."""

    @property
    def bytes(self) -> int:
        """How much."""


Heavy = TypeVar("Heavy", bound=Weighed)


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
        while self._is_too_much():
            del self[next(iter(self))]

    def _is_too_much(self) -> bool:
        return len(self) > self._most

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._most,), None, None, iter([*self.items()])


class LatestBytes(Latest[Key, Heavy]):
    """As :class:`Latest`, but that it holds so many bytes at most, or a single entry that holds more."""

    def _is_too_much(self) -> bool:
        return len(self) > 1 and sum(value.bytes for value in self.values()) > self._most
