"""Whether values have the parts that they had, asked of many values in few loops.

Before each replay some hundred containers and objects are looked at, most of them empty dictionaries of modules. A list
of the parts of each, compared with the list that it was, takes most of that time to make. Here the dictionaries are
gone through end to end: their lengths, then all keys, then all values, each by identity.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter, is_, methodcaller
from typing import Any

from pyrometa.recording.watch import attributes_flat, slots

Watched = tuple[Callable[[Any], list[Any]], Any, list[Any]]
"""How to list the parts of a value, the value, and its parts."""

_SEQUENCES = frozenset({list, tuple, set, frozenset, deque})
_dictionary, _values = attrgetter("__dict__"), methodcaller("values")


class Unchanged:
    """Asks whether values still have the parts that they have now.

    Args:
        parts: the values with the parts that each had; what has changed since then is not unchanged.
    """

    def __init__(self, parts: Sequence[Watched]) -> None:
        self._began = all(_same(flat(value), known) for flat, value, known in parts)
        self._objects: list[Any] = []
        dictionaries: list[dict[Any, Any]] = []
        self._sequences: list[Any] = []
        self._others: list[Watched] = []
        for flat, value, known in parts:
            if type(value) in (dict, OrderedDict):
                dictionaries.append(value)
            elif type(value) in _SEQUENCES:
                self._sequences.append(value)
            elif flat is attributes_flat and _is_its_dictionary(value):
                self._objects.append(value)
            else:
                self._others.append((flat, value, known))
        self._kinds, self._held = list(map(type, self._objects)), list(map(_dictionary, self._objects))
        dictionaries += self._held
        self._sized = [*dictionaries, *self._sequences]
        self._sizes = list(map(len, self._sized))
        self._plain = [d for d in dictionaries if d and type(d) is dict]
        self._ordered = [d for d in dictionaries if d and type(d) is OrderedDict]
        self._sequences = [s for s in self._sequences if s]
        self._known = list(self._all_held())

    def __call__(self) -> bool:
        """Whether each part is the very object that it was."""
        return (
            self._began
            and all(map(is_, map(type, self._objects), self._kinds))
            and all(map(is_, map(_dictionary, self._objects), self._held))
            and list(map(len, self._sized)) == self._sizes
            and all(map(is_, self._all_held(), self._known))
            and all(_same(flat(value), known) for flat, value, known in self._others)
        )

    def _all_held(self) -> Iterable[Any]:
        """Keys and values of dictionaries, in their order, and the items of sequences."""
        return chain(
            chain.from_iterable(self._plain),
            chain.from_iterable(map(dict.values, self._plain)),
            chain.from_iterable(self._ordered),
            chain.from_iterable(map(_values, self._ordered)),  # in the order of its keys
            chain.from_iterable(self._sequences),
        )


def _is_its_dictionary(value: Any) -> bool:
    """Whether an object is its class and a dictionary of its own, without slots."""
    held = getattr(value, "__dict__", None)
    return type(held) is dict and held is value.__dict__ and not slots(type(value))


def _same(found: Sequence[Any], known: Sequence[Any]) -> bool:
    return len(found) == len(known) and all(map(is_, found, known))
