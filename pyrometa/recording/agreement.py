"""When two ways to compute a tensor say the same."""

from __future__ import annotations

import torch
from torch import Tensor


def agree(found: Tensor, expected: Tensor, *, double: float, single: float) -> bool:
    """Whether the difference's norm is within a tolerance, for the precision of the values, of the expected norm."""
    tolerance = double if expected.dtype == torch.float64 else single
    return bool((found - expected).norm() <= tolerance * expected.norm().clamp(min=1e-6))
