"""Try a program out and leave no trace in its modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyrometa.atomic.attributes import Attributes
from pyrometa.types import TwoSides


@contextmanager
def left_alone(program: TwoSides) -> Iterator[None]:
    """Put back the attributes and buffers that the program's modules had before."""
    held = {id(m): m for leaf in program.leaves.values() for m, _ in leaf.slots}
    held.update({id(m): m for m in program.modules()})
    before = Attributes(held.values())
    try:
        yield
    finally:
        before.restore()
