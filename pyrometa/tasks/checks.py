"""Checks of the counts and seeds that sources and samplers are given."""

from __future__ import annotations

__all__ = ["at_least", "integer", "positive"]


def integer(name: str, value: int) -> int:
    """Return ``value``, or raise TypeError unless it is an integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return value


def at_least(least: int, name: str, value: int) -> int:
    """Return ``value``, or raise ValueError unless it is so large."""
    if integer(name, value) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def positive(name: str, value: int) -> int:
    """Return ``value``, or raise ValueError unless it is at least 1."""
    return at_least(1, name, value)
