"""All that a program's result depends on besides its parameters, data and noise, as a value to compare.

A recorded run can't see Python: a KL weight that is annealed, a ``.eval()`` after it was recorded in training. It may
be replayed only while the fingerprint is what it was. What can't be compared is refused by name, and nothing is passed
over because it is not known.
"""

from __future__ import annotations

import decimal
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from operator import is_
from typing import Any

import pyro
import torch
from torch import Tensor

from pyrometa.internals import PYRO_STACK
from pyrometa.recording.labels import digest
from pyrometa.recording.unchanged import Unchanged
from pyrometa.recording.walk import Walk

_SWITCHES = (bool, int, float, str, type(None))


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
        self._trained, self._settings = _addresses(parameters), _settings()
        walk = Walk(self._trained)
        for path, program in self._roots.items():
            walk.add(path, program)
        walk.settle()
        self._state = {**self._settings, **walk.state}
        self._unchanged, self._copies, self._held = Unchanged(walk.parts), walk.copies, walk.held
        self._hash = hash(tuple(self._state.items()))

    @cached_property
    def label(self) -> str:
        """A digest of the numbers, words and switches in the state, which is the same in every process."""
        return digest({path: told[1] for path, told in self._state.items() if _is_switch(told)})

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Fingerprint) and self._is_as(other))

    def _is_as(self, other: Fingerprint) -> bool:
        """Whether the state is the other's; if so, one is kept of the two, so that it is not compared again."""
        if self._state is not other._state and self._state == other._state:
            other._state = self._state
        return self._state is other._state

    def __hash__(self) -> int:
        return self._hash

    def holds(self, programs: Mapping[str, Any], parameters: Collection[Tensor]) -> bool:
        """Whether a fingerprint made now would surely be the same, which takes less than to make it.

        It is asked before each replay. Where every part of every value is the very object that it was, there is nothing
        new to look into, and the walk can be spared; only copies are made anew.
        """
        roots = _roots(programs)
        return (
            roots.keys() == self._roots.keys()
            and all(map(is_, roots.values(), self._roots.values()))
            and _addresses(parameters) == self._trained
            and _settings() == self._settings
            and self._unchanged()
            and all(still() for still in self._copies)
        )

    def watches(self, values: Iterable[Any]) -> bool:
        """Whether all these values are watched, so that none of them has changed while this fingerprint holds."""
        return set(map(id, values)).issubset(map(id, self._held))

    def first_difference(self, other: Fingerprint) -> str | None:
        """The path of the first state that differs, or None."""
        paths = [*self._state, *(path for path in other._state if path not in self._state)]
        absent = object()
        return next((p for p in paths if self._state.get(p, absent) != other._state.get(p, absent)), None)


def _is_switch(told: Any) -> bool:
    return type(told) is tuple and len(told) == 2 and told[0] in _SWITCHES and type(told[1]) is told[0]


def _roots(programs: Mapping[str, Any]) -> dict[str, Any]:
    """Where the walk starts: at the programs, and at Pyro's handlers around them."""
    return {**programs, **{f"handlers.[{i}]": handler for i, handler in enumerate(PYRO_STACK)}}


def _addresses(parameters: Collection[Tensor]) -> frozenset[int]:
    return frozenset(parameter.untyped_storage().data_ptr() for parameter in parameters if parameter.numel())


def _settings() -> dict[str, Any]:
    """Settings of libraries that change what operations do, and that code need not name."""
    context = decimal.getcontext()
    of_pyro = {f"pyro.{name}": value for name, value in pyro.settings.get().items() if not name.startswith("validate")}
    return {
        **of_pyro,
        "dtype": torch.get_default_dtype(),
        "decimal": (context.prec, context.rounding),
    }
