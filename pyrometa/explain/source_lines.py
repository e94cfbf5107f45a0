"""Where in the user's own code something is."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import pyro
import torch

_OWN = os.path.dirname(os.path.dirname(__file__)) + os.sep
_MACHINERY = (
    _OWN,
    *(os.path.dirname(inspect.getfile(package)) + os.sep for package in (torch, pyro)),
    sysconfig.get_paths()["stdlib"] + os.sep,
    "<frozen",
)
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

_Line = tuple[str, int]


def line_of_error(error: BaseException) -> str | None:
    """``file:line`` of the innermost frame of the user's that an exception, or what caused it, came through."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in reversed(causes):
        frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(cause.__traceback__)]
        found = _first(frames[::-1])
        if found is not None:
            return found
    return None


def line_of_call() -> str | None:
    """``file:line`` of what the user's program does now, for a handler to ask; None where it is not its own code."""
    found: list[_Line] = []
    frame = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith(_OWN):
        found.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return _first(found)


def lines_of_definition(programs: Sequence[Any]) -> str:
    """``file:line`` of functions, methods, or the classes' ``forward``; of those that are the user's, if any is."""
    codes = [code for code in map(_code, programs) if code is not None]
    own = [code for code in codes if _is_users(code.co_filename)]
    told = [_told((code.co_filename, code.co_firstlineno)) for code in own or codes]
    return ", ".join(dict.fromkeys(told))


def stacklevel() -> int:
    """At which level a warning that the caller issues names the line that called into pyrometa."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and not _is_users(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    return level


def _code(program: Any) -> Any:
    while not hasattr(program, "__code__"):
        if isinstance(program, functools.partial):
            handled = [value for value in program.args if callable(value)]  # as by poutine.scale
            file = getattr(getattr(program.func, "__code__", None), "co_filename", "")
            program = handled[-1] if handled and file.startswith(_MACHINERY) else program.func
        elif hasattr(program, "__wrapped__"):
            program = program.__wrapped__
        elif inspect.ismethod(program):
            program = program.__func__
        elif isinstance(program, type) or not callable(program):
            return None
        else:
            program = getattr(type(program), "forward", type(program).__call__)
    return inspect.unwrap(program).__code__


def _first(frames: Iterable[_Line]) -> str | None:
    """The first line that is the user's own; else the first of another library than those that run it."""
    others = [line for line in frames if not line[0].startswith(_MACHINERY)]
    own = [line for line in others if _is_users(line[0])]
    return _told((own or others)[0]) if own or others else None


def _is_users(file: str) -> bool:
    return not file.startswith(_MACHINERY) and not any(part in file for part in _INSTALLED)


def _told(line: _Line) -> str:
    return f"{line[0]}:{line[1]}"
