"""Ctrl-C and SIGTERM: the first is noted, the second ends the program at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """The run was asked to stop; the program's exit code is 130 after Ctrl-C and 143 after SIGTERM, if not caught.

    Attributes:
        signal: what it was asked by.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


class Signals:
    """Within, SIGINT and SIGTERM are noted; in another thread than the main one they stay as they are.

    Attributes:
        noted: the number of the first one, 0 as long as there was none.
    """

    def __init__(self) -> None:
        self.noted = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted:
            raise Interrupted(number)
        self.noted = number
