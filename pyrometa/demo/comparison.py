"""Numbers of the comparison, from query losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

__all__ = ["Curve", "Estimate", "curve_of", "paired_difference", "steps_to_reach"]

Estimate = dict[str, float]
"""A mean over tasks and its standard error: ``{"mean": ..., "se": ...}``, nats per image."""

Curve = dict[str, Estimate]
"""An estimate for each number of adaptation steps, under its decimal name, ascending."""


def curve_of(losses: Tensor, steps: Sequence[int]) -> Curve:
    """Mean and standard error over tasks, from losses of shape ``(len(steps), tasks)``."""
    return {str(k): _estimate(row) for k, row in zip(steps, losses, strict=True)}


def paired_difference(a: Tensor, b: Tensor) -> Estimate:
    """Mean and standard error of ``a - b`` over the same tasks, both of shape ``(tasks,)``."""
    return _estimate(a - b)


def steps_to_reach(curve: Mapping[str, Estimate], target: float) -> int | None:
    """The first number of steps whose mean is not above the target; None if there is none."""
    return next((int(k) for k, point in curve.items() if point["mean"] <= target), None)


def _estimate(values: Tensor) -> Estimate:
    return {"mean": values.mean().item(), "se": values.std().item() / math.sqrt(len(values))}
