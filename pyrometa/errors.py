"""Exceptions that carry more than a message, and what others say in a line."""

from __future__ import annotations

from typing import Any


def _again(kind: type[Exception], message: str, attributes: dict[str, Any]) -> Exception:
    """An exception from another process, whose constructor does not take its message."""
    made = kind.__new__(kind, message)
    made.__dict__.update(attributes)
    return made


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return str(error).strip().partition("\n")[0]


def in_short(error: BaseException) -> str:
    """An exception's type and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"


class NotInitializedError(RuntimeError, ValueError):
    """The parameters are not known yet: they are found on first data, or by ``meta.init(support)``."""


class ReachError(ValueError):
    """The program reads a parameter from somewhere that fast weights do not reach.

    Raised on first data, before anything is learned: a meta-gradient through such a program would be
    silently wrong.

    Attributes:
        parameters: names of the parameters that are read behind pyrometa's back.
        has_line: whether the message names the line of the program.
    """

    has_line = False

    def __init__(self, message: str, parameters: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.parameters = parameters


class UnsupportedProgramError(ValueError):
    """The program has a part whose meta-gradient would be wrong or undefined; the message names it and the cure.

    Args:
        message: with the cure.
        has_line: whether it names the line of the program.
    """

    def __init__(self, message: str, *, has_line: bool = False) -> None:
        super().__init__(message)
        self.has_line = has_line


class CheckpointError(ValueError):
    """A file can't be read as the checkpoint that was asked for; the message says the file, the reason and the cure."""


class RecipeError(ValueError):
    """A recipe that can't be followed; the message is one line that names file, table and key, with the cure.

    Attributes:
        file: the recipe, or ``--set`` where the command line has said so.
        table: the name of the table; None for what stands above all tables.
        key: the name of the key; None for the table as a whole.
    """

    def __init__(self, message: str, file: str, table: str | None = None, key: str | None = None) -> None:
        place = " ".join([*([f"[{table}]"] if table else []), *([key] if key else [])])
        super().__init__(f"{file}: {place} {message}" if place else f"{file} {message}")
        self.file, self.table, self.key = file, table, key

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), str(self), self.__dict__)


class LoopWarning(UserWarning):
    """Tasks are run one at a time, or not in factors, which is slower; the message says why."""


class NonFiniteError(ArithmeticError):
    """A loss or gradient became NaN or infinite; nothing was updated.

    Attributes:
        task: index of the task in the meta-batch, or None where no one task is to blame.
        step: inner step, counted from 0; the number of inner steps means the query loss.
        parameter: name of the first parameter whose gradient is not finite, or None.
    """

    def __init__(
        self, message: str, task: int | None = None, step: int | None = None, parameter: str | None = None
    ) -> None:
        super().__init__(message)
        self.task, self.step, self.parameter = task, step, parameter


class ProcessError(RuntimeError):
    """Another process of the run failed, or has something else than this one; the message says which and what."""


class ColumnError(ValueError):
    """A column of a table is missing, or holds what a model cannot take; the message has the cure.

    Attributes:
        column: its name.
    """

    def __init__(self, message: str, column: str) -> None:
        super().__init__(message)
        self.column = column

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self), self.column)


class ColumnTypeError(ColumnError, TypeError):
    """A column of a table holds text, dates or lists where a model takes numbers."""
