"""Checks of the numbers that rules are built from."""

from __future__ import annotations

import math


def check_positive(name: str, value: object) -> None:
    """Refuse what is not a positive, finite number.

    Raises:
        ValueError: naming it.
    """
    if not (_is_finite(value) and value > 0):  # type: ignore[operator]
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def check_decay(name: str, value: object) -> None:
    """Refuse what is not a number in [0, 1).

    Raises:
        ValueError: naming it.
    """
    if not (_is_finite(value) and 0 <= value < 1):  # type: ignore[operator]
        raise ValueError(f"{name} must be at least 0 and less than 1, got {value!r}")


def check_flag(name: str, value: object) -> None:
    """Refuse what is not True or False.

    Raises:
        TypeError: naming it.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_count(name: str, value: object) -> None:
    """Refuse what is not a whole number from 1 up.

    Raises:
        TypeError, ValueError: naming it.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
