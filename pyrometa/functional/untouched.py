"""Try a program out and leave no trace in its modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from pyrometa.functional.program import Program


@contextmanager
def left_alone(program: Program) -> Iterator[None]:
    """Put back the attributes and buffers that the program's modules had before."""
    held = {id(m): m for leaf in program.leaves.values() for m, _ in leaf.slots}
    held.update({id(m): m for m in program.modules()})
    saved = [(module, dict(vars(module)), _containers(module)) for module in held.values()]
    try:
        yield
    finally:
        for module, attributes, containers in saved:
            vars(module).clear()
            vars(module).update(attributes)
            for container, items in containers:
                container.clear()
                container.update(items) if isinstance(container, dict | set) else container.extend(items)


def _containers(module: nn.Module) -> list[tuple[Any, Any]]:
    return [(value, value.copy()) for value in vars(module).values() if isinstance(value, dict | set | list)]
