"""What code names: globals with the attributes read off them, modules that it imports, and every other attribute."""

from __future__ import annotations

import builtins
import copy
import dataclasses
import dis
import functools
import inspect
import operator
import string
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyrometa.recording.watch.outside import outside, root, trusted_module

_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")
_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")
_BETWEEN = ("PUSH_NULL", "CACHE", "EXTENDED_ARG", "PRECALL")
_ABSENT = object()
_DYNAMIC = frozenset({"vars", "__dict__", "attrgetter", "methodcaller", "__getattribute__", "dir", "getmembers"})
_LOOK_UP = (getattr, vars, dir, inspect.getmembers, inspect.getattr_static, operator.attrgetter, operator.methodcaller)
"""Functions that read attributes by names which the code that calls them need not hold."""

CONSTRUCTION = frozenset({
    "__init__", "__new__", "__post_init__", "__init_subclass__", "__set_name__", "__del__", "__reduce__",
    "__reduce_ex__", "__getstate__", "__setstate__", "__repr__", "__class_getitem__", "__getnewargs__",
    "__getnewargs_ex__",
})  # fmt: skip
"""Methods that are called as an object is made or copied, not as it is used."""

_MAKERS = (type, copy.copy, copy.deepcopy, dataclasses.replace, dataclasses.asdict, dataclasses.astuple)
_CLASSES = frozenset({"__class__", "__subclasses__", "__mro__", "mro", "__base__", "__bases__"})


@dataclass(frozen=True)
class Names:
    """What a code object and those within it name.

    Attributes:
        chains: globals, each with the attributes that are read off it at once: ``("np", "random", "normal")``.
        imports: modules that are imported as the code runs.
        words: every name and string, of which any may be an attribute.
        dynamic: whether attributes may be read that are not named.
    """

    chains: tuple[tuple[str, ...], ...]
    imports: tuple[str, ...]
    words: frozenset[str]
    dynamic: bool


@functools.lru_cache(maxsize=4096)
def names_of(code: types.CodeType) -> Names:
    """What a code object names."""
    words = {*code.co_names, *(word for word in _strings(code.co_consts) if word.isidentifier())}
    steps = list(dis.get_instructions(code))
    dynamic = not _DYNAMIC.isdisjoint(words) or any(_looks_up(steps, i) for i in range(len(steps)))
    if not _CLASSES.isdisjoint(words):
        words |= CONSTRUCTION
    within = [names_of(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)]
    chains = (*_chains(steps), *(chain for names in within for chain in names.chains))
    imported = (step.argval for step in steps if step.opname == "IMPORT_NAME")
    imports = (*imported, *(name for names in within for name in names.imports))
    return Names(
        tuple(dict.fromkeys(chains)),
        tuple(dict.fromkeys(imports)),
        frozenset(words).union(*(names.words for names in within)),
        dynamic or any(names.dynamic for names in within),
    )


def _chains(steps: Iterable[dis.Instruction]) -> Iterator[tuple[str, ...]]:
    """Each global that is read, with the attributes that are read off it at once."""
    chain: tuple[str, ...] = ()
    for step in steps:
        if chain and step.opname in _ATTRIBUTE:
            chain = (*chain, step.argval)
        elif step.opname not in _BETWEEN:
            if chain:
                yield chain
            chain = (step.argval,) if step.opname in _GLOBAL else ()


def named_by(value: Any) -> tuple[frozenset[str], bool]:
    """The attributes that may be read because code holds this value, by name, and whether any other may be as well."""
    if isinstance(value, types.CodeType):
        named = names_of(value)
        return named.words, named.dynamic
    if any(value is maker for maker in _MAKERS):
        return CONSTRUCTION, False
    look_up = isinstance(value, _LOOK_UP[-2:]) or any(value is function for function in _LOOK_UP)
    return frozenset(), look_up


def _looks_up(steps: Sequence[dis.Instruction], i: int) -> bool:
    """Whether a ``getattr`` is called here, or handed on, with a name that the code does not hold."""
    if steps[i].opname not in _GLOBAL or steps[i].argval != "getattr":
        return False
    pushed: list[dis.Instruction] = []
    for step in steps[i + 1 :]:
        if step.opname in (*_ATTRIBUTE, *_BETWEEN):
            continue
        if not step.opname.startswith("LOAD_"):
            known = [constant.opname == "LOAD_CONST" and isinstance(constant.argval, str) for constant in pushed]
            return not (step.opname.startswith("CALL") and len(pushed) in (2, 3) and known[1])
        pushed.extend([step] * step.opname.count("LOAD"))  # some push two
    return True


def _strings(constants: tuple[Any, ...]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            yield from constant.split(".")
            yield from fields_of(constant)
        elif isinstance(constant, tuple):
            yield from _strings(constant)


def fields_of(text: str) -> Iterator[str]:
    """The attributes that ``str.format`` reads for a text: ``beta`` for ``"{0.beta}"``."""
    try:
        fields = [field for _, field, *_ in string.Formatter().parse(text) if field]
    except ValueError:  # no text to format
        return
    yield from (word for field in fields for word in field.replace("[", ".").split("."))


def globals_read(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The values that a function's code reads by name, as ``config.beta``, and modules that it uses as a whole."""
    named = names_of(function.__code__)
    known = function.__globals__
    for first, *attributes in named.chains:
        value = known.get(first, _ABSENT)
        if value is _ABSENT:
            value = vars(builtins).get(first, _ABSENT)
        path, through = first, None
        while isinstance(value, types.ModuleType) and attributes:
            through, name = value, attributes.pop(0)
            path, value = f"{path}.{name}", _attribute(value, name)
        if (first, value) == ("getattr", getattr):  # names_of says what it may read
            continue
        if value is not _ABSENT and not (through and trusted_module(through) and _settled(value)):
            yield path, value
    for name in named.imports:
        yield f"import {name}", _imported(name, function)


def _attribute(module: types.ModuleType, name: str) -> Any:
    found = vars(module).get(name, _ABSENT)
    return getattr(module, name, _ABSENT) if found is _ABSENT else found


def _settled(value: Any) -> bool:
    """Whether an object is a trusted library's own, such as a namespace of operators."""
    code = types.FunctionType | types.BuiltinFunctionType | types.ModuleType | type
    if isinstance(value, code | bool | int | float | str) or outside(value) is not None:
        return False
    return root(type(value).__module__) in ("torch", "pyro")


def _imported(name: str, function: types.FunctionType) -> Any:
    package = str(function.__globals__.get("__package__") or "")
    return sys.modules.get(name) or sys.modules.get(f"{package}.{name}")
