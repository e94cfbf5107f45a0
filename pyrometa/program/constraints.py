"""Constraints of parameters in words that are the same in every process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyrometa.program.leaves import Leaf


def constraints_of(leaves: Mapping[str, Leaf]) -> dict[str, str]:
    """What the constrained ones of some leaves are constrained to, by name."""
    told = {name: _told(leaf.constraint) for name, leaf in leaves.items()}
    return {name: text for name, text in told.items() if text != _told(constraints.real)}


def _told(constraint: Constraint) -> str:
    """A constraint's kind and its numbers; how many dimensions an event has makes no other parameter."""
    held: Any = constraint
    while isinstance(getattr(held, "base_constraint", None), Constraint):
        held = held.base_constraint
    numbers = {name: _number(value) for name, value in vars(held).items()}
    known = ", ".join(f"{name}={value}" for name, value in numbers.items() if value is not None)
    return f"{type(held).__name__.removeprefix('_')}({known})"


def _number(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    return value if isinstance(value, int | float) else None
