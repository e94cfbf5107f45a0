"""The mode that a program is in, as a value to compare: quick to tell, and not all that its result depends on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pyrometa.internals import PYRO_STACK
from pyrometa.nest import Hashed


def modes(modules: Iterable[nn.Module]) -> Hashed:
    """What switches the modules hold, and what handlers are around them."""
    return Hashed((tuple(map(_switches, modules)), tuple(map(_handled, PYRO_STACK))))


class Seen:
    """A program's modules and mode as an operation saw them, until the program runs and may change them itself.

    Attributes:
        modules: every module of the program; None where they are not known.
        mode: its mode; None likewise.
    """

    def __init__(self) -> None:
        self.modules: list[nn.Module] | None = None
        self.mode: Hashed | None = None

    def look(self, modules: list[nn.Module]) -> Hashed:
        """Note the modules, and the mode that they are in."""
        self.modules, self.mode = modules, (mode := modes(modules))
        return mode

    def forget(self) -> None:
        """Nothing is known any more."""
        self.modules = self.mode = None

    def __reduce__(self) -> tuple[type[Seen], tuple[()]]:
        return Seen, ()


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
