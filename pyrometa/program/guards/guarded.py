"""What the guards have found out about a program, mode by mode."""

from __future__ import annotations

from typing import Any

from pyrometa.program.findings import Look


class Guarded:
    """The modes in which the guards have let a program pass, with what it showed in each.

    Args:
        look: what it showed on first data.

    Attributes:
        mode: the mode that the present operation began in.
        look: what the program showed in it; until the guards have looked, what it showed last.
        proved: for what second derivatives were proved: what adapts, what learns, and the mode.
    """

    def __init__(self, look: Look) -> None:
        self.mode: Any = None
        self.look = look
        self.proved: set[Any] = set()
        self._passed: dict[Any, Look] = {}

    def enter(self, mode: Any) -> bool:
        """Note the mode that an operation begins in, and tell whether the guards know it."""
        self.mode = mode
        self.look = self._passed.get(mode, self.look)
        return mode in self._passed

    def let_pass(self, mode: Any) -> None:
        """Note that the guards have let the program pass in this mode, on the present look."""
        self.mode = mode
        self._passed[mode] = self.look
