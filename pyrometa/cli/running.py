"""A command line from its arguments to its exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Any

from pyrometa.cli.app import made_app
from pyrometa.errors import CheckpointError, NonFiniteError, ProcessError, RecipeError

_TELLING = (RecipeError, CheckpointError, NonFiniteError, ProcessError, ValueError, TypeError, OSError, ImportError)
"""Errors whose message is enough; others are told with their type."""

_DEBUG = "--debug"


def run(arguments: Sequence[str]) -> int:
    """Run a command line; an error is one line on the standard error.

    Returns:
        The exit code: 0, 2 after an error, 130 after Ctrl-C, and 143 where SIGTERM has ended training.
    """
    debug, arguments = _DEBUG in arguments, [part for part in arguments if part != _DEBUG]
    try:
        code = _ended(_resuming(arguments) or ["--help"])
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        _say(_line(error))
        return 2
    return code


def _ended(arguments: Sequence[str]) -> int:
    from typer.main import get_command

    command: Any = get_command(made_app())
    try:
        code = command.main(list(arguments), prog_name="pyrometa", standalone_mode=False)
    except SystemExit as end:  # Trainer's after an interrupt, and those of shell completion
        code = end.code
    return code if isinstance(code, int) else 0


def _resuming(arguments: Sequence[str]) -> list[str]:
    """``--resume`` without a value is ``--resume last``."""
    result: list[str] = []
    for i, part in enumerate(arguments):
        result.append(part)
        if part == "--resume" and (i + 1 == len(arguments) or arguments[i + 1].startswith("-")):
            result.append("last")
    return result


def _line(error: Exception) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    message = " ".join(message.split())
    usage = hasattr(error, "format_message")
    return message if message and (usage or isinstance(error, _TELLING)) else f"{type(error).__name__}: {message}"


def _say(line: str) -> None:
    sys.stderr.write(f"pyrometa: {line}\n")
