"""Put back what modules hold as attributes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


class Attributes:
    """The attributes that some modules have now, and what is in those that are dictionaries, sets or lists.

    Args:
        modules: the modules themselves; name their parts too.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._saved = [(module, type(module), dict(vars(module)), _containers(module)) for module in modules]

    def restore(self) -> None:
        """Put it all back, into the same containers."""
        for module, kind, attributes, containers in self._saved:
            if type(module) is not kind:  # a lazy module that has seen its first data
                module.__class__ = kind
            _refill(vars(module), attributes)
            for container, items in containers:
                _refill(container, items)


def _containers(module: nn.Module) -> list[tuple[Any, Any]]:
    return [(value, value.copy()) for value in vars(module).values() if isinstance(value, dict | set | list)]


def _refill(container: Any, items: Any) -> None:
    container.clear()
    container.extend(items) if isinstance(container, list) else container.update(items)
