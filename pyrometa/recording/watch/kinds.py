"""How each kind of value is watched: by the identity of its parts, by a copy of what it holds, or not at all."""

from __future__ import annotations

import abc
import array
import collections
import functools
import logging
import pickle
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from pyro.poutine import Trace
from torch import Tensor, nn

from pyrometa.internals import is_functorch_wrapped_tensor
from pyrometa.recording.watch.classes import (
    DESCRIPTORS,
    ClassOf,
    Registered,
    attributes,
    class_of_object,
    instance,
    own_classes,
    slots,
    watched_class,
)
from pyrometa.recording.watch.code import globals_read, names_of
from pyrometa.recording.watch.containers import mapping, sequence
from pyrometa.recording.watch.outside import (
    module_of,
    named_in_its_module,
    outside,
    outside_by_name,
    refuse,
    root,
    trusted,
)
from pyrometa.recording.watch.ways import PLAIN, ByCopy, ByParts, no_parts, of_parts

_LRU = type(functools.lru_cache(lambda: None))


def kind_of(value: Any, path: str) -> ByParts | ByCopy | None:
    """How to watch a value; None where nothing but its identity has to be compared.

    Raises:
        UnsupportedProgramError: it can't be watched; the message names its path.
    """
    found = outside(value)
    if found is not None:
        refuse(path, found)
    for types_, make in _KINDS:
        if isinstance(value, types_):
            return make(value, path)
    return _object(value, path)


def _opaque(value: Any, path: str) -> None:
    """Nothing but the identity of such a value is compared."""
    return


def _code(value: types.CodeType, path: str) -> None:
    """Code never changes, but its names may tell that it reads what can't be watched."""
    found = outside_by_name(names_of(value).words)
    if found is not None:
        refuse(path, found)


def _logger(value: logging.Logger, path: str) -> ByCopy:
    """A logger, by what decides whether a message is logged: code may ask that before it does something else."""
    return ByCopy(lambda v: (v.level, v.getEffectiveLevel(), v.disabled, v.propagate, v.manager.disable), id(value))


def _partial(value: functools.partial[Any], path: str) -> ByParts:
    return of_parts(lambda v: [("func", v.func), ("args", v.args), ("keywords", v.keywords)], value)


def _bound(value: Any, path: str) -> ByParts:
    """A method of an object."""
    return of_parts(lambda v: [("self", v.__self__), (v.__name__, v.__func__)], value)


def _builtin(value: Any, path: str) -> ByParts | None:
    """A compiled function: by the object that it is a method of, or by identity where its library is trusted."""
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType | type):
        return of_parts(lambda v: [("self", v.__self__)], value)
    if not (trusted(value) or (isinstance(owner, type) and trusted(owner))):
        refuse(path, f"the compiled function {module_of(value)}.{value.__name__}")
    return None


def _function(value: types.FunctionType, path: str) -> ByParts | None:
    """A function, by all that it reads; a trusted library's by identity, unless it wraps another function."""
    if trusted(value):
        return None if named_in_its_module(value) else of_parts(_wrapper_parts, value)
    return of_parts(_function_parts, value)


def _wrapper_parts(function: types.FunctionType) -> list[tuple[str, Any]]:
    """Code, closure, defaults and attributes of a function, without the globals that it reads."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    closure = [(name, found) for name, cell in cells for found in _content(cell) if name != "__class__"]
    given = [("__defaults__", function.__defaults__), ("__kwdefaults__", function.__kwdefaults__)]
    own = [(name, value) for name, value in vars(function).items() if name != "__wrapped__" or not closure]
    return [("__code__", function.__code__), *closure, *given, *own]


def _content(cell: types.CellType) -> Iterator[Any]:
    """What a closure holds, if it holds anything."""
    try:
        yield cell.cell_contents
    except ValueError:  # not assigned yet
        return


def _function_parts(function: types.FunctionType) -> list[tuple[str, Any]]:
    return [*_wrapper_parts(function), *globals_read(function)]


def _cached(value: Any, path: str) -> ByParts:
    """A function that remembers its results, of which there may be fewer after a ``cache_clear``."""
    return of_parts(lambda v: [("__wrapped__", v.__wrapped__), ("misses", v.cache_info().misses)], value)


def _descriptor(value: Any, path: str) -> ByParts:
    """A property or a method as its class holds it: by the functions in it."""

    def named(v: Any) -> list[tuple[str, Any]]:
        names = ("fget", "__func__", "func", "args", "keywords")
        return [(name, getattr(v, name)) for name in names if hasattr(v, name)]

    return of_parts(named, value)


def _module(value: types.ModuleType, path: str) -> ByParts | None:
    """A module that code takes up whole: what of it is read, only the names in the code can tell."""
    return ByParts(no_parts, no_parts, id(value), lambda v: list(vars(v).items()))


def _weak(value: weakref.ref[Any], path: str) -> ByParts:
    """A weak reference, by what it refers to now."""
    return of_parts(lambda v: [("()", v())], value)


def _array(value: np.ndarray[Any, Any], path: str) -> ByParts | ByCopy | None:
    """An array, by a copy of its numbers; an array of objects, by each object."""
    if type(value) not in (np.ndarray, np.memmap):
        return _object(value, path)
    if value.dtype.hasobject:
        return of_parts(lambda v: [(f"[{i}]", item) for i, item in enumerate(v.ravel().tolist())], value)
    return ByCopy(lambda v: (v.shape, v.dtype, v.tobytes()), id(value))


def _bytes(value: Any, path: str) -> ByCopy:
    return ByCopy(lambda v: v.tobytes() if hasattr(v, "tobytes") else bytes(v), id(value))


def _object(value: Any, path: str) -> ByParts | ByCopy | None:
    """Any other object: by its attributes, or by what it pickles as if compiled code may keep more of it."""
    kind = type(value)
    if callable(value) and hasattr(value, "__name__") and trusted(value):
        return None  # a function of a library, compiled by one means or another
    if isinstance(value, Iterator):
        refuse(path, f"an iterator ({kind.__name__})")
    if root(kind.__module__) != "pandas" and not _has_more(kind):
        return instance(value)
    plain = next((base for base in kind.__mro__ if base in PLAIN), None)
    if plain is not None and own_classes(kind):
        return of_parts(lambda v: [("value", plain(v)), *attributes(v)], value)
    if own_classes(kind):
        refuse(path, _unknown(value))
    return _pickled(value, path)


def _has_more(kind: type) -> bool:
    """Whether compiled code keeps more in objects of this class than a dictionary, slots and weak references."""
    # what is left of an object's size without its header, slots, dictionary and list of weak references
    words = kind.__basicsize__ - object.__basicsize__ - tuple.__itemsize__ * (len(slots(kind)) + 2)
    return bool(kind.__itemsize__) or words > 0 or not any(base.__flags__ & _HEAP for base in kind.__mro__[:-1])


_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that is not built into the interpreter


def _unknown(value: Any) -> str:
    return f"an object of an unknown kind ({type(value).__module__}.{type(value).__name__})"


def _pickled(value: Any, path: str) -> ByCopy:
    """An object of a library, by what it pickles as."""
    try:
        pickle.dumps(value, protocol=5)
    except Exception:  # whatever an object raises that can't be pickled
        refuse(path, _unknown(value))
    return ByCopy(functools.partial(pickle.dumps, protocol=5), type(value))


def _tensor(value: Tensor, path: str) -> ByCopy:
    """A tensor that is no parameter, by its values."""
    if not trusted(type(value)) or is_functorch_wrapped_tensor(value):
        refuse(path, _unknown(value))
    return ByCopy(_contents, id(value), _still_holds)


def _contents(value: Tensor) -> Any:
    """A copy of what a tensor's memory holds, to compare bit by bit."""
    if value.layout != torch.strided:
        return _bits(value.detach().to_dense())
    return value.data_ptr(), value.dtype, value.shape, value.stride(), _bits(value)


def _bits(value: Tensor) -> bytes:
    """All of the memory that a tensor is a part of: NaN equals itself so, and zero differs from minus zero."""
    return _raw(value).cpu().numpy().tobytes()


def _raw(value: Tensor) -> Tensor:
    """All of the memory that a tensor is a part of, as bytes."""
    return torch.empty(0, dtype=torch.uint8, device=value.device).set_(value.untyped_storage())


def _still_holds(value: Tensor, copied: Any) -> Callable[[], bool]:
    """Whether a tensor still holds what is in a copy; on the CPU its memory is looked at where it lies."""
    if value.layout != torch.strided or not value.is_cpu or not value.untyped_storage().nbytes():
        return lambda: bool(_contents(value) == copied)
    place, bits, held = _place(value), copied[-1], _raw(value).numpy().data
    here = value.data_ptr(), value.dtype, value.shape, value.stride()
    if (*here, bits) != copied:
        return lambda: False

    def still() -> bool:
        now = value.data_ptr(), value.dtype, value.shape, value.stride()
        return _place(value) == place and now == here and held == bits

    return still


def _place(value: Tensor) -> tuple[torch.layout, int, int]:
    """Where the memory lies that a tensor is a part of, and how large it is."""
    storage = value.untyped_storage()
    return value.layout, storage.data_ptr(), storage.nbytes()


# The first row that fits counts, so that what derives from several comes under the more particular one.
_KINDS: tuple[tuple[Any, Callable[[Any, str], ByParts | ByCopy | None]], ...] = (
    (Tensor, _tensor),
    (type, watched_class),
    (nn.Module, lambda value, path: instance(value)),
    (ClassOf, class_of_object),
    (types.CodeType, _code),
    (logging.Logger, _logger),
    (Registered, lambda value, path: ByCopy(lambda v: abc.get_cache_token(), type(value))),
    ((types.GenericAlias, Trace, torch.jit.ScriptFunction, *DESCRIPTORS), _opaque),
    (types.FunctionType, _function),
    (types.MethodType, _bound),
    (types.BuiltinFunctionType | types.MethodWrapperType, _builtin),
    (types.ModuleType, _module),
    (functools.partial, _partial),
    (_LRU, _cached),
    ((property, staticmethod, classmethod, functools.cached_property, functools.partialmethod), _descriptor),
    ((dict, types.MappingProxyType), mapping),
    ((list, tuple, set, frozenset, collections.deque), sequence),
    (np.ndarray, _array),
    ((array.array, bytearray, memoryview), _bytes),
    (weakref.ref, _weak),
)
