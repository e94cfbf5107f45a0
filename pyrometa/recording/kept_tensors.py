"""Mend the tensors that a program keeps of its last run, where it ran many tasks side by side.

A module may store an activation on itself, a closure a statistic. Under ``vmap`` that is a wrapper around the tensors
of all tasks, which raises at any use once ``vmap`` is done. The loop over tasks would have left the last task's tensor.
"""

from __future__ import annotations

import collections
import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pyrometa.internals import get_unwrapped, is_functorch_wrapped_tensor, is_of_all, maybe_get_bdim
from pyrometa.recording.watch import is_foreign, names_of, slots

_Place = tuple[Any, Callable[[Any], None]]


class KeptTensors:
    """Mends one program's kept tensors, and remembers whether a thorough look has ever found any.

    To look everywhere takes long, so that it is done only for a program that kept some, and where it is asked for.
    """

    def __init__(self) -> None:
        self._some = False

    def mend(self, roots: Iterable[Any], modules: Iterable[nn.Module], *, thorough: bool) -> None:
        """Replace each kept tensor of many tasks by the last task's.

        Args:
            roots: from these, all that a program holds can be reached.
            modules: its modules, whose attributes are looked at in any case.
            thorough: look everywhere; once the program kept something, that is always done.
        """
        if thorough or self._some:
            self._some = mend(roots) or self._some
        else:
            mend_attributes(modules)


def mend(roots: Iterable[Any]) -> bool:
    """Replace each tensor of all tasks that can be reached by the last task's tensor, detached.

    Returns:
        Whether there were any.
    """
    seen: dict[int, Any] = {}
    return sum(_mended(root, seen)[1] for root in roots) > 0


def mend_attributes(modules: Iterable[nn.Module]) -> None:
    """Do the same for what modules hold as their own attributes, which is quick to find."""
    for module in modules:
        attributes = vars(module)
        for name in [name for name, value in attributes.items() if isinstance(value, Tensor) and is_of_all(value)]:
            attributes[name] = _of_last(attributes[name])


def _of_last(value: Tensor) -> Tensor:
    with torch.no_grad():
        while is_functorch_wrapped_tensor(value):
            dim = maybe_get_bdim(value)
            value = get_unwrapped(value)
            value = value if dim < 0 else value.select(dim, -1)
        return value.detach().clone()


def _mended(value: Any, seen: dict[int, Any]) -> tuple[Any, bool]:
    """What to hold in a value's place, and whether anything in it was replaced."""
    if isinstance(value, Tensor):
        wrapped = is_of_all(value)
        return (_of_last(value), True) if wrapped else (value, False)
    if id(value) in seen or isinstance(value, types.ModuleType):
        return value, False
    seen[id(value)] = value
    if isinstance(value, tuple):
        parts = [_mended(part, seen) for part in value]
        if not any(changed for _, changed in parts):
            return value, False
        made = (part for part, _ in parts)
        return (type(value)._make(made) if hasattr(value, "_make") else tuple(made)), True
    found = False
    for part, put in list(_places(value)):
        kept, changed = _mended(part, seen)
        if changed and kept is not part:
            put(kept)
        found = found or changed
    return value, found


def _places(value: Any) -> Iterator[_Place]:
    """The parts of a value, each with a function that puts something else in the part's place.

    Python has a way of its own for each kind of value, so that there is a branch for each.
    """
    if isinstance(value, dict):
        yield from ((part, functools.partial(value.__setitem__, key)) for key, part in value.items())
    elif isinstance(value, list | collections.deque):
        yield from ((part, functools.partial(value.__setitem__, i)) for i, part in enumerate(value))
    elif isinstance(value, types.FunctionType):
        yield from _places_of_function(value)
    elif isinstance(value, types.MethodType):
        yield from ((part, _nowhere) for part in (value.__self__, value.__func__))
    elif isinstance(value, functools.partial):
        yield from ((part, _nowhere) for part in (value.func, value.args, value.keywords))
    elif isinstance(value, type):
        if is_foreign(value):
            yield from ((part, functools.partial(setattr, value, name)) for name, part in vars(value).items())
        return
    if hasattr(value, "__dict__"):
        yield vars(value), _nowhere
        yield type(value), _nowhere
    for name in slots(type(value)):
        if hasattr(value, name):
            yield getattr(value, name), functools.partial(setattr, value, name)


def _places_of_function(function: types.FunctionType) -> Iterator[_Place]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents, functools.partial(setattr, cell, "cell_contents")
        except ValueError:  # not assigned yet
            continue
    if is_foreign(function):
        known = function.__globals__
        names = [name for name in names_of(function.__code__).words if name in known]
        yield from ((known[name], functools.partial(known.__setitem__, name)) for name in names)


def _nowhere(value: Any) -> None:
    """Put nothing back: such a part is made anew at each look, or is no tensor itself."""
