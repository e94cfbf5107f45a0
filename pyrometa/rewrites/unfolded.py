"""Functions of torch that are Python, of which a function mode sees the call only, opened up to what they call."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any


def unfolded(function: Any) -> Callable[..., Any]:
    """A copy of a function of torch that does not hand itself over to the function modes in force.

    Such a function first asks whether a mode wants to take the whole call. In the copy that question is always answered
    with no, so that its body runs, and a mode sees each function that the body calls.
    """
    known = function.__globals__
    unasked = {name: _never for name in known if name.startswith("has_torch_function")}
    parts = (function.__code__, {**known, **unasked}, function.__name__, function.__defaults__, function.__closure__)
    copy = FunctionType(*parts)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _never(*_: Any) -> bool:
    return False
