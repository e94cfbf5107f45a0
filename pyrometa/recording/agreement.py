"""When two ways to compute a tensor say the same."""

from __future__ import annotations

import torch
from torch import Tensor


def agree(found: Tensor, expected: Tensor, *, double: float, single: float) -> bool:
    """Whether the difference's norm is within a tolerance, for the precision of the values, of the expected norm."""
    tolerance = double if expected.dtype == torch.float64 else single
    return bool((found - expected).norm() <= tolerance * expected.norm().clamp(min=1e-6))


def are_same(found: Tensor, expected: Tensor) -> bool:
    """Whether the elements are the same up to rounding, what is not finite in the same places."""
    if not expected.is_floating_point() or not expected.numel():
        return torch.equal(found, expected)
    tolerance = 1e-9 if expected.dtype == torch.float64 else 1e-3
    scale = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max())
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
