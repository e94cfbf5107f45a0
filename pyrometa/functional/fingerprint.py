"""All that a program's result depends on besides its parameters, data and noise, as a value to compare.

A recorded run can't see Python: a KL weight that is annealed, a ``.eval()`` after it was recorded in training. It may
be replayed only while the fingerprint is what it was.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine import Trace
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_LIBRARIES = ("torch", "pyro", "builtins", "numpy", "math", "pyrometa")
_NOT_READ = ("plates", "init_loc_fn")  # an autoguide makes the first in every run, and has used the second by then


class Fingerprint:
    """State by path, such as ``model.beta``; two are equal if all of it is.

    The values of trained parameters do not count, nor those of tensors that share their memory.

    Args:
        programs: what to look into, by name.
        parameters: the trained ones.

    Attributes:
        held: what the fingerprint names by identity, so that no identity is used again.
    """

    def __init__(self, programs: Mapping[str, Any], parameters: Collection[Tensor]) -> None:
        self._trained = {parameter.untyped_storage().data_ptr() for parameter in parameters if parameter.numel()}
        self._state: dict[str, Any] = {}
        self.held: list[Any] = []
        self._visited: dict[int, str] = {}
        self._state["dtype"] = torch.get_default_dtype()
        self._state["local"] = pyro.settings.get("module_local_params")
        for name, program in {**programs, "handlers": list(_PYRO_STACK)}.items():
            self._add(name, program)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprint) and self._state == other._state

    def __hash__(self) -> int:
        return hash(tuple(self._state.items()))

    def first_difference(self, other: Fingerprint) -> str | None:
        """The path of the first state that differs, or None."""
        paths = [*self._state, *(path for path in other._state if path not in self._state)]
        absent = object()
        return next((p for p in paths if self._state.get(p, absent) != other._state.get(p, absent)), None)

    def _add(self, path: str, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self._state[path] = (type(value), value)
            return
        if isinstance(value, dict | list | tuple | set) and not value:
            self._state[path] = type(value)
            return
        if id(value) in self._visited:
            self._state[path] = self._visited[id(value)]
            return
        self._visited[id(value)] = path
        self.held.append(value)
        if isinstance(value, Tensor):
            trained = value.untyped_storage().data_ptr() in self._trained
            self._state[path] = (id(value), *(() if trained else (value._version, value.data_ptr())))
            return
        parts = _parts(value)
        self._state[path] = id(value) if parts is None else type(value)
        for part, inner in parts or ():
            self._add(f"{path}.{part}", inner)


def _parts(value: Any) -> Iterable[tuple[str, Any]] | None:
    """What a value's behaviour depends on, or None for what is known by its identity alone."""
    if isinstance(value, nn.Module):
        return _module_parts(value)
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, functools.partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if inspect.ismethod(value):
        return [("self", value.__self__), (value.__name__, value.__func__)]
    if inspect.isfunction(value):
        return None if _is_of_library(value) else _function_parts(value)
    opaque = isinstance(value, type | types.ModuleType | types.CodeType | types.BuiltinFunctionType | Trace)
    return None if opaque or not hasattr(value, "__dict__") else _object_parts(value)


def _object_parts(value: Any) -> Iterator[tuple[str, Any]]:
    yield from vars(value).items()
    if not _is_of_library(type(value)):
        yield from ((f"{name}()", f) for name, f in vars(type(value)).items() if inspect.isfunction(f))


def _module_parts(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes, except those that Pyro makes anew in every run, and the methods of the user's class."""
    for name, value in vars(module).items():
        passing = name == "_pyro_context" or (name in _NOT_READ and isinstance(module, AutoGuide))
        if not passing:
            yield name, value
    if not _is_of_library(type(module)):
        yield from ((f"{name}()", f) for name, f in vars(type(module)).items() if inspect.isfunction(f))


def _function_parts(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Code, closure, defaults, and the globals that the code names."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield "__code__", code
    yield from (("__defaults__", function.__defaults__), ("__kwdefaults__", function.__kwdefaults__))
    for name in _names(code):
        if name in function.__globals__:
            value = function.__globals__[name]
            if isinstance(value, types.ModuleType):
                yield from _settings(value, _names(code))
            else:
                yield name, value
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield "__wrapped__", wrapped


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _settings(module: types.ModuleType, names: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Plain values of a module that the code may read, as ``config.beta``."""
    if module.__name__.partition(".")[0] in _LIBRARIES:
        return
    for name in names:
        value = vars(module).get(name)
        if isinstance(value, (*_PLAIN, Tensor)):
            yield f"{module.__name__}.{name}", value


def _is_of_library(thing: Any) -> bool:
    module = getattr(thing, "__module__", None) or ""
    return module.partition(".")[0] in _LIBRARIES
