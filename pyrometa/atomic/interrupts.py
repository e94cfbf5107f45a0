"""Tell an interrupt from an error, also where one has become the other.

An interrupt that comes while a context is being entered or left may make the next one fail: an error is then raised in
the handling of the interrupt, which is not to be taken for the program's.
"""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from types import FrameType


class _Older:
    """The id of the exception that was being handled when the present operation began, which is not of its making."""

    error: int = id(None)


def begin() -> None:
    """Note that an operation begins."""
    _Older.error = id(sys.exc_info()[1])


def check_interrupt(error: BaseException) -> None:
    """Raise the interrupt of the present operation that an error comes from, if it does."""
    found = behind(error)
    if found is not error:
        raise found from None


def behind(error: BaseException) -> BaseException:
    """The interrupt of the present operation that an error comes from, or the error itself."""
    return next((cause for cause in _chain(error) if not isinstance(cause, Exception | GeneratorExit)), error)


def close_generators(error: BaseException) -> None:
    """Close the generators that an interrupt left within a context; they would stay open as long as its traceback."""
    for cause in _chain(error):
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            _clear(frame)
            _clear(frame.f_back)  # out of the traceback where the interrupt comes as a function returns


def _clear(frame: FrameType | None) -> None:
    if frame is not None:
        with suppress(RuntimeError):  # it still runs
            frame.clear()


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and id(error) != _Older.error:
        found.append(error)
        error = error.__context__
    return found
