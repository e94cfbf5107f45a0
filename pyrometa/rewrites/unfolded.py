"""Functions of torch that hand themselves over whole to function modes, opened up."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any


def unfolded(function: Any) -> Callable[..., Any]:
    """A copy of one of torch's Python functions of which the modes in force see what it calls, not the call itself."""
    known = function.__globals__
    unasked = {name: _never for name in known if name.startswith("has_torch_function")}
    parts = (function.__code__, {**known, **unasked}, function.__name__, function.__defaults__, function.__closure__)
    copy = FunctionType(*parts)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _never(*_: Any) -> bool:
    return False
