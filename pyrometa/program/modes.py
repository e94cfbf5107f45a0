"""The mode that a program is in, as a value to compare: quick to tell, and not all that its result depends on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pyrometa.internals import PYRO_STACK


def modes(modules: Iterable[nn.Module]) -> Any:
    """What switches the modules hold, and what handlers are around them."""
    return tuple(map(_switches, modules)), tuple(map(_handled, PYRO_STACK))


_SWITCHES = frozenset((bool, str))
_NUMBERS = frozenset((int, float))


def _switches(module: nn.Module) -> tuple[bool | str, ...]:
    """Training or evaluation, and what else a module holds that is true, false or a word."""
    return tuple([value for value in vars(module).values() if type(value) in _SWITCHES])


def zeros(modules: Iterable[nn.Module]) -> Any:
    """Which of the numbers, buffers and other tensors that the modules hold, apart from parameters, are zero."""
    return tuple(map(_zeros, modules))


def _zeros(module: nn.Module) -> tuple[bool, ...]:
    held = (*vars(module).values(), *module._buffers.values())
    return tuple([not value for value in held if type(value) in _NUMBERS] + [_is_zero(t) for t in held if _readable(t)])


def _is_zero(tensor: Tensor) -> bool:
    return not tensor.any()


def _readable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def _handled(handler: Any) -> Any:
    """A handler's kind, and the sites that it gives values to."""
    data = getattr(handler, "data", None)
    kind = type(handler)
    return kind.__module__, kind.__qualname__, tuple(data) if isinstance(data, dict) else None
