"""The mode that a program is in, as a value to compare: quick to tell, and not all that its result depends on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyro.poutine.runtime import _PYRO_STACK
from torch import nn


def modes(modules: Iterable[nn.Module]) -> Any:
    """What switches the modules hold, and what handlers are around them."""
    return tuple(map(_switches, modules)), tuple(map(_handled, _PYRO_STACK))


_SWITCHES = frozenset((bool, str))


def _switches(module: nn.Module) -> tuple[bool | str, ...]:
    """Training or evaluation, and what else a module holds that is true, false or a word."""
    return tuple([value for value in vars(module).values() if type(value) in _SWITCHES])


def _handled(handler: Any) -> Any:
    """A handler's kind, and the sites that it gives values to."""
    data = getattr(handler, "data", None)
    kind = type(handler)
    return kind.__module__, kind.__qualname__, tuple(data) if isinstance(data, dict) else None
