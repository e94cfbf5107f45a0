"""Small parameters of one kind held end to end, so that a step moves all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints, transform_to
from torch.distributions.constraints import Constraint

from pyrometa.program.leaves import Leaf
from pyrometa.rewrites.end_to_end import pack, unpack
from pyrometa.types import Params

_SMALL = 2**14  # elements; a copy of more costs more than the operations that it saves


@dataclass(frozen=True)
class Bundle:
    """Parameters that are moved, and constrained, by the same operations.

    Attributes:
        names: whose they are.
        shapes: of each.
        constraint: on the values that the program sees, where it acts on each element by itself; else None.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    constraint: Constraint | None

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return sum(shape.numel() for shape in self.shapes)

    def packed(self, values: Mapping[str, Tensor]) -> Tensor:
        """Values end to end: ``(*leading, *shape)`` each becomes a part of ``(*leading, size)``."""
        parts = [
            values[n].flatten(-len(s)) if s else values[n][..., None]
            for n, s in zip(self.names, self.shapes, strict=True)
        ]
        return pack(parts)

    def unpacked(self, flat: Tensor) -> Params:
        """Views of a flat tensor of shape ``(tasks, size)``, each ``(tasks, *shape)``."""
        parts = unpack(flat, [s.numel() for s in self.shapes])
        return {n: p.view(len(flat), *s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}

    def constrained(self, flat: Tensor) -> Params:
        """What the program sees, each ``(tasks, *shape)``; empty where the program applies the constraint by itself."""
        return {} if self.constraint is None else self.unpacked(transform_to(self.constraint)(flat))


def bundles(leaves: Iterable[Leaf]) -> tuple[Bundle, ...]:
    """Leaves by kind, in the program's order.

    Of one kind are those of one type and device with the same constraint, if it is one that acts on each element by
    itself; a large leaf is always by itself.
    """
    found: dict[object, list[Leaf]] = {}
    for leaf in leaves:
        alone = leaf.name if leaf.tensor.numel() > _SMALL else None
        constraint = _elementwise(leaf.constraint)
        key = (leaf.tensor.dtype, leaf.tensor.device, alone, None if constraint is None else id(constraint))
        found.setdefault(key, []).append(leaf)
    return tuple(_bundle(members) for members in found.values())


def _bundle(members: Sequence[Leaf]) -> Bundle:
    shapes = tuple(leaf.tensor.shape for leaf in members)
    return Bundle(tuple(leaf.name for leaf in members), shapes, _elementwise(members[0].constraint))


def _elementwise(constraint: Constraint) -> Constraint | None:
    """The constraint, if it changes values and each by itself."""
    bounded_by_tensors = any(isinstance(value, Tensor) for value in vars(constraint).values())
    if constraint is constraints.real or constraint.event_dim or bounded_by_tensors:
        return None
    return constraint if transform_to(constraint).domain.event_dim == 0 else None
