"""Run tasks side by side where a program may turn out not to run so, with one kind of error for all reasons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.engine.batch import BatchPath, side_by_side
from pyrometa.errors import NonFiniteError


class SideBySideError(Exception):
    """What a program, or vmap, raised as tasks were run side by side; one by one they may well run.

    Attributes:
        raised: the exception.
    """

    def __init__(self, raised: Exception) -> None:
        super().__init__(str(raised))
        self.raised = raised


def attempt(function: Callable[[Any], Any], path: BatchPath, *, thorough: bool = False) -> Any:
    """:func:`side_by_side`, with one kind of error for all that it may raise but divergence.

    A program is the user's own code, and vmap meets it with errors of any type: no list of them would be complete.

    Raises:
        NonFiniteError: a task diverges.
        SideBySideError: from whatever else was raised.
    """
    try:
        return side_by_side(function, path, thorough=thorough)
    except NonFiniteError:
        raise
    except Exception as error:
        check_interrupt(error)
        raise SideBySideError(error) from error
