"""All that a program's result depends on besides its parameters, data and noise, as a value to compare.

A recorded run can't see Python: a KL weight that is annealed, a ``.eval()`` after it was recorded in training. It may
be replayed only while the fingerprint is what it was. What can't be compared is refused by name, and nothing is passed
over because it is not known.
"""

from __future__ import annotations

import decimal
import functools
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from operator import is_
from typing import Any

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from pyrometa.recording.watch import PLAIN, Parts, fields_of, kind_of, named_by


class Fingerprint:
    """State by path, such as ``model.beta``; two are equal if all of it is.

    The values of trained parameters do not count, nor those of tensors that share their memory.

    Args:
        programs: what to look into, by name.
        parameters: the trained ones.

    Raises:
        UnsupportedProgramError: the program reads something that can't be compared, such as a clock or a file.
    """

    def __init__(self, programs: Mapping[str, Any], parameters: Collection[Tensor]) -> None:
        self._roots = _roots(programs)
        self._settings = _settings(parameters)
        walk = _Walk(self._settings[0])
        for path, program in self._roots.items():
            walk.add(path, program)
        walk.settle()
        settings = zip(("dtype", "local", "decimal"), self._settings[1:], strict=True)
        self._state: dict[str, Any] = {**dict(settings), **walk.state}
        self._parts, self._values, self._held = walk.parts, walk.values, walk.held
        self._hash = hash(tuple(self._state.items()))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Fingerprint) and self._state == other._state)

    def __hash__(self) -> int:
        return self._hash

    def holds(self, programs: Mapping[str, Any], parameters: Collection[Tensor]) -> bool:
        """Whether a fingerprint made now would surely be the same, which takes less than to make it."""
        roots = _roots(programs)
        return (
            roots.keys() == self._roots.keys()
            and all(map(is_, roots.values(), self._roots.values()))
            and _settings(parameters) == self._settings
            and all(_same(flat(value), known) for flat, value, known in self._parts)
            and all(copied(value) == known for copied, value, known in self._values)
        )

    def first_difference(self, other: Fingerprint) -> str | None:
        """The path of the first state that differs, or None."""
        paths = [*self._state, *(path for path in other._state if path not in self._state)]
        absent = object()
        return next((p for p in paths if self._state.get(p, absent) != other._state.get(p, absent)), None)


def _same(found: list[Any], known: list[Any]) -> bool:
    return len(found) == len(known) and all(map(is_, found, known))


def _roots(programs: Mapping[str, Any]) -> dict[str, Any]:
    return {**programs, **{f"handlers.[{i}]": handler for i, handler in enumerate(_PYRO_STACK)}}


def _settings(parameters: Collection[Tensor]) -> tuple[frozenset[int], torch.dtype, bool, tuple[int, str]]:
    trained = frozenset(parameter.untyped_storage().data_ptr() for parameter in parameters if parameter.numel())
    context = decimal.getcontext()
    numbers = context.prec, context.rounding
    return trained, torch.get_default_dtype(), pyro.settings.get("module_local_params"), numbers


class _Walk:
    """Everything that can be reached from a program, looked into once.

    Attributes:
        state: what is compared, by path.
        parts: for each value that is its parts, how to list them, the value, and the parts.
        values: for each value that is compared by a copy, how to copy it, the value, and the copy.
        held: what is named by identity, so that no identity is used again.
    """

    def __init__(self, trained: frozenset[int]) -> None:
        self.state: dict[str, Any] = {}
        self.parts: list[tuple[Callable[[Any], list[Any]], Any, list[Any]]] = []
        self.values: list[tuple[Callable[[Any], Any], Any, Any]] = []
        self.held: list[Any] = []
        self._trained = trained
        self._visited: dict[int, str] = {}
        self._words: set[str] = set()
        self._dynamic = False
        self._later: dict[str, tuple[Any, Callable[[Any], list[tuple[str, Any]]]]] = {}

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
        if isinstance(kind, Parts):
            self._add_parts(path, value, kind)
        elif kind is not None:
            copied = kind.copied(value)
            self.state[path] = (kind.tag, copied)
            self.values.append((kind.copied, value, copied))
        else:
            self.state[path] = id(value)

    def _add_parts(self, path: str, value: Any, kind: Parts) -> None:
        self.state[path] = kind.tag
        if not isinstance(value, tuple | frozenset):
            self.parts.append((kind.flat, value, kind.flat(value)))
        if kind.later is not None:
            self._later[path] = (value, kind.later)
        for name, part in kind.named(value):
            self.add(f"{path}.{name}", part)

    def settle(self) -> None:
        """Look into those methods, and those values of a module, that some code names."""
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


def _read_of(module: types.ModuleType, words: Collection[str] | None) -> list[Any]:
    known = vars(module)
    return list(known.values()) if words is None else [known.get(word) for word in words]


def _address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr() if value.layout == torch.strided else 0
