"""Numbers of inner steps, as users give them, and what rules read of them.

A recorded step serves many: the number that a rule is given there is a tensor of shape ``()``, which stands for each of
them. A rule that goes by it in any other way than by arithmetic is recorded for all steps, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def at_step(values: Tensor, step: int | Tensor) -> Tensor:
    """What is given for an inner step, of values of shape ``(steps, ...)``; past the last of them the last one."""
    if isinstance(step, Tensor):
        return values.index_select(0, step.long().clamp(max=len(values) - 1).view(1)).squeeze(0)
    return values[min(step, len(values) - 1)]


def by_step(number: Any, like: Tensor) -> Any:
    """A number that a rule has computed of an inner step, to compute with it and a tensor: of that one's type."""
    return torch.as_tensor(number, dtype=like.dtype, device=like.device) if isinstance(number, Tensor) else number


def step_count(name: str, steps: Any) -> int:
    """A number of steps.

    Raises:
        TypeError: not a whole number.
        ValueError: a negative one.
    """
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"{name} must be whole numbers, got {steps!r}")
    if steps < 0:
        raise ValueError(f"{name} must not be negative, got {steps}")
    return steps


def step_counts(steps: Any) -> list[int]:
    """Several numbers of steps, at least one.

    Raises:
        TypeError: not several whole numbers.
        ValueError: none, or a negative one.
    """
    if isinstance(steps, str) or not isinstance(steps, Iterable):
        raise TypeError(f"steps must be several numbers, as in steps=(0, 1, 5), got {steps!r}")
    counts = [step_count("steps", k) for k in steps]
    if not counts:
        raise ValueError("steps is empty: say after how many steps to score, as in steps=(0, 1, 5)")
    return counts
