"""Distributions within distributions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def layers(fn: Any) -> Iterator[Any]:
    """A distribution, what it wraps or transforms, and so on to the innermost."""
    yield fn
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
        yield fn
