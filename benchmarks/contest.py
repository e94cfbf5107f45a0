"""What a contestant of ``inner_rules`` returns: where all tasks are after numbers of steps, and what that took."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.normals import Normals

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """All tasks after some steps; CPU seconds a task, warm."""

    steps: int
    seconds: float
    normals: Normals


@dataclass
class Run:
    """A contestant on a program.

    Attributes:
        points: in the order of their steps.
        family: what it fits.
        cold: CPU seconds before the first task is begun, or more than a warm run takes: to compile, plan or record.
        alone: CPU seconds of a step of one task by itself, where ``points`` have tasks side by side.
        note: what else to know, such as the rate.
    """

    points: list[Point]
    family: str = "mean field"
    cold: float = 0.0
    alone: float | None = None
    note: str = ""
    failed: int = field(default=0)


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """A result and its CPU seconds."""
    began = time.process_time()
    result = run()
    return result, time.process_time() - began
