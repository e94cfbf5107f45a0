"""When a fit has converged, read off its losses."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["steps_until"]


def steps_until(
    losses: Tensor | Sequence[float], target: float, tolerance: float, *, at: Sequence[int] | None = None
) -> int | None:
    """The first number of steps after which a loss is within a tolerance of its target.

    ::

        steps_until = min { at[i] : losses[i] <= target + tolerance }

    It is the first time, so a noisy loss may leave the tolerance again.

    Args:
        losses: losses in the order of the steps, of shape ``(n,)``, such as the mean over tasks of what
            :meth:`pyrometa.MetaSVI.evaluate` returns.
        target: the loss of a converged fit, in the unit of the losses.
        tolerance: how far above the target counts as there, in the unit of the losses; not negative.
        at: after how many steps each loss was read, ascending. Default ``0, 1, 2, ...``.

    Returns:
        A number of steps, or None if no loss is that low.

    Raises:
        ValueError: the losses are not one sequence of finite numbers, ``at`` has another length or does not ascend, or
            the tolerance is negative.

    Example:
        >>> steps_until([1.3, 1.1, 1.06, 1.052], target=1.05, tolerance=0.005)
        3
        >>> steps_until([1.3, 1.1, 1.06, 1.052], target=1.05, tolerance=0.02, at=(0, 10, 20, 30))
        20
    """
    losses = torch.as_tensor(losses)
    if losses.ndim != 1 or not losses.isfinite().all():
        raise ValueError(f"losses must be finite and of shape (n,), got {losses.tolist()}")
    at = range(len(losses)) if at is None else at
    if len(at) != len(losses) or any(a >= b for a, b in pairwise(at)):
        raise ValueError(f"at must name {len(losses)} ascending numbers of steps, one for each loss, got {list(at)}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    return next((step for step, there in zip(at, losses <= target + tolerance, strict=True) if there), None)
