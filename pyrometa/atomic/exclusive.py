"""One operation at a time in a process; one that does not come to its end leaves nothing of itself behind."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from pyrometa.atomic.interrupts import begin, check_interrupt
from pyrometa.atomic.surroundings import Surroundings

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child must not be born in the midst of another thread's operation
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


def exclusive(operation: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """A method that runs alone, and if it ends in an exception puts back what it has set up.

    Pyro's handlers and param store are the process's, not a thread's.

    Args:
        operation: a method of what has a ``_program``.
    """

    @functools.wraps(operation)
    def run(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        owner: Any = args[0]
        try:
            with _LOCK:
                begin()
                before = Surroundings(owner, owner._program)
                try:
                    return operation(*args, **kwargs)
                except BaseException as error:
                    before.restore(error)
                    check_interrupt(error)
                    raise
        except BaseException:
            _let_go(sys._getframe())
            raise

    return run


def _let_go(frame: FrameType) -> None:
    """Release the lock where an interrupt has kept the outermost operation of this thread from it."""
    above = frame.f_back
    while above is not None and above.f_code is not frame.f_code:
        above = above.f_back
    while above is None and _LOCK._is_owned():  # type: ignore[attr-defined]
        _LOCK.release()
