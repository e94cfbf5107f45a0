"""How classes and their objects are watched: by attributes, slots and the methods that can be called."""

from __future__ import annotations

import abc
import datetime
import functools
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import nn

from pyrometa.recording.watch.code import CONSTRUCTION
from pyrometa.recording.watch.outside import LIBRARIES, NOW, root, trusted
from pyrometa.recording.watch.ways import ByParts, no_parts


def _once(make: Callable[[type], Any]) -> Callable[[type], Any]:
    """A function of classes that is called once for each, for as long as the class lives."""
    known: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()

    def found(kind: type) -> Any:
        try:
            return known[kind]
        except KeyError:
            return known.setdefault(kind, make(kind))

    return found


_NOT_READ = ("plates", "init_loc_fn", "_model")  # an autoguide makes the first in every run, and is done with the rest
_CACHES = ("_inv", "_cached_x_y")  # of a transform: made as it is used
DESCRIPTORS = (
    types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType,
)  # fmt: skip
_NONE: Mapping[str, Any] = types.MappingProxyType({})
_ENTRIES = frozenset({"condition", "forward"})  # which we, or torch, call by name


@dataclass(frozen=True)
class ClassOf:
    """A class as its objects read it: how they were made does not count, so its constructor is not looked into."""

    kind: type


class_of = _once(ClassOf)


class Registered:
    """What is registered with abstract classes, which ``isinstance`` asks."""


_REGISTERED = Registered()


def watched_class(value: type, path: str) -> ByParts | None:
    """A class that code names: it may be called, so its construction counts as well."""
    if issubclass(value, datetime.date):
        return ByParts(no_parts, no_parts, id(value), lambda v: [(name, getattr(v, name, None)) for name in NOW])
    if trusted(value):
        return None
    return ByParts(lambda v: _class_parts(v, called=True), _class_flat, id(value), _methods)


def class_of_object(value: ClassOf, path: str) -> ByParts:
    """The class of an object, by what the object reads of it."""

    def named(v: ClassOf) -> list[tuple[str, Any]]:
        return _class_parts(v.kind, called=False)

    return ByParts(named, lambda v: _class_flat(v.kind), id(value), lambda v: _methods(v.kind))


def _class_flat(kind: type) -> list[Any]:
    """All that a class and its bases hold, by identity: a method that is replaced changes it."""
    return [found for base in own_classes(kind) for found in (*vars(base), *vars(base).values())]


def own_classes(kind: type) -> list[type]:
    """A class and its bases, without those of libraries that are trusted."""
    return [base for base in kind.__mro__ if not trusted(base)]


def _class_parts(kind: type, *, called: bool) -> list[tuple[str, Any]]:
    """The parts of a class that count at once, whether or not some code names them.

    These are its attributes, methods that Python calls by itself (``__call__``, ``__len__``), and those that a library
    may call because it knows their names (``forward``, and what overrides a method of a base that is trusted). Any
    other method counts when its name is met.
    """
    found = [member for base in own_classes(kind) for member in vars(base).items()]
    data = [(name, v) for name, v in found if not _is_method(v) and not _is_dunder(name) and name != "_abc_impl"]
    known = {name for base in kind.__mro__ if trusted(base) for name in vars(base)} | _ENTRIES
    dunders = CONSTRUCTION if called else frozenset()
    methods = [
        (f"{name}()", v)
        for name, v in found
        if _is_method(v) and (name in dunders or (name not in CONSTRUCTION and (name in known or _is_dunder(name))))
    ]
    meta = [] if trusted(type(kind)) else [("__class__", class_of(type(kind)))]
    registered = [("register()", _REGISTERED)] if called and isinstance(kind, abc.ABCMeta) else []
    return [*(member for member in data if not isinstance(member[1], DESCRIPTORS)), *methods, *meta, *registered]


def _is_method(value: Any) -> bool:
    return isinstance(value, types.FunctionType | property | staticmethod | classmethod | functools.cached_property)


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _methods(kind: type) -> list[tuple[str, Any]]:
    return [(name, v) for base in own_classes(kind) for name, v in vars(base).items() if _is_method(v)]


def instance(value: Any) -> ByParts:
    """An object, by its attributes and its class."""
    return ByParts(attributes, attributes_flat, type(value))


def attributes_flat(value: Any) -> list[Any]:
    """The class, and all that the object's dictionary and slots hold."""
    kind = type(value)
    held = getattr(value, "__dict__", _NONE)
    return [kind, *held, *held.values(), *[getattr(value, name, None) for name in slots(kind)]]


def attributes(value: Any) -> list[tuple[str, Any]]:
    """What an object's dictionary, slots and class hold, without what Pyro and torch make anew in every run."""
    passing, kind = _passing(value), type(value)
    held = [(name, v) for name, v in getattr(value, "__dict__", _NONE).items() if name not in passing]
    held += [(name, getattr(value, name)) for name in slots(kind) if hasattr(value, name)]
    return held if not own_classes(kind) else [*held, ("__class__", class_of(kind))]


def _passing(value: Any) -> tuple[str, ...]:
    """Names of attributes that change as an object is used, and change nothing."""
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
