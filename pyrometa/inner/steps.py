"""Numbers of inner steps, as users give them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def step_count(name: str, steps: Any) -> int:
    """A number of steps.

    Raises:
        TypeError: not a whole number.
        ValueError: a negative one.
    """
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"{name} must be whole numbers, got {steps!r}")
    if steps < 0:
        raise ValueError(f"{name} must not be negative, got {steps}")
    return steps


def step_counts(steps: Any) -> list[int]:
    """Several numbers of steps, at least one.

    Raises:
        TypeError: not several whole numbers.
        ValueError: none, or a negative one.
    """
    if isinstance(steps, str) or not isinstance(steps, Iterable):
        raise TypeError(f"steps must be several numbers, as in steps=(0, 1, 5), got {steps!r}")
    counts = [step_count("steps", k) for k in steps]
    if not counts:
        raise ValueError("steps is empty: say after how many steps to score, as in steps=(0, 1, 5)")
    return counts
