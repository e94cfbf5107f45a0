"""Whose code is trusted to be a function of its arguments, and what is known to be none."""

from __future__ import annotations

import datetime
import os
import random
import sys
import types
from collections.abc import Collection
from pathlib import PurePath
from typing import Any, NoReturn

import numpy as np
import pyro
import torch
from pyro.params.param_store import ParamStoreDict

from pyrometa.errors import UnsupportedProgramError

LIBRARIES = frozenset({"torch", "pyro", "builtins", "numpy", "math", "pyrometa", "opt_einsum"})
"""Packages whose functions and classes are known by identity alone; their objects are looked into."""

_PURE = LIBRARIES | {
    "_abc", "_collections", "_functools", "_operator", "_thread_safe", "_typing", "abc", "array", "bisect", "cmath",
    "collections", "contextlib", "copy", "copyreg", "dataclasses", "datetime", "enum", "fractions", "functools",
    "heapq", "inspect", "itertools", "jaxtyping", "logging", "numbers", "operator", "pandas", "re", "statistics",
    "string", "struct", "textwrap", "traceback", "types", "typing", "typing_extensions", "warnings", "weakref",
}  # fmt: skip
_PURE_COMPILED = _PURE | {"json", "zlib", "binascii", "unicodedata", "sre", "csv"}
"""Packages whose compiled parts, which may go by the same name after an underscore, are trusted."""
_PURE_PARTS = ("scipy.special", "scipy.constants")

_OF_TORCH = (
    "get_num_threads", "get_num_interop_threads", "get_float32_matmul_precision", "get_deterministic_debug_mode",
    "are_deterministic_algorithms_enabled", "is_deterministic_algorithms_warn_only_enabled", "initial_seed",
    "get_rng_state",
)  # fmt: skip

_SETTING = "a setting of a library"
_CLOCK, _FILES, _ENVIRONMENT = "the clock", "a file", "the environment"
_RANDOM, _CODE, _THREAD = "a random generator", "code by its name", "what belongs to a thread or process"
_OUTSIDE = {
    **dict.fromkeys(("time", "_time", "timeit"), _CLOCK),
    **dict.fromkeys(("random", "_random", "secrets", "uuid"), _RANDOM),
    **dict.fromkeys(("io", "_io", "pathlib", "shutil", "tempfile", "glob"), _FILES),
    **dict.fromkeys(("genericpath", "posixpath", "ntpath", "h5py", "pyarrow"), _FILES),
    **dict.fromkeys(("os", "posix", "nt"), "a file or the environment"),
    **dict.fromkeys(("importlib", "runpy", "imp"), _CODE),
    **dict.fromkeys(("threading", "_thread", "contextvars", "_contextvars", "multiprocessing", "subprocess"), _THREAD),
    **dict.fromkeys(("socket", "_socket", "urllib", "http", "select"), "the network"),
}
_BUILTINS = {"open": _FILES, "input": "the terminal"} | dict.fromkeys(
    ("eval", "exec", "compile", "__import__", "globals"), _CODE
)
_ENVIRONMENTS = ("getenv", "getenvb", "environ", "environb", "putenv")
_READERS = ("load", "loadtxt", "genfromtxt", "fromfile", "fromregex", "memmap", "open_memmap", "from_file")
_PARTICULAR = {
    **dict.fromkeys((("inspect", name) for name in ("currentframe", "stack", "trace", "getclosurevars")), _CODE),
    **dict.fromkeys((("sys", name) for name in ("_getframe", "_getframemodulename", "_current_frames")), _CODE),
    **dict.fromkeys((("numpy", name) for name in ("geterr", "geterrcall", "getbufsize", "get_printoptions")), _SETTING),
    **dict.fromkeys((("decimal", name) for name in ("getcontext", "localcontext", "setcontext")), _SETTING),
    **dict.fromkeys((("torch", name) for name in _OF_TORCH), _SETTING),
}
_FRAMES = ("__globals__", "f_globals", "f_locals", "f_back", "f_builtins", "gi_frame", "tb_frame", "__builtins__")
_LEVELS = frozenset({"level", "isEnabledFor", "getEffectiveLevel"})
NOW = ("now", "today", "utcnow")
"""Methods of dates that read the clock."""

_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, torch.Generator)


def refuse(path: str, what: str) -> NoReturn:
    """Refuse to record a program that reads something that can't be compared.

    Raises:
        UnsupportedProgramError: always, naming it, and what to do instead.
    """
    raise UnsupportedProgramError(
        f"this program can't be recorded: {path} reads {what}, which a recording can't watch; give what changes as "
        "an argument, or use Engine(record=False)"
    )


def outside(value: Any) -> str | None:
    """The part of the outside world that a value stands for, or None: a clock, a file, a random generator, ..."""
    if isinstance(value, _GENERATORS):
        return f"{_RANDOM} ({type(value).__module__}.{type(value).__name__})"
    if isinstance(value, type(os.environ)):
        return f"{_ENVIRONMENT} (os.environ)"
    if isinstance(value, ParamStoreDict) or value is pyro.get_param_store:
        return "the param store"
    if isinstance(value, PurePath):
        return f"{_FILES} ({type(value).__name__})"
    if isinstance(value, types.BuiltinMethodType) and not isinstance(value.__self__, types.ModuleType | None):
        return _outside_bound(value)
    return _outside_named(value) if callable(value) and hasattr(value, "__name__") else None


def _outside_bound(method: types.BuiltinMethodType) -> str | None:
    owner = method.__self__
    if isinstance(owner, type) and issubclass(owner, datetime.date) and method.__name__ in NOW:
        return f"{_CLOCK} ({owner.__name__}.{method.__name__})"
    return outside(owner)


def outside_by_name(words: Collection[str]) -> str | None:
    """The part of the outside world that code reads by a name, or None: a frame's globals, a logger's level."""
    frame = next((name for name in _FRAMES if name in words), None)
    if frame is not None:
        return f"{_CODE} ({frame})"
    level = "getLogger" in words and next((name for name in _LEVELS if name in words), None)
    return f"{_SETTING} (logging.Logger.{level})" if level else None


def _outside_named(value: Any) -> str | None:
    name, module = getattr(value, "__name__", ""), module_of(value)
    shown = f" ({module}.{name})"
    particular = _PARTICULAR.get((root(module), name))
    if particular is not None:
        label: str | None = particular
    elif module == "builtins":
        label = _BUILTINS.get(name) if isinstance(value, types.BuiltinFunctionType) else None
    elif module.startswith(("numpy.random", "scipy.stats")):
        label = _RANDOM
    elif root(module) in ("numpy", "torch") and name in _READERS:
        label = _FILES
    elif root(module) == "pandas":
        label = _FILES if name.startswith("read_") else None
    elif isinstance(value, type) and issubclass(value, BaseException):
        label = None
    else:
        label = _ENVIRONMENT if module == "os" and name in _ENVIRONMENTS else _OUTSIDE.get(root(module))
    return label and label + shown


def module_of(value: Any) -> str:
    """The module that the code of a value was written in."""
    if isinstance(value, types.FunctionType):
        return str(value.__globals__.get("__name__") or "")  # a wrapper goes by what it wraps
    return str(getattr(value, "__module__", None) or type(value).__module__)


def root(module: str) -> str:
    """The package of a module."""
    return module.partition(".")[0]


def trusted(value: Any) -> bool:
    """Whether a function or class is a function of its arguments: by a library that is known to be so."""
    module = module_of(value)
    return root(module) in _PURE or root(module).lstrip("_") in _PURE_COMPILED or module.startswith(_PURE_PARTS)


def is_foreign(value: Any) -> bool:
    """Whether a function or class is a user's, or of a package of which nothing is known."""
    return not trusted(value)


def trusted_module(module: types.ModuleType) -> bool:
    """Whether a module's own values do not count."""
    return root(module.__name__) in _PURE or module.__name__.startswith(_PURE_PARTS)


def named_in_its_module(function: types.FunctionType) -> bool:
    """Whether a function is one of its module's own, and not a wrapper around someone else's."""
    module = module_of(function)
    if getattr(sys.modules.get(module), function.__name__, None) is function:
        return True
    return "<locals>" not in function.__qualname__ and function.__module__ == module
