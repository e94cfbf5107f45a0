"""Checks of the counts and seeds that sources and samplers are given."""

from __future__ import annotations

__all__ = ["integer", "positive"]


def integer(name: str, value: int) -> int:
    """Return ``value``, or raise TypeError unless it is an integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return value


def positive(name: str, value: int) -> int:
    """Return ``value``, or raise ValueError unless it is at least 1."""
    if integer(name, value) < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value
