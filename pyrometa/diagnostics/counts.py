"""How many draws, tasks or steps: a whole number, and not too few."""

from __future__ import annotations

from numbers import Integral
from typing import Any

__all__ = ["check_count"]


def check_count(name: str, value: Any, least: int) -> int:
    """The value as Python's integer (numpy's may be too small to add to); refuse no whole number, or too few.

    Raises:
        TypeError, ValueError: naming it.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)
