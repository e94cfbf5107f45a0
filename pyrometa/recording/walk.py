"""All that can be reached from a program, looked into once.

Code may read any attribute of any object that it gets hold of, and which object that is only a run would tell. So the
walk goes from the program through attributes, closures and globals to all that they hold. It would end at half of
Python, but for two rules: a library that is trusted is known by identity, and methods of a class and values of a
module count only if their name occurs in some code that was met. All names are known only at the end: hence ``settle``.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from pyrometa.recording.watch import PLAIN, ByCopy, ByParts, NamedParts, fields_of, kind_of, named_by


class Walk:
    """Everything that can be reached from some values.

    Args:
        trained: addresses of tensors whose values do not count.

    Attributes:
        state: what is compared, by path.
        parts: for each value that is its parts, how to list them, the value, and the parts.
        copies: for each value that is compared by a copy, whether it still holds what is in the copy.
        held: what the state names by identity, held so that no other object can take that identity.
    """

    def __init__(self, trained: Collection[int]) -> None:
        self.state: dict[str, Any] = {}
        self.parts: list[tuple[Callable[[Any], list[Any]], Any, list[Any]]] = []
        self.copies: list[Callable[[], bool]] = []
        self.held: list[Any] = []
        self._trained = trained
        self._visited: dict[int, str] = {}
        self._words: set[str] = set()
        self._dynamic = False
        self._later: dict[str, tuple[Any, NamedParts]] = {}

    def add(self, path: str, value: Any) -> None:
        """Look into a value and all that it leads to."""
        while path in self.state:  # an attribute and a method of one name, or what a class overrides
            path += "'"
        if type(value) in PLAIN:
            self.state[path] = (type(value), value)
            if type(value) is str and "{" in value:
                self._words.update(fields_of(value))
            return
        if id(value) in self._visited:
            self.state[path] = self._visited[id(value)]
            return
        self._visited[id(value)] = path
        self.held.append(value)
        if isinstance(value, Tensor) and _address(value) in self._trained:
            self.state[path] = id(value)
            return
        kind = kind_of(value, path)
        words, dynamic = named_by(value)
        self._words |= words
        self._dynamic = self._dynamic or dynamic
        if isinstance(kind, ByParts):
            self._add_parts(path, value, kind)
        elif kind is not None:
            copied = kind.copied(value)
            self.state[path] = (kind.tag, copied)
            self.copies.append(_still(kind, value, copied))
        else:
            self.state[path] = id(value)

    def _add_parts(self, path: str, value: Any, kind: ByParts) -> None:
        self.state[path] = kind.tag
        if not isinstance(value, tuple | frozenset):
            self.parts.append((kind.flat, value, kind.flat(value)))
        if kind.later is not None:
            self._later[path] = (value, kind.later)
        for name, part in kind.named(value):
            self.add(f"{path}.{name}", part)

    def settle(self) -> None:
        """Look into those methods, and those values of a module, that some code names, until no new name is met."""
        done: set[tuple[str, int]] = set()
        while found := [(path, part) for path, part in self._named() if (path, id(part)) not in done]:
            for path, part in found:
                done.add((path, id(part)))
                self.add(path, part)
        for value, _ in self._later.values():
            if isinstance(value, types.ModuleType):
                flat = functools.partial(_read_of, words=None if self._dynamic else tuple(self._words))
                self.parts.append((flat, value, flat(value)))

    def _named(self) -> Iterator[tuple[str, Any]]:
        for path, (value, later) in list(self._later.items()):
            for name, part in later(value):
                if self._dynamic or name in self._words:
                    yield f"{path}.{name}", part


def _still(kind: ByCopy, value: Any, copied: Any) -> Callable[[], bool]:
    if kind.comparing is not None:
        return kind.comparing(value, copied)
    return lambda: bool(kind.copied(value) == copied)


def _read_of(module: types.ModuleType, words: Collection[str] | None) -> list[Any]:
    """What a module holds under some names; None for all that it holds."""
    known = vars(module)
    return list(known.values()) if words is None else [known.get(word) for word in words]


def _address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr() if value.layout == torch.strided else 0
