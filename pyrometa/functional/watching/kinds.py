"""How each kind of value is watched: by the identity of its parts, by a copy of what it holds, or not at all."""

from __future__ import annotations

import array
import collections
import datetime
import functools
import logging
import pickle
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine import Trace
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

from pyrometa.functional.watching.code import globals_read
from pyrometa.functional.watching.outside import (
    LIBRARIES,
    NOW,
    module_of,
    named_in_its_module,
    outside,
    refuse,
    root,
    trusted,
)

PLAIN = frozenset({
    bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented), range, torch.dtype,
    torch.device, torch.layout, torch.memory_format, torch.Size,
})  # fmt: skip
"""Types, and not those derived from them, whose objects never change and say all that they are when compared."""

_NOT_READ = ("plates", "init_loc_fn", "_model")  # an autoguide makes the first in every run, and is done with the rest
_CACHES = ("_inv", "_cached_x_y")  # of a transform: made as it is used
_CONSTRUCTION = frozenset({
    "__init__", "__new__", "__post_init__", "__init_subclass__", "__set_name__", "__del__", "__reduce__",
    "__reduce_ex__", "__getstate__", "__setstate__", "__repr__", "__class_getitem__", "__getnewargs__",
})  # fmt: skip
_DESCRIPTORS = (
    types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType,
)  # fmt: skip
_NONE: Mapping[str, Any] = types.MappingProxyType({})
_ENTRIES = frozenset({"condition", "forward"})  # which we, or torch, call by name
_BARE = frozenset({dict, list, tuple, set, frozenset, collections.OrderedDict, collections.deque})
_LRU = type(functools.lru_cache(lambda: None))


def _once(make: Callable[[type], Any]) -> Callable[[type], Any]:
    """A function of classes that is called once for each, for as long as the class lives."""
    known: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()

    def found(kind: type) -> Any:
        try:
            return known[kind]
        except KeyError:
            return known.setdefault(kind, make(kind))

    return found


@dataclass(frozen=True)
class Parts:
    """A value that is what its parts are.

    Attributes:
        named: the parts, by name.
        flat: a list that holds the same objects for as long as the parts are the same.
        tag: what else is compared of the value, its type or its identity.
        later: parts that count only if some code names them, by that name.
    """

    named: Callable[[Any], list[tuple[str, Any]]]
    flat: Callable[[Any], list[Any]]
    tag: Any
    later: Callable[[Any], list[tuple[str, Any]]] | None = None


@dataclass(frozen=True)
class Value:
    """A value that is compared by a copy of what it holds.

    Attributes:
        copied: the copy.
        tag: what else is compared of the value, its type or its identity.
    """

    copied: Callable[[Any], Any]
    tag: Any


def kind_of(value: Any, path: str) -> Parts | Value | None:
    """How to watch a value; None for what its identity says all of.

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


def _of(named: Callable[[Any], list[tuple[str, Any]]], value: Any, **more: Any) -> Parts:
    return Parts(named, lambda v: [part for _, part in named(v)], type(value), **more)


def _opaque(value: Any, path: str) -> None:
    return None


def _mapping(value: Any, path: str) -> Parts:
    return Parts(_items, lambda v: [*v, *v.values(), *_state(v)], type(value))


def _items(value: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    keys = [(f"keys[{i}]", key) for i, key in enumerate(value) if type(key) not in PLAIN]
    shown = [key if type(key) in PLAIN else i for i, key in enumerate(value)]
    items = [(f"[{key!r}]", item) for key, item in zip(shown, value.values(), strict=True)]
    return [*items, *keys, *_extra(value)]


def _sequence(value: Any, path: str) -> Parts:
    def named(v: Any) -> list[tuple[str, Any]]:
        return [*((f"[{i}]", item) for i, item in enumerate(v)), *_extra(v)]

    return Parts(named, lambda v: [*v, *_state(v)], type(value))


def _extra(container: Any) -> list[tuple[str, Any]]:
    """What a subclass of a container adds to it."""
    if type(container).__module__ not in ("builtins", "collections"):
        return _attributes(container)
    return [("default_factory", container.default_factory)] if hasattr(container, "default_factory") else []


def _state(container: Any) -> list[Any]:
    return [] if type(container) in _BARE else [part for _, part in _extra(container)]


def _partial(value: functools.partial[Any], path: str) -> Parts:
    return _of(lambda v: [("func", v.func), ("args", v.args), ("keywords", v.keywords)], value)


def _bound(value: Any, path: str) -> Parts:
    return _of(lambda v: [("self", v.__self__), (v.__name__, v.__func__)], value)


def _builtin(value: Any, path: str) -> Parts | None:
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType | type):
        return _of(lambda v: [("self", v.__self__)], value)
    if not (trusted(value) or trusted(owner)):
        refuse(path, f"the compiled function {module_of(value)}.{value.__name__}")
    return None


def _function(value: types.FunctionType, path: str) -> Parts | None:
    if trusted(value):
        return None if named_in_its_module(value) else _of(_wrapper_parts, value)
    return _of(_function_parts, value)


def _wrapper_parts(function: types.FunctionType) -> list[tuple[str, Any]]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    closure = [(name, found) for name, cell in cells for found in _content(cell) if name != "__class__"]
    given = [("__defaults__", function.__defaults__), ("__kwdefaults__", function.__kwdefaults__)]
    own = [(name, value) for name, value in vars(function).items() if name != "__wrapped__" or not closure]
    return [("__code__", function.__code__), *closure, *given, *own]


def _content(cell: types.CellType) -> Iterator[Any]:
    try:
        yield cell.cell_contents
    except ValueError:  # not assigned yet
        return


def _function_parts(function: types.FunctionType) -> list[tuple[str, Any]]:
    return [*_wrapper_parts(function), *globals_read(function)]


def _cached(value: Any, path: str) -> Parts:
    """A function that remembers its results, of which there may be fewer after a ``cache_clear``."""
    return _of(lambda v: [("__wrapped__", v.__wrapped__), ("misses", v.cache_info().misses)], value)


def _descriptor(value: Any, path: str) -> Parts:
    def named(v: Any) -> list[tuple[str, Any]]:
        names = ("fget", "__func__", "func", "args", "keywords")
        return [(name, getattr(v, name)) for name in names if hasattr(v, name)]

    return _of(named, value)


@dataclass(frozen=True)
class ClassOf:
    """A class as what its objects read of it, which is not how they were made."""

    kind: type


_class_of = _once(ClassOf)


def _class(value: type, path: str) -> Parts | None:
    """A class that code names: it may be called, so its construction counts as well."""
    if issubclass(value, datetime.date):
        return Parts(_no_parts, _no_parts, id(value), lambda v: [(name, getattr(v, name, None)) for name in NOW])
    if trusted(value):
        return None
    return Parts(lambda v: _class_parts(v, called=True), _class_flat, id(value), _methods)


def _class_of_object(value: ClassOf, path: str) -> Parts:
    def named(v: ClassOf) -> list[tuple[str, Any]]:
        return _class_parts(v.kind, called=False)

    return Parts(named, lambda v: _class_flat(v.kind), id(value), lambda v: _methods(v.kind))


def _class_flat(kind: type) -> list[Any]:
    return [found for base in _own_classes(kind) for found in (*vars(base), *vars(base).values())]


def _own_classes(kind: type) -> list[type]:
    return [base for base in kind.__mro__ if not trusted(base)]


def _class_parts(kind: type, *, called: bool) -> list[tuple[str, Any]]:
    """Attributes, the methods that Python calls by itself, and those that a library may call, knowing their names."""
    found = [member for base in _own_classes(kind) for member in vars(base).items()]
    data = [(name, v) for name, v in found if not _is_method(v) and not _is_dunder(name) and name != "_abc_impl"]
    known = {name for base in kind.__mro__ if trusted(base) for name in vars(base)} | _ENTRIES
    dunders = _CONSTRUCTION if called else frozenset()
    methods = [
        (f"{name}()", v)
        for name, v in found
        if _is_method(v) and (name in dunders or (name not in _CONSTRUCTION and (name in known or _is_dunder(name))))
    ]
    meta = [] if trusted(type(kind)) else [("__class__", _class_of(type(kind)))]
    return [*(member for member in data if not isinstance(member[1], _DESCRIPTORS)), *methods, *meta]


def _is_method(value: Any) -> bool:
    return isinstance(value, types.FunctionType | property | staticmethod | classmethod | functools.cached_property)


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _methods(kind: type) -> list[tuple[str, Any]]:
    return [(name, v) for base in _own_classes(kind) for name, v in vars(base).items() if _is_method(v)]


def _module(value: types.ModuleType, path: str) -> Parts | None:
    """A module that code takes up whole: what of it is read, only the names in the code can tell."""
    return Parts(_no_parts, _no_parts, id(value), lambda v: list(vars(v).items()))


def _no_parts(value: Any) -> list[Any]:
    return []


def _weak(value: weakref.ref[Any], path: str) -> Parts:
    return _of(lambda v: [("()", v())], value)


def _instance(value: Any) -> Parts:
    return Parts(_attributes, _attributes_flat, type(value))


def _attributes_flat(value: Any) -> list[Any]:
    kind = type(value)
    held = getattr(value, "__dict__", _NONE)
    return [kind, *held, *held.values(), *[getattr(value, name, None) for name in slots(kind)]]


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """What an object's dictionary, slots and class hold, without what Pyro and torch make anew in every run."""
    passing, kind = _passing(value), type(value)
    held = [(name, v) for name, v in getattr(value, "__dict__", _NONE).items() if name not in passing]
    held += [(name, getattr(value, name)) for name in slots(kind) if hasattr(value, name)]
    return held if not _own_classes(kind) else [*held, ("__class__", _class_of(kind))]


def _passing(value: Any) -> tuple[str, ...]:
    if isinstance(value, AutoGuide) and root(type(value).__module__) in LIBRARIES:
        return ("_pyro_context", *_NOT_READ)
    if isinstance(value, AutoGuide):
        return ("_pyro_context", *_NOT_READ[:2])
    if isinstance(value, torch.distributions.Transform):
        return _CACHES
    return ("_pyro_context",) if isinstance(value, nn.Module) else ()


@_once
def slots(kind: type) -> tuple[str, ...]:
    """Names of the slots of a class and of those it derives from."""
    members = ((name, v) for base in kind.__mro__ for name, v in vars(base).items())
    return tuple(name for name, v in members if isinstance(v, types.MemberDescriptorType) and not _is_dunder(name))


def _array(value: np.ndarray[Any, Any], path: str) -> Parts | Value | None:
    if type(value) not in (np.ndarray, np.memmap):
        return _object(value, path)
    if value.dtype.hasobject:
        return _of(lambda v: [(f"[{i}]", item) for i, item in enumerate(v.ravel().tolist())], value)
    return Value(lambda v: (v.shape, v.dtype, v.tobytes()), id(value))


def _bytes(value: Any, path: str) -> Value:
    return Value(lambda v: v.tobytes() if hasattr(v, "tobytes") else bytes(v), id(value))


def _object(value: Any, path: str) -> Parts | Value | None:
    """Any other object: by its attributes, or by what it pickles as if there is more to it."""
    kind = type(value)
    if callable(value) and hasattr(value, "__name__") and trusted(value):
        return None  # a function of a library, compiled by one means or another
    if isinstance(value, Iterator):
        refuse(path, f"an iterator ({kind.__name__})")
    if root(kind.__module__) != "pandas" and not _has_more(kind):
        return _instance(value)
    plain = next((base for base in kind.__mro__ if base in PLAIN), None)
    if plain is not None and _own_classes(kind):
        return _of(lambda v: [("value", plain(v)), *_attributes(v)], value)
    if _own_classes(kind):
        refuse(path, _unknown(value))
    return _pickled(value, path)


def _has_more(kind: type) -> bool:
    """Whether objects hold more than a dictionary, slots and a list of weak references: what compiled code keeps."""
    words = kind.__basicsize__ - object.__basicsize__ - tuple.__itemsize__ * (len(slots(kind)) + 2)
    return bool(kind.__itemsize__) or words > 0 or not any(base.__flags__ & _HEAP for base in kind.__mro__[:-1])


_HEAP = 1 << 9  # of a class that is not built into the interpreter


def _unknown(value: Any) -> str:
    return f"an object of an unknown kind ({type(value).__module__}.{type(value).__name__})"


def _pickled(value: Any, path: str) -> Value:
    try:
        pickle.dumps(value, protocol=5)
    except Exception:  # whatever an object raises that can't be pickled
        refuse(path, _unknown(value))
    return Value(functools.partial(pickle.dumps, protocol=5), type(value))


def _tensor(value: Tensor, path: str) -> Value:
    if not trusted(type(value)) or is_functorch_wrapped_tensor(value):
        refuse(path, _unknown(value))
    return Value(_contents, id(value))


def _contents(value: Tensor) -> Any:
    """A copy of what a tensor's memory holds, to compare bit by bit."""
    if value.layout != torch.strided:
        return _bits(value.detach().to_dense())
    return value.data_ptr(), value.shape, value.stride(), _bits(value)


def _bits(value: Tensor) -> bytes:
    raw = torch.empty(0, dtype=torch.uint8, device=value.device).set_(value.untyped_storage())
    return raw.cpu().numpy().tobytes()


_KINDS: tuple[tuple[Any, Callable[[Any, str], Parts | Value | None]], ...] = (
    (Tensor, _tensor),
    (type, _class),
    (nn.Module, lambda value, path: _instance(value)),
    (ClassOf, _class_of_object),
    ((types.CodeType, types.GenericAlias, Trace, torch.jit.ScriptFunction, logging.Logger, *_DESCRIPTORS), _opaque),
    (types.FunctionType, _function),
    (types.MethodType, _bound),
    (types.BuiltinFunctionType | types.MethodWrapperType, _builtin),
    (types.ModuleType, _module),
    (functools.partial, _partial),
    (_LRU, _cached),
    ((property, staticmethod, classmethod, functools.cached_property, functools.partialmethod), _descriptor),
    ((dict, types.MappingProxyType), _mapping),
    ((list, tuple, set, frozenset, collections.deque), _sequence),
    (np.ndarray, _array),
    ((array.array, bytearray, memoryview), _bytes),
    (weakref.ref, _weak),
)
